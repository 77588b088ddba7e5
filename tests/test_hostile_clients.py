"""Clients that send what they should not: the answer is readable, and others are served meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.server import KEY, PROMPT, Client, Json, Server, in_background, new_id, wait_for

CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "invalid_request"),
    "no JSON": (b"not json", "invalid_request"),
    "cut JSON": (b'{"lang": "py", "code": "1"', "invalid_request"),
    "two values": (b"{}{}", "invalid_request"),
    "a list": (b"[]", "invalid_request"),
    "a text": (b'"text"', "invalid_request"),
    "null": (b"null", "invalid_request"),
    "a number": (b"1", "invalid_request"),
    "a number of 10,000 digits": (b"1" * 10_000, "invalid_request"),
    "an object of nothing": (b"{}", "invalid_request"),
    "no language": (b'{"code": "1"}', "invalid_request"),
    "no code": (b'{"lang": "py"}', "invalid_request"),
    "code null": (b'{"lang": "py", "code": null}', "invalid_request"),
    "code a number": (b'{"lang": "py", "code": 1}', "invalid_request"),
    "code a list": (b'{"lang": "py", "code": ["1"]}', "invalid_request"),
    "unknown language": (b'{"lang": "cobol", "code": "1"}', "unsupported_language"),
    "empty language": (b'{"lang": "", "code": "1"}', "unsupported_language"),
    "language a list": (b'{"lang": ["py"], "code": "1"}', "invalid_request"),
    "language of surrogates": (b'{"lang": "\\ud800", "code": "1"}', "unsupported_language"),
    "session_id a number": (b'{"lang": "py", "code": "1", "session_id": 1}', "invalid_request"),
    "session_id with a slash": (b'{"lang": "py", "code": "1", "session_id": "../x"}', "invalid_request"),
    "session_id with a newline": (b'{"lang": "py", "code": "1", "session_id": "x\\n"}', "invalid_request"),
    "session_id with other digits": (
        '{"lang": "py", "code": "1", "session_id": "٣"}'.encode(),
        "invalid_request",
    ),
    "session_id too long": (
        b'{"lang": "py", "code": "1", "session_id": "' + b"x" * 129 + b'"}',
        "invalid_request",
    ),
    "user_id a number": (b'{"lang": "py", "code": "1", "user_id": 1}', "invalid_request"),
    "user_id an object": (b'{"lang": "py", "code": "1", "user_id": {}}', "invalid_request"),
    "user_id too long": (b'{"lang": "py", "code": "1", "user_id": "' + b"x" * 257 + b'"}', "invalid_request"),
    "user_id a surrogate": (b'{"lang": "py", "code": "1", "user_id": "\\ud800"}', "invalid_request"),
    "entity_id a list": (b'{"lang": "py", "code": "1", "entity_id": []}', "invalid_request"),
    "timeout a text": (b'{"lang": "py", "code": "1", "timeout": "1000"}', "invalid_request"),
    "timeout true": (b'{"lang": "py", "code": "1", "timeout": true}', "invalid_request"),
    "timeout negative": (b'{"lang": "py", "code": "1", "timeout": -1}', "invalid_request"),
    "timeout zero": (b'{"lang": "py", "code": "1", "timeout": 0}', "invalid_request"),
    "timeout NaN": (b'{"lang": "py", "code": "1", "timeout": NaN}', "invalid_request"),
    "timeout infinite": (b'{"lang": "py", "code": "1", "timeout": 1e999}', "invalid_request"),
    "timeout huge": (b'{"lang": "py", "code": "1", "timeout": ' + b"9" * 4000 + b"}", "invalid_request"),
    "code a surrogate": (b'{"lang": "py", "code": "print(1)\\ud800"}', "invalid_request"),
    "args a surrogate": (b'{"lang": "py", "code": "1", "args": ["\\udfff"]}', "invalid_request"),
    "invalid UTF-8": (b'{"lang": "py", "code": "\xff\xfe"}', "invalid_request"),
    "UTF-16 without a mark": ('{"lang": "py", "code": [1]}'.encode("utf-16-le"), "invalid_request"),
    "a NUL in the JSON": (b'{"lang": "py", "code": "\x00"}', "invalid_request"),
    "10,000 lists deep": (b"[" * 10_000 + b"]" * 10_000, "invalid_request"),
    "args 10,000 lists deep": (
        b'{"lang": "py", "code": "1", "args": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        "invalid_request",
    ),
    "objects 100,000 deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "invalid_request"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_malformed_body_is_refused_with_a_reason(client: Client, case: str) -> None:
    """Each body: 400, the code, one sentence that is no traceback."""
    body, code = CASES[case]
    answer = client.request("POST", "/exec", data=body)
    assert (answer.status_code, answer.json()["error"]) == (400, code), answer.text[:500]
    assert 0 < len(answer.json()["message"]) < 500
    assert "Traceback" not in answer.text


def test_the_message_names_the_field_and_what_came(client: Client) -> None:
    """A code that is a list."""
    message = client.post({"lang": "py", "code": []}).json()["message"]
    assert "code" in message
    assert "a list" in message


def test_fields_that_are_not_known_are_passed_over(client: Client, session_id: str) -> None:
    """Fields of other services, null for what is optional, aliases of the language."""
    extra: Json = {"files": [], "runtime_session_id": None, "x": 1, "user_id": None, "timeout": None, "args": None}
    answer = client.post({"lang": "Python3", "code": "print(1)", "session_id": session_id, **extra})
    assert (answer.status_code, answer.json()["stdout"]) == (200, "1\n")


def test_a_nul_in_the_code_is_an_error_of_the_code(client: Client, session_id: str) -> None:
    """NUL as an escape: valid JSON, invalid Python. The session lives on."""
    reply = client.run("print(1)\x00", session_id=session_id)
    assert (reply["status"], reply["exit_code"]) == ("error", 1)
    assert "null bytes" in reply["stderr"]
    assert client.run("print(2)", session_id=session_id)["stdout"] == "2\n"


@pytest.mark.parametrize(
    "code",
    [
        "(" * 5000 + ")" * 5000,
        "-" * 100_000 + "1",
        "x = " + "[" * 300,
        "1" * 10_000,
        "x=1;" * 200_000,
        "# " * 4_000_000,
    ],
    ids=["brackets", "minus signs", "unfinished", "number", "800 kB", "2 MB"],
)
def test_code_that_is_hard_to_parse_hurts_only_itself(client: Client, session_id: str, code: str) -> None:
    """Deep nesting, long lines, much of it: whatever comes of it, it is told, and the session works after it."""
    reply = client.run(code, session_id=session_id, timeout=2000)
    assert reply["status"] in ("ok", "error", "killed", "timeout", "out_of_memory")
    assert client.run("print(2)", session_id=session_id)["stdout"] == "2\n"


# --- bodies


def test_a_body_of_100_mb_gets_an_answer_that_says_so(client: Client, other: Client, session_id: str) -> None:
    """100 MB: 413 that the client gets to read. Meanwhile others are served."""
    sending = in_background(client.request, "POST", "/exec", data=b"x" * 100_000_000)
    started = time.monotonic()
    assert other.health()["status"] == "healthy"
    assert time.monotonic() - started < PROMPT
    answer = sending.result(30)
    assert (answer.status_code, answer.json()["error"]) == (413, "body_too_large")
    assert "100000000" in answer.json()["message"]
    assert client.run("print(1)", session_id=session_id)["stdout"] == "1\n"


def test_a_body_may_have_the_size_that_the_limit_names(client: Client, session_id: str) -> None:
    """32 MB exactly are taken, a byte more is not."""
    body = json.dumps(client.body("print(1)", session_id=session_id)).encode()
    limit = 32 << 20
    fits = client.request("POST", "/exec", data=body + b" " * (limit - len(body)))
    assert (fits.status_code, fits.json()["stdout"]) == (200, "1\n")
    over = client.request("POST", "/exec", data=body + b" " * (limit + 1 - len(body)))
    assert (over.status_code, over.json()["error"]) == (413, "body_too_large")


def test_a_body_on_a_route_without_one_does_no_harm(client: Client) -> None:
    """GET and DELETE with a large body."""
    for method, path, status in (("GET", "/sessions", 200), ("DELETE", "/sessions/none", 404), ("PUT", "/x", 404)):
        assert client.request(method, path, data=b"x" * 1_000_000).status_code == status


def test_a_chunked_body_is_read(client: Client, session_id: str) -> None:
    """A body in chunks of 7 bytes; one of 40 MB in chunks is too large."""
    body = json.dumps(client.body("print(1)", session_id=session_id)).encode()

    def pieces(data: bytes, size: int) -> Iterator[bytes]:
        return (data[start : start + size] for start in range(0, len(data), size))

    answer = client.request("POST", "/exec", data=pieces(body, 7))
    assert (answer.status_code, answer.json()["stdout"]) == (200, "1\n")
    answer = client.request("POST", "/exec", data=pieces(b" " * 40_000_000, 1 << 20))
    assert (answer.status_code, answer.json()["error"]) == (413, "body_too_large")


def raw(server: Server, data: bytes) -> bytes:
    """Send bytes on a connection of their own and return all that comes back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
        return received


