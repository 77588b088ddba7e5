"""Saving the state of a session and restoring it: the layout, and the chunks that it refers to.

The gateway stores what it gets as it is. Streams: the surroundings (JSON), the variables (pickled), and one for
each large buffer of theirs.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from json import JSONDecoder, JSONEncoder
from typing import Any

from .chunks import Bytes, Parcel, Shadows, cut, join, refer_all
from .deadline import OutOfTime, deadline
from .files import Scan, WorkFolder
from .namespace import SPECIAL, Surroundings, items, put_back, shown
from .pickling import Dump, Failure, dump, load
from .settings import Settings
from .text import printable

FORMAT = 1
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
MAX_SKIPPED = 200
MAX_TEXT = 200
SURROUNDINGS, VARIABLES = 0, 1

Json = dict[str, Any]

ENCODER, DECODER = JSONEncoder(), JSONDecoder()
"""Of our own: user code may replace what is in the module ``json``."""


class NotRestored(Exception):
    """A state that cannot be restored here; ``str(error)`` says why."""


@dataclass
class Save:
    """A state that is ready to be sent: its chunks in order, then the layout."""

    layout: Json
    parcel: Parcel

    def chunks(self) -> Iterator[Bytes]:
        """Give the chunks. A file that has changed meanwhile is taken out of the layout."""
        for number, give in enumerate(self.parcel.chunks):
            try:
                yield give()
            except (OSError, ValueError) as error:
                self._leave_out(number, str(error))
                yield b"?"

    def _leave_out(self, number: int, reason: str) -> None:
        files = self.layout["files"]
        gone = [entry for entry in files if number in entry.get("chunks", ())]
        self.layout["files"] = [entry for entry in files if entry not in gone]
        self.layout["files_skipped_count"] += len(gone)
        self.layout["files_skipped"] = [
            *self.layout["files_skipped"],
            *({"name": printable(entry["path"]), "type": "file", "reason": printable(reason)} for entry in gone),
        ][:MAX_SKIPPED]


class Snapshots:
    """Saves and restores the state of one shell and the work folder."""

    def __init__(self, shell: Any, folder: str) -> None:
        self._shell = shell
        self._folder = WorkFolder(folder)
        self._surroundings = Surroundings()
        self._settings = Settings()
        self._tag: str | None = None
        """What the last save is called; None when nothing counts as stored."""
        self._layout: Json = {}
        self._numbers: Mapping[str, int] = {}
        """What the last save consists of, as it was sent, and the chunks that were hashed for it."""
        self._suspects: frozenset[str] = frozenset()
        self._shadows = Shadows()

    # ---- saving

    def save(self, request: Mapping[str, Any]) -> Save:
        """Return the state, and what of it the gateway does not have."""
        parcel = self._parcel(request)
        dumped = dump(
            items(self._shell), self._shell.user_ns, request["max_bytes"], request["seconds"], self._suspects
        )
        self._suspects = frozenset(failure.name for failure in dumped.failed)
        changes = {**self._surroundings.changes(), "settings": self._settings.changes()}
        surroundings = ENCODER.encode(changes).encode()
        streams: list[Bytes] = [surroundings, dumped.main, *dumped.buffers]
        layout = {
            "format": FORMAT,
            "python": PYTHON,
            "dill": dumped.dill,
            "execution_count": self._shell.execution_count,
            "streams": self._refer(parcel, streams),
            "sizes": [len(stream) for stream in streams],
            "names": sum(not name.startswith(SPECIAL) for name in dumped.names),
            **_skipped(dumped),
            **self._files(parcel, request["files"]),
        }
        self._tag, self._layout, self._numbers = request["tag"], layout, parcel.numbers
        return Save(layout, parcel)

    def _parcel(self, request: Mapping[str, Any]) -> Parcel:
        """Begin a save. What the last one sent counts as stored if the gateway says so, and calls it by names."""
        if self._tag is None or request["base"] != self._tag:
            return Parcel(frozenset())
        self._shadows.learn(request["sent"])
        return Parcel(stored(self._layout, self._numbers, request["sent"]))

    def _refer(self, parcel: Parcel, streams: Sequence[Bytes]) -> list[list[int | str]]:
        """Return how the layout refers to the chunks of each stream."""
        refs = [refer_all(parcel, cut(stream)) for stream in streams[: VARIABLES + 1]]
        buffers = [cut(stream) for stream in streams[VARIABLES + 1 :]]
        all_refs = iter(self._shadows.refer(parcel, [piece for pieces in buffers for piece in pieces]))
        return [*refs, *([next(all_refs) for _ in pieces] for pieces in buffers)]

    def forget(self) -> None:
        """Take nothing for stored any more: the save did not reach the gateway."""
        self._tag = None

    def _files(self, parcel: Parcel, limits: Mapping[str, int] | None) -> Json:
        scan = Scan() if limits is None else self._folder.scan(**limits)
        entries = []
        for entry in scan.files:
            if "chunks" in entry:
                read = partial(self._folder.read_chunk, entry["path"])
                refs = [parcel.refer(name, partial(read, index)) for index, name in enumerate(entry["chunks"])]
                entries.append({**entry, "chunks": refs})
            else:
                entries.append(entry)
        return {"files": entries, "files_skipped": scan.skipped, "files_skipped_count": scan.skipped_count}

    # ---- restoring

    def restore(self, content: Mapping[str, Any], chunks: list[memoryview]) -> tuple[int, list[Json]]:
        """Load a state into a fresh shell; returns how many variables there are and what was lost.

        With ``files_only`` in ``content`` the shell stays fresh. ``chunks`` is empty afterwards: memory may be
        short. Raises `NotRestored`; then no variable was loaded.
        """
        layout = content["layout"]
        _check(layout)
        names = content["digests"]
        lost = self._folder.restore(layout["files"], lambda index: bytes(chunks[index]), digests=names)
        if content.get("files_only"):
            chunks.clear()
            return 0, lost[:MAX_SKIPPED]
        streams = _take_streams(layout, chunks)
        surroundings = DECODER.decode(streams[SURROUNDINGS].decode())
        self._surroundings.apply(surroundings)
        try:
            with deadline(content["seconds"]):
                loaded = load(streams[VARIABLES], streams[VARIABLES + 1 :], self._shell.user_ns)
        except OutOfTime:
            raise NotRestored(f"loading it takes longer than {content['seconds']:g} s") from None
        except ValueError as error:
            raise NotRestored(f"the stored variables are not in order: {error}") from None
        count = put_back(self._shell, loaded.values, layout["execution_count"])
        self._settings.apply(surroundings.get("settings", {}))
        self._tag, self._layout, self._numbers = content["tag"], {"streams": [names], "files": []}, {}
        return count, [*_told(loaded.lost), *lost][:MAX_SKIPPED]


def stored(layout: Json, numbers: Mapping[str, int], sent: Sequence[str]) -> frozenset[str]:
    """Return the digests of what the gateway keeps of a save.

    That is what is in the layout in the end, and may be less than what was sent: not what was sent of a file that
    was left out afterwards. ``sent`` names the chunks, and is empty when another gateway took them; ``numbers``
    are those of chunks that have been hashed here.
    """
    names = {number: name for name, number in numbers.items()} | dict(enumerate(sent))
    entries = [*layout["streams"], *(entry.get("chunks", ()) for entry in layout["files"])]
    found = (ref if type(ref) is str else names.get(ref) for refs in entries for ref in refs)
    return frozenset(name for name in found if name is not None)


def _take_streams(layout: Mapping[str, Any], chunks: list[memoryview]) -> list[bytearray]:
    """Put the streams together, each chunk gone after its last use."""
    uses = Counter(ref for refs in layout["streams"] for ref in refs)

    def take(ref: int) -> memoryview:
        uses[ref] -= 1
        chunk = chunks[ref]
        if not uses[ref]:
            chunks[ref] = memoryview(b"")
        return chunk

    streams = [
        join((take(ref) for ref in refs), size)
        for refs, size in zip(layout["streams"], layout["sizes"], strict=True)
    ]
    chunks.clear()
    return streams


def _skipped(dumped: Dump) -> Json:
    return {"skipped": _told(dumped.failed)[:MAX_SKIPPED], "skipped_count": len(dumped.failed)}


def _told(failures: Sequence[Failure]) -> list[Json]:
    return [
        {
            "name": printable(shown(failure.name))[:MAX_TEXT],
            "type": printable(failure.type)[:MAX_TEXT],
            "reason": printable(failure.reason)[:MAX_TEXT],
        }
        for failure in failures
    ]


def _check(layout: Mapping[str, Any]) -> None:
    """Raise `NotRestored` for what another Python or kernel saved."""
    if layout["format"] != FORMAT:
        raise NotRestored(f"it has format {layout['format']}, this kernel reads format {FORMAT}")
    if layout["python"] != PYTHON:
        raise NotRestored(f"it was saved by Python {layout['python']}, this is Python {PYTHON}")
    if layout["dill"] is not None and _minor(layout["dill"]) != _minor(_dill_version()):
        raise NotRestored(f"it was saved with dill {layout['dill']}, here is dill {_dill_version()}")


def _dill_version() -> str:
    return version("dill")


def _minor(text: str) -> list[str]:
    return text.split(".")[:2]
