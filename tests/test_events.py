"""Events of ``/exec`` as they happen, interrupts, and answers to what code asks."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application

from kernelgate.api import events as events_module
from kernelgate.api.running import RunHandler
from kernelgate.auth import Authenticator
from kernelgate.cors import Cors
from tests.schemas import check
from tests.server import OTHER_KEY, PROMPT, Client, Json, Server, in_background, new_id, wait_for

ACCEPT = {"Accept": "text/event-stream"}


@dataclass(frozen=True)
class Event:
    """One event, with when it came, as `time.monotonic` has it."""

    name: str
    data: Json
    at: float


class Stream:
    """The answer of a server as events. ``comments``: how many lines there were to keep the connection alive."""

    def __init__(self, answer: http.client.HTTPResponse, schema: str) -> None:
        assert answer.status == 200, answer.read()
        assert answer.getheader("Content-Type") == "text/event-stream"
        assert answer.getheader("Cache-Control") == "no-store"
        self.comments = 0
        self._answer = answer
        self._schema = schema

    def __iter__(self) -> Iterator[Event]:
        """Yield each event when it comes; each must be as the document says."""
        name, data = "", ""
        while raw := self._answer.readline():
            line = raw.decode().removesuffix("\n")
            if line.startswith(":"):
                self.comments += 1
            elif line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                assert not data
                data = line.removeprefix("data: ")
            elif name:
                event = Event(name, json.loads(data), time.monotonic())
                check({"event": event.name, "data": event.data}, self._schema)
                yield event
                name, data = "", ""

    def until(self, name: str) -> list[Event]:
        """Return the events up to the next one called ``name``."""
        events = []
        for event in self:
            events.append(event)
            if event.name == name:
                return events
        raise AssertionError(f"no {name} after {[event.name for event in events]}")


@contextmanager
def post(client: Client, path: str, body: Json, schema: str) -> Iterator[Stream]:
    """Have something run and read what comes of it as it comes: events as the document describes ``schema``."""
    connection = http.client.HTTPConnection(client.url.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(body), {"x-api-key": client.key, **ACCEPT})
        with contextlib.closing(connection.getresponse()) as answer:
            yield Stream(answer, schema)


def stream(client: Client, code: str, **fields: Any) -> AbstractContextManager[Stream]:
    """Run code and read what comes of it as it comes."""
    return post(client, "/exec", client.body(code, **fields), "ExecEvent")


def events(client: Client, code: str, **fields: Any) -> list[Event]:
    with stream(client, code, **fields) as each:
        return list(each)


def answer_input(client: Client, session_id: str, value: object, **fields: Any) -> requests.Response:
    return client.request("POST", f"/sessions/{session_id}/input", json={"value": value, **fields})


def interrupt(client: Client, session_id: str) -> requests.Response:
    return client.request("POST", f"/sessions/{session_id}/interrupt")


def check_error(answer: requests.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
    check(answer.json(), "Error")


def without(reply: Json, *names: str) -> Json:
    return {name: value for name, value in reply.items() if name not in names}


def question(client: Client, session_id: str) -> Json:
    """Wait until the code of a session asks something."""
    return dict(wait_for(lambda: client.session(session_id)["input_request"]))


@pytest.fixture(scope="module")
def warm(server: Server) -> Iterator[str]:
    """The id of a session that has its kernel, shared by tests that leave nothing in it."""
    client, session_id = server.client(), new_id()
    client.run("import time, sys, getpass", session_id=session_id)
    yield session_id
    client.delete(session_id)


# --- order and content

EVERYTHING = """
from IPython.display import Markdown, clear_output, display
print("out"); print("err", file=sys.stderr)
handle = display(Markdown("one"), display_id="a")
handle.update(Markdown("two"))
clear_output(wait=True)
display("last", metadata={"k": "v"})
1 / 0
"""


OUTPUTS = [
    "stream",
    "stream",
    "display_data",
    "update_display_data",
    "clear_output",
    "display_data",
    "error",
]
"""The events of that."""


def test_events_have_jupyters_names_and_come_in_order(client: Client, warm: str) -> None:
    came = events(client, EVERYTHING, session_id=warm)
    assert [event.name for event in came] == ["start", *OUTPUTS, "reply"]
    start, out, err, first, update, clear, last, error, reply = (event.data for event in came)
    assert start == {"session_id": warm, "status": "reused"}
    assert (out, err) == ({"name": "stdout", "text": "out\n"}, {"name": "stderr", "text": "err\n"})
    assert (first["data"]["text/markdown"], first["display_id"]) == ("one", "a")
    assert (update["data"]["text/markdown"], update["display_id"]) == ("two", "a")
    assert clear == {"wait": True}
    assert (last["data"]["text/plain"], last["metadata"], "display_id" in last) == ("'last'", {"k": "v"}, False)
    assert error["ename"] == "ZeroDivisionError"
    assert (reply["status"], reply["stdout"]) == ("error", "out\n")


def test_a_result_is_an_event(client: Client, warm: str) -> None:
    _, result, reply = (event.data for event in events(client, "6 * 7", session_id=warm))
    assert result["data"] == {"text/plain": "42"}
    assert result["execution_count"] == reply["execution_count"]
    assert reply["stdout"] == "42\n"


def test_outputs_come_while_the_code_still_runs(client: Client, session_id: str) -> None:
    """The code goes on only when it is answered, which happens when its output has been seen."""
    code = "for n in range(3):\n    print(n, flush=True)\n    input()"
    seen: list[str] = []
    with stream(client, code, session_id=session_id, allow_stdin=True) as each:
        for event in each:
            seen.append(event.data["text"].strip() if event.name == "stream" else event.name)
            if event.name == "input_request":
                assert answer_input(client, session_id, "").status_code == 204
    assert seen == [
        "start", "0", "input_request", "1", "input_request", "2", "input_request", "reply",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "code",
    ["print('a')\n1 + 1", "1 / 0", "raise SystemExit(3)", "time.sleep(9)"],
    ids=["ok", "error", "exit", "timeout"],
)
def test_the_last_event_is_what_a_call_without_events_answers(client: Client, warm: str, code: str) -> None:
    fields = {"session_id": warm, "timeout": 1000 if "sleep" in code else 5000}
    plain = client.run(code, **fields)
    reply = events(client, code, **fields)[-1]
    assert reply.name == "reply"
    check(plain, "ExecReply")
    changing = ("duration_ms", "execution_count", "state", "outputs", "stderr")
    assert without(reply.data, *changing) == without(plain, *changing)
    assert [each["output_type"] for each in reply.data["outputs"]] == [
        each["output_type"] for each in plain["outputs"]
    ]
    assert set(reply.data["state"]) == set(plain["state"])
    assert reply.data["execution_count"] == (plain["execution_count"] or 0) + 1


def test_the_outputs_of_the_events_make_those_of_the_reply(client: Client, warm: str) -> None:
    """Text in pieces, then a table, then text."""
    code = (
        "for n in range(50):\n    print(n, flush=True)\n"
        "from IPython.display import display\ndisplay({'a': 1})\nprint('end')"
    )
    *came, reply = events(client, code, session_id=warm)
    assert "".join(event.data["text"] for event in came if event.name == "stream") == reply.data["stdout"]
    shown = [event.data for event in came if event.name == "display_data"]
    assert [{"output_type": "display_data", **data} for data in shown] == [
        output for output in reply.data["outputs"] if output["output_type"] == "display_data"
    ]


def test_a_new_session_is_named_before_its_code_runs(client: Client) -> None:
    with stream(client, "input()", allow_stdin=True) as each:
        start = each.until("start")[-1].data
        assert start["status"] == "new"
        each.until("input_request")
        assert answer_input(client, start["session_id"], "").status_code == 204
        assert each.until("reply")[-1].data["session_id"] == start["session_id"]
    assert client.delete(start["session_id"]).status_code == 204


def test_a_limit_cuts_events_as_it_cuts_the_reply(client: Client, warm: str) -> None:
    """1.2 million characters of which a reply carries 1 million; 1001 displays, of which it carries 1000."""
    *came, reply = events(client, "for _ in range(12): print('x' * 99_999)", session_id=warm)
    text = "".join(event.data["text"] for event in came if event.name == "stream")
    assert (len(text), text == reply.data["stdout"]) == (1_000_000, True)
    assert reply.data["truncated"] == ["stdout"]
    code = "from IPython.display import display\nfor n in range(1001): display(n)"
    *came, reply = events(client, code, session_id=warm)
    assert sum(event.name == "display_data" for event in came) == len(reply.data["outputs"]) == 1000
    assert reply.data["truncated"] == ["outputs"]


def test_text_with_line_feeds_and_any_script_is_one_line_of_data(client: Client, warm: str) -> None:
    text = "a\n\nb\r\nevent: reply\ndata: {}\n\u2028é\U0001f600\0"
    *came, reply = events(client, f"sys.stdout.write({text!r}); None", session_id=warm)
    assert "".join(event.data["text"] for event in came if event.name == "stream") == text
    assert reply.data["stdout"] == text


def test_the_events_of_a_notebook_are_as_described(client: Client, session_id: str) -> None:
    cells = [{"cell_type": "code", "source": source} for source in ("import sys", EVERYTHING)]
    body = {"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}
    check(body, "NotebookRequest")
    with post(client, f"/sessions/{session_id}/notebook", body, "NotebookEvent") as each:
        came = list(each)
    names = [event.name for event in came]
    assert names[:3] == ["start", "cell_start", "cell_end"]
    assert names[3:] == ["cell_start", *OUTPUTS, "cell_end", "notebook"]
    assert {event.data["index"] for event in came[3:-1]} == {1}
    check(client.request("GET", f"/sessions/{session_id}/notebook").json(), "Notebook")


# --- errors


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"lang": "cobol"}, 400, "unsupported_language"),
        ({"code": 5}, 400, "invalid_request"),
        ({"session_id": "../x"}, 400, "invalid_request"),
        ({"allow_stdin": "yes"}, 400, "invalid_request"),
    ],
)
def test_an_error_before_the_start_is_a_plain_one(client: Client, fields: Json, status: int, code: str) -> None:
    answer = client.request("POST", "/exec", json={"lang": "py", "code": "1", **fields}, headers=ACCEPT)
    check_error(answer, status, code)
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"


def test_a_call_without_a_key_gets_no_stream(server: Server) -> None:
    answer = requests.post(f"{server.url}/exec", json={"lang": "py", "code": "1"}, headers=ACCEPT, timeout=30)
    check_error(answer, 401, "unauthorized")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep everybody else from writing to a database."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def test_a_state_that_cannot_be_stored_is_a_failure(server: Server, client: Client, session_id: str) -> None:
    """The store takes nothing when the code ends: in place of the reply comes what went wrong."""
    client.run("x = 1", session_id=session_id)
    with stream(client, "print('ran')\nx = input()", session_id=session_id, allow_stdin=True) as each:
        each.until("input_request")
        with locked(Path(server.environment["STATE_DIR"]) / "state.db"):
            assert answer_input(client, session_id, "").status_code == 204
            came = list(each)
    assert [event.name for event in came] == ["failure"]
    assert (came[0].data["error"], came[0].data["executed"]) == ("state_not_saved", True)
    assert client.printed("print('on')", session_id=session_id) == "on\n"


# --- the connection


def test_comments_keep_a_silent_stream_alive(client: Client, warm: str) -> None:
    """A second between two comments on this server, and 2.5 s of silence."""
    with stream(client, "time.sleep(2.5)", session_id=warm) as each:
        assert [event.name for event in each] == ["start", "reply"]
        assert 3 <= each.comments <= 6


def test_a_client_that_goes_away_interrupts_the_code(client: Client, session_id: str) -> None:
    client.run("import time, pathlib\nended = ''", session_id=session_id)
    code = "print('on', flush=True)\ntry: time.sleep(8)\nexcept KeyboardInterrupt: ended = 'interrupted'"
    with stream(client, code, session_id=session_id) as each:
        each.until("stream")
    wait_for(lambda: client.session(session_id)["state"] == "idle", PROMPT)
    assert client.printed("print(ended)", session_id=session_id) == "interrupted\n"


# --- a client that does not read what it is sent

KB = 1 << 10
MB = 1 << 20
Ends = asyncio.Queue[str]
"""Takes how each run ended."""


class Flood(RunHandler[Json]):
    """A handler that sends ``count`` events of 100 kB, as fast as ``until`` lets it, and then the answer."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        self._count: int = kwargs.pop("count")
        self._until: asyncio.Event = kwargs.pop("until")
        self._ends: Ends = kwargs.pop("ends")
        super().initialize(*args, **kwargs)

    async def post(self) -> None:
        await self.see_through(self._flood(), self._until)

    def as_event(self, result: Json) -> Json:
        return result

    async def _flood(self) -> Json:
        try:
            for number in range(self._count):
                self.send("stream", {"number": number, "text": "x" * 100_000})
                await asyncio.sleep(0)
            await asyncio.wait_for(self._until.wait(), 30)
        except asyncio.CancelledError:
            self._ends.put_nowait("cancelled")
            raise
        self._ends.put_nowait("done")
        return {"count": self._count}


