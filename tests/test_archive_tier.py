"""The cold tier over a real store: a session is there completely or not at all, and packs are whole."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from kernelgate.sessions.archive import PACK_BYTES, SMALL_BYTES, Archive, _pack, _unpacked
from kernelgate.stores.embedded import EmbeddedStore

BLOBS = {
    **{f"b/space/{number}": os.urandom(1 + number * 37) for number in range(300)},
    "b/space/large": os.urandom(SMALL_BYTES),
    "b/space/larger": os.urandom(PACK_BYTES),
    "b/space/empty": b"",
}


async def read(names: Collection[str]) -> Mapping[str, bytes]:
    return {name: BLOBS[name] for name in names}


async def collected(archive: Archive, key: str, names: Collection[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    async for blobs in archive.read(key, names):
        found.update(blobs)
    return found


def test_a_session_comes_back_whole_and_takes_few_objects(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = EmbeddedStore(state_dir=str(tmp_path))
        await store.open()
        archive = Archive(store)
        await archive.write("key", b"head", BLOBS, read)
        assert await archive.head("key") == b"head"
        assert await collected(archive, "key", BLOBS) == BLOBS
        assert await collected(archive, "key", ["b/space/7", "gone"]) == {"b/space/7": BLOBS["b/space/7"]}
        assert len(await store.list("archive/")) < 6
        await archive.remove("key")
        assert await store.list("") == []
        await store.close()

    asyncio.run(scenario())


def test_a_pack_that_is_cut_or_is_none_has_nothing_whole_in_it() -> None:
    blobs = {"b/s/a": b"first", "b/s/b": b"second"}
    pack = _pack(blobs)
    assert _unpacked(pack) == blobs
    assert _unpacked(pack[:-1]) == {"b/s/a": b"first", "b/s/b": b"secon"}
    for damaged in (b"", b"x", pack[:12], b"\xff" * 40, pack[:8] + b"[1]" + pack[11:]):
        assert set(_unpacked(damaged).values()) <= {b""}
