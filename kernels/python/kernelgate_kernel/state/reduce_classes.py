"""How classes are saved: those that cannot be imported by what is in them."""

from __future__ import annotations

import _collections_abc
import abc
import enum
import types
from _abc import _get_dump  # type: ignore[import-not-found]
from types import (
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    WrapperDescriptorType,
)
from typing import Any

from . import rebuild
from .libraries import MRO, class_name
from .rebuild import CLASS_DICT, MUTABLE_FLAG
from .reduce_context import Context, Refused, is_found, module_of

NAME = type.__dict__["__name__"].__get__
QUALNAME = type.__dict__["__qualname__"].__get__
FLAGS = type.__dict__["__flags__"].__get__
BASES = type.__dict__["__bases__"].__get__

ONLY_ONCE = frozenset({"_abc_impl", "__abstractmethods__", "__slotnames__"})
"""Attributes that Python computes for a class."""

FIRST = ("__module__", "__doc__", "__slots__", "__orig_bases__", "__parameters__")
"""Attributes that count when a class is made."""

SLOTS_TYPES = (str, tuple, list, dict, set, frozenset)

ENUM_OWN = frozenset({"_missing_", "_generate_next_value_", "_ignore_", "_iter_member_", "_numeric_repr_"})
"""Names with an underscore at each end that the author of an enumeration may write; `enum` makes the others."""

RAW: dict[type, Any] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda member: bytes.__getitem__(member, slice(None)),
}
"""What a member of an enumeration is as a plain value, which may be another one than its ``value``."""

BUILTIN_TYPES = {
    id(value): (place, name)
    for place, module in (("_collections_abc", _collections_abc), ("types", types))
    for name, value in vars(module).items()
    if isinstance(value, type)
}
"""Where types of the interpreter are found: ``function`` is named ``types.FunctionType``."""


class Methods:
    """Stands for the methods of a class in the stream.

    They are set before anything else of the class is loaded: an instance that is an attribute of its class needs
    them.
    """

    __slots__ = ("attributes", "owner")

    def __init__(self, owner: type, attributes: dict[str, Any]) -> None:
        self.owner = owner
        self.attributes = attributes


def reduce_methods(_context: Context, methods: Methods) -> Any:
    return rebuild.set_attributes, (methods.owner, methods.attributes)


def reduce_class(_context: Context, cls: type) -> Any:
    """By name when it can be imported, else by parts: first a bare class, then what may refer to the class."""
    attributes = CLASS_DICT(cls)
    if is_found(cls, module_of(cls), QUALNAME(cls)):
        return NotImplemented
    if not FLAGS(cls) & MUTABLE_FLAG:
        place = BUILTIN_TYPES.get(id(cls))
        return NotImplemented if place is None else (rebuild.builtin_type, place)
    require_python_class(cls, attributes)
    if any(each is enum.EnumMeta for each in MRO(type(cls))) and "_member_map_" in attributes:
        return reduce_enum(cls, attributes)
    first = first_attributes(cls, attributes)
    rest = {name: value for name, value in attributes.items() if name not in first and is_saved(cls, name, value)}
    registered: list[type] = []
    if abc.ABCMeta in MRO(type(cls)) and "_abc_impl" in attributes:
        registered = [each for each in (reference() for reference in _get_dump(cls)[0]) if each is not None]
    state = (*split(cls, rest), registered)
    arguments = (type(cls), NAME(cls), BASES(cls), first)
    return rebuild.make_class, arguments, state, None, None, rebuild.fill_class


def require_python_class(cls: type, attributes: Any) -> None:
    """Refuse a class that a compiled library makes and does not show: nobody could make it again."""
    for value in attributes.values():
        if type(value) in (MethodDescriptorType, WrapperDescriptorType) and value.__objclass__ is cls:
            raise Refused(f"the class {NAME(cls)} belongs to a compiled library, which has no name for it")
    for each in MRO(type(cls)):
        maker = CLASS_DICT(each).get("__new__")
        if maker is not None and type(maker) is not staticmethod:
            if each is not type:
                raise Refused(f"a class whose metaclass {class_name(cls)} is compiled cannot be saved")
            return


def first_attributes(cls: type, attributes: Any) -> dict[str, Any]:
    first = {name: attributes[name] for name in FIRST if name in attributes}
    for name in reserved_names(type(cls)):
        if name in attributes and is_saved(cls, name, attributes[name]):
            first[name] = attributes[name]
    if type(first.get("__slots__", ())) not in SLOTS_TYPES:  # an iterator, which is used up
        slots = [name for name, value in attributes.items() if is_slot(cls, value)]
        first["__slots__"] = (*slots, *(name for name in ("__dict__", "__weakref__") if name in attributes))
    first["__qualname__"] = QUALNAME(cls)
    return first


def reserved_names(metaclass: type) -> set[str]:
    """Return the names of attributes that a class cannot be given later: setting them means something else."""
    names = set(RESERVED)
    for base in MRO(metaclass):
        if base is not type and base is not object:
            names |= {name for name, value in CLASS_DICT(base).items() if is_data_descriptor(value)}
    return names


def is_data_descriptor(value: object) -> bool:
    return any("__set__" in CLASS_DICT(base) for base in MRO(type(value)))


RESERVED = {
    name for base in (type, object) for name, value in CLASS_DICT(base).items() if is_data_descriptor(value)
} - {"__annotations__", "__abstractmethods__"}


def is_slot(cls: type, value: Any) -> bool:
    return type(value) is MemberDescriptorType and value.__objclass__ is cls


def is_saved(cls: type, name: str, value: Any) -> bool:
    """Tell whether an attribute belongs to what its author wrote."""
    if name in ("__dict__", "__weakref__") and type(value) is GetSetDescriptorType:
        return False
    return name not in ONLY_ONCE and not is_slot(cls, value)


def split(cls: type, attributes: dict[str, Any]) -> tuple[Methods, dict[str, Any]]:
    """Return the methods and the other attributes, without those of the class that are empty anyway."""
    kinds = (FunctionType, staticmethod, classmethod, property)
    methods = {name: value for name, value in attributes.items() if type(value) in kinds}
    return Methods(cls, methods), {name: value for name, value in attributes.items() if name not in methods}


def reduce_enum(cls: Any, attributes: Any) -> Any:
    """By its members, which its metaclass makes again from their values."""
    members = attributes["_member_map_"]
    kind = attributes.get("_member_type_", object)
    raw = RAW.get(kind) if "__new_member__" in attributes else None
    values = {name: member._value_ if raw is None else raw(member) for name, member in members.items()}
    boundary = attributes.get("_boundary_")
    options = {"boundary": boundary} if isinstance(boundary, enum.FlagBoundary) else {}
    first = {name: attributes[name] for name in attributes if name in ("__module__", "__doc__")}
    first["__qualname__"] = QUALNAME(cls)
    rest = {
        name: value
        for name, value in attributes.items()
        if name not in first and name not in members and is_saved(cls, name, value) and is_written(name)
    }
    own = {name: dict(vars(member)) for name, member in members.items()}
    arguments = (type(cls), NAME(cls), BASES(cls), first, values, options)
    return rebuild.make_enum, arguments, (*split(cls, rest), own), None, None, rebuild.fill_enum


def is_written(name: str) -> bool:
    """Tell whether the author of an enumeration may have written an attribute; what `enum` makes is made again."""
    if name in ("__new__", "__reduce_ex__"):
        return False
    sunder = name.startswith("_") and name.endswith("_") and not name.startswith("__")
    return name in ENUM_OWN or not sunder
