"""A real Redis and a real MinIO on ports of their own, which tests may stop, kill and pause."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.server import wait_for

START_SECONDS = 60.0
STOP_SECONDS = 20.0
PASSWORD = "password-of-the-tests"


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def program(name: str, *folders: Path) -> str:
    """Return the path of a program; a test that needs one that is not there fails."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.fail(f"{name} is not installed: run 'make services'", pytrace=False)
    return found


class Service:
    """A server process with a port and a data folder that it keeps when it starts again."""

    def __init__(self, name: str) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"kg-{name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return {}

    def answers(self) -> bool:
        """Tell whether the server serves."""
        raise NotImplementedError

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def start(self) -> None:
        """Start the server if it does not run, and wait until it serves."""
        if self._process is not None:
            return
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command()],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        process = self._process
        wait_for(lambda: process.poll() is not None or self.answers(), START_SECONDS)
        assert process.poll() is None, self.log()

    def stop(self) -> None:
        """Have the server end as it does when it is asked to."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Have the server hang: its port is open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()

    @contextlib.contextmanager
    def killed(self) -> Iterator[None]:
        self.kill()
        try:
            yield
        finally:
            self.start()

    def remove(self) -> None:
        """Kill the server and remove its data."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder)

    def _signal(self, signum: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(signum)

    def _end(self, signum: signal.Signals) -> None:
        self._signal(signum)
        assert self._process is not None
        self._process.wait(STOP_SECONDS)
        self._process = None


class RedisServer(Service):
    """Redis that writes each change to the disk before it answers."""

    def __init__(self) -> None:
        super().__init__("redis")
        self._program = program("redis-server")

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@{self.address}/0"

    def command(self) -> Sequence[str]:
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "requirepass": PASSWORD,
        }
        return [self._program, *(word for name, value in settings.items() for word in (f"--{name}", value))]

    def answers(self) -> bool:
        return self.ask("PING") == "+PONG"

    def ask(self, *words: str) -> str:
        """Send one command; returns the first line of the answer, "" when there is none."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                answers = connection.makefile("rb")
                for command in (("AUTH", PASSWORD), words):
                    parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in command)
                    connection.sendall(f"*{len(command)}\r\n{parts}".encode())
                    answer = answers.readline().decode().strip()
                return answer
        except OSError:
            return ""


class MinioServer(Service):
    """MinIO with one folder as its drive."""

    access_key = "access-key-of-the-tests"
    secret_key = PASSWORD

    def __init__(self) -> None:
        super().__init__("minio")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._program = program("minio", cache / "kernelgate" / "bin", Path.home() / "go" / "bin")

    def command(self) -> Sequence[str]:
        console = f"127.0.0.1:{free_port()}"
        drive = str(self.folder / "drive")
        return [self._program, "server", "--quiet", "--address", self.address, "--console-address", console, drive]

    def environment(self) -> Mapping[str, str]:
        return {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/minio/health/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for the whole run. A test that stops it starts it again."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def minio_server() -> Iterator[MinioServer]:
    """A MinIO for the whole run. A test that stops it starts it again."""
    server = MinioServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()
