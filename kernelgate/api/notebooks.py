"""``/sessions/{session_id}/notebook`` and ``/notebooks/execute``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from tornado.iostream import StreamClosedError

from kernelgate.api.base import BodyHandler
from kernelgate.api.events import wants_events
from kernelgate.api.parse import known_session_id, parse_session_id
from kernelgate.api.parse_notebook import parse_flag, parse_notebook
from kernelgate.api.running import RunHandler
from kernelgate.compact import compact_json
from kernelgate.errors import InvalidRequest
from kernelgate.notebook.document import NBFORMAT, Notebook
from kernelgate.sessions.notebooks import NotebookRequest


class NotebookRunHandler(RunHandler[Notebook]):
    """Runs a notebook; the answer is the executed notebook, or events."""

    last_event = "notebook"

    async def run(self, session_id: str) -> None:
        """Run the notebook of the body in the session, empty for one of its own, and answer."""
        body = await asyncio.to_thread(parse_notebook, self.body())
        if session_id and not body.keep:
            raise InvalidRequest("keep: true is expected for a session that has a name, got false")
        request = NotebookRequest(
            owner=self.owner(body.user_id),
            notebook=body.notebook,
            language=body.language,
            session_id=session_id,
            stop_on_error=body.stop_on_error,
            timeout=body.timeout,
            keep=body.keep,
        )
        tells, started = wants_events(self), asyncio.Event()

        def emit(name: str, data: dict[str, Any]) -> None:
            started.set()
            if tells:
                self.send(name, data)

        await self.see_through(self.services.notebooks.execute(request, emit), started)

    async def write_result(self, result: Notebook) -> None:
        await write_notebook(self, result)

    def as_event(self, result: Notebook) -> dict[str, Any]:
        return result.to_json()


class NotebookHandler(NotebookRunHandler):
    """``GET``: a session as a notebook. ``POST``: run one in it."""

    async def get(self, session_id: str) -> None:
        owner = self.owner()
        undone = parse_flag(self.get_query_argument("undone", "false"), "undone")
        notebook = await self.services.notebooks.export(owner, known_session_id(session_id), undone)
        self.set_header("Content-Type", "application/x-ipynb+json")
        self.set_header("Content-Disposition", f'attachment; filename="session-{session_id}.ipynb"')
        await write_notebook(self, notebook)

    async def post(self, session_id: str) -> None:
        await self.run(parse_session_id(session_id))


class ExecuteNotebookHandler(NotebookRunHandler):
    """``POST``: run a notebook in a session of its own."""

    async def post(self) -> None:
        await self.run("")


async def write_notebook(handler: BodyHandler, notebook: Notebook) -> None:
    """Finish with a notebook, cell by cell: a large one keeps nobody else waiting."""
    rest = compact_json({"metadata": notebook.metadata, **NBFORMAT})
    with contextlib.suppress(StreamClosedError):
        handler.write('{"cells":[')
        for index, cell in enumerate(notebook.cells):
            handler.write(("," if index else "") + compact_json(cell))
            await handler.flush()
        await handler.finish("]," + rest[1:])