@asynccontextmanager
async def flood(count: int, until: asyncio.Event, ends: Ends) -> AsyncIterator[asyncio.StreamReader]:
    """Ask such a handler, in this process. The client reads nothing by itself beyond what a small buffer takes."""
    services = SimpleNamespace(
        authenticator=Authenticator(), cors=Cors(), keepalive_seconds=0.01, log=logging.getLogger("flood")
    )
    application = Application([("/", Flood, {"services": services, "count": count, "until": until, "ends": ends})])
    listener, port = bind_unused_port()
    server = HTTPServer(application)
    server.add_sockets([listener])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=64 * KB)
    try:
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nContent-Length: 0\r\n\r\n")
        yield reader
    finally:
        writer.close()
        server.stop()
        await server.close_all_connections()


def texts(body: bytes) -> list[Json]:
    """Return the data of the events in an answer in chunks."""
    return [json.loads(line) for line in re.findall(rb"^data: (.*)$", body, re.MULTILINE)]


def test_a_client_that_lets_too_much_wait_loses_its_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 100 MB it reads nothing: at 1 MB beyond what sockets take the run is cancelled, which never ends else."""
    monkeypatch.setattr(events_module, "UNREAD_BYTES", MB)

    async def run() -> None:
        ends = Ends()
        async with flood(1_000, asyncio.Event(), ends) as reader:
            assert await asyncio.wait_for(ends.get(), 20) == "cancelled"
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(100 * MB)

    asyncio.run(run())
    assert "wait unread" in caplog.text


def test_a_client_that_reads_late_gets_everything_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 MB it reads nothing until all was sent; a single event larger than the bound is no reason to end."""

    async def run(count: int) -> None:
        ends = Ends()
        until = asyncio.Event()
        async with flood(count, until, ends) as reader:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.2)
            until.set()
            body = b""
            while not body.endswith(b"\r\n0\r\n\r\n"):
                body += await asyncio.wait_for(reader.read(MB), 20)
        numbers = [data.get("number") for data in texts(body)[:-1]]
        assert (numbers, texts(body)[-1]) == (list(range(count)), {"count": count})
        assert ends.get_nowait() == "done"

    asyncio.run(run(200))
    monkeypatch.setattr(events_module, "UNREAD_BYTES", 10 * KB)
    asyncio.run(run(1))


