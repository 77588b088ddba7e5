"""The only door to SQLite: one thread writes, one reads, and writes that wait together share a transaction."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from kernelgate.errors import GateError, StoreError, StoreFull

T = TypeVar("T")
Connection = sqlite3.Connection
Work = Callable[[Connection], T]

CHECKED_BYTES = 64 << 20
"""A database of up to this size is read through when it is opened; of a larger one only the beginning is."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


@dataclass
class Job(Generic[T]):
    """Work that waits for the writing thread, and what becomes of it."""

    work: Work[T]
    future: Future[T] = field(default_factory=Future)

    def run(self, connection: Connection) -> T | GateError:
        """Do the work; what it did is undone when it raises a `GateError`, which is returned then."""
        connection.execute("SAVEPOINT job")
        try:
            outcome: T | GateError = self.work(connection)
        except GateError as error:
            connection.execute("ROLLBACK TO job")
            outcome = error
        connection.execute("RELEASE job")
        return outcome

    def settle(self, outcome: T | GateError) -> None:
        if isinstance(outcome, GateError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Database:
    """A SQLite database in WAL mode. What is written is on the disk when the call returns.

    Work is a function of the connection. It may run twice, so it has no effects but on the database (or ones
    that do no harm twice). Its `GateError` undoes what it did, and nothing else.
    """

    def __init__(self, path: Path, schema: str, version: int) -> None:
        self.path = path
        self._schema = schema
        self._version = version
        self._lock = threading.Lock()
        self._waiting: list[Job[Any]] = []
        self._unfinished = 0
        self._writing: ThreadPoolExecutor | None = None
        self._reading: ThreadPoolExecutor | None = None
        self._writer: Connection | None = None
        self._reader: Connection | None = None

    def open(self) -> None:
        """Open the database, made if it is not there. Blocks. Raises `StoreError`, also when it is damaged."""
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._writer = self._connect()
            self._prepare(self._writer)
            self._reader = self._connect()
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            raise self.translated(error) from error
        except StoreError:
            self._disconnect()
            raise
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="store-read")

    def close(self) -> None:
        """Do what waits, then close. Blocks."""
        executors = self._writing, self._reading
        self._writing = self._reading = None
        for executor in executors:
            if executor is not None:
                executor.shutdown(wait=True)
        self._disconnect()

    @property
    def is_idle(self) -> bool:
        """Whether all that was to be written is written, and whoever waited for it is told."""
        return self._writing is not None and not self._unfinished

    def submit(self, work: Work[T]) -> Future[T]:
        """Have ``work`` done by the writing thread, in the order of the calls.

        The future is done when the work is on the disk; cancelled before it began, it leaves no trace.
        """
        if self._writing is None:
            raise StoreError(f"the store {self.path} is not open")
        job = Job(work)
        with self._lock:
            self._waiting.append(job)
            self._unfinished += 1
            first = len(self._waiting) == 1
        if first:
            self._writing.submit(self._write_all)
        return job.future

    async def write(self, work: Work[T]) -> T:
        return await asyncio.wrap_future(self.submit(work))

    async def read(self, work: Work[T]) -> T:
        """Do ``work``, which changes nothing, on the reading thread: it sees all that was written before."""

        def guarded() -> T:
            assert self._reader is not None
            try:
                return work(self._reader)
            except sqlite3.Error as error:
                raise self.translated(error) from error

        if self._reading is None:
            raise StoreError(f"the store {self.path} is not open")
        return await asyncio.get_running_loop().run_in_executor(self._reading, guarded)

    # ---- on the writing thread

    def _write_all(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        jobs = [job for job in waiting if job.future.set_running_or_notify_cancel()]
        try:
            for job, outcome in zip(jobs, self._outcomes(jobs), strict=True):
                job.settle(outcome)
        except BaseException as error:
            for job in jobs:
                job.fail(error)
            raise
        finally:
            with self._lock:
                self._unfinished -= len(waiting)

    def _outcomes(self, jobs: Sequence[Job[Any]]) -> list[Any]:
        """All in one transaction; when that fails each in its own, so that each fails alone."""
        try:
            return self._transaction(jobs)
        except sqlite3.Error as error:
            if len(jobs) == 1:
                return [self.translated(error)]
            return [self._outcomes([job])[0] for job in jobs]

    def _transaction(self, jobs: Sequence[Job[Any]]) -> list[Any]:
        connection = self._writer
        assert connection is not None
        try:
            connection.execute("BEGIN")
            outcomes = [job.run(connection) for job in jobs]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return outcomes

    # ---- opening

    def _connect(self) -> Connection:
        connection = sqlite3.connect(self.path, timeout=5, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def _prepare(self, connection: Connection) -> None:
        if self.path.stat().st_size <= CHECKED_BYTES:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise self._damaged(verdict)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > self._version:
            raise StoreError(
                f"{self.path} was written by a later version of kernelgate: use that, or another folder"
            )
        connection.executescript(f"BEGIN; {self._schema} PRAGMA user_version={self._version}; COMMIT;")

    def _disconnect(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None

    def translated(self, error: sqlite3.Error | OSError) -> StoreError:
        """Return what is to be told of a failure."""
        if isinstance(error, OSError):
            return disk_error(error, self.path)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StoreFull(f"the disk of {self.path} is full: make room, or set STATE_DIR to a folder with more")
        if code in DAMAGED:
            return self._damaged(str(error))
        return StoreError(f"{self.path} cannot be used: {error}")

    def _damaged(self, verdict: str) -> StoreError:
        return StoreError(
            f"{self.path} is damaged ({verdict.strip()}): put a copy in its place, or move it away, together with "
            "its -wal and -shm, to begin with an empty store"
        )


def disk_error(error: OSError, path: Path) -> StoreError:
    """Return what is to be told of a failure of the file system."""
    if error.errno in NO_ROOM:
        return StoreFull(f"the disk of {path} is full: make room, or set STATE_DIR to a folder with more")
    return StoreError(f"{path} cannot be used: {error.strerror or error}")
