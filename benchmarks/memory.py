"""The memory of the server and of a kernel's container."""

from __future__ import annotations

import statistics

from benchmarks import gate
from benchmarks.gate import Gate
from benchmarks.table import Row, at_most

SERVER_MB = 60
KERNEL_MB = 45
PANDAS_MB = 85
KERNELS = 3
IMPORT_PANDAS = "import pandas; print(1)"


def measure(quick: bool) -> list[Row]:
    """Return the rows of a server at rest, of a kernel that has just booted, and of one with pandas."""
    return [server_at_rest(), *kernels(1 if quick else KERNELS)]


def server_at_rest() -> Row:
    """Measure a server whose pool is full."""
    with gate.serving() as server:
        server.settle()
        return at_most("server memory, pool full", server.resident_mb(), "MB", SERVER_MB)


def kernels(count: int) -> list[Row]:
    """Measure ``count`` kernels twice: before they have imported anything, and with pandas."""
    with gate.serving(CONTAINER_POOL_PY_MIN=str(count), REPL_ENABLED="false") as server:
        server.settle()
        booted = statistics.median(server.container_mb())
    with gate.serving(CONTAINER_POOL_ENABLED="false") as server:
        import_pandas(server, count)
        pandas = statistics.median(server.container_mb())
    detail = f", median of {count}"
    return [
        at_most("kernel's container, booted", booted, "MB", KERNEL_MB, detail),
        at_most("kernel's container, pandas imported", pandas, "MB", PANDAS_MB, detail),
    ]


def import_pandas(server: Gate, count: int) -> None:
    """Import pandas in ``count`` new sessions."""
    connection = server.connect()
    for _ in range(count):
        gate.run(connection, IMPORT_PANDAS)
    connection.close()
