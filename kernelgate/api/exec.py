"""``POST /exec``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from tornado.iostream import StreamClosedError

from kernelgate.api.base import BodyHandler, to_json
from kernelgate.api.parse import parse_exec
from kernelgate.errors import GateError
from kernelgate.sessions.execute import ExecRequest


class ExecHandler(BodyHandler):
    """Runs code. A client that goes away cancels what it asked for.

    While code runs long, white space goes out ahead of the JSON, so that clients with a socket timeout wait on.
    """

    _gone = False
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
        )
        started = asyncio.Event()
        self._running = asyncio.create_task(self.services.executor.run(request, started.set))
        try:
            await self._keep_alive(self._running, started)
            reply = await self._running
        except asyncio.CancelledError:
            return  # the client has gone
        except GateError as error:
            if not self._headers_written:
                raise
            self.finish(to_json({"status": "error", **self.error_body(error)}))
        else:
            self.reply(reply)

    def on_connection_close(self) -> None:
        self._gone = True
        if self._running is not None:
            self._running.cancel()

    async def _keep_alive(self, running: asyncio.Task[dict[str, Any]], started: asyncio.Event) -> None:
        """Return when ``running`` is done; from its start on send a space every now and then."""
        while not running.done():
            await asyncio.wait({running}, timeout=self.services.keepalive_seconds)
            if not running.done() and started.is_set() and not self._gone:
                self.write(" ")
                with contextlib.suppress(StreamClosedError):  # on_connection_close does the rest
                    await self.flush()
