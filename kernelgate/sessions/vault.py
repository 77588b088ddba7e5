"""The vault: what is stored of sessions, hot and cold. The only door from sessions to the stores."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, field
from logging import Logger
from typing import Any, TypeVar

from kernelgate.auth import Owner
from kernelgate.compact import compact_json
from kernelgate.errors import BlobsMissing, SessionInUse, StateRefused, StoreError
from kernelgate.kernel.background import Background
from kernelgate.sessions.archive import Archive
from kernelgate.sessions.record import Manifest, Record, Version, now
from kernelgate.sessions.seal import Seal, check, only_whole
from kernelgate.stores.store import Commit, Lease, SessionStore

T = TypeVar("T")

LEASE_SECONDS = 15.0
ARCHIVER = "/archiver"
"""Ends the name under which a server archives: it must not take a session from its own executions."""

RENEW_SECONDS = 5.0
POLL_FIRST, POLL_MOST = 0.02, 0.25
RELEASE_PAUSE = 1.0
CLOSE_SECONDS = 3.0

MAX_OPENED = 128
"""Records that are kept at hand."""

INLINE_BYTES = 256 << 10
"""Up to so many bytes are checked on the loop; more go to a thread."""

BLOB_SLACK = 1.25
"""How much longer blobs are kept than they have to be, so that their life need not be prolonged each time."""

TOUCH_SHARE = 8


@dataclass(frozen=True)
class Lifetimes:
    """Seconds for which things are kept after a session's last use. ``archive`` is 0 when nothing is archived."""

    record: float
    state: float
    archive: float


@dataclass(frozen=True)
class Change:
    """What an execution adds to a session's blobs and takes from them."""

    blobs: Mapping[str, bytes] = field(default_factory=dict)
    manifest: Manifest | None = None
    """What the version that the session is in now consists of, if that is new."""
    drop: Collection[str] = ()


@dataclass
class Held:
    """A session that nobody else may change now.

    ``problem`` says why it has no record although there was one. ``refused``: there is one that is not to be
    trusted, and nothing must be stored in its place, as it may be fine to a server with another key.
    """

    lease: Lease
    record: Record | None
    problem: str = ""
    refused: bool = False


