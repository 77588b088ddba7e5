"""The provisioner alone: programs of Jupyter run on locked-down kernels, and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import nbformat
import papermill  # type: ignore[import-untyped]
import pytest
import requests
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.multikernelmanager import AsyncMultiKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from traitlets import TraitError
from traitlets.config import Application, Config

from kernelgate import kernelspecs
from kernelgate.app import KernelGateApp
from kernelgate.containers.engine import Engine
from kernelgate.containers.provisioner import (
    DockerProvisioner,
    in_own_application,
    kernels_environment,
    remove_leftovers,
    surrounding_config,
)
from kernelgate.containers.runtime import RuntimeFolder
from kernelgate.errors import ConfigError, EngineError
from kernelgate.images.builder import ImageBuilder
from kernelgate.languages import PYTHON
from tests.server import Json, containers_below, wait_for

SOON = 30.0
NAME = PYTHON.kernel_name
KEEP = ("PATH", "PYTHONPATH", "DOCKER_HOST")


class Site:
    """A folder in which Jupyter programs run, with our kernelspec where they look."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = folder / "run"
        self.connections = folder / "files"
        engine = Engine()
        self.image = ImageBuilder(engine.api).name(PYTHON)
        engine.close()
        self.connections.mkdir()
        kernelspecs.install(PYTHON, self.image, folder / "share" / "kernels")
        self.environment = {
            **{name: os.environ[name] for name in KEEP if name in os.environ},
            "HOME": str(folder),
            "JUPYTER_PATH": str(folder / "share"),
            "JUPYTER_RUNTIME_DIR": str(self.connections),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "RUNTIME_DIR": str(self.runtime),
            "MAX_CPU_QUOTA": "100000",
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a Python program."""
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, said: str | None = None, **environment: str) -> tuple[int, str, str]:
        """Run a Python program to its end; returns its exit code, output and error output."""
        with self.start(*arguments, **environment) as process:
            try:
                out, err = process.communicate(said, timeout=60)
            finally:
                process.kill()
        return process.returncode, out, err

    def containers(self) -> list[Json]:
        return containers_below(str(self.runtime))

    def instances(self) -> list[str]:
        return os.listdir(self.runtime) if self.runtime.exists() else []

    def left(self) -> tuple[list[str], list[str], list[str]]:
        """What is left of programs: containers, folders with sockets, connection files."""
        files = sorted(path.name for path in self.connections.glob("kernel-*"))
        return [each["Names"][0] for each in self.containers()], self.instances(), files


NOTHING: tuple[list[str], list[str], list[str]] = ([], [], [])


@pytest.fixture
def site(image: None) -> Iterator[Site]:
    """In the end neither containers nor folders nor connection files may be left."""
    with tempfile.TemporaryDirectory(prefix="kgt-", dir="/tmp") as folder:
        site = Site(Path(folder))
        yield site
        left, containers = site.left(), site.containers()
        engine = docker.APIClient()
        for container in containers:
            engine.remove_container(container["Id"], force=True)
        engine.close()
        assert left == NOTHING


# --- programs for the terminal


def test_jupyter_run_runs_a_file(site: Site) -> None:
    (site.folder / "program.py").write_text("import os; print(os.getcwd(), os.path.exists('/.dockerenv'))")
    code, out, err = site.run("-m", "jupyter", "run", f"--kernel={NAME}", "program.py")
    assert (code, out) == (0, "/mnt/data True\n"), err
    assert site.left() == NOTHING


def test_jupyter_run_fails_when_the_program_does(site: Site) -> None:
    (site.folder / "program.py").write_text("1 / 0")
    code, _out, err = site.run("-m", "jupyter", "run", f"--kernel={NAME}", "program.py")
    assert code == 1
    assert "ZeroDivisionError" in err
    assert "cannot schedule" not in err
    assert site.left() == NOTHING


def test_jupyter_console_talks_to_the_kernel(site: Site) -> None:
    code, out, err = site.run(
        "-m", "jupyter_console", f"--kernel={NAME}", "--simple-prompt", said="x = 6\nprint('got', x * 7)\n"
    )
    assert code == 0, err
    assert "got 42" in out
    assert site.left() == NOTHING


# --- in this process


@pytest.fixture
def here(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """This process is the Jupyter program."""
    for name, text in site.environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.chdir(site.folder)
    yield site
    if RuntimeFolder.initialized():
        RuntimeFolder.instance().close()
        Engine.instance().close()
        RuntimeFolder.clear_instance()
        Engine.clear_instance()


def notebook_of(*cells: str) -> nbformat.NotebookNode:
    made = [nbformat.v4.new_code_cell(cell) for cell in cells]  # type: ignore[no-untyped-call]
    notebook: nbformat.NotebookNode = nbformat.v4.new_notebook(cells=made)  # type: ignore[no-untyped-call]
    notebook.metadata["kernelspec"] = {"name": NAME, "display_name": NAME, "language": "python"}
    return notebook


def run_cell(code: str, **settings: Any) -> list[str]:
    """Run a notebook with one cell in a loop of its own; returns what it printed, or the names of its errors."""
    notebook = notebook_of(code)
    asyncio.run(NotebookClient(notebook, kernel_name=NAME, **settings).async_execute())
    return [output.get("text", output.get("ename")) for output in notebook.cells[0].outputs]


def test_nbclient_runs_notebook_after_notebook_each_in_a_loop_of_its_own(here: Site) -> None:
    assert run_cell("x = 1; print(x)") == ["1\n"]
    slow = "import time; print('x' in globals(), flush=True); time.sleep(60)"
    assert run_cell(slow, timeout=2, interrupt_on_timeout=True, allow_errors=True) == [
        "False\n",
        "KeyboardInterrupt",
    ]
    with pytest.raises(DeadKernelError):
        run_cell("import os; os._exit(3)")
    assert (here.containers(), os.listdir(RuntimeFolder.instance().path)) == ([], ["lock"])


def test_papermill_runs_a_notebook_with_parameters(here: Site) -> None:
    notebook = notebook_of("a = 1", "print(a)", "display(a * 2)")
    notebook.cells[0].metadata["tags"] = ["parameters"]
    (here.folder / "notebook.ipynb").write_text(json.dumps(notebook))
    done = papermill.execute_notebook("notebook.ipynb", "done.ipynb", parameters={"a": 21}, progress_bar=False)
    assert done.cells[-2].outputs[0].text == "21\n"
    assert done.cells[-1].outputs[0].data["text/plain"] == "42"
    assert here.containers() == []


# --- Jupyter Server, which JupyterLab is an extension of


class JupyterServer:
    """Jupyter Server without kernelgate's."""

    def __init__(self, site: Site, *arguments: str, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.site = site
        options = ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=t"]
        self.log = (site.folder / "server.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server", *options, "--allow-root", "--no-browser", *arguments],
            cwd=site.folder,
            env={**site.environment, **environment},
            stdout=self.log,
            stderr=self.log,
        )
        self.url = f"http://127.0.0.1:{port}/api/"

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": "token t"}
        return requests.request(method, self.url + path, headers=headers, timeout=SOON, **options)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.text()
        try:
            return self.request("GET", "kernels").ok
        except requests.ConnectionError:
            return False

    def kernel(self) -> str:
        """Start a kernel; returns its id."""
        answer = self.request("POST", "kernels", json={"name": NAME})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def session(self) -> str:
        """Start a kernel as a notebook's page does; returns its id."""
        body = {"path": "a.ipynb", "name": "", "type": "notebook", "kernel": {"name": NAME}}
        answer = self.request("POST", "sessions", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["kernel"]["id"])

    def container(self, kernel: str) -> Json:
        """What Docker knows of a kernel's container."""
        engine = docker.APIClient()
        try:
            return dict(engine.inspect_container(f"kernelgate-{kernel}"))
        finally:
            engine.close()

    def text(self) -> str:
        return (self.site.folder / "server.log").read_text()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(SOON)
        finally:
            self.process.kill()
            self.log.close()


@contextmanager
def jupyter_server(site: Site, *arguments: str, **environment: str) -> Iterator[JupyterServer]:
    server = JupyterServer(site, *arguments, **environment)
    try:
        wait_for(server.is_ready, SOON)
        yield server
    finally:
        server.stop()


@contextmanager
def connected(site: Site, kernel: str) -> Iterator[BlockingKernelClient]:
    """A client of our own at a kernel of another program."""
    client = BlockingKernelClient(connection_file=str(site.connections / f"kernel-{kernel}.json"))
    wait_for(lambda: os.path.exists(client.connection_file), SOON)
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=SOON)
        yield client
    finally:
        client.stop_channels()
        client.context.destroy(linger=0)


