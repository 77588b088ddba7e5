"""Jupyter's REST routes: kernels, kernelspecs, sessions; who may use them, from which pages, and what survives."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from kernelgate import __version__
from kernelgate.sessions.record import kernel_id
from tests.schemas import check
from tests.server import KEY, OTHER_KEY, PROMPT, Client, Json, Server, Servers, in_background, new_id, wait_for

StartServer = Callable[..., Server]
PYTHON = "kernelgate-python"
SITE = "https://lab.example.com"
ENVIRONMENT = {"CONTAINER_POOL_PY_MIN": "2", "MAX_KERNELS": "4", "ENABLE_CORS": "true", "CORS_ORIGINS": SITE}


@pytest.fixture(scope="module")
def gate(servers: Servers) -> Iterator[Server]:
    """A server for these tests, which pages of one other site may use."""
    with servers.serving(ENVIRONMENT) as server:
        yield server


@pytest.fixture
def api(gate: Server) -> Iterator[Api]:
    """A client with a user of its own, of which nothing is left afterwards."""
    api = Api(gate.client().as_user(new_id()))
    yield api
    for session in api.client.request("GET", "/sessions").json()["sessions"]:
        assert api.client.delete(session["session_id"]).status_code == 204


class Api:
    """Jupyter's routes for one client; what they answer must be as the document says."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def ask(self, method: str, path: str, body: object = None, status: int = 200) -> Any:
        """Return the JSON of an answer, which must have ``status``."""
        answer = self.client.request(method, path, json=body)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def fail(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Return status and code of an answer that is an error."""
        answer = self.client.request(method, path, json=body)
        return failure(answer)

    def kernels(self) -> list[Json]:
        found = self.ask("GET", "/api/kernels")
        for kernel in found:
            check(kernel, "Kernel")
        return list(found)

    def start(self, **body: Any) -> Json:
        kernel = self.ask("POST", "/api/kernels", body, 201)
        check(kernel, "Kernel")
        return dict(kernel)

    def documents(self) -> list[Json]:
        found = self.ask("GET", "/api/sessions")
        for document in found:
            check(document, "Document")
        return list(found)

    def add(self, path: str, **body: Any) -> Json:
        document = self.ask("POST", "/api/sessions", {"path": path, "name": path, "type": "notebook", **body}, 201)
        check(document, "Document")
        return dict(document)

    def change(self, document: Json, **body: Any) -> Json:
        changed = self.ask("PATCH", f"/api/sessions/{document['id']}", body)
        check(changed, "Document")
        return dict(changed)

    def ids(self) -> set[str]:
        return {kernel["id"] for kernel in self.kernels()}

    def session_ids(self) -> set[str]:
        return {each["session_id"] for each in self.client.request("GET", "/sessions").json()["sessions"]}


def failure(answer: requests.Response) -> tuple[int, str]:
    """Check that an answer has the shape of Jupyter's errors and of ours; returns its status and code."""
    body = answer.json()
    check(body, "Error")
    assert body["reason"] == body["message"] != ""
    return answer.status_code, body["error"]


# --- the server


def test_the_version_needs_no_key(gate: Server) -> None:
    answer = requests.get(f"{gate.url}/api", timeout=30)
    assert (answer.status_code, answer.json()) == (200, {"version": __version__})


def test_the_status_counts_the_callers_kernels(api: Api) -> None:
    assert api.ask("GET", "/api/status")["kernels"] == 0
    kernel = api.start()
    status = api.ask("GET", "/api/status")
    assert (status["kernels"], status["connections"]) == (1, 0)
    assert status["last_activity"] == kernel["last_activity"]
    assert datetime.fromisoformat(status["started"]) <= datetime.fromisoformat(status["last_activity"])


def test_a_caller_is_told_his_name(api: Api, gate: Server) -> None:
    identity = api.ask("GET", "/api/me")["identity"]
    assert identity["username"] == identity["name"] == identity["display_name"] == api.client.user
    anonymous = Api(gate.client()).ask("GET", "/api/me")
    assert (anonymous["identity"]["username"], anonymous["permissions"]) == ("kernelgate", {})


PATHS = [
    "/api/status",
    "/api/me",
    "/api/kernelspecs",
    f"/api/kernelspecs/{PYTHON}",
    f"/kernelspecs/{PYTHON}/logo-64x64.png",
    "/api/kernels",
    "/api/kernels/x",
    "/api/kernels/x/channels",
    "/api/sessions",
    "/api/sessions/x",
]


@pytest.mark.parametrize("path", PATHS)
def test_without_a_known_key_nothing_is_answered(gate: Server, path: str) -> None:
    for options in ({}, {"params": {"token": "wrong"}}, {"headers": {"Authorization": "token wrong"}}):
        answer = requests.get(gate.url + path, timeout=30, **options)  # type: ignore[arg-type]
        assert failure(answer) == (401, "unauthorized")
    answer = requests.get(gate.url + path, cookies={"token": KEY, "_xsrf": KEY}, timeout=30)
    assert failure(answer) == (401, "unauthorized")


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Authorization": f"token {KEY}"}},
        {"headers": {"Authorization": f"Bearer {KEY}"}},
        {"headers": {"x-api-key": KEY}},
        {"params": {"token": KEY}},
        {"params": {"token": "wrong"}, "headers": {"Authorization": f"token {KEY}"}},
    ],
    ids=["token", "bearer", "header", "query", "a header goes before the query"],
)
def test_a_key_is_taken_in_the_forms_of_jupyters_clients(gate: Server, options: Json) -> None:
    assert requests.get(f"{gate.url}/api/kernels", timeout=30, **options).status_code == 200