class Vault:
    """Stores sealed records and content-addressed blobs; brings archived sessions back when they are asked for."""

    def __init__(
        self, hot: SessionStore, archive: Archive | None, seal: Seal, holder: str, life: Lifetimes, log: Logger
    ) -> None:
        self.hot = hot
        self._archive = archive
        self._seal = seal
        self._holder = holder
        self._life = life
        self._log = log
        self._background = Background(log, "work on a lease")
        self._opened: OrderedDict[str, tuple[bytes, Record]] = OrderedDict()
        self.dead_holders: set[str] = set()
        """Holders of leases that are known to have ended without giving them back."""

    @staticmethod
    def key(owner: Owner, session_id: str) -> str:
        """Return the name of a session in the stores."""
        return hashlib.sha256("\0".join((owner.key, owner.user, session_id)).encode()).hexdigest()[:40]

    # ---- one at a time

    @asynccontextmanager
    async def hold(
        self, key: str, wait: float = 0.0, is_new: bool = False, to_remove: bool = False
    ) -> AsyncIterator[Held]:
        """Hold a session; ``is_new`` says that it cannot be archived, ``to_remove`` what it is held for.

        Raises `SessionInUse`, `StoreError`.
        """
        lease = await self._acquire(key, wait, to_remove)
        stop_renewing = self._renew(lease)
        try:
            yield await self._read(key, lease, is_new, to_remove)
        finally:
            stop_renewing()
            self._background.spawn(self._release(lease))  # nobody here needs to wait for it

    async def close(self) -> None:
        """Wait until all leases are given back, if the store is there to take them."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._background.wait()
        except TimeoutError:
            self._background.cancel()

    async def _acquire(self, key: str, wait: float, to_free: bool) -> Lease:
        deadline, pause = time.monotonic() + wait, POLL_FIRST
        while True:
            lease = await self.hot.acquire(key, self._holder, LEASE_SECONDS, self._dead(), to_free)
            if lease is not None:
                return lease
            if time.monotonic() > deadline:
                raise SessionInUse("another server uses the session: try again later")
            await asyncio.sleep(pause)
            pause = min(POLL_MOST, pause * 2)

    def _dead(self) -> set[str]:
        """Return who is known to have died with leases."""
        return {f"{name}{suffix}" for name in self.dead_holders for suffix in ("", ARCHIVER)}

    def _renew(self, lease: Lease) -> Callable[[], None]:
        """Prolong the lease every now and then until what is returned is called."""
        loop = asyncio.get_running_loop()
        timer: list[asyncio.TimerHandle] = []

        async def renew() -> None:
            try:
                await self.hot.renew(lease, LEASE_SECONDS)
            except StoreError:
                return  # the commit will tell

        def again() -> None:
            self._background.spawn(renew())
            timer[:] = [loop.call_later(RENEW_SECONDS, again)]

        timer.append(loop.call_later(RENEW_SECONDS, again))
        return lambda: timer[0].cancel()

    async def _release(self, lease: Lease) -> None:
        """Give a lease back; while the store is away, until the lease has run out."""
        end = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < end:
            try:
                await self.hot.release(lease)
            except StoreError:
                await asyncio.sleep(RELEASE_PAUSE)
            else:
                return

    async def _read(self, key: str, lease: Lease, is_new: bool, to_remove: bool) -> Held:
        try:
            if lease.head is not None:
                return Held(lease, self._open(key, lease.head))
            if self._archive is None or is_new:
                return Held(lease, None)
            if to_remove:
                return Held(lease, await self.load(key))
            return Held(lease, await self._bring_back(key, lease, self._archive))
        except StateRefused as error:
            return Held(lease, None, problem=str(error), refused=True)

    # ---- records

    async def load(self, key: str) -> Record | None:
        """Return a session's record as it is now, without holding it. Raises `StoreError`, `StateRefused`."""
        head = await self.hot.head(key)
        if head is None and self._archive is not None:
            head = await self._archive.head(key)
        return None if head is None else self._open(key, head)

    async def descriptions(self, owner: Owner) -> list[dict[str, Any]]:
        """Return what the API shows of each of an owner's sessions. Those whose seal is broken are left out."""
        shown = []
        for key, info in (await self.hot.sessions(owner_name(owner))).items():
            try:
                shown.append(json.loads(self._seal.open(key, info)))
            except StateRefused:
                continue
        return shown

    async def commit(self, lease: Lease, record: Record, change: Change) -> None:
        """Store a record and what is new in it, and prolong the life of what is old now and then.

        Old versions of which parts are gone are taken out of the record. Raises `StoreError`, `LeaseLost`,
        `BlobsMissing` for what the new version needs.
        """
        moment = time.time()
        needed = set(change.manifest.names.values()) if change.manifest is not None else set()
        keep = set(needed)
        if moment - record.touched > self._life.state / TOUCH_SHARE:
            keep |= await self._names(_without_new(record, change))
            record.touched = moment
        try:
            await self._put_head(lease, record, change, keep - set(change.blobs))
        except BlobsMissing as error:
            if error.names & needed:
                raise
            self._log.warning("parts of a session's old versions have gone from the store")
            keep = needed | await self._let_go(record, change)
            await self._put_head(lease, record, change, keep - set(change.blobs))

    async def _let_go(self, record: Record, change: Change) -> set[str]:
        """Take the versions out of the record that are not whole, but for the one that it is in.

        Returns the names of all blobs that are left.
        """
        old = _without_new(record, change)
        whole, names = await self._whole(old)
        for number in set(old.versions) - whole - {record.version}:
            del record.versions[number]
        return names

    async def _whole(self, record: Record) -> tuple[set[int], set[str]]:
        """Return the versions of which all is there, and the blobs that are there of them and of the history."""
        manifests = await self._manifests(record)
        parts = {
            number: {record.versions[number].manifest, *manifest.names.values()}
            for number, manifest in manifests.items()
        }
        names = {entry.blob for entry in record.entries}.union(*parts.values())
        missing = await self.hot.missing(names)
        whole = {number for number, needed in parts.items() if not needed & missing}
        entries = {entry.blob for entry in record.entries} - missing
        return whole, entries.union(*(parts[number] for number in whole))

    async def _put_head(self, lease: Lease, record: Record, change: Change, keep: Collection[str]) -> None:
        info = compact_json(record.describe()).encode()
        head = self._seal.close(lease.key, record.to_bytes())
        await self.hot.commit(
            lease,
            Commit(
                key=lease.key,
                owner=owner_name(Owner(record.owner, record.user)),
                head=head,
                info=self._seal.close(lease.key, info),
                blobs=change.blobs,
                keep=keep,
                drop=change.drop,
                ttl=self._life.record,
                blob_ttl=self._life.state * BLOB_SLACK,
                index_ttl=self._life.record + self._life.archive,
                used_at=time.time(),
            ),
        )
        self._remember(lease.key, head, record)

    async def remove(self, lease: Lease, record: Record | None, owner: Owner) -> None:
        """Remove a session from all tiers. Blobs that others may refer to, or nobody knows, expire in time."""
        drop = record.own(await self._names(record)) if record is not None else set()
        await self.hot.remove(lease, owner_name(owner), drop)
        if self._archive is not None:
            await self._archive.remove(lease.key)

    def _open(self, key: str, head: bytes) -> Record:
        known = self._opened.get(key)
        if known is None or known[0] != head:
            known = head, Record.from_bytes(self._seal.open(key, head))
            self._remember(key, *known)
        return known[1].copy()

    def _remember(self, key: str, head: bytes, record: Record) -> None:
        """Keep a record that was opened or sealed, so that it need not be opened again while it stays the same."""
        self._opened[key] = head, record.copy()
        self._opened.move_to_end(key)
        if len(self._opened) > MAX_OPENED:
            self._opened.popitem(last=False)

    # ---- blobs

    async def blobs(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return blobs by their names, checked. Raises `StateRefused` when one is gone or damaged."""
        wanted = set(names)
        found = await self.hot.get(wanted)
        if len(found) < len(wanted):
            raise StateRefused("parts of the stored state have expired or were removed")
        await _off_the_loop(check, found)
        return found

    async def found_blobs(self, key: str, names: Collection[str]) -> dict[str, bytes]:
        """Return those of a session's blobs that are there, in any tier, and are what their names say."""
        found = await self.hot.get(names)
        missing = [name for name in names if name not in found]
        if missing and self._archive is not None:
            async for blobs in self._archive.read(key, missing):
                found.update(blobs)
        return await _only_whole(found)

    async def manifest(self, version: Version) -> Manifest:
        """Return what a version consists of. Raises `StateRefused`, `StoreError`."""
        return Manifest.from_bytes((await self.blobs([version.manifest]))[version.manifest])

    async def is_whole(self, version: Version) -> bool:
        """Tell whether all parts of a version are there."""
        try:
            manifest = await self.manifest(version)
        except StateRefused:
            return False
        return not await self.hot.missing(manifest.names.values())

    async def _names(self, record: Record) -> set[str]:
        """Return the names of all blobs that a stored record leads to, as far as its manifests are there."""
        return _all_names(record, (await self._manifests(record)).values())

    async def _manifests(self, record: Record) -> dict[int, Manifest]:
        """Return what each version consists of; those of which that is gone or damaged are left out."""
        blobs = await _only_whole(await self.hot.get(record.manifests))
        return {
            number: Manifest.from_bytes(blobs[version.manifest])
            for number, version in record.versions.items()
            if version.manifest in blobs
        }

    async def unused(self, record: Record, gone: Collection[Version], change: Change) -> set[str]:
        """Return the blobs that only versions which are ``gone`` from the record needed, and nobody else has.

        ``change`` is what is about to be stored with the record.
        """
        if not gone:
            return set()
        manifests = {version.manifest for version in gone}
        names = manifests | names_in((await self.blobs(manifests)).values())
        new = set(change.manifest.names.values()) if change.manifest is not None else set()
        left = _without_new(record, change)
        manifests_left = map(Manifest.from_bytes, (await self.blobs(left.manifests)).values())
        return record.own(names) - new - set(change.blobs) - _all_names(left, manifests_left)

    # ---- the archive

    @property
    def has_archive(self) -> bool:
        return self._archive is not None

    async def alone(self, lock: str, seconds: float) -> bool:
        """Tell whether this server, for the next ``seconds``, is the only one that is told so."""
        return await self.hot.lock(lock, self._holder, seconds)

    async def not_alone(self, lock: str) -> None:
        """Let another server be told so."""
        await self.hot.unlock(lock, self._holder)

    async def expire_archived(self, seconds: float) -> int:
        """Remove the sessions that were archived longer than ``seconds`` ago; returns how many."""
        return 0 if self._archive is None else await self._archive.expire(seconds)

    async def archive(self, key: str) -> bool:
        """Move a session that nobody uses to the archive; returns whether that was done."""
        assert self._archive is not None, "there is no archive"
        holder = f"{self._holder}{ARCHIVER}"
        lease = await self.hot.acquire(key, holder, LEASE_SECONDS, self._dead(), to_free=True)
        if lease is None:
            return False
        stop_renewing = self._renew(lease)
        try:
            if lease.head is None:
                return False
            record = self._open(key, lease.head)
            whole, names = await self._whole(record)
            if record.current is not None and record.version not in whole:
                raise StateRefused("parts of its state are gone or damaged")
            head = self._without(record, whole, key, lease.head)
            await self._archive.write(key, head, names, self.blobs)
            await self.hot.evict(lease, record.own(names))
        finally:
            stop_renewing()
            self._background.spawn(self._release(lease))
        return True

    def _without(self, record: Record, whole: Collection[int], key: str, head: bytes) -> bytes:
        """Return the sealed record without the versions that are not whole."""
        if len(whole) == len(record.versions):
            return head
        record.versions = {number: each for number, each in record.versions.items() if number in whole}
        return self._seal.close(key, record.to_bytes())

    async def _bring_back(self, key: str, lease: Lease, archive: Archive) -> Record | None:
        """Move a session from the archive to the hot tier, if it is there."""
        head = await archive.head(key)
        if head is None:
            return None
        record = self._open(key, head)
        manifests = {}
        async for blobs in archive.read(key, record.manifests):
            manifests.update(blobs)
        check(manifests)
        names = {entry.blob for entry in record.entries} | record.manifests | names_in(manifests.values())
        there: set[str] = set()
        async for blobs in archive.read(key, names):
            whole = await _only_whole(blobs)  # nothing damaged in the place of what a fork has, too
            await self.hot.put(whole, self._life.state * BLOB_SLACK)
            there |= set(whole)
        record.used = now()  # its life at hand begins again
        await self._put_head(lease, record, Change(), there)
        await archive.remove(key)
        return record


def owner_name(owner: Owner) -> str:
    """Return the name of an owner in the stores."""
    return hashlib.sha256(f"{owner.key}\0{owner.user}".encode()).hexdigest()[:40]


def names_in(manifests: Iterable[bytes]) -> set[str]:
    """Return the names of the blobs that manifests refer to."""
    return {name for data in manifests for name in Manifest.from_bytes(data).names.values()}


def _all_names(record: Record, manifests: Iterable[Manifest]) -> set[str]:
    """Return the names of all blobs that a record with these manifests leads to."""
    names = {entry.blob for entry in record.entries} | record.manifests
    return names.union(*(manifest.names.values() for manifest in manifests))


async def _only_whole(blobs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return those of the blobs that are what their names say."""
    return await _off_the_loop(only_whole, blobs)


async def _off_the_loop(look: Callable[[Mapping[str, bytes]], T], blobs: Mapping[str, bytes]) -> T:
    """Look at blobs: at many bytes on a thread."""
    if sum(map(len, blobs.values())) <= INLINE_BYTES:
        return look(blobs)
    return await asyncio.get_running_loop().run_in_executor(None, look, blobs)


def _without_new(record: Record, change: Change) -> Record:
    """Return the record without the blobs that are not stored yet."""
    old = copy(record)
    old.entries = [entry for entry in record.entries if entry.blob not in change.blobs]
    old.versions = {n: each for n, each in record.versions.items() if each.manifest not in change.blobs}
    return old
