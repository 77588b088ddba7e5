"""Jupyter's protocol over the WebSocket of a kernel: what comes, to whom, in which order; nothing is lost."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import docker
import pytest

from tests.server import PROMPT, Client, Json, Server, in_background, wait_for
from tests.websocket import Cell, KernelSocket, end_kernel, start_kernel

LONG = 90.0
DISPLAYS = 20_000
PRINT = "for number in range(300): print(str(number).zfill(6) * 17_000, flush=True)"
PRINTED = "".join(str(number).zfill(6) * 17_000 + "\n" for number in range(300))
DISPLAY = "for number in range({}): display({{'text/plain': str(number)}}, raw=True)"
ECHO = """
from comm import get_comm_manager

def opened(comm, message):
    comm.on_msg(lambda message: answer(comm, message))
    answer(comm, message)

def answer(comm, message):
    comm.send({"echo": message["content"]["data"]}, buffers=[bytes(one)[::-1] for one in message["buffers"]])

get_comm_manager().register_target("echo", opened)
"""
SLOW = """
import time
print("one", flush=True)
time.sleep(1.5)
print("two", flush=True)
time.sleep(0.2)
"three"
"""
OUTPUTS = ["busy", "execute_input", "stream", "stream", "execute_result", "idle"]
"""What `SLOW` gives on iopub."""


@pytest.fixture(scope="module")
def kernel_id(server: Server) -> Iterator[str]:
    """A kernel that most tests share."""
    kernel_id = start_kernel(server.client())
    yield kernel_id
    end_kernel(server.client(), kernel_id)


@pytest.fixture
def own_kernel(client: Client) -> Iterator[str]:
    """A kernel that only this test uses."""
    kernel_id = start_kernel(client)
    yield kernel_id
    end_kernel(client, kernel_id)


@pytest.fixture
def connect(client: Client, kernel_id: str) -> Iterator[Callable[..., KernelSocket]]:
    """Opens WebSockets of the shared kernel that are closed with the test."""
    with contextlib.ExitStack() as sockets:
        yield lambda **options: sockets.enter_context(KernelSocket(client, kernel_id, **options))


@pytest.fixture
def ws(connect: Callable[..., KernelSocket]) -> KernelSocket:
    """A client of the shared kernel."""
    return connect()


both_protocols = pytest.mark.parametrize("v1", [True, False], ids=["v1", "legacy"])


def model(client: Client, kernel_id: str) -> Json:
    answer = client.request("GET", f"/api/kernels/{kernel_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def wait_idle(client: Client, kernel_id: str) -> None:
    """Wait until the kernel has done everything."""
    wait_for(lambda: model(client, kernel_id)["execution_state"] == "idle", 30)


def iopub(cell: Cell) -> list[str]:
    """Return the labels of what came on iopub, every message counted."""
    return [one.label for one in cell.messages if one.channel == "iopub"]


def result(cell: Cell) -> str:
    (message,) = cell.of("execute_result")
    return str(message.content["data"]["text/plain"])


# ---- one cell


@both_protocols
def test_the_messages_of_a_cell_come_in_order(connect: Callable[..., KernelSocket], v1: bool) -> None:
    ws = connect(v1=v1)
    msg_id = ws.execute("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7")
    cell = ws.collect(msg_id)
    assert iopub(cell) == ["busy", "execute_input", "stream", "stream", "execute_result", "idle"]
    assert (cell.stdout, cell.stderr, result(cell), cell.status) == ("out\n", "err\n", "42", "ok")
    assert cell.reply.channel == "shell"
    assert cell.reply.content["execution_count"] == cell.of("execute_input")[0].content["execution_count"]
    assert cell.labels.index("execute_reply") > cell.labels.index("execute_input")
    assert cell.duplicates == []


@both_protocols
def test_messages_carry_the_header_of_their_request(connect: Callable[..., KernelSocket], v1: bool) -> None:
    ws = connect(v1=v1)
    msg_id = ws.execute("print('Grüße, 世界 🙂')")
    cell = ws.collect(msg_id)
    assert cell.stdout == "Grüße, 世界 🙂\n"
    for message in cell.messages:
        assert message.parent["msg_id"] == msg_id
        assert message.parent["msg_type"] == "execute_request"
        assert message.parent["session"] == ws.session
        assert message.header["session"] != ws.session
        assert message.header["date"]
        assert message.metadata is not None


@both_protocols
def test_an_error_is_told_and_replied(connect: Callable[..., KernelSocket], v1: bool) -> None:
    cell = connect(v1=v1).run("1 / 0")
    (error,) = cell.of("error")
    assert error.content["ename"] == cell.reply.content["ename"] == "ZeroDivisionError"
    assert cell.status == "error"
    assert error.content["traceback"]
    assert iopub(cell) == ["busy", "execute_input", "error", "idle"]


@both_protocols
def test_buffers_of_comms_go_both_ways(connect: Callable[..., KernelSocket], v1: bool) -> None:
    ws = connect(v1=v1)
    assert ws.run(ECHO).status == "ok"
    small = [bytes(range(256)), b"", b"\n\0"]
    large = [os.urandom(3 << 20)]
    comm = {"comm_id": f"comm-{v1}"}
    opened = ws.send("comm_open", {**comm, "target_name": "echo", "data": {"n": 1}}, buffers=small)
    echo = ws.wait(lambda one: one.parent_id == opened and one.type == "comm_msg")
    assert echo.content == {**comm, "data": {"echo": {"n": 1}}}
    assert list(echo.buffers) == [one[::-1] for one in small]
    for data, buffers in (({"n": 2}, large), ({"n": 3}, [])):
        sent = ws.send("comm_msg", {**comm, "data": data}, buffers=buffers)
        echo = ws.wait(lambda one, sent=sent: one.parent_id == sent and one.type == "comm_msg")  # type: ignore[misc]
        assert echo.content["data"] == {"echo": data}
        assert list(echo.buffers) == [one[::-1] for one in buffers]
    comms = ws.ask("comm_info_request", {"target_name": "echo"}).content["comms"]
    assert comms[comm["comm_id"]] == {"target_name": "echo"}


def test_every_request_of_the_shell_is_replied(ws: KernelSocket) -> None:
    count = ws.run("number_of_things = 3").reply.content["execution_count"]
    assert (
        "number_of_things" in ws.ask("complete_request", {"code": "number_of", "cursor_pos": 9}).content["matches"]
    )
    inspected = ws.ask("inspect_request", {"code": "print", "cursor_pos": 5, "detail_level": 0}).content
    assert inspected["found"]
    assert "text/plain" in inspected["data"]
    assert ws.ask("is_complete_request", {"code": "for x in y:"}).content["status"] == "incomplete"
    asked = {"raw": True, "output": False, "hist_access_type": "range", "session": 0, "start": count}
    assert ws.ask("history_request", asked).content["history"][0][1:] == [count, "number_of_things = 3"]
    assert ws.ask("comm_info_request").content["status"] == "ok"


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_kernel_info_is_told(ws: KernelSocket, channel: str) -> None:
    reply = ws.ask("kernel_info_request", channel=channel)
    assert reply.channel == channel
    assert reply.content["status"] == "ok"
    assert reply.content["implementation"] == "ipython"
    assert reply.content["language_info"]["name"] == "python"
    assert reply.content["protocol_version"].startswith("5.")


def test_expressions_and_silence_are_as_asked(ws: KernelSocket) -> None:
    cell = ws.run("value = 20", user_expressions={"twice": "value * 2"})
    assert cell.reply.content["user_expressions"]["twice"]["data"]["text/plain"] == "40"
    silent = ws.run("value", silent=True, store_history=False)
    assert "execute_input" not in silent.labels
    assert "execute_result" not in silent.labels


# ---- a lot


def test_twenty_thousand_displays_arrive_in_order_and_so_does_idle(ws: KernelSocket) -> None:
    cell = ws.run(DISPLAY.format(DISPLAYS), timeout=LONG)
    numbers = [int(one.content["data"]["text/plain"]) for one in cell.of("display_data")]
    assert numbers == list(range(DISPLAYS))
    assert iopub(cell)[-1] == "idle"
    assert cell.status == "ok"
    assert cell.duplicates == []


def test_thirty_megabytes_of_print_arrive_complete(connect: Callable[..., KernelSocket]) -> None:
    ws = connect(v1=False)
    cell = ws.run(PRINT, timeout=LONG)
    assert cell.stderr == ""
    assert len(cell.stdout) == len(PRINTED)
    assert cell.stdout == PRINTED


def test_a_reader_that_pauses_gets_everything_and_holds_up_nobody(connect: Callable[..., KernelSocket]) -> None:
    slow, quick = connect(), connect()
    slow.ask("kernel_info_request")
    slow.pause()
    msg_id = quick.execute(PRINT)
    assert quick.collect(msg_id, LONG).stdout == PRINTED
    slow.resume()
    slow.wait(lambda one: one.parent_id == msg_id and one.state == "idle", LONG)
    assert slow.seen(msg_id).stdout == PRINTED


# ---- who gets what


def test_two_clients_see_the_outputs_and_the_asker_the_reply(connect: Callable[..., KernelSocket]) -> None:
    asker, other = connect(), connect(v1=False)
    msg_id = asker.execute("print('seen by all')")
    cell = asker.collect(msg_id)
    other.wait(lambda one: one.parent_id == msg_id and one.state == "idle")
    other.ask("comm_info_request")  # whatever else the server had for this client has come before its reply
    assert iopub(other.seen(msg_id)) == iopub(cell)
    assert other.seen(msg_id).stdout == "seen by all\n"
    assert other.seen(msg_id).of("execute_reply") == []
    assert [one.id for one in cell.of("stream")] == [one.id for one in other.seen(msg_id).of("stream")]


def test_input_is_asked_of_the_asker_only(connect: Callable[..., KernelSocket]) -> None:
    asker, other = connect(), connect()
    msg_id = asker.execute("name = input('who? ')\nprint('hello', name)", allow_stdin=True)
    asked = asker.wait(lambda one: one.type == "input_request")
    assert (asked.channel, asked.parent_id) == ("stdin", msg_id)
    assert asked.content == {"prompt": "who? ", "password": False}
    asker.send("input_reply", {"value": "Ada", "status": "ok"}, "stdin", parent=asked.header)
    assert asker.collect(msg_id).stdout == "hello Ada\n"
    other.ask("comm_info_request")
    assert [one for one in other.messages if one.type == "input_request"] == []


def test_input_fails_where_nobody_can_answer(ws: KernelSocket) -> None:
    cell = ws.run("input()", allow_stdin=False)
    assert cell.reply.content["ename"] == "StdinNotImplementedError"


def test_the_model_tells_what_the_kernel_does(client: Client, kernel_id: str, ws: KernelSocket) -> None:
    wait_idle(client, kernel_id)
    before = model(client, kernel_id)
    assert before["connections"] == 1
    with KernelSocket(client, kernel_id):
        assert model(client, kernel_id)["connections"] == 2
    wait_for(lambda: model(client, kernel_id)["connections"] == 1)
    msg_id = ws.execute("import time; time.sleep(1)")
    ws.wait(lambda one: one.parent_id == msg_id and one.type == "execute_input")
    assert model(client, kernel_id)["execution_state"] == "busy"
    ws.collect(msg_id)
    wait_idle(client, kernel_id)
    assert model(client, kernel_id)["last_activity"] > before["last_activity"]


# ---- the queue


def test_a_failed_cell_aborts_those_behind_it(ws: KernelSocket) -> None:
    failing = ws.execute("import time\ntime.sleep(0.5)\n1 / 0")
    behind = [ws.execute("print('must not run')") for _ in range(2)]
    assert ws.collect(failing).reply.content["ename"] == "ZeroDivisionError"
    for msg_id in behind:
        cell = ws.collect(msg_id)
        assert cell.status == "aborted"
        assert cell.stdout == ""
    assert ws.run("print('runs again')").stdout == "runs again\n"


def test_a_failed_cell_that_stops_nothing_aborts_nothing(ws: KernelSocket) -> None:
    failing = ws.execute("import time\ntime.sleep(0.3)\n1 / 0", stop_on_error=False)
    behind = ws.execute("print('runs')")
    assert ws.collect(failing).status == "error"
    assert ws.collect(behind).stdout == "runs\n"


def test_queued_cells_run_in_order(connect: Callable[..., KernelSocket]) -> None:
    one, two = connect(), connect()
    one.run("order = []")
    for number in range(10):
        asker = one if number % 2 else two
        msg_id = asker.execute(f"order.append({number})")
        one.wait(lambda message, sent=msg_id: message.parent_id == sent)  # type: ignore[misc]
    assert result(one.run("order")) == str(list(range(10)))


def test_a_subshell_answers_while_the_main_shell_is_busy(ws: KernelSocket) -> None:
    assert "kernel subshells" in ws.ask("kernel_info_request").content["supported_features"]
    subshell = ws.ask("create_subshell_request", channel="control").content["subshell_id"]
    sleeping = ws.execute("import time; time.sleep(3)")
    ws.wait(lambda one: one.parent_id == sleeping and one.type == "execute_input")
    cell = ws.collect(ws.execute("6 * 7", subshell_id=subshell))
    assert (result(cell), cell.status) == ("42", "ok")
    assert not ws.seen(sleeping).complete
    assert subshell in ws.ask("list_subshell_request", channel="control").content["subshell_id"]
    assert ws.ask("delete_subshell_request", {"subshell_id": subshell}, "control").content["status"] == "ok"
    assert ws.collect(sleeping).status == "ok"


@pytest.mark.parametrize("way", ["rest", "message"])
def test_an_interrupt_ends_a_cell(client: Client, kernel_id: str, ws: KernelSocket, way: str) -> None:
    msg_id = ws.execute("import time; time.sleep(60)")
    ws.wait(lambda one: one.parent_id == msg_id and one.type == "execute_input")
    if way == "rest":
        assert client.request("POST", f"/api/kernels/{kernel_id}/interrupt").status_code == 204
    else:
        assert ws.ask("interrupt_request", channel="control").content["status"] == "ok"
    assert ws.collect(msg_id).reply.content["ename"] == "KeyboardInterrupt"
    assert ws.run("print('alive')").stdout == "alive\n"


@pytest.mark.parametrize("moment", ["busy", "execute_input"])
def test_an_interrupt_at_any_moment_leaves_a_session_that_goes_on(
    client: Client, own_kernel: str, moment: str
) -> None:
    """An interrupt that comes before the code begins may be missed, so there is another one second later."""
    with KernelSocket(client, own_kernel) as ws:
        for _ in range(20):
            msg_id = ws.execute("import time; time.sleep(60)")
            ws.wait(lambda one, sent=msg_id: one.parent_id == sent and one.label == moment)  # type: ignore[misc]
            ws.send("interrupt_request", channel="control")
            with contextlib.suppress(AssertionError):
                ws.collect(msg_id, 1.0)
                continue
            ws.send("interrupt_request", channel="control")
            assert ws.collect(msg_id, PROMPT).status == "error"
        assert ws.run("print('alive')").stdout == "alive\n"


# ---- connections that go and come


@pytest.mark.parametrize("who", ["the same session", "a new session", "no session"])
def test_a_client_that_was_cut_gets_what_it_missed(client: Client, kernel_id: str, who: str) -> None:
    first = KernelSocket(client, kernel_id)
    msg_id = first.execute(SLOW)
    first.wait(lambda one: one.parent_id == msg_id and one.type == "stream")
    first.wait_quiet()
    first.cut()
    wait_idle(client, kernel_id)
    named = {
        "the same session": first.session_id,
        "a new session": "session-of-a-reloaded-page",
        "no session": None,
    }
    with first.again(named[who]) as second:
        second.wait(lambda one: one.parent_id == msg_id and one.type == "execute_reply")
        second.wait(lambda one: one.parent_id == msg_id and one.state == "idle")
        both = Cell([*first.seen(msg_id).messages, *second.seen(msg_id).messages])
    assert both.duplicates == []
    assert iopub(both) == OUTPUTS
    assert both.stdout == "one\ntwo\n"
    assert both.status == "ok"


def test_a_page_that_is_reloaded_while_a_cell_runs_gets_all_of_it(client: Client, kernel_id: str) -> None:
    first = KernelSocket(client, kernel_id)
    msg_id = first.execute(SLOW)
    first.wait(lambda one: one.parent_id == msg_id and one.type == "stream")
    first.wait_quiet()
    first.close()
    with first.again("another-page") as second:
        second.wait(lambda one: one.parent_id == msg_id and one.type == "execute_reply")
        second.wait(lambda one: one.parent_id == msg_id and one.state == "idle")
        second.wait_quiet()
        both = Cell([*first.seen(msg_id).messages, *second.seen(msg_id).messages])
    assert both.duplicates == []
    assert iopub(both) == OUTPUTS
    assert both.stdout == "one\ntwo\n"
    assert both.status == "ok"


@pytest.mark.parametrize("named", ["the same", "another"])
def test_what_a_client_has_seen_does_not_come_again(client: Client, kernel_id: str, named: str) -> None:
    first = KernelSocket(client, kernel_id)
    msg_id = first.execute("print('once')")
    first.collect(msg_id)
    first.wait_quiet()
    first.close()
    with first.again(first.session_id if named == "the same" else "another-client") as second:
        second.ask("kernel_info_request")
        second.wait_quiet()
        assert second.seen(msg_id).messages == []


def test_two_sockets_of_one_session_take_nothing_from_each_other(client: Client, kernel_id: str) -> None:
    with KernelSocket(client, kernel_id) as first, first.again() as second:
        for ws in (first, second):
            assert ws.run("print('here')").stdout == "here\n"


# ---- the same session through REST


def test_rest_executions_appear_on_the_websocket(client: Client, kernel_id: str, ws: KernelSocket) -> None:
    reply = client.run("print('from rest')\n6 * 7", session_id=kernel_id)
    assert reply["status"] == "ok"
    stream = ws.wait(lambda one: one.type == "stream" and one.content["text"] == "from rest\n")
    ws.wait(lambda one: one.parent_id == stream.parent_id and one.state == "idle")
    assert iopub(ws.seen(stream.parent_id)) == ["busy", "execute_input", "stream", "execute_result", "idle"]


def test_the_first_client_to_come_while_code_runs_learns_that_the_kernel_is_busy(
    client: Client, session_id: str
) -> None:
    client.run("import time", session_id=session_id)
    running = in_background(client.run, "time.sleep(2)\nprint('late')", session_id=session_id)
    wait_for(lambda: model(client, session_id)["execution_state"] == "busy")
    time.sleep(0.3)  # it is the session that was said to be busy: now its kernel is as well
    with KernelSocket(client, session_id) as ws:
        info = ws.ask("kernel_info_request")
        busy = ws.wait(lambda one: one.state == "busy" and one.parent_id != info.parent_id)
        assert [one.state for one in ws.messages if one.type == "status"][-1] == "busy"
        ws.wait(lambda one: one.parent_id == busy.parent_id and one.state == "idle")
        assert ws.seen(busy.parent_id).stdout == "late\n"
    assert running.result(30)["stdout"] == "late\n"


def test_a_cell_that_ended_without_a_word_keeps_no_kernel_busy(client: Client, session_id: str) -> None:
    """Its idle status is swallowed, and so is the busy status of the next one, which runs as a client comes."""
    swallow = """
