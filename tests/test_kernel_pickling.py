"""Saving values of a namespace and loading them in another process."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernelgate.images.context import image_name
from kernelgate.languages import PYTHON
from tests.kernel_programs.pickling_cases import CASES

ROOT = Path(__file__).parent.parent
KERNEL = ROOT / "kernels" / "python"
PROGRAM = ROOT / "tests" / "kernel_programs" / "pickling.py"
sys.path.insert(0, str(KERNEL))

from kernelgate_kernel.state.deadline import OutOfTime, deadline  # noqa: E402
from kernelgate_kernel.state.pickling import MB, OUT_OF_BAND, Dump, Failure, Loaded, dump, load  # noqa: E402

SECONDS = 20.0
Json = dict[str, Any]


def save(values: dict[str, Any], max_bytes: int = 100 * MB, seconds: float = SECONDS, **options: Any) -> Dump:
    return dump(list(values.items()), {"__name__": "__main__"}, max_bytes, seconds, **options)


def restore(state: Dump) -> Loaded:
    return load(bytes(state.main), [bytearray(buffer) for buffer in state.buffers], {"__name__": "__main__"})


def failures(state: Dump) -> dict[str, str]:
    return {failure.name: failure.reason for failure in state.failed}


def stopped() -> Any:
    """Return a generator."""
    return (each for each in (0,))


# --- what is saved


def run_program(command: list[str], step: str, cases: Json) -> Json:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(KERNEL), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, step],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def outcomes(command: list[str]) -> Json:
    """Return, by case, the traceback of what went wrong or the list of libraries that are not there."""
    states: Json = {name: case._asdict() for name, case in CASES.items()}
    for step in ("save", "again", "check"):
        states = run_program(command, step, states)
    return {name: state.get("missing") or state.get("error", "") for name, state in states.items()}


@pytest.fixture(scope="module")
def here() -> Json:
    return outcomes([sys.executable, str(PROGRAM)])


@pytest.mark.parametrize("name", CASES)
def test_what_was_saved_is_there_in_the_next_process(here: Json, name: str) -> None:
    if isinstance(here[name], list):
        pytest.skip(f"needs {here[name]}")
    assert here[name] == "", here[name]


@pytest.mark.usefixtures("image")
def test_the_same_holds_for_the_python_of_the_image() -> None:
    options = "--rm -i --network none --entrypoint /opt/kernel/bin/python -e PYTHONDONTWRITEBYTECODE=1"
    folders = [f"-v={KERNEL}:/opt/kernelgate:ro", f"-v={PROGRAM}:/program.py:ro", "-e=PYTHONPATH=/opt/kernelgate"]
    image = image_name(PYTHON, PYTHON.base_image)
    found = outcomes(["docker", "run", *options.split(), *folders, image, "/program.py"])
    assert found == dict.fromkeys(CASES, "")


def test_large_buffers_are_views_of_the_values_and_small_ones_are_in_the_stream() -> None:
    large, small = np.zeros(OUT_OF_BAND, "u1"), np.zeros(OUT_OF_BAND - 1, "u1")
    state = save({"small": small, "large": large, "again": [large]})
    assert [len(buffer) for buffer in state.buffers] == [OUT_OF_BAND]
    large[7] = 7
    assert state.buffers[0][7] == 7
    assert (state.buffers[0].ndim, state.buffers[0].format, state.buffers[0].contiguous) == (1, "B", True)
    values = restore(state).values
    assert values["large"] is values["again"][0]
    values["large"][0] = values["small"][0] = 1


def test_names_keep_their_order_and_labels_may_be_any_text() -> None:
    values = {"b": 1, "\0special": [2], "é ü": 3, "a": lambda: 4, "": json, "\ud800": 5}
    state = save(values)
    assert state.names == list(values)
    assert list(restore(state).values) == list(values)


def test_nothing_is_saved_of_nothing() -> None:
    state = save({})
    assert (state.names, state.failed, state.buffers, state.dill) == ([], [], [], None)
    assert restore(state) == Loaded({}, [])


# --- what cannot be saved


class Sleeper:
    def __reduce__(self) -> Any:
        time.sleep(60)
        return Sleeper, ()


class Counted:
    count = 0

    def __reduce__(self) -> Any:
        Counted.count += 1
        return Counted, ()


class Numbered:
    """Takes half a millisecond to save."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        time.sleep(0.0005)
        return Numbered, (self.number,)