def test_a_key_in_the_query_opens_jupyters_routes_only(gate: Server) -> None:
    answer = requests.get(f"{gate.url}/sessions", params={"token": KEY}, timeout=30)
    assert answer.status_code == 401


# --- kernelspecs


def test_kernelspecs_are_listed_with_a_default(api: Api) -> None:
    listed = api.ask("GET", "/api/kernelspecs")
    assert listed["default"] == PYTHON
    assert set(listed["kernelspecs"]) == {PYTHON}
    spec = listed["kernelspecs"][PYTHON]
    check(spec, "Kernelspec")
    assert (spec["name"], spec["spec"]["language"], spec["resources"]) == (PYTHON, "python", {})
    assert api.ask("GET", f"/api/kernelspecs/{PYTHON}") == spec


def test_other_names_of_python_are_known(api: Api) -> None:
    for alias in ("python3", "python", "py"):
        check(api.ask("GET", f"/api/kernelspecs/{alias}"), "Kernelspec")
    assert api.start(name=alias)["name"] == PYTHON


@pytest.mark.parametrize("name", ["cobol", "session-none", "..%2F..", "a" * 300])
def test_a_kernelspec_that_is_not_there_is_not_found(api: Api, name: str) -> None:
    assert api.fail("GET", f"/api/kernelspecs/{name}") == (404, "kernelspec_not_found")
    assert api.fail("GET", f"/kernelspecs/{name}/logo.png") == (404, "kernelspec_not_found")
    if "%" not in name:
        assert api.fail("POST", "/api/kernels", {"name": name}) == (404, "kernelspec_not_found")
    assert api.kernels() == []


def test_a_kernelspec_has_no_logo(api: Api) -> None:
    assert api.fail("GET", f"/kernelspecs/{PYTHON}/logo-64x64.png") == (404, "not_found")


# --- kernels


