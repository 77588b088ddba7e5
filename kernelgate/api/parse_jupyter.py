"""From the bodies of Jupyter's REST requests to what they ask for. Pure: raises `InvalidRequest`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kernelgate.api.parse import check_text, parse_object, type_name
from kernelgate.errors import InvalidRequest
from kernelgate.sessions.gateway import StartRequest

MAX_TEXT = 4096
MAX_ENV = 256
MAX_ENV_VALUE = 32_768


@dataclass(frozen=True)
class DocumentBody:
    """What a client says of a document (Jupyter's session). Only what was given is in ``fields``."""

    fields: dict[str, str]
    kernel_id: str
    start: StartRequest | None
    """The kernel that is to be started for it; None when the body names no kernel by its kernelspec."""


def parse_start(body: bytes) -> StartRequest:
    """Read the body of ``POST /api/kernels``, which may be empty."""
    fields = parse_object(body) if body else {}
    given = _text(fields, "kernel_id")
    return StartRequest(_text(fields, "name"), _uuid(given) if given else "", _env(fields.get("env")))


def parse_document(body: bytes) -> DocumentBody:
    """Read the body of ``POST /api/sessions`` and ``PATCH /api/sessions/{id}``."""
    fields = parse_object(body)
    notebook = fields.get("notebook")
    if "path" not in fields and isinstance(notebook, dict):
        fields = {**fields, "path": notebook.get("path"), "type": "notebook"}
    named = {name: _text(fields, name) for name in ("path", "name", "type") if fields.get(name) is not None}
    kernel = fields.get("kernel")
    if kernel is None:
        kernel = {}
    if not isinstance(kernel, dict):
        raise InvalidRequest(f"kernel: an object with a name or an id is expected, got {type_name(kernel)}")
    name = _text(kernel, "name")
    start = StartRequest(name, "", _env(kernel.get("env"))) if name else None
    return DocumentBody(named, _text(kernel, "id"), start)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        came = f"{len(value)} characters" if isinstance(value, str) else type_name(value)
        raise InvalidRequest(f"{name}: a text of at most {MAX_TEXT} characters is expected, got {came}")
    check_text(value, name)
    return value


def _uuid(value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise InvalidRequest("kernel_id: a UUID is expected") from None


def _env(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_ENV:
        raise InvalidRequest(f"env: an object with at most {MAX_ENV} texts is expected")
    for name, text in value.items():
        if not isinstance(text, str) or len(text) > MAX_ENV_VALUE or "\0" in text:
            raise InvalidRequest(f"env: texts of at most {MAX_ENV_VALUE} characters are expected")
        if not name or "=" in name or "\0" in name:
            raise InvalidRequest("env: names of environment variables are expected")
        check_text(name + text, "env")
    return value
