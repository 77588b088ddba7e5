"""Notebooks: a session exported as one, one run in a session; parameters, checks, hostile input and output."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import nbformat
import pytest
import requests

from kernelgate.api.parse_notebook import parse_flag, parse_notebook
from kernelgate.errors import InvalidRequest, RateLimited, UnsupportedLanguage
from kernelgate.languages import PYTHON
from kernelgate.notebook.document import MAX_CELLS, read_notebook
from kernelgate.notebook.export import exported, kernelspec, language_info, pinned_versions, timing
from kernelgate.notebook.outputs import fitting
from kernelgate.notebook.parameters import assignments, parameterized
from kernelgate.notebook.run import Emit, Run
from kernelgate.sessions.notebooks import packages
from tests.server import PROMPT, Client, Json, Server, new_id, wait_for


def validate(notebook: Json) -> None:
    """Fail when nbformat does not take the notebook as valid, or would have to repair it."""
    text = json.dumps(notebook, allow_nan=False)
    nbformat.validate(nbformat.from_dict(json.loads(text)))  # type: ignore[no-untyped-call]


def code(source: object, *tags: str, **fields: Any) -> Json:
    """A code cell as lean as clients send it."""
    metadata = {"metadata": {"tags": list(tags)}} if tags else {}
    return {"cell_type": "code", "source": source, **metadata, **fields}


def notebook(*cells: Json, **metadata: Any) -> Json:
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": list(cells)}


def body(document: object, **options: Any) -> bytes:
    return json.dumps({"notebook": document, **options}).encode()


def refusal(document: object) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_notebook(document)
    message = str(caught.value)
    assert message.isascii()
    assert len(message) < 300
    return message


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


# --- what comes in


def test_a_lean_notebook_becomes_a_valid_one() -> None:
    """No ids, no metadata, no outputs, sources as lists of lines, fields that nobody knows."""
    lean = {"cells": [code(["a = 1\n", "a"], unknown=1), {"cell_type": "markdown", "source": "# Title"}]}
    read = read_notebook(lean)
    validate(read.to_json())
    assert [cell["source"] for cell in read.cells] == ["a = 1\na", "# Title"]
    assert read.cells[0]["outputs"] == []
    assert "unknown" not in read.cells[0]
    assert len({cell["id"] for cell in read.cells}) == 2


def test_ids_metadata_and_attachments_stay() -> None:
    picture = {"picture.png": {"image/png": "AA=="}}
    cells = [
        {"id": "first", "cell_type": "markdown", "metadata": {"mine": [1]}, "source": "", "attachments": picture},
        {"id": "second", "cell_type": "raw", "metadata": {"format": "text/latex"}, "source": "x"},
    ]
    read = read_notebook(notebook(*cells, title="T", more={"a": None}))
    validate(read.to_json())
    assert read.cells == cells
    assert read.metadata == {"title": "T", "more": {"a": None}}


def test_outputs_of_cells_that_will_run_are_not_looked_at() -> None:
    read = read_notebook(notebook(code("1", outputs="nonsense", execution_count="nonsense")))
    assert (read.cells[0]["outputs"], read.cells[0]["execution_count"]) == ([], None)


def test_a_cell_that_is_passed_over_keeps_its_outputs() -> None:
    output = {"output_type": "stream", "name": "stdout", "text": ["x\n", "y"]}
    read = read_notebook(notebook(code("1", "skip-execution", outputs=[output], execution_count=7)))
    validate(read.to_json())
    assert (read.cells[0]["outputs"], read.cells[0]["execution_count"]) == ([output], 7)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "notebook: a notebook of nbformat 4, which is an object, is expected, got a list of 0"),
        ({}, "notebook.cells: a list is expected, got null"),
        ({"cells": {}}, "notebook.cells: a list is expected, got an object"),
        ({"cells": [], "nbformat": 5}, "notebook.nbformat: 4 (or 3) is expected, got 5"),
        ({"cells": [], "nbformat": "4"}, "notebook.nbformat: 4 (or 3) is expected, got '4'"),
        ({"cells": [], "nbformat": 4.0}, "notebook.nbformat: 4 (or 3) is expected, got 4.0"),
        ({"cells": [], "nbformat": [4]}, "notebook.nbformat: 4 (or 3) is expected, got a list of 1"),
        ({"cells": [], "metadata": 1}, "notebook.metadata: an object is expected, got 1"),
        ({"cells": [], "metadata": {"kernelspec": {}}}, "notebook.metadata.kernelspec: an object with the texts"),
        ({"cells": [], "metadata": {"language_info": {"name": 1}}}, "notebook.metadata.language_info: an object"),
        ({"cells": [3]}, "notebook.cells[0]: an object is expected, got 3"),
        ({"cells": [{"source": ""}]}, "notebook.cells[0].cell_type: code, markdown or raw is expected, got null"),
        ({"cells": [{"cell_type": ["code"]}]}, "notebook.cells[0].cell_type: code, markdown or raw"),
        ({"cells": [code(7)]}, "notebook.cells[0].source: a text or a list of texts is expected, got 7"),
        ({"cells": [code(["x", 1])]}, "notebook.cells[0].source: a text or a list of texts is expected"),
        ({"cells": [code("'\ud800'")]}, "notebook.cells[0].source: whole characters are expected, got lone"),
        ({"cells": [code("", id="")]}, "notebook.cells[0].id: 1 to 64 letters, digits"),
        ({"cells": [code("", id="a b")]}, "notebook.cells[0].id: 1 to 64 letters, digits"),
        ({"cells": [code("", id="a\n")]}, "notebook.cells[0].id: 1 to 64 letters, digits"),
        ({"cells": [code("", id="a"), code("", id="a")]}, "notebook.cells[1].id: an id of its own is expected"),
        ({"cells": [code("", metadata=[])]}, "notebook.cells[0].metadata: an object is expected"),
        ({"cells": [code("", metadata={"tags": "a"})]}, "notebook.cells[0].metadata.tags: a list of different"),
        ({"cells": [code("", metadata={"tags": [1]})]}, "notebook.cells[0].metadata.tags: a list of different"),
        (
            {"cells": [code("", metadata={"tags": [["x"]]})]},
            "notebook.cells[0].metadata.tags: a list of different",
        ),
        ({"cells": [code("", "a", "a")]}, "notebook.cells[0].metadata.tags: a list of different texts"),
        ({"cells": [code("", "a,b")]}, "notebook.cells[0].metadata.tags: a list of different texts"),
        ({"cells": [code("", metadata={"scrolled": 1})]}, "notebook.cells[0].metadata.scrolled: true, false or"),
        ({"cells": [code("", metadata={"deep": nested(100)})]}, "notebook.cells[0].metadata: at most 64 levels"),
        ({"cells": [code("", metadata={"n": float("nan")})]}, "notebook.cells[0].metadata: finite numbers are"),
        (
            {"cells": [code("", metadata={"\udfff": 1})]},
            "notebook.cells[0].metadata: whole characters are expected",
        ),
        ({"cells": [code("", outputs=[{}])]}, "notebook.cells[0].outputs[0].output_type: stream, display_data"),
        ({"cells": [code("", execution_count=-1)]}, "notebook.cells[0].execution_count: a whole number or null"),
        (
            {"cells": [code("", outputs=[{"output_type": "stream", "name": "stdout", "text": 1}])]},
            "notebook.cells[0].outputs[0].text: a text or a list of texts is expected, got 1",
        ),
        (
            {"cells": [{"cell_type": "markdown", "source": "", "attachments": {"a": {"image/png": 1}}}]},
            "notebook.cells[0].attachments: texts by MIME type are expected",
        ),
        ({"cells": [{}] * 100_000}, f"notebook.cells: at most {MAX_CELLS} cells are expected, got 100000"),
        ({"nbformat": 3, "worksheets": {}}, "notebook.worksheets: a list is expected in nbformat 3"),
        ({"nbformat": 3, "worksheets": [1]}, "notebook.worksheets[0]: an object with a list of cells is expected"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_what_is_no_notebook_is_refused_with_its_place(document: object, said: str) -> None:
    assert refusal(document).startswith(said)


def test_what_is_accepted_at_its_bounds_is_valid() -> None:
    """The longest id, the deepest metadata, odd but right names and tags."""
    metadata = {"deep": nested(62), "tags": ["a b", "ü"], "name": "n", "collapsed": True, "scrolled": "auto"}
    read = read_notebook(notebook(code("1", id="x" * 64, metadata=metadata)))
    validate(read.to_json())
    assert read.cells[0]["metadata"] == metadata


def test_nbformat_3_is_upgraded_as_nbformat_does_it() -> None:
    cells: list[Json] = [
        {"cell_type": "heading", "level": 2, "source": ["A\n", "title"], "metadata": {}},
        {"cell_type": "markdown", "source": ["text"], "metadata": {"k": 1}},
        {"cell_type": "html", "source": "<b>x</b>", "metadata": {}},
        {
            "cell_type": "code",
            "input": ["a = 1\n", "a"],
            "outputs": [{"output_type": "pyout"}],
            "language": "python",
        },
    ]
    document = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": "old"}, "worksheets": [{"cells": cells}]}
    read = read_notebook(document)
    validate(read.to_json())
    assert [(cell["cell_type"], cell["source"]) for cell in read.cells] == [
        ("markdown", "## A title"),
        ("markdown", "text"),
        ("markdown", "<b>x</b>"),
        ("code", "a = 1\na"),
    ]
    for cell in cells:
        cell.setdefault("metadata", {})
        cell.update({key: "".join(cell[key]) for key in ("source", "input") if key in cell}, outputs=[])
    theirs = nbformat.convert(nbformat.from_dict(document), 4)  # type: ignore[no-untyped-call]
    assert [cell["cell_type"] for cell in theirs.cells] == [cell["cell_type"] for cell in read.cells]
    assert ["".join(cell["source"]) for cell in theirs.cells] == [cell["source"] for cell in read.cells]


@pytest.mark.parametrize("level", [0, 7, 1.5, "2", None, [1], True])
def test_a_heading_of_an_odd_level_is_a_heading(level: object) -> None:
    cell = {"cell_type": "heading", "level": level, "source": "t"}
    read = read_notebook({"nbformat": 3, "worksheets": [{"cells": [cell]}]})
    assert read.cells[0]["source"] == "# t"


# --- the body


def test_a_bare_notebook_is_a_body() -> None:
    parsed = parse_notebook(json.dumps(notebook(code("1"))).encode())
    assert (len(parsed.notebook.cells), parsed.stop_on_error, parsed.timeout) == (1, True, None)
    assert (parsed.keep, parsed.user_id, parsed.language) == (True, None, PYTHON)


def test_the_options_of_a_body_are_read() -> None:
    options = {"on_error": "continue", "timeout": 1500, "user_id": "u", "keep": False, "parameters": {"a": 1}}
    parsed = parse_notebook(body(notebook(code("a")), **options))
    assert (parsed.stop_on_error, parsed.timeout, parsed.user_id, parsed.keep) == (False, 1.5, "u", False)
    assert [cell["source"] for cell in parsed.notebook.cells] == ["# Parameters\na = 1", "a"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_error": "ignore"}, "on_error: 'stop' or 'continue' is expected, got 'ignore'"),
        ({"on_error": ["stop"]}, "on_error: 'stop' or 'continue' is expected"),
        ({"timeout": 99}, "timeout: milliseconds from 100 to 300000 are expected, got 99"),
        ({"timeout": True}, "timeout: milliseconds from 100 to 300000 are expected, got true"),
        ({"timeout": float("nan")}, "timeout: milliseconds from 100 to 300000 are expected, got nan"),
        ({"keep": "no"}, "keep: true or false is expected, got 'no'"),
        ({"user_id": 5}, "user_id: a text of at most 256 characters is expected"),
        ({"parameters": [1]}, "parameters: an object of names and values is expected"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Json, said: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(said)):
        parse_notebook(body(notebook(), **options))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"{}", b'{"notebok": {}}', b"[" * 100_000])
def test_bodies_without_a_notebook_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_notebook(text)


def test_a_body_of_countless_lists_is_refused_before_it_is_read() -> None:
    text = b'{"cells": [], "metadata": {"a": [' + b"[1]," * 1_000_000 + b"1]}}"
    with pytest.raises(InvalidRequest, match="at most 1000000 lists and objects are expected in the body"):
        parse_notebook(text)


def test_a_notebook_in_another_language_is_refused() -> None:
    document = notebook(code("1"), kernelspec={"name": "ir", "display_name": "R", "language": "R"})
    with pytest.raises(UnsupportedLanguage, match="a language of py is expected, got 'R'"):
        parse_notebook(body(document))
    with pytest.raises(UnsupportedLanguage):
        parse_notebook(body(notebook(language_info={"name": "julia"})))


def test_a_flag_is_true_or_false() -> None:
    assert [parse_flag(text, "f") for text in ("true", "1", "False", "0")] == [True, True, False, False]
    with pytest.raises(InvalidRequest, match="f: true or false is expected"):
        parse_flag("yes", "f")


# --- parameters


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -3,
    10**400,
    1.5,
    -0.0,
    float("inf"),
    float("-inf"),
    "",
    "a'b\"c\\\n\r\t\0 #{}%s \u2028 ü 🎉",
    "'''\"\"\"; import os",
    "\ud800",
    [1, [2.5, None], {}],
    {"k": [True], "": {"'": "\\"}},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_parameter_comes_out_as_it_went_in(value: Any) -> None:
    source = assignments({"x": value})
    assert len(source.split("\n")) == 2
    found: Json = {}
    exec(compile(source, "parameters", "exec"), found)
    assert repr(found["x"]) == repr(value)


def test_nan_is_a_parameter() -> None:
    assert assignments({"x": float("nan")}) == "# Parameters\nx = float('nan')"


@pytest.mark.parametrize(
    "name",
    [
        "__import__",
        "__name__",
        "__debug__",
        "class",
        "None",
        "",
        "1a",
        "a b",
        "a=1;b",
        "a.b",
        "a\nb",
        "\ud800",
        "\uff49\uff46",
    ],
)
def test_names_that_no_variable_may_have_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="parameters: names of Python variables are expected"):
        assignments({name: 1})


@pytest.mark.parametrize("value", [(1,), b"x", {1: 2}, {1, 2}, object(), [object()]])
def test_values_that_json_has_not_are_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"parameters\.x: null, a boolean, a number"):
        assignments({"x": value})


def test_values_that_python_could_not_parse_are_refused() -> None:
    compile(assignments({"x": nested(32)}), "parameters", "exec")
    with pytest.raises(InvalidRequest, match="at most 32 levels are expected"):
        assignments({"x": nested(33)})


def sources(*cells: Json, **parameters: Any) -> list[str]:
    made = parameterized(read_notebook(notebook(*cells)), parameters)
    validate(made.to_json())
    return [cell["source"] for cell in made.cells]


def test_parameters_come_after_the_cell_that_declares_them() -> None:
    cells = [code("import os"), code("a = 1", "parameters"), code("a")]
    assert sources(*cells, a=2) == ["import os", "a = 1", "# Parameters\na = 2", "a"]


def test_parameters_come_first_when_no_cell_declares_them() -> None:
    text = {"cell_type": "markdown", "source": "t", "metadata": {"tags": ["parameters"]}}
    assert sources(text, code("a"), a=2) == ["# Parameters\na = 2", "t", "a"]


def test_parameters_replace_those_of_an_earlier_run() -> None:
    cells = [code("a = 1", "parameters"), code("x"), code("a = 0", "injected-parameters", id="old")]
    assert sources(*cells, a=2) == ["a = 1", "x", "# Parameters\na = 2"]


def test_without_parameters_a_notebook_stays_as_it_is() -> None:
    assert sources(code("a = 1", "parameters")) == ["a = 1"]


def test_the_cell_with_parameters_is_tagged() -> None:
    made = parameterized(read_notebook(notebook()), {"a": 1})
    assert made.cells[0]["metadata"] == {"tags": ["injected-parameters"]}


# --- outputs, whatever code put out


@pytest.mark.parametrize(
    "data",
    [
        {"application/x\n+json": 5},
        {"text/plain": 5},
        {"image/png": {"a": 1}},
        {"application/json": nested(300)},
        {"application/vnd.x+json": nested(3), "text/html": [1]},
    ],
    ids=str,
)
def test_data_that_nbformat_refuses_is_left_out(data: Json) -> None:
    outputs = fitting([{"output_type": "display_data", "data": data, "metadata": {"deep": nested(300)}}], "ok")
    read = read_notebook(notebook(code("", outputs=outputs)))
    validate(read.to_json())
    assert len(outputs) == 1
    assert outputs[0]["metadata"] == {}


@pytest.mark.parametrize(("status", "name"), [("timeout", "Timeout"), ("killed", "KernelDied")])
def test_an_end_from_outside_is_an_error_output(status: str, name: str) -> None:
    outputs = fitting([], status)
    validate(read_notebook(notebook(code("", outputs=outputs))).to_json())
    assert [output["ename"] for output in outputs] == [name]


# --- a history as a notebook


def entry(number: int, **fields: Any) -> Json:
    shown = {"number": number, "version": number, "started": "2024-05-06T07:08:09.5+00:00", "status": "ok"}
    return {**shown, "undone": False, "code": f"code {number}", "outputs": [], "execution_count": number, **fields}


def test_a_history_becomes_cells_without_what_was_undone() -> None:
    entries = [entry(1), entry(2, undone=True), entry(3)]
    made = exported(entries, {}, undone=False)
    validate(made.to_json())
    assert [(cell["source"], cell["execution_count"]) for cell in made.cells] == [("code 1", 1), ("code 3", 3)]
    everything = exported(entries, {}, undone=True)
    assert [cell["metadata"]["kernelgate"]["undone"] for cell in everything.cells] == [False, True, False]


def test_a_restart_is_no_cell() -> None:
    made = exported([entry(1), entry(2, status="restart", code="")], {}, undone=True)
    assert [cell["source"] for cell in made.cells] == ["code 1"]


def test_what_history_no_longer_keeps_is_said() -> None:
    gone = {name: value for name, value in entry(1, code=None).items() if name != "outputs"}
    made = exported([gone, entry(2, cut=True), entry(3)], {}, undone=False)
    validate(made.to_json())
    assert made.cells[0]["source"] == ""
    kept = [cell["metadata"]["kernelgate"].get("kept") for cell in made.cells]
    assert kept == ["nothing", "in part", None]


def test_code_with_half_characters_is_exported() -> None:
    made = exported([entry(1, code="'\ud800'")], {}, undone=False)
    assert made.cells[0]["source"] == "'?'"


def test_times_are_written_as_nbclient_writes_them() -> None:
    times = timing("2024-05-06T09:08:09.5+02:00", 1500.25)
    assert times["iopub.execute_input"] == times["iopub.status.busy"] == "2024-05-06T07:08:09.500000Z"
    assert times["shell.execute_reply"] == times["iopub.status.idle"] == "2024-05-06T07:08:11.000250Z"


@pytest.mark.parametrize("told", [None, [], {"version": 3}, {"version": "3.11.2; x"}, {"version": "3" * 99}])
def test_a_kernel_tells_its_version_and_nothing_else(told: object) -> None:
    info = language_info(PYTHON, told)
    assert (info["name"], info["pygments_lexer"], "version" in info) == ("python", "ipython3", False)
    said = language_info(PYTHON, {"version": "3.14.0rc1", "name": "x", "nbconvert_exporter": "y"})
    assert said == {**info, "version": "3.14.0rc1"}


def test_the_packages_are_those_of_the_image() -> None:
    found = packages(PYTHON)
    assert {"numpy", "pandas", "ipykernel", "matplotlib"} <= set(found)
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.+]*", version) for version in found.values())
    assert pinned_versions("# a==1\nb==2 # c\nd[x]==3\ne>=4\n  f==5\ng.h-i==6;x") == {"b": "2", "g.h-i": "6"}


# --- a run, with something that plays the kernel


class Kernel:
    """Answers the code of cells: ``fail`` ends with an error, ``stall`` with a timeout, ``busy`` is refused."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    async def __call__(self, code: str, on_start: Callable[[], None], on_event: Emit) -> Json:
        if code == "busy":
            raise RateLimited("come again", 3)
        on_start()
        self.ran.append(code)
        on_event("stream", {"name": "stdout", "text": code})
        on_event("reply", {"not": "an output"})
        output = {"output_type": "stream", "name": "stdout", "text": code}
        status = {"fail": "error", "stall": "timeout"}.get(code, "ok")
        count = len(self.ran)
        about = {"status": status, "duration_ms": 1.0, "truncated": []}
        return {**about, "outputs": [output], "execution_count": count}


