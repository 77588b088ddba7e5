"""The Python image behaves as Jupyter wants it: `jupyter_kernel_test` over ipc, through the provisioner."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jupyter_kernel_test  # type: ignore[import-untyped]
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_kernel_test.msgspec_v5 import validate_message  # type: ignore[import-untyped]
from traitlets.config import Config

from kernelgate import kernelspecs
from kernelgate.containers.engine import Engine
from kernelgate.containers.runtime import RuntimeFolder
from kernelgate.images.builder import ImageBuilder
from kernelgate.languages import PYTHON
from tests.server import wait_for

SOON = 20.0
Message = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def place(image: None) -> Iterator[None]:
    """The kernelspec where Jupyter looks, and a runtime folder of our own."""
    with tempfile.TemporaryDirectory(prefix="kgt-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", f"{folder}/share")
        patch.setenv("JUPYTER_RUNTIME_DIR", f"{folder}/files")
        patch.setenv("RUNTIME_DIR", f"{folder}/run")
        patch.setenv("MAX_CPU_QUOTA", "100000")
        patch.chdir(folder)
        engine = Engine.instance(config=Config())
        kernelspecs.install(PYTHON, ImageBuilder(engine.api).name(PYTHON), Path(folder, "share", "kernels"))
        runtime_folder = RuntimeFolder.instance(runtime_dir=f"{folder}/run")
        try:
            yield
            assert runtime_folder.kernel_folders() == []
        finally:
            runtime_folder.close()
            engine.close()
            RuntimeFolder.clear_instance()
            Engine.clear_instance()


class TestPython(jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    """What Jupyter asks of every kernel."""

    kernel_name = PYTHON.kernel_name
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('oh', file=sys.stderr)"
    completion_samples = [  # noqa: RUF012
        {"text": "zi", "matches": {"zip"}},
        {"text": "str.capita", "matches": {".capitalize"}},
        {"text": "import itertoo", "matches": {"itertools"}},
        {"text": "no_such_name_anywhere", "matches": set()},
    ]
    complete_code_samples = ["1", "print('hello')", "def f(x):\n  return x * 2\n\n"]  # noqa: RUF012
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x * 2", "for i in range(3):"]  # noqa: RUF012
    invalid_code_samples = ["import = 7q", "x ="]  # noqa: RUF012
    code_page_something = "zip?"
    code_generate_error = "raise ValueError('no')"
    code_execute_result = [  # noqa: RUF012
        {"code": "1 + 2 + 3", "result": "6"},
        {"code": "[n * n for n in range(1, 4)]", "result": "[1, 4, 9]"},
        {"code": "from IPython.display import HTML; HTML('<b>bold</b>')", "mime": "text/html"},
    ]
    code_display_data = [  # noqa: RUF012
        {"code": "from IPython.display import HTML, display; display(HTML('<b>bold</b>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('x^2'))", "mime": "text/latex"},
        {
            "code": "import matplotlib.pyplot as plt; plt.plot([1, 3, 2]); plt.show()",
            "mime": "image/png",
        },
    ]
    code_history_pattern = "1*3"
    supported_history_operations = ("tail", "range", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    def execute_helper(self, *args: Any, **kwargs: Any) -> Any:
        """Give outputs longer than the tenth of a second that the suite does: the machine may be busy."""
        channel = self.kc.iopub_channel
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(channel, "get_msg", lambda timeout: type(channel).get_msg(channel, timeout=SOON))
            return super().execute_helper(*args, **kwargs)


class TestWelcome(jupyter_kernel_test.IopubWelcomeTests):  # type: ignore[misc]
    """The first subscriber is welcomed."""

    kernel_name = PYTHON.kernel_name
    support_iopub_welcome = True

    def test_recv_iopub_welcome_msg(self) -> None:
        super().test_recv_iopub_welcome_msg()
        wait_for(self.kc.hb_channel.is_beating)  # stopped before it has begun, it would not stop


# --- what `jupyter_kernel_test` does not ask, or knows in another way than we do


@pytest.fixture(scope="module")
def manager(place: None) -> Iterator[KernelManager]:
    manager = KernelManager(kernel_name=PYTHON.kernel_name)
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def client(manager: KernelManager) -> Iterator[BlockingKernelClient]:
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=SOON)
    yield client
    client.stop_channels()


def reply_to(receive: Callable[..., Message], msg_id: str, msg_type: str) -> Message:
    """Return the content of the reply to a request, which must be as the protocol wants it."""
    while True:
        message = receive(timeout=SOON)
        if message["parent_header"].get("msg_id") == msg_id:
            if msg_type in ("execute_reply", "comm_info_reply", "kernel_info_reply"):
                validate_message(message, msg_type, msg_id)
            assert message["msg_type"] == msg_type
            return dict(message["content"])


def outputs(client: BlockingKernelClient, msg_id: str) -> list[Message]:
    """Return what was published for a request, up to the idle status."""
    found: list[Message] = []
    while True:
        message = client.get_iopub_msg(timeout=SOON)
        if message["parent_header"].get("msg_id") != msg_id:
            continue
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return found
        found.append(message)


def wait_busy(client: BlockingKernelClient, msg_id: str, msg_type: str = "execute_input") -> None:
    while True:
        message = client.get_iopub_msg(timeout=SOON)
        if (message["parent_header"].get("msg_id"), message["msg_type"]) == (msg_id, msg_type):
            return


def run(client: BlockingKernelClient, code: str) -> Message:
    msg_id = client.execute(code, allow_stdin=False, stop_on_error=False)
    return reply_to(client.get_shell_msg, msg_id, "execute_reply")


@pytest.mark.parametrize(
    "code", ["import time; time.sleep(60)", "while True: pass", "import asyncio; await asyncio.sleep(60)"]
)
def test_an_interrupt_ends_what_runs(manager: KernelManager, client: BlockingKernelClient, code: str) -> None:
    msg_id = client.execute(code, stop_on_error=False)
    wait_busy(client, msg_id)
    time.sleep(0.2)
    manager.interrupt_kernel()
    reply = reply_to(client.get_shell_msg, msg_id, "execute_reply")
    assert (reply["status"], reply["ename"]) in [("error", "KeyboardInterrupt"), ("error", "CancelledError")]
    assert run(client, "1")["status"] == "ok"


def test_an_interrupt_is_answered(client: BlockingKernelClient) -> None:
    message = client.session.msg("interrupt_request", {})
    client.control_channel.send(message)
    assert reply_to(client.get_control_msg, message["header"]["msg_id"], "interrupt_reply") == {"status": "ok"}


@pytest.mark.parametrize("password", [False, True])
def test_input_asks_the_client(client: BlockingKernelClient, password: bool) -> None:
    ask = "__import__('getpass').getpass('who? ')" if password else "input('who? ')"
    msg_id = client.execute(f"name = {ask}; print('hello', name)", allow_stdin=True)
    request = client.get_stdin_msg(timeout=SOON)
    assert (request["msg_type"], request["parent_header"]["msg_id"]) == ("input_request", msg_id)
    assert request["content"] == {"prompt": "who? ", "password": password}
    client.input("me")
    assert reply_to(client.get_shell_msg, msg_id, "execute_reply")["status"] == "ok"
    texts = [each["content"]["text"] for each in outputs(client, msg_id) if each["msg_type"] == "stream"]
    assert "".join(texts) == "hello me\n"


def test_input_fails_at_once_where_nobody_answers(client: BlockingKernelClient) -> None:
    assert run(client, "input()")["ename"] == "StdinNotImplementedError"


def test_comms_go_both_ways(client: BlockingKernelClient) -> None:
    code = """
