"""What is known of a value's class without asking it, and the classes of libraries that user code imported.

A metaclass may redefine names, comparison and hashing, so classes are read through ``type`` and compared by
identity.
"""

from __future__ import annotations

from sys import modules
from types import ModuleType
from typing import Any

MRO = type.__dict__["__mro__"].__get__
NAME = type.__dict__["__name__"].__get__


def is_a(value: object, classes: tuple[type, ...]) -> bool:
    """Tell whether ``value`` is an instance. Unlike ``isinstance`` it runs no code of the value's class."""
    return any(each is one for each in MRO(type(value)) for one in classes)


def class_name(value: object) -> str:
    """Return the name of the class of ``value``."""
    return str.__str__(NAME(type(value)))


def attribute(library: str, name: str) -> Any:
    """Return what a library that is imported has under a name; None when there is nothing."""
    module = modules.get(library)
    if module is None or not is_a(module, (ModuleType,)):
        return None
    return ModuleType.__getattribute__(module, "__dict__").get(name)


def classes(library: str, *names: str) -> tuple[type, ...]:
    """Return those classes of a library that are there. No library is imported."""
    return tuple(each for each in (attribute(library, name) for name in names) if is_a(each, (type,)))


class Libraries:
    """The classes whose shape, size and content are known here, at this moment."""

    def __init__(self) -> None:
        self.arrays = classes("numpy", "ndarray")
        self.scalars = classes("numpy", "generic")
        self.masked = classes("numpy.ma", "MaskedArray")
        self.frames = classes("pandas", "DataFrame")
        self.series = classes("pandas", "Series")
        self.indexes = classes("pandas", "Index")
        self.others = (*classes("torch", "Tensor"), *classes("polars", "DataFrame", "Series"))
        self.shaped = (*self.arrays, *self.frames, *self.series, *self.indexes, *self.others)
        self.missing = tuple(attribute("pandas", name) for name in ("NA", "NaT")) if self.frames else ()
