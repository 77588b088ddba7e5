"""The past of sessions over HTTP: history, undo, forks; and a look at their variables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.server import OTHER_KEY, Client, Json, Server, Servers, new_id

DIE = "import os\nos.kill(os.getpid(), 9)"


@pytest.fixture(scope="module")
def keeper(servers: Servers) -> Iterator[Server]:
    """A server with the usual bounds of history. No error of its own may be in its log."""
    with servers.serving({"CONTAINER_POOL_PY_MIN": "2"}) as server:
        yield server


@pytest.fixture(scope="module")
def forgetful(servers: Servers) -> Iterator[Server]:
    """A server that keeps little history."""
    bounds = {"HISTORY_MAX_ENTRIES": "5", "HISTORY_MAX_MB": "4", "HISTORY_ENTRY_KB": "4"}
    with servers.serving({"CONTAINER_POOL_PY_MIN": "2", **bounds}) as server:
        yield server


class Talk:
    """One session of one owner."""

    def __init__(self, client: Client, session_id: str = "") -> None:
        self.client = client
        self.id = session_id or new_id()

    def run(self, code: str) -> Json:
        return self.client.run(code, session_id=self.id)

    def printed(self, code: str) -> str:
        return self.client.printed(code, session_id=self.id)

    def lose_kernel(self) -> None:
        assert self.run(DIE)["status"] == "killed"

    def get(self, path: str, **params: Any) -> Json:
        answer = self.client.request("GET", f"/sessions/{self.id}{path}", params=params)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def history(self, **params: Any) -> list[Json]:
        return list(self.get("/history", **params)["history"])

    def post(self, path: str, body: object = None, status: int = 200) -> Json:
        answer = self.client.request(
            "POST", f"/sessions/{self.id}{path}", data=None if body is None else json.dumps(body)
        )
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    def undo(self, steps: int = 1) -> Json:
        return self.post("/undo", {"steps": steps})

    def fork(self, **body: Any) -> list[Talk]:
        made = self.post("/fork", body, status=201)["sessions"]
        return [Talk(self.client, each["session_id"]) for each in made]

    def variable(self, name: str, **params: Any) -> Json:
        return self.get(f"/vars/{quote(name, safe='')}", **params)

    def end(self) -> None:
        assert self.client.delete(self.id).status_code in (204, 404)


@pytest.fixture
def talk(keeper: Server) -> Iterator[Talk]:
    talk = Talk(keeper.client())
    yield talk
    talk.end()


# --- history


def test_history_tells_what_ran_and_what_came_of_it(talk: Talk) -> None:
    talk.run("x = 1\nprint('out')\nimport sys\nsys.stderr.write('err')")
    talk.run("1 / 0")
    talk.run("[1, 2]")
    shown = talk.get("/history")
    assert (shown["session_id"], shown["version"], shown["executions"]) == (talk.id, 2, 3)
    first, failed, last = shown["history"]
    assert (first["number"], first["base"], first["version"], first["status"]) == (1, 0, 1, "ok")
    assert (first["stdout"], first["stderr"], first["exit_code"], first["undone"]) == ("out\n", "err", 0, False)
    assert first["code"].startswith("x = 1\n")
    assert first["started"] < failed["started"] < last["started"]
    assert (failed["status"], failed["base"], failed["version"], failed["exit_code"]) == ("error", 1, 1, 1)
    assert failed["outputs"][0]["ename"] == "ZeroDivisionError"
    assert (last["version"], last["outputs"][0]["data"]["text/plain"]) == (2, "[1, 2]")
    assert [each["restorable"] for each in shown["history"]] == [True, True, True]


def test_history_is_given_in_pages(talk: Talk) -> None:
    for number in range(5):
        talk.run(f"x = {number}")
    assert [each["number"] for each in talk.history(limit=2)] == [4, 5]
    assert [each["number"] for each in talk.history(limit=2, before=4)] == [2, 3]
    assert [each["number"] for each in talk.history(limit=1000, before=2)] == [1]
    assert talk.history(before=1) == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=-1", "limit=x", "before=x", "before=0", "limit=1.5"]
)
def test_a_page_that_cannot_be_is_refused(talk: Talk, query: str) -> None:
    answer = talk.client.request("GET", f"/sessions/{talk.id}/history?{query}", params={})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_large_outputs_are_cut_in_history_only(forgetful: Server) -> None:
    talk = Talk(forgetful.client())
    reply = talk.run("print('é' * 100_000)\n# " + "x" * 50_000)
    assert len(reply["stdout"]) == 100_001
    (entry,) = talk.history()
    assert entry["cut"] is True
    assert entry["stdout"].startswith("é")
    assert len(json.dumps(entry)) < 8000
    talk.end()


# --- undo


def test_undo_takes_back_variables_and_files(talk: Talk) -> None:
    talk.run("x = [1]\nopen('f', 'w').write('1')")
    talk.run("x.append(2)\nopen('f', 'w').write('2')\nopen('g', 'w')")
    assert talk.undo() == {"session_id": talk.id, "version": 1, "undone": [2]}
    reply = talk.run("import os\nprint(x, open('f').read(), os.listdir())")
    assert (reply["stdout"], reply["runtime_status"], reply["execution_count"]) == ("[1] 1 ['f']\n", "restored", 2)
    assert (reply["state"]["version"], talk.get("")["executions"]) == (3, 3)


def test_undo_takes_back_several_failed_ones_too(talk: Talk) -> None:
    for code in ("x = 1", "x = 2", "x = 3\n1 / 0", "x = 4"):
        talk.run(code)
    assert talk.undo(3)["undone"] == [2, 3, 4]
    assert [each["undone"] for each in talk.history()] == [False, True, True, True]
    assert talk.printed("print(x)") == "1\n"
    assert talk.undo(2)["version"] == 0
    reply = talk.run("print('x' in globals())")
    assert (reply["stdout"], reply["runtime_status"]) == ("False\n", "new")


def test_executions_after_an_undo_can_be_undone(talk: Talk) -> None:
    for code in ("x = 1", "x = 2"):
        talk.run(code)
    talk.undo()
    talk.run("x = 30")
    talk.run("x = 40")
    assert talk.undo()["undone"] == [4]
    assert talk.printed("print(x)") == "30\n"
    assert talk.undo(2)["undone"] == [3, 5]
    assert talk.printed("print(x)") == "1\n"


def test_too_many_steps_change_nothing(talk: Talk) -> None:
    talk.run("x = 1")
    assert talk.post("/undo", {"steps": 2}, status=409)["error"] == "conflict"
    assert talk.get("")["version"] == 1
    assert talk.printed("print(x)") == "1\n"
    talk.undo(2)
    assert talk.post("/undo", status=409)["error"] == "conflict"


def test_what_is_undone_outlives_the_kernel(talk: Talk) -> None:
    talk.run("x = 1")
    talk.run("x = 2")
    assert talk.post("/undo")["version"] == 1
    assert talk.printed("print(x)") == "1\n"
    talk.lose_kernel()
    assert talk.printed("print(x)") == "1\n"


@pytest.mark.parametrize(
    "body",
    [
        [],
        "x",
        {"steps": 0},
        {"steps": -1},
        {"steps": "1"},
        {"steps": 1.5},
        {"steps": True},
        {"steps": 1 << 70},
        {"steps": None},
        {"user_id": 5},
    ],
)
def test_an_undo_that_cannot_be_read_is_refused(talk: Talk, body: object) -> None:
    assert talk.post("/undo", body, status=400)["error"] == "invalid_request"


# --- forks


def test_forks_are_independent_of_each_other_and_of_their_parent(talk: Talk) -> None:
    talk.run("x = [1]\nopen('f', 'w').write('old')")
    one, two = talk.fork(count=2)
    talk.run("x.append('parent')\nopen('f', 'w').write('parent')")
    one.run("x.append('one')\nopen('f', 'w').write('one')")
    for each, expected in ((talk, "parent"), (one, "one")):
        assert each.printed("print(x, open('f').read())") == f"[1, '{expected}'] {expected}\n"
    assert two.printed("print(x, open('f').read())") == "[1] old\n"
    talk.end()
    for each, expected in ((one, "[1, 'one'] one\n"), (two, "[1] old\n")):
        each.lose_kernel()
        assert each.printed("print(x, open('f').read())") == expected
        each.end()


def test_a_fork_goes_on_from_an_earlier_version(talk: Talk) -> None:
    for code in ("x = 1", "x = 2\n'two'", "x = 3"):
        talk.run(code)
    (second,) = talk.fork(at=2)
    assert [each["code"] for each in second.history()] == ["x = 1", "x = 2\n'two'"]
    reply = second.run("print(x, _)")
    assert (reply["stdout"], reply["runtime_status"], reply["execution_count"]) == ("2 two\n", "restored", 3)
    second.undo(2)
    assert second.printed("print(x)") == "1\n"
    (empty,) = talk.fork(at=0)
    assert empty.history() == []
    assert empty.printed("print('x' in globals())") == "False\n"
    assert talk.printed("print(x)") == "3\n"
    for each in (second, empty):
        each.end()


def test_a_fork_of_what_was_undone_is_possible(talk: Talk) -> None:
    talk.run("x = 1")
    talk.run("x = 2")
    talk.undo()
    (undone,) = talk.fork(at=2)
    assert undone.printed("print(x)") == "2\n"
    assert talk.printed("print(x)") == "1\n"
    undone.undo(2)
    assert undone.printed("print(x)") == "1\n"
    undone.end()


def test_a_fork_of_a_fork_outlives_both(talk: Talk) -> None:
    talk.run("data = bytes(range(256)) * 20_000")
    (child,) = talk.fork()
    (grandchild,) = child.fork()
    talk.end()
    child.end()
    assert grandchild.printed("print(len(data), data[:3])") == "5120000 b'\\x00\\x01\\x02'\n"
    grandchild.end()


def test_the_parents_kernel_stays_when_it_is_forked(talk: Talk) -> None:
    talk.run("x = 1")
    (fork,) = talk.fork()
    assert talk.run("x += 1")["runtime_status"] == "reused"
    talk.lose_kernel()
    assert talk.printed("print(x)") == "2\n"
    fork.end()


def test_forks_are_listed_and_belong_to_their_owner(keeper: Server, talk: Talk) -> None:
    talk.run("x = 1")
    (fork,) = talk.fork()
    listed = talk.client.request("GET", "/sessions").json()["sessions"]
    assert {talk.id, fork.id} <= {each["session_id"] for each in listed}
    stranger = keeper.client(OTHER_KEY)
    assert stranger.request("GET", f"/sessions/{fork.id}").status_code == 404
    assert stranger.request("GET", "/sessions").json()["sessions"] == []
    fork.end()


def test_a_version_that_never_was_cannot_be_forked(talk: Talk) -> None:
    talk.run("x = 1")
    assert talk.post("/fork", {"at": 2}, status=409)["error"] == "conflict"


@pytest.mark.parametrize(
    "body",
    [
        [],
        "x",
        {"at": -1},
        {"at": "1"},
        {"at": 1.5},
        {"count": 0},
        {"count": 101},
        {"count": True},
        {"user_id": []},
    ],
)
def test_a_fork_that_cannot_be_read_is_refused(talk: Talk, body: object) -> None:
    assert talk.post("/fork", body, status=400)["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/history"), ("POST", "/undo"), ("POST", "/fork"), ("GET", "/vars"), ("GET", "/vars/x")],
)
def test_another_owners_session_is_not_there(keeper: Server, talk: Talk, method: str, path: str) -> None:
    talk.run("x = 1")
    for stranger in (keeper.client(OTHER_KEY), keeper.client().as_user("ann")):
        answer = stranger.request(
            method,
            f"/sessions/{talk.id}{path}",
            json={"user_id": stranger.user or ""} if method == "POST" else None,
        )
        missing = stranger.request(method, f"/sessions/{new_id()}{path}", json={} if method == "POST" else None)
        assert answer.status_code == missing.status_code == 404
        assert answer.json()["error"] == missing.json()["error"] == "session_not_found"
    assert talk.get("/history")["executions"] == 1


# --- bounds


def test_old_executions_are_forgotten_and_forks_keep_what_they_need(forgetful: Server) -> None:
    talk = Talk(forgetful.client())
    talk.run("import os\ndata = os.urandom(200_000)\nx = 0")
    first = talk.printed("print(data[:8].hex(), x)")
    (fork,) = talk.fork(at=1)
    for number in range(1, 14):
        talk.run(f"data = os.urandom(200_000)\nx = {number}")
    shown = talk.get("/history")
    numbers = [each["number"] for each in shown["history"]]
    assert shown["executions"] == 15
    assert numbers == list(range(16 - len(numbers), 16))
    assert 5 <= len(numbers) <= 6
    assert talk.post("/fork", {"at": 1}, status=409)["error"] == "conflict"
    assert talk.post("/undo", {"steps": 10}, status=409)["error"] == "conflict"
    assert talk.undo(len(numbers))["version"] == 15 - len(numbers)
    assert talk.printed("print(x)") == f"{13 - len(numbers)}\n"
    assert fork.printed("print(data[:8].hex(), x)") == first
    for _ in range(8):
        fork.run("data = os.urandom(200_000)")
    fork.lose_kernel()
    assert fork.printed("print(x, len(data))") == "0 200000\n"
    for each in (talk, fork):
        each.end()


def test_versions_that_take_too_much_room_cannot_be_restored_but_are_remembered(forgetful: Server) -> None:
    talk = Talk(forgetful.client())
    for number in range(4):
        talk.run(f"import os\ndata = os.urandom(3 << 20)\nx = {number}")
    history = talk.history()
    assert [each["number"] for each in history] == [1, 2, 3, 4]
    assert [each["restorable"] for each in history] == [False, False, True, True]
    assert talk.post("/fork", {"at": 1}, status=409)["error"] == "conflict"
    assert talk.post("/undo", {"steps": 3}, status=409)["error"] == "conflict"
    assert talk.undo()["version"] == 3
    assert talk.printed("print(x, len(data))") == f"2 {3 << 20}\n"
    talk.end()


# --- variables


def test_variables_are_listed_with_type_size_shape_and_preview(talk: Talk) -> None:
    talk.run(
        "import numpy as np, pandas as pd\nn = 5\ntext = 'x' * 10_000\ngrid = np.zeros((3, 4))\n"
        "frame = pd.DataFrame({'a': [1, 2], 'b': ['x', None]})\ndef f(): pass"
    )
    shown = {each["name"]: each for each in talk.get("/vars")["variables"]}
    assert set(shown) >= {"n", "text", "grid", "frame", "f"}
    assert not set(shown) & {"In", "Out", "_", "get_ipython", "exit", "open"}
    assert (shown["n"]["type"], shown["n"]["preview"]) == ("int", "5")
    assert (shown["text"]["length"], len(shown["text"]["preview"]) < 500) == (10_000, True)
    assert (shown["grid"]["shape"], shown["grid"]["type"]) == ([3, 4], "ndarray")
    assert (shown["frame"]["shape"], shown["frame"]["size"] > 0) == ([2, 2], True)


def test_a_data_frame_is_shown_by_rows(talk: Talk) -> None:
    talk.run(
        "import pandas as pd, numpy as np\nframe = pd.DataFrame({'n': range(2000), 'f': [1.5, np.nan] * 1000, "
        "'s': 'x', 't': pd.Timestamp('2024-01-01')})"
    )
    shown = talk.variable("frame", rows=2, offset=1)
    assert (shown["shape"], shown["total"], shown["offset"]) == ([2000, 4], 2000, 1)
    assert len(shown["rows"]) == 2
    assert "1.5" in json.dumps(shown["rows"][1])
    assert "NaN" not in json.dumps(shown["rows"])
    assert shown["dtypes"]["n"] == "int64"
    assert len(talk.variable("frame", rows=1000)["rows"]) == 1000
    assert talk.variable("frame", offset=5000)["rows"] == []
    assert 0 < len(talk.variable("frame")["rows"]) <= 1000


def test_arrays_and_containers_are_shown_by_items(talk: Talk) -> None:
    talk.run(
        "import numpy as np\ngrid = np.arange(20).reshape(10, 2)\nitems = list(range(50))\n"
        "keyed = {'a': 1, 2: [3]}\n"
        "number = 7\nunique = {1, 2}"
    )
    assert talk.variable("grid", rows=1, offset=9)["rows"] == [[18, 19]]
    assert talk.variable("items", rows=3, offset=48)["rows"] == [48, 49]
    assert talk.variable("items", rows=0)["rows"] == []
    assert "a" in json.dumps(talk.variable("keyed")["rows"])
    assert talk.variable("number")["preview"] == "7"
    assert sorted(talk.variable("unique")["rows"]) == [1, 2]


@pytest.mark.parametrize("query", ["rows=1001", "rows=-1", "rows=x", "offset=-1", "offset=x"])
def test_rows_that_cannot_be_are_refused(talk: Talk, query: str) -> None:
    talk.run("x = 1")
    answer = talk.client.request("GET", f"/sessions/{talk.id}/vars/x?{query}", params={})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_an_unknown_variable_is_not_found(talk: Talk) -> None:
    talk.run("x = 1")
    for name in ("y", "x.real", "é", "a" * 2000, "%00"):
        answer = talk.client.request("GET", f"/sessions/{talk.id}/vars/{quote(name, safe='')}")
        assert (answer.status_code, answer.json()["error"]) == (404, "variable_not_found"), name


def test_odd_names_are_found(talk: Talk) -> None:
    talk.run(
        "größe = 1\nglobals()['a b/c?d#e%20'] = 2\nglobals()['..'] = 3\nglobals()['\\ud800'] = 4\nglobals()[5] = 6"
    )
    names = {each["name"] for each in talk.get("/vars")["variables"]}
    assert {"größe", "a b/c?d#e%20", ".."} <= names
    assert talk.variable("größe")["preview"] == "1"
    assert talk.variable("a b/c?d#e%20")["preview"] == "2"


def test_looking_at_variables_restores_the_session(talk: Talk) -> None:
    talk.run("x = [1, 2, 3]")
    talk.lose_kernel()
    assert talk.get("")["state"] == "dormant"
    assert talk.variable("x")["rows"] == [1, 2, 3]
    assert talk.get("")["state"] == "idle"
    reply = talk.run("print(x)")
    assert (reply["runtime_status"], reply["stdout"], reply["state"]["version"]) == ("reused", "[1, 2, 3]\n", 2)


def test_looking_at_variables_is_no_execution(talk: Talk) -> None:
    talk.run("x = 1")
    talk.get("/vars")
    talk.variable("x")
    shown = talk.get("/history")
    assert (shown["executions"], shown["version"]) == (1, 1)
    assert talk.run("print(_ih)")["execution_count"] == 2


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "raise SystemExit",
        "return 'x' * (1 << 28)",
        "return 5",
        "import sys; sys.stdout.write('SAID'); return 'said'",
        "return '\\ud800\\x00'",
    ],
    ids=["hangs", "leaves", "is huge", "is no text", "prints", "is odd"],
)
def test_a_hostile_repr_hurts_nobody(talk: Talk, body: str) -> None:
    talk.run(
        f"class A:\n    def __repr__(self):\n        {body}\n    __str__ = __len__ = __repr__\na = A()\nx = [a]"
    )
    shown = {each["name"]: each for each in talk.get("/vars")["variables"]}
    assert shown["a"]["type"] == "A"
    assert all(len(each["preview"]) < 2000 for each in shown.values())
    assert talk.variable("a")["name"] == "a"
    reply = talk.run("print('well')")
    assert (reply["stdout"], reply["runtime_status"]) == ("well\n", "reused")


def test_a_kernel_that_dies_when_it_is_looked_at_costs_only_that(talk: Talk) -> None:
    talk.run("x = 1")
    talk.run("class A:\n    def __repr__(self):\n        import os\n        os._exit(1)\na = A()")
    answer = talk.client.request("GET", f"/sessions/{talk.id}/vars")
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
    assert talk.printed("print(x)") == "1\n"