def opened(comm, message):
    comm.on_msg(lambda message: comm.send({"twice": message["content"]["data"]["value"] * 2}))
    comm.send({"opened with": message["content"]["data"]})
get_ipython().kernel.comm_manager.register_target("double", opened)
"""
    assert run(client, code)["status"] == "ok"

    def send(msg_type: str, **content: Any) -> list[Message]:
        message = client.session.msg(msg_type, {"comm_id": "c1", **content})
        client.shell_channel.send(message)
        published = outputs(client, message["header"]["msg_id"])
        return [each["content"]["data"] for each in published if each["msg_type"] == "comm_msg"]

    assert send("comm_open", target_name="double", data={"a": 1}) == [{"opened with": {"a": 1}}]
    assert send("comm_msg", data={"value": 21}) == [{"twice": 42}]
    info = reply_to(client.get_shell_msg, client.comm_info("double"), "comm_info_reply")
    assert info["comms"] == {"c1": {"target_name": "double"}}
    assert send("comm_close", data={}) == []
    assert reply_to(client.get_shell_msg, client.comm_info(), "comm_info_reply")["comms"] == {}


def test_a_comm_of_the_kernel_reaches_the_client(client: BlockingKernelClient) -> None:
    code = "from comm import create_comm; comm = create_comm(target_name='t', data={'x': 1}, buffers=[b'bytes'])"
    msg_id = client.execute(code)
    [opened] = [each for each in outputs(client, msg_id) if each["msg_type"] == "comm_open"]
    assert (opened["content"]["target_name"], opened["content"]["data"]) == ("t", {"x": 1})
    assert [bytes(buffer) for buffer in opened["buffers"]] == [b"bytes"]


def test_displays_can_be_updated(client: BlockingKernelClient) -> None:
    code = "from IPython.display import display; h = display('a', display_id='d'); h.update('b')"
    msg_id = client.execute(code)
    shown = [each for each in outputs(client, msg_id) if "display" in each["msg_type"]]
    assert [each["msg_type"] for each in shown] == ["display_data", "update_display_data"]
    assert {each["content"]["transient"]["display_id"] for each in shown} == {"d"}


def test_a_silent_request_counts_and_says_nothing(client: BlockingKernelClient) -> None:
    before = run(client, "1")["execution_count"]
    msg_id = client.execute("2", silent=True)
    assert [each["msg_type"] for each in outputs(client, msg_id)] == ["status"]
    assert run(client, "3")["execution_count"] == before + 1


def test_user_expressions_are_evaluated(client: BlockingKernelClient) -> None:
    msg_id = client.execute("x = 6", user_expressions={"good": "x * 7", "bad": "1 / 0"})
    found = reply_to(client.get_shell_msg, msg_id, "execute_reply")["user_expressions"]
    assert found["good"]["data"]["text/plain"] == "42"
    assert (found["bad"]["status"], found["bad"]["ename"]) == ("error", "ZeroDivisionError")


@pytest.mark.parametrize(("stop", "status"), [(True, "aborted"), (False, "ok")])
def test_an_error_stops_what_waits_unless_told_not_to(
    client: BlockingKernelClient, stop: bool, status: str
) -> None:
    code = "import time; time.sleep(0.5); 1 / 0"
    requests = [client.execute(code, stop_on_error=stop), client.execute("4")]
    replies = [client.get_shell_msg(timeout=SOON) for _ in requests]
    assert [reply["parent_header"]["msg_id"] for reply in replies] == requests
    assert [reply["content"]["status"] for reply in replies] == ["error", status]


def test_a_subshell_answers_while_the_main_shell_is_busy(
    manager: KernelManager, client: BlockingKernelClient
) -> None:
    info = reply_to(client.get_shell_msg, client.kernel_info(), "kernel_info_reply")
    assert "kernel subshells" in info["supported_features"]

    def control(msg_type: str, **content: Any) -> Message:
        message = client.session.msg(msg_type, content)
        client.control_channel.send(message)
        return reply_to(client.get_control_msg, message["header"]["msg_id"], msg_type.replace("request", "reply"))

    subshell = control("create_subshell_request")["subshell_id"]
    assert control("list_subshell_request")["subshell_id"] == [subshell]
    busy = client.execute("import time; time.sleep(60)", stop_on_error=False)
    wait_busy(client, busy)
    message = client.session.msg("execute_request", {"code": "print(6 * 7)", "silent": False})
    message["header"]["subshell_id"] = subshell
    client.shell_channel.send(message)
    msg_id = message["header"]["msg_id"]
    assert reply_to(client.get_shell_msg, msg_id, "execute_reply")["status"] == "ok"
    assert [each["content"]["text"] for each in outputs(client, msg_id) if each["msg_type"] == "stream"] == [
        "42\n"
    ]
    assert control("delete_subshell_request", subshell_id=subshell)["status"] == "ok"
    assert control("list_subshell_request")["subshell_id"] == []
    manager.interrupt_kernel()
    assert reply_to(client.get_shell_msg, busy, "execute_reply")["ename"] == "KeyboardInterrupt"