def value(client: BlockingKernelClient, expression: str) -> str:
    reply = client.execute("pass", user_expressions={"value": expression}, reply=True, timeout=SOON)
    result = reply["content"]["user_expressions"]["value"]
    return str(result["data"]["text/plain"] if result["status"] == "ok" else result["ename"])


def test_jupyter_server_starts_interrupts_restarts_and_ends_kernels(site: Site) -> None:
    (site.folder / ".env").write_text("MAX_MEMORY_MB=300\nMAX_PROCESSES=40\n")
    (site.folder / "config").mkdir()
    (site.folder / "config" / "jupyter_server_config.py").write_text(
        "c.DockerProvisioner.work_folder_mb = 11\nc.DockerProvisioner.max_open_files = 70\n"
        "c.KernelRestarter.time_to_dead = 0.3\n"
    )
    variables = {"KERNEL_COLOUR": "green", "OTHER": "no", "MAX_OPEN_FILES": "80"}
    with jupyter_server(site, "--DockerProvisioner.max_processes=50", **variables) as server:
        kernel = server.session()
        host = server.container(kernel)["HostConfig"]
        assert (host["Memory"], host["PidsLimit"], host["CpuQuota"]) == (300 << 20, 50, 100_000)
        assert "size=11m" in host["Tmpfs"]["/mnt/data"]
        assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]}["nofile"] == 80
        with connected(site, kernel) as client:
            names = (
                "sorted(n for n in __import__('os').environ if n[:4] in ('KERN', 'JPY_', 'OTHE', 'JUPY', 'RUNT'))"
            )
            assert value(client, names) == "['KERNEL_COLOUR']"
            assert value(client, "__import__('os').getcwd()") == "'/mnt/data'"

            running = client.execute("import time; time.sleep(60)")
            wait_for(lambda: server.request("GET", f"kernels/{kernel}").json()["execution_state"] == "busy")
            assert server.request("POST", f"kernels/{kernel}/interrupt").status_code == 204
            reply = client.get_shell_msg(timeout=SOON)
            assert (reply["parent_header"]["msg_id"], reply["content"]["ename"]) == (running, "KeyboardInterrupt")

            client.execute("x = 1", reply=True, timeout=SOON)
            assert server.request("POST", f"kernels/{kernel}/restart").status_code == 200
            client.wait_for_ready(timeout=SOON)  # with the same sockets
            assert value(client, "'x' in globals()") == "False"
            assert value(client, "__import__('os').environ['KERNEL_COLOUR']") == "'green'"

            dead = server.container(kernel)["Id"]
            client.execute("import os; os._exit(1)")
            wait_for(lambda: "restarting kernel" in server.text().lower(), SOON)
            wait_for(lambda: [each["Id"] for each in site.containers()] not in ([], [dead]), SOON)
            assert value(client, "1 + 1") == "2"
        assert len(site.containers()) == 1
        time.sleep(1)  # the kernel answers before Jupyter's restart is over, which no DELETE may interrupt
        assert server.request("DELETE", f"kernels/{kernel}").status_code == 204
        assert site.containers() == []

        server.kernel()
        assert len(site.containers()) == 1
    assert server.process.returncode == 0, server.text()
    assert "Traceback" not in server.text(), server.text()
    assert site.left() == NOTHING


