"""The OpenAPI document: it names every route, method, field and error that there is, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.web import RequestHandler

from kernelgate import __version__, errors
from kernelgate.api import parse
from kernelgate.api.openapi import document
from kernelgate.api.routes import ROUTES
from kernelgate.auth import Authenticator, Owner
from kernelgate.errors import GateError
from kernelgate.kernel.client import Status
from kernelgate.languages import LANGUAGES, PYTHON
from kernelgate.sessions.session import Session

DOCUMENT = document()
METHODS = ("get", "head", "post", "delete", "patch", "put", "options")
STATUS_OF = {
    cls.code: cls.status for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, GateError)
}

EVERYWHERE = {"not_found", "method_not_allowed", "internal_error"}
WITH_KEY = EVERYWHERE | {"unauthorized", "invalid_request"}
"""What can come where a key is needed: none, an unknown one, or two at once; or a ``user_id`` that is none."""

STORE = {"store_unavailable", "store_full", "session_in_use", "state_refused"}
SESSION = WITH_KEY | STORE | {"session_not_found"}
KERNEL = {"engine_unavailable", "kernel_start_failed", "shutting_down", "unavailable"}

ERRORS: dict[str, set[str]] = {
    "post /exec": WITH_KEY
    | STORE
    | {
        "state_not_saved",
        "body_too_large",
        "engine_unavailable",
        "kernel_start_failed",
        "rate_limited",
        "session_not_found",
        "shutting_down",
        "unavailable",
        "unsupported_language",
    },
    "get /sessions": WITH_KEY | STORE,
    "get /sessions/{session_id}": SESSION,
    "delete /sessions/{session_id}": SESSION,
    "get /sessions/{session_id}/history": SESSION | {"rate_limited"},
    "post /sessions/{session_id}/undo": SESSION | {"rate_limited", "conflict", "body_too_large"},
    "post /sessions/{session_id}/fork": SESSION | {"rate_limited", "conflict", "body_too_large"},
    "get /sessions/{session_id}/vars": SESSION | KERNEL | {"rate_limited"},
    "get /sessions/{session_id}/vars/{name}": SESSION | KERNEL | {"rate_limited", "variable_not_found"},
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
    served = {f"{method} {template(route)}" for route, handler in ROUTES for method in implemented(handler)}
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


@pytest.mark.parametrize("name", ERRORS)
def test_an_operation_has_a_summary_and_an_answer_for_success(name: str) -> None:
    operation = operations()[name]
    assert operation["summary"].endswith(".")
    successes = [status for status in operation["responses"] if status.startswith("2")]
    expected = "204" if name.startswith("delete") else "201" if name.endswith("/fork") else "200"
    assert successes == [expected]


def test_every_parameter_of_a_path_is_described() -> None:
    for path, item in DOCUMENT["paths"].items():
        described = [
            each["name"] for each in item.get("parameters", []) if each["in"] == "path" and each["required"]
        ]
        assert described == re.findall(r"{(\w+)}", path)


def test_the_key_is_needed_but_for_what_everyone_may_see() -> None:
    everyone = {name for name, operation in operations().items() if operation.get("security") == []}
    assert everyone == {"get /health", "get /openapi.json"}
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert {name for each in DOCUMENT["security"] for name in each} == set(schemes)
    assert schemes["key"] == {"type": "apiKey", "in": "header", "name": Authenticator().header}
    assert schemes["bearer"] == {"type": "http", "scheme": "bearer"}


def test_a_request_is_described_as_it_is_parsed() -> None:
    described = schema("ExecRequest")
    fields = described["properties"]
    assert described["required"] == ["lang", "code"]
    assert set(fields) == {"lang", "code", "session_id", "user_id", "entity_id", "args", "timeout"}
    assert fields["lang"]["enum"] == [language.id for language in LANGUAGES]
    assert fields["session_id"]["pattern"] == f"^{parse.SESSION_ID.pattern}$"
    assert (fields["timeout"]["minimum"], fields["timeout"]["maximum"]) == parse.TIMEOUT_MS
    assert fields["user_id"]["maxLength"] == fields["entity_id"]["maxLength"] == parse.MAX_USER_CHARS


def test_a_session_is_described_as_it_is_shown() -> None:
    shown = Session(Owner("key", "ann"), "an-id", PYTHON).describe()
    described = schema("Session")["properties"]
    assert set(described) == set(shown)
    assert shown["state"] in described["state"]["enum"]


def test_a_status_is_one_that_there_is() -> None:
    assert schema("ExecReply")["properties"]["status"]["enum"] == [status.value for status in Status]


def test_an_error_is_described_with_all_its_fields() -> None:
    described = schema("Error")
    assert described["required"] == ["error", "message", "request_id"]
    details = {name for error in (GateError("a"), errors.RateLimited("a", 1)) for name in error.details()}
    assert set(described["properties"]) == {*described["required"], *details}
