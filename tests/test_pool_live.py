"""The pool with real containers: it fills, it replaces what breaks, it serves in order."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from tests.server import PROMPT, Client, Server, in_background, wait_for

StartServer = Callable[..., Server]


@pytest.fixture
def engine() -> Iterator[docker.APIClient]:
    with contextlib.closing(docker.APIClient()) as engine:
        yield engine


def wait_filled(client: Client, count: int) -> None:
    """Wait until ``count`` kernels wait in the pool and none is being started."""
    wait_for(lambda: (client.pool()["ready"], client.pool()["starting"]) == (count, 0), 40)


def test_the_pool_refills_to_its_minimum(start_server: StartServer) -> None:
    """Three kernels; two are taken; soon there are three again, and never more."""
    server = start_server({"CONTAINER_POOL_PY_MIN": "3"}, ["--PoolSettings.imports=[]"]).wait_ready()
    client = server.client()
    wait_filled(client, 3)
    assert len(server.containers()) == 3
    for name in "ab":
        client.run("pass", session_id=name)
    wait_filled(client, 3)
    assert len(server.containers()) == 5
    time.sleep(1)
    wait_filled(client, 3)
    assert len(server.containers()) == 5


def test_a_call_takes_a_waiting_kernel_at_once(start_server: StartServer) -> None:
    """A new session when the pool is full: no container is started for it."""
    client = start_server({"CONTAINER_POOL_PY_MIN": "1"}, ["--PoolSettings.imports=[]"]).wait_ready().client()
    wait_filled(client, 1)
    started = time.monotonic()
    assert client.run("print(1)")["stdout"] == "1\n"
    assert time.monotonic() - started < 0.5


def test_waiting_kernels_import_ahead(start_server: StartServer) -> None:
    """Two libraries named in the settings: in a warm kernel they are imported, and nothing of it shows."""
    arguments = ["--PoolSettings.imports=numpy", "--PoolSettings.imports=no_such_module"]
    client = start_server({"CONTAINER_POOL_PY_MIN": "1"}, arguments).wait_ready().client()
    wait_for(lambda: client.pool()["warm"] == 1, 30)
    reply = client.run("import sys; print('numpy' in sys.modules, 'numpy' in globals())")
    assert (reply["stdout"], reply["stderr"], reply["execution_count"]) == ("True False\n", "", 1)


def test_a_killed_kernel_is_replaced_and_never_handed_out(
    start_server: StartServer, engine: docker.APIClient
) -> None:
    """docker kill of a waiting kernel; the call right behind it works, and the pool fills up again."""
    server = start_server({"CONTAINER_POOL_PY_MIN": "2"}, ["--PoolSettings.imports=[]"]).wait_ready()
    client = server.client()
    wait_filled(client, 2)
    victims = server.containers()
    for victim in victims:
        engine.kill(victim)
    reply = client.run("print(1)")
    assert (reply["status"], reply["stdout"]) == ("ok", "1\n")
    wait_filled(client, 2)
    assert not set(victims) & set(server.containers())


def test_a_kernel_that_does_not_answer_is_replaced(start_server: StartServer, engine: docker.APIClient) -> None:
    """docker pause of a waiting kernel: the health check finds it within seconds."""
    server = start_server(
        {"CONTAINER_POOL_PY_MIN": "1", "REPL_HEALTH_CHECK_TIMEOUT_SECONDS": "1"},
        ["--PoolSettings.health_check_interval=1", "--PoolSettings.imports=[]"],
    ).wait_ready()
    client = server.client()
    wait_filled(client, 1)
    (victim,) = server.containers()
    engine.pause(victim)
    wait_for(lambda: victim not in server.containers(), 20)
    wait_filled(client, 1)
    started = time.monotonic()
    assert client.run("print(1)")["stdout"] == "1\n"
    assert time.monotonic() - started < PROMPT


def test_callers_are_served_in_the_order_of_their_coming(start_server: StartServer) -> None:
    """An empty pool and six calls 50 ms apart, one start at a time: they are answered in that order."""
    settings = {"CONTAINER_POOL_PY_MIN": "0"}
    client = start_server(settings, ["--KernelStarter.max_concurrent_starts=1"]).wait_ready().client()
    ended: list[int] = []

    def call(number: int) -> str:
        reply = client.run(f"print({number})")
        ended.append(number)
        return str(reply["stdout"])

    futures = []
    for number in range(6):
        futures.append(in_background(call, number))
        time.sleep(0.05)
    assert [future.result(40) for future in futures] == [f"{number}\n" for number in range(6)]
    assert ended == list(range(6))


def test_ten_callers_drain_the_pool_and_all_are_right(start_server: StartServer) -> None:
    """Two kernels wait, ten new sessions come at once: each gets a kernel of its own and its own result."""
    client = start_server({"CONTAINER_POOL_PY_MIN": "2"}, ["--PoolSettings.imports=[]"]).wait_ready().client()
    wait_filled(client, 2)
    code = "import os; print(sorted(name for name in globals() if name == 'mark')); mark = 1; print({})"
    futures = [in_background(client.run, code.format(number)) for number in range(10)]
    replies = [future.result(60) for future in futures]
    assert [reply["stdout"] for reply in replies] == [f"[]\n{number}\n" for number in range(10)]
    assert {reply["runtime_status"] for reply in replies} == {"new"}
    assert len({reply["session_id"] for reply in replies}) == 10


def test_without_a_pool_each_call_starts_a_kernel(start_server: StartServer) -> None:
    """CONTAINER_POOL_ENABLED=false: nothing is started ahead, calls work."""
    server = start_server({"CONTAINER_POOL_ENABLED": "false", "CONTAINER_POOL_PY_MIN": "5"}).wait_ready()
    client = server.client()
    assert server.containers() == []
    assert client.run("print(1)", session_id="a")["stdout"] == "1\n"
    assert client.pool()["ready"] == 0
    assert len(server.containers()) == 1


def test_without_warmup_the_first_call_fills_the_pool(start_server: StartServer) -> None:
    """CONTAINER_POOL_WARMUP_ON_STARTUP=false: no container before the first call, then the minimum."""
    server = start_server({"CONTAINER_POOL_WARMUP_ON_STARTUP": "false"}).wait_ready()
    client = server.client()
    time.sleep(0.5)
    assert server.containers() == []
    assert client.run("print(1)")["stdout"] == "1\n"
    wait_filled(client, 1)


def test_failed_starts_are_shown(start_server: StartServer) -> None:
    """A runtime that Docker does not know: health says why, calls get 503 with the reason, the server goes on."""
    server = start_server({"DOCKER_RUNTIME": "no-such-runtime"}).wait_ready()
    client = server.client()
    wait_for(lambda: client.pool()["failed_starts_in_a_row"] >= 1)
    assert client.health()["status"] == "degraded"
    assert "no-such-runtime" in client.pool()["last_error"]
    assert client.request("GET", "/health").json() == {"status": "degraded"}
    answer = client.post(client.body("print(1)"))
    assert answer.status_code == 503
    assert answer.json()["error"] in ("engine_unavailable", "kernel_start_failed")
    assert "no-such-runtime" in answer.json()["message"]
    assert (server.containers(), client.health()["kernels"]) == ([], 0)


def test_the_pool_recovers_when_starts_work_again(start_server: StartServer) -> None:
    """A file stands where the server's runtime folder should be, then the folder again: 503, then results."""
    server = start_server(arguments=["--PoolSettings.imports=[]"]).wait_ready()
    client = server.client()
    wait_filled(client, 1)
    (name,) = server.folders()
    folder = Path(server.runtime_dir, name)
    folder.rename(f"{folder}.away")
    folder.write_text("in the way")
    assert client.run("print(1)")["stdout"] == "1\n"
    wait_for(lambda: client.pool()["failed_starts_in_a_row"] >= 1)
    assert client.health()["status"] == "degraded"
    answer = client.post(client.body("print(1)"))
    assert (answer.status_code, answer.json()["error"]) == (503, "kernel_start_failed")
    folder.unlink()
    Path(f"{folder}.away").rename(folder)
    wait_for(lambda: client.pool()["ready"] == 1, 30)
    assert client.health()["status"] == "healthy"
    assert client.pool()["last_error"] == ""
    assert client.run("print(2)")["stdout"] == "2\n"
