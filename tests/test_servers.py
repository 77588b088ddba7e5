"""Several servers on one Redis: a session goes on at whichever is asked, whatever befalls the others."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.server import Client, Json, Server, Servers, in_background, new_id, wait_for
from tests.services import RedisServer
from tests.test_outage import BOUND, DIE, acknowledged, in_session, redis_settings, refused, running

StartServer = Callable[..., Server]

TAKEOVER = 25.0
"""Seconds after which a session of a server that was killed or hangs goes on elsewhere: a lease lasts 15 s."""

AT_ONCE = 8.0
"""Seconds for a call that waits for no lease, but perhaps for a kernel."""


@dataclass(frozen=True)
class Pair:
    """Two servers on one Redis, with folders of their own."""

    a: Server
    b: Server

    @property
    def clients(self) -> tuple[Client, Client]:
        return self.a.client(), self.b.client()


@pytest.fixture(scope="module")
def pair(servers: Servers, redis_server: RedisServer) -> Iterator[Pair]:
    assert redis_server.ask("FLUSHALL") == "+OK"
    settings = redis_settings(redis_server, CONTAINER_POOL_PY_MIN="2")
    started = [servers.start(settings), servers.start(settings)]
    try:
        pair = Pair(*(server.wait_ready() for server in started))
        yield pair
        for server in started:
            assert "Traceback" not in server.stderr, server.stderr
    finally:
        for server in started:
            servers.stop(server)


@pytest.fixture
def session_id(pair: Pair) -> Iterator[str]:
    """The id of a session that only this test uses."""
    session_id = new_id()
    yield session_id
    pair.a.client().delete(session_id)


# --- both live


def test_a_session_goes_on_where_the_other_server_left_it(pair: Pair, session_id: str) -> None:
    """Six calls by turns: each sees variables, functions and files of the one before; both show the same."""
    acknowledged(pair.a.client(), "log = []\ndef add(n):\n    log.append(n)\n    return sum(log)", session_id)
    for number in range(1, 7):
        client = pair.clients[number % 2]
        code = f"print(add({number})); print({number}, file=open('/mnt/data/log.txt', 'a'))"
        assert acknowledged(client, code, session_id)["stdout"] == f"{sum(range(number + 1))}\n"
    code = "print(log, open('/mnt/data/log.txt').read().split())"
    for client in pair.clients:
        assert acknowledged(client, code, session_id)["stdout"] == f"{list(range(1, 7))} {[*'123456']}\n"
    shown, also = (history(client, session_id) for client in pair.clients)
    assert shown == also
    assert len(shown["history"]) == 9


def history(client: Client, session_id: str) -> Json:
    answer = client.request("GET", f"/sessions/{session_id}/history")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_kernel_is_kept_for_as_long_as_the_session_stays(pair: Pair, session_id: str) -> None:
    """A, A, B, B, A: a kernel is used again unless the session went on elsewhere."""
    a, b = pair.clients
    statuses = [acknowledged(each, "x = 1", session_id)["runtime_status"] for each in (a, a, b, b, a)]
    assert statuses == ["new", "reused", "restored", "reused", "restored"]


def test_undo_and_fork_on_one_server_are_seen_by_the_other(pair: Pair, session_id: str) -> None:
    """A runs, B undoes, A sees the older state in spite of its live kernel; a fork that B makes runs on A."""
    a, b = pair.clients
    acknowledged(a, "x = 1", session_id)
    acknowledged(a, "x = 2", session_id)
    assert b.request("POST", f"/sessions/{session_id}/undo", json={"steps": 1}).status_code == 200
    assert acknowledged(a, "print(x)", session_id)["stdout"] == "1\n"
    [fork] = b.request("POST", f"/sessions/{session_id}/fork", json={}).json()["sessions"]
    assert acknowledged(a, "x += 10; print(x)", fork["session_id"])["stdout"] == "11\n"
    assert acknowledged(b, "print(x)", session_id)["stdout"] == "1\n"
    assert b.delete(fork["session_id"]).status_code == 204


def test_calls_to_both_servers_run_one_after_the_other_and_each_once(pair: Pair, session_id: str) -> None:
    """20 calls at once, half to each: a counter takes every value once, and nobody's change is lost."""
    acknowledged(pair.a.client(), "n, seen = 0, []", session_id)
    code = "n += 1; seen.append({}); print(n)"
    sent = [
        in_background(pair.clients[number % 2].run, code.format(number), session_id=session_id)
        for number in range(20)
    ]
    replies = [each.result(120) for each in sent]
    assert {(reply["status"], reply["state"]["captured"]) for reply in replies} == {("ok", True)}
    assert sorted(int(reply["stdout"]) for reply in replies) == list(range(1, 21))
    assert sorted(reply["state"]["version"] for reply in replies) == list(range(2, 22))
    for client in pair.clients:
        assert acknowledged(client, "print(n, sorted(seen))", session_id)["stdout"] == f"20 {list(range(20))}\n"


