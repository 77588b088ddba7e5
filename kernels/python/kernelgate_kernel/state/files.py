"""The work folder: what is in it, in a form that can be saved, and the way back.

User code made what is there and may change it while we look, from threads and child processes. So every step goes
through the descriptor of the folder above, no link is ever followed, and whatever was read counts only if it is
still the same file afterwards. The functions of the operating system are taken at import: user code may replace
those of its modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from errno import ELOOP
from functools import cached_property
from hashlib import sha256
from mmap import mmap
from os import (
    O_CLOEXEC,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOCTTY,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_RDONLY,
    O_WRONLY,
    DirEntry,
    close,
    fchmod,
    fstat,
    ftruncate,
    mkdir,
    pread,
    pwrite,
    scandir,
    stat_result,
    unlink,
    utime,
)
from os import open as open_descriptor
from os import read as read_descriptor
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG, S_ISSOCK
from sys import getrefcount
from time import time_ns
from typing import Any

from .chunks import CHUNK
from .text import printable

MAX_DEPTH = 32
MAX_PATH = 4096
MAX_SKIPPED = 200
LEAST_LOOK = 1000
"""Entries that are looked at in any case, however few may be saved."""

LEFT_OUT = frozenset({"__pycache__"})
READ = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC
FOLDER = O_RDONLY | O_NOFOLLOW | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC
WRITE = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC

TICK_NS = 20_000_000
"""File times advance in steps of up to 10 ms: a file that was changed later than this before it was read may be
changed again without a trace, and is read again next time."""

LATEST = (1 << 63) - 1
SHARED_MAPPING = re.compile(rb"w.s [0-9a-f]+ [0-9a-f:]+ (\d+) ")
KINDS = (
    (S_ISLNK, "link", "a symbolic link is not saved"),
    (S_ISFIFO, "pipe", "a named pipe is not saved"),
    (S_ISSOCK, "socket", "a socket is not saved"),
    (S_ISCHR, "device", "a device is not saved"),
    (S_ISBLK, "device", "a device is not saved"),
    (S_ISDIR, "folder", "it became a folder while it was read"),
)

Entry = dict[str, Any]
Key = tuple[int, int, int, int, int]


class Changed(OSError):
    """A file is not what it was a moment ago."""


@dataclass
class Scan:
    """What `WorkFolder.scan` found.

    ``files``: ``{"path", "size", "mode", "mtime_ns", "chunks": [sha256 hex]}`` of files and ``{"path", "folder":
    True, "mode"}`` of folders, a folder before what is in it. ``skipped``: ``{"name", "type", "reason"}`` of the
    first `MAX_SKIPPED` of ``skipped_count``.
    """

    files: list[Entry] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    skipped_count: int = 0

    def skip(self, path: str, kind: str, reason: str) -> None:
        self.skipped_count += 1
        if len(self.skipped) < MAX_SKIPPED:
            self.skipped.append(left_out(path, kind, reason))


class WorkFolder:
    """The folder ``root``, with a table of what was read last: a file that did not change is not read again.

    Not noticed, as nothing tells: a change through a memory mapping of another process that stays mapped.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._mappings = Mappings()
        self._table: dict[Key, tuple[str, ...]] = {}
        self._paths: dict[str, tuple[Key, tuple[str, ...]]] = {}

    def scan(self, max_file: int, max_total: int, max_count: int, max_name: int) -> Scan:
        """Look at everything. ``max_count`` holds for files and, once more, for folders; sizes are in bytes,
        ``max_name`` in characters of one name.

        Sorted by name in each folder, so the same is left out each time. The folder of a program that makes
        thousands of files is looked at in part: four times ``max_count`` entries. Raises OSError when the folder
        itself cannot be looked at: that is not the same as an empty one.
        """
        walk = _Walk(self._table, _Limits(max_file, max_total, max_count, max_name), self._mappings)
        with _folder(self.root) as descriptor:
            walk.look(descriptor, "", 0)
        self._table, self._paths = walk.table, walk.paths
        return walk.scan

    def read_chunk(self, path: str, index: int) -> bytes:
        """Return a chunk of a file of the last scan.

        Raises OSError when the file is gone or changed since, ValueError for what the scan did not find.
        """
        if path not in self._paths:
            raise ValueError(f"no file of the last scan: {printable(path)}")
        key, digests = self._paths[path]
        if not 0 <= index < len(digests):
            raise ValueError(f"{printable(path)} has {len(digests)} chunks, no chunk {index}")
        folder, _, name = path.rpartition("/")
        with _below(self.root, folder) as parent, _opened(name, READ, parent) as descriptor:
            if _key(fstat(descriptor)) != key:
                raise Changed(f"changed while it was saved: {printable(path)}")
            data = _read(descriptor, index * CHUNK, min(CHUNK, key[2] - index * CHUNK))
        if sha256(data).hexdigest() != digests[index]:  # also what a memory mapping changes has no other trace
            raise Changed(f"changed while it was saved: {printable(path)}")
        return data

    def restore(
        self,
        entries: Iterable[Mapping[str, Any]],
        chunk: Callable[[int], bytes],
        digests: Sequence[str] | None = None,
    ) -> list[dict[str, str]]:
        """Make files and folders; return ``{"name", "type", "reason"}`` of those that could not be made.

        ``entries`` are those of a scan, with numbers in "chunks": ``chunk`` gives the bytes of a number,
        ``digests`` their SHA-256. With ``digests`` the next scan reads no file that is unchanged since. A file
        that is there already is replaced.
        """
        lost, folders = [], []
        for entry in entries:
            path = entry.get("path")
            kind = "folder" if entry.get("folder") is True else "file"
            try:
                parts = _parts(path)
                if kind == "folder":
                    folders.append((parts, int(entry["mode"]) & 0o777))
                    with _made(self.root, parts):
                        pass
                else:
                    self._restore_file(parts, entry, chunk, digests)
            except OSError as error:
                lost.append(left_out(str(path), kind, _reason(error)))
            except (ValueError, TypeError, LookupError, OverflowError) as error:
                lost.append(left_out(str(path), kind, f"what was saved of it is not well-formed: {error}"))
        return lost + self._set_modes(folders)

    def _restore_file(
        self,
        parts: list[str],
        entry: Mapping[str, Any],
        chunk: Callable[[int], bytes],
        digests: Sequence[str] | None,
    ) -> None:
        size, numbers, mtime = int(entry["size"]), list(entry["chunks"]), int(entry["mtime_ns"])
        if len(numbers) != -(-size // CHUNK):
            raise ValueError(f"{len(numbers)} chunks for {size} bytes")
        known = None if digests is None else tuple(digests[number] for number in numbers)
        name = parts[-1]
        with _made(self.root, parts[:-1]) as parent:
            with suppress(FileNotFoundError):
                unlink(name, dir_fd=parent)
            with _opened(name, WRITE, parent, 0o600) as descriptor:
                try:
                    _fill(descriptor, size, numbers, chunk)
                    fchmod(descriptor, int(entry["mode"]) & 0o777)
                    utime(descriptor, ns=(mtime, mtime))
                except BaseException:
                    unlink(name, dir_fd=parent)
                    raise
                if known is not None:
                    self._table[_key(fstat(descriptor))] = known

    def _set_modes(self, folders: list[tuple[list[str], int]]) -> list[dict[str, str]]:
        """Give folders their modes, the deepest first: one that may not be entered hides those below."""
        lost = []
        for parts, mode in sorted(folders, key=lambda folder: len(folder[0]), reverse=True):
            try:
                with _below(self.root, "/".join(parts)) as descriptor:
                    fchmod(descriptor, mode)
            except OSError as error:
                lost.append(left_out("/".join(parts), "folder", _reason(error)))
        return lost


@dataclass(frozen=True)
class _Limits:
    max_file: int
    max_total: int
    max_count: int
    max_name: int


class _Walk:
    """One scan."""

    def __init__(self, known: Mapping[Key, tuple[str, ...]], limits: _Limits, mappings: Mappings) -> None:
        self._mappings = mappings
        self.scan = Scan()
        self.table: dict[Key, tuple[str, ...]] = {}
        self.paths: dict[str, tuple[Key, tuple[str, ...]]] = {}
        self._known = known
        self._limits = limits
        self._look = max(4 * limits.max_count, LEAST_LOOK)  # entries that may still be looked at
        self._files = self._folders = self._total = 0
        self._fresh = time_ns() - TICK_NS

    @cached_property
    def _mapped(self) -> frozenset[int]:
        return self._mappings.inodes()

    def look(self, descriptor: int, path: str, depth: int) -> None:
        """Look at what is in a folder; ``path`` is "" or ends with a slash."""
        for entry in self._entries(descriptor, path):
            name = path + entry.name
            try:
                folder = entry.is_dir(follow_symlinks=False)
                if not self._is_named_well(entry.name, name, "folder" if folder else "file"):
                    continue
                if folder:
                    if entry.name not in LEFT_OUT:
                        self._folder(descriptor, entry, name, depth + 1)
                else:
                    self._file(descriptor, entry, name)
            except FileNotFoundError:
                continue  # it is gone, so it is not left out
            except OSError as error:
                self.scan.skip(name, "file", _reason(error))

    def _entries(self, descriptor: int, path: str) -> list[DirEntry[str]]:
        found = {}
        with scandir(descriptor) as entries:
            for entry in entries:
                if not self._look:
                    self.scan.skip(
                        path[:-1] or ".", "folder", "too many entries: the rest of it was not looked at"
                    )
                    break
                self._look -= 1
                found[entry.name] = entry
        return [found[name] for name in sorted(found)]

    def _is_named_well(self, name: str, path: str, kind: str) -> bool:
        if len(name) > self._limits.max_name:
            reason = f"a name of {len(name)} characters is over the limit of {self._limits.max_name}"
        elif len(path) > MAX_PATH:
            reason = f"a path of {len(path)} characters is over the limit of {MAX_PATH}"
        elif not is_text(name):
            reason = "its name is not valid UTF-8"
        else:
            return True
        self.scan.skip(path, kind, reason)
        return False

    def _folder(self, parent: int, entry: DirEntry[str], path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            self.scan.skip(path, "folder", f"it is deeper than {MAX_DEPTH} folders")
            return
        if self._folders >= self._limits.max_count:
            self.scan.skip(path, "folder", f"there are more than {self._limits.max_count} folders")
            return
        try:
            with _opened(entry.name, FOLDER, parent) as descriptor:
                self._folders += 1
                mode = fstat(descriptor).st_mode & 0o777
                self.scan.files.append({"path": path, "folder": True, "mode": mode})
                self.look(descriptor, path + "/", depth)
        except FileNotFoundError:
            raise
        except OSError as error:
            self.scan.skip(path, "folder", _reason(error))

    def _file(self, parent: int, entry: DirEntry[str], path: str) -> None:
        status = entry.stat(follow_symlinks=False)
        if not self._fits(status, path):
            return
        key = _key(status)
        digests = self._known.get(key)
        if digests is None or status.st_ino in self._mapped:
            read = self._read(parent, entry.name, path)
            if read is None:
                return
            status, digests = read
            key = _key(status)
        if status.st_ctime_ns < self._fresh and status.st_ino not in self._mapped:
            self.table[key] = digests
        self._files += 1
        self._total += status.st_size
        self.paths[path] = key, digests
        self.scan.files.append(
            {
                "path": path,
                "size": status.st_size,
                "mode": status.st_mode & 0o777,
                "mtime_ns": max(-LATEST, min(status.st_mtime_ns, LATEST)),
                "chunks": list(digests),
            }
        )

    def _fits(self, status: stat_result, path: str) -> bool:
        """Tell whether this is a file that the limits allow; say so if not."""
        limits, size = self._limits, status.st_size
        if not S_ISREG(status.st_mode):
            self.scan.skip(path, *_kind(status.st_mode))
            return False
        if self._files >= limits.max_count:
            reason = f"there are more than {limits.max_count} files"
        elif size > limits.max_file:
            reason = f"its {size} bytes are over the limit of {limits.max_file} bytes for one file"
        elif self._total + size > limits.max_total:
            reason = f"with its {size} bytes all files would be over the limit of {limits.max_total} bytes"
        else:
            return True
        self.scan.skip(path, "file", reason)
        return False

    def _read(self, parent: int, name: str, path: str) -> tuple[stat_result, tuple[str, ...]] | None:
        """Return what a file is, and the digests of its chunks."""
        with _opened(name, READ, parent) as descriptor:
            for _ in range(2):
                before = fstat(descriptor)
                if not self._fits(before, path):
                    return None
                try:
                    digests = tuple(_digests(descriptor, before.st_size))
                except Changed:
                    continue
                if _key(fstat(descriptor)) == _key(before):
                    return before, digests
        raise Changed("it changed while it was read")


def left_out(path: str, kind: str, reason: str) -> dict[str, str]:
    """Return how something is reported that was not saved or not restored."""
    return {"name": printable(path), "type": kind, "reason": printable(reason)}


def is_text(name: str) -> bool:
    """Tell whether a file's name is text: the bytes of one that is not come as lone surrogates."""
    try:
        return name.isascii() or bool(name.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def _key(status: stat_result) -> Key:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _kind(mode: int) -> tuple[str, str]:
    for test, kind, reason in KINDS:
        if test(mode):
            return kind, reason
    return "file", "it is no regular file"


def _reason(error: OSError) -> str:
    if error.errno == ELOOP:
        return "it became a symbolic link while it was read"
    return str(error.strerror or error)


def _digests(descriptor: int, size: int) -> Iterator[str]:
    for offset in range(0, size, CHUNK):
        yield sha256(_read(descriptor, offset, min(CHUNK, size - offset))).hexdigest()


def _read(descriptor: int, offset: int, size: int) -> bytes:
    data = pread(descriptor, size, offset)
    while len(data) < size:
        more = pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise Changed("it became shorter while it was read")
        data += more
    return data


class Mappings:
    """Which files are mapped here to be written, which leaves no trace in their times.

    To read the list takes longer than a whole scan, so it is read only when there may be mappings that the last
    look did not see: each of Python's holds a reference to their class. So do modules that use it.
    """

    def __init__(self) -> None:
        self._harmless = getrefcount(mmap)

    def inodes(self) -> frozenset[int]:
        """Return the inodes of the files."""
        count = getrefcount(mmap)
        if count > self._harmless:
            found = self._read()
            if found:
                return found
        self._harmless = count
        return frozenset()

    def _read(self) -> frozenset[int]:
        try:
            with _opened("/proc/self/maps", O_RDONLY | O_CLOEXEC) as descriptor:
                text = b"".join(iter(lambda: read_descriptor(descriptor, 1 << 16), b""))
        except OSError:
            return frozenset()
        return frozenset(map(int, SHARED_MAPPING.findall(text)))


@contextmanager
def _opened(name: str, flags: int, parent: int | None = None, mode: int = 0) -> Iterator[int]:
    descriptor = open_descriptor(name, flags, mode, dir_fd=parent)
    try:
        yield descriptor
    finally:
        close(descriptor)


@contextmanager
def _folder(root: str) -> Iterator[int]:
    with _opened(root, FOLDER) as descriptor:
        yield descriptor


@contextmanager
def _below(root: str, path: str) -> Iterator[int]:
    """Open a folder below ``root``, step by step; no step follows a link."""
    descriptor = open_descriptor(root, FOLDER)
    try:
        for part in path.split("/") if path else ():
            above, descriptor = descriptor, open_descriptor(part, FOLDER, dir_fd=descriptor)
            close(above)
        yield descriptor
    finally:
        close(descriptor)


@contextmanager
def _made(root: str, parts: list[str]) -> Iterator[int]:
    """Open a folder below ``root`` as `_below` does; make what is not there."""
    descriptor = open_descriptor(root, FOLDER)
    try:
        for part in parts:
            with suppress(FileExistsError):
                mkdir(part, 0o755, dir_fd=descriptor)
            above, descriptor = descriptor, open_descriptor(part, FOLDER, dir_fd=descriptor)
            close(above)
        yield descriptor
    finally:
        close(descriptor)


def _fill(descriptor: int, size: int, numbers: Sequence[Any], chunk: Callable[[int], bytes]) -> None:
    """Write the chunks of a file. What is zeros stays a hole, as the memory that files take is the user's."""
    for index, number in enumerate(numbers):
        data = chunk(number)
        offset = index * CHUNK
        if len(data) != min(CHUNK, size - offset):
            raise ValueError(f"chunk {index} has {len(data)} bytes")
        if data == bytes(len(data)):
            continue
        written = 0
        while written < len(data):
            written += pwrite(descriptor, memoryview(data)[written:], offset + written)
    ftruncate(descriptor, size)


def _parts(path: object) -> list[str]:
    """Return the names of a path that leads below the folder. Raises ValueError for any other."""
    if not isinstance(path, str) or len(path) > MAX_PATH or "\0" in path or not is_text(path):
        raise ValueError("its path is no text")
    parts = path.split("/")
    if len(parts) > MAX_DEPTH + 1 or any(part in ("", ".", "..") for part in parts):
        raise ValueError("its path leads elsewhere")
    return parts
