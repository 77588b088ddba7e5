"""Servers for the tests, their logs when a test fails, and a look at what they leave behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from tests.server import OTHER_KEY, Client, Json, Server, Servers, new_id
from tests.services import minio_server, redis_server

__all__ = ["minio_server", "redis_server"]

SERVERS = pytest.StashKey[Servers]()
BUILD_SECONDS = 280
SECRET_MARKER = "marker-of-the-servers-environment"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of the running servers with a test that fails."""
    report = yield
    servers = item.config.stash.get(SERVERS, None)
    if report.failed and servers is not None:
        for server in servers.running:
            report.sections.append((f"server {server.process.pid}", server.log()))
    return report


@pytest.fixture(scope="session")
def image() -> None:
    """The kernel's image, built if it is not there."""
    command = [sys.executable, "-m", "kernelgate", "images", "build"]
    subprocess.run(command, check=True, timeout=BUILD_SECONDS)


@pytest.fixture(scope="session")
def servers(image: None, pytestconfig: pytest.Config) -> Iterator[Servers]:
    """What starts servers. In the end nothing may be left of them."""
    servers = pytestconfig.stash[SERVERS] = Servers()
    yield servers
    assert servers.leftovers() == []


@pytest.fixture(scope="session")
def server(servers: Servers) -> Iterator[Server]:
    """A server that many tests share. Whatever they do to it, no error of its own may be in its log."""
    environment = {
        "MAX_EXECUTION_TIME": "10",
        "MAX_CPU_QUOTA": "100000",
        "CONTAINER_POOL_PY_MIN": "2",
        "SECRET_TEST_MARKER": SECRET_MARKER,
    }
    with servers.serving(environment, ["--Server.keepalive_seconds=1"]) as server:
        yield server


@pytest.fixture
def start_server(servers: Servers) -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test. Call it with environment, arguments and runtime folder."""
    started: list[Server] = []

    def start(*args: Any, **kwargs: Any) -> Server:
        started.append(servers.start(*args, **kwargs))
        return started[-1]

    yield start
    for server in started:
        servers.stop(server)


@pytest.fixture
def client(server: Server) -> Client:
    """The first tenant of the shared server."""
    return server.client()


@pytest.fixture
def other(server: Server) -> Client:
    """The second tenant of the shared server."""
    return server.client(OTHER_KEY)


@pytest.fixture
def session_id(client: Client) -> Iterator[str]:
    """The id of a session that only this test uses, and that ends with it."""
    session_id = new_id()
    yield session_id
    client.delete(session_id)


@pytest.fixture
def run(client: Client, session_id: str) -> Callable[..., Json]:
    """Runs Python code in a session that only this test uses."""
    return lambda code, **fields: client.run(code, session_id=session_id, **fields)


@pytest.fixture(scope="module")
def shell(server: Server) -> Iterator[Callable[..., Json]]:
    """Runs Python code in a session that the tests of a module share."""
    client, session_id = server.client(), new_id()
    yield lambda code, **fields: client.run(code, session_id=session_id, **fields)
    client.delete(session_id)
