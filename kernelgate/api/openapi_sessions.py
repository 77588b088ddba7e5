"""``/sessions`` in the OpenAPI document."""

from __future__ import annotations

from kernelgate.api.openapi_exec import INPUT_REQUEST
from kernelgate.api.openapi_operation import (
    CALLER_ERRORS,
    COUNT,
    FLAG,
    KERNEL_ERRORS,
    SESSION_ERRORS,
    SESSION_ID,
    STORE_ERRORS,
    TEXT,
    TIME,
    USER,
    USER_ID,
    Json,
    answer,
    array,
    body,
    complete,
    operation,
    path_parameter,
    properties,
    query,
    ref,
)
from kernelgate.errors import BodyTooLarge, Conflict, RateLimited, Unavailable, VariableNotFound

FOUND = "What was asked for."


def session_paths() -> Json:
    """Return the routes to sessions, to what runs in them, to their past, and to their variables."""
    listed = operation(
        "List the caller's sessions, the last used first.",
        {"200": answer("The sessions.", complete({"sessions": array("Session")}))},
        [*CALLER_ERRORS, *STORE_ERRORS],
        parameters=[USER],
    )
    shown = operation(
        "Show a session.", {"200": answer("The session.", ref("Session"))}, SESSION_ERRORS, parameters=[USER]
    )
    ended = operation(
        "End a session and its kernel, even while it runs code.",
        {"204": {"description": "It has ended."}},
        SESSION_ERRORS,
        parameters=[USER],
    )
    return {
        "/sessions": {"get": listed},
        "/sessions/{session_id}": {"parameters": [SESSION_ID], "get": shown, "delete": ended},
        **_running(),
        **_history(),
        **_ways_back(),
        **_variables(),
    }


def _running() -> Json:
    """Return the routes to what runs in a session."""
    interrupted = complete(
        {"session_id": TEXT, "interrupted": {**FLAG, "description": "Whether there was something to interrupt."}}
    )
    value = {
        "type": "object",
        "required": ["value"],
        "properties": {"value": {**TEXT, "description": "What input() returns."}, "user_id": USER_ID},
    }
    return {
        "/sessions/{session_id}/interrupt": {
            "parameters": [SESSION_ID],
            "post": operation(
                "Interrupt what a session runs, as Ctrl-C does; its variables stay.",
                {"200": answer("It is on its way.", interrupted)},
                [*SESSION_ERRORS, BodyTooLarge],
                parameters=[USER],
                requestBody=body(properties({"user_id": USER_ID})),
            ),
        },
        "/sessions/{session_id}/input": {
            "parameters": [SESSION_ID],
            "post": operation(
                "Answer what code asks that was run with `allow_stdin`.",
                {"204": {"description": "The code has the answer."}},
                [*SESSION_ERRORS, Conflict, BodyTooLarge, Unavailable],
                parameters=[USER],
                requestBody=body(value, required=True),
            ),
        },
    }


def _history() -> Json:
    shown = complete({"session_id": TEXT, "history": array("HistoryEntry"), "version": COUNT, "executions": COUNT})
    return {
        "/sessions/{session_id}/history": {
            "parameters": [SESSION_ID],
            "get": operation(
                "Show what ran in a session, oldest first.",
                {"200": answer(FOUND, shown)},
                SESSION_ERRORS,
                parameters=[
                    USER,
                    query("limit", "Executions to show, the last ones."),
                    query("before", "Only numbers below."),
                ],
            ),
        }
    }


