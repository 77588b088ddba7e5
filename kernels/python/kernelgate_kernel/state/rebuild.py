"""What a saved state calls while it is loaded: each function here makes one kind of object again.

A saved state refers to these functions by name, so the names and the arguments are part of the format. An object
that may be part of itself is made empty first (``make_…``) and filled when its parts are there (``fill_…``).
"""

from __future__ import annotations

import abc
import enum
import functools
import re
import sys
from _abc import _abc_init, _abc_register  # type: ignore[import-not-found]
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from marshal import loads as unmarshal
from threading import RLock
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

CLASS_DICT = type.__dict__["__dict__"].__get__
MRO = type.__dict__["__mro__"].__get__
SET = type.__setattr__
MUTABLE_FLAG = 1 << 9
"""Of a class: it was made while the program ran."""

IMMUTABLE_FLAG = 1 << 8

# --- modules, functions


def find_module(name: str) -> ModuleType:
    return import_module(name)


def make_module(name: str, imported: bool = False) -> ModuleType:
    """Make an empty module; an import finds one that was ``imported``, unless there is another of that name."""
    module = ModuleType(name)
    if imported:
        sys.modules.setdefault(name, module)
    return module


def fill_module(module: ModuleType, attributes: dict[str, Any]) -> None:
    module.__dict__.update(attributes)


def make_code(data: bytes) -> CodeType:
    code = unmarshal(data)
    if type(code) is not CodeType:
        raise TypeError(f"expected code, not {type(code).__name__}")
    return code


def make_cell() -> CellType:
    return CellType()


def fill_cell(cell: CellType, contents: tuple[Any]) -> None:
    (cell.cell_contents,) = contents


def make_function(
    code: CodeType, name: str, closure: tuple[CellType, ...] | None, home: ModuleType | dict[str, Any]
) -> FunctionType:
    """Make a function whose globals are ``home``."""
    return FunctionType(code, home if type(home) is dict else home.__dict__, name, None, closure)


def fill_function(function: FunctionType, state: tuple[Any, ...]) -> None:
    """Set what a function has besides its code. ``state`` is what `reduce_functions.reduce_function` gives."""
    defaults, keywords, annotations, doc, qualname, module, attributes, names = state
    function.__defaults__ = defaults
    function.__kwdefaults__ = keywords
    if annotations:
        function.__annotations__ = annotations
    function.__doc__ = doc
    function.__qualname__ = qualname
    function.__module__ = module
    if attributes:
        function.__dict__.update(attributes)
    if names:
        function.__globals__.update(names)


