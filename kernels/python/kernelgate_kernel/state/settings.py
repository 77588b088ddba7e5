"""Settings of the interpreter and of libraries that a session has changed.

Only what is different from the beginning is kept, so that a library is imported for it only where the session has
changed it; and only what JSON can say. A library that has other settings than known here keeps none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from sys import getrecursionlimit, modules, setrecursionlimit
from typing import Any

from .guard import Guard

SAVE_SECONDS = 0.5
APPLY_SECONDS = 10.0
"""For each library, which may have to be imported from a slow disk."""

MAX_TEXT = 1000
MAX_ITEMS = 100
MAX_DEPTH = 3
MAX_BITS = 64

NUMPY: dict[str, Any] = {
    "edgeitems": 3,
    "threshold": 1000,
    "floatmode": "maxprec",
    "precision": 8,
    "suppress": False,
    "linewidth": 75,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "legacy": False,
}
"""What numpy begins with. It keeps no copy of it."""

DECIMAL: dict[str, Any] = {"prec": 28, "rounding": "ROUND_HALF_EVEN"}

NOT_STYLE = ("backend", "backend_fallback", "interactive", "toolbar", "savefig.directory", "date.epoch")
"""Settings of matplotlib that say where it runs."""

Values = dict[str, Any]


class Settings:
    """Tells what has changed since the beginning, and makes the same changes elsewhere."""

    def __init__(self) -> None:
        self._recursion_limit = getrecursionlimit()

    def changes(self) -> Values:
        """Return what is different, by library, fit for JSON. Raises nothing for what user code has put there."""
        guard = Guard(SAVE_SECONDS)
        found: Values = {}
        for name, (changes, _) in LIBRARIES.items():
            values = guard.attempt(None, known, changes) if name in modules else None
            if values:
                found[name] = values
        limit = getrecursionlimit()
        if limit != self._recursion_limit:
            found["sys"] = limit
        return found

    def apply(self, changes: Mapping[str, Any]) -> None:
        """Make changes. One that is not possible is left out.

        A recursion limit below the one of the beginning is none that the kernel itself can be sure to work with.
        """
        guard = Guard(APPLY_SECONDS * len(LIBRARIES))
        for name, (_, apply) in LIBRARIES.items():
            if changes.get(name):
                guard.attempt(None, apply, changes[name], seconds=APPLY_SECONDS)
        limit = changes.get("sys")
        if type(limit) is int and limit > self._recursion_limit:
            guard.attempt(None, setrecursionlimit, limit)


def known(changes: Callable[[], Iterator[tuple[str, Any]]]) -> Values | None:
    """Return those of the changes that JSON can say."""
    return {name: value for name, value in changes() if type(name) is str and is_plain(value)}


def is_plain(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Tell whether a value is small and made of nothing but what JSON has."""
    kind = type(value)
    if kind is str:
        return len(value) <= MAX_TEXT
    if kind is int:
        return bool(value.bit_length() <= MAX_BITS)
    if kind is list or kind is tuple:
        return depth > 0 and len(value) <= MAX_ITEMS and all(is_plain(each, depth - 1) for each in value)
    return value is None or kind is float or kind is bool


def numpy_changes() -> Iterator[tuple[str, Any]]:
    options = modules["numpy"].get_printoptions()
    return ((name, options[name]) for name, first in NUMPY.items() if options[name] != first)


def apply_numpy(values: Values) -> None:
    import_module("numpy").set_printoptions(**values)


def decimal_changes() -> Iterator[tuple[str, Any]]:
    context = modules["decimal"].getcontext()
    now = {name: getattr(context, name) for name in DECIMAL}
    return ((name, value) for name, value in now.items() if value != DECIMAL[name])


def apply_decimal(values: Values) -> None:
    context = import_module("decimal").getcontext()
    for name in DECIMAL.keys() & values.keys():
        setattr(context, name, values[name])


def pandas_changes() -> Iterator[tuple[str, Any]]:
    """Pandas has its options in nested dictionaries; what it asks for one of them takes too long for all."""
    config: Any = modules["pandas._config.config"]
    options = config._registered_options
    return (
        (name, value)
        for name, value in flat(config._global_config, "")
        if value is not options[name].defval and value != options[name].defval
    )


def flat(options: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if type(value) is dict:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def apply_pandas(values: Values) -> None:
    set_option = import_module("pandas").set_option
    for name, value in values.items():
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # one that this version does not have
            set_option(name, value)


def matplotlib_changes() -> Iterator[tuple[str, Any]]:
    """A cycle of colours and the like is told as text, which matplotlib takes as well."""
    library: Any = modules["matplotlib"]
    before = dict(dict.items(library.rcParamsOrig))
    for name, value in dict.items(library.rcParams):
        first = before.get(name)
        if value is not first and name not in NOT_STYLE and value != first:
            yield name, repr(value) if type(value).__name__ == "Cycler" else value


def apply_matplotlib(values: Values) -> None:
    settings = import_module("matplotlib").rcParams
    for name, value in values.items():
        with suppress(ValueError, KeyError):  # one that this version does not have
            settings[name] = value


LIBRARIES: dict[str, tuple[Callable[[], Iterator[tuple[str, Any]]], Callable[[Values], None]]] = {
    "decimal": (decimal_changes, apply_decimal),
    "numpy": (numpy_changes, apply_numpy),
    "pandas": (pandas_changes, apply_pandas),
    "matplotlib": (matplotlib_changes, apply_matplotlib),
}
