"""Saves and loads values as a kernel does, beside ``pickle`` and ``dill``, in rounds that take turns.

A program that runs in the kernel's image: ``python -c <this text> <cases as JSON>``; JSON with seconds on stdout.
Each library is called as anyone would call it: ``dumps(values, protocol=5)``, ``loads(data)``.
"""

from __future__ import annotations

import gc
import json
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from types import FunctionType, SimpleNamespace
from typing import Any

import dill
from kernelgate_kernel.state.pickling import Dump, dump, load
from kernelgate_kernel.state.snapshot import Snapshots

PROTOCOL = 5
MOST_BYTES = 1 << 30
MOST_SECONDS = 120.0

Values = dict[str, Any]
Samples = dict[str, list[float]]
Way = tuple[Callable[[Values], Any], Callable[[Any], Values]]


def dump_state(values: Values) -> Dump:
    return dump(list(values.items()), globals(), MOST_BYTES, MOST_SECONDS)


def load_state(state: Dump) -> Values:
    """Load what was saved; like a kernel that is restored, into memory that is new."""
    return load(bytearray(state.main), [bytearray(buffer) for buffer in state.buffers], globals()).values


WAYS: dict[str, Way] = {
    "own": (dump_state, load_state),
    "pickle": (lambda values: pickle.dumps(values, PROTOCOL), pickle.loads),
    "dill": (lambda values: dill.dumps(values, PROTOCOL), dill.loads),
}


def measure(case: dict[str, Any]) -> dict[str, Samples]:
    """Return the seconds of each way of saving a case and of loading it, and of a kernel's saves.

    ``case``: ``setup`` makes the values; ``rounds`` says in how many rounds each way of ``WAYS`` has its turn;
    ``change`` is code that changes the values, and asks for the saves of a kernel that knows what is stored.
    """
    with made(case["setup"]) as values:
        samples = take_turns(case["rounds"], values)
        if "change" in case:
            samples["save"] = keep(values, case["change"], case["rounds"]["own"])
    return samples


@contextmanager
def made(setup: str) -> Iterator[Values]:
    """Run code here, in ``__main__`` as cells do, and give what it made; afterwards that is gone."""
    before = set(globals())
    exec(compile(setup, "<cell>", "exec", dont_inherit=True), globals())
    values = {name: value for name, value in globals().items() if name not in before}
    try:
        yield values
    finally:
        for name in values:
            del globals()[name]


def take_turns(rounds: dict[str, int], values: Values) -> dict[str, Samples]:
    """Save and load in each way, and check that what comes of it is the same."""
    dumps: Samples = {name: [] for name in rounds}
    loads: Samples = {name: [] for name in rounds}
    for name in turns(rounds):
        save, restore = WAYS[name]
        seconds, data = timed(save, values)
        dumps[name].append(seconds)
        seconds, loaded = timed(restore, data)
        loads[name].append(seconds)
        check(name, values, loaded)
    return {"dump": dumps, "load": loads}


def turns(rounds: dict[str, int]) -> Iterator[str]:
    """Give the ways in the order of their turns, which differs from round to round. The last rounds have all."""
    names = list(rounds)
    for left in range(max(rounds.values()), 0, -1):
        start = left % len(names)
        yield from (name for name in names[start:] + names[:start] if rounds[name] >= left)


def keep(values: Values, change: str, rounds: int) -> Samples:
    """Save as a kernel does behind a cell, with chunks: for the first time, the same again, all of it changed."""
    shell = SimpleNamespace(
        user_ns=values,
        user_ns_hidden={},
        history_manager=SimpleNamespace(input_hist_parsed=[""]),
        execution_count=1,
    )
    samples: Samples = {"first": [], "same": [], "changed": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            gateway = Gateway(Snapshots(shell, folder))
            samples["first"].append(gateway.save())
            samples["same"].append(gateway.save())
            exec(change, globals())
            samples["changed"].append(gateway.save())
    return samples


class Gateway:
    """What is on the other side of a kernel: it remembers the chunks' names."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._count = 0
        self._sent: Sequence[str] = ()

    def save(self) -> float:
        """Have the state saved; returns the seconds until all chunks are there."""
        request = {
            "base": str(self._count) if self._count else None,
            "tag": str(self._count + 1),
            "sent": self._sent,
            "max_bytes": MOST_BYTES,
            "seconds": MOST_SECONDS,
            "on_error": False,
            "files": None,
        }
        self._count += 1
        seconds, chunks = timed(lambda asked: list(self._snapshots.save(asked).chunks()), request)
        self._sent = [sha256(chunk).hexdigest() for chunk in chunks]
        return seconds


def timed(function: Callable[[Any], Any], value: Any) -> tuple[float, Any]:
    """Return the seconds of a call, and what it returned."""
    gc.collect()
    began = time.perf_counter()
    result = function(value)
    return time.perf_counter() - began, result


def check(way: str, values: Values, loaded: Values) -> None:
    for name, value in values.items():
        if name not in loaded or not same(value, loaded[name]):
            raise AssertionError(f"{way} lost or changed {name}")


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal; functions are when their code is."""
    if isinstance(one, FunctionType):
        return one is not other and bool(one.__code__ == other.__code__)
    if hasattr(one, "equals"):
        return bool(one.equals(other))
    if hasattr(one, "tobytes"):
        return bool(one.dtype == other.dtype and (one == other).all())
    return bool(one == other)


if __name__ == "__main__":
    json.dump({name: measure(case) for name, case in json.loads(sys.argv[1]).items()}, sys.stdout)
