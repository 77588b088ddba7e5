"""``/sessions``: what an owner's sessions are and do."""

from __future__ import annotations

from kernelgate.api.base import BodyHandler, GateHandler
from kernelgate.api.parse import known_session_id, parse_caller, parse_input


class SessionsHandler(GateHandler):
    """``GET /sessions``: the caller's sessions."""

    async def get(self) -> None:
        self.reply({"sessions": await self.services.sessions.list(self.owner())})


class InterruptHandler(BodyHandler):
    """``POST /sessions/{session_id}/interrupt``."""

    async def post(self, session_id: str) -> None:
        owner = self.owner(parse_caller(self.body()) or None)
        running = await self.services.control.interrupt(owner, known_session_id(session_id))
        self.reply({"session_id": session_id, "interrupted": running})


class InputHandler(BodyHandler):
    """``POST /sessions/{session_id}/input``: answers what the running code asks."""

    async def post(self, session_id: str) -> None:
        user, value = parse_input(self.body())
        await self.services.control.answer(self.owner(user or None), known_session_id(session_id), value)
        self.nothing()


class SessionHandler(GateHandler):
    """``GET`` and ``DELETE /sessions/{session_id}``. Somebody else's session does not exist."""

    async def get(self, session_id: str) -> None:
        self.reply(await self.services.sessions.get(self.owner(), known_session_id(session_id)))

    async def delete(self, session_id: str) -> None:
        await self.services.sessions.delete(self.owner(), known_session_id(session_id))
        self.nothing()