import time
kernel, swallowed = get_ipython().kernel, ["idle", "busy"]
publish = kernel._publish_status
def choosy(status, channel, parent=None):
    is_cell = (parent or kernel.get_parent(channel))["header"]["msg_type"] == "execute_request"
    if is_cell and swallowed and status == swallowed[0]:
        swallowed.pop(0)
    else:
        publish(status, channel, parent)
kernel._publish_status = choosy
"""
    assert client.run(swallow, session_id=session_id)["status"] == "ok"
    running = in_background(client.run, "time.sleep(2)", session_id=session_id)
    wait_for(lambda: model(client, session_id)["execution_state"] == "busy")
    time.sleep(0.3)
    with KernelSocket(client, session_id) as ws:
        info = ws.ask("kernel_info_request")
        ws.wait_quiet()
        assert {one.parent_id for one in ws.messages if one.state == "busy"} == {info.parent_id}
    assert running.result(30)["runtime_status"] == "reused"


def test_variables_are_the_same_through_both_doors(client: Client, kernel_id: str, ws: KernelSocket) -> None:
    assert ws.run("shared = {'ws': 1}").status == "ok"
    assert client.printed("shared['rest'] = 2; print(shared)", session_id=kernel_id) == "{'ws': 1, 'rest': 2}\n"
    assert ws.run("print(shared)").stdout == "{'ws': 1, 'rest': 2}\n"


def test_a_session_of_rest_is_reached_by_its_own_id(client: Client, session_id: str) -> None:
    client.run("made_by = 'exec'", session_id=session_id)
    with KernelSocket(client, session_id) as ws:
        assert ws.run("print(made_by)").stdout == "exec\n"


# ---- ends and beginnings


def test_a_restart_empties_the_namespace_and_keeps_files(client: Client, own_kernel: str) -> None:
    with KernelSocket(client, own_kernel) as ws, KernelSocket(client, own_kernel) as other:
        ws.run("x = 41\nopen('/mnt/data/kept.txt', 'w').write('kept')")
        answer = client.request("POST", f"/api/kernels/{own_kernel}/restart")
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == own_kernel
        for one in (ws, other):
            told = one.wait(lambda message: message.type == "shutdown_reply")
            assert (told.channel, told.content["restart"]) == ("iopub", True)
            at = one.messages.index(told)
            one.wait_state("idle", after=at)
            assert {message.state for message in one.messages} & {"restarting", "dead"} == set()
        assert ws.run("x").reply.content["ename"] == "NameError"
        assert ws.run("print(open('/mnt/data/kept.txt').read())").stdout == "kept\n"


def test_undo_goes_back_before_a_restart(client: Client, own_kernel: str) -> None:
    with KernelSocket(client, own_kernel) as ws:
        ws.run("x = 41")
        assert client.request("POST", f"/api/kernels/{own_kernel}/restart").status_code == 200
        answer = client.request("POST", f"/sessions/{own_kernel}/undo", json={"steps": 1})
        assert answer.status_code == 200, answer.text
        assert ws.run("print(x)").stdout == "41\n"


def test_a_deleted_kernel_is_dead_for_its_clients(client: Client, own_kernel: str) -> None:
    sockets = [KernelSocket(client, own_kernel) for _ in range(2)]
    sockets[0].run("x = 1")
    assert client.request("DELETE", f"/api/kernels/{own_kernel}").status_code == 204
    for ws in sockets:
        ws.wait_state("dead")
        assert ws.wait_closed() != 1006
        ws.close()
    assert client.request("GET", f"/api/kernels/{own_kernel}").status_code == 404
    assert client.request("GET", f"/sessions/{own_kernel}").status_code == 404


def test_a_cell_that_kills_its_kernel_is_told_and_the_next_one_has_the_state(
    client: Client, own_kernel: str
) -> None:
    with KernelSocket(client, own_kernel) as ws:
        assert ws.run("x = 41").status == "ok"
        cell = ws.run("import os\nprint('last words', flush=True)\nos._exit(3)")
        assert cell.stdout == "last words\n"
        assert [one.content["ename"] for one in cell.of("error")] == ["KernelDied"]
        assert (cell.status, cell.reply.content["ename"]) == ("error", "KernelDied")
        ws.wait_state("restarting")
        assert ws.run("print(x + 1)").stdout == "42\n"
        assert ws.closed is None


def test_a_kernel_that_was_evicted_comes_back_with_the_next_cell(start_server: Callable[..., Server]) -> None:
    server = start_server({"MAX_LIVE_KERNELS": "1", "CONTAINER_POOL_ENABLED": "false"}).wait_ready()
    client = server.client()
    sockets = [KernelSocket(client, start_kernel(client)) for _ in range(2)]
    for round_ in range(2):
        for number, ws in enumerate(sockets):
            code = f"x = {number}" if round_ == 0 else "pass"
            assert ws.run(f"{code}\nprint(x)").stdout == f"{number}\n"
            assert len(running(server)) == 1
    for ws in sockets:
        assert {one.state for one in ws.messages} & {"dead", "restarting"} == set()
        ws.close()


def test_what_a_cell_made_survives_server_and_container(start_server: Callable[..., Server]) -> None:
    server = start_server().wait_ready()
    kernel_id = start_kernel(server.client())
    ws = KernelSocket(server.client(), kernel_id)
    assert ws.run("x = 41").status == "ok"
    server.process.kill()
    server.wait()
    assert ws.wait_closed() == 1006
    ws.close()
    remove_containers(server)
    again = {"STATE_DIR": server.environment["STATE_DIR"]}
    client = start_server(again, runtime_dir=server.runtime_dir).wait_ready().client()
    assert model(client, kernel_id)["id"] == kernel_id
    with KernelSocket(client, kernel_id, session_id=ws.session_id) as successor:
        assert successor.run("print(x + 1)").stdout == "42\n"


def running(server: Server) -> list[str]:
    """Return the ids of the server's containers that run."""
    with contextlib.closing(docker.APIClient()) as engine:
        alive = {one["Id"] for one in engine.containers()}
    return [one for one in server.containers() if one in alive]


def remove_containers(server: Server) -> None:
    """Take all kernels away, as a machine does that goes down."""
    with contextlib.closing(docker.APIClient()) as engine:
        for container in server.containers():
            engine.remove_container(container, force=True)
