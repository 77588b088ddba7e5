"""One line that shows a value, whatever the value is."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from .guard import Guard
from .libraries import MRO, Libraries, class_name, is_a
from .text import MAX_TEXT, printable

MAX_DEPTH = 6
MAX_BITS = 660
"""An integer of more bits, which is 200 digits, is not turned into digits: that takes quadratic time."""

WIDTH = 20
MAX_DIMENSIONS = 4

CLASS_DICT = type.__dict__["__dict__"].__get__
PLAIN = frozenset(map(id, (type(None), bool, float, complex, type(...), type(NotImplemented), range)))
STRINGS = frozenset(map(id, (str, bytes, bytearray)))
BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
    dict: ("{", "}"),
    deque: ("deque([", "])"),
}
CONTAINERS: dict[int, type] = {
    **{id(each): each for each in BRACKETS},
    **{id(each): dict for each in (defaultdict, OrderedDict, Counter)},
}
"""The containers whose items are looked at, not by their ``repr``: by the class's id, what they are to us."""


class More:
    """What stands for items that are not shown."""

    def __repr__(self) -> str:
        return "..."


MORE = More()


class Previews:
    """Shows values. What is not a builtin type shows itself, under guard, or as ``<ItsClass object>``."""

    def __init__(self, guard: Guard, libraries: Libraries) -> None:
        self._guard = guard
        self._libraries = libraries

    def of(self, value: object, limit: int = MAX_TEXT) -> str:
        """Return at most ``limit`` characters."""
        return printable(self._show(value, 0, limit), limit)

    def _show(self, value: Any, depth: int, limit: int) -> str:
        kind = type(value)
        if id(kind) in PLAIN or value is MORE:
            return repr(value)
        if kind is int:
            return integer_text(value)
        if id(kind) in STRINGS:
            return repr(value[: limit + 1])
        base = container_of(value, shown=True)
        if base is not None:
            return self._container(value, base, depth, limit)
        fallback = f"<{class_name(value)} object>"
        if is_a(value, self._libraries.shaped):
            return self._guard.attempt(fallback, self._shaped, value, depth, limit)
        return definition(value) or self._guard.attempt(fallback, one_line, value, repr, limit)

    def _container(self, value: Any, base: type, depth: int, limit: int) -> str:
        left, right = BRACKETS[base]
        if type(value) is not base:
            left, right = f"{class_name(value)}({left}", f"{right})"
        length = length_of(value, base)
        if not length:
            return f"{class_name(value)}()" if base is set else left + right
        if depth >= MAX_DEPTH:
            return f"{left}...{right}"
        try:
            items = self._items(value, base, depth, limit)
        except RuntimeError:  # another thread changes it
            return f"<{class_name(value)} of {length} items>"
        return f"{left}{items}{',' if base is tuple and length == 1 else ''}{right}"

    def _items(self, value: Any, base: Any, depth: int, limit: int) -> str:
        parts: list[str] = []
        for item in dict.items(value) if base is dict else base.__iter__(value):
            if limit <= 0:
                parts.append("...")
                break
            if base is dict:
                part = f"{self._show(item[0], depth + 1, limit)}: {self._show(item[1], depth + 1, limit)}"
            else:
                part = self._show(item, depth + 1, limit)
            parts.append(part)
            limit -= len(part) + 2
        return ", ".join(parts)

    def _shaped(self, value: Any, depth: int, limit: int) -> str:
        known = self._libraries
        if is_a(value, known.frames):
            rows, columns = value.shape
            names = ", ".join(one_line(name, str, limit) for name in value.columns[:WIDTH].tolist())
            return f"{rows} rows x {columns} columns: {names}{', ...' if columns > WIDTH else ''}"
        if is_a(value, known.series) or is_a(value, known.indexes):
            first = value.iloc[:WIDTH] if is_a(value, known.series) else value[:WIDTH]
            return f"{value.dtype} {self._show(shortened(first.tolist(), len(value)), depth, limit)}"
        if is_a(value, known.others):
            return f"{class_name(value)} of shape {tuple(value.shape)}"
        array = plain_array(value, known)
        return f"{array.dtype} {self._show(head(array, WIDTH // max(1, array.ndim)), depth, limit)}"


def integer_text(value: int) -> str:
    """Return the digits of an integer, or how long it is."""
    bits = value.bit_length()
    return repr(value) if bits <= MAX_BITS else f"<int of {bits} bits>"


def one_line(value: object, show: Callable[[object], str], limit: int) -> str:
    """Return what ``show`` (``str`` or ``repr``) says, in one line. Raises what user code raises."""
    text = str.__getitem__(show(value), slice(0, 2 * limit))
    return printable(text if text.isprintable() else " ".join(text.split()), limit)


def container_of(value: object, shown: bool = False) -> type | None:
    """Return the builtin type of a container; with ``shown`` only if it shows itself as that type does."""
    for each in MRO(type(value)):
        if id(each) in CONTAINERS:
            return CONTAINERS[id(each)]
        if shown and "__repr__" in CLASS_DICT(each):
            return None
    return None


def length_of(value: object, base: Any) -> int:
    """Return the length of a container, whatever its class says of it."""
    return int(base.__len__(value))


def definition(value: Any) -> str:
    """Return how a module, a function or a class is shown; empty for anything else."""
    if is_a(value, (ModuleType,)):
        name = ModuleType.__getattribute__(value, "__dict__").get("__name__")
        return f"<module {name[:MAX_TEXT]!r}>" if type(name) is str else "<module>"
    if type(value) is FunctionType:
        code = value.__code__
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        return f"<function {value.__qualname__}({', '.join(arguments)})>"
    if type(value) is BuiltinFunctionType:
        return f"<function {value.__name__}>"
    return type.__repr__(value) if is_a(value, (type,)) else ""


def plain_array(array: Any, known: Libraries) -> Any:
    """Return the same data as exactly ``numpy.ndarray``: a subclass has methods of its own.

    A masked array stays one, as it hides some of its data.
    """
    if is_a(array, known.masked):
        return array
    return known.arrays[0].view(array, known.arrays[0])  # type: ignore[attr-defined]


def head(array: Any, width: int) -> Any:
    """Return the first items of an array along each axis, as nested lists."""
    if array.ndim == 0:
        return items_of(array.reshape(1))[0]
    if array.ndim > MAX_DIMENSIONS:
        return MORE
    if array.ndim == 1:
        return shortened(items_of(array[:width]), len(array))
    return shortened([head(row, width) for row in array[:width]], len(array))


def items_of(array: Any) -> list[Any]:
    """Return an array as nested lists; dates and durations as text, as they may be too fine for Python's own."""
    return list((array.astype(str) if array.dtype.kind in "mM" else array).tolist())


def shortened(items: list[Any], length: int) -> list[Any]:
    """Return ``items`` with a mark that there are more."""
    return items if len(items) >= length else [*items, MORE]
