"""What is remembered of a session: its executions, the versions of its state, and where they are stored. Pure.

A record is small and changes with each execution; what it points to (code and outputs, manifests, chunks) lies in
blobs that never change. Versions are numbered from 1; version 0 is the empty session. An execution leads from its
``base`` to its ``version``, which are the same when nothing of it was saved.
"""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from operator import attrgetter
from typing import Any

from kernelgate.auth import Owner
from kernelgate.compact import compact_json
from kernelgate.errors import Conflict, StateRefused

RECORD_FORMAT = 1
SLACK = 1.2
"""How far history grows over its bounds before it is cut back to them: to cut is more work than to add."""

EXEC, JUPYTER = "exec", "jupyter"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
KERNEL_IDS = uuid.UUID("6b65726e-656c-4761-b465-207365737369")
"""The namespace of the kernel ids that are made of session ids."""

Json = dict[str, Any]

_TEXT, _SIZE = attrgetter("text"), attrgetter("size")


@dataclass(frozen=True)
class Entry:
    """One execution. ``blob`` names its code and outputs; ``started`` in ISO 8601."""

    number: int
    base: int
    version: int
    started: str
    status: str
    blob: str
    undone: bool = False

    @cached_property
    def text(self) -> str:
        """The execution as JSON, made once: a record is written with each execution."""
        return compact_json(
            [self.number, self.base, self.version, self.started, self.status, self.blob, self.undone]
        )


@dataclass(frozen=True)
class Version:
    """One state. ``manifest`` names its layout; ``tag`` is what the kernel calls it; ``size`` in new bytes."""

    manifest: str
    tag: str
    size: int

    @cached_property
    def text(self) -> str:
        """The state as JSON."""
        return compact_json([self.manifest, self.tag, self.size])


