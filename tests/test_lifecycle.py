"""The server's life: ready, told to stop, killed, or not able to start."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import docker
import pytest
import requests

from kernelgate import __version__, settings
from kernelgate.configuration import CLASSES
from tests.server import OTHER_KEY, Json, Server, in_background, wait_for

StartServer = Callable[..., Server]
SMALL = {"CONTAINER_POOL_PY_MIN": "0"}


@pytest.fixture
def runtime_dir() -> Iterator[str]:
    """A runtime folder that several servers share."""
    folder = tempfile.mkdtemp(prefix="kgt-", dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def started_run(server: Server, code: str, session_id: str = "a") -> Future[Json]:
    """Start code in a session; returns when the code runs."""
    client = server.client()
    client.run("import time", session_id=session_id)
    running = in_background(client.run, code, session_id=session_id)
    wait_for(lambda: client.health()["executions"]["running"] == 1)
    return running


def refuse(server: Server) -> str:
    """Check that the server ends with exit code 1 and says nothing on stdout; returns stderr."""
    assert server.wait() == 1, server.log()
    assert server.stdout == ""
    assert "Traceback" not in server.stderr
    assert server.folders() == []
    return server.stderr


def command(arguments: Sequence[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without configuration of this machine."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    env = {**inherited, "JUPYTER_CONFIG_DIR": str(folder), **variables}
    return subprocess.run(
        arguments, cwd=folder, env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


# --- stopping


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_what_runs_come_to_its_end(start_server: StartServer, signum: signal.Signals) -> None:
    """A signal during a run of 2 s: its client gets the answer, new calls do not, nothing is left, exit code 0."""
    server = start_server({"CONTAINER_POOL_PY_MIN": "2"}).wait_ready()
    running = started_run(server, "time.sleep(2); print('done')")
    assert server.containers()
    server.signal(signum)
    wait_for(lambda: "stopping" in server.stderr)
    with contextlib.suppress(requests.ConnectionError):
        answer = server.client().post(server.client().body("print(1)"))
        assert (answer.status_code, answer.json()["error"]) == (503, "shutting_down")
    reply = running.result(20)
    assert (reply["status"], reply["stdout"]) == ("ok", "done\n")
    assert server.wait() == 0
    assert server.containers() == []
    assert server.folders() == []
    assert "Traceback" not in server.stderr


def test_a_stop_cuts_off_what_runs_too_long(start_server: StartServer) -> None:
    """SHUTDOWN_SECONDS=1 and a run of 20 s: the server ends soon, the client gets an answer or an end."""
    server = start_server({"SHUTDOWN_SECONDS": "1", **SMALL}).wait_ready()
    client = server.client()
    client.run("import time", session_id="a")
    running = in_background(client.post, client.body("time.sleep(20)", session_id="a"))
    wait_for(lambda: client.health()["executions"]["running"] == 1)
    started = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert time.monotonic() - started < 8
    assert (server.containers(), server.folders()) == ([], [])
    with contextlib.suppress(requests.ConnectionError):
        answer = running.result(5)
        assert (answer.status_code, answer.json().get("status")) == (200, "killed"), answer.text
    assert "Traceback" not in server.stderr


def test_calls_that_wait_are_told_of_the_stop(start_server: StartServer) -> None:
    """One place, one run of 2 s, another session's call behind it: 503 at once, and the run ends well."""
    server = start_server({"MAX_CONCURRENT_EXECUTIONS": "1", **SMALL}).wait_ready()
    client = server.client()
    running = started_run(server, "time.sleep(2); print('done')")
    waiting = in_background(client.post, client.body("print(1)", session_id="b"))
    wait_for(lambda: client.health()["executions"]["queued"] == 1)
    server.signal(signal.SIGTERM)
    answer = waiting.result(5)
    assert (answer.status_code, answer.json()["error"]) == (503, "shutting_down")
    assert running.result(20)["stdout"] == "done\n"
    assert server.wait() == 0


