"""Text that comes from user code, made fit to be shown."""

from __future__ import annotations

MAX_TEXT = 200


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Return ``text`` on one line, with what cannot be printed escaped, in at most ``limit`` characters."""
    cut = text[: limit + 1]
    if not cut.isprintable():
        cut = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in cut
        )
    return cut if len(cut) <= limit else cut[: limit - 3] + "..."
