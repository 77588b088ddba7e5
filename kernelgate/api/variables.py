"""``/sessions/{session_id}/vars``: the variables of a session."""

from __future__ import annotations

from kernelgate.api.base import GateHandler
from kernelgate.api.parse import known_session_id, parse_number

MAX_ROWS = 1000


class VariablesHandler(GateHandler):
    """``GET``: name, type, size, shape and preview of each variable."""

    async def get(self, session_id: str) -> None:
        self.reply(await self.services.variables.list(self.owner(), known_session_id(session_id)))


class VariableHandler(GateHandler):
    """``GET``: one variable, with some of its rows or items."""

    async def get(self, session_id: str, name: str) -> None:
        owner = self.owner()
        rows = parse_number(self.get_query_argument("rows", "20"), "rows", 0, MAX_ROWS)
        offset = parse_number(self.get_query_argument("offset", "0"), "offset", 0, 1 << 53)
        variables = self.services.variables
        self.reply(await variables.show(owner, known_session_id(session_id), name, rows, offset))
