"""The state of sessions: what of it is saved with each execution, and how it gets into another kernel."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from traitlets import Bool, Float, Int, Unicode
from traitlets.config import LoggingConfigurable

from kernelgate.compact import compact_json
from kernelgate.errors import BlobsMissing, LeaseLost, StateRefused, StoreError
from kernelgate.kernel.client import Execution, Result, execute
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.restore import NOTHING, Restored, restore
from kernelgate.kernel.snapshot import FileLimits, SaveRequest, Snapshot, digest
from kernelgate.sessions.record import Entry, Manifest, Record, Version, blob_name, digest_of, now
from kernelgate.sessions.vault import Change, Held, Vault

Json = dict[str, Any]

KEPT_SHARE = 8
"""How often within its time at hand a state is prolonged while code runs."""


@dataclass(frozen=True)
class KernelState:
    """What of a kernel's state is stored: the save's tag, and the blob of each digest that it consists of."""

    tag: str
    names: Mapping[str, str]
    sent: Sequence[str] = ()
    """The digests of the chunks that the kernel sent with the save, in order."""


EMPTY = KernelState("", {})
"""The state of a kernel that is new."""


@dataclass(frozen=True)
class Run:
    """An execution that has ended: its code, when it began (ISO 8601), what came of it, and the reply to it."""

    code: str
    started: str
    result: Result
    reply: Json
    silent: bool = False
    """Whether it has no place in the history, only its effects do."""
    status: str = ""
    """What the history says of it, when that is not the result's status."""


@dataclass(frozen=True)
class Stored:
    """A session's record as it is stored now, and what its kernel has of it."""

    record: Record
    has: KernelState


class StateSettings(LoggingConfigurable):
    """What is kept of sessions, for how long, and within which bounds."""

    session_hours = Int(24, min=1, help="Hours after its last use until a session is forgotten.").tag(
        config=True, env="SESSION_TTL_HOURS", group="Sessions"
    )

    enabled = Bool(
        True, help="Keep variables and files of a session beyond the life of its kernel. Off: they end with it."
    ).tag(config=True, env="STATE_PERSISTENCE_ENABLED", group="State persistence")
    ttl_seconds = Int(
        7200, min=1, help="Seconds after its last use for which a session's state is kept at hand."
    ).tag(config=True, env="STATE_TTL_SECONDS", group="State persistence")
    max_size_mb = Int(
        50,
        min=1,
        help="MB that the variables of a session may have when they are saved; what exceeds it is left out.",
    ).tag(config=True, env="STATE_MAX_SIZE_MB", group="State persistence")
    capture_on_error = Bool(
        False,
        help="Save what a cell changed before it failed, too. Off: only the live kernel has that, until the next "
        "cell that succeeds.",
    ).tag(config=True, env="STATE_CAPTURE_ON_ERROR", group="State persistence")
    durable = Bool(
        True, help="Answer when the state is stored. Off: answer at once and store it right afterwards."
    ).tag(config=True, env="STATE_DURABLE_BEFORE_REPLY", group="State persistence")
    save_seconds = Float(
        10.0, min=0.1, help="Seconds that saving may take; what is not done by then is left out."
    ).tag(config=True, env="STATE_SAVE_TIMEOUT_SECONDS", group="State persistence")
    restore_seconds = Float(
        30.0, min=0.1, help="Seconds that restoring may take; after that the session begins anew."
    ).tag(config=True, env="STATE_RESTORE_TIMEOUT_SECONDS", group="State persistence")
    secret = Unicode(
        "",
        help="The key that stored sessions are sealed with; servers that share a store need the same one. "
        "Empty: it is derived from API_KEY.",
    ).tag(config=True, env="STATE_SECRET", group="State persistence", secret=True)
    max_entries = Int(100, min=1, help="Executions of a session that its history keeps.").tag(
        config=True, env="HISTORY_MAX_ENTRIES", group="State persistence"
    )
    max_history_mb = Int(
        256, min=0, help="MB of a session's versions that are kept for undo and fork; the current one always is."
    ).tag(config=True, env="HISTORY_MAX_MB", group="State persistence")
    max_entry_kb = Int(256, min=1, help="KB of code and outputs that the history keeps of one execution.").tag(
        config=True, env="HISTORY_ENTRY_KB", group="State persistence"
    )