# --- programs that end without a shutdown

START = f"""
import os, sys
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name="{NAME}")
manager.start_kernel()
"""


def test_a_program_that_forgets_its_kernel_leaves_nothing_behind(site: Site) -> None:
    code, _out, err = site.run("-c", START + "sys.exit(7)")
    assert (code, err) == (7, "")
    assert site.left() == NOTHING


def test_a_forked_child_that_ends_takes_no_kernel_away(site: Site) -> None:
    fork = "if os.fork() == 0: sys.exit()\nos.wait(); print(manager.is_alive())\n"
    code, out, err = site.run(
        "-c",
        START + fork + "client = manager.client(); client.start_channels()\n"
        "client.wait_for_ready(timeout=20); manager.shutdown_kernel()",
    )
    assert (code, out) == (0, "True\n"), err
    assert site.left() == NOTHING


def test_what_a_killed_program_leaves_is_removed_by_the_next_one(site: Site) -> None:
    with site.start("-c", START + "print(manager.connection_file, flush=True); sys.stdin.read()") as process:
        assert process.stdout is not None
        connection_file = process.stdout.readline().strip()
        process.kill()
        process.communicate()
    [dead] = [each["Id"] for each in site.containers()]
    assert len(site.instances()) == 1
    os.remove(connection_file)  # which is Jupyter's own to leave
    with site.start("-c", START + "print('started', flush=True); sys.stdin.read()") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        [alive] = [each["Id"] for each in site.containers()]
        assert (alive != dead, len(site.instances())) == (True, 1)
        process.communicate("")
    assert site.left() == NOTHING


