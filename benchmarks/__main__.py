"""``python -m benchmarks``: measures everything on this machine and prints one table."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from benchmarks import latency, load, memory, startup, state, websocket
from benchmarks.process import ChildEnded
from benchmarks.table import Row, table

BENCHMARKS: dict[str, Callable[[bool], list[Row]]] = {
    "latency": latency.measure,
    "load": load.measure,
    "startup": startup.measure,
    "memory": memory.measure,
    "state": state.measure,
    "websocket": websocket.measure,
}


def main() -> int:
    """Run what the command line names. Returns the exit code: 1 for a missed target, 2 when nothing answers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="measure this only; may be repeated")
    parser.add_argument("--quick", action="store_true", help="fewer samples: to try, not to cite")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    rows: list[Row] = []
    try:
        for name in options.only or BENCHMARKS:
            print(f"{name} …", file=sys.stderr, flush=True)  # noqa: T201
            rows += BENCHMARKS[name](options.quick)
    except ChildEnded as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    finally:
        print(f"{os.cpu_count()} CPUs, Python {platform.python_version()}, Linux {platform.release()}\n")  # noqa: T201
        print(table(rows))  # noqa: T201
    return 1 if any(row.met is False for row in rows) else 0


def _interrupt(_signum: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