def run(
    *cells: Json, stop: bool = True, room: int = 1 << 20
) -> tuple[Json, list[Json], list[tuple[str, Json]], list[str]]:
    """Run cells; returns what came of it, the cells, the events, and the code that ran."""
    document, events, kernel = read_notebook(notebook(*cells)), list[tuple[str, Json]](), Kernel()
    emit = lambda name, data: events.append((name, data))  # noqa: E731
    about = asyncio.run(Run(document, "s", kernel, emit, stop, room).all_cells())
    validate(document.to_json())
    return about, document.cells, events, kernel.ran


def statuses(cells: list[Json]) -> list[str]:
    return [cell["metadata"]["kernelgate"]["status"] for cell in cells]


def test_cells_run_in_order_and_take_their_outputs() -> None:
    about, cells, events, ran = run(code("a"), {"cell_type": "markdown", "source": "m"}, code(" "), code("b"))
    assert ran == ["a", "b"]
    assert [cells[0]["execution_count"], cells[3]["execution_count"]] == [1, 2]
    assert cells[3]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "b"}]
    assert set(cells[0]["metadata"]["execution"]) >= {"iopub.execute_input", "shell.execute_reply"}
    assert about.pop("duration_ms") >= 0
    assert about == {"session_id": "s", "status": "ok", "failed_cell": None, "executed": 2}
    assert [name for name, _ in events] == ["start", *["cell_start", "stream", "cell_end"] * 2]
    assert events[0][1] == {"session_id": "s", "cells": 4}
    assert events[4][1] == {"index": 3, "id": cells[3]["id"]}
    assert events[5][1] == {"name": "stdout", "text": "b", "index": 3}
    assert events[6][1] == {"index": 3, "status": "ok", "execution_count": 2, "duration_ms": 1.0}


