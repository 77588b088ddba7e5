"""A kernel's state on its way: what a kernel sends when it saves itself, and what it is sent to restore it.

The state is opaque bytes in chunks of at most `CHUNK_BYTES`, named by their SHA-256. A layout says which chunks
make which stream or file. A kernel that saves sends only chunks that its last stored save did not have. Nothing
here looks into a chunk; everything else that a kernel sends is checked before it is used.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernelgate.kernel.messages import BadMessage, Message
from kernelgate.kernel.outputs import clean

FORMAT = 1
CHUNK_BYTES = 2 << 20
SMALLEST_STREAM = 64 << 10
"""Bytes from which on a buffer is a stream of its own; the kernel keeps smaller ones in the main stream."""

SLACK_BYTES = 1 << 20
INLINE_DIGEST_BYTES = 64 << 10
MAX_SKIPPED = 200
MAX_TEXT = 200
MAX_PATH = 4096

Json = dict[str, Any]


@dataclass(frozen=True)
class FileLimits:
    """What of the work folder is saved. Sizes in bytes, ``max_name`` in characters."""

    max_file: int
    max_total: int
    max_count: int
    max_name: int


@dataclass(frozen=True)
class SaveRequest:
    """Asks a kernel to save itself behind an execution."""

    tag: str
    """What the save is called."""
    base: str | None
    """The kernel's last save that is stored; None when there is none."""
    known: frozenset[str]
    """The digests of that save, which the kernel need not send again."""
    sent: Sequence[str]
    """Those of the chunks that the kernel sent with it, in order: a kernel need not hash what it sends."""
    max_bytes: int
    seconds: float
    on_error: bool
    files: FileLimits | None

    def metadata(self) -> Json:
        """Return what is put into the metadata of the ``execute_request``."""
        return {
            "base": self.base,
            "sent": list(self.sent),
            "tag": self.tag,
            "max_bytes": self.max_bytes,
            "seconds": self.seconds,
            "on_error": self.on_error,
            "files": None if self.files is None else vars(self.files),
        }


@dataclass(frozen=True)
class Snapshot:
    """A state as it is stored: the layout with digests as references, and the chunks that are new."""

    tag: str
    layout: Json
    chunks: Mapping[str, bytes] = field(repr=False)
    sent: Sequence[str]
    """The digests of all chunks that were sent, in order."""

    @property
    def bytes(self) -> int:
        """Bytes of the variables."""
        return sum(self.layout["sizes"])

    @property
    def digests(self) -> set[str]:
        return digests(self.layout)


class Inbox:
    """Collects what a kernel sends of its state. Bounded by what was asked for, whatever the kernel does."""

    def __init__(self, request: SaveRequest) -> None:
        self._request = request
        self._budget = request.max_bytes + SLACK_BYTES + (request.files.max_total if request.files else 0)
        self._most = _most_chunks(request)
        self._chunks: list[bytes] = []
        self._digests: list[asyncio.Future[str] | str] = []
        self._last: Json | None = None
        self.error = ""
        """Why there is no snapshot; empty also when the kernel had none to send."""
        self.ended = False
        """Whether the kernel has said that this was all, good or not."""

    @property
    def complete(self) -> bool:
        """Whether nothing more is expected."""
        return self._last is not None or bool(self.error)

    def take(self, message: Message) -> None:
        """Take one message."""
        try:
            self.ended = self.ended or message.content.get("last") is True
            if not self.complete:
                self._take(message)
        except BadMessage as error:
            self.fail(f"the kernel sent a state that is not well-formed: {error}")

    def fail(self, reason: str) -> None:
        """Give up; what came is dropped."""
        self.error = reason
        self._drop()

    async def snapshot(self) -> Snapshot | None:
        """Return the state. None: the kernel saved nothing, or `error` says what is wrong."""
        if self.error or not self._last:
            return None
        names = [name if isinstance(name, str) else await name for name in self._digests]
        try:
            layout = _Check(self._request, names).layout(self._last)
        except BadMessage as error:
            self.fail(f"the kernel sent a state that is not well-formed: {error}")
            return None
        used = digests(layout)
        new = {name: chunk for name, chunk in zip(names, self._chunks, strict=True) if name in used}
        return Snapshot(self._request.tag, layout, new, names)

    def _take(self, message: Message) -> None:
        for chunk in message.buffers:
            self._add(chunk)
        content = message.content
        if content.get("last") is not True:
            return
        layout = content.get("layout")
        if content.get("tag") != self._request.tag:
            raise BadMessage("it is not the one that was asked for")
        if isinstance(layout, dict):
            self._last = layout
        else:
            self._last = {}
            self.error = _text(content.get("error") or "", "error")
            self._drop()

    def _add(self, chunk: bytes) -> None:
        self._budget -= len(chunk)
        if not 0 < len(chunk) <= CHUNK_BYTES:
            raise BadMessage(f"a chunk of {len(chunk)} bytes")
        if self._budget < 0 or len(self._chunks) >= self._most:
            raise BadMessage("it is larger than what was asked for")
        self._chunks.append(chunk)
        if len(chunk) <= INLINE_DIGEST_BYTES:
            self._digests.append(digest(chunk))
        else:
            self._digests.append(asyncio.get_running_loop().run_in_executor(None, digest, chunk))

    def _drop(self) -> None:
        self._chunks.clear()
        self._digests.clear()


def _most_chunks(request: SaveRequest) -> int:
    """Return how many chunks a state within its limits has at most: each stream and file may end with a rest."""
    rests, size = 2 + request.max_bytes // SMALLEST_STREAM, request.max_bytes
    if request.files is not None:
        rests, size = rests + request.files.max_count, size + request.files.max_total
    return rests + size // CHUNK_BYTES


