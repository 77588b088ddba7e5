"""The OpenAPI document: it names every route, method, field and error that there is, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.web import RequestHandler

from kernelgate import __version__, errors
from kernelgate.api import parse, parse_notebook
from kernelgate.api.openapi import document
from kernelgate.api.routes import JUPYTER_ROUTES, ROUTES
from kernelgate.auth import Authenticator, Owner
from kernelgate.errors import GateError
from kernelgate.kernel.client import Status
from kernelgate.kernel.messages import Message, to_json
from kernelgate.kernel.outputs import OutputFold, OutputLimits
from kernelgate.languages import LANGUAGES, PYTHON
from kernelgate.notebook.run import OUTPUT_EVENTS
from kernelgate.sessions import record
from kernelgate.sessions.session import Session

DOCUMENT = document()
OUTPUTS = ["stream", "display_data", "execute_result", "update_display_data", "clear_output", "error"]
"""The events that are outputs, in the order of the document."""

METHODS = ("get", "head", "post", "delete", "patch", "put")
"""Those that a route has or has not. OPTIONS every route answers alike."""

STATUS_OF = {
    cls.code: cls.status for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, GateError)
}

EVERYWHERE = {"not_found", "method_not_allowed", "internal_error"}
WITH_KEY = EVERYWHERE | {"unauthorized", "invalid_request"}
"""What can come where a key is needed: none, an unknown one, or two at once; or a ``user_id`` that is none."""

STORE = {"store_unavailable", "store_full", "session_in_use", "state_refused"}
SESSION = WITH_KEY | STORE | {"session_not_found"}
KERNEL = {"engine_unavailable", "kernel_start_failed", "shutting_down", "unavailable", "aborted"}
RUN = SESSION | KERNEL | {"state_not_saved", "body_too_large", "rate_limited", "unsupported_language"}
START = SESSION | KERNEL | {"body_too_large", "kernel_limit", "kernelspec_not_found", "conflict"}
"""What can come where a Jupyter client starts a kernel. The session may be deleted meanwhile."""

JUPYTER = SESSION | {"kernel_not_found"}

ERRORS: dict[str, set[str]] = {
    "post /exec": RUN,
    "get /sessions": WITH_KEY | STORE,
    "get /sessions/{session_id}": SESSION,
    "delete /sessions/{session_id}": SESSION,
    "post /sessions/{session_id}/interrupt": SESSION | {"body_too_large"},
    "post /sessions/{session_id}/input": SESSION | {"body_too_large", "conflict", "unavailable"},
    "get /sessions/{session_id}/history": SESSION,
    "post /sessions/{session_id}/undo": SESSION | {"rate_limited", "conflict", "body_too_large"},
    "post /sessions/{session_id}/fork": SESSION | {"rate_limited", "conflict", "body_too_large"},
    "get /sessions/{session_id}/vars": SESSION | KERNEL | {"rate_limited"},
    "get /sessions/{session_id}/vars/{name}": SESSION | KERNEL | {"rate_limited", "variable_not_found"},
    "get /sessions/{session_id}/notebook": SESSION,
    "post /sessions/{session_id}/notebook": RUN,
    "post /notebooks/execute": RUN,
    "get /api": EVERYWHERE,
    "get /api/status": WITH_KEY | STORE,
    "get /api/me": WITH_KEY,
    "get /api/kernelspecs": WITH_KEY | STORE,
    "get /api/kernelspecs/{name}": WITH_KEY | STORE | {"kernelspec_not_found"},
    "get /kernelspecs/{name}/{path}": WITH_KEY | STORE | {"kernelspec_not_found"},
    "get /api/kernels": WITH_KEY | STORE,
    "post /api/kernels": START,
    "get /api/kernels/{kernel_id}": WITH_KEY | STORE | {"kernel_not_found"},
    "delete /api/kernels/{kernel_id}": JUPYTER,
    "post /api/kernels/{kernel_id}/interrupt": JUPYTER,
    "post /api/kernels/{kernel_id}/restart": JUPYTER | KERNEL,
    "get /api/kernels/{kernel_id}/channels": WITH_KEY | STORE | {"kernel_not_found", "bad_origin"},
    "get /api/sessions": WITH_KEY | STORE,
    "post /api/sessions": START | {"kernel_not_found"},
    "get /api/sessions/{document_id}": SESSION,
    "patch /api/sessions/{document_id}": START | {"kernel_not_found"},
    "delete /api/sessions/{document_id}": SESSION,
    "get /health": EVERYWHERE,
    "get /health/detailed": WITH_KEY,
    "get /openapi.json": EVERYWHERE,
}
"""Every error that an operation can answer with. A session may be deleted while ``/exec`` waits for its kernel,
and a kernel may take no more messages."""


def operations() -> dict[str, dict[str, Any]]:
    return {
        f"{method} {path}": item[method]
        for path, item in DOCUMENT["paths"].items()
        for method in METHODS
        if method in item
    }


def template(route: str) -> str:
    """A route as OpenAPI writes it, its named groups in braces."""
    return re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", route)


def implemented(handler: type[RequestHandler]) -> list[str]:
    return [method for method in METHODS if getattr(handler, method) is not getattr(RequestHandler, method)]


def refs(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from refs(item)
    elif isinstance(value, list):
        for item in value:
            yield from refs(item)


def schema(name: str) -> dict[str, Any]:
    return dict(DOCUMENT["components"]["schemas"][name])


def test_the_document_is_openapi_in_json() -> None:
    assert json.loads(json.dumps(DOCUMENT, allow_nan=False)) == DOCUMENT
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["version"] == __version__
    assert {"title", "description"} <= set(DOCUMENT["info"])


def test_every_route_and_method_is_described_and_no_other() -> None:
    routes = [*ROUTES, *JUPYTER_ROUTES]
    served = {f"{method} {template(route)}" for route, handler in routes for method in implemented(handler)}
    assert set(operations()) == served


@pytest.mark.parametrize("reference", sorted(set(refs(DOCUMENT))))
def test_a_reference_leads_to_what_there_is(reference: str) -> None:
    target: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        target = target[part]
    assert target["type"] == "object"


def test_every_schema_is_used() -> None:
    used = {reference.rpartition("/")[2] for reference in refs(DOCUMENT)}
    assert used == set(DOCUMENT["components"]["schemas"])


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_that_can_come_is_listed(name: str) -> None:
    listed: dict[str, int] = {}
    for status, response in operations()[name]["responses"].items():
        if int(status) >= 400:
            codes = response["description"].removeprefix("error: ").split(", ")
            listed.update(dict.fromkeys(codes, int(status)))
            assert list(refs(response)) == ["#/components/schemas/Error"]
    assert listed == {code: STATUS_OF[code] for code in ERRORS[name]}


def test_the_errors_of_every_operation_are_written_down() -> None:
    assert set(ERRORS) == set(operations())


SUCCESS = {
    **{name: 204 for name in ERRORS if name.startswith("delete")},
    "post /sessions/{session_id}/fork": 201,
    "post /sessions/{session_id}/input": 204,
    "post /api/kernels": 201,
    "post /api/kernels/{kernel_id}/interrupt": 204,
    "post /api/sessions": 201,
}
"""What is answered when all is well, where that is not 200."""

WITHOUT_SUCCESS = {"get /kernelspecs/{name}/{path}", "get /api/kernels/{kernel_id}/channels"}
"""There are no files of kernelspecs yet; a WebSocket begins with 101."""


@pytest.mark.parametrize("name", ERRORS)
def test_an_operation_has_a_summary_and_an_answer_for_success(name: str) -> None:
    operation = operations()[name]
    assert operation["summary"].endswith(".")
    successes = [status for status in operation["responses"] if status.startswith("2")]
    assert successes == [] if name in WITHOUT_SUCCESS else [str(SUCCESS.get(name, 200))]
    assert ("101" in operation["responses"]) is name.endswith("/channels")


def test_every_parameter_of_a_path_is_described() -> None:
    for path, item in DOCUMENT["paths"].items():
        described = [
            each["name"] for each in item.get("parameters", []) if each["in"] == "path" and each["required"]
        ]
        assert described == re.findall(r"{(\w+)}", path)


def test_the_key_is_needed_but_for_what_everyone_may_see() -> None:
    everyone = {name for name, operation in operations().items() if operation.get("security") == []}
    assert everyone == {"get /health", "get /openapi.json", "get /api"}
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert {name for each in DOCUMENT["security"] for name in each} == set(schemes)
    assert schemes["key"] == {"type": "apiKey", "in": "header", "name": Authenticator().header}
    assert schemes["bearer"] == {"type": "http", "scheme": "bearer"}


def test_a_request_is_described_as_it_is_parsed() -> None:
    described = schema("ExecRequest")
    fields = described["properties"]
    assert described["required"] == ["lang", "code"]
    assert set(fields) == {"lang", "code", "session_id", "user_id", "entity_id", "args", "timeout", "allow_stdin"}
    assert fields["lang"]["enum"] == [language.id for language in LANGUAGES]
    assert fields["session_id"]["pattern"] == f"^{parse.SESSION_ID.pattern}$"
    assert (fields["timeout"]["minimum"], fields["timeout"]["maximum"]) == parse.TIMEOUT_MS
    assert fields["user_id"]["maxLength"] == fields["entity_id"]["maxLength"] == parse.MAX_USER_CHARS


def test_a_session_is_described_as_it_is_shown() -> None:
    shown = Session(Owner("key", "ann"), "an-id", PYTHON).describe()
    described = schema("Session")["properties"]
    assert set(described) == set(shown) == set(schema("Session")["required"])
    assert shown["state"] in described["state"]["enum"]
    assert described["origin"]["enum"] == [record.EXEC, record.JUPYTER]


def test_a_status_is_one_that_there_is() -> None:
    assert schema("ExecReply")["properties"]["status"]["enum"] == [status.value for status in Status]


def test_an_error_is_described_with_all_its_fields() -> None:
    described = schema("Error")
    assert described["required"] == ["error", "message", "request_id"]
    details = {
        name
        for error in (GateError("a"), errors.RateLimited("a", 1), errors.StateNotSaved("a"))
        for name in error.details()
    }
    assert set(described["properties"]) == {*described["required"], *details, "reason"}


def event_data(name: str) -> dict[str, dict[str, Any]]:
    """The schemas of events' data by name, for the events of one stream."""
    return {each["properties"]["event"]["const"]: each["properties"]["data"] for each in schema(name)["oneOf"]}


