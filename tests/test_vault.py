"""What is stored of a session when parts of it are gone or damaged: the rest stays, and nobody else is harmed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from kernelgate.auth import Owner
from kernelgate.errors import BlobsMissing, GateError, StoreError
from kernelgate.kernel import client
from kernelgate.kernel.client import Result, Status
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.outputs import Folded
from kernelgate.kernel.snapshot import Snapshot, digest
from kernelgate.sessions import state as state_module
from kernelgate.sessions.archive import Archive
from kernelgate.sessions.files import WorkFolder
from kernelgate.sessions.record import Entry, Manifest, Record, Version, blob_name, now
from kernelgate.sessions.seal import Seal
from kernelgate.sessions.state import EMPTY, Run, State, StateSettings
from kernelgate.sessions.vault import Change, Lifetimes, Vault
from kernelgate.stores.embedded import EmbeddedStore

ANN = Owner("ann")
LIFE = Lifetimes(record=86_400, state=7_200, archive=7 * 86_400)
LONG_AGO = 1000.0
"""Seconds after which the life of all that a session has is prolonged."""


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario

    asyncio.run(bounded())


class Site:
    """A vault over embedded stores, and what is done to them."""

    def __init__(self, folder: Path) -> None:
        self.hot = EmbeddedStore(state_dir=str(folder))
        self.cold = EmbeddedStore(state_dir=str(folder), subfolder="archive")
        self.vault = Vault(self.hot, Archive(self.cold), Seal("secret"), "server", LIFE, logging.getLogger())

    async def run_cell(self, session_id: str, data: bytes) -> Record:
        """Store an execution that led to a version with ``data`` as its variables."""
        async with self.vault.hold(Vault.key(ANN, session_id), wait=5) as held:
            before = held.record or Record.new(ANN, session_id, "py")
            after, change = executed(before, data)
            await self.vault.commit(held.lease, after, change)
        return after

    async def part(self, version: Version, data: bytes) -> str:
        """Return the name of the blob with ``data`` of a version."""
        return (await self.vault.manifest(version)).names[digest(data)]


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Site]:
    site = Site(folder)
    await site.hot.open()
    await site.cold.open()
    try:
        yield site
    finally:
        await site.vault.close()
        await site.cold.close()
        await site.hot.close()


def executed(record: Record, data: bytes) -> tuple[Record, Change]:
    """Return the record after an execution, and what is stored with it."""
    names = {digest(data): blob_name(record.space, digest(data))}
    manifest = Manifest({"size": len(data)}, names)
    entry = b'{"code": "%d"}' % record.executions
    parts = {digest(each): each for each in (data, manifest.to_bytes(), entry)}
    blobs = {blob_name(record.space, name): each for name, each in parts.items()}
    after = record.copy()
    after.executions += 1
    version = Version(blob_name(record.space, digest(manifest.to_bytes())), f"tag{after.executions}", len(data))
    place = blob_name(record.space, digest(entry))
    after.add(Entry(after.executions, record.version, record.last_version + 1, now(), "ok", place), version)
    return after, Change(blobs, manifest)


def long_ago(record: Record) -> Record:
    copy = record.copy()
    copy.touched -= LONG_AGO
    return copy


VALUES = [b"1" * 100_000, b"2" * 100_000, b"3" * 100_000]


@pytest.mark.parametrize("what", ["a chunk", "a manifest"])
def test_an_old_version_that_is_broken_costs_nothing_else(tmp_path: Path, what: str) -> None:
    """A part of version 2 of 3 is gone: cells, undo and the archive go on with the others."""

    async def scenario() -> None:
        async with opened(tmp_path) as site:
            for data in VALUES:
                record = await site.run_cell("a", data)
            lost = (
                record.versions[2].manifest
                if what == "a manifest"
                else await site.part(record.versions[2], VALUES[1])
            )
            await site.hot.delete([lost])
            async with site.vault.hold(Vault.key(ANN, "a"), wait=5) as held:
                assert held.record is not None
                after, change = executed(long_ago(held.record), b"4" * 100_000)
                await site.vault.commit(held.lease, after, change)
                assert 2 not in after.versions or what == "a manifest"
                undone = long_ago(after)
                undone.undo(1)
                await site.vault.commit(held.lease, undone, Change())
                assert (undone.version, undone.current is not None) == (3, True)
            await asyncio.sleep(0.1)
            assert await site.vault.archive(Vault.key(ANN, "a"))
            assert await site.hot.head(Vault.key(ANN, "a")) is None
            async with site.vault.hold(Vault.key(ANN, "a"), wait=5) as held:
                assert held.record is not None, held.problem
                assert sorted(held.record.versions) == [1, 3, 4]
                assert held.record.current is not None
                assert await site.vault.is_whole(held.record.current)
                assert len(held.record.entries) == 4

    run(scenario())


def test_a_version_that_is_gone_is_known_to_be(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as site:
            for data in VALUES:
                record = await site.run_cell("a", data)
            await site.hot.delete([await site.part(record.versions[1], VALUES[0]), record.versions[2].manifest])
            assert [await site.vault.is_whole(record.versions[number]) for number in (1, 2, 3)] == [
                False,
                False,
                True,
            ]

    run(scenario())


def test_what_the_new_version_needs_must_be_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as site:
            record = await site.run_cell("a", VALUES[0])
            shared = await site.part(record.versions[1], VALUES[0])
            await site.hot.delete([shared])
            async with site.vault.hold(Vault.key(ANN, "a"), wait=5) as held:
                after, change = executed(record, VALUES[0])
                del cast(dict[str, bytes], change.blobs)[shared]
                with pytest.raises(BlobsMissing):
                    await site.vault.commit(held.lease, after, change)

    run(scenario())


def test_a_session_whose_state_is_gone_is_not_archived(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as site:
            record = await site.run_cell("a", VALUES[0])
            await site.hot.delete([await site.part(record.versions[1], VALUES[0])])
            await asyncio.sleep(0.1)
            with pytest.raises(GateError, match="gone"):
                await site.vault.archive(Vault.key(ANN, "a"))
            assert await site.hot.head(Vault.key(ANN, "a")) is not None

    run(scenario())


def test_what_is_damaged_in_the_archive_harms_no_fork(tmp_path: Path) -> None:
    """A flipped byte in the archived parent; its fork has the same blob, and it is whole."""

    async def scenario() -> None:
        async with opened(tmp_path) as site:
            parent = await site.run_cell("parent", VALUES[0])
            source = parent.copy()
            source.leave_space()
            async with site.vault.hold(Vault.key(ANN, "parent"), wait=5) as held:
                await site.vault.commit(held.lease, source, Change())
            async with site.vault.hold(Vault.key(ANN, "fork")) as held:
                await site.vault.commit(held.lease, source.fork("fork", 1), Change())
            await asyncio.sleep(0.1)
            assert await site.vault.archive(Vault.key(ANN, "parent"))
            shared = await site.part(parent.versions[1], VALUES[0])
            await site.cold.put({f"archive/{Vault.key(ANN, 'parent')}/{shared}": b"x" + VALUES[0][1:]})
            async with site.vault.hold(Vault.key(ANN, "parent"), wait=5) as held:
                assert held.record is not None
            assert (await site.vault.blobs([shared]))[shared] == VALUES[0]

    run(scenario())


# ---- what is stored with an execution


def result(saved: Mapping[str, bytes] | None) -> Result:
    """How an execution ended whose kernel saved these chunks, or nothing."""
    if saved is None:
        return Result(Status.KILLED, 137, Folded(), 0.0, kernel_lost=True, save_error="the kernel ended")
    names = list(saved)
    layout = {"streams": [names], "files": [], "sizes": [sum(map(len, saved.values()))]}
    return Result(Status.OK, 0, Folded(), 0.0, snapshot=Snapshot("tag", layout, saved, names))


REPLY = {
    "stdout": "",
    "stderr": "",
    "outputs": [],
    "execution_count": 1,
    "exit_code": 0,
    "duration_ms": 1.0,
    "truncated": [],
}


@pytest.mark.parametrize("works", [True, False])
def test_what_cannot_be_saved_again_is_not_taken_for_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    """The kernel refers to a chunk that has gone from the store; asked for all of it, it may have died."""
    chunk = b"all of it"
    all_of_it = {digest(chunk): chunk}

    async def execute(_kernel: Kernel, _execution: client.Execution) -> Result:
        return result(all_of_it if works else None)

    async def scenario() -> None:
        monkeypatch.setattr(state_module, "execute", execute)
        async with opened(tmp_path) as site:
            state = State(site.vault, StateSettings(), WorkFolder().limits)
            refers = result({})
            assert refers.snapshot is not None
            refers.snapshot.layout["streams"] = [[digest(chunk)]]
            run = Run("x = 1", now(), refers, REPLY)
            async with site.vault.hold(Vault.key(ANN, "a")) as held:
                record = Record.new(ANN, "a", "py")
                kernel = cast(Kernel, None)
                if works:
                    stored = await state.commit(held, record, kernel, EMPTY, run)
                    assert stored.record.current is not None
                    assert await site.vault.is_whole(stored.record.current)
                else:
                    with pytest.raises(StoreError, match="the kernel ended"):
                        await state.commit(held, record, kernel, EMPTY, run)
                    assert await site.hot.head(Vault.key(ANN, "a")) is None

    run(scenario())


def test_what_is_stored_does_not_expire_while_code_runs(tmp_path: Path) -> None:
    """The code runs for longer than a state is kept (a second here)."""

    async def scenario() -> None:
        async with opened(tmp_path) as site:
            short = Lifetimes(record=2.0, state=1.0, archive=0.0)
            site.vault = Vault(site.hot, None, Seal("secret"), "server", short, logging.getLogger())
            record = await site.run_cell("a", VALUES[0])
            state = State(site.vault, StateSettings(ttl_seconds=1), WorkFolder().limits)
            async with site.vault.hold(Vault.key(ANN, "a"), wait=5) as held:
                async with state.kept(held, record):
                    await asyncio.sleep(2.5)
                assert await site.vault.is_whole(record.versions[1])
                kept = await site.vault.load(Vault.key(ANN, "a"))
                assert kept is not None
                assert kept.used > record.used

    run(scenario())
