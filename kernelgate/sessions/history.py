"""The past of a session: what ran in it, and the ways back."""

from __future__ import annotations

import json
from typing import Any

from kernelgate.auth import Owner
from kernelgate.errors import Conflict, SessionNotFound
from kernelgate.sessions.admission import Admission
from kernelgate.sessions.record import Entry, Record
from kernelgate.sessions.sessions import Sessions
from kernelgate.sessions.state import State
from kernelgate.sessions.vault import Change, Vault

Json = dict[str, Any]


class History:
    """Shows a session's executions, undoes them, and forks sessions."""

    def __init__(self, sessions: Sessions, vault: Vault, state: State, admission: Admission) -> None:
        self._sessions = sessions
        self._vault = vault
        self._state = state
        self._admission = admission

    async def show(self, owner: Owner, session_id: str, limit: int, before: int | None) -> Json:
        """Return the last ``limit`` executions with a number below ``before``, oldest first.

        Raises `SessionNotFound`, `StoreError`.
        """
        record = await self._vault.load(Vault.key(owner, session_id))
        if record is None:
            raise SessionNotFound(f"there is no session {session_id!r}")
        entries = [entry for entry in record.entries if before is None or entry.number < before][-limit:]
        blobs = await self._vault.found_blobs(Vault.key(owner, session_id), {entry.blob for entry in entries})
        details = {name: json.loads(data) for name, data in blobs.items()}
        return {
            "session_id": record.id,
            "version": record.version,
            "executions": record.executions,
            "history": [_shown(record, entry, details.get(entry.blob)) for entry in entries],
        }

    async def undo(self, owner: Owner, session_id: str, steps: int) -> Json:
        """Take the session back to before its last ``steps`` executions, with variables and files.

        Raises `SessionNotFound`, `Conflict`, `StoreError`.
        """
        self._check_enabled()
        async with self._admission.session_turn(self._sessions.existing(owner, session_id)) as (session, held):
            record = session.record.copy()
            undone = record.undo(steps)
            if record.current is not None and not await self._vault.is_whole(record.current):
                raise Conflict(f"version {record.version} is no longer kept")
            await self._vault.commit(held.lease, record, Change())
            session.record = record
            await self._sessions.drop_kernel(session)
        return {"session_id": session_id, "version": record.version, "undone": undone}

    async def fork(self, owner: Owner, session_id: str, at: int | None, count: int) -> Json:
        """Make ``count`` sessions that go on from version ``at`` (None: the one it is in) of this one.

        Raises `SessionNotFound`, `Conflict`, `StoreError`.
        """
        self._check_enabled()
        async with self._admission.session_turn(self._sessions.existing(owner, session_id)) as (session, held):
            source = session.record.copy()
            version = source.version if at is None else at
            if not source.restorable(version):
                raise Conflict(f"version {version} is not kept: it must be one of {sorted({0, *source.versions})}")
            source.leave_space()
            source.touched = 0.0
            await self._vault.commit(held.lease, source, Change())
            session.record = source
            forks = [source.fork(self._sessions.new_id(), version) for _ in range(count)]
            for fork in forks:
                await self._store(owner, fork)
        return {"sessions": [{"session_id": fork.id, "version": version} for fork in forks]}

    def _check_enabled(self) -> None:
        if not self._state.enabled:
            raise Conflict("no state is kept that a session could go back to: STATE_PERSISTENCE_ENABLED is off")

    async def _store(self, owner: Owner, fork: Record) -> None:
        async with self._vault.hold(Vault.key(owner, fork.id), is_new=True) as held:
            await self._vault.commit(held.lease, fork, Change())


def _shown(record: Record, entry: Entry, details: Json | None) -> Json:
    return {
        "number": entry.number,
        "version": entry.version,
        "base": entry.base,
        "started": entry.started,
        "status": entry.status,
        "undone": entry.undone,
        "restorable": record.restorable(entry.version),
        **(details or {"code": None}),
    }