def test_a_stop_while_kernels_start_leaves_nothing(start_server: StartServer) -> None:
    """SIGTERM a moment after the start, at several moments: no container, no folder, exit code 0."""
    for delay in (0.5, 0.9, 1.3):
        server = start_server({"CONTAINER_POOL_PY_MIN": "4"})
        wait_for(lambda server=server: server.folders(), every=0.01)  # type: ignore[misc]
        time.sleep(delay - 0.5)  # what matters is that it falls into the start of a kernel somewhere
        server.signal(signal.SIGTERM)
        assert server.wait() == 0, server.log()
        assert (server.containers(), server.folders()) == ([], [])
        assert "Traceback" not in server.stderr


def test_a_second_signal_does_not_keep_it_from_cleaning_up(start_server: StartServer) -> None:
    """Ctrl-C twice."""
    server = start_server(SMALL).wait_ready()
    running = started_run(server, "time.sleep(1.5)")
    server.signal(signal.SIGINT)
    time.sleep(0.2)
    server.signal(signal.SIGINT)
    server.wait()
    with contextlib.suppress(requests.ConnectionError):
        running.result(10)
    assert (server.containers(), server.folders()) == ([], [])


# --- the dead and the living


def test_a_new_server_removes_what_a_killed_one_left(start_server: StartServer, runtime_dir: str) -> None:
    """kill -9 with kernels; then a server with the same folder, while others live on this and another one."""
    neighbour = start_server(SMALL, runtime_dir=runtime_dir).wait_ready()
    stranger = start_server(SMALL).wait_ready()
    for living in (neighbour, stranger):
        living.client().run("x = 1", session_id="a")
    of_living = set(neighbour.containers())
    victim = start_server({"CONTAINER_POOL_PY_MIN": "2"}, runtime_dir=runtime_dir).wait_ready()
    victim.client().run("x = 1", session_id="a")
    wait_for(lambda: len(victim.containers()) >= 3)
    victim.process.kill()
    victim.wait()
    assert len(victim.containers()) >= 3
    assert len(victim.folders()) == 2
    heir = start_server(SMALL, runtime_dir=runtime_dir).wait_ready()
    assert set(heir.containers()) == of_living
    assert len(heir.folders()) == 2
    for living in (neighbour, stranger):
        assert living.client().run("print(x)", session_id="a")["stdout"] == "1\n"
    assert heir.client(OTHER_KEY).run("print(1)")["stdout"] == "1\n"


def test_a_container_that_is_removed_from_outside_is_told(start_server: StartServer) -> None:
    """docker rm -f of a session's container while its code runs: the answer says that the kernel ended."""
    server = start_server(SMALL).wait_ready()
    running = started_run(server, "time.sleep(15)")
    with contextlib.closing(docker.APIClient()) as engine:
        engine.remove_container(server.containers()[0], force=True)
    reply = running.result(8)
    assert reply["status"] == "killed"
    after = server.client().run("print(1)", session_id="a")
    assert (after["stdout"], after["runtime_status"]) == ("1\n", "restored")


# --- not starting


