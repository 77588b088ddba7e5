"""Many clients at once, each with a new session for each call, or each with a live one."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import gate
from benchmarks.connection import Connection
from benchmarks.gate import Gate, Refused, WrongAnswer
from benchmarks.table import Row, at_least, at_most, quantile, spread

CLIENTS = (8, 16, 64)
LIVE_KERNELS = 16
"""Kernels that the server of clients with new sessions keeps. They delete nothing: the server removes kernels."""

ONE_SHOT_RATE = 2.3
"""Calls in new sessions per second that two cores have to make with 8 clients."""

SERVER_MB = 60
JOIN_SECONDS = 0.2

Call = Callable[[Connection], object]


@dataclass(frozen=True)
class Sample:
    """One call: when it began and ended (seconds, one clock for all), and what went wrong, if anything did."""

    began: float
    ended: float
    error: str = ""


class Numbers:
    """Numbers that no two calls share, so that an answer can be told from another's."""

    def __init__(self) -> None:
        self._count = itertools.count(10**6)

    def call(self, connection: Connection, session: str = "") -> str:
        """Print a number of its own and check it; returns the session's id."""
        number = next(self._count)
        return gate.run(connection, f"print({number})", session, f"{number}\n")

    def call_anew(self, connection: Connection) -> str:
        """Do so in a new session."""
        return self.call(connection)


class Client(threading.Thread):
    """Calls again and again until it may not any more."""

    def __init__(self, server: Gate, call: Call, may_go_on: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._call = call
        self._may_go_on = may_go_on
        self._server = server

    def run(self) -> None:
        connection = self._server.connect()
        while self._may_go_on():
            began = time.perf_counter()
            error = ""
            try:
                self._call(connection)
            except WrongAnswer as wrong:
                error = f"wrong: {wrong}"
            except Refused as refused:
                error = str(refused)
            except OSError as failure:
                error = f"{type(failure).__name__}: {failure}"
                connection.close()
                connection = self._server.connect()
            self.samples.append(Sample(began, time.perf_counter(), error))
        connection.close()


def measure(quick: bool) -> list[Row]:
    """Return the rows of all numbers of clients."""
    calls, seconds = (24, 1.0) if quick else (60, 4.0)
    return [*one_shot(calls), *live(seconds)]


def one_shot(calls: int) -> list[Row]:
    """Measure new sessions: ``calls`` at least and two per client.

    Calls of a lead-in come before and do not count: they use up the pool, until each call waits for a boot and
    sends another kernel away.
    """
    rows = []
    numbers = Numbers()
    with gate.serving(MAX_LIVE_KERNELS=str(LIVE_KERNELS)) as server:
        for clients in CLIENTS:
            server.settle()
            lead_in = LIVE_KERNELS + clients
            left = Countdown(lead_in + max(calls, 2 * clients))
            samples = together([Client(server, numbers.call_anew, left.take) for _ in range(clients)])
            samples.sort(key=lambda sample: sample.ended)
            since = samples[lead_in - 1].ended
            rows.append(_row(f"{clients} clients, new sessions", clients, samples[lead_in:], since))
        rows.append(_memory(server, "new sessions"))
    return rows


def live(seconds: float) -> list[Row]:
    """Measure live sessions, one per client, each used again and again for ``seconds``."""
    rows = []
    with gate.serving(MAX_LIVE_KERNELS=str(CLIENTS[-1])) as server:
        numbers = Numbers()
        connection = server.connect()
        sessions = [numbers.call(connection) for _ in range(CLIENTS[-1])]
        connection.close()
        server.settle()
        for clients in CLIENTS:
            began = time.perf_counter()
            until = began + seconds
            samples = together([_live_client(server, numbers, own, until) for own in sessions[:clients]])
            rows.append(_row(f"{clients} clients, live sessions", clients, samples, began))
        rows.append(_memory(server, "live sessions"))
    return rows


class Countdown:
    """A number of calls that clients share."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._lock = threading.Lock()

    def take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0


def together(clients: Sequence[Client]) -> list[Sample]:
    """Run all clients at once and return their samples."""
    for client in clients:
        client.start()
    for client in clients:
        while client.is_alive():
            client.join(JOIN_SECONDS)
    return [sample for client in clients for sample in client.samples]


def _memory(server: Gate, after: str) -> Row:
    what = f"server memory after {CLIENTS[-1]} clients, {after}"
    return at_most(what, server.resident_mb(), "MB", SERVER_MB)


def _live_client(server: Gate, numbers: Numbers, session: str, until: float) -> Client:
    return Client(
        server, lambda connection: numbers.call(connection, session), lambda: time.perf_counter() < until
    )


def _row(what: str, clients: int, samples: Sequence[Sample], since: float) -> Row:
    """Return the row of ``samples``; the rate counts from ``since``, on their clock, to the last answer."""
    good = [sample.ended - sample.began for sample in samples if not sample.error]
    wrong = sum(sample.error.startswith("wrong") for sample in samples)
    errors = Counter(sample.error[:70] for sample in samples if sample.error)
    rate = len(good) / (max(sample.ended for sample in samples) - since)
    detail = f"{spread(quantile(good, 0.5), quantile(good, 0.95)) if good else 'no answer'}, "
    detail += f"{len(samples)} calls, {sum(errors.values()) - wrong} errors, {wrong} wrong"
    if errors:
        detail += f" ({errors.most_common(1)[0][0]})"
    if clients == CLIENTS[0] and "new" in what:
        return at_least(what, rate, "/s", ONE_SHOT_RATE, f", {detail}")
    if clients == CLIENTS[-1]:
        return Row(what, f"{rate:.2f}/s, {detail}", target="nothing wrong or refused", met=not errors)
    return Row(what, f"{rate:.2f}/s, {detail}")
