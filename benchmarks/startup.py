"""From the start of the server's process to its first answer. The images are there."""

from __future__ import annotations

import statistics
import time

from benchmarks import gate
from benchmarks.table import Row, at_most

MOST_SECONDS = 2.5


def measure(quick: bool) -> list[Row]:
    """Return the row of the first answer of ``POST /exec``."""
    samples = [first_answer() for _ in range(1 if quick else 5)]
    detail = f", median of {len(samples)}, longest {max(samples):.1f} s"
    return [at_most("start to first answer", statistics.median(samples), "s", MOST_SECONDS, detail)]


def first_answer() -> float:
    """Start a server and return the seconds until it has run code."""
    with gate.serving() as server:
        connection = server.connect()
        gate.run(connection, "print(1)")
        seconds = time.perf_counter() - server.began
        connection.close()
    return seconds
