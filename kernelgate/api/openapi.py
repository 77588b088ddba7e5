"""``GET /openapi.json``: the API as an OpenAPI 3.1 document."""

from __future__ import annotations

from functools import cache
from typing import Any

from kernelgate import __version__
from kernelgate.api.base import GateHandler
from kernelgate.errors import (
    BodyTooLarge,
    Conflict,
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
    VariableNotFound,
)
from kernelgate.kernel.client import Status
from kernelgate.languages import LANGUAGES

Json = dict[str, Any]


class OpenApiHandler(GateHandler):
    """``GET /openapi.json``, for everyone."""

    def get(self) -> None:
        self.reply(document())


@cache
def document() -> Json:
    """Return the OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kernelgate",
            "version": __version__,
            "description": "Runs code in Jupyter kernels inside locked-down containers. "
            "Every route stands under /v1 as well.",
        },
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {
                "Error": ERROR,
                "ExecRequest": EXEC_REQUEST,
                "ExecReply": EXEC_REPLY,
                "Session": SESSION,
                "State": STATE,
                "Skipped": SKIPPED,
                "HistoryEntry": HISTORY_ENTRY,
                "Variable": VARIABLE,
            },
        },
        "security": [{"key": []}, {"bearer": []}],
        "paths": _paths(),
    }


def _paths() -> Json:
    return {
        "/exec": {"post": _exec()},
        "/sessions": {"get": _list_sessions()},
        "/sessions/{session_id}": _session(),
        **_past(),
        **_variables(),
        "/health": {
            "get": _operation(
                "Tell whether the server is well.", {"200": _object("`healthy` or `degraded`.")}, [], security=[]
            )
        },
        "/health/detailed": {
            "get": _operation(
                "Tell how Docker, the pools, executions and sessions are.",
                {"200": _object("The state of each part.")},
                [Unauthorized, InvalidRequest],
                parameters=[USER],
            )
        },
        "/openapi.json": {
            "get": _operation("This document.", {"200": _object("An OpenAPI document.")}, [], security=[])
        },
    }


def _exec() -> Json:
    answer = _json(
        "How the code ended and what it put out; user code that fails is no HTTP error. "
        "White space may come ahead of the JSON.",
        "ExecReply",
    )
    errors: list[type[GateError]] = [
        InvalidRequest,
        UnsupportedLanguage,
        Unauthorized,
        SessionNotFound,
        BodyTooLarge,
        RateLimited,
        KernelStartError,
        EngineError,
        Unavailable,
        *STORE_ERRORS,
        StateNotSaved,
        ShuttingDown,
    ]
    body = {"required": True, "content": {"application/json": {"schema": _ref("ExecRequest")}}}
    return _operation(
        "Run code in a new session or in one that exists.", {"200": answer}, errors, requestBody=body
    )


def _list_sessions() -> Json:
    schema = {"type": "object", "properties": {"sessions": {"type": "array", "items": _ref("Session")}}}
    answer = {"description": "The sessions.", "content": {"application/json": {"schema": schema}}}
    return _operation(
        "List the caller's sessions, the last used first.",
        {"200": answer},
        [Unauthorized, InvalidRequest, *STORE_ERRORS],
        parameters=[USER],
    )


def _past() -> Json:
    """Return the routes to what a session was."""
    errors = [*SESSION_ERRORS, RateLimited]
    undo = _body({"user_id": TEXT, "steps": {**COUNT, "default": 1, "description": "Executions to take back."}})
    fork = _body(
        {
            "user_id": TEXT,
            "at": {**COUNT, "description": "The version to go on from; the session's own if not given."},
            "count": {**COUNT, "default": 1, "maximum": 100, "description": "How many sessions to make."},
        }
    )
    history = _operation(
        "Show what ran in a session, oldest first.",
        {"200": _json_object({"history": _array("HistoryEntry"), "version": COUNT, "executions": COUNT})},
        errors,
        parameters=[
            USER,
            _query("limit", "Executions to show, the last ones."),
            _query("before", "Only numbers below."),
        ],
    )
    return {
        "/sessions/{session_id}/history": {"parameters": [SESSION_ID], "get": history},
        "/sessions/{session_id}/undo": {
            "parameters": [SESSION_ID],
            "post": _operation(
                "Take a session back to before its last executions, with variables and files.",
                {
                    "200": _json_object(
                        {"session_id": TEXT, "version": COUNT, "undone": {"type": "array", "items": COUNT}}
                    )
                },
                [*errors, Conflict, BodyTooLarge],
                requestBody=undo,
            ),
        },
        "/sessions/{session_id}/fork": {
            "parameters": [SESSION_ID],
            "post": _operation(
                "Make sessions that go on from a version of this one, with variables and files.",
                {"201": _json_object({"sessions": {"type": "array", "items": FORKED}})},
                [*errors, Conflict, BodyTooLarge],
                requestBody=fork,
            ),
        },
    }


def _variables() -> Json:
    """Return the routes to a session's variables."""
    errors = [*SESSION_ERRORS, RateLimited, KernelStartError, EngineError, Unavailable, ShuttingDown]
    name = {"name": "name", "in": "path", "required": True, "schema": TEXT}
    window = [_query("rows", "Rows or items to show, at most 1000."), _query("offset", "The first of them.")]
    return {
        "/sessions/{session_id}/vars": {
            "parameters": [SESSION_ID],
            "get": _operation(
                "List the variables of a session.",
                {"200": _json_object({"variables": _array("Variable"), "truncated": {"type": "boolean"}})},
                errors,
                parameters=[USER],
            ),
        },
        "/sessions/{session_id}/vars/{name}": {
            "parameters": [SESSION_ID, name],
            "get": _operation(
                "Show a variable with some of its rows or items.",
                {"200": _json("The variable.", "Variable")},
                [*errors, VariableNotFound],
                parameters=[USER, *window],
            ),
        },
    }