def test_the_first_error_stops_the_run() -> None:
    about, cells, _, ran = run(code("a"), code("fail"), code("b"))
    assert (ran, statuses(cells)) == (["a", "fail"], ["ok", "error", "pending"])
    assert (about["status"], about["failed_cell"], about["executed"]) == ("error", 1, 2)


def test_with_on_error_continue_all_cells_run() -> None:
    about, cells, _, _ = run(code("stall"), code("fail"), code("b"), stop=False)
    assert statuses(cells) == ["timeout", "error", "ok"]
    assert (about["status"], about["failed_cell"], about["executed"]) == ("timeout", 0, 3)


def test_an_error_that_is_expected_is_none() -> None:
    about, cells, _, _ = run(code("fail", "raises-exception"), code("a"))
    assert statuses(cells) == ["error", "ok"]
    assert (about["status"], about["failed_cell"]) == ("ok", None)


def test_a_timeout_where_an_error_is_expected_is_told_and_stops_nothing() -> None:
    about, cells, _, _ = run(code("stall", "raises-exception"), code("a"))
    assert statuses(cells) == ["timeout", "ok"]
    assert (about["status"], about["failed_cell"]) == ("timeout", 0)


def test_a_cell_to_be_skipped_stays_as_it_is() -> None:
    about, cells, _, ran = run(code("a", "skip-execution", execution_count=5), code("b"))
    assert (ran, statuses(cells), cells[0]["execution_count"]) == (["b"], ["skipped", "ok"], 5)
    assert about["executed"] == 1