# --- input


def test_questions_are_events_and_their_answers_go_in(client: Client, session_id: str) -> None:
    """Two names by input() and a secret by getpass in one cell."""
    code = (
        "import getpass\nfirst = input('first? ')\nsecond = input('second? ')\n"
        "secret = getpass.getpass('secret? ')\nprint([first, second, secret])"
    )
    answers = iter(("Ann", "é\nb", "s3cret"))
    asked = []
    with stream(client, code, session_id=session_id, allow_stdin=True) as each:
        for event in each:
            if event.name == "input_request":
                asked.append((event.data["prompt"], event.data["password"]))
                assert answer_input(client, session_id, next(answers)).status_code == 204
    assert asked == [("first? ", False), ("second? ", False), ("secret? ", True)]
    assert (event.name, event.data["stdout"]) == ("reply", "['Ann', 'é\\nb', 's3cret']\n")


def test_a_session_shows_what_its_code_asks_and_is_answered(client: Client, session_id: str) -> None:
    """Without events: the question is in GET /sessions/{id} until it is answered."""
    body = client.body("print(input('name? ') * 2)", session_id=session_id, allow_stdin=True)
    running = in_background(client.post, body)
    wait_for(lambda: client.request("GET", f"/sessions/{session_id}").status_code == 200)
    assert question(client, session_id) == {"prompt": "name? ", "password": False}
    check(client.session(session_id), "Session")
    assert answer_input(client, session_id, "ab").status_code == 204
    assert running.result(20).json()["stdout"] == "abab\n"
    assert client.session(session_id)["input_request"] is None


