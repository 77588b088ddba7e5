"""What happens at a bad moment: while a state is restored, before there is a kernel, while nothing seems to run.

Sessions here have a value that takes a while to load, which makes the moment long enough to meet.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import docker
import pytest

from tests.server import Client, Server, Servers, containers_below, in_background, new_id, wait_for
from tests.websocket import KernelSocket, end_kernel, start_kernel

SLOW = """
import time
class Slow:
    def __getstate__(self): return {'seconds': 2.0}
    def __setstate__(self, state): time.sleep(state['seconds']); self.__dict__.update(state)
x, slow = 41, Slow()
_ = open('/mnt/data/kept.txt', 'w').write('one')
"""
LOOK = "print(x + 1, open('/mnt/data/kept.txt').read())"
SEEN = "42 one\n"
DIE = "import os; os._exit(0)"
LONG = 20.0


@pytest.fixture(scope="module")
def server(servers: Servers) -> Iterator[Server]:
    """No error of its own may be in its log."""
    with servers.serving(
        {"CONTAINER_POOL_PY_MIN": "2", "MAX_CPU_QUOTA": "100000", "MAX_EXECUTION_TIME": "20"}
    ) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Client:
    return server.client()


@pytest.fixture
def session_id(client: Client) -> Iterator[str]:
    """A session that is stored and has no kernel; to restore it takes two seconds."""
    session_id = new_id()
    assert client.run(SLOW, session_id=session_id)["state"]["captured"]
    lose_kernel(client, session_id)
    yield session_id
    client.delete(session_id)


def lose_kernel(client: Client, session_id: str) -> None:
    assert client.run(DIE, session_id=session_id)["status"] == "killed"


def kernels_of_sessions(server: Server) -> int:
    """Return how many kernels belong to sessions."""
    return int(server.client().health()["kernels"])


def wait_for_a_kernel(server: Server) -> None:
    """Wait until the one session that runs has been given a kernel, which is given its state then."""
    wait_for(lambda: kernels_of_sessions(server) == 1)
    time.sleep(0.5)


# ---- before the code runs


class Frozen:
    """The kernel of a session, which takes in what it is sent and does none of it before it dies."""

    def __init__(self, server: Server, client: Client, session_id: str) -> None:
        mounts = client.printed("print(open('/proc/self/mountinfo').read())", session_id=session_id)
        (container,) = (each for each in containers_below(server.runtime_dir) if each["Id"] in mounts)
        engine = docker.APIClient()
        processes = engine.top(container["Id"], "-eo pid")["Processes"]
        engine.close()
        self._pids = [int(pid) for (pid,) in processes]
        self._signal(signal.SIGSTOP)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def test_a_call_whose_kernel_dies_before_it_begins_runs_in_another_one(server: Server, client: Client) -> None:
    session_id = new_id()
    client.run("x = 41", session_id=session_id)
    kernel = Frozen(server, client, session_id)
    running = in_background(client.run, "x += 1\nprint(x)", session_id=session_id)
    time.sleep(0.3)
    kernel.kill()
    reply = running.result(LONG)
    assert (reply["status"], reply["stdout"], reply["runtime_status"]) == ("ok", "42\n", "restored"), reply
    assert client.printed("print(x)", session_id=session_id) == "42\n"
    client.delete(session_id)


def test_a_cell_whose_kernel_dies_before_it_begins_runs_in_another_one(
    server: Server, client: Client, ws: KernelSocket
) -> None:
    ws.run("x = 41")
    kernel = Frozen(server, client, ws.kernel_id)
    msg_id = ws.execute("x += 1\nprint(x)")
    time.sleep(0.3)
    kernel.kill()
    cell = ws.collect(msg_id)
    assert (cell.status, cell.stdout, cell.stderr, cell.duplicates) == ("ok", "42\n", "", [])
    assert ws.run("print(x)").stdout == "42\n"


def test_a_restart_of_a_kernel_that_has_not_begun_runs_nothing(server: Server, client: Client) -> None:
    session_id = new_id()
    client.run("x = 41", session_id=session_id)
    Frozen(server, client, session_id)
    running = in_background(
        client.request, "POST", "/exec", json={"lang": "py", "code": "y = 1", "session_id": session_id}
    )
    time.sleep(0.3)
    kernel_id = kernel_of(client, session_id)
    assert client.request("POST", f"/api/kernels/{kernel_id}/restart").status_code == 200
    assert running.result(LONG).json()["status"] in ("killed", "error")
    assert client.printed("print([n in globals() for n in 'xy'])", session_id=session_id) == "[False, False]\n"
    client.delete(session_id)


def test_code_that_kills_its_kernel_at_once_ends_with_it(client: Client) -> None:
    """However fast it is: the kernel may have had no time to say that it began."""
    for _ in range(5):
        reply = client.run("import os; os.kill(os.getpid(), 9)")
        assert (reply["status"], reply["exit_code"], reply["stdout"]) == ("killed", 137, "")


# ---- while a state is restored


def test_a_kernel_that_is_killed_while_it_is_restored_costs_nothing(server: Server, session_id: str) -> None:
    """All containers are killed, among them the one that loads the state: another one is given it."""
    client = server.client()
    wait_for(lambda: client.pool()["ready"] == 2 and kernels_of_sessions(server) == 0)
    running = in_background(client.run, LOOK, session_id=session_id)
    wait_for_a_kernel(server)
    engine = docker.APIClient()
    for container in containers_below(server.runtime_dir):
        engine.kill(container["Id"])
    engine.close()
    reply = running.result(LONG)
    assert (reply["stdout"], reply["runtime_status"], reply["status"]) == (SEEN, "restored", "ok"), reply


def test_an_interrupt_while_a_state_is_restored_ends_the_code_and_keeps_the_state(
    server: Server, session_id: str
) -> None:
    client = server.client()
    wait_for(lambda: kernels_of_sessions(server) == 0)
    running = in_background(client.run, "time.sleep(15)", session_id=session_id)
    wait_for_a_kernel(server)
    answer = client.request("POST", f"/sessions/{session_id}/interrupt")
    assert (answer.status_code, answer.json()["interrupted"]) == (200, True), answer.text
    reply = running.result(LONG)
    assert (reply["status"], reply["runtime_status"]) == ("error", "restored"), reply
    assert reply["stderr"].endswith("KeyboardInterrupt\n")
    assert client.printed(LOOK, session_id=session_id) == SEEN


def test_a_restart_while_a_state_is_restored_runs_nothing_and_keeps_files(server: Server, session_id: str) -> None:
    client = server.client()
    wait_for(lambda: kernels_of_sessions(server) == 0)
    with KernelSocket(client, kernel_of(client, session_id)) as ws:
        msg_id = ws.execute("open('/mnt/data/ran.txt', 'w').close()")
        wait_for_a_kernel(server)
        answer = client.request("POST", f"/api/kernels/{ws.kernel_id}/restart")
        assert answer.status_code == 200, answer.text
        assert ws.collect(msg_id).status == "aborted"
        cell = ws.run("import os; print(os.listdir('/mnt/data'), 'x' in globals())")
        assert cell.stdout == "['kept.txt'] False\n"


def test_the_end_of_a_kernel_that_is_being_made_ends_the_cell_that_waits_for_it(
    server: Server, session_id: str
) -> None:
    """DELETE of the kernel of a session of ``/exec``, which stays: nothing runs unseen afterwards."""
    client = server.client()
    wait_for(lambda: kernels_of_sessions(server) == 0)
    ws = KernelSocket(client, kernel_of(client, session_id))
    ws.execute("while True: pass")
    wait_for_a_kernel(server)
    end_kernel(client, ws.kernel_id)
    ws.wait_closed()
    wait_for(lambda: client.session(session_id)["state"] == "dormant", LONG)
    assert client.printed(LOOK, session_id=session_id) == SEEN
    ws.close()


def kernel_of(client: Client, session_id: str) -> str:
    return str(client.session(session_id)["kernel_id"])


# ---- what is no execution


@pytest.fixture
def ws(client: Client) -> Iterator[KernelSocket]:
    kernel_id = start_kernel(client)
    with KernelSocket(client, kernel_id) as ws:
        yield ws
    end_kernel(client, kernel_id)


BUTTON = """
import time
from comm import create_comm
button = create_comm(target_name='button')
presses = 0
def press(_message):
    global presses
    presses += 1
    time.sleep(30)
    presses += 100
