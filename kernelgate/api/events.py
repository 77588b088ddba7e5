"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from tornado.concurrent import Future
from tornado.iostream import StreamClosedError

from kernelgate.api.base import GateHandler, to_json

MEDIA_TYPE = "text/event-stream"


def wants_events(handler: GateHandler) -> bool:
    """Tell whether the client asked for events."""
    return MEDIA_TYPE in handler.request.headers.get("Accept", "")


class EventStream:
    """The answer of a handler as a stream of events, each with a name and JSON. A comment keeps it alive."""

    def __init__(self, handler: GateHandler) -> None:
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        handler.set_header("Content-Type", MEDIA_TYPE)
        handler.set_header("Cache-Control", "no-store")
        handler.set_header("X-Accel-Buffering", "no")
        connection: Any = handler.request.connection
        if not handler.gone:
            connection.stream.set_nodelay(True)
        self._keep_alive()

    def send(self, name: str, data: dict[str, Any]) -> None:
        """Send an event. To a client that has gone nothing is sent."""
        self._write(f"event: {name}\ndata: {to_json(data)}\n\n")

    async def close(self) -> None:
        """End the answer; returns when all of it is on its way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with contextlib.suppress(StreamClosedError):
            await self._handler.finish()

    def _write(self, text: str) -> None:
        if not self._handler.gone:
            self._handler.write(text)
            self._handler.flush().add_done_callback(_seen)

    def _keep_alive(self) -> None:
        if self._handler.gone:
            return
        self._write(":\n\n")
        self._timer = self._loop.call_later(self._handler.services.keepalive_seconds, self._keep_alive)


def _seen(sent: Future[None]) -> None:
    """Take note of a failure: whoever has gone is told of elsewhere."""
    if not sent.cancelled():
        sent.exception()
