"""Sessions: whose they are, which kernel they have, and who may use it now."""

from __future__ import annotations

import asyncio
import secrets
import string
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from traitlets import Int
from traitlets.config import LoggingConfigurable

from kernelgate.auth import Owner
from kernelgate.errors import GateError, SessionNotFound
from kernelgate.kernel.background import Background
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.pool import KernelPool
from kernelgate.languages import Language

ALPHABET = string.ascii_letters + string.digits
SWEEP_SECONDS = 1.0


class Session:
    """One session. Its kernel is used by one execution at a time; the others wait in order."""

    def __init__(self, owner: Owner, session_id: str, language: Language) -> None:
        self.owner = owner
        self.id = session_id
        self.language = language
        self.kernel: Kernel | None = None
        self.created = datetime.now(UTC)
        self.last_used = datetime.now(UTC)
        self.used_at = time.monotonic()
        self.executions = 0
        self.turn = asyncio.Lock()
        self.users = 0
        """Executions that run or wait."""
        self.deleted = False

    def touch(self) -> None:
        self.last_used = datetime.now(UTC)
        self.used_at = time.monotonic()

    @property
    def state(self) -> str:
        """``busy``, ``idle`` (it has a kernel), or ``dormant`` (it has none at the moment)."""
        if self.users:
            return "busy"
        return "idle" if self.kernel is not None and self.kernel.alive else "dormant"

    def describe(self) -> dict[str, Any]:
        """Return the session as the API shows it; times in ISO 8601."""
        return {
            "session_id": self.id,
            "lang": self.language.id,
            "state": self.state,
            "created": self.created.isoformat(),
            "last_used": self.last_used.isoformat(),
            "executions": self.executions,
            "user_id": self.owner.user or None,
        }


class Sessions(LoggingConfigurable):
    """All sessions of the server. An id means something only together with its owner."""

    id_length = Int(32, min=16, max=128, help="Characters of a session id that the server makes.").tag(
        config=True, env="SESSION_ID_LENGTH", group="Sessions"
    )
    ttl_hours = Int(24, min=1, help="Hours after its last use until a session is forgotten.").tag(
        config=True, env="SESSION_TTL_HOURS", group="Sessions"
    )
    kernel_idle_seconds = Int(
        300,
        min=0,
        help="Seconds that a session keeps its kernel after its last use. 0: the kernel ends at once.",
    ).tag(config=True, env="KERNEL_IDLE_SECONDS", group="Sessions")
    max_live_kernels = Int(
        64,
        min=1,
        help="Kernels that sessions may have at once. The one that idled longest gives way to a new one.",
    ).tag(config=True, env="MAX_LIVE_KERNELS", group="Sessions")

    def __init__(self, pools: dict[str, KernelPool], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._pools = pools
        self._sessions: dict[tuple[Owner, str], Session] = {}
        self._background = Background(self.log, "background work on sessions")
        self._live = 0
        self._sweeper: asyncio.Task[None] | None = None

    # ---- for the API

    def get(self, owner: Owner, session_id: str) -> Session:
        """Return the owner's session. Raises `SessionNotFound`."""
        session = self._sessions.get((owner, session_id))
        if session is None:
            raise SessionNotFound(f"there is no session {session_id!r}")
        return session

    def list(self, owner: Owner) -> list[Session]:
        """Return the owner's sessions, the last used first."""
        own = [session for session in self._sessions.values() if session.owner == owner]
        return sorted(own, key=lambda session: session.used_at, reverse=True)

    async def delete(self, owner: Owner, session_id: str) -> None:
        """End the session and its kernel, even while it runs code. Raises `SessionNotFound`."""
        session = self.get(owner, session_id)
        self._forget(session)
        await self.drop_kernel(session)

    @asynccontextmanager
    async def lease(self, owner: Owner, session_id: str, language: Language) -> AsyncIterator[Session]:
        """Hold a session, a new one if the owner has none with that id; an empty id asks for a new one.

        One at a time holds a session; others get it in the order in which they came.
        """
        while True:
            session = self._find_or_make(owner, session_id, language)
            session.users += 1
            try:
                async with session.turn:
                    if not session.deleted:
                        yield session
                        return
            finally:
                session.users -= 1
                session.touch()
                self._after_use(session)

    async def kernel(self, session: Session) -> tuple[Kernel, bool]:
        """Return the session's kernel and whether it had it already. Raises `KernelStartError`, `EngineError`."""
        if session.kernel is not None and session.kernel.alive:
            return session.kernel, True
        await self.drop_kernel(session)
        self._live += 1  # reserved before the first await, so that many at once keep the bound
        try:
            self._make_room()
            session.kernel = await self._pools[session.language.id].acquire()
        except BaseException:
            self._live -= 1
            raise
        if session.deleted:
            await self.drop_kernel(session)
            raise SessionNotFound(f"session {session.id!r} was deleted")
        return session.kernel, False

    async def drop_kernel(self, session: Session) -> None:
        """End the session's kernel, if it has one."""
        kernel, session.kernel = session.kernel, None
        if kernel is None:
            return
        self._live -= 1
        try:
            await kernel.close()
        except GateError as error:
            self.log.warning("kernel %s could not be removed: %s", kernel.id, error)

    def health(self) -> dict[str, int]:
        return {"sessions": len(self._sessions), "kernels": self._live}

    # ---- background

    def open(self) -> None:
        """Start the background work."""
        self._sweeper = self._background.spawn(self._sweep())

    async def close(self) -> None:
        """Stop the background work and end all kernels."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._background.wait()
        await asyncio.gather(*(self.drop_kernel(session) for session in self._sessions.values()))
        self._sessions.clear()

    async def _sweep(self) -> None:
        """End kernels that idle too long or have died; forget sessions that nobody came back to."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for session in list(self._sessions.values()):
                if session.users:
                    continue
                idle = now - session.used_at
                if idle > self.ttl_hours * 3600:
                    self._forget(session)
                if session.kernel and (
                    not session.kernel.alive or session.deleted or idle > self.kernel_idle_seconds
                ):
                    self._background.spawn(self._retire(session, session.kernel))

    async def _retire(self, session: Session, kernel: Kernel) -> None:
        """End ``kernel``, unless the session was taken up again meanwhile and uses it, or has another."""
        if session.kernel is kernel and not (session.users and kernel.alive):
            await self.drop_kernel(session)

    def _find_or_make(self, owner: Owner, session_id: str, language: Language) -> Session:
        session_id = session_id or "".join(secrets.choice(ALPHABET) for _ in range(self.id_length))
        key = (owner, session_id)
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = Session(owner, session_id, language)
        return session

    def _after_use(self, session: Session) -> None:
        if session.users:
            return
        if session.kernel is not None and (self.kernel_idle_seconds == 0 or not session.kernel.alive):
            self._background.spawn(self._retire(session, session.kernel))
        self._make_room()

    def _make_room(self) -> None:
        """End the kernels that idled longest while there are too many."""
        excess = self._live - self.max_live_kernels
        if excess <= 0:
            return
        idle = [
            (session.used_at, session, session.kernel)
            for session in self._sessions.values()
            if session.kernel is not None and not session.users
        ]
        for _used_at, session, kernel in sorted(idle, key=lambda entry: entry[0])[:excess]:
            self._background.spawn(self._retire(session, kernel))

    def _forget(self, session: Session) -> None:
        session.deleted = True
        self._sessions.pop((session.owner, session.id), None)
