"""``/sessions``: what an owner's sessions are and do."""

from __future__ import annotations

from kernelgate.api.base import GateHandler
from kernelgate.api.parse import SESSION_ID
from kernelgate.errors import SessionNotFound


class SessionsHandler(GateHandler):
    """``GET /sessions``: the caller's sessions."""

    def get(self) -> None:
        sessions = self.services.sessions.list(self.owner())
        self.reply({"sessions": [session.describe() for session in sessions]})


class SessionHandler(GateHandler):
    """``GET`` and ``DELETE /sessions/{session_id}``. Somebody else's session does not exist."""

    def get(self, session_id: str) -> None:
        self.reply(self.services.sessions.get(self.owner(), _checked(session_id)).describe())

    async def delete(self, session_id: str) -> None:
        await self.services.sessions.delete(self.owner(), _checked(session_id))
        self.set_status(204)
        self.clear_header("Content-Type")
        await self.finish()


def _checked(session_id: str) -> str:
    if not SESSION_ID.fullmatch(session_id):
        raise SessionNotFound("there is no such session")
    return session_id
