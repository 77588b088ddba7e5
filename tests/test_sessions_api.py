"""Sessions over HTTP, who owns them, authentication, errors, health, the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import requests

from kernelgate.sessions.record import kernel_id
from tests.schemas import check
from tests.server import KEY, OTHER_KEY, Client, Json, Server, in_background, new_id, wait_for

ROUTES = {
    "/exec": {"post"},
    "/sessions": {"get"},
    "/sessions/{session_id}": {"get", "delete"},
    "/sessions/{session_id}/history": {"get"},
    "/sessions/{session_id}/undo": {"post"},
    "/sessions/{session_id}/fork": {"post"},
    "/sessions/{session_id}/interrupt": {"post"},
    "/sessions/{session_id}/input": {"post"},
    "/sessions/{session_id}/notebook": {"get", "post"},
    "/notebooks/execute": {"post"},
    "/sessions/{session_id}/vars": {"get"},
    "/sessions/{session_id}/vars/{name}": {"get"},
    "/api": {"get"},
    "/api/status": {"get"},
    "/api/me": {"get"},
    "/api/kernelspecs": {"get"},
    "/api/kernelspecs/{name}": {"get"},
    "/kernelspecs/{name}/{path}": {"get"},
    "/api/kernels": {"get", "post"},
    "/api/kernels/{kernel_id}": {"get", "delete"},
    "/api/kernels/{kernel_id}/interrupt": {"post"},
    "/api/kernels/{kernel_id}/restart": {"post"},
    "/api/kernels/{kernel_id}/channels": {"get"},
    "/api/sessions": {"get", "post"},
    "/api/sessions/{document_id}": {"get", "patch", "delete"},
    "/health": {"get"},
    "/health/detailed": {"get"},
    "/openapi.json": {"get"},
}


@pytest.fixture(scope="module")
def owned(server: Server) -> Iterator[str]:
    """The id of a session of the first tenant, without a user, which has run once."""
    client, session_id = server.client(), new_id()
    client.run("secret = 'of the first tenant'", session_id=session_id)
    yield session_id
    client.delete(session_id)


def check_error(answer: requests.Response, status: int, code: str) -> Json:
    """Check that ``answer`` has the one shape of all errors; returns its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
    body = dict(answer.json())
    expected = {"error", "message", "request_id"} | ({"retry_after_seconds"} if status == 429 else set())
    assert set(body) == expected
    assert body["error"] == code
    assert isinstance(body["message"], str)
    assert body["message"]
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return body


def without_ids(answer: requests.Response, session_id: str) -> tuple[Any, ...]:
    """What an answer says, but for the ids in it."""
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name.lower() not in ("x-request-id", "date", "etag", "content-length")
    }
    text = answer.text.replace(session_id, "ID").replace(answer.headers["X-Request-ID"], "REQUEST")
    return answer.status_code, headers, text


# --- sessions


def test_a_session_shows_what_it_is(client: Client, owned: str) -> None:
    """GET of a session that has run once."""
    session = client.session(owned)
    created, last_used = session.pop("created"), session.pop("last_used")
    assert datetime.fromisoformat(created) <= datetime.fromisoformat(last_used)
    assert datetime.fromisoformat(created).tzinfo is not None
    assert session == {
        "session_id": owned,
        "lang": "py",
        "state": "idle",
        "executions": 1,
        "version": 1,
        "user_id": None,
        "kernel_id": kernel_id(owned),
        "origin": "exec",
        "closed": False,
        "documents": [],
        "connections": 0,
        "input_request": None,
    }
    check(client.session(owned), "Session")


def test_a_session_that_runs_is_busy(client: Client, session_id: str) -> None:
    """GET while code runs, and after."""
    client.run("import time", session_id=session_id)
    running = in_background(client.run, "time.sleep(1)", session_id=session_id)
    wait_for(lambda: client.session(session_id)["state"] == "busy")
    assert running.result(20)["status"] == "ok"
    assert client.session(session_id)["state"] == "idle"


def test_the_list_holds_the_callers_sessions_last_used_first(server: Server) -> None:
    """Two sessions of one user; a third user has none."""
    client = server.client().as_user(new_id())
    client.run("pass", session_id="list-a")
    client.run("pass", session_id="list-b")
    client.run("pass", session_id="list-a")
    listed = client.request("GET", "/sessions").json()["sessions"]
    assert [(item["session_id"], item["executions"]) for item in listed] == [("list-a", 2), ("list-b", 1)]
    assert listed[0] == client.session("list-a")
    assert client.as_user(new_id()).request("GET", "/sessions").json() == {"sessions": []}
    for session_id in ("list-a", "list-b"):
        assert client.delete(session_id).status_code == 204
    assert client.request("GET", "/sessions").json() == {"sessions": []}


