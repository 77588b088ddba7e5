"""Chunks: what a state is cut into, named by their SHA-256 so that nothing is sent twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from threading import Thread

CHUNK = 2 << 20
TOGETHER = 4 << 20
"""Bytes from which on two threads share the hashing; it does not hold the interpreter's lock."""

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
        self._numbers: dict[str, int] = {}
        self.chunks: list[Callable[[], Bytes]] = []
        """What gives the chunks to be sent, in order."""
        self.names: set[str] = set()
        """The digests of all chunks that the save consists of."""

    def refer(self, name: str, give: Callable[[], Bytes]) -> int | str:
        """Return how the layout refers to a chunk; ``give`` returns its bytes when it is time to send them."""
        self.names.add(name)
        if name in self._known:
            return name
        if name not in self._numbers:
            self._numbers[name] = len(self.chunks)
            self.chunks.append(give)
        return self._numbers[name]
