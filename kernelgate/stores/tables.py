"""The tables of the embedded store, and what is done to them. Blocking; called on the database's threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kernelgate.errors import BlobsMissing
from kernelgate.stores.database import Connection
from kernelgate.stores.store import Commit, Item

VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (
    name TEXT PRIMARY KEY, size INTEGER NOT NULL, stored_at REAL NOT NULL, expires_at REAL, file TEXT, data BLOB
);
CREATE INDEX IF NOT EXISTS blobs_by_end ON blobs (expires_at) WHERE expires_at IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS blobs_by_file ON blobs (file) WHERE file IS NOT NULL;
CREATE TABLE IF NOT EXISTS heads (
    key TEXT PRIMARY KEY, head BLOB NOT NULL, used_at REAL NOT NULL, expires_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS heads_by_use ON heads (used_at);
CREATE TABLE IF NOT EXISTS infos (
    key TEXT PRIMARY KEY, owner TEXT NOT NULL, info BLOB NOT NULL, expires_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS infos_by_owner ON infos (owner);
"""
"""A blob's bytes are in ``data``, or else in the file ``file``; one without ``expires_at`` does not expire."""

SWEPT_AT_ONCE = 500
LIVING = "(expires_at IS NULL OR expires_at > ?)"


@dataclass(frozen=True)
class Row:
    """Where a blob's bytes are."""

    size: int
    file: str | None
    data: bytes | None


def store_blobs(
    db: Connection,
    blobs: Mapping[str, bytes],
    files: Mapping[str, str],
    now: float,
    expires_at: float | None,
) -> list[str]:
    """Write the rows of blobs, those in ``files`` by their files; returns the files that are no longer used."""
    unused = drop_blobs(db, blobs)
    db.executemany(
        "INSERT INTO blobs VALUES (?, ?, ?, ?, ?, ?)",
        (
            (name, len(blob), now, expires_at, files.get(name), None if name in files else blob)
            for name, blob in blobs.items()
        ),
    )
    return unused


def drop_blobs(db: Connection, names: Iterable[str]) -> list[str]:
    """Delete the rows of blobs; returns the files that are no longer used."""
    unused = []
    for name in names:
        found = db.execute("SELECT file FROM blobs WHERE name = ?", (name,)).fetchone()
        if found is not None:
            db.execute("DELETE FROM blobs WHERE name = ?", (name,))
            unused += [found[0]] if found[0] is not None else []
    return unused


def blob_rows(db: Connection, names: Iterable[str], now: float) -> dict[str, Row]:
    """Return the rows of the blobs that live."""
    query = f"SELECT size, file, data FROM blobs WHERE name = ? AND {LIVING}"
    found = {name: db.execute(query, (name, now)).fetchone() for name in names}
    return {name: Row(*row) for name, row in found.items() if row is not None}


def list_blobs(db: Connection, prefix: str, now: float) -> list[Item]:
    query = f"SELECT name, size, stored_at FROM blobs WHERE name >= ? AND name < ? AND {LIVING}"
    return [Item(*row) for row in db.execute(query, (prefix, prefix + "\x7f", now))]


def blob_files(db: Connection, names: Iterable[str], now: float) -> dict[str, str | None]:
    """Return the file, or None, of each of the blobs that live."""
    query = f"SELECT file FROM blobs WHERE name = ? AND {LIVING}"
    found = {name: db.execute(query, (name, now)).fetchone() for name in names}
    return {name: row[0] for name, row in found.items() if row is not None}


def whole_blobs(db: Connection, names: Iterable[str], exists: Callable[[str], bool], now: float) -> set[str]:
    """Return the names of the blobs that live and whose files, as ``exists`` tells, are there."""
    files = blob_files(db, names, now)
    return {name for name, file in files.items() if file is None or exists(file)}


def used_files(db: Connection) -> set[str]:
    return {file for (file,) in db.execute("SELECT file FROM blobs WHERE file IS NOT NULL")}


def write_commit(
    db: Connection, commit: Commit, files: Mapping[str, str], exists: Callable[[str], bool], now: float
) -> list[str]:
    """Write all of a commit; returns the files that are no longer used. Raises `BlobsMissing`.

    ``exists`` tells whether a file is there.
    """
    end = now + commit.blob_life
    kept = {name for name in commit.keep if name not in commit.blobs}
    there = whole_blobs(db, kept, exists, now)
    if len(there) < len(kept):
        raise BlobsMissing(kept - there)
    unused = store_blobs(db, commit.blobs, files, now, end)
    db.executemany("UPDATE blobs SET expires_at = ? WHERE name = ?", ((end, name) for name in kept))
    db.execute(
        "REPLACE INTO heads VALUES (?, ?, ?, ?)", (commit.key, commit.head, commit.used_at, now + commit.ttl)
    )
    db.execute(
        "REPLACE INTO infos VALUES (?, ?, ?, ?)", (commit.key, commit.owner, commit.info, now + commit.index_ttl)
    )
    return unused + drop_blobs(db, commit.dropped)


def head(db: Connection, key: str, now: float) -> bytes | None:
    found = db.execute("SELECT head FROM heads WHERE key = ? AND expires_at > ?", (key, now)).fetchone()
    return None if found is None else bytes(found[0])


def drop_session(db: Connection, key: str, owner: str | None, drop: Iterable[str]) -> list[str]:
    """Delete a head and blobs, and with ``owner`` the index entry; returns the files that are no longer used."""
    db.execute("DELETE FROM heads WHERE key = ?", (key,))
    if owner is not None:
        db.execute("DELETE FROM infos WHERE key = ? AND owner = ?", (key, owner))
    return drop_blobs(db, drop)


def infos(db: Connection, owner: str, now: float) -> dict[str, bytes]:
    return dict(db.execute("SELECT key, info FROM infos WHERE owner = ? AND expires_at > ?", (owner, now)))


def idle(db: Connection, before: float, limit: int) -> list[str]:
    query = "SELECT key FROM heads WHERE used_at < ? ORDER BY used_at LIMIT ?"
    return [key for (key,) in db.execute(query, (before, limit))]


def sweep(db: Connection, now: float) -> tuple[int, list[str]]:
    """Delete some of what has expired; returns how many rows, and the files that are no longer used."""
    query = "SELECT name FROM blobs WHERE expires_at <= ? LIMIT ?"
    names = [name for (name,) in db.execute(query, (now, SWEPT_AT_ONCE))]
    unused = drop_blobs(db, names)
    count = len(names)
    for table in ("heads", "infos"):
        count += db.execute(f"DELETE FROM {table} WHERE expires_at <= ?", (now,)).rowcount
    return count, unused