def test_a_refusal_before_anything_ran_is_raised() -> None:
    with pytest.raises(RateLimited):
        run(code("busy"))


def test_a_refusal_later_keeps_what_ran_and_stops() -> None:
    about, cells, events, _ = run(code("a"), code("busy"), code("b"), stop=False)
    assert statuses(cells) == ["ok", "failure", "pending"]
    assert (about["status"], about["failed_cell"], about["executed"]) == ("failure", 1, 1)
    assert about["error"] == {"error": "rate_limited", "message": "come again", "retry_after_seconds": 3}
    assert [name for name, _ in events] == ["start", "cell_start", "stream", "cell_end"]


def test_outputs_beyond_the_bound_are_left_out_and_told() -> None:
    _, cells, _, _ = run(code("a"), code("b" * 500), code("c"), room=300)
    assert [cell["metadata"]["kernelgate"]["truncated"] for cell in cells] == [[], ["outputs"], []]
    assert "were left out" in cells[1]["outputs"][0]["text"]


def test_traces_of_an_earlier_run_are_gone() -> None:
    old = {"execution": {"iopub.execute_input": "x"}, "kernelgate": {"status": "ok"}}
    _, cells, _, _ = run(code("fail"), code("a", metadata=dict(old)), code("", metadata=dict(old)))
    assert cells[1]["metadata"] == {"kernelgate": {"status": "pending"}}
    assert cells[2]["metadata"]["kernelgate"] == {"status": "skipped"}


