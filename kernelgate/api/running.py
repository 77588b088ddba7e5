"""What routes that run code share: they answer when it has ended, and show signs of life until then."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from tornado.iostream import StreamClosedError

from kernelgate.api.base import BodyHandler
from kernelgate.api.events import EventStream, wants_events
from kernelgate.compact import compact_json
from kernelgate.errors import GateError

T = TypeVar("T")


class RunHandler(BodyHandler, Generic[T]):
    """Runs something. A client that goes away cancels what it asked for.

    While it runs long, white space goes out ahead of the answer, so that clients with a socket timeout wait on. A
    client that accepts events gets them as they come.
    """

    _stream: EventStream | None = None
    _running: asyncio.Task[T] | None = None
    last_event = "reply"
    """The name of the event that carries what came of it."""

    async def write_result(self, result: T) -> None:
        """Answer a client that wants no events."""
        raise NotImplementedError

    def as_event(self, result: T) -> dict[str, Any]:
        """Return what the last event carries."""
        raise NotImplementedError

    async def see_through(self, work: Coroutine[Any, Any, T], started: asyncio.Event) -> None:
        """Do ``work`` and answer with what comes of it; once ``started`` is set, signs of life go out."""
        self._running = asyncio.create_task(work)
        try:
            if not wants_events(self):
                await self._keep_alive(self._running, started)
            result = await self._running
        except asyncio.CancelledError:
            return  # the client has gone
        except GateError as error:
            await self._fail(error)
        else:
            await self._answer(result)

    def send(self, name: str, data: dict[str, Any]) -> None:
        """Send an event."""
        if self._stream is None:
            self._stream = EventStream(self)
        self._stream.send(name, data)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._running is not None:
            self._running.cancel()

    async def _answer(self, result: T) -> None:
        if self._stream is None:
            await self.write_result(result)
        else:
            self._stream.send(self.last_event, self.as_event(result))
            await self._stream.close()

    async def _fail(self, error: GateError) -> None:
        """Answer with an error: as any other one as long as nothing was sent."""
        if self._stream is not None:
            self._stream.send("failure", self.error_body(error))
            await self._stream.close()
        elif self._headers_written:
            self.finish(compact_json({"status": "error", **self.error_body(error)}))
        else:
            raise error

    async def _keep_alive(self, running: asyncio.Task[T], started: asyncio.Event) -> None:
        """Return when ``running`` is done; from its start on send a space every now and then."""
        while not running.done():
            await asyncio.wait({running}, timeout=self.services.keepalive_seconds)
            if not running.done() and started.is_set() and not self.gone:
                self.write(" ")
                with contextlib.suppress(StreamClosedError):  # on_connection_close does the rest
                    await self.flush()
