"""A real server in a process of its own, and a plain client for it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import docker
import requests

T = TypeVar("T")
Json = dict[str, Any]

KEY = "key-of-the-first-tenant"
OTHER_KEY = "key-of-the-second-tenant"
PROMPT = 5.0
"""Seconds in which a small request must be answered, whatever others do."""

START_SECONDS = 60.0
STOP_SECONDS = 40.0


def wait_for(look: Callable[[], T], seconds: float = 15.0, every: float = 0.05) -> T:
    """Return what ``look`` returns as soon as that is true; fails when it is not in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"still {found!r} after {seconds} s"
        time.sleep(every)


def in_background(work: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
    """Call ``work`` on a thread of its own, which does not keep the tests from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  whoever asks for the result gets it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def new_id() -> str:
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Client:
    """Speaks to a server as one owner."""

    url: str
    key: str = KEY
    user: str | None = None

    def as_user(self, user: str) -> Client:
        return replace(self, user=user)

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request and return the answer, whatever it is."""
        headers = {"x-api-key": self.key, **options.pop("headers", {})}
        options.setdefault("timeout", 60)
        params = options.pop("params", {} if self.user is None else {"user_id": self.user})
        return requests.request(method, self.url + path, headers=headers, params=params, **options)

    def post(self, body: object) -> requests.Response:
        """Send ``POST /exec``."""
        return self.request("POST", "/exec", json=body, params={})

    def body(self, code: str, **fields: Any) -> Json:
        """Return the body of ``POST /exec`` for Python code."""
        user = {} if self.user is None else {"user_id": self.user}
        return {"lang": "py", "code": code, **user, **fields}

    def run(self, code: str, **fields: Any) -> Json:
        """Run Python code and return the reply, which must be 200."""
        answer = self.post(self.body(code, **fields))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def printed(self, code: str, **fields: Any) -> str:
        """Run Python code that must succeed; returns what it printed."""
        reply = self.run(code, **fields)
        assert reply["status"] == "ok", reply
        return str(reply["stdout"])

    def delete(self, session_id: str) -> requests.Response:
        return self.request("DELETE", f"/sessions/{session_id}")

    def session(self, session_id: str) -> Json:
        answer = self.request("GET", f"/sessions/{session_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def health(self) -> Json:
        answer = self.request("GET", "/health/detailed", params={})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def pool(self) -> Json:
        return dict(self.health()["pools"]["py"])


class Server:
    """``python -m kernelgate`` with settings of its own, in a temporary folder."""

    def __init__(
        self, environment: Mapping[str, str] | None = None, arguments: Sequence[str] = (), runtime_dir: str = ""
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kg-home-"))
        self.runtime_dir = runtime_dir or tempfile.mkdtemp(prefix="kgt-", dir="/tmp")
        self._out, self._err = self.folder / "stdout", self.folder / "stderr"
        inherited = ("PATH", "HOME", "LANG", "PYTHONPATH", "DOCKER_HOST", "XDG_CACHE_HOME")
        self.environment = {
            **{name: os.environ[name] for name in inherited if name in os.environ},
            "JUPYTER_CONFIG_DIR": str(self.folder),
            "API_HOST": "127.0.0.1",
            "API_PORT": "0",
            "API_KEY": KEY,
            "API_KEYS": OTHER_KEY,
            "RUNTIME_DIR": self.runtime_dir,
            "STATE_DIR": str(self.folder / "state"),
            "CONTAINER_POOL_PY_MIN": "1",
            **(environment or {}),
        }
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kernelgate", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self.url = ""

    # ---- what it says

    @property
    def stdout(self) -> str:
        return self._out.read_text(errors="replace") if self._out.exists() else ""

    @property
    def stderr(self) -> str:
        return self._err.read_text(errors="replace") if self._err.exists() else ""

    def log(self, chars: int = 8000) -> str:
        """Return the end of all it said."""
        return f"exit code {self.process.poll()}\n{self.stdout[-chars:]}\n{self.stderr[-chars:]}"

    def client(self, key: str = KEY) -> Client:
        assert self.url, "the server is not ready"
        return Client(self.url, key)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    # ---- its life

    def wait_ready(self) -> Server:
        """Wait for the line that says so; fails with the log when the server ends instead."""
        marker = "is ready at "
        wait_for(lambda: self.process.poll() is not None or marker in self.stdout, START_SECONDS)
        assert self.process.poll() is None, self.log()
        wait_for(lambda: "\n" in self.stdout.partition(marker)[2])
        self.url = self.stdout.partition(marker)[2].split()[0]
        return self

    def signal(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for the end; returns the exit code."""
        return self.process.wait(seconds)

    def stop(self) -> None:
        """End the server, by force when it does not end by itself, and remove its folder."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- what it leaves behind

    def containers(self) -> list[str]:
        """Return the ids of the containers, running or not, of all servers with this runtime folder."""
        return [container["Id"] for container in containers_below(self.runtime_dir)]

    def folders(self) -> list[str]:
        """Return the names of what is in the runtime folder: one folder for each living server."""
        with contextlib.suppress(FileNotFoundError):
            return os.listdir(self.runtime_dir)
        return []


def containers_below(runtime_dir: str) -> list[Json]:
    """Return Docker's summaries of the containers whose servers have their locks below ``runtime_dir``."""
    with contextlib.closing(docker.APIClient()) as engine:
        found = engine.containers(all=True, filters={"label": "kernelgate.server"})
    return [item for item in found if item["Labels"]["kernelgate.server"].startswith(runtime_dir + os.sep)]


class Servers:
    """Starts servers and sees to it that they leave nothing behind."""

    def __init__(self) -> None:
        self.running: list[Server] = []
        self._runtime_dirs: set[str] = set()

    def start(
        self, environment: Mapping[str, str] | None = None, arguments: Sequence[str] = (), runtime_dir: str = ""
    ) -> Server:
        """Start a server; it may not be ready yet when this returns."""
        server = Server(environment, arguments, runtime_dir)
        self.running.append(server)
        self._runtime_dirs.add(server.runtime_dir)
        return server

    def stop(self, server: Server) -> None:
        server.stop()
        self.running.remove(server)

    @contextlib.contextmanager
    def serving(
        self, environment: Mapping[str, str] | None = None, arguments: Sequence[str] = ()
    ) -> Iterator[Server]:
        """Start a server, wait until it is ready, stop it. No error of its own may be in its log."""
        server = self.start(environment, arguments)
        try:
            yield server.wait_ready()
            assert "Traceback" not in server.stderr, server.stderr
        finally:
            self.stop(server)

    def leftovers(self) -> list[str]:
        """Return what is left of servers that were stopped, and remove it."""
        found: list[str] = []
        with contextlib.closing(docker.APIClient()) as engine:
            for runtime_dir in self._runtime_dirs:
                for container in containers_below(runtime_dir):
                    found.append(f"container {container['Names']} of {runtime_dir}")
                    engine.remove_container(container["Id"], force=True)
                with contextlib.suppress(FileNotFoundError):
                    found += [os.path.join(runtime_dir, name) for name in os.listdir(runtime_dir)]
                    shutil.rmtree(runtime_dir)
        return found
