"""What a store is: named blobs, and sessions whose heads point to them.

A *head* is the record of a session: which blobs make up its state. A head is replaced in one step, after the
blobs that it points to are there; so whoever reads a head finds what it points to, whatever was killed when.
One *holder* (a server) at a time has the *lease* of a session. Each lease has a greater token than those before
it, and a commit with an older one is refused, however late it comes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from traitlets.config import LoggingConfigurable

LEASE_MEMORY = 24 * 3600.0
"""Seconds for which the token of a lease is remembered at least, so that writers that come late are refused."""

_NAME = re.compile(r"(?!.{201})[!-.0-~][!-~]*")
_PARTS_WITH_MEANING = frozenset({"", ".", ".."})


@dataclass(frozen=True)
class Item:
    """A blob as `BlobStore.list` tells of it. ``stored_at`` is in unix seconds."""

    name: str
    size: int
    stored_at: float


@dataclass(frozen=True)
class Lease:
    """The right to change a session. ``head`` is its record at the time of the lease, None if it has none."""

    key: str
    holder: str
    token: int
    head: bytes | None


@dataclass(frozen=True)
class Commit:
    """A new state of a session: all of it is stored, or nothing.

    ``blobs`` are new, ``keep`` names those whose life is prolonged, ``drop`` those that end (names that are in
    one of the others too do not). Lives are in seconds from now: ``ttl`` of the head, ``blob_ttl`` of the new and
    kept blobs (None: the same as the head's), ``index_ttl`` of ``info``, which is what the owner's index says of
    the session. ``used_at`` is in unix seconds.
    """

    key: str
    owner: str
    head: bytes
    info: bytes
    blobs: Mapping[str, bytes]
    keep: Collection[str]
    drop: Collection[str]
    ttl: float
    index_ttl: float
    used_at: float
    blob_ttl: float | None = None

    @property
    def blob_life(self) -> float:
        """Seconds that the blobs live."""
        return self.ttl if self.blob_ttl is None else self.blob_ttl

    @property
    def dropped(self) -> list[str]:
        """The names that really end."""
        return [name for name in self.drop if name not in self.blobs and name not in self.keep]


Items = list[Item]
Keys = list[str]


class BlobStore(LoggingConfigurable):
    """Keeps blobs of up to a few MiB by name: 1 to 200 visible ASCII characters, a path like ``b/space/digest``.

    Every method raises `StoreError` within a bounded time when the store does not work, and works again as
    soon as the store does.
    """

    async def open(self) -> None:
        """Make the store ready. A service that is down is no error here: `check` tells it.

        Raises `StoreError` for what does not pass by itself.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of everything. The store may be opened again."""
        raise NotImplementedError

    async def check(self) -> None:
        """Raise `StoreError` unless the store works, within its configured timeout."""
        raise NotImplementedError

    async def put(self, blobs: Mapping[str, bytes]) -> None:
        """Store blobs that do not expire, in place of those of the same names."""
        raise NotImplementedError

    async def get(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the blobs that are there."""
        raise NotImplementedError

    async def delete(self, names: Iterable[str]) -> None:
        """Delete the blobs that are there."""
        raise NotImplementedError

    async def list(self, prefix: str) -> Items:
        """Return what is there of the blobs whose names begin with ``prefix``, in no order."""
        raise NotImplementedError


class SessionStore(BlobStore):
    """Keeps the live sessions: their heads, blobs and leases, and an index of each owner's sessions."""

    async def put(self, blobs: Mapping[str, bytes], ttl: float | None = None) -> None:
        """Store blobs that live for ``ttl`` seconds, or do not expire, in place of those of the same names."""
        raise NotImplementedError

    async def missing(self, names: Iterable[str]) -> set[str]:
        """Return those of the names of which there is no blob."""
        raise NotImplementedError

    async def acquire(
        self, key: str, holder: str, ttl: float, dead: Collection[str] = (), to_free: bool = False
    ) -> Lease | None:
        """Take the lease of a session for ``ttl`` seconds; None when somebody else holds it.

        A lease that ``holder`` itself or one of ``dead`` holds does not count. ``to_free`` takes it to free room:
        a full store gives it, too, where it would raise `StoreFull` otherwise.
        """
        raise NotImplementedError

    async def renew(self, lease: Lease, ttl: float) -> bool:
        """Hold the lease for ``ttl`` seconds from now; False when another has acquired it since."""
        raise NotImplementedError

    async def release(self, lease: Lease) -> None:
        """Give the lease back. It is no error when another has acquired it since."""
        raise NotImplementedError

    async def commit(self, lease: Lease, commit: Commit) -> None:
        """Store a new state of the session: blobs first, then head and index entry in one step.

        A lease that has run out and that nobody else took is still good. Raises `LeaseLost`, `BlobsMissing`
        (a blob of ``keep`` is gone), `StoreFull`, `StoreError`; the state before is untouched then.
        """
        raise NotImplementedError

    async def head(self, key: str) -> bytes | None:
        """Return the session's record, None when it has none."""
        raise NotImplementedError

    async def remove(self, lease: Lease, owner: str, drop: Collection[str]) -> None:
        """Delete the session: head, index entry, and the blobs named. Raises `LeaseLost`."""
        raise NotImplementedError

    async def evict(self, lease: Lease, drop: Collection[str]) -> None:
        """Delete the session's head and the blobs named; the index keeps it. Raises `LeaseLost`."""
        raise NotImplementedError

    async def sessions(self, owner: str) -> dict[str, bytes]:
        """Return the owner's index: ``info`` by key of the sessions that have not expired."""
        raise NotImplementedError

    async def idle(self, before: float, limit: int) -> Keys:
        """Return at most ``limit`` keys of sessions with a head that were last used before, oldest first."""
        raise NotImplementedError

    async def lock(self, name: str, holder: str, ttl: float) -> bool:
        """Take, or hold on to, the lock ``name`` for ``ttl`` seconds; False when somebody else has it."""
        raise NotImplementedError

    async def unlock(self, name: str, holder: str) -> None:
        """Give a lock back, if ``holder`` has it."""
        raise NotImplementedError

    async def sweep(self) -> int:
        """Remove what has expired and does not go by itself; returns how much that was."""
        raise NotImplementedError


def check_names(names: Iterable[str]) -> None:
    """Raise `ValueError` when a name is none that every store takes."""
    for name in names:
        if not _NAME.fullmatch(name) or not _PARTS_WITH_MEANING.isdisjoint(name.split("/")):
            raise ValueError(f"a blob's name must be a path of 1 to 200 visible ASCII characters, not {name!r}")
