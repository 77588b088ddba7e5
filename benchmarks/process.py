"""Child processes and temporary folders, both gone in the end however a benchmark ends."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

STOP_SECONDS = 30
LOG = "log"
CHECKOUT = Path(__file__).resolve().parent.parent


class ChildEnded(RuntimeError):
    """A process that should serve has ended, or does not serve in time."""


@contextmanager
def folder() -> Iterator[Path]:
    """Make a temporary folder with a short path, so that sockets fit in it."""
    path = Path(tempfile.mkdtemp(prefix="kgb-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def started(
    command: Sequence[str], home: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``python -m`` with ``command`` in ``home`` with output to a log there; then stop it.

    It has a session of its own: a keyboard interrupt reaches this process only, which stops its children in order.
    """
    with (home / LOG).open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=home,
            env={**environment, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """Terminate a child; kill it when that takes too long, or when this is interrupted."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"{child.args!r} did not stop within {STOP_SECONDS} s and is killed", file=sys.stderr)  # noqa: T201
    finally:
        child.kill()
        child.wait()


def environment(without: frozenset[str], **more: str) -> dict[str, str]:
    """Return this process's environment less the variables ``without``, and with ``more``."""
    kept = {name: value for name, value in os.environ.items() if name not in without}
    return {**kept, **more}


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ChildEnded(f"process {pid} has no memory: it has ended")