def told() -> dict[str, dict[str, Any]]:
    """What is told of outputs of every type, by name."""
    events: dict[str, dict[str, Any]] = {}
    fold = OutputFold(OutputLimits(), lambda name, data: events.update({name: data}))
    bundle = {"data": {"text/plain": "1"}, "metadata": {}, "transient": {"display_id": "d"}}
    contents: dict[str, dict[str, Any]] = {
        "stream": {"name": "stdout", "text": "a"},
        "display_data": bundle,
        "update_display_data": bundle,
        "execute_result": {**bundle, "execution_count": 1},
        "error": {"ename": "E", "evalue": "e", "traceback": []},
        "clear_output": {"wait": True},
    }
    for msg_type, content in contents.items():
        fold.add(Message([b"", to_json({"msg_type": msg_type}), b"{}", b"{}", to_json(content)]))
    return events


def test_every_event_of_an_execution_is_described() -> None:
    described = event_data("ExecEvent")
    assert list(described) == ["start", *OUTPUTS, "input_request", "reply", "failure"]
    assert {name: set(data) for name, data in told().items()} == {
        name: set(described[name]["properties"]) for name in OUTPUTS
    }


def test_every_event_of_a_notebooks_run_is_described() -> None:
    described, of_exec = event_data("NotebookEvent"), event_data("ExecEvent")
    assert list(described) == ["start", "cell_start", *OUTPUTS, "cell_end", "notebook", "failure"]
    assert set(OUTPUTS) == OUTPUT_EVENTS
    for name in OUTPUTS:
        assert set(described[name]["properties"]) == {"index", *of_exec[name]["properties"]}


def test_a_request_to_run_a_notebook_is_described_as_it_is_parsed() -> None:
    fields = schema("NotebookRequest")["properties"]
    assert set(fields) == {"notebook", "parameters", "on_error", "timeout", "user_id", "keep"}
    assert tuple(fields["on_error"]["enum"]) == parse_notebook.ON_ERROR
    assert (fields["timeout"]["minimum"], fields["timeout"]["maximum"]) == parse.TIMEOUT_MS


def test_streams_are_offered_where_code_runs() -> None:
    streams = {
        name: operation["responses"]["200"]["content"]["text/event-stream"]["schema"]["$ref"].rpartition("/")[2]
        for name, operation in operations().items()
        if "text/event-stream" in operation["responses"].get("200", {}).get("content", {})
    }
    assert streams == {
        "post /exec": "ExecEvent",
        "post /sessions/{session_id}/notebook": "NotebookEvent",
        "post /notebooks/execute": "NotebookEvent",
    }
