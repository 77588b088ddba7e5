"""One call at a time: ``print(1)`` in a bare kernel, in ours and in a peer's, in rounds that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import bare, gate, peer
from benchmarks.gate import Gate
from benchmarks.table import Rounds, Row

MOST_TIMES_BARE = 1.6
PAUSE_SECONDS = 0.02
"""Between calls, so that a kernel stays within the half CPU that it may use by default."""

Round = Callable[[], list[float]]


class LiveSession:
    """One session on one kept-alive connection."""

    def __init__(self, server: Gate) -> None:
        self._connection = server.connect()
        self._session = gate.run(self._connection, "print(1)")

    def sample(self) -> float:
        """Run ``print(1)`` in the session; returns seconds."""
        began = time.perf_counter()
        gate.run(self._connection, "print(1)", self._session)
        return time.perf_counter() - began


class NewSessions:
    """A session for each call, deleted afterwards, on one kept-alive connection."""

    def __init__(self, server: Gate) -> None:
        self._server = server
        self._connection = server.connect()

    def sample(self) -> float:
        """Run ``print(1)`` in a new session while the pool is full and quiet; returns seconds."""
        self._server.settle()
        began = time.perf_counter()
        session = gate.run(self._connection, "print(1)")
        seconds = time.perf_counter() - began
        self._connection.request("DELETE", f"/sessions/{session}")
        return seconds


def measure(quick: bool) -> list[Row]:
    """Return the rows of everything that is called once at a time."""
    rounds, calls, sessions, boots = (3, 10, 2, 1) if quick else (10, 40, 4, 2)
    with ExitStack() as running:
        stock = running.enter_context(bare.kernel())
        gateway = running.enter_context(peer.kernel())
        pooled = running.enter_context(gate.serving())
        unpooled = running.enter_context(gate.serving(CONTAINER_POOL_ENABLED="false"))
        live, new, drained = LiveSession(pooled), NewSessions(pooled), NewSessions(unpooled)
        pooled.settle()
        samples = take_turns(
            rounds,
            {
                "bare": lambda: several(stock.sample, calls),
                "live": lambda: several(live.sample, calls),
                "new": lambda: several(new.sample, sessions),
                "drained": lambda: several(drained.sample, boots),
                "peer": lambda: several(gateway.sample, calls),
            },
        )
    return rows(samples)


def several(sample: Callable[[], float], count: int) -> list[float]:
    """Return ``count`` samples, with a pause before each."""
    samples = []
    for _ in range(count):
        time.sleep(PAUSE_SECONDS)
        samples.append(sample())
    return samples


def take_turns(rounds: int, things: dict[str, Round]) -> dict[str, Rounds]:
    """Measure each thing once in each round, so that a machine that drifts does so for all of them."""
    samples: dict[str, list[list[float]]] = {name: [] for name in things}
    for _ in range(rounds):
        for name, one in things.items():
            samples[name].append(one())
    return {name: Rounds(found) for name, found in samples.items()}


def rows(samples: dict[str, Rounds]) -> list[Row]:
    """Return the table's rows of ``samples``."""
    base = samples["bare"]

    def held(what: str, name: str) -> Row:
        ratio = samples[name].ratio(base)
        return Row(what, samples[name].text(), ratio, f"<= {MOST_TIMES_BARE} x bare", ratio <= MOST_TIMES_BARE)

    def shown(what: str, name: str) -> Row:
        return Row(what, samples[name].text(), samples[name].ratio(base))

    return [
        shown("stock ipykernel over ipc, no container", "bare"),
        held("live session", "live"),
        held("new session, from the pool", "new"),
        shown("new session, empty pool", "drained"),
        shown("stock kernel gateway, one kernel, WebSocket", "peer"),
    ]
