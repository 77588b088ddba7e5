"""All sessions of the server: who may use one now, and which kernel it has."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import string
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from traitlets import Int
from traitlets.config import LoggingConfigurable

from kernelgate.auth import Owner
from kernelgate.errors import (
    Aborted,
    GateError,
    LeaseLost,
    SessionInUse,
    SessionNotFound,
    StateRefused,
    Unavailable,
)
from kernelgate.kernel.background import Background
from kernelgate.kernel.client import Execution, Status, execute
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.pool import KernelPool
from kernelgate.kernel.restore import NOTHING, RestoreFailed
from kernelgate.languages import Language, find_language
from kernelgate.sessions.culling import Culling
from kernelgate.sessions.record import Record
from kernelgate.sessions.session import Ready, Session
from kernelgate.sessions.state import EMPTY, State
from kernelgate.sessions.vault import Held, Vault

ALPHABET = string.ascii_letters + string.digits
SWEEP_SECONDS = 1.0
DELETE_TRIES = 10
REMOVE_AGAIN_SECONDS = 10.0
"""Seconds until a container is removed that could not be."""

ENVIRONMENT_SECONDS = 10.0
RESTORE_TRIES = 5
"""Kernels that are given a state as long as each is killed meanwhile: as all are when the engine is restarted."""

RESTORE_PAUSE = 0.2

HOLD_SECONDS = 20.0
"""How long what is not an execution waits for another server that uses the session."""


DORMANT = {"state": "dormant", "connections": 0, "input_request": None}
"""What the API shows of a session beside its record when it rests in the store."""


class Sessions(LoggingConfigurable):
    """All sessions of the server. An id means something only together with its owner."""

    id_length = Int(32, min=16, max=128, help="Characters of a session id that the server makes.").tag(
        config=True, env="SESSION_ID_LENGTH", group="Sessions"
    )
    max_live_kernels = Int(
        64,
        min=1,
        help="Kernels that sessions may have at once. The one that idled longest gives way to a new one.",
    ).tag(config=True, env="MAX_LIVE_KERNELS", group="Sessions")

    min_free_memory_mb = Int(
        256,
        min=0,
        help="MB of memory that the machine keeps free: with less, kernels that idle end. 0: any is enough.",
    ).tag(config=True, env="MIN_FREE_MEMORY_MB", group="Sessions")

    def __init__(
        self, pools: dict[str, KernelPool], vault: Vault, state: State, culling: Culling, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._culling = culling
        self._pools = pools
        self._vault = vault
        self._state = state
        self._sessions: dict[tuple[Owner, str], Session] = {}
        self._background = Background(self.log, "background work on sessions")
        self._live = 0
        self._unremoved: dict[Kernel, float] = {}
        """Kernels whose containers could not be removed, and when to try again."""
        self._sweeper: asyncio.Task[None] | None = None

    # ---- for the API

    def find(self, owner: Owner, session_id: str) -> Session | None:
        """Return the session as this server knows it, if it does."""
        return self._sessions.get((owner, session_id))

    async def get(self, owner: Owner, session_id: str) -> dict[str, Any]:
        """Return what the API shows of a session. Raises `SessionNotFound`, `StoreError`."""
        session = self.find(owner, session_id)
        if session is not None and session.is_only_known_here:
            return session.describe()
        record = await self._vault.load(Vault.key(owner, session_id))
        if record is None:
            raise SessionNotFound(f"there is no session {session_id!r}")
        if session is None:
            return {**record.describe(), **DORMANT}
        return {**record.describe(), **session.describe_use()}

    async def list(self, owner: Owner) -> list[dict[str, Any]]:
        """Return what the API shows of the owner's sessions, the last used first. Raises `StoreError`."""
        shown = {each["session_id"]: {**each, **DORMANT} for each in await self._vault.descriptions(owner)}
        for session in self._sessions.values():
            if session.owner != owner:
                continue
            if session.is_only_known_here:
                shown[session.id] = session.describe()
            elif session.id in shown:
                shown[session.id].update(session.describe_use())
        return sorted(shown.values(), key=lambda each: str(each["last_used"]), reverse=True)

    async def delete(self, owner: Owner, session_id: str) -> None:
        """End the session and its kernel, even while it runs code. Raises `SessionNotFound`, `StoreError`."""
        for _ in range(DELETE_TRIES):
            with contextlib.suppress(LeaseLost):  # an execution that waited has taken it up
                await self._delete(owner, session_id)
                return
        raise SessionInUse("the session is used all the time: try again later")

    async def _delete(self, owner: Owner, session_id: str) -> None:
        session = self.find(owner, session_id)
        async with self._vault.hold(Vault.key(owner, session_id), HOLD_SECONDS, to_remove=True) as held:
            if held.record is None and not held.refused and session is None:
                raise SessionNotFound(f"there is no session {session_id!r}")
            if session is not None:
                await self.forget(session)
            await self._vault.remove(held.lease, held.record, owner)

    async def forget(self, session: Session) -> None:
        """Know nothing of the session any more; its kernel ends, and its clients are told so."""
        self._forget(session)
        await self._end(session)

    async def _end(self, session: Session) -> None:
        await self.drop_kernel(session)
        self._see_off(session)

    async def shut_down(self, session: Session) -> None:
        """End the session's kernel, even while it runs code; its clients are told so."""
        await self.cut_off(session)
        await self._end(session)

    async def cut_off(self, session: Session) -> None:
        """Have nothing run any more of what Jupyter's clients have asked for so far, nor of what runs already."""
        session.aborts += 1
        if session.frontends is not None:
            session.frontends.abort()
        if session.kernel is not None and session.is_running:
            session.kernel.is_ended = True
            await session.kernel.kill()

    def keep(self, owner: Owner, session_id: str, language: Language) -> Session:
        """Return a session that exists, for somebody to look on: from now on this server knows it."""
        return self._find_or_make(owner, session_id, language)

    def all(self) -> Iterator[Session]:
        """Yield the sessions that this server knows."""
        return iter(list(self._sessions.values()))

    def owned(self, owner: Owner) -> Iterator[Session]:
        """Yield the owner's sessions that this server knows."""
        return (session for session in self.all() if session.owner == owner)

    @asynccontextmanager
    async def lease(
        self, owner: Owner, session_id: str, language: Language, known: bool = False
    ) -> AsyncIterator[Session]:
        """Hold a session on this server, a new one if the owner has none with that id; empty asks for a new one.

        One at a time holds a session; others get it in the order in which they came. With ``known`` it must be
        one that this server knows: else raises `SessionNotFound`.
        """
        while True:
            if known and self.find(owner, session_id) is None:
                raise SessionNotFound(f"there is no session {session_id!r}")
            session = self._find_or_make(owner, session_id, language)
            session.users += 1
            try:
                async with session.turn:
                    if not session.deleted:
                        session.touch()
                        yield session
                        return
            finally:
                session.users -= 1
                session.touch()
                self._after_use(session)

    @asynccontextmanager
    async def hold(self, session: Session, wait: float = 0.0, is_new: bool = False) -> AsyncIterator[Held]:
        """Hold a leased session against other servers too, and bring it up to date with the store.

        Its kernel is dropped when the session went on elsewhere. Raises `SessionInUse`, `StoreError`.
        """
        async with self._vault.hold(session.key, wait, is_new) as held:
            await self._catch_up(session, held)
            yield held

    async def _catch_up(self, session: Session, held: Held) -> None:
        record = held.record
        if record is None and session.stored:  # it was deleted or has expired
            record = Record.new(session.owner, session.id, session.language.id)
            session.stored = False
            held.problem = held.problem or "it is no longer stored: it was deleted elsewhere, or has expired"
            await self.drop_kernel(session)
        elif record is not None:
            if session.kernel is not None and (
                session.has.tag != record.tag or session.record.created != record.created
            ):
                await self.drop_kernel(session)
            session.stored = True
        session.record = record or session.record

    async def kernel(self, session: Session, problem: str = "") -> Ready:
        """Return a kernel in the session's state. Raises `KernelStartError`, `EngineError`, `StoreError`.

        A state that cannot be restored is told of in the result; the session then begins anew. ``problem`` says
        why that is so already.
        """
        if session.kernel is not None and session.kernel.alive:
            return Ready(session.kernel, "reused")
        ready = await self._ready(session, problem)
        session.touch()
        session.is_whole = not ready.restored.lost
        if session.frontends is not None:
            session.frontends.attach(ready.kernel)
        return ready

    async def fresh_kernel(self, session: Session) -> Ready:
        """Give the session a new kernel with its files and without its variables.

        Raises as `kernel` does, and `Unavailable` when the kernel did not take the files.
        """
        return await self._ready(session, "", files_only=True)

    async def _ready(self, session: Session, problem: str, files_only: bool = False) -> Ready:
        for _ in range(RESTORE_TRIES):
            kernel = await self._new_kernel(session)
            try:
                return await self._restored(session, kernel, problem, files_only)
            except RestoreFailed as error:
                await self.drop_kernel(session)
                failure = error
            except BaseException:
                await asyncio.shield(self.drop_kernel(session))
                raise
            if kernel.is_ended:
                raise Aborted("the session was restarted or shut down while it was restored")
            if not failure.may_work_again:
                break
            await asyncio.sleep(RESTORE_PAUSE)  # the ends of others, too, become known
        if files_only:
            raise Unavailable(f"the new kernel could not be given the session's files: {failure}")
        return await self._begun_anew(session, str(failure))

    async def _restored(self, session: Session, kernel: Kernel, problem: str, files_only: bool) -> Ready:
        """Give a new kernel what is stored of the session. Raises `RestoreFailed`, `StoreError`."""
        restored = NOTHING
        try:
            session.has, restored = await self._state.restore(kernel, session.record, files_only)
        except StateRefused as error:
            problem = str(error)
        if not session.has.tag:
            await set_environment(kernel, session.record.env)
        return Ready(kernel, "restored" if session.has.tag else "new", restored, problem)

    async def _begun_anew(self, session: Session, problem: str) -> Ready:
        """Return a new kernel for a session whose state cannot be restored."""
        kernel = await self._new_kernel(session)
        try:
            await set_environment(kernel, session.record.env)
        except RestoreFailed as error:
            await self.drop_kernel(session)
            raise Unavailable(str(error)) from error
        except BaseException:
            await asyncio.shield(self.drop_kernel(session))
            raise
        return Ready(kernel, "new", problem=problem)

    async def _new_kernel(self, session: Session) -> Kernel:
        await self.drop_kernel(session)
        self._live += 1  # reserved before the first await, so that many at once keep the bound
        try:
            self._make_room()
            session.kernel = await self._pools[session.language.id].acquire()
            session.kernel_since = time.monotonic()
        except BaseException:
            self._live -= 1
            raise
        if session.deleted:
            await self.drop_kernel(session)
            raise SessionNotFound(f"session {session.id!r} was deleted")
        return session.kernel

    async def drop_kernel(self, session: Session) -> None:
        """End the session's kernel, if it has one."""
        kernel, session.kernel = session.kernel, None
        session.has = EMPTY
        if kernel is not None:
            self._live -= 1
            await self._close_kernel(kernel)

    async def _close_kernel(self, kernel: Kernel) -> None:
        """End a kernel; one whose container cannot be removed now is tried again and again."""
        try:
            await kernel.close()
        except GateError as error:
            self.log.warning("kernel %s could not be removed: %s", kernel.id, error)
            self._unremoved[kernel] = time.monotonic() + REMOVE_AGAIN_SECONDS

    @asynccontextmanager
    async def existing(self, owner: Owner, session_id: str) -> AsyncIterator[tuple[Session, Held]]:
        """Lease and hold a session that exists. Raises `SessionNotFound`, `SessionInUse`, `StoreError`."""
        known = self.find(owner, session_id)  # not stored as long as its first execution runs
        record = None if known is not None else await self._vault.load(Vault.key(owner, session_id))
        stored = find_language(record.language) if record is not None else None
        language = known.language if known is not None else stored
        if language is None:
            raise SessionNotFound(f"there is no session {session_id!r}")
        async with self.lease(owner, session_id, language) as session, self.hold(session, HOLD_SECONDS) as held:
            if held.record is None:
                raise SessionNotFound(f"there is no session {session_id!r}")
            yield session, held

    async def adopt(self, kernel: Kernel, note: Mapping[str, Any]) -> bool:
        """Give a kernel of a dead server back to its session; False when the session has gone on without it.

        ``note`` is what `mark` wrote. Raises `StoreError`, `StateRefused`.
        """
        session = Session(Owner(note["owner"], note["user"]), note["id"], kernel.language)
        record = await self._vault.load(session.key)
        if record is None or (record.tag, record.created) != (note["tag"], note["created"]):
            return False
        session.has = await self._state.known(record)
        session.record, session.stored, session.kernel = record, True, kernel
        self._sessions[(session.owner, session.id)] = session
        self._live += 1
        return True

    def mark(self, session: Session, busy: bool) -> None:
        """Note beside the kernel's sockets whose it is and what it has, for `adopt` of a later server."""
        if session.kernel is not None:
            session.kernel.note(
                {
                    "owner": session.owner.key,
                    "user": session.owner.user,
                    "id": session.id,
                    "tag": session.has.tag,
                    "created": session.record.created,
                    "busy": busy,
                }
            )

    def new_id(self) -> str:
        return "".join(secrets.choice(ALPHABET) for _ in range(self.id_length))

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
            if self.min_free_memory_mb and free_memory_mb() < self.min_free_memory_mb:
                self._end_idle(1)
            now = time.monotonic()
            for session in list(self._sessions.values()):
                self._look_after(session, now)
            for kernel in [kernel for kernel, due in self._unremoved.items() if due <= now]:
                del self._unremoved[kernel]
                self._background.spawn(self._close_kernel(kernel))

    def _look_after(self, session: Session, now: float) -> None:
        """End the session's kernel if it has lived long enough; forget a session of which all is stored."""
        kernel, is_awaited = session.kernel, session.frontends is not None and session.frontends.is_needed
        if session.users:
            if kernel is not None and self._culling.is_stuck(session, now):
                self._background.spawn(kernel.kill())
        elif kernel is None:
            if not is_awaited:
                self._sessions.pop((session.owner, session.id))
                if session.frontends is not None:
                    session.frontends.close()
        elif now - session.active_at > self._state.session_seconds:
            self._forget(session)
            self._background.spawn(self._end(session))
        elif not kernel.alive or self._culling.is_due(session, now):
            self._background.spawn(self._retire(session, kernel))

    async def _retire(self, session: Session, kernel: Kernel, if_at_rest: bool = False) -> None:
        """End ``kernel``, unless the session was taken up again meanwhile and uses it, or has another.

        ``if_at_rest``: nor when it does something for a Jupyter client; it is looked at again soon.
        """
        in_use = session.users or (if_at_rest and session.has_work)
        if session.kernel is kernel and not (in_use and kernel.alive):
            await self.drop_kernel(session)

    def _find_or_make(self, owner: Owner, session_id: str, language: Language) -> Session:
        session_id = session_id or self.new_id()
        key = (owner, session_id)
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = Session(owner, session_id, language)
        return session

    def _after_use(self, session: Session) -> None:
        if session.users:
            return
        if session.kernel is not None and (self._culling.kernel_idle_seconds == 0 or not session.kernel.alive):
            self._background.spawn(self._retire(session, session.kernel, if_at_rest=True))
        self._make_room()

    def _make_room(self) -> None:
        """End the kernels that idled longest while there are too many."""
        self._end_idle(self._live - self.max_live_kernels)

    def _end_idle(self, count: int) -> None:
        """End the ``count`` kernels that idled longest. Their sessions are restored from what is stored.

        Those that somebody looks at and that have more than is stored come last, and behind them those that do
        something for a Jupyter client.
        """
        if count <= 0:
            return
        idle = [
            ((session.has_work, session.keeps_more_than_is_stored, session.active_at), session, session.kernel)
            for session in self._sessions.values()
            if session.kernel is not None and not session.users
        ]
        for _order, session, kernel in sorted(idle, key=lambda entry: entry[0])[:count]:
            self._background.spawn(self._retire(session, kernel))

    def _see_off(self, session: Session) -> None:
        """Tell those who look on that there is nothing more to see."""
        frontends, session.frontends = session.frontends, None
        if frontends is not None:
            frontends.status("dead")
            frontends.close()

    def _forget(self, session: Session) -> None:
        session.deleted = True
        self._sessions.pop((session.owner, session.id), None)


async def set_environment(kernel: Kernel, env: Mapping[str, str]) -> None:
    """Set environment variables in a kernel that has run no user's code. Raises `RestoreFailed`."""
    if env:
        code = f"__import__('os').environ.update({dict(env)!r})"
        result = await execute(kernel, Execution(code, ENVIRONMENT_SECONDS, silent=True))
        if result.status is not Status.OK:
            raise RestoreFailed("its environment could not be set")


def free_memory_mb() -> float:
    """Return how much memory the machine could give without swapping, in MB; infinite where that is not told."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return float("inf")
