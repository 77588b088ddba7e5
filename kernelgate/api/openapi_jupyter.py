"""The routes of a Jupyter kernel gateway in the OpenAPI document."""

from __future__ import annotations

from kernelgate.api.openapi_operation import (
    CALLER_ERRORS,
    COUNT,
    KERNEL_ERRORS,
    OBJECT,
    STORE_ERRORS,
    TEXT,
    TIME,
    USER,
    Errors,
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
from kernelgate.errors import (
    BadOrigin,
    BodyTooLarge,
    Conflict,
    KernelLimit,
    KernelNotFound,
    KernelspecNotFound,
    SessionNotFound,
)

LOOK: Errors = [*CALLER_ERRORS, *STORE_ERRORS]
KERNEL: Errors = [*LOOK, KernelNotFound, SessionNotFound]
START: Errors = [
    *LOOK,
    *KERNEL_ERRORS,
    BodyTooLarge,
    Conflict,
    KernelLimit,
    KernelspecNotFound,
    SessionNotFound,
]

TOKEN: Json = query("token", "The API key, for clients that cannot send headers.", TEXT)
CALLER: list[Json] = [USER, TOKEN]
KERNEL_ID: Json = path_parameter("kernel_id", "The id of a kernel, or of its session.")
DOCUMENT_ID: Json = path_parameter("document_id")
NAME: Json = path_parameter("name", "A name of `GET /api/kernelspecs`.")


def jupyter_paths() -> Json:
    """Return the routes that Jupyter's clients look for, which stand at the root only."""
    version = operation(
        "Tell the version of the server.",
        {"200": answer("It is there.", complete({"version": TEXT}))},
        [],
        security=[],
    )
    status = answer(
        "The caller's kernels in short.",
        complete({"started": TIME, "last_activity": TIME, "kernels": COUNT, "connections": COUNT}),
    )
    identity = answer("The caller.", complete({"identity": OBJECT, "permissions": OBJECT}))
    return {
        "/api": {"get": version},
        "/api/status": {"get": _get("Tell how many kernels there are.", status, LOOK)},
        "/api/me": {"get": _get("Tell who calls.", identity, CALLER_ERRORS)},
        **_kernelspecs(),
        **_kernels(),
        **_kernel(),
        **_channels(),
        **_documents(),
    }


def _get(summary: str, success: Json, errors: Errors) -> Json:
    return operation(summary, {"200": success}, errors, parameters=CALLER)


def _kernelspecs() -> Json:
    specs = complete({"default": TEXT, "kernelspecs": {**OBJECT, "additionalProperties": ref("Kernelspec")}})
    return {
        "/api/kernelspecs": {
            "get": _get(
                "List what kernels may be started: one per language, and the caller's latest sessions that were "
                "made by /exec, as `session-<session_id>`.",
                answer("The kernelspecs by name.", specs),
                LOOK,
            )
        },
        "/api/kernelspecs/{name}": {
            "parameters": [NAME],
            "get": _get("Show a kernelspec.", answer("It.", ref("Kernelspec")), [*LOOK, KernelspecNotFound]),
        },
        "/kernelspecs/{name}/{path}": {
            "parameters": [NAME, path_parameter("path")],
            "get": operation(
                "Where kernelspecs have their logos; there are none yet.",
                {},
                [*LOOK, KernelspecNotFound],
                parameters=CALLER,
            ),
        },
    }


def _kernels() -> Json:
    start = operation(
        "Start a kernel, which is a new session; or open that of a session.",
        {"201": _created("The kernel is there.", "Kernel")},
        START,
        parameters=CALLER,
        requestBody=body(ref("KernelStart")),
    )
    listed = _get("List the caller's kernels.", answer("The kernels.", array("Kernel")), LOOK)
    return {"/api/kernels": {"get": listed, "post": start}}


def _kernel() -> Json:
    delete = operation(
        "End a kernel. A session that was begun by a Jupyter client ends with it, one of /exec stays.",
        {"204": {"description": "It has ended; clients that were connected are told."}},
        KERNEL,
        parameters=CALLER,
    )
    interrupt = operation(
        "Interrupt what a kernel runs.",
        {"204": {"description": "It is on its way, if there is something to interrupt."}},
        KERNEL,
        parameters=CALLER,
    )
    restart = operation(
        "Replace a kernel: no variables, the files of /mnt/data stay. It can be undone.",
        {"200": answer("The new kernel, under the same id.", ref("Kernel"))},
        [*KERNEL, *KERNEL_ERRORS],
        parameters=CALLER,
    )
    shown = _get("Show a kernel.", answer("The kernel.", ref("Kernel")), [*LOOK, KernelNotFound])
    return {
        "/api/kernels/{kernel_id}": {"parameters": [KERNEL_ID], "get": shown, "delete": delete},
        "/api/kernels/{kernel_id}/interrupt": {"parameters": [KERNEL_ID], "post": interrupt},
        "/api/kernels/{kernel_id}/restart": {"parameters": [KERNEL_ID], "post": restart},
    }


def _channels() -> Json:
    session = query("session_id", "How the client names itself: under the same name it gets what it missed.", TEXT)
    switched = {
        "description": "The connection is a WebSocket with the kernel's channels: messages of Jupyter's protocol "
        "(shell, control and stdin from the client; these and iopub to it), unsigned. With the subprotocol "
        "`v1.kernel.websocket.jupyter.org` each is a binary frame: the number of offsets and the offsets, 64 bits "
        "each, little-endian; then channel, header, parent header, metadata, content, buffers. Without it, each "
        "is JSON in a text frame with the field `channel`; with buffers, a binary frame: the number of parts and "
        "their offsets, 32 bits each, big-endian; then the JSON, the buffers."
    }
    get = operation(
        "Connect to a kernel's channels.",
        {"101": switched},
        [*LOOK, KernelNotFound, BadOrigin],
        parameters=[session, *CALLER],
    )
    return {"/api/kernels/{kernel_id}/channels": {"parameters": [KERNEL_ID], "get": get}}


def _documents() -> Json:
    listed = _get(
        "List what uses the caller's kernels: notebooks, consoles.",
        answer("What Jupyter calls sessions.", array("Document")),
        LOOK,
    )
    add = operation(
        "Connect a notebook or console to a kernel, a new one unless one is named. What is there under the same "
        "path is answered as it is.",
        {"201": _created("It is connected.", "Document")},
        [*START, KernelNotFound],
        parameters=CALLER,
        requestBody=body(ref("DocumentRequest"), required=True),
    )
    found = [*LOOK, SessionNotFound]
    change = operation(
        "Rename a notebook or console, or connect it to another kernel; the old one ends if nothing else uses it.",
        {"200": answer("It as it is now.", ref("Document"))},
        [*START, KernelNotFound],
        parameters=CALLER,
        requestBody=body(ref("DocumentRequest"), required=True),
    )
    delete = operation(
        "Take a notebook or console away; its kernel ends if nothing else uses it.",
        {"204": {"description": "It is gone."}},
        found,
        parameters=CALLER,
    )
    return {
        "/api/sessions": {"get": listed, "post": add},
        "/api/sessions/{document_id}": {
            "parameters": [DOCUMENT_ID],
            "get": _get("Show a notebook or console.", answer("It.", ref("Document")), found),
            "patch": change,
            "delete": delete,
        },
    }


def _created(description: str, schema: str) -> Json:
    location = {"description": "Where it is.", "schema": TEXT}
    return {**answer(description, ref(schema)), "headers": {"Location": location}}


KERNELSPEC: Json = complete(
    {
        "name": TEXT,
        "spec": complete(
            {
                "argv": {"type": "array", "items": TEXT},
                "env": OBJECT,
                "display_name": TEXT,
                "language": TEXT,
                "interrupt_mode": {"enum": ["message"]},
                "metadata": OBJECT,
            }
        ),
        "resources": {**OBJECT, "additionalProperties": TEXT},
    }
)

KERNEL_MODEL: Json = complete(
    {
        "id": {**TEXT, "format": "uuid"},
        "name": {**TEXT, "description": "Its kernelspec."},
        "last_activity": TIME,
        "execution_state": {"enum": ["starting", "idle", "busy", "dead"]},
        "connections": COUNT,
        "session_id": {**TEXT, "description": "Its session, as the routes below /sessions know it."},
    }
)

KERNEL_START: Json = properties(
    {
        "name": {**TEXT, "description": "The kernelspec; the default one if not given."},
        "kernel_id": {**TEXT, "format": "uuid", "description": "The id that a new kernel is to have."},
        "path": {**TEXT, "description": "Passed over: it is a path of the client's."},
        "env": {
            **OBJECT,
            "additionalProperties": TEXT,
            "description": "Environment of the kernel, as far as ALLOWED_ENVS lets it in. KERNEL_SESSION_ID opens "
            "the session of that id instead of a new one.",
        },
    }
)

DOCUMENT: Json = {
    "type": "object",
    "required": ["id", "path", "name", "type", "kernel"],
    "properties": {
        "id": TEXT,
        "path": TEXT,
        "name": TEXT,
        "type": {**TEXT, "description": "`notebook`, `console`, or as the client says."},
        "kernel": ref("Kernel"),
        "notebook": properties({"path": TEXT, "name": TEXT}),
    },
}

DOCUMENT_REQUEST: Json = properties(
    {
        "path": TEXT,
        "name": TEXT,
        "type": {**TEXT, "default": "notebook"},
        "kernel": {
            "type": ["object", "null"],
            "description": "A kernel by its id, or a new one by its kernelspec.",
            "properties": {
                "id": TEXT,
                "name": TEXT,
                "env": {**OBJECT, "additionalProperties": TEXT},
            },
        },
        "notebook": properties({"path": {**TEXT, "description": "The path, as older clients send it."}}),
    }
)

JUPYTER_SCHEMAS: Json = {
    "Kernelspec": KERNELSPEC,
    "Kernel": KERNEL_MODEL,
    "KernelStart": KERNEL_START,
    "Document": DOCUMENT,
    "DocumentRequest": DOCUMENT_REQUEST,
}
