"""The heads that one process has written last, in memory."""

from __future__ import annotations

from collections import OrderedDict

MOST = 128


class Heads:
    """The latest heads: as they are on the disk whenever nothing is being written."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def get(self, key: str, now: float) -> bytes | None:
        """Return a head; None when it is not known or has expired. Times in UNIX seconds."""
        head, end = self._known.get(key, (None, 0.0))
        return head if end > now else None

    def forget(self, key: str) -> None:
        self._known.pop(key, None)

    def remember(self, key: str, head: bytes, end: float) -> None:
        """Take a head that was written and is good until ``end``."""
        self._known[key] = head, end
        self._known.move_to_end(key)
        if len(self._known) > MOST:
            self._known.popitem(last=False)