def test_a_deleted_session_is_gone_with_its_container(server: Server, client: Client, session_id: str) -> None:
    """DELETE: 204 without a body; then it is unknown, its container is gone, its id can be used anew."""
    client.run("x = 1", session_id=session_id)
    mark = client.printed("print(open('/proc/sys/kernel/random/boot_id').read(), end='')", session_id=session_id)
    assert mark
    answer = client.delete(session_id)
    assert (answer.status_code, answer.content) == (204, b"")
    check_error(client.request("GET", f"/sessions/{session_id}"), 404, "session_not_found")
    check_error(client.delete(session_id), 404, "session_not_found")
    reply = client.run("print('x' in globals())", session_id=session_id)
    assert (reply["stdout"], reply["runtime_status"], reply["execution_count"]) == ("False\n", "new", 1)


def test_deleting_a_session_ends_what_runs_in_it(client: Client, session_id: str) -> None:
    """DELETE while code sleeps for 9 s: the call is answered soon and says that the kernel ended."""
    client.run("import time", session_id=session_id)
    running = in_background(client.post, client.body("time.sleep(9)", session_id=session_id))
    wait_for(lambda: client.session(session_id)["state"] == "busy")
    wait_for(lambda: client.health()["executions"]["running"] == 1)
    assert client.delete(session_id).status_code == 204
    answer = running.result(5)
    assert answer.status_code == 200
    assert answer.json()["status"] == "killed"


# --- owners


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("stranger", ["other key", "other user", "other key and user"])
def test_somebody_elses_session_is_like_one_that_does_not_exist(
    server: Server, owned: str, method: str, stranger: str
) -> None:
    """GET and DELETE of a session by its id as another tenant or user: the same answer as for an unknown id."""
    caller = Client(server.url, OTHER_KEY if "key" in stranger else KEY, "eve" if "user" in stranger else None)
    unknown = new_id()
    theirs = caller.request(method, f"/sessions/{owned}")
    nobodys = caller.request(method, f"/sessions/{unknown}")
    check_error(theirs, 404, "session_not_found")
    assert without_ids(theirs, owned) == without_ids(nobodys, unknown)
    assert server.client().session(owned)["session_id"] == owned


@pytest.mark.parametrize(("key", "user"), [(OTHER_KEY, None), (KEY, "eve"), (OTHER_KEY, "eve")])
def test_somebody_elses_id_opens_a_session_of_ones_own(
    server: Server, client: Client, owned: str, key: str, user: str | None
) -> None:
    """POST /exec with the id of another owner's session: a new kernel, nothing of the other's in it."""
    caller = Client(server.url, key, user)
    before = client.session(owned)
    reply = caller.run("print('secret' in globals())", session_id=owned)
    assert (reply["session_id"], reply["stdout"], reply["runtime_status"]) == (owned, "False\n", "new")
    assert caller.session(owned)["user_id"] == user
    assert client.session(owned) == before
    assert caller.delete(owned).status_code == 204
    assert client.run("print(secret)", session_id=owned)["stdout"] == "of the first tenant\n"


def test_the_lists_of_owners_are_apart(server: Server, owned: str) -> None:
    """GET /sessions as the owner, as another tenant and as another user of the same tenant."""
    lists = [
        [item["session_id"] for item in caller.request("GET", "/sessions").json()["sessions"]]
        for caller in (server.client(), server.client(OTHER_KEY), server.client().as_user("eve"))
    ]
    assert owned in lists[0]
    assert owned not in lists[1] + lists[2]


