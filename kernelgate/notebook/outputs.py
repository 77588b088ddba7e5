"""Outputs as nbformat 4.5 takes them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kernelgate.notebook.fields import JSON_MIME, is_bundle, is_multiline, plain_problem, shown

Json = dict[str, Any]

SHAPES = {
    "stream": {"output_type", "name", "text"},
    "display_data": {"output_type", "data", "metadata"},
    "execute_result": {"output_type", "data", "metadata", "execution_count"},
    "error": {"output_type", "ename", "evalue", "traceback"},
}

ENDS = {
    "timeout": ("Timeout", "the cell ran for as long as it may and was stopped"),
    "out_of_memory": ("OutOfMemory", "the cell took more memory than there is; what it ran in was killed"),
    "killed": ("KernelDied", "the kernel ended while the cell ran"),
}
"""What a notebook shows of an execution that did not end by itself, by its status."""


def output_problem(output: object) -> str:
    """Return what is wrong with an output, with the field it is in; empty if nothing is."""
    if not isinstance(output, dict):
        return f": an object is expected, got {shown(output)}"
    kind = output.get("output_type")
    if not isinstance(kind, str) or kind not in SHAPES:
        return f".output_type: {', '.join(SHAPES)} is expected, got {shown(kind)}"
    if set(output) != SHAPES[kind]:
        return f": the fields {', '.join(sorted(SHAPES[kind]))} are expected, got others"
    for name, value in output.items():
        if not _CHECKS[name](value):
            return f".{name}: {_EXPECTED[name]} is expected, got {shown(value)}"
    return ""


def fitting(outputs: Iterable[Json], status: str) -> list[Json]:
    """Return the outputs of an execution that ended with ``status``, without what nbformat would refuse.

    Code puts out what it likes: data that is no text under a type that must be one, and JSON that is so deep that
    readers give up.
    """
    found = [_fitting(output) for output in outputs]
    end = ENDS.get(status)
    if end is not None:
        name, value = end
        found.append(
            {"output_type": "error", "ename": name, "evalue": value, "traceback": [f"{name}: {value}"]},
        )
    return [output for output in found if not output_problem(output)]


def _fitting(output: Json) -> Json:
    data, metadata = output.get("data"), output.get("metadata", {})
    if not isinstance(data, dict):
        return output
    kept = {
        mime: value
        for mime, value in data.items()
        if is_multiline(value) or (JSON_MIME.search(mime) and not plain_problem(value))
    }
    return {**output, "data": kept, "metadata": {} if plain_problem(metadata) else metadata}


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "output_type": lambda value: isinstance(value, str),
    "name": lambda value: isinstance(value, str),
    "text": is_multiline,
    "data": is_bundle,
    "metadata": lambda value: isinstance(value, dict),
    "execution_count": _is_count,
    "ename": lambda value: isinstance(value, str),
    "evalue": lambda value: isinstance(value, str),
    "traceback": lambda value: isinstance(value, list) and is_multiline(value),
}
_EXPECTED = {
    "output_type": "a text",
    "name": "a text",
    "text": "a text or a list of texts",
    "data": "a text for each MIME type",
    "metadata": "an object",
    "execution_count": "a whole number or null",
    "ename": "a text",
    "evalue": "a text",
    "traceback": "a list of texts",
}
