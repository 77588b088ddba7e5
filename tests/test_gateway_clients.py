"""Python programs that know a gateway's routes: jupyter_kernel_client, nbclient, papermill, Jupyter Server.

What they need to be told besides the address:

- jupyter_kernel_client: ``token``; it sends it as ``Authorization: Bearer``, and in the URL of its WebSocket.
- Jupyter Server: ``--gateway-url`` and ``--GatewayClient.auth_token``.
- nbclient and papermill with Jupyter Server's ``GatewayKernelManager``: ``GatewayClient.url`` and ``auth_token``.
  Requests carry them, but its client's WebSocket does not: see `AuthorizedKernelClient`.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import nbformat
import papermill  # type: ignore[import-untyped]
import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_kernel_client import JupyterKernelClient  # type: ignore[import-untyped]
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.gateway.managers import GatewayKernelClient, GatewayKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from websocket import create_connection

from tests.server import KEY, Client, Json, Server, Servers, in_background, wait_for
from tests.websocket import KernelSocket

POOL = 1
SECONDS = 30.0


@pytest.fixture(scope="module")
def gateway(servers: Servers) -> Iterator[Server]:
    """A server of which these tests know every container."""
    with servers.serving({"CONTAINER_POOL_PY_MIN": str(POOL)}) as server:
        yield server


@pytest.fixture
def rest(gateway: Server) -> Iterator[Client]:
    """The same server, as a plain client sees it. Afterwards nothing of the clients' kernels is left there."""
    client = gateway.client()
    yield client
    assert kernels(client) == []
    wait_for(lambda: len(gateway.containers()) <= POOL and client.pool()["ready"] == POOL)


def kernels(client: Client) -> list[Json]:
    answer = client.request("GET", "/api/kernels")
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def wait_until(client: Client, state: str) -> None:
    """Wait until the one kernel is ``busy`` (it executes, or that is being stored) or ``idle``."""
    wait_for(lambda: [one["execution_state"] for one in kernels(client)] == [state])


# ---- jupyter_kernel_client


def kernel_client(rest: Client, **options: Any) -> JupyterKernelClient:
    """Return a client; when it stops, it waits that many seconds at most for a thread that may not end."""
    return JupyterKernelClient(server_url=rest.url, token=KEY, client_kwargs={"timeout": 2.0}, **options)


def text_of(answer: Json) -> str:
    """Return all that code printed and displayed."""
    return "".join(one.get("text") or one.get("data", {}).get("text/plain", "") for one in answer["outputs"])


def test_jupyter_kernel_client_executes(rest: Client) -> None:
    with kernel_client(rest) as kernel:
        assert [one["id"] for one in kernels(rest)] == [kernel.id]
        answer = kernel.execute("print('out')\n6 * 7")
        assert answer["status"] == "ok"
        assert [one["output_type"] for one in answer["outputs"]] == ["stream", "execute_result"]
        assert text_of(answer) == "out\n42"
        failed = kernel.execute("1 / 0")
        assert failed["status"] == "error"
        assert failed["outputs"][0]["ename"] == "ZeroDivisionError"
        assert kernel.kernel_info["language_info"]["name"] == "python"


def test_jupyter_kernel_client_interrupts_and_restarts(rest: Client) -> None:
    with kernel_client(rest) as kernel:
        kernel.execute("x = 41")
        wait_until(rest, "idle")
        sleeping = in_background(kernel.execute, "import time; time.sleep(60)", timeout=SECONDS)
        wait_until(rest, "busy")
        kernel.interrupt()
        assert sleeping.result(SECONDS)["outputs"][0]["ename"] == "KeyboardInterrupt"
        assert text_of(kernel.execute("print(x)")) == "41\n"
        kernel.restart()
        assert kernel.execute("x")["outputs"][0]["ename"] == "NameError"
        assert kernel.is_alive()


def test_jupyter_kernel_client_comes_back_to_a_kernel_that_it_left(rest: Client) -> None:
    first = kernel_client(rest)
    first.start()
    kernel_id = first.id
    first.execute("x = 41")
    first.stop(shutdown_kernel=False)
    with kernel_client(rest, kernel_id=kernel_id) as second:
        assert text_of(second.execute("print(x + 1)")) == "42\n"
        second.stop(shutdown_kernel=True)


# ---- nbclient and papermill


