"""``/sessions/{session_id}/history``, ``undo`` and ``fork``."""

from __future__ import annotations

from kernelgate.api.base import BodyHandler, GateHandler
from kernelgate.api.parse import known_session_id, parse_fork, parse_number, parse_undo


class HistoryHandler(GateHandler):
    """``GET``: what ran in a session."""

    async def get(self, session_id: str) -> None:
        owner = self.owner()
        limit = parse_number(self.get_query_argument("limit", "100"), "limit", 1, 1000)
        before = self.get_query_argument("before", None)
        number = None if before is None else parse_number(before, "before", 1, 1 << 53)
        self.reply(await self.services.history.show(owner, known_session_id(session_id), limit, number))


class UndoHandler(BodyHandler):
    """``POST``: take a session back."""

    async def post(self, session_id: str) -> None:
        user, steps = parse_undo(self.body())
        self.reply(await self.services.history.undo(self.owner(user), known_session_id(session_id), steps))


class ForkHandler(BodyHandler):
    """``POST``: make sessions that go on from a version of this one."""

    async def post(self, session_id: str) -> None:
        user, at, count = parse_fork(self.body())
        forks = await self.services.history.fork(self.owner(user), known_session_id(session_id), at, count)
        self.reply(forks, status=201)
