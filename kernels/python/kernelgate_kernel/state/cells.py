"""Values as JSON: what a table of a variable's content shows."""

from __future__ import annotations

from datetime import date, datetime, time
from math import isfinite
from typing import Any

from .guard import Guard
from .libraries import Libraries, is_a
from .preview import Previews, container_of, integer_text, one_line

MAX_CELL = 1000
LARGEST = 1 << 53
"""The largest integer that a reader of JSON may be trusted with."""

MAX_DEPTH = 4
MAX_NESTED = 5000
"""Characters of what is in a container that is in one cell, about."""

DATES = (datetime, date, time)


class Cells:
    """Turns values into JSON: no NaN, no lone surrogates, keys that are text, everything bounded.

    What JSON does not have is text: dates in ISO format, bytes by their ``repr``, others by their ``str``.
    """

    def __init__(self, guard: Guard, libraries: Libraries) -> None:
        self._guard = guard
        self._libraries = libraries
        self._previews = Previews(guard, libraries)
        self._left = 0

    def cell(self, value: object) -> Any:
        """Return one value, with the beginning of what is in it."""
        self._left = MAX_NESTED
        return self._clean(value, 0)

    def key(self, value: object) -> str:
        """Return the text that stands for a key or a column's name."""
        cleaned = self.cell(value)
        return cleaned if isinstance(cleaned, str) else text_of(self._text(value))

    def _clean(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return text_of(value)
        if kind is float:
            return value if isfinite(value) else None
        if kind is int:
            return value if -LARGEST <= value <= LARGEST else integer_text(value)
        if kind is bytes or kind is bytearray:
            return text_of(self._previews.of(value, MAX_CELL))
        if any(value is each for each in self._libraries.missing):
            return None
        base = container_of(value)
        if base is not None:
            return self._container(value, base, depth)
        return self._other(value, depth)

    def _container(self, value: Any, base: Any, depth: int) -> Any:
        if depth >= MAX_DEPTH or self._left <= 0:
            return self._previews.of(value)
        try:
            if base is dict:
                return self._record(value, depth)
            cleaned: list[Any] = []
            for item in base.__iter__(value):
                if self._left <= 0:
                    cleaned.append("...")
                    break
                cleaned.append(self._inner(item, depth))
        except RuntimeError:  # another thread changes it
            return self._previews.of(value)
        return cleaned

    def _inner(self, item: Any, depth: int) -> Any:
        cleaned = self._clean(item, depth + 1)
        self._left -= 2 + (len(cleaned) if isinstance(cleaned, str) else 8)
        return cleaned

    def _record(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for key, item in dict.items(value):
            if self._left <= 0:
                record["..."] = "..."
                break
            name = unused(text_of(key if type(key) is str else self._text(key)), record)
            self._left -= len(name)
            record[name] = self._inner(item, depth)
        return record

    def _other(self, value: Any, depth: int) -> Any:
        if is_a(value, self._libraries.scalars):
            return self._guard.attempt(None, self._scalar, value, depth)
        if is_a(value, self._libraries.shaped):
            return text_of(self._previews.of(value, MAX_CELL))
        return text_of(self._text(value))

    def _scalar(self, value: Any, depth: int) -> Any:
        plain = value.item()
        if is_a(value, self._libraries.scalars) and value.dtype.kind in "mM":
            text = str(value)
            return None if text == "NaT" else text
        if is_a(plain, self._libraries.scalars):  # what Python has no type for
            return text_of(str(plain))
        return self._clean(plain, depth)

    def _text(self, value: object) -> str:
        if type(value) is int:
            return integer_text(value)
        text = None
        if is_a(value, DATES):
            text = self._guard.attempt(None, iso_text, value)
        elif container_of(value) is None:
            text = self._guard.attempt(None, one_line, value, str, MAX_CELL)
        return self._previews.of(value, MAX_CELL) if text is None else text


def iso_text(value: Any) -> str:
    """Return a date or a time in ISO format."""
    return str.__getitem__(value.isoformat(), slice(0, MAX_CELL))


def text_of(text: str) -> str:
    """Return a text that fits into a cell and that UTF-8 can carry: lone surrogates are escaped."""
    cut = text if len(text) <= MAX_CELL else text[: MAX_CELL - 3] + "..."
    return cut if cut.isascii() else cut.encode("utf-8", "backslashreplace").decode("utf-8")[:MAX_CELL]


def unused(name: str, taken: Any) -> str:
    """Return ``name``, with a number behind it when it is taken."""
    number, found = 2, name
    while found in taken:
        found, number = f"{name}.{number}", number + 1
    return found
