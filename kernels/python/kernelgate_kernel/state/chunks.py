"""Chunks: what a state is cut into, named by their SHA-256 so that nothing is sent twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import sha256
from threading import Thread

CHUNK = 2 << 20
TOGETHER = 4 << 20
"""Bytes from which on two threads share the hashing; it does not hold the interpreter's lock."""

SHADOWS = 32 << 20
"""Bytes of copies that are kept, to tell what has changed."""

Bytes = bytes | bytearray | memoryview


def cut(stream: Bytes) -> list[memoryview]:
    """Return the pieces of ``stream``, without copying it."""
    view = memoryview(stream)
    return [view[start : start + CHUNK] for start in range(0, len(view), CHUNK)]


def join(chunks: Iterable[Bytes], size: int) -> bytearray:
    """Put the pieces of a stream of ``size`` bytes together. Raises ValueError when they do not make that."""
    stream = bytearray(size)
    place = 0
    for chunk in chunks:
        stream[place : place + len(chunk)] = chunk
        place += len(chunk)
    if place != size or len(stream) != size:
        raise ValueError(f"a stream of {size} bytes came with {place}")
    return stream


def digests(chunks: Sequence[Bytes]) -> list[str]:
    """Return the SHA-256 of each chunk in hexadecimal."""
    names = [""] * len(chunks)
    todo = iter(range(len(chunks)))

    def work() -> None:
        for index in todo:
            names[index] = sha256(chunks[index]).hexdigest()

    helper = _start(work) if sum(map(len, chunks)) > TOGETHER else None
    work()
    if helper is not None:
        helper.join()
    return names


def _start(work: Callable[[], None]) -> Thread | None:
    thread = Thread(target=work, name="hashing", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # user code has taken all the threads there may be
        return None
    return thread


class Parcel:
    """What one save sends: each chunk once, and none that the gateway has."""

    def __init__(self, known: frozenset[str]) -> None:
        self._known = known
        self.numbers: dict[str, int] = {}
        """Those of the chunks that were hashed, by their digests."""
        self.chunks: list[Callable[[], Bytes]] = []
        """What gives the chunks to be sent, in order."""

    def refer(self, name: str, give: Callable[[], Bytes]) -> int | str:
        """Return how the layout refers to a chunk; ``give`` returns its bytes when it is time to send them."""
        if name in self._known:
            return name
        if name not in self.numbers:
            self.numbers[name] = self.add(give)
        return self.numbers[name]

    def add(self, give: Callable[[], Bytes]) -> int:
        """Send a chunk without looking whether it is known; returns how the layout refers to it."""
        self.chunks.append(give)
        return len(self.chunks) - 1

    def knows(self, name: str) -> bool:
        return name in self._known


class Shadow:
    """A copy of a piece as it was saved last. ``name`` is empty until the gateway has told it."""

    __slots__ = ("copy", "name", "number")

    def __init__(self, piece: memoryview, name: str) -> None:
        self.copy = bytearray(piece)
        self.name = name
        self.number = -1
        """The number of the chunk in the save that it was sent with."""

    def give(self) -> bytearray:
        return self.copy

    def renew(self, piece: memoryview) -> None:
        """Copy anew, into the same memory if it fits: to get other memory costs as much as to copy."""
        if len(self.copy) == len(piece):
            memoryview(self.copy)[:] = piece
        else:
            self.copy = bytearray(piece)


class Shadows:
    """Tells which pieces have changed since the last save: to compare costs a quarter of what hashing does.

    A piece that is new is hashed. One that has changed is sent without a name; the gateway names what it gets, and
    tells the names with the next request. Pieces are known by their places: those of the same variables stay the
    same, and where they do not, they count as changed.
    """

    def __init__(self) -> None:
        self._shadows: list[Shadow] = []

    def learn(self, names: Sequence[str]) -> None:
        """Take the names of the chunks that the last save sent, in their order."""
        for shadow in self._shadows:
            if not shadow.name and 0 <= shadow.number < len(names):
                shadow.name = names[shadow.number]

    def refer(self, parcel: Parcel, pieces: Sequence[memoryview]) -> list[int | str]:
        """Return how the layout refers to each piece."""
        refs: list[int | str] = [
            self._again(parcel, shadow, piece) for shadow, piece in zip(self._shadows, pieces, strict=False)
        ]
        del self._shadows[len(pieces) :]
        room = SHADOWS - sum(len(shadow.copy) for shadow in self._shadows)
        fresh = pieces[len(refs) :]
        for name, piece in zip(digests(fresh), fresh, strict=True):
            room -= len(piece)
            if room >= 0:
                shadow = Shadow(piece, name)
                self._shadows.append(shadow)
                refs.append(parcel.refer(name, shadow.give))
            else:
                refs.append(parcel.refer(name, partial(_same, piece)))
        return refs

    def _again(self, parcel: Parcel, shadow: Shadow, piece: memoryview) -> int | str:
        if shadow.copy != piece:
            shadow.renew(piece)
        elif shadow.name and parcel.knows(shadow.name):
            return parcel.refer(shadow.name, shadow.give)
        shadow.name = ""
        shadow.number = parcel.add(shadow.give)
        return shadow.number


def refer_all(parcel: Parcel, pieces: Sequence[memoryview]) -> list[int | str]:
    """Return how the layout refers to each piece, by its hash."""
    names = digests(pieces)
    return [parcel.refer(name, partial(_same, piece)) for name, piece in zip(names, pieces, strict=True)]


def _same(piece: memoryview) -> memoryview:
    return piece