def test_a_kernel_is_started_shown_listed_and_ended(api: Api) -> None:
    answer = api.client.request("POST", "/api/kernels", json={"name": PYTHON, "path": "/home/somebody"})
    kernel = answer.json()
    check(kernel, "Kernel")
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/api/kernels/{kernel['id']}")
    assert (kernel["name"], kernel["execution_state"], kernel["connections"]) == (PYTHON, "idle", 0)
    assert kernel["id"] == kernel["session_id"] == str(uuid.UUID(kernel["id"]))
    activity = datetime.strptime(kernel["last_activity"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - activity) < timedelta(minutes=1)
    assert api.ask("GET", f"/api/kernels/{kernel['id']}") == kernel
    assert api.kernels() == [kernel]
    assert api.client.session(kernel["id"])["origin"] == "jupyter"
    assert api.ask("DELETE", f"/api/kernels/{kernel['id']}", status=204) is None
    for method in ("GET", "DELETE"):
        assert api.fail(method, f"/api/kernels/{kernel['id']}") == (404, "kernel_not_found")
    assert (api.kernels(), api.session_ids()) == ([], set())


def test_a_kernel_needs_no_body(api: Api) -> None:
    answer = api.client.request("POST", "/api/kernels")
    assert (answer.status_code, answer.json()["name"]) == (201, PYTHON)


def test_a_client_may_choose_a_kernels_id_once(api: Api) -> None:
    wanted = str(uuid.uuid4())
    assert api.start(kernel_id=wanted.upper())["id"] == wanted
    api.client.run("kept = 1", session_id=wanted)
    assert api.fail("POST", "/api/kernels", {"kernel_id": wanted}) == (409, "conflict")
    assert api.client.run("print(kept)", session_id=wanted)["stdout"] == "1\n"
    assert api.ids() == {wanted}


def test_exec_and_jupyter_share_a_kernel(api: Api) -> None:
    """The kernel of /exec by its id and by its session's; what Jupyter started, used by /exec."""
    born = api.client.run("x = 1")["session_id"]
    (kernel,) = api.kernels()
    assert (kernel["id"], kernel["session_id"]) == (kernel_id(born), born)
    assert api.ask("GET", f"/api/kernels/{born}") == api.ask("GET", f"/api/kernels/{kernel['id']}") == kernel
    assert api.client.session(born)["kernel_id"] == kernel["id"]
    started = api.start()["id"]
    reply = api.client.run("y = 2", session_id=started)
    assert (reply["runtime_status"], reply["execution_count"]) == ("reused", 1)


def test_a_kernel_that_runs_is_busy_and_is_interrupted(api: Api) -> None:
    kernel = api.start()["id"]
    running = in_background(api.client.run, "import time; time.sleep(9)", session_id=kernel)
    wait_for(lambda: api.ask("GET", f"/api/kernels/{kernel}")["execution_state"] == "busy")
    wait_for(lambda: interrupted(api, kernel, running))
    assert running.result(PROMPT)["outputs"][-1]["ename"] == "KeyboardInterrupt"
    assert api.ask("GET", f"/api/kernels/{kernel}")["execution_state"] == "idle"
    api.ask("POST", f"/api/kernels/{kernel}/interrupt", status=204)


def interrupted(api: Api, kernel: str, running: Any) -> bool:
    api.ask("POST", f"/api/kernels/{kernel}/interrupt", status=204)
    return bool(running.done())


def test_a_restart_keeps_files_and_id_and_can_be_undone(api: Api) -> None:
    kernel = api.start()["id"]
    api.client.run("x = 1; open('kept.txt', 'w').write('k'); None", session_id=kernel)
    restarted = api.ask("POST", f"/api/kernels/{kernel}/restart")
    check(restarted, "Kernel")
    assert (restarted["id"], restarted["execution_state"]) == (kernel, "idle")
    look = "print('x' in globals(), open('kept.txt').read())"
    assert api.client.printed(look, session_id=kernel) == "False k\n"
    history = api.ask("GET", f"/sessions/{kernel}/history")["history"]
    assert [entry["status"] for entry in history] == ["ok", "restart", "ok"]
    api.ask("POST", f"/sessions/{kernel}/undo?user_id={api.client.user}", {"steps": 2, "user_id": api.client.user})
    assert api.client.printed(look, session_id=kernel) == "True k\n"


def test_a_restart_cuts_off_what_runs(api: Api) -> None:
    kernel = api.start()["id"]
    api.client.run("x = 1", session_id=kernel)
    running = in_background(api.client.run, "import time; time.sleep(9)", session_id=kernel)
    wait_for(lambda: api.ask("GET", f"/api/kernels/{kernel}")["execution_state"] == "busy")
    api.ask("POST", f"/api/kernels/{kernel}/restart")
    assert running.result(PROMPT)["status"] != "ok"
    assert api.client.printed("print('x' in globals())", session_id=kernel) == "False\n"


def test_the_end_of_a_kernel_of_exec_keeps_its_session(api: Api) -> None:
    session_id = api.client.run("x = 1")["session_id"]
    api.ask("DELETE", f"/api/kernels/{session_id}", status=204)
    assert api.kernels() == api.documents() == []
    assert api.fail("GET", f"/api/kernels/{session_id}") == (404, "kernel_not_found")
    session = api.client.session(session_id)
    assert (session["closed"], session["state"], session["origin"]) == (True, "dormant", "exec")
    reply = api.client.run("print(x)", session_id=session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("1\n", "restored")


def test_there_are_no_more_kernels_than_the_limit_allows(api: Api, gate: Server) -> None:
    """Six at once where four may be: none too many, whoever comes first."""
    answers = [in_background(api.client.request, "POST", "/api/kernels") for _ in range(6)]
    statuses = sorted(answer.result(60).status_code for answer in answers)
    assert statuses == [201] * 4 + [403] * 2
    assert api.fail("POST", "/api/kernels") == (403, "kernel_limit")
    assert api.fail("POST", "/api/sessions", {"path": "a.ipynb"}) == (403, "kernel_limit")
    assert len(api.kernels()) == 4
    assert Api(gate.client(OTHER_KEY)).fail("POST", "/api/kernels") == (403, "kernel_limit")
    assert api.client.run("print(1)")["stdout"] == "1\n"
    api.ask("DELETE", f"/api/kernels/{api.kernels()[-1]['id']}", status=204)
    assert api.start()["id"] in api.ids()


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"name": 5},
        {"name": "x" * 5000},
        {"kernel_id": "no-uuid"},
        {"kernel_id": 5},
        {"env": []},
        {"env": {"A": 5}},
        {"env": {"": "a"}},
        {"env": {"A=B": "a"}},
        {"env": {"KERNEL_A": "a\0"}},
        {"env": {f"KERNEL_{n}": "" for n in range(300)}},
    ],
    ids=lambda body: str(body)[:25],
)
def test_a_malformed_start_is_refused(api: Api, body: object) -> None:
    assert api.fail("POST", "/api/kernels", body) == (400, "invalid_request")
    assert api.kernels() == []


