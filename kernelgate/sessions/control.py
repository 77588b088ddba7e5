"""What is done to a session beside running code in it: interrupt, answer, restart."""

from __future__ import annotations

from kernelgate.auth import Owner
from kernelgate.errors import BlobsMissing, Conflict, LeaseLost, SessionNotFound, StoreError, Unavailable
from kernelgate.kernel.client import Execution, execute
from kernelgate.sessions.record import now
from kernelgate.sessions.replies import execution_reply
from kernelgate.sessions.session import Session
from kernelgate.sessions.sessions import Sessions
from kernelgate.sessions.state import Run, State

RESTART_SECONDS = 10.0
RESTARTED = "restart"
"""What the history says of a restart."""


class Control:
    """Acts on sessions, whether they run code or not."""

    def __init__(self, sessions: Sessions, state: State) -> None:
        self._sessions = sessions
        self._state = state

    async def interrupt(self, owner: Owner, session_id: str) -> bool:
        """Interrupt what the session runs; False when it runs nothing. Raises `SessionNotFound`, `StoreError`.

        What waits for its kernel yet is interrupted as it begins. A kernel that seems to rest is told too: it may
        do something for a client that is no execution, and one that does nothing is not disturbed.
        """
        session = await self._known(owner, session_id)
        if session is None:
            return False
        session.interrupts += session.is_running
        if session.kernel is not None:
            session.kernel.interrupt()
        return session.is_running

    async def answer(self, owner: Owner, session_id: str, value: str) -> None:
        """Answer what the running code asks. Raises `SessionNotFound`, `Conflict`, `Unavailable`."""
        session = await self._known(owner, session_id)
        question = session.question if session is not None else None
        if session is None or question is None:
            raise Conflict("no code of the session waits for an input")
        session.question = None
        question.kernel.answer(question.message, value)

    async def restart(self, owner: Owner, session_id: str) -> None:
        """Give the session a new kernel with its files and no variables; what runs is cut off.

        That is a version of its own, so that it can be undone. Raises `SessionNotFound`, `SessionInUse`,
        `KernelStartError`, `EngineError`, `StoreError`.
        """
        session = await self._known(owner, session_id)
        if session is not None:
            await self._sessions.cut_off(session)
        async with self._sessions.existing(owner, session_id) as (session, held):
            ready = await self._sessions.fresh_kernel(session)
            started = now()
            save = self._state.save_request(session.has)
            result = await execute(ready.kernel, Execution("", RESTART_SECONDS, silent=True, save=save))
            if save is not None and result.snapshot is None:
                await self._sessions.drop_kernel(session)
                raise Unavailable("the new kernel did not say what it has: the session is as it was stored last")
            reply = execution_reply(session, ready, result)
            run = Run("", started, result, reply, status=RESTARTED)
            try:
                stored = await self._state.commit(held, session.record, ready.kernel, session.has, run)
            except (StoreError, LeaseLost, BlobsMissing) as error:
                await self._sessions.drop_kernel(session)
                if session.deleted:
                    raise SessionNotFound(f"session {session_id!r} was deleted") from error
                raise Unavailable(f"the restart could not be stored: {error}") from error
            session.record, session.has, session.is_whole = stored.record, stored.has, True
            self._sessions.mark(session, busy=False)
            if session.frontends is not None:
                session.frontends.restarted(ready.kernel)

    async def _known(self, owner: Owner, session_id: str) -> Session | None:
        """Return the session if this server knows it, None if it lies in the store. Raises `SessionNotFound`."""
        session = self._sessions.find(owner, session_id)
        if session is None:
            await self._sessions.get(owner, session_id)
        elif session.deleted:
            raise SessionNotFound(f"there is no session {session_id!r}")
        return session
