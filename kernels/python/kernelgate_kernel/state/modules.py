"""Which modules a fresh process finds by their names."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from sys import modules
from types import ModuleType
from typing import Any

from .libraries import is_a

MAIN = "__main__"
ROOTS = tuple(path.rstrip("/") + "/" for path in sys.path if path.startswith("/"))
"""Where libraries are. Of a module that lies there under its own name nobody needs to be asked."""

_libraries: dict[str, ModuleType] = {}
_verdicts: dict[str, tuple[ModuleType, bool]] = {}
"""What was found out: for good, and during one dump."""


def begin() -> None:
    """Begin a dump: user code may have moved files and changed the module path since the last one."""
    _verdicts.clear()


def is_importable(module: object) -> bool:
    """Tell whether ``module`` is a module that is found by its name in a fresh process, too."""
    if not is_a(module, (ModuleType,)):
        return False
    attributes = ModuleType.__getattribute__(module, "__dict__")
    name = attributes.get("__name__")
    if type(name) is not str or modules.get(name) is not module:
        return False
    if name == MAIN:
        return True
    if attributes.get("__spec__") is not None:
        return is_found_by_name(module, name, attributes["__spec__"])
    parent = modules.get(name.rpartition(".")[0])  # a part of a compiled module, as pyexpat.errors
    return is_importable(parent) and "__path__" not in vars(parent)


def is_found_by_name(module: Any, name: str, spec: Any) -> bool:
    """Tell whether an import of ``name`` finds the file that ``spec``, the module's own, names."""
    if _libraries.get(name) is module:
        return True
    known = _verdicts.get(name)
    if known is not None and known[0] is module:
        return known[1]
    if is_library(name, spec):
        _libraries[name] = module
        return True
    found = find_spec(name)
    verdict = found is not None and getattr(found, "origin", None) == spec.origin
    _verdicts[name] = module, verdict
    return verdict


def is_library(name: str, spec: Any) -> bool:
    """Tell whether a module needs no search: only the loader of source files takes any path under any name."""
    origin = getattr(spec, "origin", None)
    if type(origin) is not str or not is_a(getattr(spec, "loader", None), (SourceFileLoader,)):
        return True
    place = name.replace(".", "/")
    return any(origin in (f"{root}{place}.py", f"{root}{place}/__init__.py") for root in ROOTS)


def find_spec(name: str) -> Any:
    """Return what the finders say of a module, whether it is imported or not."""
    parent = name.rpartition(".")[0]
    path = getattr(modules.get(parent), "__path__", None) if parent else None
    if parent and path is None:
        return None
    finders = (getattr(finder, "find_spec", None) for finder in list(sys.meta_path))
    specs = (find(name, path, None) for find in finders if find is not None)
    return next((spec for spec in specs if spec is not None), None)
