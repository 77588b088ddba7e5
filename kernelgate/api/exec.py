"""``POST /exec``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from tornado.iostream import StreamClosedError

from kernelgate.api.base import BodyHandler, to_json
from kernelgate.api.events import EventStream, wants_events
from kernelgate.api.parse import parse_exec
from kernelgate.errors import GateError
from kernelgate.sessions.execute import ExecRequest


class ExecHandler(BodyHandler):
    """Runs code. A client that goes away cancels what it asked for.

    While code runs long, white space goes out ahead of the JSON, so that clients with a socket timeout wait on. A
    client that accepts events gets the outputs as they come.
    """

    _stream: EventStream | None = None
    _running: asyncio.Task[dict[str, Any]] | None = None

    async def post(self) -> None:
        body = parse_exec(self.body())
        request = ExecRequest(
            owner=self.owner(body.user_id),
            language=body.language,
            code=body.code,
            session_id=body.session_id,
            argv=body.argv,
            timeout=body.timeout,
            allow_stdin=body.allow_stdin,
            on_event=self._send if wants_events(self) else None,
        )
        started = asyncio.Event()
        self._running = asyncio.create_task(self.services.executor.run(request, started.set))
        try:
            if request.on_event is None:
                await self._keep_alive(self._running, started)
            reply = await self._running
        except asyncio.CancelledError:
            return  # the client has gone
        except GateError as error:
            await self._fail(error)
        else:
            await self._answer(reply)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._running is not None:
            self._running.cancel()

    def _send(self, name: str, data: dict[str, Any]) -> None:
        if self._stream is None:
            self._stream = EventStream(self)
        self._stream.send(name, data)

    async def _answer(self, reply: dict[str, Any]) -> None:
        if self._stream is None:
            self.reply(reply)
        else:
            self._stream.send("reply", reply)
            await self._stream.close()

    async def _fail(self, error: GateError) -> None:
        """Answer with an error: as any other one as long as nothing was sent."""
        if self._stream is not None:
            self._stream.send("failure", self.error_body(error))
            await self._stream.close()
        elif self._headers_written:
            self.finish(to_json({"status": "error", **self.error_body(error)}))
        else:
            raise error

    async def _keep_alive(self, running: asyncio.Task[dict[str, Any]], started: asyncio.Event) -> None:
        """Return when ``running`` is done; from its start on send a space every now and then."""
        while not running.done():
            await asyncio.wait({running}, timeout=self.services.keepalive_seconds)
            if not running.done() and started.is_set() and not self.gone:
                self.write(" ")
                with contextlib.suppress(StreamClosedError):  # on_connection_close does the rest
                    await self.flush()
