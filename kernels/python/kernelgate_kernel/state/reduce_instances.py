"""How objects of the user's own classes are saved that say nothing of it themselves.

Pickle calls ``__new__`` of their class to make them again, with arguments that it need not take, and when what it
looks at is not there yet: the class may keep its objects in attributes of its own. So it is not called: the
compiled class below makes the object.

Where ``__hash__`` looks at attributes, the object may be in a set before it has them, if it is part of what it
refers to. So it gets those at once that refer to nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from copyreg import __newobj__ as NEW  # type: ignore[attr-defined]
from copyreg import __newobj_ex__ as NEW_EX  # type: ignore[attr-defined]
from datetime import date, datetime, time, timedelta
from itertools import islice
from types import BuiltinFunctionType, MemberDescriptorType
from typing import Any

from . import rebuild
from .libraries import MRO, is_a
from .modules import MAIN
from .rebuild import CLASS_DICT, is_mutable
from .reduce_classes import QUALNAME
from .reduce_context import Context, Reduce, is_found, module_of

BASE = type.__dict__["__base__"].__get__
Attributes = dict[str, Any]

ATOMS = frozenset(
    {*map(type, ("", b"", 0, 0.0, 0j, True, None, ..., range(0))), type, date, datetime, time, timedelta}
)
"""Exact types of what refers to nothing that could refer back."""

are_atoms = ATOMS.issuperset
"""Tells it of all the given types at once."""

MAX_DEPTH = 3
MAX_ITEMS = 100
"""Of a tuple that is looked into to find out whether it refers to anything."""

STATE = frozenset({"__getstate__", "__setstate__"})
REDUCE = frozenset({"__reduce__", "__reduce_ex__"})
MATTERS = REDUCE | {"__new__", "__hash__"}


def choose_instances(kind: type) -> Reduce | None:
    """Return how objects of a class are saved, if that is a matter of this module."""
    names = names_of(kind)
    found = choose_made(kind) if not names.isdisjoint(MATTERS) and is_made(kind) else None
    return found or (reduce_instance if answers_for_all(kind, names) else None)


def choose_made(kind: type) -> Reduce | None:
    """Return how objects of a class of the user's are saved, None when pickle's way will do."""
    owner, maker = definer(kind, REDUCE), definer(kind, {"__new__"})
    if owner is not object:
        makes_or_begins = is_made(maker) or is_made(definer(kind, {"__init__"}))
        return reduce_by_base if makes_or_begins and not is_mutable(owner) else None
    makes = is_made(maker) and not is_named_tuple(maker)
    hashes = is_made(definer(kind, {"__hash__"})) and getattr(kind, "__hash__", None) is not None
    base = compiled_base(kind)
    if (makes or hashes) and (base in PLAIN_BASES or "__getnewargs__" in CLASS_DICT(base)):
        return Instances(kind, base, makes, hashes).reduce
    return None


def names_of(kind: type) -> set[str]:
    """Return the names of all attributes of a class but those that every class has."""
    return {name for base in MRO(kind)[:-1] for name in CLASS_DICT(base)}


def is_made(kind: type) -> bool:
    """Tell whether a class was made by user code and cannot be imported."""
    return is_mutable(kind) and not is_found(kind, module_of(kind), QUALNAME(kind))


def definer(kind: type, names: Iterable[str]) -> type:
    """Return the class that has the first of ``names`` that is found for objects of ``kind``."""
    for base in MRO(kind):
        if not CLASS_DICT(base).keys().isdisjoint(names):
            return base  # type: ignore[no-any-return]
    return object


def is_named_tuple(kind: type) -> bool:
    """Tell whether ``__new__`` of a class is not its author's but made by `collections.namedtuple`."""
    return all(name in CLASS_DICT(kind) for name in ("_fields", "_make", "__getnewargs__"))


def compiled_base(kind: type) -> type:
    """Return the class that decides what memory an object has."""
    while is_mutable(kind) and type(CLASS_DICT(kind).get("__new__")) is not BuiltinFunctionType:
        kind = BASE(kind)
    return kind


def answers_for_all(kind: type, names: set[str]) -> bool:
    """Tell whether a class of the user's has answers for any attribute, and says nothing of how it is saved."""
    return (
        not names.isdisjoint(("__getattr__", "__setattr__"))
        and module_of(kind) == MAIN
        and names.isdisjoint(STATE | REDUCE)
    )


PLAIN_BASES: tuple[type, ...] = (object, list, dict)
"""Classes that make an object without arguments, and fill it with items afterwards."""