def test_a_kernel_has_the_environment_that_is_allowed(api: Api) -> None:
    env = {"KERNEL_USERNAME": "ann'\n", "PATH": "/evil", "LD_PRELOAD": "x"}
    kernel = api.start(env=env)["id"]
    code = (
        "import os\n"
        "print([os.environ['KERNEL_USERNAME'], '/evil' in os.environ['PATH'], 'LD_PRELOAD' in os.environ])"
    )
    assert api.client.printed(code, session_id=kernel) == '["ann\'\\n", False, False]\n'


# --- sessions of /exec


def test_a_session_of_exec_is_a_kernelspec_that_opens_it(api: Api) -> None:
    """By its kernelspec and by its id in the environment: the same kernel with its variables, none is started."""
    session_id = api.client.run("x = 41")["session_id"]
    started = api.start()["id"]
    name = f"session-{session_id}"
    listed = api.ask("GET", "/api/kernelspecs")
    assert set(listed["kernelspecs"]) == {PYTHON, name}
    check(listed["kernelspecs"][name], "Kernelspec")
    assert session_id in listed["kernelspecs"][name]["spec"]["display_name"]
    assert api.ask("GET", f"/api/kernelspecs/{name}") == listed["kernelspecs"][name]
    for body in ({"name": name}, {"env": {"KERNEL_SESSION_ID": session_id}}):
        assert api.start(**body)["id"] == kernel_id(session_id)
    assert api.ids() == {started, kernel_id(session_id)}
    assert api.add("a.ipynb", kernel={"name": name})["kernel"]["session_id"] == session_id
    reply = api.client.run("print(x + 1)", session_id=session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("42\n", "reused")


def test_a_session_that_was_closed_opens_again(api: Api) -> None:
    session_id = api.client.run("x = 1")["session_id"]
    api.ask("DELETE", f"/api/kernels/{session_id}", status=204)
    kernel = api.start(env={"KERNEL_SESSION_ID": session_id})
    assert (api.kernels(), api.client.session(session_id)["closed"]) == ([kernel], False)
    assert api.client.run("print(x)", session_id=session_id)["stdout"] == "1\n"


# --- documents


def test_a_document_is_added_shown_listed_and_taken_away_with_its_kernel(api: Api) -> None:
    answer = api.client.request(
        "POST",
        "/api/sessions",
        json={
            "path": "dir/a.ipynb",
            "name": "a.ipynb",
            "type": "notebook",
            "kernel": {"name": PYTHON, "id": None},
        },
    )
    document = answer.json()
    check(document, "Document")
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/api/sessions/{document['id']}")
    assert {name: document[name] for name in ("path", "name", "type")} == {
        "path": "dir/a.ipynb",
        "name": "a.ipynb",
        "type": "notebook",
    }
    assert document["notebook"] == {"path": "dir/a.ipynb", "name": "a.ipynb"}
    assert api.kernels() == [document["kernel"]]
    assert api.ask("GET", f"/api/sessions/{document['id']}") == document
    assert api.documents() == [document]
    assert api.ask("DELETE", f"/api/sessions/{document['id']}", status=204) is None
    for method in ("GET", "DELETE"):
        assert api.fail(method, f"/api/sessions/{document['id']}") == (404, "session_not_found")
    assert api.fail("PATCH", f"/api/sessions/{document['id']}", {"name": "b"}) == (404, "session_not_found")
    assert (api.documents(), api.kernels(), api.session_ids()) == ([], [], set())


def test_the_same_path_is_the_same_document(api: Api) -> None:
    first = api.add("a.ipynb")
    again = api.add("a.ipynb", kernel={"name": PYTHON})
    other = api.add("b.ipynb")
    assert again["id"] == first["id"]
    assert again["kernel"]["id"] == first["kernel"]["id"] != other["kernel"]["id"]
    assert len(api.kernels()) == 2


def test_documents_can_share_a_kernel_which_ends_with_the_last(api: Api) -> None:
    kernel = api.start()["id"]
    first, second = (api.add(path, kernel={"id": kernel}) for path in ("a.ipynb", "b.ipynb"))
    assert {each["id"] for each in api.documents()} == {first["id"], second["id"]}
    api.ask("DELETE", f"/api/sessions/{first['id']}", status=204)
    assert api.ids() == {kernel}
    api.ask("DELETE", f"/api/sessions/{second['id']}", status=204)
    assert api.ids() == set()


def test_a_document_is_renamed(api: Api) -> None:
    document = api.add("a.ipynb")
    changed = api.change(document, path="b.ipynb", name="b", type="console")
    assert changed == {
        **document,
        "path": "b.ipynb",
        "name": "b",
        "type": "console",
        "notebook": {"path": "b.ipynb", "name": "b"},
        "kernel": {**changed["kernel"], "id": document["kernel"]["id"]},
    }
    assert [each["path"] for each in api.documents()] == ["b.ipynb"]
    assert api.change(document, kernel={"id": document["kernel"]["id"]})["path"] == "b.ipynb"


def test_a_document_that_gets_another_kernel_ends_the_old_one(api: Api) -> None:
    """A new one by its kernelspec, then one that is there already by its id."""
    document = api.add("a.ipynb")
    first = document["kernel"]["id"]
    second = api.change(document, kernel={"name": PYTHON})["kernel"]["id"]
    assert (second == first, api.ids()) == (False, {second})
    third = api.start()["id"]
    assert api.change(document, kernel={"id": third})["kernel"]["id"] == third
    assert api.ids() == {third}
    assert [(each["id"], each["kernel"]["id"]) for each in api.documents()] == [(document["id"], third)]


def test_a_kernel_that_ends_takes_its_documents_along(api: Api) -> None:
    document = api.add("a.ipynb")
    api.ask("DELETE", f"/api/kernels/{document['kernel']['id']}", status=204)
    assert api.documents() == []
    assert api.add("a.ipynb")["id"] != document["id"]


def test_a_kernel_without_a_document_is_listed_as_one(api: Api) -> None:
    """As its own, so that clients that know only sessions find it; it can be ended as such."""
    kernel = api.start()
    (document,) = api.documents()
    assert (document["id"], document["kernel"], document["type"]) == (kernel["id"], kernel, "console")
    assert api.ask("GET", f"/api/sessions/{kernel['id']}") == document
    api.ask("DELETE", f"/api/sessions/{kernel['id']}", status=204)
    assert api.kernels() == []


def test_an_older_clients_body_is_understood(api: Api) -> None:
    body = {"notebook": {"path": "old.ipynb"}, "kernel": {"name": "python3"}}
    document = api.ask("POST", "/api/sessions", body, 201)
    assert (document["path"], document["type"], document["notebook"]["path"]) == (
        "old.ipynb",
        "notebook",
        "old.ipynb",
    )


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"path": "a", "kernel": {"id": "none"}}, (404, "kernel_not_found")),
        ({"path": "a", "kernel": {"name": "cobol"}}, (404, "kernelspec_not_found")),
        ({"path": 5}, (400, "invalid_request")),
        ({"path": "a", "kernel": "py"}, (400, "invalid_request")),
        ({"path": "a", "kernel": {"name": 5}}, (400, "invalid_request")),
        ({"path": "a" * 5000}, (400, "invalid_request")),
        ([], (400, "invalid_request")),
    ],
    ids=str,
)
def test_a_document_that_cannot_be_added_leaves_nothing(api: Api, body: object, error: tuple[int, str]) -> None:
    assert api.fail("POST", "/api/sessions", body) == error
    assert (api.documents(), api.kernels()) == ([], [])