# --- a real server


@pytest.fixture(scope="module")
def gate(server: Server) -> Client:
    return server.client()


@pytest.fixture
def named(gate: Client) -> Iterator[str]:
    """The id of a session that ends with the test."""
    session_id = new_id()
    yield session_id
    gate.delete(session_id)


def execute(gate: Client, session_id: str, document: Json, **options: Any) -> Json:
    """Run a notebook in a session; returns the executed one, which must be valid."""
    answer = gate.request("POST", f"/sessions/{session_id}/notebook", json={"notebook": document, **options})
    assert answer.status_code == 200, answer.text
    validate(answer.json())
    return dict(answer.json())


def export(gate: Client, session_id: str, **params: str) -> Json:
    answer = gate.request("GET", f"/sessions/{session_id}/notebook", params=params)
    assert answer.status_code == 200, answer.text
    validate(answer.json())
    return dict(answer.json())


def printed(cell: Json) -> str:
    return "".join(output["text"] for output in cell["outputs"] if output["output_type"] == "stream")


HOSTILE = (
    "from IPython.display import display\n"
    "print('\\ud800', '\\x00', '\\x1b[31m')\n"
    "deep = 1\n"
    "for _ in range(400): deep = [deep]\n"
    "odd = {'application/x\\n+json': 5, 'text/plain': ['a', 1], 'image/png': 7, 'application/json': deep}\n"
    "display(odd, raw=True)\n"
    "display({'text/plain': 'x'}, raw=True, metadata={'deep': deep})\n"
    "type('E\\udfff', (Exception,), {})\n"
    "raise type('E' * 300, (Exception,), {})('\\udfff\\n' * 3)"
)


