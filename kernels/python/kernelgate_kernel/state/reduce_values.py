"""How objects are saved that are neither functions nor classes, and which ones are not saved at all."""

from __future__ import annotations

import re
import sys
import typing
import weakref
from _io import _IOBase
from _pickle import PicklingError
from gc import get_referents
from importlib import import_module
from io import BytesIO, StringIO
from types import (
    AsyncGeneratorType,
    CoroutineType,
    FrameType,
    GeneratorType,
    MappingProxyType,
    TracebackType,
)
from typing import Any

from . import rebuild
from .libraries import MRO, NAME, class_name
from .modules import MAIN
from .rebuild import CLASS_DICT, is_mutable
from .reduce_context import Context, Refused, is_found, module_of

REFUSED_TYPES: dict[type, str] = {
    GeneratorType: "a generator cannot be saved: it is in the middle of its work",
    CoroutineType: "a coroutine cannot be saved: it is in the middle of its work",
    AsyncGeneratorType: "an async generator cannot be saved: it is in the middle of its work",
    FrameType: "a frame of running code cannot be saved",
    TracebackType: "a traceback cannot be saved: it holds frames of running code",
    weakref.ReferenceType: "a weak reference cannot be saved",
    weakref.ProxyType: "a weak reference cannot be saved",
    weakref.CallableProxyType: "a weak reference cannot be saved",
}
REFUSED_BY_ID = {id(kind): reason for kind, reason in REFUSED_TYPES.items()}

REFUSED_NAMES: dict[tuple[str, str], str] = {
    ("_thread", "lock"): "a lock cannot be saved",
    ("_thread", "RLock"): "a lock cannot be saved",
    ("_thread", "_local"): "data of a thread cannot be saved",
    ("_thread", "_ThreadHandle"): "a thread cannot be saved",
    ("threading", "Thread"): "a thread cannot be saved",
    ("multiprocessing.process", "BaseProcess"): "a process cannot be saved",
    ("multiprocessing.pool", "Pool"): "a pool of processes or threads cannot be saved",
    ("concurrent.futures._base", "Executor"): "a pool of processes or threads cannot be saved",
    ("concurrent.futures._base", "Future"): "a call that runs in the background cannot be saved",
    ("subprocess", "Popen"): "a process cannot be saved",
    ("_socket", "socket"): "an open socket cannot be saved",
    ("select", "epoll"): "an open descriptor cannot be saved",
    ("select", "poll"): "an open descriptor cannot be saved",
    ("selectors", "BaseSelector"): "an open descriptor cannot be saved",
    ("mmap", "mmap"): "memory that is mapped to a file cannot be saved",
    ("_asyncio", "Future"): "a task cannot be saved",
    ("_asyncio", "Task"): "a task cannot be saved",
    ("asyncio.events", "AbstractEventLoop"): "an event loop cannot be saved",
    ("sqlite3", "Connection"): "an open database cannot be saved",
    ("sqlite3", "Cursor"): "an open database cannot be saved",
    ("os", "DirEntry"): "an entry of a folder that is being read cannot be saved",
    ("posix", "DirEntry"): "an entry of a folder that is being read cannot be saved",
    ("posix", "ScandirIterator"): "a folder that is being read cannot be saved",
    ("zmq.sugar.socket", "Socket"): "an open socket cannot be saved",
    ("zmq.sugar.context", "Context"): "an open socket cannot be saved",
    ("IPython.core.interactiveshell", "InteractiveShell"): "the shell is part of the kernel, not of its state",
    ("ipykernel.kernelbase", "Kernel"): "the kernel is not part of its state",
}
OPEN_FILE = "an open file cannot be saved"
STREAMS = ("stdout", "stderr", "stdin", "__stdout__", "__stderr__", "__stdin__")

DICT_VIEWS = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}


def refusal(kind: type) -> str | None:
    """Return why instances of a class are not saved; None when there is no such reason."""
    for base in MRO(kind):
        reason = REFUSED_BY_ID.get(id(base))
        if reason is None:
            reason = REFUSED_NAMES.get((module_of(base) or "", str.__str__(NAME(base))))
        if reason is not None:
            return reason
    return None


def reduce_refused(_context: Context, value: Any) -> Any:
    raise Refused(refusal(type(value)) or f"a {class_name(value)} cannot be saved")


def reduce_file(_context: Context, value: Any) -> Any:
    """The standard streams by name, no other open file."""
    for name in STREAMS:
        if getattr(sys, name, None) is value:
            return rebuild.standard_stream, (name,)
    raise Refused(OPEN_FILE)