class AuthorizedKernelClient(GatewayKernelClient):
    """A client whose WebSocket carries the headers that `GatewayClient` is told of, among them the token."""

    async def start_channels(  # type: ignore[override]  # a coroutine in Jupyter Server too
        self, shell: bool = True, iopub: bool = True, stdin: bool = True, hb: bool = True, control: bool = True
    ) -> None:
        gateway = GatewayClient.instance()
        arguments = gateway.load_connection_args()  # type: ignore[no-untyped-call]
        self.channel_socket = create_connection(
            f"{gateway.ws_url}{gateway.kernels_endpoint}/{self.kernel_id}/channels",
            header=arguments["headers"],
            timeout=gateway.KERNEL_LAUNCH_TIMEOUT,
            enable_multithread=True,
        )
        AsyncKernelClient.start_channels(self, shell, iopub, stdin, hb, control)
        self.response_router = Thread(target=self._route_responses)
        self.response_router.start()

    def stop_channels(self) -> None:
        super().stop_channels()  # type: ignore[no-untyped-call]
        assert self.channel_socket is not None
        self.channel_socket.shutdown()  # type: ignore[no-untyped-call]  # open if the server closed first


class AuthorizedKernelManager(GatewayKernelManager):
    """The manager whose client that is. A client that has waited long asks it in this way whether to go on."""

    client_class = f"{__name__}.AuthorizedKernelClient"
    client_factory = AuthorizedKernelClient

    async def _async_is_alive(self) -> bool:
        return bool(await self.is_alive())  # type: ignore[no-untyped-call]


@pytest.fixture
def configured(rest: Client) -> Iterator[Client]:
    """The gateway as Jupyter's own client of gateways is told of it."""
    GatewayClient.clear_instance()
    GatewayClient.instance(url=rest.url, auth_token=KEY)
    yield rest
    GatewayClient.clear_instance()


def notebook(*cells: str) -> NotebookNode:
    """Return a notebook of code cells."""
    made: NotebookNode = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    new_cell = nbformat.v4.new_code_cell
    made.cells = [new_cell(code) for code in cells]  # type: ignore[no-untyped-call]
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python", "language": "python"}
    return made


def client(made: NotebookNode, **options: Any) -> NotebookClient:
    return NotebookClient(made, kernel_manager_class=AuthorizedKernelManager, **{"timeout": SECONDS, **options})


def run(made: NotebookNode, **options: Any) -> NotebookNode:
    """Execute a notebook in a kernel of its own, which ends with it."""
    client(made, **options).execute()
    return made


def test_nbclient_executes_a_notebook(configured: Client) -> None:
    plot = "from IPython.display import HTML, display\ndisplay(HTML('<b>bold</b>'))"
    made = run(notebook("x = 41\nprint('out')", "x + 1", plot))
    first, second, third = (cell["outputs"] for cell in made.cells)
    assert first[0]["text"] == "out\n"
    assert second[0]["data"]["text/plain"] == "42"
    assert third[0]["data"]["text/html"] == "<b>bold</b>"
    assert [cell["execution_count"] for cell in made.cells] == [1, 2, 3]


def test_nbclient_tells_of_an_error_and_leaves_no_kernel(configured: Client) -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run(notebook("1 / 0", "print('must not run')"))


def test_nbclient_interrupts_a_cell_that_takes_too_long(configured: Client) -> None:
    made = notebook("import time; time.sleep(60)", "print('goes on')")
    run(made, timeout=1, interrupt_on_timeout=True, allow_errors=True)
    assert made.cells[0]["outputs"][0]["ename"] == "KeyboardInterrupt"
    assert made.cells[1]["outputs"][0]["text"] == "goes on\n"


def test_nbclient_ends_the_kernel_of_a_cell_that_takes_too_long(configured: Client) -> None:
    with pytest.raises(CellTimeoutError):
        run(notebook("import time; time.sleep(60)"), timeout=1)


def test_nbclient_goes_on_after_a_restart(configured: Client) -> None:
    made = notebook("x = 41", "x")
    runner = client(made, allow_errors=True)
    with runner.setup_kernel():
        runner.execute_cell(made.cells[0], 0)
        (kernel,) = kernels(configured)
        answer = configured.request("POST", f"/api/kernels/{kernel['id']}/restart")
        assert answer.status_code == 200, answer.text
        runner.execute_cell(made.cells[1], 1)
    assert made.cells[1]["outputs"][0]["ename"] == "NameError"


