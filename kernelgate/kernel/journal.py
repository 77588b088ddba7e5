"""What a kernel's clients are sent, kept until they have it: bounded, in order. Pure.

When there is too much, outputs go first: a client that comes back can do without some of them, but waits for ever
for a reply or an idle status that is missing. So messages are missing in between, and numbers have gaps.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

OVERHEAD_BYTES = 600
"""Bytes that a message takes beside its parts."""

KEPT_SHARE = 2
"""When a journal is full, what is no output may have its bytes divided by this."""

NEVER = sys.maxsize
"""Stands for the number of a message that is not there."""

SPARE_NUMBERS = 1000


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


class _Row:
    """Numbers of messages, ascending, that are taken off in front. ``size``: bytes of these messages."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._head = 0
        """How many were taken off and are still in the list."""
        self.size = 0

    @property
    def first(self) -> int:
        return self._numbers[self._head] if self._head < len(self._numbers) else NEVER

    def append(self, number: int, size: int) -> None:
        self._numbers.append(number)
        self.size += size

    def take_off(self, size: int) -> None:
        """Remove the first one, whose message has ``size`` bytes."""
        self.size -= size
        self._head += 1
        if self._head > SPARE_NUMBERS and 2 * self._head > len(self._numbers):
            del self._numbers[: self._head]
            self._head = 0

    def from_number(self, number: int) -> int:
        """Return the first number that is not below ``number``."""
        index = bisect_left(self._numbers, number, self._head)
        return self._numbers[index] if index < len(self._numbers) else NEVER


class Journal:
    """Messages, by number; ``next`` is the number of the one that comes next."""

    def __init__(self, max_bytes: int, budget: Budget) -> None:
        self._max_bytes = max_bytes
        self._budget = budget
        self._items: dict[int, Item] = {}
        self._outputs, self._kept = _Row(), _Row()
        self.next = 0
        self.end = 0
        """Bytes of all messages that there ever were."""
        budget.add(self)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def first(self) -> int:
        """The number of the oldest message."""
        return min(self._outputs.first, self._kept.first, self.next)

    @property
    def size(self) -> int:
        return self._outputs.size + self._kept.size

    def append(
        self, channel: str, parts: Sequence[bytes], to: str = "", once: bool = False, is_output: bool = False
    ) -> None:
        """Add a message.

        When there is too much, the oldest outputs go, or the oldest of the others when these have more than their
        share. The message itself stays, however large it is, unless the budget is too small for it.
        """
        item = Item(self.next, self.end, channel, parts, to, once, OVERHEAD_BYTES + sum(map(len, parts)))
        self._items[item.number] = item
        (self._outputs if is_output else self._kept).append(item.number, item.size)
        self.next += 1
        self.end += item.size
        self._budget.take(item.size)
        while self.size > self._max_bytes:
            too_many = self._kept.size > self._max_bytes // KEPT_SHARE and self._kept.first < item.number
            row = self._kept if too_many else self._outputs
            if row.first >= item.number:
                break
            self._drop(row)

    def from_number(self, number: int) -> Item | None:
        """Return the message with that number, else the next that is still there; None when there is none."""
        item = self._items.get(number)
        if item is None and number < self.next:
            item = self._items.get(min(self._outputs.from_number(number), self._kept.from_number(number)))
        return item

    def start_of(self, number: int) -> int:
        """Return how many bytes all messages before that one had, or before the next that is still there."""
        item = self.from_number(number)
        return item.start if item is not None else self.end

    def cut(self) -> None:
        """Drop a message: the oldest output, else the oldest of all."""
        self._drop(self._outputs if self._outputs.size else self._kept)

    def forget(self, before: int) -> None:
        """Drop the messages with numbers below ``before``."""
        for row in (self._outputs, self._kept):
            while row.first < min(before, self.next):
                self._drop(row)

    def close(self) -> None:
        """Drop everything."""
        self.forget(self.next)
        self._budget.remove(self)

    def _drop(self, row: _Row) -> None:
        item = self._items.pop(row.first)
        row.take_off(item.size)
        self._budget.take(-item.size)
