"""From a client's JSON to a notebook that nbformat 4.5 takes as valid. Pure: raises `InvalidRequest`.

What carries meaning must be right and is refused with its place and what was expected there. What is missing is
filled in, what nbformat does not know beside it is left out. The outputs of cells that will run are not looked at.
Format: https://nbformat.readthedocs.io/en/latest/format_description.html
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kernelgate.errors import InvalidRequest
from kernelgate.notebook.fields import (
    CELL_FIELDS,
    NOTEBOOK_FIELDS,
    TYPE_FIELDS,
    Fields,
    is_bundle,
    plain_problem,
    shown,
)
from kernelgate.notebook.outputs import output_problem

Json = dict[str, Any]

MAX_CELLS = 10_000
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
NBFORMAT = {"nbformat": 4, "nbformat_minor": 5}
SKIP = "skip-execution"


@dataclass
class Notebook:
    """A valid notebook: its metadata, and its cells as nbformat 4.5 has them, sources as texts."""

    metadata: Json
    cells: list[Json]

    def to_json(self) -> Json:
        """Return the document."""
        return {"cells": self.cells, "metadata": self.metadata, **NBFORMAT}

    @property
    def language(self) -> str:
        """What the notebook calls the language of its code, empty if it does not say."""
        for name, key in (("kernelspec", "language"), ("language_info", "name")):
            said = self.metadata.get(name, {}).get(key)
            if isinstance(said, str) and said:
                return said
        return ""


def tags(cell: Json) -> list[str]:
    """Return the tags of a cell of a valid notebook."""
    return list(cell["metadata"].get("tags", ()))


def runs(cell: Json) -> bool:
    """Tell whether a cell of a valid notebook has code that is to be run."""
    return cell["cell_type"] == "code" and bool(cell["source"].strip()) and SKIP not in tags(cell)


def read_notebook(value: object) -> Notebook:
    """Return the notebook that ``value``, which came as JSON, describes; one of nbformat 3 is upgraded."""
    document = _object(value, "notebook", "a notebook of nbformat 4, which is an object,")
    version = document.get("nbformat", 4)
    if version == 3 and isinstance(version, int):
        document = _upgraded(document)
    elif version != 4 or not isinstance(version, int):
        raise InvalidRequest(f"notebook.nbformat: 4 (or 3) is expected, got {shown(version)}")
    if not isinstance(document.get("cells"), list):
        raise InvalidRequest(f"notebook.cells: a list is expected, got {shown(document.get('cells'))}")
    _check_count(len(document["cells"]))
    metadata = _metadata(document, "notebook.metadata", NOTEBOOK_FIELDS)
    metadata.pop("orig_nbformat", None)  # which is never written
    cells = [_cell(cell, f"notebook.cells[{index}]") for index, cell in enumerate(document["cells"])]
    _name(cells)
    return Notebook(metadata, cells)


def _cell(value: object, where: str) -> Json:
    cell = _object(value, where, "an object")
    kind = cell.get("cell_type")
    if not isinstance(kind, str) or kind not in TYPE_FIELDS:
        raise InvalidRequest(f"{where}.cell_type: code, markdown or raw is expected, got {shown(kind)}")
    found: Json = {"cell_type": kind, "metadata": _metadata(cell, f"{where}.metadata", TYPE_FIELDS[kind])}
    check(found["metadata"], CELL_FIELDS, f"{where}.metadata")
    found["source"] = _source(cell.get("source", ""), f"{where}.source")
    if "id" in cell:
        found["id"] = _cell_id(cell["id"], f"{where}.id")
    if kind == "code":
        return {**found, **_results(cell, passed_over=not runs(found), where=where)}
    if cell.get("attachments") is not None:
        found["attachments"] = _attachments(cell["attachments"], f"{where}.attachments")
    return found


def _results(cell: Json, passed_over: bool, where: str) -> Json:
    """Return what a code cell shows: of one that is passed over what it has shown so far, else nothing."""
    if not passed_over:
        return {"outputs": [], "execution_count": None}
    outputs, count = cell.get("outputs", []), cell.get("execution_count")
    if not isinstance(outputs, list):
        raise InvalidRequest(f"{where}.outputs: a list is expected, got {shown(outputs)}")
    for number, output in enumerate(outputs):
        problem = output_problem(output)
        if problem:
            raise InvalidRequest(f"{where}.outputs[{number}]{problem}")
        check_plain(output, f"{where}.outputs[{number}]")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
        raise InvalidRequest(f"{where}.execution_count: a whole number or null is expected, got {shown(count)}")
    return {"outputs": outputs, "execution_count": count}


def _source(value: object, where: str) -> str:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "".join(value)
    if not isinstance(value, str):
        raise InvalidRequest(f"{where}: a text or a list of texts is expected, got {shown(value)}")
    check_plain(value, where)
    return value


def _cell_id(value: object, where: str) -> str:
    if not isinstance(value, str) or not CELL_ID.fullmatch(value):
        raise InvalidRequest(f"{where}: 1 to 64 letters, digits, '-' or '_' are expected, got {shown(value)}")
    return value


def _attachments(value: object, where: str) -> Json:
    attachments = _object(value, where, "an object")
    for bundle in attachments.values():
        if not is_bundle(bundle):
            raise InvalidRequest(f"{where}: texts by MIME type are expected for each name, got {shown(bundle)}")
    check_plain(attachments, where)
    return attachments


def _metadata(holder: Json, where: str, fields: Fields) -> Json:
    metadata = _object(holder.get("metadata", {}), where, "an object")
    check_plain(metadata, where)
    check(metadata, fields, where)
    return dict(metadata)


def check(metadata: Mapping[str, Any], fields: Fields, where: str) -> None:
    """Check those of the ``fields`` that ``metadata`` has."""
    for name, (is_right, expected) in fields.items():
        if name in metadata and not is_right(metadata[name]):
            raise InvalidRequest(f"{where}.{name}: {expected} expected, got {shown(metadata[name])}")


def _name(cells: list[Json]) -> None:
    """Give an id to each cell that has none. Raises `InvalidRequest` when two have the same."""
    taken: dict[str, int] = {}
    for index, cell in enumerate(cells):
        if "id" in cell and taken.setdefault(cell["id"], index) != index:
            raise InvalidRequest(
                f"notebook.cells[{index}].id: an id of its own is expected, got {cell['id']!r}, which "
                f"cells[{taken[cell['id']]}] has"
            )
    for cell in cells:
        cell.setdefault("id", new_cell_id())


def new_cell_id() -> str:
    """Return an id that no cell has."""
    return secrets.token_hex(16)


def check_plain(value: object, where: str) -> None:
    """Check that ``value`` can be written as JSON anywhere."""
    problem = plain_problem(value)
    if problem:
        raise InvalidRequest(f"{where}: {problem}")


def _check_count(count: int) -> None:
    if count > MAX_CELLS:
        raise InvalidRequest(f"notebook.cells: at most {MAX_CELLS} cells are expected, got {count}")


def _object(value: object, where: str, expected: str) -> Json:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where}: {expected} is expected, got {shown(value)}")
    return value


# ---- nbformat 3


def _upgraded(document: Json) -> Json:
    """Return a document of nbformat 3 as one of nbformat 4, without outputs."""
    sheets = document.get("worksheets")
    if not isinstance(sheets, list):
        raise InvalidRequest(f"notebook.worksheets: a list is expected in nbformat 3, got {shown(sheets)}")
    cells: list[Any] = []
    for index, sheet in enumerate(sheets):
        found = sheet.get("cells", []) if isinstance(sheet, dict) else None
        if not isinstance(found, list):
            raise InvalidRequest(f"notebook.worksheets[{index}]: an object with a list of cells is expected")
        cells += found
        _check_count(len(cells))
    metadata = _object(document.get("metadata", {}), "notebook.metadata", "an object")
    return {
        "metadata": {name: value for name, value in metadata.items() if name not in ("name", "signature")},
        "cells": [_upgraded_cell(cell) for cell in cells],
    }


def _upgraded_cell(cell: object) -> object:
    if not isinstance(cell, dict):
        return cell
    kind, metadata = cell.get("cell_type"), cell.get("metadata", {})
    if kind == "code":
        return {"cell_type": kind, "metadata": metadata, "source": cell.get("input", "")}
    source = cell.get("source", "")
    if kind == "heading":
        level = cell.get("level", 1)
        text = " ".join(_source(source, "the source of a heading").splitlines())
        source = f"{'#' * level if isinstance(level, int) and 1 <= level <= 6 else '#'} {text}"
    return {
        "cell_type": "markdown" if kind in ("heading", "html") else kind,
        "metadata": metadata,
        "source": source,
    }