def test_nbclient_hears_of_the_death_of_its_kernel(configured: Client) -> None:
    with pytest.raises((CellExecutionError, DeadKernelError)):
        run(notebook("import os; os._exit(1)"))


def test_papermill_executes_a_notebook_with_parameters(configured: Client, tmp_path: Path) -> None:
    made = notebook("x = 1", "print(x + 1)")
    made.cells[0]["metadata"]["tags"] = ["parameters"]
    nbformat.write(made, tmp_path / "in.ipynb")  # type: ignore[no-untyped-call]
    done = papermill.execute_notebook(
        tmp_path / "in.ipynb",
        tmp_path / "out.ipynb",
        parameters={"x": 41},
        kernel_manager_class=AuthorizedKernelManager,
        progress_bar=False,
    )
    assert done.cells[-1]["outputs"][0]["text"] == "42\n"
    assert (tmp_path / "out.ipynb").exists()


# ---- Jupyter Server in front of the gateway


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def jupyter_url(gateway: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Jupyter Server whose kernels are the gateway's."""
    home, port = tmp_path_factory.mktemp("jupyter"), free_port()
    command = [
        *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
        f"--port={port}",
        f"--gateway-url={gateway.url}",
        f"--GatewayClient.auth_token={KEY}",
        f"--IdentityProvider.token={KEY}",
        f"--ServerApp.root_dir={home}",
    ]
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "HOME", "IPYTHONDIR")
    environment = {**gateway.environment, **dict.fromkeys(folders, str(home))}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: process.poll() is not None or listens(port), SECONDS)
        assert process.poll() is None, (home / "log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(SECONDS)


def listens(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), SECONDS):
        return True
    return False


@pytest.fixture
def jupyter(jupyter_url: str, rest: Client) -> Callable[..., Any]:
    """Sends a request to Jupyter Server and returns the JSON of the answer, which must have the status wanted."""
    client = Client(jupyter_url)

    def request(method: str, path: str, status: int = 200, **options: Any) -> Any:
        answer = client.request(method, path, headers={"Authorization": f"token {KEY}"}, **options)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    return request


def new_session(jupyter: Callable[..., Any], name: str) -> Json:
    body = {"path": name, "name": name, "type": "notebook", "kernel": {"name": "kernelgate-python"}}
    return dict(jupyter("POST", "/api/sessions", 201, json=body))


def test_jupyter_server_runs_a_notebook_session(
    jupyter: Callable[..., Any], jupyter_url: str, rest: Client
) -> None:
    assert "kernelgate-python" in jupyter("GET", "/api/kernelspecs")["kernelspecs"]
    session = new_session(jupyter, "one.ipynb")
    kernel_id = session["kernel"]["id"]
    assert [one["id"] for one in kernels(rest)] == [kernel_id]
    with KernelSocket(Client(jupyter_url), kernel_id, v1=False) as ws:
        cell = ws.run("x = 41\nprint('out')\nx + 1")
        assert (cell.stdout, cell.status) == ("out\n", "ok")
        msg_id = ws.execute("import time; time.sleep(60)")
        ws.wait(lambda one: one.parent_id == msg_id and one.type == "execute_input")
        jupyter("POST", f"/api/kernels/{kernel_id}/interrupt", 204)
        assert ws.collect(msg_id).reply.content["ename"] == "KeyboardInterrupt"
        jupyter("POST", f"/api/kernels/{kernel_id}/restart")
        assert ws.run("x").reply.content["ename"] == "NameError"
    assert [one["id"] for one in jupyter("GET", "/api/sessions")] == [session["id"]]
    jupyter("DELETE", f"/api/sessions/{session['id']}", 204)
    assert jupyter("GET", "/api/kernels") == []


def test_jupyter_server_gives_up_a_kernel_that_the_gateway_has_no_more(
    jupyter: Callable[..., Any], rest: Client
) -> None:
    session = new_session(jupyter, "two.ipynb")
    assert len(jupyter("GET", "/api/kernels")) == 1
    assert rest.request("DELETE", f"/api/kernels/{session['kernel']['id']}").status_code == 204
    wait_for(lambda: jupyter("GET", "/api/kernels") == [])
    wait_for(lambda: jupyter("GET", "/api/sessions") == [])