class Bad:
    """Is saved, and cannot be loaded."""

    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("no" * 1000)

    def __getstate__(self) -> Any:
        return {"a": 1}


def test_a_failure_names_the_value_its_type_and_the_reason() -> None:
    state = save({"g": stopped(), "s": [np.zeros(9), Sleeper], "l": [stopped()]})
    reason = "a generator cannot be saved: it is in the middle of its work"
    assert state.failed == [Failure("g", "generator", reason), Failure("l", "list", reason)]
    assert state.names == ["s"]
    label = "\0" + "x" * 300
    with open(os.devnull) as file:
        state = save({label: file, "r": random.Random})
    assert state.failed == [Failure(label, "_io.TextIOWrapper", "an open file cannot be saved")]
    assert state.names == ["r"]


def test_what_is_too_large_is_left_out_and_the_rest_is_saved() -> None:
    values = {
        "first": 1,
        "numbers": list(range(1_000_000)),
        "array": np.zeros(2 * MB, "u1"),
        "text": "x" * 2 * MB,
        "data": b"x" * 2 * MB,
        "fits": np.zeros(MB // 2, "u1"),
        "also too large": np.zeros(MB * 3 // 4, "u1"),
        "last": [2],
    }
    state = save(values, max_bytes=MB)
    assert state.names == ["first", "fits", "last"]
    assert set(failures(state)) == {"numbers", "array", "text", "data", "also too large"}
    assert all("too large: more than" in reason and "MB" in reason for reason in failures(state).values())
    assert "0.5 MB" in failures(state)["also too large"]
    assert len(state.main) + sum(len(buffer) for buffer in state.buffers) < MB + 4096
    assert restore(state).values["last"] == [2]


def test_what_would_be_too_large_in_one_piece_is_refused_before_it_is_put_together() -> None:
    line = np.zeros(2 * MB, "u1")
    values = {"half": line.reshape(1024, 2048)[:, ::2], "sub": line.view(Sub).reshape(2, -1)[:, ::2], "last": [1]}
    state = save(values, max_bytes=MB // 2)
    assert state.names == ["last"]
    assert all("too large: more than the 0.5 MB" in reason for reason in failures(state).values())
    tracemalloc.start()
    try:
        save(values, max_bytes=MB // 2)
        assert tracemalloc.get_traced_memory()[1] < MB // 2
    finally:
        tracemalloc.stop()


class Sub(np.ndarray[Any, Any]):
    """An array of a class of its own."""


def test_saving_stops_where_the_limit_is_reached() -> None:
    Counted.count = 0
    state = save({"many": [Counted() for _ in range(300_000)]}, max_bytes=MB // 10)
    assert "too large" in failures(state)["many"]
    assert 0 < Counted.count < 100_000


def test_what_hangs_is_told_by_name_and_the_rest_is_saved() -> None:
    values = {"a": [1], "hangs": Sleeper(), "b": [2], "too": [Sleeper()], "c": [3]}
    started = time.monotonic()
    state = save(values, seconds=2)
    assert time.monotonic() - started < 10
    assert state.names == ["a", "b", "c"]
    assert set(failures(state)) == {"hangs", "too"}
    assert all(reason.startswith("took longer than ") for reason in failures(state).values())


def test_suspects_are_tried_alone_and_saved_when_they_are_innocent() -> None:
    shared = [1]
    values: dict[str, Any] = {"a": shared, "good": [shared], "hangs": Sleeper(), "bad": [stopped()], "b": shared}
    state = save(values, seconds=4, suspects={"good", "hangs", "bad"})
    assert state.names == ["a", "good", "b"]
    assert failures(state)["hangs"] == "took longer than 1 s"
    loaded = restore(state).values
    assert loaded["good"][0] is loaded["a"] is loaded["b"]


@pytest.mark.parametrize("seed", range(4))
def test_time_that_is_over_anywhere_leaves_a_state_that_can_be_loaded(seed: int) -> None:
    chance = random.Random(seed)
    values: dict[str, Any] = {f"n{number}": [Numbered(number)] for number in range(60)}
    for _ in range(15):
        state = save(values, seconds=chance.uniform(0.0001, 0.05))
        loaded = restore(state)
        assert loaded.lost == []
        assert list(loaded.values) == state.names
        assert all(value[0].number == int(name[1:]) for name, value in loaded.values.items())
        assert sorted([*state.names, *failures(state)]) == sorted(values)


def test_failures_leave_no_trace_in_what_is_saved() -> None:
    values: dict[str, Any] = {}
    for number in range(200):
        shared = {"number": number}
        values[f"bad{number}"] = [shared, partial(save, shared), stopped()]
        values[f"good{number}"] = [shared, shared]
    state = save(values)
    assert state.names == [f"good{number}" for number in range(200)]
    clean = save({name: values[name] for name in state.names})
    assert len(state.main) < len(clean.main) + 1000  # the positions differ
    loaded = restore(state).values
    assert all(loaded[f"good{number}"] == [{"number": number}] * 2 for number in range(200))


def test_the_settings_of_the_user_are_as_they_were() -> None:
    limit, handler = sys.getrecursionlimit(), signal.getsignal(signal.SIGALRM)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    gc.disable()
    try:
        sys.setrecursionlimit(10**6)
        state = save({"deep": deep, "ok": 1})
        assert (sys.getrecursionlimit(), gc.isenabled()) == (10**6, False)
    finally:
        sys.setrecursionlimit(limit)
        gc.enable()
    assert failures(state) == {"deep": "it is nested too deep"}
    restore(state)
    assert (gc.isenabled(), signal.getsignal(signal.SIGALRM)) == (True, handler)
    while deep:
        deep = deep.pop()


# --- what cannot be loaded


def test_a_value_that_cannot_be_loaded_is_told_and_the_rest_is_loaded() -> None:
    first, inner = [1], [2]
    bad = Bad()
    values = {
        "first": first,
        "bad": bad,
        "refers": [bad],
        "more": [first, inner],
        "z": Bad(),
        "last": (first, inner),
    }
    loaded = restore(save(values))
    assert [failure.name for failure in loaded.lost] == ["bad", "refers", "z"]
    assert loaded.lost[0].type.endswith("test_kernel_pickling.Bad")
    assert loaded.lost[0].reason.startswith("RuntimeError: nono")
    assert len(loaded.lost[0].reason) == 200
    assert "could not be loaded" in loaded.lost[1].reason
    assert loaded.values == {"first": [1], "more": [[1], [2]], "last": ([1], [2])}
    assert loaded.values["more"][0] is loaded.values["first"]
    assert loaded.values["more"][1] is loaded.values["last"][1]


def test_what_is_no_state_is_refused_as_a_whole() -> None:
    state = save({"a": [1], "b": np.zeros(OUT_OF_BAND, "u1")})
    main, buffers = bytes(state.main), [bytearray(buffer) for buffer in state.buffers]
    for broken in (
        b"",
        b"x",
        main[:10],
        main[:40],
        main[:-5],
        b"y" + main[1:],
        main[:8] + b"\xff" * 8 + main[16:],
    ):
        with pytest.raises(ValueError, match="state"):
            load(broken, buffers, {})
    with pytest.raises(ValueError, match="0 buffers"):
        load(main, [], {})


def test_damage_in_the_stream_hurts_what_it_hits() -> None:
    state = save({"a": ["hello"], "b": ["world"], "c": [1]})
    main = bytes(state.main).replace(b"world", b"\xff\xff\xff\xff\xff")
    loaded = load(main, [], {})
    assert ([failure.name for failure in loaded.lost], loaded.values) == (["b"], {"a": ["hello"], "c": [1]})


def test_loading_ends_with_the_time_of_the_caller_and_leaves_the_namespace_alone() -> None:
    namespace: dict[str, Any] = {"kept": 1}
    state = save({"early": [1], "hangs": Waits()})
    with pytest.raises(OutOfTime), deadline(0.3):
        load(state.main, [], namespace)
    assert namespace == {"kept": 1}


class Waits:
    def __reduce__(self) -> Any:
        return time.sleep, (60,)