def test_an_answer_that_nobody_asked_for_is_refused(client: Client, warm: str) -> None:
    """Idle, and busy with other things."""
    check_error(answer_input(client, warm, "a"), 409, "conflict")
    with stream(client, "print('on', flush=True)\ntime.sleep(8)", session_id=warm, allow_stdin=True) as each:
        each.until("stream")
        check_error(answer_input(client, warm, "a"), 409, "conflict")
        assert interrupt(client, warm).json() == {"session_id": warm, "interrupted": True}
        assert list(each)[-1].data["status"] == "error"


def test_a_question_is_answered_once(client: Client, warm: str) -> None:
    code = "print(input())\nprint('on', flush=True)\ntime.sleep(1)"
    with stream(client, code, session_id=warm, allow_stdin=True) as each:
        each.until("input_request")
        assert answer_input(client, warm, "a").status_code == 204
        check_error(answer_input(client, warm, "b"), 409, "conflict")
        assert list(each)[-1].data["stdout"] == "a\non\n"


@pytest.mark.parametrize("value", [None, 5, ["a"], {}, True, "\ud800"], ids=ascii)
def test_an_answer_that_is_no_text_is_refused(client: Client, warm: str, value: object) -> None:
    body = json.dumps({"value": value})
    check_error(client.request("POST", f"/sessions/{warm}/input", data=body), 400, "invalid_request")