button.on_msg(press)
"""


def test_an_interrupt_ends_what_a_button_does(client: Client, ws: KernelSocket) -> None:
    """A callback of a widget runs on behalf of no execution."""
    ws.run(BUTTON)
    comm_id = ws.wait(lambda one: one.type == "comm_open").content["comm_id"]
    pressed = ws.send("comm_msg", {"comm_id": comm_id, "data": {}})
    wait_for(lambda: "busy" in ws.seen(pressed).labels)
    time.sleep(0.5)
    assert client.request("POST", f"/api/kernels/{ws.kernel_id}/interrupt").status_code == 204
    ws.wait(lambda one: one.parent_id == pressed and one.state == "idle", 10)
    assert ws.run("print(presses)").stdout == "1\n"


def test_a_cell_is_interrupted_as_soon_as_it_was_sent(client: Client, ws: KernelSocket) -> None:
    """The interrupt comes right behind the cell, again and again: it never misses a cell that is there already."""
    ws.run("x = 41")
    for _ in range(10):
        msg_id = ws.execute("import time; time.sleep(15)")
        wait_for(partial(is_busy, client, ws.kernel_id), every=0.001)
        assert client.request("POST", f"/api/kernels/{ws.kernel_id}/interrupt").status_code == 204
        assert ws.collect(msg_id, 10).reply.content["ename"] == "KeyboardInterrupt"
        wait_for(lambda: not is_busy(client, ws.kernel_id))
    assert ws.run("print(x)").stdout == "41\n"


LISTENER = """
import time
from comm import create_comm
heard = []
def hear(message):
    time.sleep(0.05)
    heard.append(message['content']['data'])