class Instances:
    """Reduces the objects of one class, which ``makes`` them with a ``__new__`` of its own, or ``hashes`` them."""

    def __init__(self, kind: type, base: Any, makes: bool, hashes: bool) -> None:
        names = names_of(kind)
        self._base = base
        self._raw = None if base in PLAIN_BASES else CLASS_DICT(base)["__getnewargs__"]
        self._makes = makes
        self._hashes = hashes
        self._has_own_state = bool(names & STATE)
        self._fill = None if "__setstate__" in names else rebuild.fill_instance
        self._late_fill = self._fill if answers_for_all(kind, names) else None  # pickle's own way is faster

    def reduce(self, _context: Context, value: Any) -> Any:
        reduced = value.__reduce_ex__(5)
        if type(reduced) is not tuple or (reduced[0] is not NEW and reduced[0] is not NEW_EX):
            return reduced
        state = reduced[2]
        if self._hashes and not (type(state) is dict and are_atoms(map(type, state.values()))):
            early, late = self._parts(value, state)
            if early is not None:
                arguments = (type(value), self._base, self._raw(value) if self._raw else (), early)
                return rebuild.make_instance, arguments, late, *reduced[3:], self._fill
        if self._makes:
            return rebuild.make_instance, self._arguments(value), *reduced[2:], self._late_fill
        return reduced if self._late_fill is None else (*reduced, self._late_fill)

    def _arguments(self, value: Any) -> tuple[Any, ...]:
        if self._raw is not None:
            return type(value), self._base, self._raw(value)
        return (type(value),) if self._base is object else (type(value), self._base)

    def _parts(self, value: Any, state: Any) -> tuple[Any, Any]:
        """Return what to set at once, None when there is nothing or no need, and what to set afterwards."""
        if self._has_own_state:
            return own_parts(value, state), state
        attributes, slots = state if type(state) is tuple else (state, None)
        early, late = parts(attributes)
        early_slots, late_slots = parts(slots)
        if (not early and not early_slots) or (not late and not late_slots):
            return None, state
        return (early, early_slots), (late, late_slots)


def parts(attributes: Attributes | None) -> tuple[Attributes | None, Attributes | None]:
    """Return the attributes that refer to nothing; and the others, or all if the order would be another one."""
    if attributes is None:
        return None, None
    early = {name: each for name, each in attributes.items() if is_atom(each)}
    if list(islice(attributes, len(early))) != list(early):
        return early, attributes
    return early, dict(islice(attributes.items(), len(early), None))


def own_parts(value: Any, state: Any) -> tuple[Attributes, Attributes] | None:
    """Return what is the same in ``state``, which the class made, and in the object itself."""
    if type(state) is not dict or are_atoms(map(type, state.values())):
        return None
    own = getattr(value, "__dict__", {})
    atoms = {name: each for name, each in state.items() if is_atom(each)}
    attributes = {name: each for name, each in atoms.items() if name in own and own[name] is each}
    slots = {name: each for name, each in atoms.items() if is_slot(value, name) and getattr(value, name) is each}
    return (attributes, slots) if attributes or slots else None


def is_slot(value: Any, name: Any) -> bool:
    return any(type(CLASS_DICT(base).get(name)) is MemberDescriptorType for base in MRO(type(value)))


def is_atom(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Tell whether a value refers to nothing that could refer back to what has it."""
    kind = type(value)
    if kind in ATOMS or is_a(kind, (enum.EnumMeta,)):
        return True
    if depth and (kind is frozenset or is_a(value, (tuple,))):
        return len(value) <= MAX_ITEMS and all(is_atom(each, depth - 1) for each in value)
    if depth and is_made(kind) and getattr(kind, "__hash__", None) not in (None, object.__hash__):
        state = object.__getstate__(value)
        return all(is_atom(each, depth - 1) for part in both(state) for each in part.values())
    return False


def both(state: Any) -> tuple[Attributes, Attributes]:
    """Return attributes and slots of a state as `object` gives it."""
    attributes, slots = state if type(state) is tuple else (state, None)
    return attributes or {}, slots or {}


def reduce_by_base(_context: Context, value: Any) -> Any:
    """As the compiled class below says, which makes it again, too."""
    reduced = value.__reduce_ex__(5)
    if type(reduced) is not tuple or reduced[0] is not type(value):
        return reduced
    _, arguments, state, *rest = (*reduced, None)[: max(len(reduced), 3)]
    state = getattr(value, "__dict__", None) or None if state is None else state
    return rebuild.make_by_base, (type(value), compiled_base(type(value)), arguments), state, *rest


def reduce_instance(_context: Context, value: Any) -> Any:
    """As it says itself. Its state is set without asking its class, which may not be able to answer yet."""
    reduced = value.__reduce_ex__(5)
    if type(reduced) is not tuple or len(reduced) < 3 or reduced[2] is None:
        return reduced
    function, arguments, state, items, pairs = (*reduced, None, None)[:5]
    return function, arguments, state, items, pairs, rebuild.fill_instance