def test_a_port_that_is_taken_is_said(start_server: StartServer) -> None:
    """API_PORT of another socket."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start_server({"API_PORT": str(port), **SMALL})
        said = refuse(server)
    assert "in use" in said.lower()
    assert str(port) in said
    assert server.containers() == []


def test_all_wrong_settings_are_named_at_once(start_server: StartServer) -> None:
    """Wrong values in the environment, in .env, in the config file and on the command line, and two that clash."""
    server = start_server(
        {
            "API_PORT": "99999",
            "MAX_EXECUTION_TIME": "soon",
            "ENABLE_NETWORK_ISOLATION": "maybe",
            "RUNTIME_DIR": "/" + "x" * 120,
        },
        ["--Executor.max_outputs=-1", "--Sessions.no_such_trait=1"],
        runtime_dir="/" + "x" * 120,
    )
    said = refuse(server)
    for name in (
        "API_PORT",
        "MAX_EXECUTION_TIME",
        "ENABLE_NETWORK_ISOLATION",
        "RUNTIME_DIR",
        "max_outputs",
        "no_such_trait",
    ):
        assert name in said


def test_a_runtime_folder_with_a_path_too_long_for_sockets_is_refused(start_server: StartServer) -> None:
    """RUNTIME_DIR of 121 bytes, and nothing else wrong."""
    said = refuse(start_server(runtime_dir="/" + "x" * 120))
    assert "RUNTIME_DIR must be a path of at most" in said


def test_pool_sizes_that_clash_are_named(start_server: StartServer) -> None:
    """A minimum over the maximum."""
    said = refuse(start_server({"CONTAINER_POOL_PY_MIN": "9", "CONTAINER_POOL_PY_MAX": "3"}))
    assert "CONTAINER_POOL_PY_MIN must be at most CONTAINER_POOL_PY_MAX, got 9 and 3" in said


def test_a_missing_image_is_said_with_what_to_run(start_server: StartServer) -> None:
    """LANG_PYTHON_IMAGE names another base, upon which nothing was built."""
    said = refuse(start_server({"LANG_PYTHON_IMAGE": "python:3.11-never-built"}))
    assert "kernelgate images build py" in said


def test_an_engine_that_cannot_be_reached_is_said(start_server: StartServer) -> None:
    """DOCKER_BASE_URL of a socket that does not exist."""
    said = refuse(start_server({"DOCKER_BASE_URL": "unix:///nonexistent/docker.sock"}))
    assert "no Docker engine answers at unix:///nonexistent/docker.sock" in said
    assert len(said.splitlines()) <= 3


# --- the command line


@pytest.mark.parametrize("program", [["-m", "kernelgate"], ["-m", "jupyter", "kernelgate"]])
def test_the_version_is_shown(tmp_path: Path, program: list[str]) -> None:
    """--version, by itself and as a command of jupyter."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = command([sys.executable, *program, "--version"], tmp_path, PATH=path)
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


def test_help_lists_every_setting(tmp_path: Path) -> None:
    """--help-all: each trait with a variable, and each other trait of the classes."""
    done = command([sys.executable, "-m", "kernelgate", "--help-all"], tmp_path)
    assert done.returncode == 0
    listed = set(re.findall(r"--([A-Z]\w+\.\w+)=", done.stdout))
    assert {knob.path for knob in settings.knobs(CLASSES)} <= listed
    assert {f"{cls.__name__}.{name}" for cls in CLASSES for name in cls.class_own_traits(config=True)} <= listed


def test_the_public_default_key_is_warned_of(start_server: StartServer) -> None:
    """API_KEY is not set: the server starts, says so, and names the key that works."""
    server = start_server({"API_KEY": "", **SMALL}).wait_ready()
    assert "API_KEY: the public default" in server.stderr
    assert "test-api-key" in server.stdout
    assert server.client("test-api-key").run("print(1)")["stdout"] == "1\n"


def test_a_secret_key_is_not_shown(start_server: StartServer) -> None:
    """Neither the ready message nor the log holds the key."""
    server = start_server(SMALL).wait_ready()
    server.client().run("print(1)")
    assert server.environment["API_KEY"] not in server.stdout + server.stderr


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(start_server: StartServer) -> None:
    """API_KEY_HEADER from each of them."""
    server = start_server({"API_KEY_HEADER": "x-env", **SMALL}, ["--Authenticator.header=x-cli"]).wait_ready()
    key = server.environment["API_KEY"]
    answers = [
        requests.get(f"{server.url}/sessions", headers={name: key}, timeout=20) for name in ("x-env", "x-cli")
    ]
    assert [answer.status_code for answer in answers] == [401, 200]
