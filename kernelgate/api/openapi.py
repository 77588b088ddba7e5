"""``GET /openapi.json``: the API as an OpenAPI 3.1 document."""

from __future__ import annotations

from functools import cache
from typing import Any

from kernelgate import __version__
from kernelgate.api.base import GateHandler
from kernelgate.errors import (
    BodyTooLarge,
    EngineError,
    GateError,
    InvalidRequest,
    KernelStartError,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    SessionNotFound,
    ShuttingDown,
    Unauthorized,
    Unavailable,
    UnsupportedLanguage,
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
        [Unauthorized, InvalidRequest],
        parameters=[USER],
    )


def _session() -> Json:
    errors: list[type[GateError]] = [Unauthorized, InvalidRequest, SessionNotFound]
    return {
        "parameters": [{"name": "session_id", "in": "path", "required": True, "schema": {"type": "string"}}],
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


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _ref(schema)}}}


def _object(description: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": {"type": "object"}}}}


TEXT: Json = {"type": "string"}
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
        "runtime_status": {"type": "string", "enum": ["new", "reused"]},
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
        "user_id": {"type": ["string", "null"]},
    },
}
