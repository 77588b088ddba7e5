"""Notebooks in the OpenAPI document."""

from __future__ import annotations

from kernelgate.api.openapi_exec import OUTPUT_EVENTS
from kernelgate.api.openapi_operation import (
    COUNT,
    FLAG,
    OBJECT,
    RUN_ERRORS,
    SESSION_ERRORS,
    SESSION_ID,
    TEXT,
    TIMEOUT,
    USER,
    USER_ID,
    Json,
    body,
    complete,
    events,
    operation,
    query,
    ref,
)


def notebook_paths() -> Json:
    """Return the routes that make notebooks and run them."""
    undone = query("undone", "Whether executions that were undone are in it.", {**FLAG, "default": False})
    export = {"description": "The notebook.", "content": {"application/x-ipynb+json": {"schema": ref("Notebook")}}}
    return {
        "/sessions/{session_id}/notebook": {
            "parameters": [SESSION_ID],
            "get": operation(
                "Export a session's executions as a notebook.",
                {"200": export},
                SESSION_ERRORS,
                parameters=[USER, undone],
            ),
            "post": _run("Run a notebook in a session, a new one under an id that is not known."),
        },
        "/notebooks/execute": {"post": _run("Run a notebook in a session of its own.")},
    }


def _run(summary: str) -> Json:
    """Return an operation that runs a notebook."""
    executed = {
        "description": "The executed notebook, also when a cell failed. White space may come ahead of the JSON "
        'while it runs; a later error of the server is an object with `"status": "error"` and the fields of an '
        "error. A client that accepts text/event-stream is told what happens as it happens, at last `notebook` or "
        "`failure`. A client that goes away stops the run.",
        "content": {
            "application/json": {"schema": ref("Notebook")},
            "text/event-stream": {"schema": ref("NotebookEvent")},
        },
    }
    request = body(ref("NotebookRequest"), required=True)
    return operation(summary, {"200": executed}, RUN_ERRORS, parameters=[USER], requestBody=request)


NOTEBOOK: Json = {
    "type": "object",
    "description": "A notebook of nbformat 4.5; `metadata.kernelgate` says what came of its run.",
    "required": ["cells"],
    "properties": {
        "nbformat": {"type": "integer"},
        "nbformat_minor": {"type": "integer"},
        "metadata": OBJECT,
        "cells": {"type": "array", "items": OBJECT},
    },
}

NOTEBOOK_REQUEST: Json = {
    "type": "object",
    "description": "A notebook with options; or the notebook itself.",
    "anyOf": [{"required": ["notebook"]}, {"required": ["cells"]}],
    "properties": {
        "notebook": ref("Notebook"),
        "parameters": {**OBJECT, "description": "Names and values, as papermill has them."},
        "on_error": {"type": "string", "enum": ["stop", "continue"], "default": "stop"},
        "timeout": {**TIMEOUT, "description": "Milliseconds, for each cell."},
        "user_id": USER_ID,
        "keep": {**FLAG, "default": True, "description": "Whether a session of its own is to stay."},
    },
}

INDEX: Json = {"index": {**COUNT, "description": "Which cell."}}


def _of_cell(fields: Json) -> Json:
    """Return the schema of an event's data with the cell that it belongs to."""
    return {
        **fields,
        "required": [*INDEX, *fields["required"]],
        "properties": {**INDEX, **fields["properties"]},
    }


CELL_END: Json = complete(
    {
        **INDEX,
        "status": {**TEXT, "description": "As in the reply of `POST /exec`, or `failure`."},
        "execution_count": {"type": ["integer", "null"]},
        "duration_ms": {"type": "number"},
    }
)

NOTEBOOK_EVENT: Json = events(
    {
        "start": complete({"session_id": {"type": ["string", "null"]}, "cells": COUNT}),
        "cell_start": complete({**INDEX, "id": TEXT}),
        **{name: _of_cell(data) for name, data in OUTPUT_EVENTS.items()},
        "cell_end": CELL_END,
        "notebook": ref("Notebook"),
        "failure": ref("Error"),
    }
)

NOTEBOOK_SCHEMAS: Json = {
    "Notebook": NOTEBOOK,
    "NotebookRequest": NOTEBOOK_REQUEST,
    "NotebookEvent": NOTEBOOK_EVENT,
}
