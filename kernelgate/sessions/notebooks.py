"""Notebooks: a session's history as one, and the run of one in a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from traitlets import Int
from traitlets.config import LoggingConfigurable

from kernelgate.auth import Owner
from kernelgate.errors import GateError, SessionNotFound
from kernelgate.images.context import resource_folder
from kernelgate.languages import LANGUAGES, PYTHON, Language, find_language
from kernelgate.notebook.document import Notebook, runs
from kernelgate.notebook.export import exported, kernelspec, language_info, pinned_versions
from kernelgate.notebook.run import Emit, Run
from kernelgate.sessions.execute import ExecRequest
from kernelgate.sessions.history import History
from kernelgate.sessions.sessions import Sessions

Json = dict[str, Any]

ALL = 1 << 53
"""More executions than a history has."""


class CellExecutor(Protocol):
    """What runs the cells."""

    async def run(self, request: ExecRequest, on_start: Callable[[], None]) -> Json:
        """Run code; ``outputs``, ``status``, ``execution_count``, ``duration_ms`` are in what it returns."""
        ...


@dataclass(frozen=True)
class NotebookRequest:
    """A notebook that is to be run. ``timeout`` in seconds for each cell, None for the longest that is allowed.

    It runs in the session ``session_id``, a new one if there is none; empty: in a session of its own, which is
    deleted afterwards unless ``keep``.
    """

    owner: Owner
    notebook: Notebook
    language: Language
    session_id: str = ""
    stop_on_error: bool = True
    timeout: float | None = None
    keep: bool = True


class Notebooks(LoggingConfigurable):
    """Makes notebooks of sessions, and runs notebooks in them."""

    max_output_mb = Int(
        64, min=1, help="MB of outputs that an executed notebook carries; those of later cells are left out."
    ).tag(config=True)

    def __init__(self, executor: CellExecutor, sessions: Sessions, history: History, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._executor = executor
        self._sessions = sessions
        self._history = history
        self._packages = {language.id: packages(language) for language in LANGUAGES}

    # ---- from a session

    async def export(self, owner: Owner, session_id: str, undone: bool) -> Notebook:
        """Return a session's executions as a notebook. Raises `SessionNotFound`, `StoreError`."""
        shown = await self._history.show(owner, session_id, ALL, None)
        session = await self._sessions.get(owner, session_id)
        language = find_language(session["lang"]) or PYTHON
        metadata = {
            "kernelspec": kernelspec(language),
            "language_info": self._language_info(owner, session_id, language),
            "kernelgate": {
                "session_id": session_id,
                "version": shown["version"],
                "created": session["created"],
                "packages": self._packages[language.id],
            },
        }
        return exported(shown["history"], metadata, undone)

    def _language_info(self, owner: Owner, session_id: str, language: Language) -> Json:
        """Return what is known of the language; its exact version only while the session has its kernel."""
        session = self._sessions.find(owner, session_id)
        kernel = session.kernel if session is not None else None
        return language_info(language, kernel.info.get("language_info") if kernel is not None else None)

    # ---- into a session

    async def execute(self, request: NotebookRequest, emit: Emit) -> Notebook:
        """Run a notebook and return it as executed; ``emit`` gets what happens, as server-sent events have it.

        An error of the code is in the notebook, as is one of ours once a cell has run. Raises what the executor
        raises before that.
        """
        has_code = any(map(runs, request.notebook.cells))
        session_id = request.session_id or (self._sessions.new_id() if has_code else "")
        run = Run(
            request.notebook,
            session_id or None,
            partial(self._run_cell, request, session_id),
            emit,
            request.stop_on_error,
            self.max_output_mb << 20,
        )
        metadata, kept = request.notebook.metadata, bool(session_id)
        try:
            about = await run.all_cells()
            self._describe(request, session_id, metadata)
        finally:
            if session_id and not request.keep:
                kept = not await self._delete(request.owner, session_id)
        metadata["kernelgate"] = {**about, "kept": kept}
        return request.notebook

    async def _run_cell(
        self, request: NotebookRequest, session_id: str, code: str, on_start: Callable[[], None], on_event: Emit
    ) -> Json:
        execution = ExecRequest(
            owner=request.owner,
            language=request.language,
            code=code,
            session_id=session_id,
            timeout=request.timeout,
            on_event=on_event,
        )
        return await self._executor.run(execution, on_start)

    def _describe(self, request: NotebookRequest, session_id: str, metadata: Json) -> None:
        """Say in a notebook's metadata what ran it, as far as it does not say so itself."""
        metadata.setdefault("kernelspec", kernelspec(request.language))
        info = self._language_info(request.owner, session_id, request.language)
        if "version" in info:
            metadata["language_info"] = info
        metadata.setdefault("language_info", info)

    async def _delete(self, owner: Owner, session_id: str) -> bool:
        """Delete the session of a notebook; tells whether it is gone."""
        try:
            await self._sessions.delete(owner, session_id)
        except SessionNotFound:
            pass  # no cell has run
        except GateError as error:
            self.log.warning("session %s of a notebook is not deleted: %s", session_id, error)
            return False
        return True


def packages(language: Language) -> dict[str, str]:
    """Return the versions of the libraries in a language's image, which is built from these requirements."""
    path = resource_folder("images") / language.folder / "requirements.txt"
    return pinned_versions(path.read_text(encoding="utf-8")) if path.is_file() else {}