def reduce_proxy(_context: Context, value: Any) -> Any:
    """A mappingproxy, by what it shows."""
    return MappingProxyType, tuple(get_referents(value))


def reduce_dictionary_view(_context: Context, value: Any) -> Any:
    return rebuild.make_dictionary_view, (*get_referents(value), DICT_VIEWS[type(value)])


def reduce_match(_context: Context, match: re.Match[Any]) -> Any:
    """By how it is found again. ``pos`` of a match that was not the first one becomes its start."""
    first, own = match.pos, match.start()
    for name, start in (("search", first), ("match", first), ("fullmatch", first), ("match", own)):
        arguments = (match.re, name, match.string, start, match.endpos)
        found = rebuild.make_match(*arguments)
        if found is not None and found.regs == match.regs:
            return rebuild.make_match, arguments
    raise Refused("a match that depends on what was before it cannot be saved")


def reduce_memoryview(_context: Context, value: memoryview) -> Any:
    source: Any = value.obj
    if type(source) in (bytes, bytearray) and value.format == "B" and value.shape == (len(source),):
        return memoryview, (source,)
    if value.format[:1] in "@<>=!" or value.ndim == 0:
        raise Refused("a memoryview of this format cannot be saved")
    data = value.tobytes() if value.readonly else bytearray(value.tobytes())
    return rebuild.make_memoryview, (data, value.format, value.shape)


def reduce_sentinel(_context: Context, value: Any) -> Any:
    """By name: the only instance of its class, which others compare with."""
    for name, each in vars(sys.modules[type(value).__module__]).items():
        if each is value:
            return name
    return NotImplemented


def reduce_type_variable(_context: Context, value: Any) -> Any:
    """A TypeVar, ParamSpec or TypeVarTuple."""
    if is_found(value, value.__module__, value.__name__):
        return NotImplemented
    options, constraints = {}, ()
    if type(value) is typing.TypeVar:
        options = {
            "bound": value.__bound__,
            "covariant": value.__covariant__,
            "contravariant": value.__contravariant__,
        }
        constraints = value.__constraints__
    return rebuild.make_type_variable, (type(value), value.__module__, value.__name__, constraints, options)


def reduce_new_type(_context: Context, value: Any) -> Any:
    if is_found(value, value.__module__, value.__qualname__):
        return NotImplemented
    return typing.NewType, (value.__name__, value.__supertype__), dict(vars(value))


def reduce_weak_mapping(_context: Context, value: Any) -> Any:
    return type(value), (), None, None, iter(list(value.items()))


def reduce_weak_set(_context: Context, value: Any) -> Any:
    return type(value), (list(value),)


def reduce_named(_context: Context, value: Any) -> Any:
    """As it says itself, except by a name of the user's: nobody has that name yet when it is loaded."""
    reduced = value.__reduce_ex__(5)
    if type(reduced) is not str:
        return reduced
    attributes = getattr(value, "__dict__", None)
    return rebuild.make_instance, (type(value),), attributes or None, None, None, rebuild.fill_instance


def reduces_itself(kind: type) -> bool:
    """Tell whether a class of the user's says how it is saved."""
    return module_of(kind) == MAIN and any(
        is_mutable(base) and not CLASS_DICT(base).keys().isdisjoint(("__reduce__", "__reduce_ex__"))
        for base in MRO(kind)
    )


def reduce_stubborn(context: Context, value: Any) -> Any:
    """What says nothing of how it is saved: perhaps dill knows."""
    try:
        return value.__reduce_ex__(5)
    except TypeError as error:
        try:
            dill = import_module("dill")
            payload = dill.dumps(value, protocol=5, byref=True, recurse=True)
        except (ImportError, TypeError, PicklingError):
            raise error from None
        context.dill = str(dill.__version__)
        return dill.loads, (payload,)


def is_stubborn(kind: type) -> bool:
    """Tell whether a compiled class has nothing of its own that says how its objects are saved."""
    if kind is object or is_mutable(kind):
        return False
    own = {name for base in MRO(kind)[:-1] for name in CLASS_DICT(base)}
    return not own & {"__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__"}


def is_file(kind: type) -> bool:
    """Tell whether instances of a class are files, which are more than memory."""
    names = {id(base) for base in MRO(kind)}
    return id(_IOBase) in names and not names & {id(BytesIO), id(StringIO)}