# --- authentication


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY},
        {"X-API-Key": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {KEY}"},
        {"Authorization": f"token {KEY}"},
        {"x-api-key": OTHER_KEY},
    ],
)
def test_a_key_is_taken_from_each_header(server: Server, headers: dict[str, str]) -> None:
    """The configured header, Bearer and token, in any case."""
    assert requests.get(f"{server.url}/sessions", headers=headers, timeout=30).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"x-api-key": KEY + "x"},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": f"{KEY},{OTHER_KEY}"},
        {"x-api-key": "\xe9\xff"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Cookie": f"x-api-key={KEY}"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/exec"),
        ("GET", "/sessions"),
        ("GET", "/sessions/a"),
        ("DELETE", "/v1/sessions/a"),
        ("GET", "/health/detailed"),
    ],
)
def test_without_a_known_key_nothing_is_answered(
    server: Server, headers: dict[str, str], method: str, path: str
) -> None:
    """No key, wrong ones, malformed headers."""
    answer = requests.request(
        method, server.url + path, headers=headers, json={"lang": "py", "code": "1"}, timeout=30
    )
    check_error(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert KEY not in answer.text


@pytest.mark.parametrize("second", [KEY, OTHER_KEY, "wrong"])
def test_two_keys_at_once_are_refused(server: Server, second: str) -> None:
    """The configured header and Authorization, with the same or different keys."""
    headers = {"x-api-key": KEY, "Authorization": f"Bearer {second}"}
    check_error(requests.get(f"{server.url}/sessions", headers=headers, timeout=30), 400, "invalid_request")


# --- errors


def test_a_request_id_is_echoed(client: Client) -> None:
    """X-Request-ID in an error and in a reply; one that is not fit for a log is replaced."""
    for path, status in (("/sessions", 200), ("/nowhere", 404)):
        answer = client.request("GET", path, headers={"X-Request-ID": "my-id.1"})
        assert (answer.status_code, answer.headers["X-Request-ID"]) == (status, "my-id.1")
    for bad in ("a b", "x" * 200, "a;b", '"'):
        answer = client.request("GET", "/nowhere", headers={"X-Request-ID": bad})
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["X-Request-ID"])
        check_error(answer, 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("POST", "/nowhere"), ("GET", "/v1"), ("GET", "/sessions/a/b"), ("PUT", "/x")],
)
def test_an_unknown_route_is_not_found(client: Client, method: str, path: str) -> None:
    """Paths that do not exist, with several methods."""
    check_error(client.request(method, path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/exec"),
        ("PUT", "/exec"),
        ("DELETE", "/exec"),
        ("POST", "/sessions"),
        ("PATCH", "/sessions/a"),
        ("POST", "/health"),
        ("BREW", "/exec"),
    ],
)
def test_an_unknown_method_is_not_allowed(client: Client, method: str, path: str) -> None:
    """Methods that a route does not have."""
    check_error(client.request(method, path), 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/exec", "/sessions", "/sessions/a", "/v1/exec", "/health", "/api/kernels"])
def test_options_are_answered_without_a_key_and_without_content(server: Server, path: str) -> None:
    """What browsers ask ahead of a request to another site; who may read the answer is another matter."""
    answer = requests.options(server.url + path, timeout=30)
    assert (answer.status_code, answer.content) == (204, b"")
    check_error(requests.options(server.url + "/nowhere", timeout=30), 404, "not_found")


# --- routes


def test_health_is_open_and_says_nothing_more(server: Server) -> None:
    """GET /health without a key."""
    answer = requests.get(f"{server.url}/health", timeout=30)
    assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})
    assert "Server" not in answer.headers


def test_detailed_health_needs_a_key_and_tells_of_every_part(server: Server, client: Client) -> None:
    """GET /health/detailed with and without a key."""
    check_error(requests.get(f"{server.url}/health/detailed", timeout=30), 401, "unauthorized")
    health = client.health()
    assert health["status"] == "healthy"
    assert health["docker"]["status"] == "healthy"
    assert set(health["pools"]) == {"py"}
    assert health["executions"] == {"running": 0, "queued": 0}
    assert health["uptime_seconds"] > 0
    assert KEY not in str(health)


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/", "//", "/v1//"])
def test_every_route_stands_at_the_root_and_under_v1(client: Client, owned: str, prefix: str) -> None:
    """Each route with each prefix, with and without a slash at its end."""
    prefix = prefix.rstrip("/") + "/" * max(0, prefix.count("/") - (2 if prefix.startswith("/v1") else 1))
    for end in ("", "/"):
        for path in ("/sessions", f"/sessions/{owned}", "/health", "/health/detailed", "/openapi.json"):
            assert client.request("GET", f"{prefix}{path}{end}").status_code == 200, path
        answer = client.request("POST", f"{prefix}/exec{end}", json=client.body("print(1)", session_id=owned))
        assert (answer.status_code, answer.json()["stdout"]) == (200, "1\n")


def test_the_document_lists_every_route_and_the_errors_it_answers(server: Server, client: Client) -> None:
    """GET /openapi.json without a key: routes, methods, and the statuses that these tests saw."""
    answer = requests.get(f"{server.url}/openapi.json", timeout=30)
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    methods = {"get", "post", "put", "delete", "patch"}
    assert {path: methods & set(item) for path, item in document["paths"].items()} == ROUTES
    assert {"200", "400", "401", "404", "405", "413", "429", "500", "503"} <= set(
        document["paths"]["/exec"]["post"]["responses"]
    )
    described = str(document)
    for code in ("session_not_found", "unsupported_language", "kernel_start_failed", "shutting_down"):
        assert code in described
    reply = client.run("print(1)")
    client.delete(reply["session_id"])
    check(reply, "ExecReply")
    assert set(reply) == set(document["components"]["schemas"]["ExecReply"]["properties"])


def test_two_keys_at_once_are_in_the_document(server: Server) -> None:
    """Every operation that needs a key may answer 400 (two keys); those for everyone may not."""
    paths = requests.get(f"{server.url}/openapi.json", timeout=30).json()["paths"]
    for path, item in paths.items():
        for method in ROUTES[path]:
            is_open = item[method].get("security") == []
            assert ("401" in item[method]["responses"]) is not is_open, path
            assert ("400" in item[method]["responses"]) is not is_open, path


def test_every_response_forbids_sniffing(server: Server, client: Client) -> None:
    """Replies and errors."""
    for path in ("/health", "/sessions", "/nowhere"):
        assert client.request("GET", path).headers["X-Content-Type-Options"] == "nosniff"
