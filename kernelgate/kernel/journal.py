"""What a kernel's clients are sent, kept until they have it: bounded, in order. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

OVERHEAD_BYTES = 600
"""Bytes that a message takes beside its parts."""


@dataclass(frozen=True, slots=True)
class Item:
    """A message: its number, and how many bytes all before it had. ``to``: for whom; empty, for all.

    ``once``: it tells of a moment, so nobody is sent it again who may not have read it.
    """

    number: int
    start: int
    channel: str
    parts: Sequence[bytes]
    to: str
    once: bool
    size: int


class Budget:
    """Bytes that all journals of a server may have together: the largest gives way."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._journals: set[Journal] = set()
        self.used = 0

    def add(self, journal: Journal) -> None:
        self._journals.add(journal)

    def remove(self, journal: Journal) -> None:
        self._journals.discard(journal)

    def take(self, size: int) -> None:
        """Count ``size`` bytes more, or fewer."""
        self.used += size
        while size > 0 and self.used > self._max_bytes and self._journals:
            largest = max(self._journals, key=lambda journal: journal.size)
            if not largest.size:
                return
            largest.cut()


class Journal:
    """The messages from number ``first`` on; ``next`` is the number of the one that comes next."""

    def __init__(self, max_bytes: int, budget: Budget) -> None:
        self._max_bytes = max_bytes
        self._budget = budget
        self._items: deque[Item] = deque()
        self.first = self.next = 0
        self.size = 0
        self.end = 0
        """Bytes of all messages that there ever were."""
        budget.add(self)

    def append(self, channel: str, parts: Sequence[bytes], to: str = "", once: bool = False) -> None:
        """Add a message; when there is too much, the oldest go."""
        size = OVERHEAD_BYTES + sum(map(len, parts))
        self._items.append(Item(self.next, self.end, channel, parts, to, once, size))
        self.next += 1
        self.end += size
        self.size += size
        self._budget.take(size)
        while self.size > self._max_bytes and len(self._items) > 1:
            self.cut()

    def __getitem__(self, number: int) -> Item:
        if number < self.first:
            raise IndexError(f"message {number} is not kept any more")
        return self._items[number - self.first]

    def start_of(self, number: int) -> int:
        """Return how many bytes all messages before that one had."""
        return self[number].start if self.first <= number < self.next else self.end

    def cut(self) -> None:
        """Drop the oldest message."""
        item = self._items.popleft()
        self.first += 1
        self.size -= item.size
        self._budget.take(-item.size)

    def forget(self, before: int) -> None:
        """Drop the messages with numbers below ``before``."""
        while self.first < min(before, self.next):
            self.cut()

    def close(self) -> None:
        """Drop everything."""
        self.forget(self.next)
        self._budget.remove(self)
