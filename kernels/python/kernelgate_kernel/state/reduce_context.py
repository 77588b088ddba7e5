"""What is known during one dump, and how things are named that can be imported."""

from __future__ import annotations

from collections.abc import Callable
from sys import maxsize, modules
from types import ModuleType
from typing import Any

from .modules import MAIN, is_importable

STATE = frozenset({"__getstate__", "__setstate__"})
REDUCE = frozenset({"__reduce__", "__reduce_ex__"})
"""Attributes with which a class says how its objects are saved."""

MODULE = type.__dict__["__module__"].__get__

Reduce = Callable[["Context", Any], Any]
"""Tells how an object is saved: what ``Pickler.reducer_override`` returns."""


class Refused(Exception):
    """The object is of a kind that cannot be saved. The text says why."""


class TooLarge(Exception):
    """What is to be saved takes more bytes than there is room for."""


class Context:
    """Shared by the functions that reduce objects during one dump.

    ``namespace`` holds the user's names. ``homes``, by the id of a dictionary that functions may have as globals:
    the module whose dictionary it is, or the dictionary itself when it is the value of a variable. ``owners``: the
    array that stands for a piece of memory, by the id of the array that owns it. ``dill``: its version when it was
    needed. ``room`` tells how many bytes may still be written.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self.homes: dict[int, ModuleType | dict[str, Any]] = {}
        self.owners: dict[int, Any] = {}
        self.dill: str | None = None
        self.room: Callable[[], int] = lambda: maxsize
        self._globals: dict[int, tuple[dict[str, Any], dict[str, Any], set[str]]] = {}
        self._news: list[tuple[set[str], str]] = []  # since the last commit
        self._dill: str | None = None  # at the last commit

    def copy(self) -> Context:
        """Return one for a dump besides this one."""
        other = Context(self.namespace)
        other.homes, other.owners = self.homes.copy(), self.owners
        return other

    def globals_of(self, original: dict[str, Any], names: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what stands for a dictionary of globals, and those of its ``names`` that were not saved yet."""
        _, home, saved = self._globals.setdefault(id(original), (original, {}, set()))
        news = {name: original[name] for name in names if name in original and name not in saved}
        for name in news:
            saved.add(name)
            self._news.append((saved, name))
        return home, news

    def commit(self) -> None:
        """What was saved stays saved."""
        self._news.clear()
        self._dill = self.dill

    def forget(self) -> None:
        """What was saved since the last commit is not saved."""
        for saved, name in self._news:
            saved.discard(name)
        self._news.clear()
        self.dill = self._dill


def module_of(kind: type) -> str | None:
    """Return the name of the module that a class says it is from."""
    try:
        name = MODULE(kind)
    except AttributeError:
        return None
    return name if type(name) is str else None


def is_found(value: object, module: object, qualname: object) -> bool:
    """Tell whether ``value`` is what an import of its module and its name finds."""
    if type(module) is not str or type(qualname) is not str or module == MAIN or "<" in qualname:
        return False
    place: Any = modules.get(module)
    if not is_importable(place):
        return False
    for part in qualname.split("."):
        place = getattr(place, part, None)
    return place is value