class State:
    """Saves the namespace and the work folder of sessions, and restores them."""

    def __init__(self, vault: Vault, settings: StateSettings, files: FileLimits) -> None:
        self.log = settings.log
        self.enabled = settings.enabled
        self.durable = settings.durable
        self.session_seconds = settings.session_hours * 3600
        self._settings = settings
        self._vault = vault
        self._files = files

    # ---- saving

    def save_request(self, has: KernelState) -> SaveRequest | None:
        """Return what to ask a kernel for that has the state ``has``; None when nothing is saved."""
        if not self.enabled:
            return None
        return SaveRequest(
            tag=secrets.token_hex(8),
            base=has.tag or None,
            known=frozenset(has.names),
            sent=has.sent,
            max_bytes=self._settings.max_size_mb << 20,
            seconds=self._settings.save_seconds,
            on_error=self._settings.capture_on_error,
            files=self._files,
        )

    async def commit(self, held: Held, record: Record, kernel: Kernel, has: KernelState, run: Run) -> Stored:
        """Store an execution with the state that it led to. Raises `StoreError`, `LeaseLost`."""
        try:
            return await self._commit(held, record, has, run, run.result.snapshot)
        except BlobsMissing:
            self.log.warning("parts of a session's state have gone from the store: all of it is saved again")
            return await self._commit(held, record, EMPTY, run, await self._save_again(kernel))

    async def _save_again(self, kernel: Kernel) -> Snapshot:
        """Have a kernel save all that it has. Raises `StoreError`."""
        again = Execution("", self._settings.save_seconds, silent=True, save=self.save_request(EMPTY))
        result = await execute(kernel, again)
        if result.snapshot is None:
            why = result.save_error or result.message or "the kernel did not save it"
            raise StoreError(f"parts of it have gone from the store, and it could not be saved again: {why}")
        return result.snapshot

    @asynccontextmanager
    async def kept(self, held: Held | None, record: Record | None) -> AsyncIterator[None]:
        """Keep what is stored of a session from expiring while its code runs, however long that takes."""
        keeping: list[asyncio.Task[None]] = []

        def keep() -> None:
            if held is not None and record is not None and not held.refused:
                keeping.append(asyncio.create_task(self._keep(held, record)))

        timer = asyncio.get_running_loop().call_later(self._keep_seconds, keep)
        try:
            yield
        finally:
            timer.cancel()
            for task in keeping:
                task.cancel()
                await asyncio.wait({task})

    @property
    def _keep_seconds(self) -> float:
        return self._settings.ttl_seconds / KEPT_SHARE

    async def _keep(self, held: Held, record: Record) -> None:
        """Store the record again and again as one that is used."""
        while True:
            used = record.copy()
            used.used, used.touched = now(), 0.0
            try:
                await self._vault.commit(held.lease, used, Change())
            except (StoreError, LeaseLost, BlobsMissing) as error:
                self.log.warning("the state of a session whose code runs is not prolonged: %s", error)
            await asyncio.sleep(self._keep_seconds)

    async def _commit(
        self,
        held: Held,
        record: Record,
        has: KernelState,
        run: Run,
        snapshot: Snapshot | None,
    ) -> Stored:
        after, blobs, manifest, version = record.copy(), {}, None, None
        number = record.version
        if snapshot is not None:
            number = record.last_version + 1
            manifest = _manifest(snapshot, has, record.space)
            blobs = {manifest.names[name]: data for name, data in snapshot.chunks.items()}
            version = Version(_add(blobs, record.space, manifest.to_bytes()), snapshot.tag, size=_size(blobs))
        after.used = now()
        after.closed = False
        if not run.silent:
            details = _add(blobs, record.space, entry_bytes(run, self._settings.max_entry_kb << 10))
            after.executions += 1
            status = run.status or run.result.status.value
            after.add(Entry(after.executions, record.version, number, run.started, status, details), version)
        elif version is not None:
            after.advance(number, version)
        change = Change(blobs, manifest)
        change = replace(change, drop=await self._forget(after, change))
        await self._vault.commit(held.lease, after, change)
        if snapshot is None or manifest is None:
            return Stored(after, has)
        return Stored(after, KernelState(snapshot.tag, manifest.names, snapshot.sent))

    async def _forget(self, record: Record, change: Change) -> set[str]:
        """Cut history back to its bounds; returns the blobs that nobody needs any more."""
        trimmed = record.trim(self._settings.max_entries, self._settings.max_history_mb << 20)
        if not trimmed.entries and not trimmed.versions:
            return set()
        blobs = record.own(entry.blob for entry in trimmed.entries) - {entry.blob for entry in record.entries}
        try:
            return blobs | await self._vault.unused(record, trimmed.versions, change)
        except StateRefused as error:
            self.log.warning("what history no longer needs is left to expire: %s", error)
            return set()

    # ---- restoring

    async def restore(
        self, kernel: Kernel, record: Record, files_only: bool = False
    ) -> tuple[KernelState, Restored]:
        """Give a new kernel the state that the session is in, or just its files.

        Raises `StateRefused` and `StoreError`; and `RestoreFailed`, after which the kernel must not be used.
        """
        version = record.current
        if version is None or not self.enabled:
            return EMPTY, NOTHING
        if (datetime.now(UTC) - datetime.fromisoformat(record.used)).total_seconds() > self._settings.ttl_seconds:
            raise StateRefused("it has expired")
        manifest = await self._vault.manifest(version)
        chunks = await self._vault.blobs(set(manifest.names.values()))
        by_digest = {digest_of(name): data for name, data in chunks.items()}
        seconds = self._settings.restore_seconds
        restored = await restore(kernel, manifest.layout, by_digest, version.tag, seconds, files_only)
        return EMPTY if files_only else KernelState(version.tag, manifest.names), restored

    async def known(self, record: Record) -> KernelState:
        """Return what a kernel in the session's version has. Raises `StateRefused`, `StoreError`."""
        if record.current is None:
            return EMPTY
        return KernelState(record.tag, (await self._vault.manifest(record.current)).names)