def test_a_session_is_exported_as_a_valid_notebook(gate: Client, named: str) -> None:
    for source in ("a = 6", HOSTILE, "print('out'); a * 7", "import os; os.kill(os.getpid(), 9)"):
        gate.run(source, session_id=named)
    answer = gate.request("GET", f"/sessions/{named}/notebook")
    assert answer.headers["Content-Type"] == "application/x-ipynb+json"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="session-{named}.ipynb"'
    made = export(gate, named)
    assert [cell["id"] for cell in made["cells"]] == [f"execution-{number}" for number in (1, 2, 3, 4)]
    assert [cell["execution_count"] for cell in made["cells"][:3]] == [1, 2, 3]
    kinds = [[output["output_type"] for output in cell["outputs"]] for cell in made["cells"]]
    assert kinds[0] == []
    assert kinds[1][-1] == "error"
    assert kinds[2:] == [["stream", "execute_result"], ["error"]]
    assert made["cells"][2]["outputs"][1]["data"] == {"text/plain": "42"}
    about = made["metadata"]["kernelgate"]
    assert (about["session_id"], about["version"]) == (named, gate.session(named)["version"])
    assert about["packages"] == packages(PYTHON)
    assert made["metadata"]["kernelspec"] == kernelspec(PYTHON)


def test_what_was_undone_is_exported_when_asked_for(gate: Client, named: str) -> None:
    for number in range(3):
        gate.run(f"x = {number}", session_id=named)
    assert gate.request("POST", f"/sessions/{named}/undo", json={}).status_code == 200
    assert [cell["source"] for cell in export(gate, named)["cells"]] == ["x = 0", "x = 1"]
    everything = export(gate, named, undone="true")["cells"]
    assert [cell["source"] for cell in everything] == ["x = 0", "x = 1", "x = 2"]
    refused = gate.request("GET", f"/sessions/{named}/notebook", params={"undone": "maybe"})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")