# --- owners


def test_somebody_elses_kernels_do_not_exist(api: Api, gate: Server) -> None:
    """Another key and another user: lists are empty, ids unknown, whatever is asked."""
    document = api.add("a.ipynb")
    session_id = api.client.run("x = 1")["session_id"]
    kernel = document["kernel"]["id"]
    for stranger in (Api(gate.client(OTHER_KEY)), Api(gate.client().as_user("eve"))):
        assert stranger.kernels() == stranger.documents() == []
        assert set(stranger.ask("GET", "/api/kernelspecs")["kernelspecs"]) == {PYTHON}
        for each in (kernel, session_id, kernel_id(session_id)):
            for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/interrupt"), ("POST", "/restart")):
                found = stranger.fail(method, f"/api/kernels/{each}{path}")
                assert found == (404, "kernel_not_found"), (method, path)
            assert stranger.fail("GET", f"/api/kernels/{each}/channels") == (404, "kernel_not_found")
        for method in ("GET", "PATCH", "DELETE"):
            body = {"name": "b"} if method == "PATCH" else None
            assert stranger.fail(method, f"/api/sessions/{document['id']}", body) == (404, "session_not_found")
        for name in (f"session-{session_id}", f"session-{kernel}"):
            assert stranger.fail("POST", "/api/kernels", {"name": name}) == (404, "kernelspec_not_found")
        env = {"KERNEL_SESSION_ID": session_id}
        assert stranger.fail("POST", "/api/kernels", {"env": env}) == (404, "kernelspec_not_found")
        adopt = {"path": "b.ipynb", "kernel": {"id": kernel}}
        assert stranger.fail("POST", "/api/sessions", adopt) == (404, "kernel_not_found")
    assert api.ids() == {kernel, kernel_id(session_id)}


