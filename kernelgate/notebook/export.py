"""From a session's history to a notebook. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from kernelgate.languages import PYTHON, Language
from kernelgate.notebook.document import Notebook
from kernelgate.notebook.outputs import fitting

Json = dict[str, Any]

PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;#]+)", re.MULTILINE)

VERSION = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){1,2}[a-z0-9+.]{0,16}")

PYTHON_INFO: Json = {
    "name": "python",
    "mimetype": "text/x-python",
    "codemirror_mode": {"name": "ipython", "version": 3},
    "pygments_lexer": "ipython3",
    "nbconvert_exporter": "python",
    "file_extension": ".py",
}
"""What ipykernel says of its language, but for the version, which depends on the image."""

RESTARTED = "restart"
"""The status in a history of what is no execution: a new kernel was begun."""

SHOWN = ("number", "version", "status", "undone")


def pinned_versions(requirements: str) -> dict[str, str]:
    """Return the version of each package that a requirements file pins."""
    return dict(sorted(PINNED.findall(requirements)))


def kernelspec(language: Language) -> Json:
    """Return what a notebook says of the kernel that runs it."""
    name = PYTHON_INFO["name"] if language is PYTHON else language.id
    return {"name": language.kernel_name, "display_name": language.display_name, "language": name}


def language_info(language: Language, told: object) -> Json:
    """Return what a notebook says of its language; of what a kernel has ``told`` only the version is taken.

    A kernel may have run code that answers in its place.
    """
    if language is not PYTHON:
        return {"name": language.id, "file_extension": language.file_extension}
    version = told.get("version") if isinstance(told, dict) else None
    known = isinstance(version, str) and VERSION.fullmatch(version) is not None
    return {**PYTHON_INFO, **({"version": version} if known else {})}


def exported(entries: list[Json], metadata: Json, undone: bool) -> Notebook:
    """Return a notebook with a cell for each execution of a history, those that were undone if ``undone``.

    ``entries`` are as ``GET /sessions/{session_id}/history`` shows them.
    """
    executions = (entry for entry in entries if entry["status"] != RESTARTED)
    return Notebook(metadata, [_cell(entry) for entry in executions if undone or not entry["undone"]])


def _cell(entry: Json) -> Json:
    kept = entry["code"] is not None
    about: Json = {name: entry[name] for name in SHOWN}
    if not kept or entry.get("cut"):
        about["kept"] = "in part" if kept else "nothing"
    return {
        "id": f"execution-{entry['number']}",
        "cell_type": "code",
        "metadata": {
            "execution": timing(entry["started"], entry.get("duration_ms", 0.0)),
            "kernelgate": about,
        },
        "source": entry["code"].encode(errors="replace").decode() if kept else "",
        "outputs": fitting(entry.get("outputs", ()), entry["status"]),
        "execution_count": entry.get("execution_count"),
    }


def timing(started: str, duration_ms: float) -> dict[str, str]:
    """Return the times of a cell as nbclient writes them. ``started`` in ISO 8601."""
    begin = datetime.fromisoformat(started).astimezone(UTC)
    first, last = _stamp(begin), _stamp(begin + timedelta(milliseconds=duration_ms))
    return {
        "iopub.status.busy": first,
        "iopub.execute_input": first,
        "shell.execute_reply": last,
        "iopub.status.idle": last,
    }


def _stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
