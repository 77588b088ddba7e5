"""The run of a notebook, cell by cell. Knows neither sessions nor sockets: it is given what runs code."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from kernelgate.errors import GateError
from kernelgate.notebook.document import Notebook, runs, tags
from kernelgate.notebook.export import timing
from kernelgate.notebook.outputs import fitting

Json = dict[str, Any]
Emit = Callable[[str, Json], None]
"""Takes the name of an event and its data."""

EXPECTED_ERROR = "raises-exception"
OUTPUT_EVENTS = frozenset(
    ("stream", "display_data", "execute_result", "update_display_data", "clear_output", "error")
)

OK, ERROR, PENDING, SKIPPED, FAILURE = "ok", "error", "pending", "skipped", "failure"


class RunCell(Protocol):
    """Runs the code of a cell, and returns a reply with ``status``, ``outputs`` and the like."""

    async def __call__(self, code: str, on_start: Callable[[], None], on_event: Emit) -> Json: ...


class Run:
    """One run of a notebook, whose cells it changes.

    Each code cell has ``metadata.kernelgate`` afterwards with its status: how it ended, else ``pending`` (the run
    was stopped before it), ``skipped``, or ``failure`` (the server could not go on).
    """

    def __init__(
        self,
        notebook: Notebook,
        session_id: str | None,
        run_cell: RunCell,
        emit: Emit,
        stop_on_error: bool,
        max_output_bytes: int,
    ) -> None:
        self._cells = notebook.cells
        self._session_id = session_id
        self._run_cell = run_cell
        self._emit = emit
        self._stop_on_error = stop_on_error
        self._room = max_output_bytes
        self._started = self._stopped = False
        self._executed = 0
        self._failed: int | None = None
        self._error: Json = {}
        self._status = OK

    async def all_cells(self) -> Json:
        """Run the cells and return what came of it. Raises a `GateError` that comes before a cell has run."""
        begin = time.monotonic()
        to_run = self._prepare()
        for index in to_run:
            if self._stopped:
                break
            await self._one_cell(index)
        self._start()
        return {
            "session_id": self._session_id,
            "status": self._status,
            "failed_cell": self._failed,
            "executed": self._executed,
            "duration_ms": _ms(time.monotonic() - begin),
            **({"error": self._error} if self._error else {}),
        }

    def _prepare(self) -> list[int]:
        """Take from all cells what an earlier run has left; returns which are to be run."""
        to_run = []
        for index, cell in enumerate(self._cells):
            metadata = cell["metadata"]
            metadata.pop("kernelgate", None)
            if runs(cell):
                to_run.append(index)
                metadata.pop("execution", None)
                metadata["kernelgate"] = {"status": PENDING}
            elif cell["cell_type"] == "code":
                metadata["kernelgate"] = {"status": SKIPPED}
        return to_run

    async def _one_cell(self, index: int) -> None:
        cell = self._cells[index]
        started: datetime | None = None

        def on_start() -> None:
            nonlocal started
            started = datetime.now(UTC)
            self._start()
            self._emit("cell_start", {"index": index, "id": cell["id"]})

        def on_event(name: str, data: Json) -> None:
            if name in OUTPUT_EVENTS:
                self._emit(name, {**data, "index": index})

        try:
            reply = await self._run_cell(cell["source"], on_start, on_event)
        except GateError as error:
            if not self._executed:
                raise
            self._fail(index, error)
            if started is not None:
                self._end(index)
        else:
            self._executed += 1
            self._take(index, reply, started or datetime.now(UTC))

    def _take(self, index: int, reply: Json, started: datetime) -> None:
        """Put what came of a cell into it."""
        cell, status, duration = self._cells[index], reply["status"], reply["duration_ms"]
        cell["outputs"], left_out = self._bounded(fitting(reply["outputs"], status))
        cell["execution_count"] = reply["execution_count"]
        cell["metadata"]["execution"] = timing(started.isoformat(), duration)
        cell["metadata"]["kernelgate"] = {
            "status": status,
            "duration_ms": duration,
            "truncated": sorted({*reply["truncated"], "outputs"}) if left_out else reply["truncated"],
        }
        self._end(index)
        never_stops = EXPECTED_ERROR in tags(cell)
        if status == OK or (status == ERROR and never_stops):
            return
        if self._failed is None:
            self._status, self._failed = status, index
        self._stopped = self._stop_on_error and not never_stops

    def _fail(self, index: int, error: GateError) -> None:
        """Remember that the server could not run a cell; none is tried after that."""
        self._error = {"error": error.code, "message": str(error), **error.details()}
        self._cells[index]["metadata"]["kernelgate"] = {"status": FAILURE, "duration_ms": 0.0, "truncated": []}
        self._status, self._failed, self._stopped = FAILURE, index, True

    def _end(self, index: int) -> None:
        about, count = self._cells[index]["metadata"]["kernelgate"], self._cells[index]["execution_count"]
        data = {"status": about["status"], "execution_count": count, "duration_ms": about["duration_ms"]}
        self._emit("cell_end", {"index": index, **data})

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._emit("start", {"session_id": self._session_id, "cells": len(self._cells)})

    def _bounded(self, outputs: list[Json]) -> tuple[list[Json], bool]:
        """Return the outputs if there is room for them, else one that says so; and whether they were left out."""
        size = len(json.dumps(outputs))
        if size <= self._room:
            self._room -= size
            return outputs, False
        text = f"Outputs of {size} bytes were left out: the notebook has room for {self._room} more\n"
        return [{"output_type": "stream", "name": "stderr", "text": text}], True


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