def _session() -> Json:
    errors = [*SESSION_ERRORS]
    return {
        "parameters": [SESSION_ID],
        "get": _operation("Show a session.", {"200": _json("The session.", "Session")}, errors, parameters=[USER]),
        "delete": _operation(
            "End a session and its kernel, even while it runs code.",
            {"204": {"description": "It has ended."}},
            errors,
            parameters=[USER],
        ),
    }


def _operation(summary: str, responses: Json, errors: list[type[GateError]], **more: Any) -> Json:
    """Return an operation; every one may also answer 404, 405 and 500."""
    by_status: dict[int, list[str]] = {}
    possible: list[type[GateError]] = [*errors, NotFound, MethodNotAllowed, GateError]
    for error in possible:
        by_status.setdefault(error.status, []).append(error.code)
    described = {
        str(status): {
            "description": "error: " + ", ".join(codes),
            "content": {"application/json": {"schema": _ref("Error")}},
        }
        for status, codes in sorted(by_status.items())
    }
    return {"summary": summary, **more, "responses": {**responses, **described}}


def _body(properties: Json) -> Json:
    schema = {"type": "object", "properties": properties}
    return {"required": False, "content": {"application/json": {"schema": schema}}}


def _json_object(properties: Json) -> Json:
    schema = {"type": "object", "properties": properties}
    return {"description": "What was asked for.", "content": {"application/json": {"schema": schema}}}


def _array(name: str) -> Json:
    return {"type": "array", "items": _ref(name)}


def _query(name: str, description: str) -> Json:
    return {"name": name, "in": "query", "schema": COUNT, "description": description}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _ref(schema)}}}


