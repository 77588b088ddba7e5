"""``POST /exec``."""

from __future__ import annotations

import asyncio
from typing import Any

from kernelgate.api.events import wants_events
from kernelgate.api.parse import parse_exec
from kernelgate.api.running import RunHandler
from kernelgate.sessions.execute import ExecRequest


class ExecHandler(RunHandler[dict[str, Any]]):
    """Runs code."""

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
            on_event=self.send if wants_events(self) else None,
        )
        started = asyncio.Event()
        await self.see_through(self.services.executor.run(request, started.set), started)

    async def write_result(self, result: dict[str, Any]) -> None:
        self.reply(result)

    def as_event(self, result: dict[str, Any]) -> dict[str, Any]:
        return result