# --- what survives


def test_kernels_and_documents_survive_the_server(start_server: StartServer, tmp_path: Path) -> None:
    """A new kernel that ran nothing, a document with variables that was renamed, a session that was closed."""
    environment = {"STATE_DIR": str(tmp_path / "state"), "CONTAINER_POOL_PY_MIN": "1"}
    first = start_server(environment).wait_ready()
    api = Api(first.client())
    untouched = api.start(env={"KERNEL_COLOUR": "green"})["id"]
    document = api.add("a.ipynb")
    api.client.run("x = 1", session_id=document["kernel"]["id"])
    api.change(document, path="b.ipynb", name="b")
    closed = api.client.run("y = 2")["session_id"]
    api.ask("DELETE", f"/api/kernels/{closed}", status=204)
    known = {each["id"]: (each["path"], each["name"], each["kernel"]["id"]) for each in api.documents()}
    first.stop()

    api = Api(start_server(environment).wait_ready().client())
    assert api.ids() == {untouched, document["kernel"]["id"]}
    assert {each["id"]: (each["path"], each["name"], each["kernel"]["id"]) for each in api.documents()} == known
    assert known[document["id"]][:2] == ("b.ipynb", "b")
    reply = api.client.run("print(x)", session_id=document["kernel"]["id"])
    assert (reply["stdout"], reply["runtime_status"]) == ("1\n", "restored")
    colour = "import os; print(os.environ['KERNEL_COLOUR'])"
    assert api.client.printed(colour, session_id=untouched) == "green\n"
    assert api.client.session(closed)["closed"] is True
    assert api.add("b.ipynb")["id"] == document["id"]


