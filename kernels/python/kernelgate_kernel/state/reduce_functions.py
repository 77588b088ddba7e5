"""How functions are saved, and what is made of functions."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from marshal import dumps as marshal
from sys import modules
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from . import rebuild
from .libraries import is_a
from .modules import MAIN, is_found_by_name, is_importable
from .reduce_context import Context, is_found

OWNER = super.__dict__["__thisclass__"].__get__
INSTANCE = super.__dict__["__self__"].__get__
LEFT_OUT = ("__builtins__", "__loader__", "__spec__")
"""Of a module that the user made."""


def reduce_function(context: Context, function: FunctionType) -> Any:
    """By name when it can be imported; else by its code, and the globals it uses unless they are the user's."""
    own = function.__globals__ is context.namespace
    if not own and is_found(function, function.__module__, function.__qualname__):
        return NotImplemented
    code = function.__code__
    home: Any = context.namespace
    names: dict[str, Any] | None = None
    if not own:
        home = home_of(context, function.__globals__)
        if home is None:
            home, names = context.globals_of(function.__globals__, set(global_names(code)))
    state = (
        function.__defaults__,
        function.__kwdefaults__,
        function.__annotations__ or None,
        function.__doc__,
        function.__qualname__,
        function.__module__,
        function.__dict__ or None,
        names,
    )
    arguments = (code, function.__name__, function.__closure__, home)
    return rebuild.make_function, arguments, state, None, None, rebuild.fill_function


def home_of(context: Context, variables: dict[str, Any]) -> ModuleType | dict[str, Any] | None:
    """Return what has these globals and is saved itself."""
    if id(variables) in context.homes:
        return context.homes[id(variables)]
    name = variables.get("__name__")
    module = modules.get(name) if type(name) is str and name != MAIN else None
    if module is None or not is_importable(module):
        return None
    return module if ModuleType.__getattribute__(module, "__dict__") is variables else None


def global_names(code: CodeType) -> Iterator[str]:
    """Yield the names of globals that the code uses, and of what tells classes where they are."""
    yield "__name__"
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if type(constant) is CodeType:
            yield from global_names(constant)


def reduce_code(_context: Context, code: CodeType) -> Any:
    return rebuild.make_code, (marshal(code),)


def reduce_cell(_context: Context, cell: CellType) -> Any:
    try:
        contents = cell.cell_contents
    except ValueError:
        return rebuild.make_cell, ()
    return rebuild.make_cell, (), (contents,), None, None, rebuild.fill_cell


def reduce_method(_context: Context, method: MethodType) -> Any:
    """By function and object: its name may be another one where the object has it."""
    return MethodType, (method.__func__, method.__self__)


def reduce_super(_context: Context, value: super) -> Any:
    return super, (OWNER(value), INSTANCE(value))


def reduce_property(_context: Context, value: property) -> Any:
    return type(value), (value.fget, value.fset, value.fdel, value.__doc__)


def reduce_wrapper(_context: Context, value: Any) -> Any:
    """A staticmethod or classmethod."""
    return type(value), (value.__func__,)


def reduce_descriptor(_context: Context, value: Any) -> Any:
    """A property, staticmethod or classmethod of a class of its own: by what the builtin one is made of."""
    if is_a(value, (property,)):
        base: type = property
        parts = tuple(property.__dict__[name].__get__(value) for name in ("fget", "fset", "fdel"))
    else:
        base = staticmethod if is_a(value, (staticmethod,)) else classmethod
        parts = (base.__dict__["__func__"].__get__(value),)
    return rebuild.make_by_base, (type(value), base, parts), getattr(value, "__dict__", None) or None


def reduce_cache(_context: Context, function: Any) -> Any:
    """What ``functools.lru_cache`` makes; the cache itself is not saved."""
    attributes = function.__dict__
    if is_found(function, attributes.get("__module__"), attributes.get("__qualname__")):
        return NotImplemented
    options = function.cache_parameters()
    arguments = (function.__wrapped__, options["maxsize"], options["typed"])
    return rebuild.make_cache, arguments, attributes, None, None, rebuild.fill_attributes


def reduce_cached_property(_context: Context, value: Any) -> Any:
    attributes = dict(value.__dict__)
    if attributes.pop("lock", None) is None:
        return NotImplemented
    return rebuild.make_cached_property, (type(value),), attributes, None, None, rebuild.fill_cached_property


def reduce_module(context: Context, module: Any) -> Any:
    """By name when it can be imported; else with all that is in it."""
    attributes = ModuleType.__getattribute__(module, "__dict__")
    name, spec = attributes.get("__name__"), attributes.get("__spec__")
    if is_importable(module) or (spec is not None and type(name) is str and is_found_by_name(module, name, spec)):
        return rebuild.find_module, (name,)
    context.homes[id(attributes)] = module
    content = {key: value for key, value in attributes.items() if key not in LEFT_OUT}
    arguments = (str(name), modules.get(name) is module)
    return rebuild.make_module, arguments, content, None, None, rebuild.fill_module
