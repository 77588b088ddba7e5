"""The server under test: ``python -m kernelgate`` in a process of its own, configured by what a benchmark says."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

from benchmarks import process
from benchmarks.connection import Connection
from benchmarks.process import ChildEnded
from kernelgate import settings
from kernelgate.auth import DEFAULT_KEY
from kernelgate.configuration import CLASSES
from kernelgate.containers.engine import Engine
from kernelgate.containers.lockdown import LABEL_SERVER
from kernelgate.images.builder import ImageBuilder

START_SECONDS = 60
SETTLE_SECONDS = 120
POLL_SECONDS = 0.05
CONNECT_POLL_SECONDS = 0.005
QUIET_SECONDS = 0.3
LOG_CHARS = 2000
HEADERS = {"x-api-key": DEFAULT_KEY}


class Refused(RuntimeError):
    """An answer other than 200."""


class WrongAnswer(RuntimeError):
    """The code ran and printed something else than it should."""


class Gate:
    """A running server."""

    def __init__(self, child: Popen[bytes], port: int, runtime: Path) -> None:
        self.child = child
        self.port = port
        self.began = time.perf_counter()
        self.runtime = runtime

    def connect(self) -> Connection:
        """Return a new connection; waits until the server listens."""
        while True:
            try:
                return Connection(self.port, HEADERS)
            except ConnectionRefusedError:
                if self.child.poll() is not None or time.perf_counter() - self.began > START_SECONDS:
                    raise ChildEnded(f"kernelgate does not listen: {self._log()}") from None
                time.sleep(CONNECT_POLL_SECONDS)

    def settle(self) -> None:
        """Wait until the pool is full, everything is imported and nothing starts; then a moment more."""
        connection = self.connect()
        deadline = time.perf_counter() + SETTLE_SECONDS
        try:
            while not self._settled(connection):
                if time.perf_counter() > deadline:
                    raise ChildEnded(f"the pool was not full within {SETTLE_SECONDS} s: {self._log()}")
                time.sleep(POLL_SECONDS)
        finally:
            connection.close()
        time.sleep(QUIET_SECONDS)

    def resident_mb(self) -> float:
        """Return the server's resident memory in MB."""
        return process.resident_mb(self.child.pid)

    def container_mb(self) -> list[float]:
        """Return the memory in MB of each of the server's containers, as ``docker stats`` shows it."""
        engine = Engine(base_url=os.environ.get("DOCKER_BASE_URL", ""))
        return [memory_mb(engine.api.stats(name, stream=False)) for name in self._containers(engine)]

    def remove_left(self) -> None:
        """Remove what the server should have removed itself."""
        engine = Engine(base_url=os.environ.get("DOCKER_BASE_URL", ""))
        for name in self._containers(engine):
            engine.api.remove_container(name, force=True, v=True)

    def _containers(self, engine: Engine) -> list[str]:
        containers = engine.api.containers(all=True, filters={"label": LABEL_SERVER})
        own = [one for one in containers if one["Labels"][LABEL_SERVER].startswith(f"{self.runtime}/")]
        return [str(one["Id"]) for one in own]

    def _log(self) -> str:
        return (self.runtime / process.LOG).read_text(errors="replace")[-LOG_CHARS:]

    def _settled(self, connection: Connection) -> bool:
        status, health = connection.request("GET", "/health/detailed")
        if status != 200:
            raise Refused(f"/health/detailed answered {status}: {health}")
        pool = health["pools"]["py"]
        return (
            pool["ready"] >= pool["min"] and pool["warm"] >= pool["min"] and not pool["starting"] + pool["waiting"]
        )


@contextmanager
def serving(**variables: str) -> Iterator[Gate]:
    """Run a server with the environment ``variables``; afterwards its containers and folders are gone."""
    known = frozenset(knob.env for knob in settings.knobs(CLASSES) if knob.cls not in (Engine, ImageBuilder))
    with process.folder() as home:
        port = process.free_port()
        environment = process.environment(
            known,
            API_HOST="127.0.0.1",
            API_PORT=str(port),
            RUNTIME_DIR=str(home),
            STATE_DIR=str(home / "state"),
            SHUTDOWN_SECONDS="1",
            **variables,
        )
        with process.started(["kernelgate"], home, environment) as child:
            gate = Gate(child, port, home)
            try:
                yield gate
            finally:
                try:
                    process.stop(child)
                finally:
                    gate.remove_left()


def run(connection: Connection, code: str, session: str = "", expected: str = "1\n") -> str:
    """Run ``code`` and return the session's id. Raises `Refused`, `WrongAnswer`, `OSError`."""
    request = {"lang": "py", "code": code}
    if session:
        request["session_id"] = session
    status, answer = connection.request("POST", "/exec", request)
    if status != 200:
        raise Refused(f"{status}: {answer}")
    if answer["stdout"] != expected or answer["stderr"]:
        raise WrongAnswer(f"expected {expected!r}, got {answer['stdout']!r} and {answer['stderr']!r}")
    return str(answer["session_id"])


def memory_mb(stats: dict[str, Any]) -> float:
    """Return what ``docker stats`` shows as memory, in MB: usage without the page cache that is not active."""
    memory = stats["memory_stats"]
    cache = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))
    return float(memory["usage"] - cache) / (1 << 20)
