"""How exceptions are saved: with what they were raised from, without tracebacks, which hold frames."""

from __future__ import annotations

from typing import Any

from . import rebuild
from .libraries import MRO, is_a
from .rebuild import CLASS_DICT, is_mutable
from .reduce_context import REDUCE, STATE, Context, Reduce
from .reduce_instances import Kinds, is_atom

BEGIN = frozenset({"__init__", "__new__"})
CAUSE = BaseException.__dict__["__cause__"].__get__
CONTEXT = BaseException.__dict__["__context__"].__get__
SUPPRESSED = BaseException.__dict__["__suppress_context__"].__get__
ARGS = BaseException.__dict__["args"].__get__

NAMED = (NameError, AttributeError)
"""Exceptions that have a ``name`` which pickle does not save."""

LONGEST_CHAIN = 20


def choose_exception(kind: type) -> Reduce | None:
    """Return how exceptions of a class are saved; None for a class that says it itself."""
    names = {name for base in MRO(kind) if is_mutable(base) for name in CLASS_DICT(base)}
    if not names.isdisjoint(REDUCE | STATE):
        return None
    return reduce_begun if not names.isdisjoint(BEGIN) else reduce_exception


def reduce_exception(_context: Context, error: BaseException) -> Any:
    """As it says itself, and with what it does not say."""
    reduced: Any = error.__reduce__()
    kind, args, *state = reduced
    more = unsaid(error)
    return (kind, args, {**(state[0] if state else {}), **more}) if more else (kind, args, *state)


def reduce_begun(context: Context, error: BaseException) -> Any:
    """In the same way, but its class is not asked again to begin it: it may want other arguments."""
    kind, args, *state = reduce_exception(context, error)
    return rebuild.make_exception, (kind, args), *state


def unsaid(error: BaseException) -> dict[str, Any]:
    """Return attributes that pickle does not save."""
    found: dict[str, Any] = {}
    name = getattr(error, "name", None) if is_a(error, NAMED) else None
    if name is not None:
        found["name"] = name
    for key, other in (("__context__", CONTEXT(error)), ("__cause__", CAUSE(error))):
        if other is not None and is_plain(other):
            found[key] = other
    if found or SUPPRESSED(error):
        found["__suppress_context__"] = SUPPRESSED(error)  # last, as a cause sets it, too
    return found


def is_plain(error: BaseException) -> bool:
    """Tell whether an exception can be saved for sure: nobody is to lose one for the sake of what it came from."""
    chain, kinds = [error], Kinds()
    for each in chain:
        if len(chain) > LONGEST_CHAIN or not all(
            is_atom(part, kinds) for part in (ARGS(each), *vars(each).values())
        ):
            return False
        cause, context = CAUSE(each), CONTEXT(each)
        chain += [other for other in (cause, None if context is cause else context) if other is not None]
    return True
