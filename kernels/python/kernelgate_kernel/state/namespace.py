"""What of a shell's namespace is the user's, and what else of the process belongs to a session."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from os import chdir, environ, getcwd
from random import getstate, setstate
from typing import Any

from .guard import Guard

SPECIAL = "\0"
"""Begins the label of what is no variable of the user's."""

NUMPY_SECONDS = 1.0
IMPORT_SECONDS = 10.0
"""To import numpy's generators, which a fresh process may have to read from a slow disk."""

OUT = f"{SPECIAL}Out:"
PLAIN_OUT = f"{SPECIAL}Out"
"""The outputs that are no more than a number or a short text: of those there may be a thousand."""

IN = f"{SPECIAL}In"
RANDOM = f"{SPECIAL}random"
NUMPY = f"{SPECIAL}numpy.random"
LAST = ("_", "__", "___")
IPYTHONS = re.compile(r"In|Out|_i?h|_oh|_dh|_i{1,3}|_i\d+|_\d+|_{1,3}")
PYTHONS = frozenset({"__annotations__", "__warningregistry__"})
"""What Python itself puts into a namespace when code runs."""

MAX_INPUTS = 1000
"""The last cells whose text ``In`` keeps."""

KNOWN_NAMES = 10_000
"""Names of which it is remembered whose they are: each cell adds two, and all are looked at with each save."""

LARGEST = 1 << 63
MAX_PLAIN = 200
"""Numbers up to that size and texts of so many characters are plain: they are saved together."""

_modules = sys.modules


def items(shell: Any) -> list[tuple[str, Any]]:
    """Return the labels and values to be saved, the user's variables first."""
    namespace = dict(shell.user_ns)
    hidden = shell.user_ns_hidden
    found = [
        (name, value)
        for name, value in namespace.items()
        if type(name) is str and not _is_not_the_users(name) and not (name in hidden and hidden[name] is value)
    ]
    found += [(SPECIAL + name, namespace[name]) for name in LAST if name in namespace]
    found += _outputs(namespace.get("_oh"))
    inputs = shell.history_manager.input_hist_parsed
    found.append((IN, [""] * max(0, len(inputs) - MAX_INPUTS) + list(inputs[-MAX_INPUTS:])))
    return found + _random_states()


@lru_cache(KNOWN_NAMES)
def _is_not_the_users(name: str) -> bool:
    return IPYTHONS.fullmatch(name) is not None or name in PYTHONS


def _outputs(outputs: Any) -> list[tuple[str, Any]]:
    """Return what cells put out, each alone but for what is plain."""
    if type(outputs) is not dict:
        return []
    numbered = [(number, value) for number, value in list(outputs.items()) if type(number) is int]
    plain = {number: value for number, value in numbered if _is_plain(value)}
    others = [(f"{OUT}{number}", value) for number, value in numbered if number not in plain]
    return [*others, (PLAIN_OUT, plain)] if plain else others


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return bool(-LARGEST <= value <= LARGEST)
    return kind is float or kind is bool or (kind is str and len(value) <= MAX_PLAIN)


def _random_states() -> list[tuple[str, Any]]:
    """Return the states of the random number generators that modules keep for everybody."""
    found = [(RANDOM, getstate())]
    numpy = _modules.get("numpy.random")
    if numpy is not None:
        state = Guard(NUMPY_SECONDS).attempt(None, lambda: numpy.get_state(False))
        if state is not None:
            found.append((NUMPY, state))
    return found


def put_back(shell: Any, values: Mapping[str, Any], execution_count: int) -> int:
    """Put what was saved into a fresh shell; returns how many variables of the user's there are."""
    shell.execution_count = execution_count
    outputs = _saved_outputs(values)
    shell.user_ns["_oh"].update(outputs)
    specials = {f"_{number}": value for number, value in outputs.items()}
    for label, value in values.items():
        if not label.startswith(SPECIAL):
            shell.user_ns[label] = value
        elif label[1:] in LAST:
            specials[label[1:]] = value
            setattr(shell.displayhook, label[1:], value)
    shell.push(specials, interactive=False)
    _put_inputs(shell, values.get(IN))
    _put_random_states(values)
    return sum(not label.startswith(SPECIAL) for label in values)


def _saved_outputs(values: Mapping[str, Any]) -> dict[int, Any]:
    """Return what cells put out, in their order."""
    plain = values.get(PLAIN_OUT)
    outputs = dict(plain) if type(plain) is dict else {}
    outputs.update(
        (int(label.removeprefix(OUT)), value) for label, value in values.items() if label.startswith(OUT)
    )
    return {number: outputs[number] for number in sorted(outputs)}


def _put_inputs(shell: Any, inputs: Any) -> None:
    if type(inputs) is not list:
        return
    history = shell.history_manager
    history.input_hist_parsed[:] = inputs
    history.input_hist_raw[:] = inputs
    last = [*reversed(inputs[1:]), "", "", "", ""]
    history._i00, history._i, history._ii, history._iii = last[:4]
    shell.push({f"_i{number}": text for number, text in enumerate(inputs) if text}, interactive=False)


def _put_random_states(values: Mapping[str, Any]) -> None:
    if RANDOM in values:
        setstate(values[RANDOM])
    if NUMPY in values:
        Guard(IMPORT_SECONDS).attempt(None, _put_numpy_state, values[NUMPY], seconds=IMPORT_SECONDS)


def _put_numpy_state(state: Any) -> None:
    """Numpy imports its generators when they are asked for, so a fresh process need not have them."""
    import_module("numpy.random").set_state(state)


def shown(label: str) -> str:
    """Return what a user knows the value with this label as."""
    if label.startswith(OUT):
        return f"Out[{label.removeprefix(OUT)}]"
    return {RANDOM: "the state of random", NUMPY: "the state of numpy.random"}.get(label, label.lstrip(SPECIAL))


class Surroundings:
    """What has changed of the process: its current folder, environment and module path."""

    def __init__(self) -> None:
        self._environment = dict(environ)
        self._path = list(sys.path)

    def changes(self) -> dict[str, Any]:
        """Return what is different from what it was in the beginning, fit for JSON."""
        environment = dict(environ)
        changed = {name: environment.get(name) for name in {*environment, *self._environment}}
        return {
            "folder": _current_folder(),
            "environment": {n: v for n, v in sorted(changed.items()) if v != self._environment.get(n)},
            "path": None if type(sys.path) is not list or sys.path == self._path else _texts(sys.path),
        }

    def apply(self, changes: Mapping[str, Any]) -> None:
        """Make the same changes in a process that has begun anew."""
        for name, value in changes["environment"].items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value
        if changes["path"] is not None:
            sys.path[:] = changes["path"]
        try:
            chdir(changes["folder"])
        except OSError:
            return  # it was not saved: the work folder it is


def _texts(values: list[Any]) -> list[str]:
    return [value for value in values if type(value) is str]


def _current_folder() -> str:
    try:
        return getcwd()
    except OSError:  # it was removed
        return "/mnt/data"