def make_cache(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """Make a function with `functools.lru_cache`; the cache is empty."""
    return functools.lru_cache(maxsize, typed)(function)


def fill_attributes(value: Any, attributes: Mapping[str, Any]) -> None:
    value.__dict__.update(attributes)


def make_cached_property(kind: type) -> Any:
    return object.__new__(kind)


def fill_cached_property(value: Any, attributes: Mapping[str, Any]) -> None:
    value.__dict__.update(attributes)
    value.lock = RLock()


# --- classes


def builtin_type(module: str, name: str) -> Any:
    """Return a type of the interpreter, which has no name where it says that it lives."""
    return getattr(import_module(module), name)


@contextmanager
def without_hooks(bases: tuple[type, ...]) -> Iterator[None]:
    """Keep ``__init_subclass__`` from being called: it was called when the class that was saved was made."""
    hooks = {
        owner: CLASS_DICT(owner)["__init_subclass__"]
        for base in bases
        for owner in MRO(base)
        if "__init_subclass__" in CLASS_DICT(owner) and is_mutable(owner)
    }
    try:
        for owner in hooks:
            SET(owner, "__init_subclass__", classmethod(no_hook))
        yield
    finally:
        for owner, hook in hooks.items():
            SET(owner, "__init_subclass__", hook)


def no_hook(_cls: type, /, **_options: Any) -> None:
    """Stands in for ``__init_subclass__``."""


def is_mutable(cls: type) -> bool:
    """Tell whether attributes of the class may be set."""
    flags: int = type.__dict__["__flags__"].__get__(cls)
    return bool(flags & MUTABLE_FLAG and not flags & IMMUTABLE_FLAG)


def make_class(metaclass: type, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> type:
    """Make a class without its methods, and without the ``__new__`` and ``__init__`` of its metaclass.

    ``attributes`` are those that count when a class is made: ``__slots__``, ``__module__``, ``__qualname__``.
    """
    with without_hooks(bases):
        cls: type = type.__new__(metaclass, name, bases, attributes)
    if abc.ABCMeta in MRO(metaclass):
        _abc_init(cls)
    return cls


def set_attributes(cls: type, attributes: Mapping[str, Any]) -> None:
    """Set attributes of a class: its metaclass is not asked, ``__set_name__`` is not called."""
    for name, value in attributes.items():
        SET(cls, name, value)


def fill_class(cls: type, state: tuple[Any, Mapping[str, Any], Iterable[type]]) -> None:
    """Set the other attributes. ``state``: the methods, which are set already; attributes; registered classes."""
    _methods, attributes, registered = state
    set_attributes(cls, attributes)
    if abc.ABCMeta in MRO(type(cls)):
        for each in registered:
            _abc_register(cls, each)
        abc.update_abstractmethods(cls)


def make_enum(
    metaclass: Any,
    name: str,
    bases: tuple[type, ...],
    attributes: dict[str, Any],
    members: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """Make an enumeration with its members, without its methods."""
    namespace = metaclass.__prepare__(name, bases, **options)
    for key, value in attributes.items():
        namespace[key] = value
    for key, value in members.items():
        is_method = isinstance(value, type) or any("__get__" in CLASS_DICT(base) for base in MRO(type(value)))
        namespace[key] = enum.member(value) if is_method else value
    with without_hooks(bases):
        return metaclass.__new__(metaclass, name, bases, namespace, **options)


def fill_enum(cls: Any, state: tuple[Any, Mapping[str, Any], Mapping[str, dict[str, Any]]]) -> None:
    """Set the other attributes of an enumeration and those of its members."""
    _methods, attributes, members = state
    set_attributes(cls, attributes)
    by_value = CLASS_DICT(cls)["_value2member_map_"]
    known = {id(member) for member in by_value.values()}
    for name, own in members.items():
        member = CLASS_DICT(cls)["_member_map_"][name]
        before = member._value_
        member.__dict__.update(own)
        if member._value_ is not before and id(member) in known:
            by_value[member._value_] = member
    if "__new_member__" in CLASS_DICT(cls):
        made = CLASS_DICT(cls)["__new_member__"]
        SET(cls, "_new_member_", made.__func__ if type(made) is staticmethod else made)


# --- typing


def make_type_variable(
    kind: Any, module: str, name: str, constraints: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    variable = kind(name, *constraints, **options)
    variable.__module__ = module
    return variable


# --- values


def make_exception(cls: Any, args: tuple[Any, ...]) -> Any:
    """Make an exception without ``__new__`` and ``__init__`` of its class, which may want other arguments."""
    base = next(each for each in MRO(cls) if "__init__" in CLASS_DICT(each) and not is_mutable(each))
    error = make_by_base(cls, base, args)
    error.args = args
    return error


def make_by_base(cls: Any, base: Any, args: tuple[Any, ...]) -> Any:
    """Make an object as its compiled class does, without ``__new__`` and ``__init__`` of the classes above."""
    value = base.__new__(cls, *args)
    if base.__init__ is not object.__init__:
        base.__init__(value, *args)
    return value


def make_instance(cls: Any, base: Any = object, raw: tuple[Any, ...] = (), attributes: Any = None) -> Any:
    """Make an object of which ``base`` takes ``raw``, and give it the attributes that its hash may need."""
    value = base.__new__(cls, *raw)
    if attributes is not None:
        fill_instance(value, attributes)
    return value


def fill_instance(value: Any, state: Any) -> None:
    """Set what an object has, without a look at ``__setstate__`` or ``__setattr__`` of its class.

    If that includes all attributes that it has already, theirs is the order of ``state``.
    """
    attributes, slots = state if type(state) is tuple else (state, None)
    if attributes:
        own = value.__dict__
        if own and own.keys() <= attributes.keys():
            own.clear()
        own.update(attributes)
    for name, each in (slots or {}).items():
        object.__setattr__(value, name, each)


def make_match(pattern: re.Pattern[Any], name: str, text: Any, start: int, end: int) -> Any:
    return getattr(pattern, name)(text, start, end)


def make_memoryview(data: bytes | bytearray, format: str, shape: tuple[int, ...]) -> memoryview:
    return memoryview(data).cast("B").cast(format, shape)  # type: ignore[call-overload, no-any-return]


def make_dictionary_view(content: dict[Any, Any], name: str) -> Any:
    return getattr(dict, name)(content)


def make_array_view(
    base: Any, dtype: Any, shape: tuple[int, ...], offset: int, strides: tuple[int, ...], writable: bool
) -> Any:
    """Make a numpy array that shares the memory of another one."""
    buffer = base if base.flags.c_contiguous else base.T
    view = type(base)(shape, dtype, buffer, offset, strides)
    view.flags.writeable = writable
    return view


def make_repeated(once: Any, shape: tuple[int, ...], writable: bool) -> Any:
    """Make a numpy array that shows the items of ``once`` again and again."""
    view = import_module("numpy").broadcast_to(once, shape)
    view.flags.writeable = writable
    return view


def fill_subarray(array: Any, state: tuple[Any, dict[str, Any]]) -> None:
    """Set what an array has, then the attributes of the object."""
    content, attributes = state
    array.__setstate__(content)
    array.__dict__.update(attributes)


def standard_stream(name: str) -> Any:
    return getattr(sys, name)
