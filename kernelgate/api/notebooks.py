"""``/sessions/{session_id}/notebook`` and ``/notebooks/execute``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from tornado.iostream import StreamClosedError

from kernelgate.api.base import BodyHandler, to_json
from kernelgate.api.events import EventStream, wants_events
from kernelgate.api.parse import known_session_id, parse_session_id
from kernelgate.api.parse_notebook import parse_flag, parse_notebook
from kernelgate.errors import GateError, InvalidRequest
from kernelgate.notebook.document import NBFORMAT, Notebook
from kernelgate.sessions.notebooks import NotebookRequest


class NotebookRunHandler(BodyHandler):
    """Runs a notebook. A client that goes away stops it.

    The answer is the executed notebook, with white space ahead while it runs; or server-sent events.
    """

    _running: asyncio.Task[Notebook] | None = None
    _stream: EventStream | None = None

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
        started, with_events = asyncio.Event(), wants_events(self)

        def emit(name: str, data: dict[str, Any]) -> None:
            started.set()
            if with_events:
                self._send(name, data)

        self._running = asyncio.create_task(self.services.notebooks.execute(request, emit))
        try:
            if not with_events:
                await self._keep_alive(self._running, started)
            notebook = await self._running
        except asyncio.CancelledError:
            return  # the client has gone
        except GateError as error:
            await self._fail(error)
        else:
            await self._answer(notebook)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._running is not None:
            self._running.cancel()

    def _send(self, name: str, data: dict[str, Any]) -> None:
        if self._stream is None:
            self._stream = EventStream(self)
        self._stream.send(name, data)

    async def _answer(self, notebook: Notebook) -> None:
        if self._stream is None:
            await write_notebook(self, notebook)
        else:
            self._stream.send("notebook", notebook.to_json())
            await self._stream.close()

    async def _fail(self, error: GateError) -> None:
        """Answer with an error: as any other one as long as nothing was sent."""
        if self._stream is not None:
            self._stream.send("failure", self.error_body(error))
            await self._stream.close()
        elif self._headers_written:
            self.finish(to_json({"status": "error", **self.error_body(error)}))
        else:
            raise error

    async def _keep_alive(self, running: asyncio.Task[Notebook], started: asyncio.Event) -> None:
        """Return when ``running`` is done; from its start on send a space every now and then."""
        while not running.done():
            await asyncio.wait({running}, timeout=self.services.keepalive_seconds)
            if not running.done() and started.is_set() and not self.gone:
                self.write(" ")
                with contextlib.suppress(StreamClosedError):  # on_connection_close does the rest
                    await self.flush()


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
    rest = to_json({"metadata": notebook.metadata, **NBFORMAT})
    with contextlib.suppress(StreamClosedError):
        handler.write('{"cells":[')
        for index, cell in enumerate(notebook.cells):
            handler.write(("," if index else "") + to_json(cell))
            await handler.flush()
        await handler.finish("]," + rest[1:])