def test_a_call_waits_for_the_other_servers_cell_and_sees_its_result(pair: Pair, session_id: str) -> None:
    """A runs for 3 s; B is asked meanwhile."""
    a, b = pair.clients
    acknowledged(a, "import time; x = 1", session_id)
    first = in_background(a.run, "time.sleep(3); x = 2", session_id=session_id)
    running(a)
    assert acknowledged(b, "print(x)", session_id)["stdout"] == "2\n"
    assert first.result(5)["state"]["captured"]


def test_a_session_deleted_on_one_server_does_not_come_back_on_the_other(pair: Pair, session_id: str) -> None:
    """A has an idle kernel with the variables when B deletes the session: A knows nothing of it any more."""
    a, b = pair.clients
    acknowledged(a, "x = 1; _ = open('/mnt/data/f', 'w').write('')", session_id)
    assert b.delete(session_id).status_code == 204
    for client in pair.clients:
        assert client.request("GET", f"/sessions/{session_id}").status_code == 404
        assert session_id not in listed(client)
    reply = acknowledged(a, "import os; print('x' in globals(), os.listdir('/mnt/data'))", session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("False []\n", "new")
    assert reply["state"]["version"] == 1
    assert acknowledged(b, "print('os' in globals())", session_id)["stdout"] == "True\n"


def test_a_session_that_runs_is_deleted_by_the_other_server_when_it_has_ended(pair: Pair, session_id: str) -> None:
    """B is told to delete while A runs for 2 s: A's call is answered, then the session is gone."""
    a, b = pair.clients
    acknowledged(a, "import time", session_id)
    first = in_background(a.run, "time.sleep(2); print('done')", session_id=session_id)
    running(a)
    assert b.delete(session_id).status_code == 204
    assert first.result(5)["stdout"] == "done\n"
    for client in pair.clients:
        assert client.request("GET", f"/sessions/{session_id}").status_code == 404
        assert session_id not in listed(client)


def test_the_list_tells_what_the_other_server_did(pair: Pair, session_id: str) -> None:
    """A session goes on on B: A, which has an idle kernel for it, lists it as B left it."""
    a, b = pair.clients
    acknowledged(a, "x = 1", session_id)
    acknowledged(b, "x = 2", session_id)
    for client in pair.clients:
        answer = client.request("GET", "/sessions").json()
        [shown] = [each for each in answer["sessions"] if each["session_id"] == session_id]
        assert (shown["executions"], shown["version"]) == (2, 2)


def listed(client: Client) -> list[str]:
    return [each["session_id"] for each in client.request("GET", "/sessions").json()["sessions"]]


def test_a_server_with_another_secret_refuses_the_state_and_says_so(
    pair: Pair, session_id: str, start_server: StartServer, redis_server: RedisServer
) -> None:
    """STATE_SECRET differs: nothing of the session is shown, loaded or overwritten, and the reply says why."""
    acknowledged(pair.a.client(), "x = 1", session_id)
    settings = redis_settings(redis_server, STATE_SECRET="of another site", CONTAINER_POOL_PY_MIN="0")
    client = start_server(settings).wait_ready().client()
    shown = client.request("GET", f"/sessions/{session_id}")
    assert (shown.status_code, shown.json()["error"]) == (500, "state_refused")
    assert session_id not in listed(client)
    reply = client.run("print('x' in globals())", session_id=session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("False\n", "new")
    assert "seal" in reply["state"]["restored"]["error"]
    assert reply["state"]["restored"]["error"] in reply["stderr"]
    assert (reply["state"]["captured"], "seal" in reply["state"]["error"]) == (False, True)
    assert acknowledged(pair.a.client(), "print(x)", session_id)["stdout"] == "1\n"
    assert client.delete(session_id).status_code == 204
    assert pair.a.client().request("GET", f"/sessions/{session_id}").status_code == 404


# --- one of them fails


@dataclass(frozen=True)
class Timed:
    """What came of a call, and after how many seconds."""

    answer: requests.Response
    seconds: float

    @property
    def reply(self) -> Json:
        assert self.answer.status_code == 200, self.answer.text
        return dict(self.answer.json())


def timed(client: Client, code: str, session_id: str) -> Future[Timed]:
    """Run code in the background."""

    def run() -> Timed:
        started = time.monotonic()
        answer = client.request(
            "POST", "/exec", json=client.body(code, session_id=session_id), params={}, timeout=120
        )
        return Timed(answer, time.monotonic() - started)

    return in_background(run)


@dataclass(frozen=True)
class Aftermath:
    """A server is killed and one hangs, both while they run code in a session each; a third is asked for these."""

    of_killed: Timed
    of_hanging: Timed
    """What the third server answered at once."""
    late: Timed
    """What the server that hung answered when it went on."""
    on_third: Json
    on_late: Json
    on_heir: Json
    """What the sessions were in the end, on the servers."""


@pytest.fixture(scope="module")
def aftermath(servers: Servers, redis_server: RedisServer) -> Iterator[Aftermath]:
    """Made once: most of the time is that of the leases."""
    settings = redis_settings(redis_server, CONTAINER_POOL_PY_MIN="1")
    killed, hanging, third = started = [servers.start(settings) for _ in range(3)]
    try:
        for server in started:
            server.wait_ready()
        one, two = new_id(), new_id()
        acknowledged(killed.client(), "import time; x = 1", one)
        acknowledged(hanging.client(), "import time; x = 1", two)
        in_background(killed.client().post, killed.client().body("time.sleep(100); x = 'never'", session_id=one))
        late = timed(hanging.client(), "x = 'too late'; time.sleep(2)", two)
        running(killed.client())
        running(hanging.client())
        killed.process.kill()
        hanging.signal(signal.SIGSTOP)
        asked = [timed(third.client(), "x += 1; print(x)", each) for each in (one, two)]
        of_killed, of_hanging = (each.result(100) for each in asked)
        hanging.signal(signal.SIGCONT)
        heir = servers.start(settings, runtime_dir=killed.runtime_dir)
        started.append(heir)
        answered = late.result(60)
        yield Aftermath(
            of_killed,
            of_hanging,
            answered,
            third.client().run("print(x)", session_id=two),
            hanging.client().run("print(x)", session_id=two),
            heir.wait_ready().client().run("print(x)", session_id=one),
        )
        for server in started:
            assert "Traceback" not in server.stderr, server.stderr
    finally:
        hanging.signal(signal.SIGCONT)
        for server in started:
            servers.stop(server)


def test_a_session_of_a_server_that_was_killed_goes_on_elsewhere_in_time(aftermath: Aftermath) -> None:
    """SIGKILL while it runs code: another server waits for the lease, and has the last acknowledged state."""
    reply = aftermath.of_killed.reply
    assert (reply["stdout"], reply["runtime_status"], reply["state"]["captured"]) == ("2\n", "restored", True)
    assert aftermath.of_killed.seconds < TAKEOVER


def test_a_session_of_a_server_that_hangs_goes_on_elsewhere_in_time(aftermath: Aftermath) -> None:
    """SIGSTOP while it runs code."""
    reply = aftermath.of_hanging.reply
    assert (reply["stdout"], reply["runtime_status"], reply["state"]["captured"]) == ("2\n", "restored", True)
    assert aftermath.of_hanging.seconds < TAKEOVER


def test_a_server_that_hung_cannot_overwrite_what_others_did(aftermath: Aftermath) -> None:
    """SIGCONT after its lease: its answer is 503 state_not_saved, and both servers have the other's state."""
    answer = aftermath.late.answer
    text = answer.text.strip()
    assert (answer.status_code, answer.json()["error"]) in ((503, "state_not_saved"), (200, "state_not_saved")), (
        text
    )
    assert answer.json()["executed"] is True
    assert aftermath.on_third["stdout"] == "2\n"
    assert (aftermath.on_late["stdout"], aftermath.on_late["runtime_status"]) == ("2\n", "restored")


def test_the_successor_of_a_killed_server_has_what_others_did_with_its_session(aftermath: Aftermath) -> None:
    """It does not go on with the kernel that ran when its predecessor died."""
    assert (aftermath.on_heir["stdout"], aftermath.on_heir["runtime_status"]) == ("2\n", "restored")


@pytest.fixture(params=["embedded", "redis"])
def lasting(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer) -> Mapping[str, str]:
    """Settings of a server and its successor."""
    store = redis_settings(redis_server) if request.param == "redis" else {}
    return {**store, "STATE_DIR": str(tmp_path / "state"), "CONTAINER_POOL_PY_MIN": "2"}


def test_a_successor_takes_over_kernels_and_leases_at_once(
    start_server: StartServer, lasting: Mapping[str, str]
) -> None:
    """SIGKILL and a new start: an idle session keeps its kernel, a busy one does not wait for its lease."""
    first = start_server(lasting).wait_ready()
    client, idle, busy = first.client(), new_id(), new_id()
    acknowledged(client, "import time; x = 1; live = (each for each in 'abc'); print(next(live))", idle)
    acknowledged(client, "import time; x = 1", busy)
    in_background(client.post, client.body("x = 'never'; time.sleep(100)", session_id=busy))
    running(client)
    first.process.kill()
    first.wait()
    successor = start_server(lasting, runtime_dir=first.runtime_dir).wait_ready()
    client = successor.client()
    of_busy, of_idle = (
        timed(client, code, each).result(60) for code, each in (("print(x)", busy), ("print(x, next(live))", idle))
    )
    assert (of_busy.reply["stdout"], of_busy.reply["runtime_status"]) == ("1\n", "restored")
    assert (of_idle.reply["stdout"], of_idle.reply["runtime_status"]) == ("1 b\n", "reused")
    assert max(of_busy.seconds, of_idle.seconds) < AT_ONCE
    assert acknowledged(client, "x = 2", idle)["state"]["version"] == 3
    assert client.delete(idle).status_code == client.delete(busy).status_code == 204
    successor.stop()
    assert (successor.containers(), successor.folders()) == ([], [])


def test_a_kernel_that_fell_behind_is_not_taken_over(
    pair: Pair, session_id: str, start_server: StartServer, redis_server: RedisServer
) -> None:
    """A server is killed, its session goes on elsewhere, it starts again: it has the newer state."""
    settings = redis_settings(redis_server, CONTAINER_POOL_PY_MIN="1")
    first = start_server(settings).wait_ready()
    acknowledged(first.client(), "x = 1", session_id)
    wait_for(lambda: free(redis_server))
    first.process.kill()
    first.wait()
    reply = timed(pair.b.client(), "x += 1; print(x)", session_id).result(60)
    assert (reply.reply["stdout"], reply.seconds < AT_ONCE) == ("2\n", True)
    client = start_server(settings, runtime_dir=first.runtime_dir).wait_ready().client()
    again = acknowledged(client, "x += 1; print(x)", session_id)
    assert (again["stdout"], again["runtime_status"]) == ("3\n", "restored")


def free(redis: RedisServer) -> bool:
    """Tell whether nobody holds a session."""
    count = (
        "local held = 0 "
        "for _, key in ipairs(redis.call('KEYS', 'kernelgate:lease:*')) do "
        "held = held + redis.call('HEXISTS', key, 'until') end return held"
    )
    return redis.ask("EVAL", count, "0") == ":0"


def test_after_an_outage_a_session_goes_on_at_either_server(
    pair: Pair, session_id: str, redis_server: RedisServer
) -> None:
    """Redis is killed while A has a live kernel: both refuse, then B goes on, and A with what B did."""
    acknowledged(pair.a.client(), "x = 1", session_id)
    wait_for(lambda: free(redis_server))
    with redis_server.killed():
        for client in pair.clients:
            refused(in_session(client, "x = 'never'", session_id), bound=BOUND)
    assert acknowledged(pair.b.client(), "x += 1; print(x)", session_id)["stdout"] == "2\n"
    pair.a.client().run(DIE, session_id=session_id)
    assert acknowledged(pair.a.client(), "print(x)", session_id)["stdout"] == "2\n"