# --- several kernels of one program


def managers(**settings: Any) -> AsyncMultiKernelManager:
    folder = os.environ["JUPYTER_RUNTIME_DIR"]
    return AsyncMultiKernelManager(kernel_spec_manager=KernelSpecManager(), connection_dir=folder, **settings)


async def started(kernels: AsyncMultiKernelManager, kernel: str) -> None:
    ready = kernels.get_kernel(kernel).ready
    assert isinstance(ready, asyncio.Future)
    await ready


def test_pending_kernels_can_be_shut_down_while_they_start(here: Site) -> None:
    async def scenario() -> None:
        kernels = managers(use_pending_kernels=True)
        kernel = await kernels.start_kernel(kernel_name=NAME)
        assert not kernels.get_kernel(kernel).ready.done()
        await kernels.shutdown_kernel(kernel)
        await asyncio.sleep(0)
        other = await kernels.start_kernel(kernel_name=NAME)
        await started(kernels, other)
        assert len(here.containers()) == 1
        await kernels.restart_kernel(other, now=True)
        await started(kernels, other)
        assert await kernels.is_alive(other)
        await kernels.shutdown_all(now=True)
        assert here.containers() == []

    asyncio.run(scenario())


def test_kernels_with_ids_of_the_programs_choice_do_not_meet(here: Site) -> None:
    async def scenario() -> None:
        kernels = managers()
        ids = ["my-notebook-kernel-1", "my-notebook-kernel-2"]
        for kernel in ids:
            await kernels.start_kernel(kernel_name=NAME, kernel_id=kernel)
        assert len(RuntimeFolder.instance().kernel_folders()) == 2
        assert all([await kernels.is_alive(kernel) for kernel in ids])
        assert {Path(each["Labels"]["kernelgate.server"]).parent for each in here.containers()} == {
            RuntimeFolder.instance().path
        }
        await kernels.shutdown_all(now=True)
        assert (here.containers(), os.listdir(RuntimeFolder.instance().path)) == ([], ["lock"])

    asyncio.run(scenario())


def test_a_missing_image_says_what_builds_it(here: Site) -> None:
    kernelspecs.install(PYTHON, "kernelgate/python:gone", here.folder / "share" / "kernels")

    async def scenario() -> None:
        with pytest.raises(EngineError, match=r"kernelgate/python:gone.*`kernelgate kernelspecs install --build`"):
            await managers().start_kernel(kernel_name=NAME)
        assert (here.containers(), os.listdir(RuntimeFolder.instance().path)) == ([], ["lock"])

    asyncio.run(scenario())
    for path in here.connections.iterdir():
        path.unlink()


def test_kernels_of_a_dead_server_that_may_be_taken_over_are_left_to_servers(here: Site) -> None:
    for name, noted in (("00000001", True), ("00000002", False)):
        kernel = here.runtime / name / "kernel"
        kernel.mkdir(parents=True)
        (here.runtime / name / "lock").write_text("")
        if noted:
            (kernel / "note.json").write_text("{}")
    engine, folder = Engine.instance(), RuntimeFolder.instance(runtime_dir=str(here.runtime))
    folder.open()
    asyncio.run(remove_leftovers(engine, folder, noted=False))
    assert sorted(here.instances()) == sorted(["00000001", folder.name])
    asyncio.run(remove_leftovers(engine, folder))
    assert here.instances() == [folder.name]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make a folder that is somebody else's")
def test_a_runtime_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65_534, 65_534)
    with pytest.raises(OSError, match=f"the runtime folder {tmp_path} belongs to user 65534: set RUNTIME_DIR"):
        RuntimeFolder(runtime_dir=str(tmp_path)).open()
    assert list(tmp_path.iterdir()) == []


# --- settings


