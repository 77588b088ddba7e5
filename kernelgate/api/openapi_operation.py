"""What the operations of the OpenAPI document are made of: parameters, bodies, answers, errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernelgate.errors import (
    Aborted,
    BodyTooLarge,
    EngineError,
    GateError,
    InvalidRequest,
    KernelStartError,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    SessionInUse,
    SessionNotFound,
    ShuttingDown,
    StateNotSaved,
    StateRefused,
    StoreError,
    StoreFull,
    Unauthorized,
    Unavailable,
    UnsupportedLanguage,
)

Json = dict[str, Any]
Errors = list[type[GateError]]

CALLER_ERRORS: Errors = [Unauthorized, InvalidRequest]
STORE_ERRORS: Errors = [StoreError, StoreFull, SessionInUse, StateRefused]
SESSION_ERRORS: Errors = [*CALLER_ERRORS, SessionNotFound, *STORE_ERRORS]
KERNEL_ERRORS: Errors = [KernelStartError, EngineError, Unavailable, ShuttingDown, Aborted]
RUN_ERRORS: Errors = [
    *SESSION_ERRORS,
    *KERNEL_ERRORS,
    UnsupportedLanguage,
    BodyTooLarge,
    RateLimited,
    StateNotSaved,
]

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
FLAG: Json = {"type": "boolean"}
OBJECT: Json = {"type": "object"}
TIME: Json = {**TEXT, "format": "date-time"}
USER_ID: Json = {**TEXT, "maxLength": 256}
TIMEOUT: Json = {"type": "number", "minimum": 100, "maximum": 300000}

USER: Json = {
    "name": "user_id",
    "in": "query",
    "schema": TEXT,
    "description": "The user whose sessions are meant.",
}
SESSION_ID: Json = {"name": "session_id", "in": "path", "required": True, "schema": TEXT}

KEYS: list[Json] = [{"key": []}, {"bearer": []}]


def operation(summary: str, responses: Json, errors: Errors, **more: Any) -> Json:
    """Return an operation; every one may also answer 404, 405 and 500."""
    by_status: dict[int, list[str]] = {}
    possible: Errors = [*errors, NotFound, MethodNotAllowed, GateError]
    for error in dict.fromkeys(possible):
        by_status.setdefault(error.status, []).append(error.code)
    described = {
        str(status): {
            "description": "error: " + ", ".join(codes),
            "content": {"application/json": {"schema": ref("Error")}},
        }
        for status, codes in sorted(by_status.items())
    }
    return {"summary": summary, **more, "responses": {**responses, **described}}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def array(name: str) -> Json:
    return {"type": "array", "items": ref(name)}


def properties(fields: Json) -> Json:
    """Return the schema of an object that may have ``fields``."""
    return {"type": "object", "properties": fields}


def complete(fields: Json) -> Json:
    """Return the schema of an object that always has all ``fields``."""
    return {"type": "object", "required": list(fields), "properties": fields}


def answer(description: str, schema: Json) -> Json:
    """Return an answer in JSON."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def body(schema: Json, required: bool = False) -> Json:
    """Return a request's body in JSON."""
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def path_parameter(name: str, description: str = "") -> Json:
    described = {"description": description} if description else {}
    return {"name": name, "in": "path", "required": True, "schema": TEXT, **described}


def query(name: str, description: str, schema: Json = COUNT) -> Json:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def events(data: Mapping[str, Json]) -> Json:
    """Return the schema of server-sent events. ``data``: by the event's name, the schema of its data in JSON."""
    return {
        "type": "object",
        "description": "One server-sent event: its name, and its data, which is JSON in one line.",
        "oneOf": [complete({"event": {"const": name}, "data": schema}) for name, schema in data.items()],
    }


ERROR: Json = {
    "type": "object",
    "required": ["error", "message", "request_id"],
    "properties": {
        "error": {**TEXT, "description": "A machine-readable code."},
        "message": {**TEXT, "description": "What was expected, what came, what to do."},
        "request_id": TEXT,
        "retry_after_seconds": {"type": "integer", "description": "Only with `rate_limited`."},
        "executed": {**FLAG, "description": "Only with `state_not_saved`: the code ran."},
        "reason": {**TEXT, "description": "Only below /api: the message again, as Jupyter's clients look for it."},
    },
}
