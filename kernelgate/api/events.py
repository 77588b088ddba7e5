"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from functools import partial
from typing import Any

from tornado.concurrent import Future
from tornado.iostream import StreamClosedError

from kernelgate.api.base import GateHandler
from kernelgate.compact import compact_json

MEDIA_TYPE = "text/event-stream"

UNREAD_BYTES = 64 << 20
"""Bytes that may wait in the server for a client to read them. One that lets more wait is given up."""


def wants_events(handler: GateHandler) -> bool:
    """Tell whether the client asked for events."""
    return MEDIA_TYPE in handler.request.headers.get("Accept", "")


class EventStream:
    """The answer of a handler as a stream of events, each with a name and JSON. A comment keeps it alive.

    What a client has not read waits here. When that is more than `UNREAD_BYTES` and there is still more to send,
    the connection is ended, which cancels what runs as when the client had gone.
    """

    def __init__(self, handler: GateHandler) -> None:
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[str] = deque()
        """What goes out next. Only one piece at a time is in the socket's hands, which says when that is gone."""
        self._unread = 0
        """Bytes of that, with the piece that the socket has."""
        self._is_sending = False
        handler.set_header("Content-Type", MEDIA_TYPE)
        handler.set_header("Cache-Control", "no-store")
        handler.set_header("X-Accel-Buffering", "no")
        connection: Any = handler.request.connection
        self._socket = connection.stream
        if not handler.gone:
            self._socket.set_nodelay(True)
        self._keep_alive()

    def send(self, name: str, data: dict[str, Any]) -> None:
        """Send an event. To a client that has gone nothing is sent."""
        self._write(f"event: {name}\ndata: {compact_json(data)}\n\n")

    async def close(self) -> None:
        """End the answer; returns when all of it is on its way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._handler.gone:
            for text in self._waiting:
                self._handler.write(text)
        self._waiting.clear()
        with contextlib.suppress(StreamClosedError):
            await self._handler.finish()

    def _write(self, text: str) -> None:
        if self._handler.gone:
            return
        if self._unread > UNREAD_BYTES:
            self._give_up()
            return
        self._waiting.append(text)
        self._unread += len(text)
        self._pump()

    def _give_up(self) -> None:
        """End the connection; the handler is told as when the client had ended it."""
        self._waiting.clear()
        if not self._socket.closed():
            self._handler.services.log.warning(
                "%s: the client let %d bytes wait unread and is given up", self._handler.request.path, self._unread
            )
            self._socket.close()

    def _pump(self) -> None:
        """Send what waits, as long as the socket takes it."""
        while self._waiting and not self._is_sending and not self._handler.gone:
            text = self._waiting.popleft()
            self._handler.write(text)
            sent = self._handler.flush()
            if sent.done():
                self._take_off(len(text), sent)
            else:
                self._is_sending = True
                sent.add_done_callback(partial(self._on_sent, len(text)))

    def _on_sent(self, size: int, sent: Future[None]) -> None:
        self._is_sending = False
        self._take_off(size, sent)
        self._pump()

    def _take_off(self, size: int, sent: Future[None]) -> None:
        """Count what was sent no more. A failure is only taken note of: whoever has gone is told of elsewhere."""
        self._unread -= size
        if not sent.cancelled():
            sent.exception()

    def _keep_alive(self) -> None:
        if self._handler.gone:
            return
        if not self._waiting:
            self._write(":\n\n")
        self._timer = self._loop.call_later(self._handler.services.keepalive_seconds, self._keep_alive)
