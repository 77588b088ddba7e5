"""What it costs that state survives: values in a kernel, calls of a server that saves, sessions that come back."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import gate, pickling, values
from benchmarks.gate import Gate, Refused, WrongAnswer
from benchmarks.latency import PAUSE_SECONDS, several, take_turns
from benchmarks.table import Rounds, Row, at_most

PERIOD_SECONDS = 0.1
"""Before calls with arrays: a kernel gets its part of the CPU anew in each such period."""

MOST_TIMES_NEW = 1.5
ROOM = {"STATE_MAX_SIZE_MB": "256", "MAX_MEMORY_MB": "2048", "CONTAINER_POOL_ENABLED": "false"}

WARM = "import numpy, pandas\ndel numpy, pandas\n"
"""What a kernel from the pool has imported. Without a pool nothing is started beside the calls."""

SAVING, PLAIN = ", saved", ", not saved"

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A session and the call that is measured in it. ``most_ms``: what saving may add to the call."""

    setup: str
    code: str = ""
    pause: float = PERIOD_SECONDS
    most_ms: float | None = None


CASES = {
    "20 variables and a function": Case(values.SMALL, values.CHANGE_SMALL, PAUSE_SECONDS, most_ms=3),
    "array of 20 MB, unchanged": Case(values.array(20), most_ms=15),
    "array of 20 MB, changed": Case(values.array(20), values.CHANGE_ARRAY, most_ms=60),
}
LARGE = {
    "array of 200 MB, unchanged": Case(values.array(200)),
    "array of 200 MB, changed": Case(values.array(200), values.CHANGE_ARRAY),
}


class CaseSession:
    """A session of a server, on a connection of its own. Each of its calls prints 1."""

    def __init__(self, server: Gate, setup: str, saves: bool) -> None:
        self._connection = server.connect()
        self._saves = saves
        self._id = str(self._call(WARM + setup)["session_id"])

    def sample(self, case: Case) -> float:
        """Make a case's call after its pause; returns seconds."""
        time.sleep(case.pause)
        began = time.perf_counter()
        answer = self._call(case.code, self._id)
        seconds = time.perf_counter() - began
        if answer["runtime_status"] != "reused":
            raise WrongAnswer(f"expected a live kernel, got one that is {answer['runtime_status']}")
        return seconds

    def _call(self, code: str, session: str = "") -> Json:
        answer = call(self._connection, code, session)
        check_saved(answer, self._saves)
        return answer


class Returning:
    """Sessions whose kernels have ended, and new ones, of a server that keeps one kernel besides the pool's."""

    def __init__(self, server: Gate) -> None:
        self._server = server
        self._connection = server.connect()
        self._id = self._sample(values.SMALL, "", "new")[1]
        self._newest = ""

    def new(self) -> float:
        """Run code in a new session, which ends the kernel of the other; returns seconds."""
        seconds, self._newest = self._sample("", "", "new")
        return seconds

    def restored(self) -> float:
        """Run code in the session that has no kernel any more; returns seconds."""
        seconds, _ = self._sample("scale(point)", self._id, "restored")
        self._connection.request("DELETE", f"/sessions/{self._newest}")
        return seconds

    def _sample(self, code: str, session: str, status: str) -> tuple[float, str]:
        """Make a call while the pool is full and quiet; returns seconds and the session's id."""
        self._server.settle()
        began = time.perf_counter()
        answer = call(self._connection, code, session)
        seconds = time.perf_counter() - began
        check_saved(answer, True)
        restored = answer["state"]["restored"]
        if answer["runtime_status"] != status or (restored and (restored["lost"] or restored["error"])):
            raise WrongAnswer(f"expected a kernel that is {status}, got {answer['runtime_status']}: {restored}")
        return seconds, str(answer["session_id"])


def measure(quick: bool) -> list[Row]:
    """Return the rows of values in a kernel, of calls, and of sessions that come back."""
    return [*pickling.measure(quick), *calls(quick), returning(2 if quick else 10)]


def calls(quick: bool) -> list[Row]:
    """Measure the same calls of a server that saves and of one that does not."""
    with ExitStack() as running:
        saving = running.enter_context(gate.serving(**ROOM))
        plain = running.enter_context(gate.serving(**ROOM, STATE_PERSISTENCE_ENABLED="false"))
        rows = added(saving, plain, CASES, *((3, 4) if quick else (10, 8)))
        return rows + added(saving, plain, LARGE, *((1, 2) if quick else (5, 2)))


def added(saving: Gate, plain: Gate, cases: Mapping[str, Case], rounds: int, count: int) -> list[Row]:
    """Return the rows of what saving adds, by ``count`` calls a round."""
    setups = dict.fromkeys(case.setup for case in cases.values())
    sessions = {
        (setup, server is saving): CaseSession(server, setup, server is saving)
        for setup in setups
        for server in (saving, plain)
    }
    samples = take_turns(
        rounds,
        {
            name + which: partial(several, partial(sessions[case.setup, which == SAVING].sample, case), count)
            for name, case in cases.items()
            for which in (SAVING, PLAIN)
        },
    )
    return [_added(name, case, samples[name + SAVING], samples[name + PLAIN]) for name, case in cases.items()]


def _added(name: str, case: Case, saving: Rounds, plain: Rounds) -> Row:
    what = f"saving adds to a call, {name}"
    pairs = zip(saving.samples, plain.samples, strict=True)
    value = 1000 * statistics.median(statistics.median(one) - statistics.median(other) for one, other in pairs)
    detail = f" ({saving.text()}; else {plain.text()})"
    if case.most_ms is None:
        return Row(what, f"{value:.1f} ms{detail}")
    return at_most(what, value, "ms", case.most_ms, detail)


def returning(rounds: int) -> Row:
    """Compare the first call of a session that is restored with that of a new one, both in warm kernels."""
    with gate.serving(MAX_LIVE_KERNELS="1", CONTAINER_POOL_PY_MIN="2") as server:
        sessions = Returning(server)
        samples = take_turns(rounds, {"new": lambda: [sessions.new()], "restored": lambda: [sessions.restored()]})
    ratio = samples["restored"].ratio(samples["new"])
    text = f"{samples['restored'].text()}, {ratio:.2f} x new session ({samples['new'].text()})"
    target, met = f"<= {MOST_TIMES_NEW:g} x new", ratio <= MOST_TIMES_NEW
    return Row("small session restored, from the pool", text, target=target, met=met)


def call(connection: Any, code: str, session: str) -> Json:
    """Run ``code`` and ``print(1)``; returns the reply. Raises `Refused`, `WrongAnswer`."""
    request = {"lang": "py", "code": f"{code}\nprint(1)"}
    if session:
        request["session_id"] = session
    status, answer = connection.request("POST", "/exec", request)
    if status != 200:
        raise Refused(f"{status}: {answer}")
    if answer["stdout"] != "1\n" or answer["stderr"]:
        raise WrongAnswer(f"expected '1\\n', got {answer['stdout']!r} and {answer['stderr']!r}")
    return dict(answer)


def check_saved(answer: Json, saves: bool) -> None:
    """Raise `WrongAnswer` unless all of the session was saved, or nothing where nothing should be."""
    state = answer["state"]
    if state["captured"] is not saves or state["error"] or state["skipped"]:
        raise WrongAnswer(f"expected {'all' if saves else 'nothing'} to be saved, got {state}")
