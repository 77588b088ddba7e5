"""Parameters of a notebook, as papermill has them: a cell of assignments. Pure: raises `InvalidRequest`."""

from __future__ import annotations

import keyword
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from kernelgate.errors import InvalidRequest
from kernelgate.notebook.document import Notebook, new_cell_id, tags
from kernelgate.notebook.fields import shown

Json = dict[str, Any]

PARAMETERS = "parameters"
INJECTED = "injected-parameters"
MAX_DEPTH = 32
"""How deep a value may be; Python's own parser stops a little beyond."""


def parameterized(notebook: Notebook, parameters: Mapping[str, Any]) -> Notebook:
    """Return the notebook with a cell that assigns the parameters; none does not change it.

    The cell replaces the one tagged ``injected-parameters``, else it comes after the first that is tagged
    ``parameters``, else first.
    """
    if not parameters:
        return notebook
    source = assignments(parameters)
    cells = notebook.cells
    cell: Json = {
        "id": new_cell_id(),
        "cell_type": "code",
        "metadata": {"tags": [INJECTED]},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }
    injected, declared = _first(cells, INJECTED), _first(cells, PARAMETERS)
    if injected is not None:
        cell["id"] = cells[injected]["id"]
        return Notebook(notebook.metadata, [*cells[:injected], cell, *cells[injected + 1 :]])
    at = 0 if declared is None else declared + 1
    return Notebook(notebook.metadata, [*cells[:at], cell, *cells[at:]])


def assignments(parameters: Mapping[str, Any]) -> str:
    """Return Python code that assigns the parameters: literals and nothing else."""
    lines = [f"{_name(name)} = {literal(value, f'parameters.{name}')}\n" for name, value in parameters.items()]
    return "".join(["# Parameters\n", *lines]).rstrip("\n")


def literal(value: object, where: str, depth: int = 0) -> str:
    """Return the Python literal of a value that came as JSON."""
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"{where}: at most {MAX_DEPTH} levels are expected, got more")
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f"float('{value}')"
    if isinstance(value, list):
        return "[" + ", ".join(literal(item, where, depth + 1) for item in value) + "]"
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        items = (f"{key!r}: {literal(item, where, depth + 1)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    raise InvalidRequest(
        f"{where}: null, a boolean, a number, a text, a list or an object with texts as keys is expected, "
        f"got {type(value).__name__}"
    )


def _name(name: str) -> str:
    """Return ``name`` as Python has it. Raises `InvalidRequest` for what cannot or must not be assigned to."""
    plain = unicodedata.normalize("NFKC", name)
    if not plain.isidentifier() or keyword.iskeyword(plain) or (plain.startswith("__") and plain.endswith("__")):
        raise InvalidRequest(
            f"parameters: names of Python variables are expected (no keywords, none like '__name__'), "
            f"got {shown(name)}"
        )
    return plain


def _first(cells: Sequence[Json], tag: str) -> int | None:
    return next(
        (index for index, cell in enumerate(cells) if cell["cell_type"] == "code" and tag in tags(cell)), None
    )