def _object(description: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": {"type": "object"}}}}


STORE_ERRORS: list[type[GateError]] = [StoreError, StoreFull, SessionInUse, StateRefused]
SESSION_ERRORS: list[type[GateError]] = [Unauthorized, InvalidRequest, SessionNotFound, *STORE_ERRORS]

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
SESSION_ID: Json = {"name": "session_id", "in": "path", "required": True, "schema": TEXT}
FORKED: Json = {"type": "object", "properties": {"session_id": TEXT, "version": COUNT}}
USER: Json = {
    "name": "user_id",
    "in": "query",
    "schema": TEXT,
    "description": "The user whose sessions are meant.",
}

ERROR: Json = {
    "type": "object",
    "required": ["error", "message", "request_id"],
    "properties": {
        "error": {**TEXT, "description": "A machine-readable code."},
        "message": {**TEXT, "description": "What was expected, what came, what to do."},
        "request_id": TEXT,
        "retry_after_seconds": {"type": "integer"},
    },
}

EXEC_REQUEST: Json = {
    "type": "object",
    "required": ["lang", "code"],
    "properties": {
        "lang": {"type": "string", "enum": [language.id for language in LANGUAGES]},
        "code": TEXT,
        "session_id": {
            **TEXT,
            "pattern": "^[A-Za-z0-9_-]{1,128}$",
            "description": "The session to go on with; a new one is made under an id that is not known.",
        },
        "user_id": {**TEXT, "maxLength": 256},
        "entity_id": {**TEXT, "maxLength": 256},
        "args": {"description": "The program's arguments: a list, or one value."},
        "timeout": {"type": "number", "minimum": 100, "maximum": 300000, "description": "Milliseconds."},
    },
}

EXEC_REPLY: Json = {
    "type": "object",
    "properties": {
        "session_id": TEXT,
        "stdout": TEXT,
        "stderr": TEXT,
        "files": {"type": "array"},
        "status": {"type": "string", "enum": [status.value for status in Status]},
        "exit_code": {"type": "integer"},
        "outputs": {"type": "array", "description": "Outputs as in nbformat 4."},
        "execution_count": {"type": ["integer", "null"]},
        "duration_ms": {"type": "number"},
        "truncated": {"type": "array", "items": {"enum": ["stdout", "stderr", "outputs"]}},
        "runtime_session_id": TEXT,
        "runtime_status": {
            "type": "string",
            "enum": ["new", "reused", "restored"],
            "description": "Whether the kernel is new, was the session's own already, or was given its state.",
        },
        "state": _ref("State"),
    },
}

SESSION: Json = {
    "type": "object",
    "properties": {
        "session_id": TEXT,
        "lang": TEXT,
        "state": {"type": "string", "enum": ["busy", "idle", "dormant"]},
        "created": {**TEXT, "format": "date-time"},
        "last_used": {**TEXT, "format": "date-time"},
        "executions": {"type": "integer"},
        "version": {**COUNT, "description": "The version of its state; 0 is the empty one."},
        "user_id": {"type": ["string", "null"]},
    },
}

SKIPPED: Json = {
    "type": "object",
    "description": "Something that was left out, and why.",
    "properties": {"name": TEXT, "type": TEXT, "reason": TEXT},
}

STATE: Json = {
    "type": "object",
    "description": "What is stored of the session.",
    "properties": {
        "version": {**COUNT, "description": "The version that the session is in; 0 is the empty one."},
        "captured": {"type": "boolean", "description": "Whether what this execution changed is in it."},
        "pending": {"type": "boolean", "description": "Whether storing goes on behind the reply."},
        "saved": {**COUNT, "description": "Variables in it."},
        "bytes": {**COUNT, "description": "Bytes of these variables."},
        "skipped": _array("Skipped"),
        "skipped_count": COUNT,
        "files": {
            "type": ["object", "null"],
            "properties": {"saved": COUNT, "bytes": COUNT, "skipped": _array("Skipped"), "skipped_count": COUNT},
        },
        "error": {"type": ["string", "null"], "description": "Why nothing was saved."},
        "restored": {
            "type": ["object", "null"],
            "description": "Set when the kernel was given the session's state: what came of it.",
            "properties": {
                "names": COUNT,
                "lost": _array("Skipped"),
                "error": {"type": ["string", "null"], "description": "Why the session begins anew."},
            },
        },
    },
}

HISTORY_ENTRY: Json = {
    "type": "object",
    "properties": {
        "number": COUNT,
        "version": {**COUNT, "description": "The version that the execution led to."},
        "base": {**COUNT, "description": "The version before it."},
        "restorable": {"type": "boolean", "description": "Whether a fork can go on from its version."},
        "undone": {"type": "boolean"},
        "started": {**TEXT, "format": "date-time"},
        "status": TEXT,
        "code": {"type": ["string", "null"], "description": "null: code and outputs are no longer kept."},
        "stdout": TEXT,
        "stderr": TEXT,
        "outputs": {"type": "array"},
        "cut": {"type": "boolean", "description": "Whether parts were too long to be kept."},
    },
}

VARIABLE: Json = {
    "type": "object",
    "properties": {
        "name": TEXT,
        "type": TEXT,
        "size": {"type": ["integer", "null"], "description": "Bytes, where that is known."},
        "length": {"type": ["integer", "null"]},
        "shape": {"type": ["array", "null"], "items": COUNT},
        "preview": TEXT,
        "columns": {"type": "array"},
        "rows": {"type": "array", "description": "Records of a data frame, items of a list or array."},
        "offset": COUNT,
        "total": COUNT,
    },
}