def test_nobody_else_can_answer_or_interrupt(server: Server, client: Client, warm: str) -> None:
    """Another key, another user, while the code asks; and the id of no session."""
    strangers = (server.client(OTHER_KEY), client.as_user("eve"))
    with stream(client, "print(input())", session_id=warm, allow_stdin=True) as each:
        each.until("input_request")
        for stranger in strangers:
            check_error(answer_input(stranger, warm, "stolen"), 404, "session_not_found")
            check_error(interrupt(stranger, warm), 404, "session_not_found")
            body = {"value": "a", "user_id": "eve"}
            check_error(client.request("POST", f"/sessions/{warm}/input", json=body), 404, "session_not_found")
        assert answer_input(client, warm, "mine").status_code == 204
        assert list(each)[-1].data["stdout"] == "mine\n"
    for unknown in (new_id(), "a b", "x" * 200):
        check_error(answer_input(client, unknown, "a"), 404, "session_not_found")
        check_error(interrupt(client, unknown), 404, "session_not_found")


def test_a_user_answers_his_own_session(server: Server) -> None:
    """The user in the body, as for /exec, or in the query."""
    ann, session_id = server.client().as_user("ann"), new_id()
    nobody = server.client()
    with stream(ann, "print(input(), input())", session_id=session_id, allow_stdin=True) as each:
        each.until("input_request")
        assert answer_input(nobody, session_id, "a", user_id="ann").status_code == 204
        each.until("input_request")
        assert answer_input(ann, session_id, "b").status_code == 204
        assert list(each)[-1].data["stdout"] == "a b\n"
    assert ann.delete(session_id).status_code == 204


