"""The variables of a session, as its kernel describes them."""

from __future__ import annotations

from typing import Any

from kernelgate.auth import Owner
from kernelgate.errors import KernelDied, Unavailable, VariableNotFound
from kernelgate.kernel.messages import BadMessage
from kernelgate.sessions.admission import Admission
from kernelgate.sessions.sessions import Sessions

Json = dict[str, Any]

ANSWER_SECONDS = 10.0
REQUEST = "kernelgate_vars_request"


class Variables:
    """Asks a session's kernel for its variables; the session's state is restored first if need be."""

    def __init__(self, sessions: Sessions, admission: Admission) -> None:
        self._sessions = sessions
        self._admission = admission

    async def list(self, owner: Owner, session_id: str) -> Json:
        """Return name, type, size, shape and preview of each variable.

        Raises `SessionNotFound`, `RateLimited`, `Unavailable`.
        """
        reply = await self._ask(owner, session_id, {})
        variables = reply.get("variables")
        if not isinstance(variables, list):
            raise Unavailable("the kernel did not say which variables it has")
        return {"session_id": session_id, "variables": variables, "truncated": reply.get("truncated") is True}

    async def show(self, owner: Owner, session_id: str, name: str, rows: int, offset: int) -> Json:
        """Return one variable with ``rows`` of its rows or items, from ``offset`` on.

        Raises `SessionNotFound`, `VariableNotFound`, `RateLimited`, `Unavailable`.
        """
        reply = await self._ask(owner, session_id, {"name": name, "rows": rows, "offset": offset})
        variable = reply.get("variable")
        if not isinstance(variable, dict):
            raise Unavailable("the kernel did not describe the variable")
        return {"session_id": session_id, **variable, "truncated": reply.get("truncated") is True}

    async def _ask(self, owner: Owner, session_id: str, content: Json) -> Json:
        turn = self._admission.session_turn(self._sessions.existing(owner, session_id))
        async with turn as (session, _held), self._admission.slot(owner):
            ready = await self._sessions.kernel(session)
            if ready.problem:
                raise Unavailable(f"the session's state could not be restored: {ready.problem}")
            await ready.kernel.settle_interrupts()
            try:
                reply = await ready.kernel.ask("shell", REQUEST, content, ANSWER_SECONDS)
            except TimeoutError:
                ready.kernel.interrupt()
                raise Unavailable(f"the kernel did not answer within {ANSWER_SECONDS:g} s") from None
            except (KernelDied, BadMessage) as error:
                raise Unavailable(f"the kernel did not answer: {error}") from None
        if reply.get("status") != "ok":
            reason = reply.get("reason")
            told = reason[:400] if isinstance(reason, str) else "the kernel gave no reason"
            raise VariableNotFound(told) if reply.get("unknown") is True else Unavailable(told)
        return reply