@pytest.mark.parametrize(
    "request_line",
    [
        b"POST /exec HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /exec HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /exec HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /exec HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /exec HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
def test_malformed_http_ends_the_connection_and_nothing_else(server: Server, request_line: bytes) -> None:
    """Wrong lengths, wrong chunks, both at once, no HTTP at all, headers without end: 4xx or a closed end."""
    received = raw(server, request_line)
    assert received == b"" or received.startswith(b"HTTP/1.1 4")
    assert server.client().health()["status"] == "healthy"


# --- leaving and crowding


def test_a_client_that_leaves_the_queue_leaves_no_trace(server: Server, client: Client, session_id: str) -> None:
    """Three calls wait behind a run of 1.5 s; the second goes away: it never runs, the third does."""
    client.run("import time; log = []", session_id=session_id)
    first = in_background(client.run, "time.sleep(1.5); log.append(1)", session_id=session_id)
    wait_for(lambda: client.health()["executions"]["running"] == 1)
    body = json.dumps(client.body("log.append(2)", session_id=session_id)).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = f"POST /exec HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        time.sleep(0.3)  # it waits by then; if it did not, it could run before it is given up
        third = in_background(client.run, "log.append(3)", session_id=session_id)
        time.sleep(0.1)
    assert first.result(20)["status"] == "ok"
    assert third.result(20)["status"] == "ok"
    assert client.printed("print(log)", session_id=session_id) == "[1, 3]\n"
    assert client.health()["executions"] == {"running": 0, "queued": 0}


def test_clients_that_leave_at_once_do_no_harm(server: Server, client: Client, session_id: str) -> None:
    """50 connections that close in the middle of the head, of the body, or right after it."""
    body = json.dumps(client.body("import time; time.sleep(5)", session_id=session_id)).encode()
    head = f"POST /exec HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for number in range(50):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall((head[:20], head + body[:10], head + body)[number % 3])
    started = time.monotonic()
    assert client.run("print(1)", session_id=session_id)["stdout"] == "1\n"
    assert time.monotonic() - started < 2 * PROMPT
    wait_for(lambda: client.health()["executions"] == {"running": 0, "queued": 0})


def test_200_calls_at_once_are_all_answered_right(server: Server) -> None:
    """200 calls of 10 users in 10 sessions: each is 200 with its own result, or 429 that says when to retry."""

    def call(number: int) -> tuple[int, int, str]:
        client = server.client().as_user(f"crowd-{number % 10}")
        answer = client.post(client.body(f"import os; print({number})", session_id="crowd"))
        if answer.status_code == 429:
            assert answer.json()["retry_after_seconds"] >= 1
            return number, 429, ""
        return number, answer.status_code, answer.json()["stdout"]

    futures = [in_background(call, number) for number in range(200)]
    results = [future.result(120) for future in futures]
    for number in range(10):
        server.client().as_user(f"crowd-{number}").delete("crowd")
    assert [result for result in results if result[1] == 200] == [
        (number, 200, f"{number}\n") for number, status, _ in results if status == 200
    ]
    statuses = Counter(status for _, status, _ in results)
    assert set(statuses) <= {200, 429}
    assert statuses[200] >= 100, statuses


def test_one_session_from_20_clients_counts_to_20(client: Client, session_id: str) -> None:
    """20 calls at once that read, wait and write one counter: none is lost, each sees another number."""
    client.run("import time; counter = 0", session_id=session_id)
    code = "seen = counter; time.sleep(0.01); counter = seen + 1; print(counter)"
    futures = [in_background(client.run, code, session_id=session_id) for _ in range(20)]
    replies = [future.result(60) for future in futures]
    assert sorted(int(reply["stdout"]) for reply in replies) == list(range(1, 21))
    assert all(reply["execution_count"] == int(reply["stdout"]) + 1 for reply in replies)
    assert client.printed("print(counter)", session_id=session_id) == "20\n"


def test_slow_clients_do_not_hold_up_others(server: Server, client: Client, session_id: str) -> None:
    """100 connections that never finish their head, 100 that never finish their body, 20 that read nothing."""
    client.run("pass", session_id=session_id)
    with contextlib.ExitStack() as open_connections:
        for number in range(220):
            connection = open_connections.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=10)
            )
            if number < 100:
                connection.sendall(b"POST /exec HTTP/1.1\r\nX-Slow: ")
            elif number < 200:
                connection.sendall(b"POST /exec HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
            else:
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        started = time.monotonic()
        assert client.run("print(1)", session_id=session_id)["stdout"] == "1\n"
        assert time.monotonic() - started < 2


def test_a_client_that_does_not_read_does_not_hold_up_others(server: Server, client: Client) -> None:
    """An answer of 10 MB that nobody reads; the next call of another session is quick."""
    ids = new_id(), new_id()
    client.run("pass", session_id=ids[1])
    code = "from IPython.display import display\ndisplay({'text/plain': 'x' * 10_000_000}, raw=True)"
    body = json.dumps(client.body(code, session_id=ids[0])).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = f"POST /exec HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_for(lambda: client.request("GET", f"/sessions/{ids[0]}").json().get("executions") == 1)
        started = time.monotonic()
        assert client.run("print(1)", session_id=ids[1])["stdout"] == "1\n"
        assert time.monotonic() - started < 2
    for session_id in ids:
        client.delete(session_id)


# --- paths


@pytest.mark.parametrize(
    "path",
    [
        "/sessions/../../etc/passwd",
        "/sessions/..",
        "/sessions/%2e%2e%2f%2e%2e%2fetc",
        "/sessions/a%2fb",
        "/sessions/%00",
        "/sessions/a%0d%0aX-Injected:%201",
        "/sessions/%ff%fe",
        "/sessions/" + "x" * 129,
        "/sessions/" + "x" * 20_000,
        "/sessions/%d9%a3",
        "/sessions/a;b",
        "/sessions/*",
        "/v1/../sessions/x",
        "/./health/../x",
        "/health%2fdetailed",
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_path_tricks_find_nothing(server: Server, method: str, path: str) -> None:
    """Dots, encoded slashes, NUL, line ends, invalid UTF-8, very long ids: 4xx in the shape of all errors."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, headers={"x-api-key": KEY})
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    assert answer.status in (400, 404), body
    assert body["error"] in ("not_found", "session_not_found", "invalid_request")
    assert answer.getheader("X-Injected") is None
    assert "Traceback" not in str(body)


def test_a_wrong_user_in_the_query_is_refused(client: Client) -> None:
    """Invalid UTF-8, too long, given twice."""
    for query in ("user_id=%ff", "user_id=" + "x" * 257):
        answer = client.request("GET", f"/sessions?{query}", params=None)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), query
