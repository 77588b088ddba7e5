"""From the body of a request that runs a notebook to what it asks for. Pure: raises `InvalidRequest`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kernelgate.api.parse import TIMEOUT_MS, parse_object, parse_user
from kernelgate.errors import InvalidRequest, UnsupportedLanguage
from kernelgate.languages import LANGUAGES, PYTHON, Language, find_language
from kernelgate.notebook.document import Notebook, read_notebook
from kernelgate.notebook.fields import shown
from kernelgate.notebook.parameters import parameterized

BARE = ("cells", "nbformat", "worksheets")
"""Fields by which a notebook is known that is the whole body."""

MAX_CONTAINERS = 1_000_000
"""Lists and objects in a body: they take far more room in memory than as JSON."""

ON_ERROR = ("stop", "continue")
FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class NotebookBody:
    """The notebook with its parameters in it, and how to run it. ``timeout`` in seconds."""

    notebook: Notebook
    language: Language
    user_id: str | None
    """None when the body names no user."""
    stop_on_error: bool
    timeout: float | None
    keep: bool


def parse_notebook(body: bytes) -> NotebookBody:
    """Read the body of ``POST /notebooks/execute``: a notebook, or an object with ``notebook`` and options."""
    containers = body.count(b"[") + body.count(b"{")
    if containers > MAX_CONTAINERS:
        raise InvalidRequest(
            f"at most {MAX_CONTAINERS} lists and objects are expected in the body, got {containers} (brackets and "
            "braces in texts count)"
        )
    fields = parse_object(body)
    options: Mapping[str, Any] = fields
    if "notebook" not in fields:
        if not any(name in fields for name in BARE):
            raise InvalidRequest(
                "notebook: a notebook of nbformat 4 is expected, in the field 'notebook' or as the whole body"
            )
        options, fields = {}, {"notebook": fields}
    notebook = read_notebook(fields["notebook"])
    language = _language(notebook)
    return NotebookBody(
        notebook=_with_parameters(notebook, language, options.get("parameters")),
        language=language,
        user_id=parse_user(options["user_id"], "user_id") if options.get("user_id") is not None else None,
        stop_on_error=_on_error(options.get("on_error")),
        timeout=_timeout(options.get("timeout")),
        keep=_keep(options.get("keep")),
    )


def parse_flag(text: str, name: str) -> bool:
    """Return what a query's argument says that is true or false."""
    if text.lower() not in FLAGS:
        raise InvalidRequest(f"{name}: true or false is expected, got {shown(text)}")
    return FLAGS[text.lower()]


def _language(notebook: Notebook) -> Language:
    name = notebook.language
    language = find_language(name) if name else PYTHON
    if language is None:
        known = ", ".join(language.id for language in LANGUAGES)
        raise UnsupportedLanguage(f"notebook.metadata: a language of {known} is expected, got {shown(name)}")
    return language


def _with_parameters(notebook: Notebook, language: Language, parameters: object) -> Notebook:
    if parameters is None:
        return notebook
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"parameters: an object of names and values is expected, got {shown(parameters)}")
    if parameters and language is not PYTHON:
        raise InvalidRequest(f"parameters: none are expected for {language.display_name}, only for Python")
    return parameterized(notebook, parameters)


def _on_error(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, str) or value not in ON_ERROR:
        raise InvalidRequest(f"on_error: 'stop' or 'continue' is expected, got {shown(value)}")
    return value == "stop"


def _timeout(value: object) -> float | None:
    if value is None:
        return None
    least, most = TIMEOUT_MS
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidRequest(f"timeout: milliseconds from {least} to {most} are expected, got {shown(value)}")
    return value / 1000


def _keep(value: object) -> bool:
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"keep: true or false is expected, got {shown(value)}")
    return value is not False
