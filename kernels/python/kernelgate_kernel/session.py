"""A Session that sends no message larger than the gateway takes."""

from __future__ import annotations

import math
from json import JSONDecoder, JSONEncoder
from typing import Any

from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session

MAX_MESSAGE_BYTES = 32 << 20
ENCODER = JSONEncoder(default=json_default, allow_nan=False)
DECODER = JSONDecoder()
"""Of our own: user code may replace what is in the module ``json``."""


def pack(message: Any) -> bytes:
    """Return ``message`` as JSON in ASCII, in which a lone surrogate is as good as any other character."""
    try:
        return ENCODER.encode(message).encode("ascii")
    except ValueError:  # JSON has no NaN and no infinity
        return ENCODER.encode(finite(message)).encode("ascii")


def unpack(data: Any) -> Any:
    """Return the value of JSON, given as text or bytes."""
    return DECODER.decode(data if isinstance(data, str) else bytes(data).decode("utf-8", "replace"))


def finite(value: Any) -> Any:
    """Return ``value`` with None for each float that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


class SandboxSession(Session):
    """Replaces an outgoing message over `MAX_MESSAGE_BYTES` by a notice.

    The gateway drops the connection of a kernel that sends more than it bears; a notice in its place tells the
    user what was left out.
    """

    def serialize(self, msg: dict[str, Any], ident: Any = None) -> list[bytes]:
        frames: list[bytes] = super().serialize(msg, ident)
        size = sum(len(frame) for frame in frames)
        if size <= MAX_MESSAGE_BYTES:
            return frames
        note = f"{msg['msg_type']} of {size} bytes left out: a message may have {MAX_MESSAGE_BYTES} bytes"
        return super().serialize({**msg, **_notice(msg, note)}, ident)

    def send(self, stream: Any, msg_or_type: Any, *args: Any, **kwargs: Any) -> Any:
        buffers = kwargs.get("buffers")
        if buffers and sum(memoryview(buffer).nbytes for buffer in buffers) > MAX_MESSAGE_BYTES:
            kwargs["buffers"] = []
        return super().send(stream, msg_or_type, *args, **kwargs)


def _notice(msg: dict[str, Any], note: str) -> dict[str, Any]:
    if msg["msg_type"].endswith("_reply"):
        content = {"status": "error", "ename": "MessageTooLarge", "evalue": note, "traceback": [note]}
        if msg["msg_type"] == "execute_reply":
            content["execution_count"] = msg["content"].get("execution_count", 0)
        return {"content": content}
    header = {**msg["header"], "msg_type": "stream"}
    return {"header": header, "msg_type": "stream", "content": {"name": "stderr", "text": f"[{note}]\n"}}