def test_a_session_of_somebody_else_has_no_notebook(gate: Client, other: Client, named: str) -> None:
    gate.run("secret = 1", session_id=named)
    for session_id in (named, "unknown", "not%20one"):
        answer = other.request("GET", f"/sessions/{session_id}/notebook")
        assert (answer.status_code, answer.json()["error"]) == (404, "session_not_found")


def test_a_notebook_runs_in_a_session_and_leaves_its_variables_there(gate: Client, named: str) -> None:
    gate.run("base = 40", session_id=named)
    cells = [code("extra = 0", "parameters"), code("total = base + extra\nprint(total)"), code("total")]
    done = execute(gate, named, notebook(*cells), parameters={"extra": 2})
    assert [printed(cell) for cell in done["cells"]] == ["", "", "42\n", ""]
    assert done["cells"][3]["outputs"][0]["data"] == {"text/plain": "42"}
    assert statuses(done["cells"]) == ["ok"] * 4
    about = done["metadata"]["kernelgate"]
    assert (about["session_id"], about["status"], about["executed"]) == (named, "ok", 4)
    assert (about["failed_cell"], about["kept"]) == (None, True)
    assert done["metadata"]["language_info"]["version"].startswith("3.")
    assert gate.printed("print(total)", session_id=named) == "42\n"
    again = execute(gate, named, export(gate, named))  # what was exported can be run
    assert again["metadata"]["kernelgate"]["status"] == "ok"


def test_errors_and_timeouts_are_told_and_the_rest_goes_on(gate: Client, named: str) -> None:
    cells = [code("1 / 0", "raises-exception"), code("import time; time.sleep(9)"), code("print('on')")]
    done = execute(gate, named, notebook(*cells), on_error="continue", timeout=2000)
    assert statuses(done["cells"]) == ["error", "timeout", "ok"]
    assert done["cells"][0]["outputs"][0]["ename"] == "ZeroDivisionError"
    assert done["cells"][1]["outputs"][-1]["ename"] == "Timeout"
    about = done["metadata"]["kernelgate"]
    assert (about["status"], about["failed_cell"], about["executed"]) == ("timeout", 1, 3)


def test_a_bare_notebook_runs_in_a_session_of_its_own(gate: Client) -> None:
    answer = gate.request("POST", "/notebooks/execute", json=notebook(code("kept = 'here'")))
    session_id = answer.json()["metadata"]["kernelgate"]["session_id"]
    assert gate.printed("print(kept)", session_id=session_id) == "here\n"
    gate.delete(session_id)


def test_a_session_that_is_not_to_be_kept_is_gone(gate: Client) -> None:
    document = {"notebook": notebook(code("print(1)"), code("1 / 0")), "keep": False}
    answer = gate.request("POST", "/notebooks/execute", json=document)
    about = answer.json()["metadata"]["kernelgate"]
    assert (answer.status_code, about["status"], about["kept"]) == (200, "error", False)
    assert gate.request("GET", f"/sessions/{about['session_id']}").status_code == 404


