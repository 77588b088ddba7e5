"""The pickler: C's, which is told how to save what it does not know."""

from __future__ import annotations

import abc
import builtins
import dataclasses
import enum
import functools
import re
import typing
import weakref
from _pickle import PickleBuffer, Pickler
from collections.abc import Callable
from copyreg import dispatch_table
from types import CellType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, Protocol

from .libraries import MRO
from .reduce_arrays import is_array, reduce_array, reduce_subarray
from .reduce_classes import Methods, reduce_class, reduce_methods
from .reduce_context import Context, Reduce
from .reduce_exceptions import choose_exception
from .reduce_functions import (
    reduce_cache,
    reduce_cached_property,
    reduce_cell,
    reduce_code,
    reduce_descriptor,
    reduce_function,
    reduce_method,
    reduce_module,
    reduce_property,
    reduce_super,
    reduce_wrapper,
)
from .reduce_instances import choose_instances
from .reduce_values import (
    DICT_VIEWS,
    is_file,
    is_stubborn,
    reduce_dictionary_view,
    reduce_file,
    reduce_match,
    reduce_memoryview,
    reduce_named,
    reduce_new_type,
    reduce_proxy,
    reduce_refused,
    reduce_sentinel,
    reduce_stubborn,
    reduce_type_variable,
    reduce_weak_mapping,
    reduce_weak_set,
    reduces_itself,
    refusal,
)

PROTOCOL = 5
BUILTINS = vars(builtins)
"""``exec`` puts it into the dictionary it is given."""

KNOWN: dict[type, Reduce | None] = {
    FunctionType: reduce_function,
    type: reduce_class,
    abc.ABCMeta: reduce_class,
    enum.EnumMeta: reduce_class,
    Methods: reduce_methods,
    CodeType: reduce_code,
    CellType: reduce_cell,
    MethodType: reduce_method,
    ModuleType: reduce_module,
    property: reduce_property,
    super: reduce_super,
    re.Match: reduce_match,
    staticmethod: reduce_wrapper,
    classmethod: reduce_wrapper,
    MappingProxyType: reduce_proxy,
    memoryview: reduce_memoryview,
    functools.cached_property: reduce_cached_property,
    type(functools.lru_cache(len)): reduce_cache,
    typing.TypeVar: reduce_type_variable,
    typing.ParamSpec: reduce_type_variable,
    typing.TypeVarTuple: reduce_type_variable,
    typing.NewType: reduce_new_type,
    weakref.WeakKeyDictionary: reduce_weak_mapping,
    weakref.WeakValueDictionary: reduce_weak_mapping,
    weakref.WeakSet: reduce_weak_set,
    type(dataclasses.MISSING): reduce_sentinel,
    type(dataclasses.KW_ONLY): reduce_sentinel,
    **{
        kind: reduce_sentinel
        for kind in (getattr(dataclasses, name, None) for name in ("_FIELD_BASE", "_HAS_DEFAULT_FACTORY_CLASS"))
        if kind is not None
    },
    **dict.fromkeys(DICT_VIEWS, reduce_dictionary_view),
}
"""How objects are reduced, by exact type. None: as pickle does."""


class Sink(Protocol):
    """Where a pickler writes."""

    def write(self, data: bytes, /) -> Any: ...

    def take_buffer(self, buffer: PickleBuffer) -> bool: ...

    def left(self) -> int: ...


class Table(dict[type, Reduce | None]):
    """How objects are reduced, by type; for a type that was not met before it is found out."""

    def __missing__(self, kind: type) -> Reduce | None:
        found = self[kind] = choose(kind)
        return found


class StatePickler(Pickler):
    """Writes one value after the other to ``sink``; what was written before is referred to.

    The memo begins with the namespace and the builtins, which are never written themselves.
    """

    def __init__(self, sink: Sink, context: Context, arrays: tuple[type, ...]) -> None:
        super().__init__(sink, PROTOCOL, buffer_callback=sink.take_buffer)
        given = (context.namespace, BUILTINS)
        self.memo = {id(value): (number, value) for number, value in enumerate(given)}
        context.room = sink.left
        self._context = context
        self._table = Table(KNOWN)
        self._table.update(dict.fromkeys(arrays, reduce_array))

    def reducer_override(self, value: Any) -> Any:
        reduce = self._table[type(value)]
        return NotImplemented if reduce is None else reduce(self._context, value)


def choose(kind: type) -> Reduce | None:
    """Return how objects of a type are reduced."""
    ancestors = MRO(kind)
    for base, reduce in ANCESTORS:
        if any(each is base for each in ancestors):
            return reduce
    if refusal(kind) is not None:
        return reduce_refused
    if is_file(kind):
        return reduce_file
    if any(each is BaseException for each in ancestors):
        return choose_exception(kind)
    if kind in dispatch_table:
        return None
    if reduces_itself(kind):
        return reduce_named
    if any(each is base for base in DESCRIPTORS for each in ancestors):
        return reduce_descriptor
    if is_array(kind):
        return reduce_subarray
    return choose_instances(kind) or (reduce_stubborn if is_stubborn(kind) else None)


ANCESTORS: tuple[tuple[type, Callable[[Context, Any], Any]], ...] = (
    (type, reduce_class),
    (ModuleType, reduce_module),
    (functools.cached_property, reduce_cached_property),
)

DESCRIPTORS = (property, staticmethod, classmethod)