@pytest.mark.parametrize("fields", [{}, {"allow_stdin": False}, {"allow_stdin": None}], ids=str)
def test_without_allow_stdin_a_question_fails_at_once(client: Client, warm: str, fields: Json) -> None:
    """After cells that allowed it, too; and nothing waits for an answer."""
    came = events(client, "input('name? ')", session_id=warm, **fields)
    assert [event.name for event in came] == ["start", "error", "reply"]
    assert "nobody to ask" in came[-1].data["stderr"]
    assert client.session(warm)["input_request"] is None


def test_a_question_that_nobody_answers_ends_with_the_time_limit(client: Client, warm: str) -> None:
    *_, asked, reply = events(client, "input('?')", session_id=warm, allow_stdin=True, timeout=1000)
    assert (asked.name, reply.data["status"]) in {("input_request", "timeout"), ("error", "timeout")}
    assert client.session(warm)["input_request"] is None
    assert client.printed("print('alive')", session_id=warm) == "alive\n"


# --- interrupts


@pytest.mark.parametrize(
    ("code", "allow_stdin"),
    [("time.sleep(8)", False), ("while True: pass", False), ("input()", True)],
    ids=["asleep", "busy", "asking"],
)
def test_an_interrupt_ends_what_runs_and_keeps_the_variables(
    client: Client, warm: str, code: str, allow_stdin: bool
) -> None:
    whole = f"kept = {code!r}\nprint('on', flush=True)\n{code}"
    with stream(client, whole, session_id=warm, allow_stdin=allow_stdin) as each:
        each.until("input_request" if allow_stdin else "stream")
        sent = time.monotonic()
        assert interrupt(client, warm).json() == {"session_id": warm, "interrupted": True}
        reply = list(each)[-1]
    assert reply.at - sent < PROMPT
    assert (reply.data["status"], reply.data["exit_code"]) == ("error", 1)
    assert reply.data["outputs"][-1]["ename"] == "KeyboardInterrupt"
    answer = client.run("print(kept)", session_id=warm)
    assert (answer["stdout"], answer["runtime_status"]) == (f"{code}\n", "reused")
    assert client.session(warm)["input_request"] is None


def test_an_interrupt_of_a_session_that_runs_nothing_changes_nothing(client: Client, warm: str) -> None:
    for body in (None, {}, {"user_id": None}):
        answer = client.request("POST", f"/sessions/{warm}/interrupt", json=body)
        assert (answer.status_code, answer.json()) == (200, {"session_id": warm, "interrupted": False})
    assert client.run("print(1)", session_id=warm)["stdout"] == "1\n"


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"user_id": 5}'])
def test_an_interrupt_with_a_malformed_body_is_refused(client: Client, warm: str, body: bytes) -> None:
    check_error(client.request("POST", f"/sessions/{warm}/interrupt", data=body), 400, "invalid_request")


def test_an_interrupt_does_not_reach_the_call_that_waits_behind(client: Client, warm: str) -> None:
    with stream(client, "print('on', flush=True)\ntime.sleep(8)", session_id=warm) as each:
        each.until("stream")
        waiting = in_background(client.run, "print('next')", session_id=warm)
        time.sleep(0.2)
        assert interrupt(client, warm).json()["interrupted"] is True
        assert list(each)[-1].data["status"] == "error"
    assert waiting.result(20)["stdout"] == "next\n"