def test_a_notebook_without_code_makes_no_session(gate: Client) -> None:
    before = len(gate.request("GET", "/sessions").json()["sessions"])
    answer = gate.request("POST", "/notebooks/execute", json=notebook({"cell_type": "markdown", "source": "m"}))
    about = answer.json()["metadata"]["kernelgate"]
    assert (about["session_id"], about["executed"], about["status"]) == (None, 0, "ok")
    assert len(gate.request("GET", "/sessions").json()["sessions"]) == before


@pytest.mark.parametrize(
    ("path", "sent", "code"),
    [
        ("/notebooks/execute", b"", "invalid_request"),
        (
            "/notebooks/execute",
            b'{"cells": [{"cell_type": "code", "metadata": {"tags": [1]}}]}',
            "invalid_request",
        ),
        ("/notebooks/execute", b'{"cells": [' + b"[" * 5000, "invalid_request"),
        ("/notebooks/execute", body(notebook(), parameters={"__import__": 1}), "invalid_request"),
        ("/notebooks/execute", body(notebook(language_info={"name": "cobol"})), "unsupported_language"),
        ("/sessions/named/notebook", body(notebook(), keep=False), "invalid_request"),
        ("/sessions/no%20id/notebook", body(notebook()), "invalid_request"),
    ],
)
def test_what_cannot_be_run_is_a_400(gate: Client, path: str, sent: bytes, code: str) -> None:
    answer = gate.request("POST", path, data=sent)
    assert (answer.status_code, answer.json()["error"]) == (400, code)


def test_a_body_that_is_too_large_is_a_413(gate: Client) -> None:
    answer = gate.request("POST", "/notebooks/execute", data=b" " * (33 << 20))
    assert (answer.status_code, answer.json()["error"]) == (413, "body_too_large")


def test_others_are_answered_while_a_huge_notebook_is_read(gate: Client) -> None:
    """Thirty megabytes of metadata: checking them takes a while, and happens beside everything else."""
    sent = b'{"metadata": {"a": [' + b"1," * (15 << 20) + b'1]}, "cells": [{"cell_type": 0}]}'
    answers: list[requests.Response] = []
    sender = threading.Thread(target=lambda: answers.append(gate.request("POST", "/notebooks/execute", data=sent)))
    sender.start()
    try:
        while sender.is_alive():
            assert gate.request("GET", "/health", timeout=PROMPT).status_code == 200
    finally:
        sender.join()
    assert (answers[0].status_code, answers[0].json()["error"]) == (400, "invalid_request")


# --- events


EVENTS = {"Accept": "text/event-stream"}


def events(answer: requests.Response) -> Iterator[tuple[str, Json]]:
    """The events of an answer as they come, without comments."""
    name = ""
    for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_events_come_as_the_cells_run(gate: Client, named: str) -> None:
    cells = [code("print('first')"), {"cell_type": "markdown", "source": "m"}, code("6 * 7", id="last")]
    path = f"/sessions/{named}/notebook"
    with gate.request("POST", path, json=notebook(*cells), headers=EVENTS, stream=True) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        found = list(events(answer))
    assert [name for name, _ in found] == [
        *("start", "cell_start", "stream", "cell_end"),
        *("cell_start", "execute_result", "cell_end", "notebook"),
    ]
    assert found[0][1] == {"session_id": named, "cells": 3}
    assert found[2][1] == {"index": 0, "name": "stdout", "text": "first\n"}
    assert found[4][1] == {"index": 2, "id": "last"}
    assert found[5][1]["data"] == {"text/plain": "42"}
    assert (found[6][1]["index"], found[6][1]["status"], found[6][1]["execution_count"]) == (2, "ok", 2)
    validate(found[7][1])
    assert found[7][1]["metadata"]["kernelgate"]["status"] == "ok"


def test_errors_ahead_of_the_run_are_no_events(gate: Client) -> None:
    answer = gate.request("POST", "/notebooks/execute", json={"cells": 1}, headers=EVENTS)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("headers", [EVENTS, {}], ids=["events", "json"])
def test_a_client_that_leaves_stops_the_run(gate: Client, named: str, headers: dict[str, str]) -> None:
    """The running cell is interrupted, the next one does not start, and the session is free at once."""
    cells = [code("ran = ['first']"), code("import time; time.sleep(9)"), code("ran.append('last')")]
    path = f"/sessions/{named}/notebook"
    with gate.request("POST", path, json=notebook(*cells), headers=headers, stream=True) as answer:
        content = answer.iter_content(1)  # which closes the connection when nothing refers to it any more
        assert next(content)  # of the first event, or the first space
        wait_for(lambda: gate.session(named)["executions"] == 1)
    assert gate.printed("print(ran)", session_id=named, timeout=5000) == "['first']\n"
    assert gate.session(named)["executions"] <= 3
