"""The cold tier: sessions that nobody has used for a while, each complete under its own key."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from itertools import islice
from struct import Struct, error

from kernelgate.stores.store import BlobStore

HEADS = "heads/"
PACKS = "packs/"
BATCH = 16
"""Blobs that are moved at once, of at most 2 MB each."""

SMALL_BYTES = 64 << 10
PACK_BYTES = 2 << 20
LENGTH = Struct(">Q")
"""Begins a pack: how long its table is, which says in JSON the name and the size of each blob that follows."""


class Archive:
    """Sealed records and their blobs in a store for things that are seldom read."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store

    async def head(self, key: str) -> bytes | None:
        """Return a session's sealed record, None when it is not archived."""
        return (await self.store.get([HEADS + key])).get(HEADS + key)

    async def write(
        self,
        key: str,
        head: bytes,
        names: Collection[str],
        read: Callable[[Collection[str]], Awaitable[Mapping[str, bytes]]],
    ) -> None:
        """Store a session. Its record comes last, so what is there is complete.

        Small blobs, of which there are several for each execution, are stored together.
        """
        small: dict[str, bytes] = {}
        for batch in batches(names):
            blobs = await read(batch)
            small.update((name, data) for name, data in blobs.items() if len(data) < SMALL_BYTES)
            await self.store.put({_place(key, name): data for name, data in blobs.items() if name not in small})
        await self.store.put({_place(key, f"{PACKS}{n}"): data for n, data in enumerate(_packed(small))})
        await self.store.put({HEADS + key: head})

    async def read(self, key: str, names: Collection[str]) -> AsyncIterator[dict[str, bytes]]:
        """Give a session's blobs, some at a time; missing ones are left out."""
        wanted = set(names)
        packs = [item.name for item in await self.store.list(_place(key, PACKS))]
        for data in (await self.store.get(packs)).values():
            found = {name: blob for name, blob in _unpacked(data).items() if name in wanted}
            wanted -= set(found)
            yield found
        for batch in batches(wanted):
            stored = await self.store.get([_place(key, name) for name in batch])
            yield {name: stored[_place(key, name)] for name in batch if _place(key, name) in stored}

    async def remove(self, key: str) -> None:
        """Remove a session, its record first."""
        await self.store.delete([HEADS + key])
        await self.store.delete([item.name for item in await self.store.list(_place(key, ""))])

    async def expire(self, seconds: float) -> int:
        """Remove the sessions that were archived longer than ``seconds`` ago; returns how many."""
        before = time.time() - seconds
        old = [item.name.removeprefix(HEADS) for item in await self.store.list(HEADS) if item.stored_at < before]
        for key in old:
            await self.remove(key)
        return len(old)


def batches(names: Collection[str]) -> Iterator[list[str]]:
    """Cut ``names`` into lists of at most `BATCH`."""
    rest = iter(sorted(names))
    while batch := list(islice(rest, BATCH)):
        yield batch


def _packed(blobs: Mapping[str, bytes]) -> Iterator[bytes]:
    """Put small blobs together in packs of about `PACK_BYTES`."""
    group: dict[str, bytes] = {}
    size = 0
    for name, data in blobs.items():
        group[name] = data
        size += len(data)
        if size >= PACK_BYTES:
            yield _pack(group)
            group, size = {}, 0
    if group:
        yield _pack(group)


def _pack(blobs: Mapping[str, bytes]) -> bytes:
    table = json.dumps([(name, len(data)) for name, data in blobs.items()]).encode()
    return b"".join((LENGTH.pack(len(table)), table, *blobs.values()))


def _unpacked(pack: bytes) -> dict[str, bytes]:
    """Return the blobs in a pack; none of one that is damaged, and their names say whether they are whole."""
    try:
        end = LENGTH.size + LENGTH.unpack_from(pack)[0]
        table = [(str(name), int(size)) for name, size in json.loads(pack[LENGTH.size : end])]
    except (error, ValueError, TypeError):
        return {}
    blobs = {}
    for name, size in table:
        blobs[name], end = pack[end : end + size], end + size
    return blobs


def _place(key: str, name: str) -> str:
    return f"archive/{key}/{name}"
