"""How numpy's arrays are saved. Nothing here imports numpy: whoever has an array has imported it."""

from __future__ import annotations

from importlib import import_module
from mmap import mmap
from typing import Any

from . import rebuild
from .libraries import MRO, classes
from .rebuild import CLASS_DICT
from .reduce_context import REDUCE, STATE, Context, Refused, TooLarge

MAPPED = "an array that is mapped to a file cannot be saved"
OWN = REDUCE | STATE


def reduce_array(context: Context, array: Any) -> Any:
    """An array that shows part of the memory of another variable stays so; any other one by itself.

    One that shows the same memory again and again is saved with that memory, which may be all that fits.
    """
    if array.base is not None and array.size:
        reduced = reduce_part(context, array) or reduce_repeated(array) or reduce_overlapping(array)
        if reduced is not None:
            return reduced
    require_room(context, array)
    return NotImplemented


def require_room(context: Context, array: Any) -> None:
    """Refuse what does not fit before numpy makes a copy of it, as it does of what is not in one piece."""
    if array.nbytes > context.room() and not (array.dtype.hasobject and array.flags.c_contiguous):
        raise TooLarge


def reduce_part(context: Context, array: Any) -> Any:
    """Return how an array is saved that shows memory of the value of another variable, or None."""
    owner = owner_of(context, array)
    if owner is None or owner is array or array.dtype.hasobject:
        return None
    offset = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    before, after = extent(array)
    if offset < before or offset + after > owner.nbytes:
        return None
    arguments = (owner, array.dtype, array.shape, offset, array.strides, array.flags.writeable)
    return rebuild.make_array_view, arguments


def owner_of(context: Context, array: Any) -> Any:
    """Return the variable's array that has the memory, however many objects are between it and ``array``."""
    base = array.base
    while base is not None and id(base) not in context.owners:
        base = getattr(base, "base", None)
    return context.owners.get(id(base))


def extent(array: Any) -> tuple[int, int]:
    """Return how many bytes of memory an array has before its first item, and from there on."""
    ways = [(length - 1) * step for length, step in zip(array.shape, array.strides, strict=True)]
    return -sum(way for way in ways if way < 0), sum(way for way in ways if way > 0) + array.itemsize


def reduce_repeated(array: Any) -> Any:
    """Return how an array is saved that was made with ``numpy.broadcast_to``, or None."""
    repeated = [step == 0 and length > 1 for length, step in zip(array.shape, array.strides, strict=True)]
    if not any(repeated):
        return None
    once = array[tuple(slice(0, 1) if each else slice(None) for each in repeated)]
    return rebuild.make_repeated, (once, array.shape, array.flags.writeable)


def reduce_overlapping(array: Any) -> Any:
    """Return how an array is saved whose items share memory, as those of sliding windows do, or None."""
    before, after = extent(array)
    if array.nbytes <= before + after or array.dtype.hasobject:
        return None
    lowest = array[tuple(slice(0, 1) if step >= 0 else slice(-1, None) for step in array.strides)]
    memory = import_module("numpy.lib.stride_tricks").as_strided(
        lowest.reshape(1).view("u1"), (before + after,), (1,)
    )
    arguments = (memory, array.dtype, array.shape, before, array.strides, array.flags.writeable)
    return rebuild.make_array_view, arguments


def array_owners(values: list[Any]) -> dict[int, Any]:
    """Return the array among those of ``values`` that has all of a piece of memory, by the id of what owns it."""
    owners: dict[int, Any] = {}
    for array in values:
        base = array if array.base is None else array.base
        whole = type(base) is type(array) and array.nbytes == base.nbytes
        if whole and (array.flags.c_contiguous or array.flags.f_contiguous):
            owners.setdefault(id(base), array)
            owners.setdefault(id(array), array)
    return owners


def is_array(kind: type) -> bool:
    """Tell whether a class is made of numpy's arrays."""
    return any(each is base for base in classes("numpy", "ndarray") for each in MRO(kind))


def reduce_subarray(context: Context, array: Any) -> Any:
    """An array of a class of its own: as it says itself, with the attributes that numpy does not save."""
    attributes = getattr(array, "__dict__", None)
    if attributes and type(attributes.get("_mmap")) is mmap:
        raise Refused(MAPPED)
    require_room(context, array)
    if not attributes or any(not OWN.isdisjoint(CLASS_DICT(base)) for base in classes_above_array(type(array))):
        return NotImplemented
    function, arguments, state = array.__reduce__()
    return function, arguments, (state, attributes), None, None, rebuild.fill_subarray


def classes_above_array(kind: type) -> tuple[type, ...]:
    """Return the classes that ask before ``numpy.ndarray`` how an object is saved."""
    order: tuple[type, ...] = MRO(kind)
    (array,) = classes("numpy", "ndarray")
    return order[: order.index(array)]