comm = create_comm(target_name='any')
comm.on_msg(hear)
"""


def test_what_was_sent_to_a_subshell_is_done_before_it_is_deleted(client: Client, ws: KernelSocket) -> None:
    """As JupyterLab ends a comm: its last message goes to a subshell, whose deletion follows on control."""
    ws.run(LISTENER)
    comm_id = ws.wait(lambda one: one.type == "comm_open").content["comm_id"]
    for first in range(0, 30, 3):
        subshell = str(ws.ask("create_subshell_request", {}, "control").content["subshell_id"])
        for number in range(first, first + 3):
            sent = ws.send("comm_msg", {"comm_id": comm_id, "data": number}, subshell_id=subshell)
        deletion = ws.send("delete_subshell_request", {"subshell_id": subshell}, "control")
        ws.wait(lambda one, sent=deletion: one.parent_id == sent and one.state == "idle")  # type: ignore[misc]
        states = [(one.parent_id, one.state) for one in ws.messages if one.type == "status"]
        assert states.index((sent, "idle")) < states.index((deletion, "busy"))
    assert ws.run("print(heard == list(range(30)), len(heard))").stdout == "True 30\n"


def test_a_subshell_that_works_on_is_deleted_all_the_same(client: Client, ws: KernelSocket) -> None:
    subshell = str(ws.ask("create_subshell_request", {}, "control").content["subshell_id"])
    ws.execute("import time; time.sleep(6)", subshell_id=subshell)
    assert ws.ask("delete_subshell_request", {"subshell_id": subshell}, "control").content["status"] == "ok"
    assert ws.ask("list_subshell_request", {}, "control").content["subshell_id"] == []
    assert ws.run("print(42)").stdout == "42\n"


def test_interrupts_that_were_answered_do_not_reach_the_next_cell(client: Client, ws: KernelSocket) -> None:
    """More of them than the kernel has taken by the time its cell has ended."""
    for _ in range(10):
        msg_id = ws.execute("import time\nwhile True: time.sleep(0.001)")
        ws.wait(lambda one, cell=msg_id: one.parent_id == cell and one.type == "execute_input")  # type: ignore[misc]
        sent = {ws.send("interrupt_request", {}, "control") for _ in range(300)}
        assert ws.collect(msg_id, LONG).reply.content["ename"] == "KeyboardInterrupt"
        wait_for(partial(all_answered, ws, sent), LONG)
        cell = ws.run("time.sleep(0.2); print(42)", timeout=LONG)
        assert (cell.stdout, cell.status) == ("42\n", "ok")


def all_answered(ws: KernelSocket, sent: set[str]) -> bool:
    return sent <= {one.parent_id for one in ws.messages if one.type == "interrupt_reply"}


def is_busy(client: Client, kernel_id: str) -> bool:
    return bool(client.request("GET", f"/api/kernels/{kernel_id}").json()["execution_state"] == "busy")


def test_a_cell_that_could_not_run_stops_those_behind_it(client: Client, ws: KernelSocket) -> None:
    """The first cell ends its kernel, even with exit code 0."""
    first, second = ws.execute(DIE), ws.execute("print('ran')")
    assert ws.collect(first).status == "error"
    assert ws.collect(second).status == "aborted"


def test_a_reply_keeps_what_the_kernel_says_in_its_metadata(ws: KernelSocket) -> None:
    metadata = ws.run("1").reply.metadata
    assert metadata["kernelgate"]["state"]["captured"]
    assert "started" in metadata


def test_an_answer_gets_in_however_much_waits_behind_the_question(ws: KernelSocket) -> None:
    """A thousand messages and more wait behind a cell that asks its user."""
    asking = ws.execute("print(input('name? '))", allow_stdin=True)
    question = ws.wait(lambda one: one.type == "input_request")
    waiting = [ws.send("comm_info_request", {}) for _ in range(1500)]
    ws.send("input_reply", {"value": "Ann"}, "stdin", parent=question.header)
    assert ws.collect(asking).stdout == "Ann\n"
    assert ws.collect(waiting[-1]).status == "ok"


# ---- while kernels may end


@pytest.fixture(scope="module")
def short(servers: Servers) -> Iterator[Server]:
    """Kernels end when they have idled for a second."""
    with servers.serving({"KERNEL_IDLE_SECONDS": "1"}) as server:
        yield server


@pytest.fixture(scope="module")
def none(servers: Servers) -> Iterator[Server]:
    """Kernels end at once."""
    with servers.serving({"KERNEL_IDLE_SECONDS": "0"}) as server:
        yield server


def test_silent_work_in_a_subshell_is_no_idling(short: Server) -> None:
    client = short.client()
    kernel_id = start_kernel(client)
    with KernelSocket(client, kernel_id) as ws:
        ws.run("import time; x = 41")
        subshell = str(ws.ask("create_subshell_request", {}, "control").content["subshell_id"])
        working = ws.execute("time.sleep(5); print(x)", subshell_id=subshell)
        assert ws.collect(working).stdout == "41\n"
        assert ws.run("x += 1").status == "ok"  # what a subshell has changed is stored with the next cell
        wait_for(lambda: client.session(kernel_id)["state"] == "dormant")
    end_kernel(client, kernel_id)


def test_a_kernel_that_was_started_for_a_request_answers_it(none: Server) -> None:
    client = none.client()
    kernel_id = start_kernel(client)
    with KernelSocket(client, kernel_id) as ws:
        ws.run("variable = 41")
        wait_for(lambda: client.session(kernel_id)["state"] == "dormant")
        reply = ws.ask("complete_request", {"code": "vari", "cursor_pos": 4})
        assert reply.content["matches"] == ["variable"]
        wait_for(lambda: client.session(kernel_id)["state"] == "dormant")
    end_kernel(client, kernel_id)


def test_what_a_kernel_was_asked_is_answered_although_it_ends(client: Client, ws: KernelSocket) -> None:
    """A subshell works while the kernel is killed: its client is told, and does not wait for ever."""
    ws.run("import os, time")
    subshell = str(ws.ask("create_subshell_request", {}, "control").content["subshell_id"])
    working = ws.execute("time.sleep(1); os._exit(1)", subshell_id=subshell)
    cell = ws.collect(working)
    assert (cell.status, cell.reply.content["ename"]) == ("error", "KernelDied")


# ---- limits


def test_starts_at_once_reach_the_limit(servers: Servers) -> None:
    """With one kernel of three, two that are started at the same time are no more than there may be."""
    with servers.serving({"MAX_KERNELS": "3", "CONTAINER_POOL_PY_MIN": "1"}) as server:
        client = server.client()
        start_kernel(client)
        starts = [in_background(start_kernel, client) for _ in range(2)]
        assert len({start.result(LONG) for start in starts}) == 2
        assert client.request("POST", "/api/kernels", json={}).status_code == 403


def test_a_slow_reader_costs_nobody_their_state(servers: Servers) -> None:
    """A cell prints more than is kept while its only client reads slowly; saving has half a second."""
    few = ["--ReplaySettings.buffer_mb=2"]
    with servers.serving({"STATE_SAVE_TIMEOUT_SECONDS": "0.5"}, few) as server:
        client = server.client()
        with KernelSocket(client, start_kernel(client)) as ws:
            ws.run("x = 41")
            printing = ws.execute("for n in range(400): print('~' * 40_000)\nx = 42")
            for _ in range(16):
                ws.pause()
                time.sleep(0.45)
                ws.resume()
                time.sleep(0.005)
            cell = ws.collect(printing)
            assert (cell.status, cell.stdout.count("~")) == ("ok", 16_000_000)
            assert cell.reply.metadata["kernelgate"]["state"]["captured"]
            assert ws.run("print(x)").stdout == "42\n"
            end_kernel(client, ws.kernel_id)