class _Check:
    """Checks a layout and puts digests in the place of references."""

    def __init__(self, request: SaveRequest, sent: list[str]) -> None:
        self._request = request
        self._sent = sent

    def layout(self, raw: Json) -> Json:
        if raw.get("format") != FORMAT:
            raise BadMessage("its format is not known")
        streams, sizes = self._streams(raw)
        skipped, skipped_count = _skipped(raw, "skipped")
        files_skipped, files_skipped_count = _skipped(raw, "files_skipped")
        dill = raw.get("dill")
        return {
            "format": FORMAT,
            "python": _text(raw.get("python"), "python"),
            "dill": None if dill is None else _text(dill, "dill"),
            "execution_count": _count(raw.get("execution_count"), "execution_count"),
            "streams": streams,
            "sizes": sizes,
            "names": _count(raw.get("names"), "names"),
            "skipped": skipped,
            "skipped_count": skipped_count,
            "files": self._files(raw),
            "files_skipped": files_skipped,
            "files_skipped_count": files_skipped_count,
        }

    def _streams(self, raw: Json) -> tuple[list[list[str]], list[int]]:
        streams, sizes = _list(raw.get("streams"), "streams"), _list(raw.get("sizes"), "sizes")
        if not 1 <= len(streams) == len(sizes) <= 2 + self._request.max_bytes // SMALLEST_STREAM:
            raise BadMessage(f"{len(streams)} streams")
        sizes = [_count(size, "sizes") for size in sizes]
        if sum(sizes) > self._request.max_bytes:
            raise BadMessage("it is larger than what was asked for")
        return [self._refs(refs, size) for refs, size in zip(streams, sizes, strict=True)], sizes

    def _refs(self, refs: object, size: int) -> list[str]:
        refs = _list(refs, "chunks")
        if len(refs) != -(-size // CHUNK_BYTES):
            raise BadMessage(f"{len(refs)} chunks for {size} bytes")
        return [self._ref(ref) for ref in refs]

    def _ref(self, ref: object) -> str:
        if isinstance(ref, int) and not isinstance(ref, bool) and 0 <= ref < len(self._sent):
            return self._sent[ref]
        if isinstance(ref, str) and ref in self._request.known:
            return ref
        raise BadMessage("it refers to a chunk that nobody knows")

    def _files(self, raw: Json) -> list[Json]:
        limits = self._request.files
        if limits is None:
            return []
        entries = [self._entry(entry, limits) for entry in _list(raw.get("files"), "files")]
        files = [entry for entry in entries if "size" in entry]
        if max(len(files), len(entries) - len(files)) > limits.max_count:
            raise BadMessage(f"{len(entries)} files and folders")
        if sum(entry["size"] for entry in files) > limits.max_total:
            raise BadMessage("its files are larger than what was asked for")
        if len({entry["path"] for entry in entries}) != len(entries):
            raise BadMessage("a path is there twice")
        return entries

    def _entry(self, entry: object, limits: FileLimits) -> Json:
        if not isinstance(entry, dict):
            raise BadMessage("a file that is no object")
        path, mode = check_path(entry.get("path"), limits.max_name), _count(entry.get("mode"), "mode") & 0o777
        if entry.get("folder") is True:
            return {"path": path, "folder": True, "mode": mode}
        size = _count(entry.get("size"), "size")
        if size > limits.max_file:
            raise BadMessage("a file is larger than what was asked for")
        mtime = entry.get("mtime_ns")
        if not isinstance(mtime, int) or not -(1 << 63) <= mtime < 1 << 63:
            raise BadMessage("a file's time is no number")
        chunks = self._refs(entry.get("chunks"), size)
        return {"path": path, "size": size, "mode": mode, "mtime_ns": mtime, "chunks": chunks}


def check_path(path: object, max_name: int) -> str:
    """Return a path below the work folder. Raises `BadMessage` for one that could lead out of it or is no text."""
    if not isinstance(path, str) or not path or len(path) > MAX_PATH or "\0" in path or clean(path) != path:
        raise BadMessage("a path that is no text")
    for part in path.split("/"):
        if part in ("", ".", "..") or len(part) > max_name:
            raise BadMessage("a path that leads elsewhere")
    return path


def digest(chunk: bytes) -> str:
    """Return the name of a chunk."""
    return hashlib.sha256(chunk).hexdigest()


def digests(layout: Mapping[str, Any]) -> set[str]:
    """Return the names of all chunks of a checked layout."""
    found = {name for stream in layout["streams"] for name in stream}
    for entry in layout["files"]:
        found.update(entry.get("chunks", ()))
    return found


def _skipped(raw: Json, name: str) -> tuple[list[Json], int]:
    found = []
    for item in _list(raw.get(name), name)[:MAX_SKIPPED]:
        if not isinstance(item, dict):
            raise BadMessage(f"{name} holds what is no object")
        found.append({key: _text(item.get(key), name) for key in ("name", "type", "reason")})
    return found, max(len(found), _count(raw.get(f"{name}_count"), name))


def read_lost(content: Json) -> list[Json]:
    """Return what a kernel says it could not restore. Raises `BadMessage`."""
    return _skipped({"lost": content.get("lost", []), "lost_count": 0}, "lost")[0]


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadMessage(f"{name} is no list")
    return value


def _count(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53:
        raise BadMessage(f"{name} is no count")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise BadMessage(f"{name} is no text")
    return clean(value[:MAX_TEXT])