# --- pages of other sites


def allowed(answer: requests.Response) -> str | None:
    return answer.headers.get("Access-Control-Allow-Origin")


@pytest.mark.parametrize("path", ["/exec", "/sessions", "/api/kernels", "/api/sessions/x", "/health"])
def test_a_page_that_is_listed_may_ask(gate: Server, path: str) -> None:
    """What a browser asks first: without a key; the answer names the page's site, never any."""
    headers = {
        "Origin": SITE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key",
    }
    answer = requests.options(gate.url + path, headers=headers, timeout=30)
    assert (answer.status_code, answer.content, allowed(answer)) == (204, b"", SITE)
    assert answer.headers["Vary"] == "Origin"
    assert {"GET", "POST", "PATCH", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    named = {name.lower() for name in answer.headers["Access-Control-Allow-Headers"].split(", ")}
    assert {"authorization", "content-type", "x-api-key"} <= named
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_page_that_is_listed_reads_answers_and_errors(gate: Server) -> None:
    for headers, status in (({"x-api-key": KEY}, 200), ({}, 401)):
        answer = requests.get(f"{gate.url}/api/kernels", headers={"Origin": SITE, **headers}, timeout=30)
        assert (answer.status_code, allowed(answer)) == (status, SITE)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://lab.example.com", f"{SITE}.evil.example", "null"]
)
def test_a_page_that_is_not_listed_reads_nothing(gate: Server, origin: str) -> None:
    for method in ("OPTIONS", "GET"):
        headers = {"Origin": origin, "x-api-key": KEY}
        answer = requests.request(method, f"{gate.url}/api/kernels", headers=headers, timeout=30)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_without_cors_no_page_reads_anything(server: Server) -> None:
    for method in ("OPTIONS", "GET"):
        headers = {"Origin": SITE, "x-api-key": KEY}
        answer = requests.request(method, f"{server.url}/api/kernels", headers=headers, timeout=30)
        assert answer.status_code in (200, 204)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