@dataclass
class Record:
    """A session as it is stored. Times in ISO 8601, ``touched`` in UNIX seconds."""

    id: str
    owner: str
    user: str
    language: str
    created: str
    used: str
    space: str
    """Where this session's own blobs are; nobody else's are there."""
    executions: int = 0
    version: int = 0
    """The version that the session is in."""
    last_version: int = 0
    """The highest version there was."""
    touched: float = 0.0
    """When the life of all blobs was last prolonged."""
    origin: str = EXEC
    """Where it was begun: by `EXEC` or `JUPYTER`."""
    closed: bool = False
    """Whether Jupyter's clients see it no more, because its kernel was shut down there."""
    documents: list[Json] = field(default_factory=list)
    """What Jupyter calls sessions: ``id``, ``path``, ``name``, ``type`` of each notebook that uses the kernel."""
    env: dict[str, str] = field(default_factory=dict)
    """Variables of the environment that a kernel is begun with."""
    entries: list[Entry] = field(default_factory=list)
    versions: dict[int, Version] = field(default_factory=dict)

    @classmethod
    def new(cls, owner: Owner, session_id: str, language: str) -> Record:
        """Return the record of a session that begins now."""
        return cls(session_id, owner.key, owner.user, language, created=now(), used=now(), space=new_space())

    @property
    def kernel_id(self) -> str:
        """What Jupyter's clients call the session's kernel: a UUID."""
        return kernel_id(self.id)

    @property
    def tag(self) -> str:
        """What a kernel calls the version that the session is in; empty for the empty one."""
        return self.versions[self.version].tag if self.version in self.versions else ""

    @property
    def current(self) -> Version | None:
        """The version that the session is in; None for the empty one."""
        return self.versions.get(self.version)

    @property
    def manifests(self) -> set[str]:
        """The blobs that say what the versions consist of."""
        return {version.manifest for version in self.versions.values()}

    def own(self, names: Iterable[str]) -> set[str]:
        """Return those of the blobs that no other session can refer to."""
        prefix = blob_name(self.space, "")
        return {name for name in names if name.startswith(prefix)}

    def describe(self) -> Json:
        """Return the session as the API shows it, whether it runs or not."""
        return {
            "session_id": self.id,
            "lang": self.language,
            "created": self.created,
            "last_used": self.used,
            "executions": self.executions,
            "version": self.version,
            "user_id": self.user or None,
            "kernel_id": self.kernel_id,
            "origin": self.origin,
            "closed": self.closed,
            "documents": self.documents,
        }

    def to_bytes(self) -> bytes:
        """Return the record as JSON."""
        entries = ",".join(map(_TEXT, self.entries))
        versions = ",".join(f'"{number}":{version.text}' for number, version in self.versions.items())
        rest = compact_json({**vars(self), "format": RECORD_FORMAT, "entries": None, "versions": None})
        return f"[{rest},[{entries}],{{{versions}}}]".encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """Read a record. Raises `StateRefused` for one of another format."""
        rest, entries, versions = json.loads(data)
        if rest.pop("format") != RECORD_FORMAT:
            raise StateRefused("the session was stored by another version of kernelgate")
        record = cls(**rest)
        record.entries = [Entry(*entry) for entry in entries]
        record.versions = {int(number): Version(*version) for number, version in versions.items()}
        return record

    def add(self, entry: Entry, version: Version | None) -> None:
        """Add an execution and, if there is one, the version that it led to."""
        self.entries.append(entry)
        if version is not None:
            self.last_version = entry.version
            self.versions[entry.version] = version
            self.version = entry.version

    def advance(self, number: int, version: Version) -> None:
        """Go on to a version that no execution of its own led to: the last one did."""
        if self.entries and self.entries[-1].version == self.version and not self.entries[-1].undone:
            self.entries[-1] = replace(self.entries[-1], version=number)
        self.versions[number] = version
        self.last_version = self.version = number

    def restorable(self, version: int) -> bool:
        """Whether the session can go back to ``version``."""
        return version == 0 or version in self.versions

    def undo(self, steps: int) -> list[int]:
        """Go back to before the last ``steps`` executions; returns their numbers. Raises `Conflict`."""
        done = [index for index, entry in enumerate(self.entries) if not entry.undone][-steps:]
        if len(done) < steps:
            raise Conflict(f"{steps} executions cannot be undone: there are {len(done)}")
        target = self.entries[done[0]].base
        if not self.restorable(target):
            raise Conflict(f"version {target} is no longer kept")
        for index in done:
            self.entries[index] = replace(self.entries[index], undone=True)
        self.version = target
        return [self.entries[index].number for index in done]

    def fork(self, new_id: str, at: int) -> Record:
        """Return a new session that is in version ``at`` of this one. Its blobs are shared until they change."""
        entries = self._way_to(at)
        versions = {0, at} | {entry.base for entry in entries} | {entry.version for entry in entries}
        copy = replace(
            self, id=new_id, space=new_space(), created=now(), used=now(), version=at, entries=entries, touched=0.0
        )
        copy.origin, copy.documents, copy.closed = EXEC, [], False
        copy.versions = {number: each for number, each in self.versions.items() if number in versions}
        copy.executions = max((entry.number for entry in entries), default=0)
        return copy

    def _way_to(self, version: int) -> list[Entry]:
        """Return the executions that led to ``version``, in order."""
        way = []
        for entry in reversed(self.entries):
            if entry.version == version:
                way.append(replace(entry, undone=entry.undone and entry.base == entry.version))
                version = entry.base
        return way[::-1]

    def leave_space(self) -> None:
        """Put new blobs elsewhere from now on, because others refer to those that are there."""
        self.space = new_space()

    def trim(self, max_entries: int, max_bytes: int) -> Trimmed:
        """Forget the oldest executions and versions, once there are a fifth more than the bounds allow."""
        entries: list[Entry] = []
        size = sum(map(_SIZE, self.versions.values()))
        if len(self.entries) <= max_entries * SLACK and size <= max_bytes * SLACK:
            return Trimmed([], [])
        if len(self.entries) > max_entries * SLACK:
            entries, self.entries = self.entries[:-max_entries], self.entries[-max_entries:]
        needed = (
            {self.version} | {entry.version for entry in self.entries} | {entry.base for entry in self.entries}
        )
        gone = [number for number in self.versions if number not in needed]
        total = sum(each.size for number, each in self.versions.items() if number not in (self.version, *gone))
        if total > max_bytes * SLACK:
            for number in sorted(set(self.versions) - {self.version, *gone}):
                if total > max_bytes:
                    gone.append(number)
                    total -= self.versions[number].size
        return Trimmed(entries, [self.versions.pop(number) for number in gone])

    def copy(self) -> Record:
        """Return a record that can be changed while this one stays as it is."""
        return replace(
            self, entries=list(self.entries), versions=dict(self.versions), documents=list(self.documents)
        )


@dataclass(frozen=True)
class Trimmed:
    """What a record no longer leads to."""

    entries: list[Entry]
    versions: list[Version]


def kernel_id(session_id: str) -> str:
    """Return what Jupyter calls the kernel of a session: its id if that is a UUID, else one that is made of it."""
    return session_id if UUID.fullmatch(session_id) else str(uuid.uuid5(KERNEL_IDS, session_id))


def now() -> str:
    return datetime.now(UTC).isoformat()


def new_space() -> str:
    return secrets.token_hex(8)


def blob_name(space: str, digest: str) -> str:
    """Return the name under which a chunk is stored."""
    return f"b/{space}/{digest}"


@dataclass(frozen=True)
class Manifest:
    """A stored layout: ``names`` gives the blob of each of its digests."""

    layout: Json
    names: Mapping[str, str]

    def to_bytes(self) -> bytes:
        value = {"layout": self.layout, "names": self.names}
        return compact_json(value).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        value = json.loads(data)
        return cls(value["layout"], value["names"])


def digest_of(blob: str) -> str:
    """Return the digest that a blob's name ends with."""
    return blob.rpartition("/")[2]