def _manifest(snapshot: Snapshot, has: KernelState, space: str) -> Manifest:
    """Name the blob of each digest: new ones are in ``space``, the others where they were."""
    names = {name: has.names.get(name) or blob_name(space, name) for name in snapshot.digests}
    return Manifest(snapshot.layout, names)


def _add(blobs: dict[str, bytes], space: str, data: bytes) -> str:
    """Put ``data`` into ``blobs``; returns its name."""
    name = blob_name(space, digest(data))
    blobs[name] = data
    return name


def _size(blobs: Mapping[str, bytes]) -> int:
    return sum(map(len, blobs.values()))


ENTRY_FIELDS = ("stdout", "stderr", "outputs", "execution_count", "exit_code", "duration_ms", "truncated")


def entry_bytes(run: Run, limit: int) -> bytes:
    """Return what the history keeps of an execution: JSON of at most about ``limit`` bytes."""
    kept: Json = {"code": run.code, **{name: run.reply[name] for name in ENTRY_FIELDS}}
    data = compact_json(kept).encode()
    if len(data) <= limit:
        return data
    for name in ("code", "stdout", "stderr"):
        kept[name] = kept[name][: limit // 16]  # a character takes up to 12 bytes in JSON
    room, outputs = limit // 4, []
    for output in kept["outputs"]:
        room -= len(json.dumps(output))
        if room < 0:
            break
        outputs.append(output)
    return compact_json({**kept, "outputs": outputs, "cut": True}).encode()