def _ways_back() -> Json:
    """Return the routes that go on from what a session was."""
    errors = [*SESSION_ERRORS, RateLimited, Conflict, BodyTooLarge]
    steps = {**COUNT, "default": 1, "description": "Executions to take back."}
    fork = {
        "user_id": USER_ID,
        "at": {**COUNT, "description": "The version to go on from; the session's own if not given."},
        "count": {**COUNT, "default": 1, "maximum": 100, "description": "How many sessions to make."},
    }
    undone = complete({"session_id": TEXT, "version": COUNT, "undone": {"type": "array", "items": COUNT}})
    forked = complete(
        {"sessions": {"type": "array", "items": complete({"session_id": TEXT, "version": COUNT})}},
    )
    return {
        "/sessions/{session_id}/undo": {
            "parameters": [SESSION_ID],
            "post": operation(
                "Take a session back to before its last executions, with variables and files.",
                {"200": answer(FOUND, undone)},
                errors,
                requestBody=body(properties({"user_id": USER_ID, "steps": steps})),
            ),
        },
        "/sessions/{session_id}/fork": {
            "parameters": [SESSION_ID],
            "post": operation(
                "Make sessions that go on from a version of this one, with variables and files.",
                {"201": answer("The new sessions.", forked)},
                errors,
                requestBody=body(properties(fork)),
            ),
        },
    }


def _variables() -> Json:
    """Return the routes to a session's variables."""
    errors = [*SESSION_ERRORS, RateLimited, *KERNEL_ERRORS]
    window = [query("rows", "Rows or items to show, at most 1000."), query("offset", "The first of them.")]
    return {
        "/sessions/{session_id}/vars": {
            "parameters": [SESSION_ID],
            "get": operation(
                "List the variables of a session.",
                {"200": answer(FOUND, complete({"variables": array("Variable"), "truncated": FLAG}))},
                errors,
                parameters=[USER],
            ),
        },
        "/sessions/{session_id}/vars/{name}": {
            "parameters": [SESSION_ID, path_parameter("name")],
            "get": operation(
                "Show a variable with some of its rows or items.",
                {"200": answer("The variable.", ref("Variable"))},
                [*errors, VariableNotFound],
                parameters=[USER, *window],
            ),
        },
    }


SESSION: Json = complete(
    {
        "session_id": TEXT,
        "lang": TEXT,
        "state": {"type": "string", "enum": ["busy", "idle", "dormant"]},
        "created": TIME,
        "last_used": TIME,
        "executions": {"type": "integer"},
        "version": {**COUNT, "description": "The version of its state; 0 is the empty one."},
        "user_id": {"type": ["string", "null"]},
        "kernel_id": {**TEXT, "format": "uuid", "description": "What Jupyter's clients call its kernel."},
        "origin": {"enum": ["exec", "jupyter"], "description": "Where it was begun."},
        "closed": {
            **FLAG,
            "description": "Whether its kernel was shut down by a Jupyter client, and is not listed.",
        },
        "documents": {
            "type": "array",
            "description": "What Jupyter calls sessions: notebooks and consoles that use the kernel.",
            "items": complete({"id": TEXT, "path": TEXT, "name": TEXT, "type": TEXT}),
        },
        "connections": {**COUNT, "description": "Sockets of Jupyter clients that are open."},
        "input_request": {
            "type": ["object", "null"],
            "description": "What the running code asks the user, answered by `POST /sessions/{session_id}/input`.",
            "properties": INPUT_REQUEST["properties"],
        },
    }
)

HISTORY_ENTRY: Json = {
    "type": "object",
    "properties": {
        "number": COUNT,
        "version": {**COUNT, "description": "The version that the execution led to."},
        "base": {**COUNT, "description": "The version before it."},
        "restorable": {**FLAG, "description": "Whether a fork can go on from its version."},
        "undone": FLAG,
        "started": TIME,
        "status": {**TEXT, "description": "As in the reply, or `restart`: a new kernel, with the files only."},
        "code": {"type": ["string", "null"], "description": "null: code and outputs are no longer kept."},
        "stdout": TEXT,
        "stderr": TEXT,
        "outputs": {"type": "array"},
        "cut": {**FLAG, "description": "Whether parts were too long to be kept."},
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

SESSION_SCHEMAS: Json = {"Session": SESSION, "HistoryEntry": HISTORY_ENTRY, "Variable": VARIABLE}