@pytest.fixture
def application() -> Iterator[Callable[..., Application]]:
    """Makes the application that this process is."""

    def make(kind: type[Application], **sections: Mapping[str, Any]) -> Application:
        application = kind.instance()
        application.cli_config = Config({name: Config(section) for name, section in sections.items()})
        return application

    assert not Application.initialized()
    yield make
    Application.instance().clear_instance()


def config(**settings: Any) -> Config:
    return Config(DockerProvisioner=Config(settings))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_line_beats_the_environment_beats_env_beats_the_configuration(
    folder: Path, monkeypatch: pytest.MonkeyPatch, application: Callable[..., Application]
) -> None:
    given = config(max_memory_mb=101, max_processes=101, max_open_files=101, work_folder_mb=101)
    given.RuntimeFolder.runtime_dir = "/of/the/config"
    (folder / ".env").write_text("MAX_PROCESSES=102\nMAX_OPEN_FILES=102\nWORK_FOLDER_MB=102\nDOCKER_TIMEOUT=102\n")
    monkeypatch.setenv("MAX_OPEN_FILES", "103")
    monkeypatch.setenv("WORK_FOLDER_MB", "103")
    given.DockerProvisioner.work_folder_mb = "104"
    application(Application, DockerProvisioner={"work_folder_mb": 104})
    result = surrounding_config(given)
    assert dict(result.DockerProvisioner) == {
        "max_memory_mb": 101,
        "max_processes": 102,
        "max_open_files": 103,
        "work_folder_mb": 104,
    }
    assert (result.Engine.timeout, result.RuntimeFolder.runtime_dir) == (102, "/of/the/config")
    assert given.DockerProvisioner.max_processes == 101


def test_what_the_kernelspec_says_beats_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_MEMORY_MB", "200")
    try:
        provisioner = DockerProvisioner(
            kernel_id="k", image="an/image", max_memory_mb=300, config=config(image="x")
        )
        assert (provisioner.image, provisioner.max_memory_mb) == ("an/image", 300)
    finally:
        Engine.clear_instance()
        RuntimeFolder.clear_instance()


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "MAX_MEMORY_MB",
            "lots",
            r"MAX_MEMORY_MB must be a whole number of at least 64, not 'lots' \(from .env:1\)",
        ),
        ("RUNTIME_DIR", "/" + "x" * 100, "RUNTIME_DIR must be a path of at most"),
        ("ENABLE_NETWORK_ISOLATION", "'on", "must end the quoted value of ENABLE_NETWORK_ISOLATION"),
    ],
)
def test_a_mistake_in_the_environment_starts_no_kernel(folder: Path, name: str, text: str, sentence: str) -> None:
    (folder / ".env").write_text(f"{name}={text}\n")
    with pytest.raises(ConfigError, match=sentence):
        DockerProvisioner(kernel_id="k")
    for other in ("", str(folder / "other.env")):
        surrounding_config(config(env_file=other))


def test_a_mistake_in_the_programs_configuration_starts_no_kernel(folder: Path) -> None:
    with pytest.raises(TraitError, match="max_memory_mb"):
        DockerProvisioner(kernel_id="k", config=config(max_memory_mb="lots"))


def test_settings_of_others_in_an_env_file_do_not_matter(folder: Path) -> None:
    (folder / ".env").write_text("API_PORT=none\nDATABASE_URL=x\n")
    assert surrounding_config(Config()) == Config()


def test_kernelgates_own_application_has_read_its_settings_already(
    folder: Path, monkeypatch: pytest.MonkeyPatch, application: Callable[..., Application]
) -> None:
    assert not in_own_application()
    app = application(KernelGateApp)
    assert in_own_application()
    monkeypatch.setenv("MAX_MEMORY_MB", "200")
    try:
        assert DockerProvisioner(kernel_id="k", parent=app).max_memory_mb == 512
    finally:
        Engine.clear_instance()
        RuntimeFolder.clear_instance()


def test_a_kernel_gets_the_variables_that_are_meant_for_it() -> None:
    given = {"KERNEL_A": "1", "JPY_PARENT_PID": "7", "JPY_SESSION_NAME": "x.ipynb", "PATH": "/bin", "API_KEY": "k"}
    substituted = {**given, "HERE": "/home/me"}
    assert kernels_environment(given, substituted, {"HERE": "${HOME}"}) == {"KERNEL_A": "1", "HERE": "/home/me"}
    assert kernels_environment({}, {"KERNEL_IDLE_SECONDS": "5"}, {}) == {}
