"""How objects of the user's own classes are saved that say nothing of it themselves.

Pickle calls ``__new__`` of their class to make them again, with arguments that it need not take, and when what it
looks at is not there yet: the class may keep its objects in attributes of its own. So it is not called: the
compiled class below makes the object.

Where ``__hash__`` looks at attributes, the object may be in a set before it has them, if it is part of what it
refers to. So it gets those at once that refer to nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable
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
from .reduce_context import REDUCE, STATE, Context, Reduce, is_found, module_of

BASE = type.__dict__["__base__"].__get__
Attributes = dict[str, Any]
Contents = Callable[[Any], Collection[Any]]

ATOMS = frozenset(
    {*map(type, ("", b"", 0, 0.0, 0j, True, None, ..., range(0))), type, date, datetime, time, timedelta}
)
"""Exact types of what refers to nothing that could refer back."""

are_atoms = ATOMS.issuperset
"""Tells it of all the given types at once."""

MAX_DEPTH = 3
MAX_ITEMS = 100
"""Of a tuple that is looked into to find out whether it refers to anything."""

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
        self._kinds = Kinds()
        self._has_own_state = bool(names & STATE)
        self._fill = None if "__setstate__" in names else rebuild.fill_instance
        self._late_fill = self._fill if answers_for_all(kind, names) else None  # pickle's own way is faster

    def reduce(self, _context: Context, value: Any) -> Any:
        reduced = value.__reduce_ex__(5)
        if type(reduced) is not tuple or (reduced[0] is not NEW and reduced[0] is not NEW_EX):
            return reduced
        state = reduced[2]
        if self._hashes and not leads_nowhere(state):
            early, late = self._parts(value, state)
            if early is not None:
                fill = self._late_fill if type(late) is dict and late is not state else self._fill
                return rebuild.make_instance, self._arguments(value, early), late, *reduced[3:], fill
        if self._makes:
            return rebuild.make_instance, self._arguments(value), *reduced[2:], self._late_fill
        return reduced if self._late_fill is None else (*reduced, self._late_fill)

    def _arguments(self, value: Any, early: Any = None) -> tuple[Any, ...]:
        if self._base is object:
            return (type(value),) if early is None else (type(value), object, (), early)
        raw = () if self._raw is None else self._raw(value)
        return (type(value), self._base, raw) if early is None else (type(value), self._base, raw, early)

    def _parts(self, value: Any, state: Any) -> tuple[Any, Any]:
        """Return what to set at once, None when there is nothing or no need, and what to set afterwards."""
        if self._has_own_state:
            return self._own(value, state), state
        if type(state) is dict:
            early, late = self._divide(state)
            return (early, late) if early and late else (None, state)
        attributes, slots = both(state)
        early, late = self._divide(attributes)
        early_slots, late_slots = self._divide(slots)
        if not (early or early_slots) or not (late or late_slots):
            return None, state
        return (early, early_slots), (late, late_slots)

    def _divide(self, attributes: Attributes) -> tuple[Attributes, Attributes]:
        """Return those that refer to nothing; and the others, or all if the order would be another one."""
        early: Attributes = {}
        kinds = self._kinds
        for name, each in attributes.items():
            contents = kinds[type(each)]
            if contents is nothing or (contents is not None and is_atom(each, kinds)):
                early[name] = each
        if list(islice(attributes, len(early))) != list(early):
            return early, attributes
        return early, dict(islice(attributes.items(), len(early), None))

    def _own(self, value: Any, state: Any) -> tuple[Attributes, Attributes] | None:
        """Return what is the same in ``state``, which the class made, and in the object itself."""
        if type(state) is not dict:
            return None
        own = getattr(value, "__dict__", {})
        atoms, _ = self._divide(state)
        attributes = {name: each for name, each in atoms.items() if name in own and own[name] is each}
        names = [name for name in atoms if is_slot(value, name)]
        slots = {name: atoms[name] for name in names if getattr(value, name) is atoms[name]}
        return (attributes, slots) if attributes or slots else None


def leads_nowhere(state: Any) -> bool:
    """Tell whether an object with this state cannot be part of a cycle, as far as a short look at it tells."""
    if type(state) is not dict:
        return state is None
    return are_atoms(map(type, state.values())) or all(map(has_atoms, state.values()))


def has_atoms(value: Any) -> bool:
    kind = type(value)
    if kind is list or kind is set or kind is tuple:
        return len(value) <= MAX_ITEMS and are_atoms(map(type, value))
    if kind is dict:
        return len(value) <= MAX_ITEMS and are_atoms(map(type, (*value, *value.values())))
    return kind in ATOMS


def is_slot(value: Any, name: Any) -> bool:
    return any(type(CLASS_DICT(base).get(name)) is MemberDescriptorType for base in MRO(type(value)))


def nothing(_value: Any) -> Collection[Any]:
    return ()


def attributes_of(value: Any) -> Collection[Any]:
    return [each for part in both(object.__getstate__(value)) for each in part.values()]


def contents_of(kind: type) -> Contents | None:
    """Return what tells what objects of a class refer to; None when that may be anything."""
    if kind in ATOMS or is_a(kind, (enum.EnumMeta,)):
        return nothing
    if kind is frozenset or any(base is tuple for base in MRO(kind)):
        return list
    hashes = getattr(kind, "__hash__", None) not in (None, object.__hash__)
    return attributes_of if hashes and is_made(kind) else None


class Kinds(dict[type, Contents | None]):
    """``contents_of`` each class that was asked for."""

    def __missing__(self, kind: type) -> Contents | None:
        found = self[kind] = contents_of(kind)
        return found


def is_atom(value: Any, kinds: Kinds, depth: int = MAX_DEPTH) -> bool:
    """Tell whether a value refers to nothing that could refer back to what has it."""
    contents = kinds[type(value)]
    if contents is None or contents is nothing:
        return contents is nothing
    parts = contents(value)
    return depth > 0 and len(parts) <= MAX_ITEMS and all(is_atom(part, kinds, depth - 1) for part in parts)


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
