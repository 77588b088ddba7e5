"""Keeps what a kernel never uses out of its start: a quarter of its processor time, a fifth of its memory.

``import jupyter_client`` brings the clients, managers and provisioners along, of which a kernel needs none. A
stand-in for the package lets its submodules be imported one by one, and becomes the real package at the first
use of anything else. ipykernel's debugger loads debugpy; a stand-in says that there is none.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package whose ``__init__`` has not run yet and runs when an attribute is asked for that it would set."""

    def __getattr__(self, name: str) -> Any:
        if name == "write_connection_file":  # the one thing that ipykernel takes from the package itself
            return importlib.import_module(f"{self.__name__}.connect").write_connection_file
        if name.startswith("__"):
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def install() -> None:
    """Put the stand-ins into ``sys.modules``. Called before ipykernel is imported."""
    _install_package("jupyter_client")
    debugger = ModuleType("ipykernel.debugger")
    debugger._is_debugpy_available = False  # type: ignore[attr-defined]
    debugger.Debugger = type("Debugger", (), {})  # type: ignore[attr-defined]
    sys.modules["ipykernel.debugger"] = debugger


def _install_package(name: str) -> None:
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        return
    package = LazyPackage(name)
    package.__spec__ = spec
    package.__loader__ = spec.loader
    package.__path__ = list(spec.submodule_search_locations or [])
    package.__file__ = spec.origin
    package.__package__ = name
    sys.modules[name] = package
