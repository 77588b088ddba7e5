"""The store on the local disk: rows in SQLite, larger blobs as files. For one server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from traitlets import Bool, Unicode

from kernelgate.stores import tables
from kernelgate.stores.blobfiles import BlobFiles
from kernelgate.stores.database import Connection, Database
from kernelgate.stores.folder import StateFolder, default_state_dir
from kernelgate.stores.heads import Heads
from kernelgate.stores.leases import Leases, Locks
from kernelgate.stores.store import Commit, Items, Keys, Lease, SessionStore, check_names

T = TypeVar("T")

FILE_BYTES = 64 << 10
"""Blobs from this size are files: SQLite reads and writes smaller ones faster than a file system does."""

FILE_THREADS = 2
CHECK_SECONDS = 10.0


class EmbeddedStore(SessionStore):
    """Sessions and blobs in a folder. Heads and rows are on the disk when a call returns.

    ``<folder>/lock``, ``state.db`` (with its ``-wal`` and ``-shm``) and ``blobs/``; ``subfolder`` takes another
    folder below that of the setting. Whoever reads gets the files of a moment: a file is written before its row,
    and removed after it.
    """

    state_dir = Unicode(
        "",
        help="Folder of the embedded stores, which keep sessions on this machine. One server at a time uses it. "
        "Empty: /var/lib/kernelgate for root, else kernelgate in the user's data folder.",
    ).tag(config=True, env="STATE_DIR", group="State persistence")
    fsync = Bool(
        False,
        help="With the embedded store, wait until large parts of a state, too, are on the disk: they then survive "
        "the loss of power. Off: they get there soon after, and survive the end of any process.",
    ).tag(config=True, env="STATE_FSYNC", group="State persistence")

    def __init__(self, subfolder: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = Path(self.state_dir or default_state_dir()).absolute() / subfolder
        self._claim = StateFolder(self.folder)
        self._database = Database(self.folder / "state.db", tables.SCHEMA, tables.VERSION)
        self._files = BlobFiles(self.folder / "blobs", FILE_THREADS, self.fsync)
        self._leases = Leases(time.time())  # changed in the order of what is written, see `_in_order`
        self._heads = Heads()
        self._locks = Locks()

    # ---- its life

    async def open(self) -> None:
        await asyncio.to_thread(self._open)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _open(self) -> None:
        self._claim.open()
        try:
            self._database.open()
            self._files.open()
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        self._database.close()
        self._files.close()
        self._claim.close()

    async def check(self) -> None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._database.write(lambda db: db.execute("PRAGMA user_version").fetchone())
        except TimeoutError as error:
            raise self._database.translated(OSError(f"no answer in {CHECK_SECONDS:.0f} s")) from error

    # ---- blobs

    async def put(self, blobs: Mapping[str, bytes], ttl: float | None = None) -> None:
        now = time.time()
        end = None if ttl is None else now + ttl
        await self._write(blobs, lambda db, files: tables.store_blobs(db, blobs, files, now, end))

    async def get(self, names: Iterable[str]) -> dict[str, bytes]:
        wanted, found = list(names), dict[str, bytes]()
        for _attempt in range(
            2
        ):  # a file may be replaced, with its row, between the look at the row and at the file
            rows = await self._rows(wanted)
            contents = await self._files.read(row.file for row in rows.values() if row.file is not None)
            wanted = []
            for name, row in rows.items():
                content = row.data if row.file is None else contents.get(row.file)
                if content is None or len(content) != row.size:
                    wanted.append(name)
                else:
                    found[name] = content
            if not wanted:
                break
        return found

    async def _rows(self, names: Iterable[str]) -> dict[str, tables.Row]:
        return await self._database.read(lambda db: tables.blob_rows(db, names, time.time()))

    async def missing(self, names: Iterable[str]) -> set[str]:
        wanted = set(names)
        there = await self._database.read(
            lambda db: tables.whole_blobs(db, wanted, self._files.exists, time.time())
        )
        return wanted - there

    async def delete(self, names: Iterable[str]) -> None:
        await self._write({}, lambda db, _files: tables.drop_blobs(db, list(names)))

    async def list(self, prefix: str) -> Items:
        return await self._database.read(lambda db: tables.list_blobs(db, prefix, time.time()))

    # ---- leases

    async def acquire(
        self, key: str, holder: str, ttl: float, dead: Collection[str] = (), to_free: bool = False
    ) -> Lease | None:
        def take(read: Callable[[float], bytes | None]) -> Lease | None:
            now = time.time()
            token = self._leases.acquire(key, holder, ttl, dead, now)
            return None if token is None else Lease(key, holder, token, read(now))

        if self._database.is_idle:  # and stays so while this runs: then what is known of a head is the last word
            known = self._heads.get(key, time.time())
            if known is not None:
                return take(lambda _now: known)
        return await self._database.write(lambda db: take(lambda now: tables.head(db, key, now)))

    async def renew(self, lease: Lease, ttl: float) -> bool:
        return await self._in_order(lambda: self._leases.renew(lease, ttl, time.time()))

    async def release(self, lease: Lease) -> None:
        await self._in_order(lambda: self._leases.release(lease))

    async def _in_order(self, change: Callable[[], T]) -> T:
        """Change leases when all that was to be written before is written: at once, where that is so."""
        if self._database.is_idle:
            return change()
        return await self._database.write(lambda _db: change())

    async def lock(self, name: str, holder: str, ttl: float) -> bool:
        return self._locks.lock(name, holder, ttl, time.time())

    async def unlock(self, name: str, holder: str) -> None:
        self._locks.unlock(name, holder)

    # ---- sessions

    async def commit(self, lease: Lease, commit: Commit) -> None:
        def write(db: Connection, files: Mapping[str, str]) -> Keys:
            self._leases.check(lease)
            return tables.write_commit(db, commit, files, self._files.exists, time.time())

        end = commit.used_at + commit.ttl
        await self._write(commit.blobs, write, lambda: self._heads.remember(commit.key, commit.head, end))

    async def head(self, key: str) -> bytes | None:
        return await self._database.read(lambda db: tables.head(db, key, time.time()))

    async def remove(self, lease: Lease, owner: str, drop: Collection[str]) -> None:
        await self._drop(lease, owner, drop)

    async def evict(self, lease: Lease, drop: Collection[str]) -> None:
        await self._drop(lease, None, drop)

    async def _drop(self, lease: Lease, owner: str | None, drop: Collection[str]) -> None:
        def write(db: Connection, _files: Mapping[str, str]) -> Keys:
            self._leases.check(lease)
            return tables.drop_session(db, lease.key, owner, drop)

        await self._write({}, write, lambda: self._heads.forget(lease.key))

    async def sessions(self, owner: str) -> dict[str, bytes]:
        return await self._database.read(lambda db: tables.infos(db, owner, time.time()))

    async def idle(self, before: float, limit: int) -> Keys:
        return await self._database.read(lambda db: tables.idle(db, before, limit))

    async def sweep(self) -> int:
        total, count = 0, 1
        while count:
            count, unused = await self._database.write(self._sweep_some)
            self._files.remove(unused)
            total += count
        now = time.time()  # a file of a later time may get its row after the look at the rows
        used = await self._database.read(tables.used_files)
        return total + await self._files.remove_strays(used, now)

    def _sweep_some(self, db: Connection) -> tuple[int, Keys]:
        now = time.time()
        self._leases.forget(now)
        return tables.sweep(db, now)

    # ---- the order of things

    async def _write(
        self,
        blobs: Mapping[str, bytes],
        write: Callable[[Connection, Mapping[str, str]], Keys],
        on_written: Callable[[], None] = lambda: None,
    ) -> None:
        """Write the files of ``blobs``, then rows; in the end the files that no row needs are removed.

        ``on_written`` is called for each write in the order in which they were done, before the database is idle.
        Cancelled, it has written all or nothing.
        """
        check_names(blobs)
        files = await self._files.write({name: blob for name, blob in blobs.items() if len(blob) >= FILE_BYTES})
        try:
            writing = self._database.submit(lambda db: write(db, files))
        except BaseException:
            self._files.remove(files.values())
            raise

        def tidy(done: Future[Keys]) -> None:
            failed = done.cancelled() or done.exception() is not None
            if not failed:
                on_written()
            self._files.remove(list(files.values()) if failed else done.result())

        writing.add_done_callback(tidy)
        await asyncio.wrap_future(writing)
