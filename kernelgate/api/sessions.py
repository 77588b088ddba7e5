"""``/sessions``: what an owner's sessions are and do."""

from __future__ import annotations

from kernelgate.api.base import GateHandler
from kernelgate.api.parse import known_session_id


class SessionsHandler(GateHandler):
    """``GET /sessions``: the caller's sessions."""

    async def get(self) -> None:
        self.reply({"sessions": await self.services.sessions.list(self.owner())})


class SessionHandler(GateHandler):
    """``GET`` and ``DELETE /sessions/{session_id}``. Somebody else's session does not exist."""

    async def get(self, session_id: str) -> None:
        self.reply(await self.services.sessions.get(self.owner(), known_session_id(session_id)))

    async def delete(self, session_id: str) -> None:
        await self.services.sessions.delete(self.owner(), known_session_id(session_id))
        self.set_status(204)
        self.clear_header("Content-Type")
        await self.finish()
