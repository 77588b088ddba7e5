"""What nbformat 4.5 demands of the fields that it knows. Pure.

The schema: https://github.com/jupyter/nbformat/blob/main/nbformat/v4/nbformat.v4.5.schema.json
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Fields = Mapping[str, tuple[Callable[[Any], bool], str]]
"""By name: whether a value is right, and what is expected, with its verb."""

MAX_DEPTH = 64
"""How deep lists and objects may lie in each other in metadata, attachments and outputs."""

TAG = re.compile(r"^[^,]+$")
NAME = re.compile(r"^.+$")
JSON_MIME = re.compile(r"^application/(.*\+)?json$")
TEXTS = ("file_extension", "mimetype", "pygments_lexer")


def is_multiline(value: object) -> bool:
    """Tell whether ``value`` is a text or a list of texts."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value))


def is_bundle(value: object) -> bool:
    """Tell whether ``value`` has a text, for a JSON type anything, for each MIME type."""
    return isinstance(value, dict) and all(
        is_multiline(data) or JSON_MIME.search(mime) is not None for mime, data in value.items()
    )


def shown(value: object) -> str:
    """Return what an error message says of a value that came: a short one itself, else its kind."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return ascii(value[:40]) + ("…" if len(value) > 40 else "")
    if isinstance(value, int | float):
        return str(value)[:40]
    return f"a list of {len(value)}" if isinstance(value, list) else "an object"


def plain_problem(value: object) -> str:
    """Return why ``value``, which came as JSON, cannot be written as JSON anywhere; empty if it can.

    It must not be too deep, its numbers must be finite, and its texts must be whole characters. What lies flat in
    a list takes next to no time.
    """
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for container in level:
            content = container if isinstance(container, list) else [*container, *container.values()]
            kinds = set(map(type, content))
            if float in kinds and not all(map(math.isfinite, _of(float, content))):
                return "finite numbers are expected, got others"
            if str in kinds and not _is_utf8("".join(_of(str, content))):
                return "whole characters are expected, got lone surrogates"
            if list in kinds or dict in kinds:
                inner += [item for item in content if isinstance(item, list | dict)]
        if not inner:
            return ""
        level = inner
    return f"at most {MAX_DEPTH} levels are expected, got more"


def _of(kind: type, content: list[Any]) -> Iterator[Any]:
    return (item for item in content if type(item) is kind)


def _is_utf8(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _are_tags(value: object) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(tag, str) and TAG.search(tag) for tag in value)
        and len(set(value)) == len(value)
    )


def _is_kernelspec(value: object) -> bool:
    return isinstance(value, dict) and _is_text(value.get("name")) and _is_text(value.get("display_name"))


def _is_language_info(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _is_text(value.get("name"))
        and all(_is_text(value.get(name, "")) for name in TEXTS)
        and isinstance(value.get("codemirror_mode", ""), str | dict)
    )


NOTEBOOK_FIELDS: Fields = {
    "kernelspec": (_is_kernelspec, "an object with the texts name and display_name is"),
    "language_info": (_is_language_info, f"an object with a text name is (texts, too: {', '.join(TEXTS)})"),
    "title": (_is_text, "a text is"),
    "authors": (lambda value: isinstance(value, list), "a list is"),
}

CELL_FIELDS: Fields = {
    "tags": (_are_tags, "a list of different texts without commas is"),
    "name": (lambda value: _is_text(value) and NAME.search(value) is not None, "a text that is not empty is"),
    "jupyter": (_is_object, "an object is"),
}
"""Of the metadata of every cell."""

TYPE_FIELDS: Mapping[str, Fields] = {
    "code": {
        "execution": (
            lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
            "an object of texts is",
        ),
        "collapsed": (lambda value: isinstance(value, bool), "true or false is"),
        "scrolled": (lambda value: isinstance(value, bool) or value == "auto", "true, false or 'auto' is"),
    },
    "markdown": {},
    "raw": {"format": (_is_text, "a text is")},
}
"""Of the metadata of cells of one type."""
