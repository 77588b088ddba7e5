"""What the user's variables are: a list of all, and the content of one, page by page.

The values belong to user code, and so may the methods of their classes: whatever is called here is called under
guard, and what it says is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from json import dumps
from sys import getsizeof
from types import ModuleType
from typing import Any

from .cells import LARGEST, Cells, text_of, unused
from .guard import Guard
from .libraries import Libraries, class_name, is_a
from .preview import Previews, container_of, items_of, length_of, plain_array
from .text import printable

MAX_VARIABLES = 1000
MAX_ROWS = 1000
MAX_COLUMNS = 1000
MAX_BYTES = 2_000_000
"""The most that the rows of one reply may take as JSON, about."""

ROW_ITEMS = 20_000
"""Items of an array of more than one dimension that one row may show: of numbers, of anything else."""
ROW_OBJECTS = 500

ALL_SECONDS = 1.5
USER_SECONDS = 1.0
ONE_SECONDS = 2.0
VARIABLE_SECONDS = 0.5

SCALARS = frozenset(map(id, (type(None), bool, int, float, complex, type(...))))
SEQUENCES = frozenset(map(id, (str, bytes, bytearray, range)))
EXACT = frozenset(map(id, (list, tuple, set, frozenset, dict)))

Json = dict[str, Any]
Facts = tuple[int | None, int | None, list[int | None] | None]
UNKNOWN: Facts = (None, None, None)


def describe_all(namespace: Mapping[str, Any], hidden: Collection[str]) -> Json:
    """Return the reply that lists all variables but those in ``hidden`` and those that begin with ``_``."""
    names = sorted(
        name for name in list(namespace) if type(name) is str and name[:1] != "_" and name not in hidden
    )
    variables = _Variables()
    listed = [variables.describe(name, namespace.get(name)) for name in names[:MAX_VARIABLES]]
    return {"status": "ok", "variables": listed, "truncated": len(names) > MAX_VARIABLES}


def describe(namespace: Mapping[str, Any], name: object, rows: object, offset: object) -> Json:
    """Return the reply that shows one variable, ``rows`` (at most `MAX_ROWS`) of its rows from ``offset`` on."""
    if type(name) is not str or type(rows) is not int or type(offset) is not int:
        return _error("name must be a text, rows and offset whole numbers")
    if name not in namespace:
        return {**_error(f"there is no variable {printable(name)}"), "unknown": True}
    variables, value = _Variables(), namespace.get(name)
    variable = variables.describe(name, value)
    page = Page(min(max(rows, 0), MAX_ROWS), max(offset, 0))
    if not Guard(ONE_SECONDS).attempt(False, variables.fill, page, value, seconds=ONE_SECONDS):
        return _error(
            f"{printable(name)} cannot be shown: to read it fails or takes longer than {ONE_SECONDS:g} s"
        )
    return {"status": "ok", "variable": {**variable, **page.content()}, "truncated": page.truncated}


class Page:
    """Rows of one variable, as many as fit."""

    def __init__(self, rows: int, offset: int) -> None:
        self.count = rows
        self.offset = offset
        self.total = 0
        self.rows: list[Any] = []
        self.dtypes: dict[str, str] | None = None
        """The type of each column, by the keys of the records; None for what has no columns."""
        self.truncated = False
        self._left = MAX_BYTES

    def span(self, total: int) -> tuple[int, int]:
        """Return the first row and the one behind the last; ``total`` is how many there are."""
        self.total = total
        start = min(self.offset, total)
        return start, min(start + self.count, total)

    def take(self, rows: Iterable[Any]) -> None:
        """Take rows as long as they fit."""
        for row in rows:
            self._left -= len(dumps(row)) + 2
            if self._left < 0:
                self.truncated = True
                return
            self.rows.append(row)

    def content(self) -> Json:
        content: Json = {"rows": self.rows, "offset": min(self.offset, LARGEST), "total": self.total}
        if self.dtypes is not None:
            content |= {"columns": list(self.dtypes), "dtypes": self.dtypes}
        return content


class _Variables:
    """Describes values within the time of one request."""

    def __init__(self) -> None:
        self._libraries = Libraries()
        self._guard = Guard(ALL_SECONDS)
        user = Guard(USER_SECONDS)
        self._previews = Previews(user, self._libraries)
        self._cells = Cells(user, self._libraries)

    def describe(self, name: str, value: object) -> Json:
        """Return name, type, size, length, shape and preview."""
        kind, facts = _kind(value), UNKNOWN
        if id(type(value)) in SCALARS:
            facts, preview = (getsizeof(value), None, None), self._previews.of(value)
        else:
            facts = self._guard.attempt(UNKNOWN, self._facts, value, seconds=VARIABLE_SECONDS)
            preview = self._guard.attempt(f"<{kind} object>", self._previews.of, value, seconds=VARIABLE_SECONDS)
        size, length, shape = facts
        return {
            "name": printable(name),
            "type": printable(kind),
            "size": size,
            "length": length,
            "shape": shape,
            "preview": printable(preview),
        }

    def _facts(self, value: Any) -> Facts:
        """Return size, length and shape of a value, None for what is not known cheaply."""
        kind = id(type(value))
        if kind in SEQUENCES:
            return getsizeof(value), len(value), None
        base = container_of(value)
        if base is not None:
            return getsizeof(value) if kind in EXACT else None, length_of(value, base), None
        if is_a(value, self._libraries.scalars):
            return _count(value.nbytes), None, None
        if not is_a(value, self._libraries.shaped):
            return None, None, None
        shape = [_count(length) for length in value.shape]
        size = self._guard.attempt(None, self._bytes, value)
        return size, shape[0] if shape else None, shape

    def _bytes(self, value: Any) -> int | None:
        if is_a(value, self._libraries.frames) or is_a(value, self._libraries.series):
            used = value.memory_usage(deep=False)
            return _count(used.sum() if is_a(value, self._libraries.frames) else used)
        if is_a(value, self._libraries.others) and not hasattr(value, "nbytes"):
            return _count(value.estimated_size())
        return _count(value.nbytes)

    # ---- content

    def fill(self, page: Page, value: Any) -> bool:
        """Put the rows of ``value`` on the page and return True. Raises whatever user code raises."""
        known = self._libraries
        base = container_of(value)
        if is_a(value, known.frames):
            self._fill_frame(page, value)
        elif is_a(value, known.series):
            self._fill_frame(page, value.to_frame("value" if value.name is None else value.name))
        elif is_a(value, known.indexes):
            start, end = page.span(len(value))
            page.take(map(self._cells.cell, value[start:end].tolist()))
        elif is_a(value, known.arrays):
            self._fill_array(page, plain_array(value, known))
        elif base is not None:
            self._fill_items(page, value, base)
        elif type(value) is range:
            start, end = page.span(len(value))
            page.take(map(self._cells.cell, value[start:end]))
        return True

    def _fill_items(self, page: Page, value: Any, base: Any) -> None:
        start, end = page.span(length_of(value, base))
        items = islice(dict.items(value) if base is dict else base.__iter__(value), start, end)
        if base is dict:
            page.take({"key": self._cells.key(key), "value": self._cells.cell(item)} for key, item in items)
        else:
            page.take(map(self._cells.cell, items))

    def _fill_frame(self, page: Page, frame: Any) -> None:
        height, width = frame.shape
        start, end = page.span(height)
        page.truncated = width > MAX_COLUMNS
        part = frame.iloc[start:end, :MAX_COLUMNS]
        keys: dict[str, str] = {"index": ""}
        for column, dtype in zip(part.columns.tolist(), part.dtypes.tolist(), strict=True):
            keys[unused(self._cells.key(column), keys)] = text_of(printable(str(dtype)))
        columns = [part.index.tolist(), *(part.iloc[:, number].tolist() for number in range(part.shape[1]))]
        page.take(
            {key: self._cells.cell(value) for key, value in zip(keys, row, strict=True)}
            for row in zip(*columns, strict=True)
        )
        page.dtypes = {key: dtype for key, dtype in keys.items() if key != "index"}

    def _fill_array(self, page: Page, array: Any) -> None:
        if array.ndim == 0:
            array = array.reshape(1)
        start, end = page.span(len(array))
        clean = _dates if array.dtype.kind in "mM" else self._cells.cell
        names = array.dtype.names
        if array.ndim == 1 and names:
            page.dtypes = {text_of(name): printable(str(array.dtype[name])) for name in names}
            keys = list(page.dtypes)
            page.take(dict(zip(keys, map(clean, row), strict=True)) for row in array[start:end].tolist())
        elif array.ndim == 1:
            page.take(map(clean, items_of(array[start:end])))
        else:
            corner = _corner(array.shape[1:], ROW_ITEMS if array.dtype.kind in "biufc" else ROW_OBJECTS)
            page.truncated = any(dim > part.stop for dim, part in zip(array.shape[1:], corner, strict=True))
            page.take(_nested(items_of(array[(number, *corner)]), clean) for number in range(start, end))


def _kind(value: object) -> str:
    for base, name in ((ModuleType, "module"), (type, "type")):
        if is_a(value, (base,)):
            return name
    return class_name(value)


def _count(number: Any) -> int | None:
    count = int(number)
    return count if 0 <= count < LARGEST else None


def _error(reason: str) -> Json:
    return {"status": "error", "reason": reason}


def _dates(text: Any) -> Any:
    return None if text == "NaT" else text


def _corner(shape: Iterable[int], left: int) -> list[slice]:
    """Return the part of a row of an array that has at most ``left`` items; the last axes are kept whole first."""
    parts = []
    for dim in reversed(list(shape)):
        parts.append(slice(0, min(dim, left)))
        left = max(1, left // max(1, min(dim, left)))
    return parts[::-1]


def _nested(items: Any, clean: Callable[[Any], Any]) -> Any:
    """Apply ``clean`` to what is in nested lists."""
    return [_nested(item, clean) for item in items] if type(items) is list else clean(items)
