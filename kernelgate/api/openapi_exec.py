"""``/exec`` in the OpenAPI document."""

from __future__ import annotations

from kernelgate.api.openapi_operation import (
    COUNT,
    FLAG,
    OBJECT,
    RUN_ERRORS,
    TEXT,
    TIMEOUT,
    USER_ID,
    Json,
    array,
    body,
    complete,
    events,
    operation,
    ref,
)
from kernelgate.kernel.client import Status
from kernelgate.languages import LANGUAGES


def exec_paths() -> Json:
    """Return the route that runs code."""
    answer = {
        "description": "How the code ended and what it put out; user code that fails is no HTTP error. White "
        "space may come ahead of the JSON while the code runs; a later error of the server is an object with "
        '`"status": "error"` and the fields of an error. A client that accepts text/event-stream gets the '
        "outputs as they come, at last `reply` or `failure`; comment lines keep the connection alive. Errors that "
        "come before `start` are plain ones. A client that goes away interrupts the code.",
        "content": {
            "application/json": {"schema": ref("ExecReply")},
            "text/event-stream": {"schema": ref("ExecEvent")},
        },
    }
    run = operation(
        "Run code in a new session or in one that exists.",
        {"200": answer},
        RUN_ERRORS,
        requestBody=body(ref("ExecRequest"), required=True),
    )
    return {"/exec": {"post": run}}


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
        "user_id": USER_ID,
        "entity_id": USER_ID,
        "args": {"description": "The program's arguments: a list, or one value."},
        "timeout": {**TIMEOUT, "description": "Milliseconds."},
        "allow_stdin": {
            **FLAG,
            "default": False,
            "description": "Whether `POST /sessions/{session_id}/input` answers what the code asks with input(). "
            "The time that an answer takes counts.",
        },
    },
}

RUNTIME_STATUS: Json = {
    "type": "string",
    "enum": ["new", "reused", "restored"],
    "description": "Whether the kernel is new, was the session's own already, or was given its state.",
}

EXEC_REPLY: Json = complete(
    {
        "session_id": TEXT,
        "stdout": TEXT,
        "stderr": TEXT,
        "files": {"type": "array"},
        "status": {"type": "string", "enum": [status.value for status in Status]},
        "exit_code": {"type": "integer"},
        "outputs": {"type": "array", "items": OBJECT, "description": "Outputs as in nbformat 4."},
        "execution_count": {"type": ["integer", "null"]},
        "duration_ms": {"type": "number"},
        "truncated": {"type": "array", "items": {"enum": ["stdout", "stderr", "outputs"]}},
        "runtime_session_id": TEXT,
        "runtime_status": RUNTIME_STATUS,
        "state": ref("State"),
    }
)

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
        "captured": {**FLAG, "description": "Whether what this execution changed is in it."},
        "pending": {**FLAG, "description": "Whether storing goes on behind the reply."},
        "saved": {**COUNT, "description": "Variables in it."},
        "bytes": {**COUNT, "description": "Bytes of these variables."},
        "skipped": array("Skipped"),
        "skipped_count": COUNT,
        "files": {
            "type": ["object", "null"],
            "properties": {"saved": COUNT, "bytes": COUNT, "skipped": array("Skipped"), "skipped_count": COUNT},
        },
        "error": {"type": ["string", "null"], "description": "Why nothing was saved."},
        "restored": {
            "type": ["object", "null"],
            "description": "Set when the kernel was given the session's state: what came of it.",
            "properties": {
                "names": COUNT,
                "lost": array("Skipped"),
                "error": {"type": ["string", "null"], "description": "Why the session begins anew."},
            },
        },
    },
}

BUNDLE: Json = {"data": {**OBJECT, "description": "By MIME type."}, "metadata": OBJECT}

OUTPUT_EVENTS: dict[str, Json] = {
    "stream": complete({"name": {"enum": ["stdout", "stderr"]}, "text": TEXT}),
    "display_data": {
        "type": "object",
        "required": list(BUNDLE),
        "properties": {**BUNDLE, "display_id": {**TEXT, "description": "What `update_display_data` names."}},
    },
    "execute_result": complete({"execution_count": {"type": ["integer", "null"]}, **BUNDLE}),
    "update_display_data": complete({**BUNDLE, "display_id": TEXT}),
    "clear_output": complete({"wait": {**FLAG, "description": "Only when the next output comes."}}),
    "error": complete({"ename": TEXT, "evalue": TEXT, "traceback": {"type": "array", "items": TEXT}}),
}
"""The data of events that are outputs, with Jupyter's names."""

INPUT_REQUEST: Json = complete({"prompt": TEXT, "password": {**FLAG, "description": "Whether getpass asks."}})

EXEC_EVENT: Json = events(
    {
        "start": complete({"session_id": TEXT, "status": RUNTIME_STATUS}),
        **OUTPUT_EVENTS,
        "input_request": INPUT_REQUEST,
        "reply": ref("ExecReply"),
        "failure": ref("Error"),
    }
)

EXEC_SCHEMAS: Json = {
    "ExecRequest": EXEC_REQUEST,
    "ExecReply": EXEC_REPLY,
    "ExecEvent": EXEC_EVENT,
    "State": STATE,
    "Skipped": SKIPPED,
}
