"""The blobs that are files: each write makes a file of its own name, which nobody knows until its row is there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from kernelgate.errors import StoreError
from kernelgate.stores.database import disk_error

T = TypeVar("T")

FLUSH_SECONDS = 0.5
STRAY_SECONDS = 3600.0
"""Age from which a file that no row names is a leftover, not one whose row is about to be written."""


class BlobFiles:
    """Files below a folder, spread over 256 folders, read and written on a few threads.

    Files are called by their path below the folder. ``flush``: they are on the disk before `write` returns;
    else they are sent there soon after, and what is lost is at most what the machine's end takes.
    """

    def __init__(self, folder: Path, threads: int, flush: bool) -> None:
        self._folder = folder
        self._threads = threads
        self._flush = flush
        self._executor: ThreadPoolExecutor | None = None
        self._flusher: ThreadPoolExecutor | None = None
        self._unflushed: deque[str] = deque()
        self._flush_waits = False

    def open(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self._folder) from error
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="store-files")
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="store-flush")

    def close(self) -> None:
        """Do what waits, then end the threads. Blocks."""
        executors = self._executor, self._flusher
        self._executor = self._flusher = None
        for executor in executors:
            if executor is not None:
                executor.shutdown(wait=True)

    async def write(self, blobs: Mapping[str, bytes]) -> dict[str, str]:
        """Write blobs to new files; returns the file of each. When it fails or is cancelled, none is left."""
        items = list(blobs.items())
        parts = [dict(items[start :: self._threads]) for start in range(min(self._threads, len(items)))]
        futures = [self._submit(partial(self._write, part)) for part in parts]
        files: dict[str, str] = {}
        try:
            for written in await asyncio.gather(*map(asyncio.wrap_future, futures)):
                files.update(written)
        except BaseException:
            for future in futures:
                future.cancel()
                future.add_done_callback(self._take_back)
            raise
        if not self._flush and self._flusher is not None and files:
            self._unflushed.extend(files.values())
            if not self._flush_waits:
                self._flush_waits = True
                self._flusher.submit(self._flush_later)
        return files

    async def read(self, files: Iterable[str]) -> dict[str, bytes]:
        """Return the content of the files that are there."""
        futures = {file: asyncio.wrap_future(self._submit(partial(self._read, file))) for file in files}
        contents = dict(zip(futures, await asyncio.gather(*futures.values()), strict=True))
        return {file: content for file, content in contents.items() if content is not None}

    def exists(self, file: str) -> bool:
        return (self._folder / file).exists()

    def remove(self, files: Collection[str]) -> None:
        """Have files removed soon."""
        if files and self._executor is not None:
            self._executor.submit(self._remove, files)

    async def remove_strays(self, known: Collection[str], now: float) -> int:
        """Remove old files that are not ``known``; returns how many there were."""
        return await asyncio.wrap_future(self._submit(lambda: self._remove_strays(known, now)))

    # ---- on the threads

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        def guarded() -> T:
            try:
                return work()
            except OSError as error:
                raise disk_error(error, self._folder) from error

        if self._executor is None:
            raise StoreError(f"the store {self._folder} is not open")
        return self._executor.submit(guarded)

    def _write(self, blobs: Mapping[str, bytes]) -> dict[str, str]:
        files = {name: file_name(name) for name in blobs}
        try:
            for name, file in files.items():
                self._write_file(self._folder / file, blobs[name])
            if self._flush:
                for folder in {os.path.dirname(file) for file in files.values()}:
                    flush_folder(self._folder / folder)
        except BaseException:
            self._remove(files.values())
            raise
        return files

    def _write_file(self, path: Path, blob: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            target = os.open(path, flags, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            target = os.open(path, flags, 0o600)
        with open(target, "wb", buffering=0) as opened:
            left = memoryview(blob)
            while left:
                left = left[opened.write(left) :]
            if self._flush:
                os.fdatasync(target)

    def _read(self, file: str) -> bytes | None:
        try:
            return (self._folder / file).read_bytes()
        except FileNotFoundError:
            return None

    def _take_back(self, future: Future[dict[str, str]]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._remove(future.result().values())

    def _remove(self, files: Iterable[str]) -> None:
        for file in files:
            with contextlib.suppress(OSError):  # what stays is a stray, and removed as one
                os.unlink(self._folder / file)

    def _flush_later(self) -> None:
        """Send files to the disk after a while: many are gone by then, as a later version took their place."""
        time.sleep(FLUSH_SECONDS)
        self._flush_waits = False
        while self._unflushed:
            file = self._unflushed.popleft()
            with contextlib.suppress(OSError), open(self._folder / file, "rb") as opened:
                os.fdatasync(opened)

    def _remove_strays(self, known: Collection[str], now: float) -> int:
        strays = [
            f"{folder.name}/{entry.name}"
            for folder in self._folder.iterdir()
            for entry in os.scandir(folder)
            if now - entry.stat().st_mtime > STRAY_SECONDS and f"{folder.name}/{entry.name}" not in known
        ]
        self._remove(strays)
        return len(strays)


def file_name(name: str) -> str:
    """Return a file for the blob ``name`` that no other write uses."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{digest[:2]}/{digest[2:42]}-{secrets.token_hex(8)}"


def flush_folder(path: Path) -> None:
    """Send the entries of a folder to the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
