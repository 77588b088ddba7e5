"""The cold tier: sessions that nobody has used for a while, each complete under its own key."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from itertools import islice

from kernelgate.stores.store import BlobStore

HEADS = "heads/"
BATCH = 16
"""Blobs that are moved at once, of at most 2 MB each."""


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
        """Store a session. Its record comes last, so what is there is complete."""
        for batch in batches(names):
            blobs = await read(batch)
            await self.store.put({_place(key, name): data for name, data in blobs.items()})
        await self.store.put({HEADS + key: head})

    async def read(self, key: str, names: Collection[str]) -> AsyncIterator[dict[str, bytes]]:
        """Give a session's blobs, some at a time; missing ones are left out."""
        for batch in batches(names):
            found = await self.store.get([_place(key, name) for name in batch])
            yield {name: found[_place(key, name)] for name in batch if _place(key, name) in found}

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


def _place(key: str, name: str) -> str:
    return f"archive/{key}/{name}"
