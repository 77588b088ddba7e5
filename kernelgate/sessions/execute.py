"""One execution, from request to reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from traitlets import Bool, Int
from traitlets.config import LoggingConfigurable

from kernelgate.auth import Owner
from kernelgate.errors import BlobsMissing, GateError, LeaseLost, StateNotSaved, StoreError
from kernelgate.kernel.background import Background
from kernelgate.kernel.client import Execution, Result, execute
from kernelgate.kernel.outputs import OutputLimits
from kernelgate.kernel.snapshot import SaveRequest
from kernelgate.languages import Language
from kernelgate.sessions.admission import Admission
from kernelgate.sessions.record import now
from kernelgate.sessions.session import Ready, Session, Sessions
from kernelgate.sessions.state import Run, State
from kernelgate.sessions.vault import Held

Json = dict[str, Any]


@dataclass(frozen=True)
class ExecRequest:
    """What a client asks for. ``timeout`` in seconds, None for the longest that is allowed."""

    owner: Owner
    language: Language
    code: str
    session_id: str = ""
    argv: tuple[str, ...] = ()
    timeout: float | None = None


class Executor(LoggingConfigurable):
    """Runs code in sessions."""

    max_execution_time = Int(30, min=1, help="Seconds that an execution may take.").tag(
        config=True, env="MAX_EXECUTION_TIME", group="Execution limits"
    )
    max_stream_chars = Int(
        1_000_000, min=1000, help="Characters of stdout, and of stderr, that a reply carries."
    ).tag(config=True)
    max_output_mb = Int(20, min=1, help="MB of rich outputs (pictures, tables) that a reply carries.").tag(
        config=True
    )
    max_outputs = Int(1000, min=1, help="Rich outputs that a reply carries.").tag(config=True)
    show_last_expression = Bool(
        True, help="Put the value of the last expression in stdout too when the code printed nothing."
    ).tag(config=True, env="SHOW_LAST_EXPRESSION", group="Execution limits")

    def __init__(self, sessions: Sessions, state: State, admission: Admission, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._sessions = sessions
        self._state = state
        self._admission = admission
        self._background = Background(self.log, "storing a state after the reply")

    async def run(self, request: ExecRequest, on_start: Callable[[], None] = lambda: None) -> Json:
        """Run the code and return the reply of ``POST /exec``; ``on_start`` is called when a kernel has the code.

        Raises `RateLimited` when it takes too long until it is the request's turn, `KernelStartError` and
        `EngineError` when there is no kernel to be had, `StoreError` when the store does not answer,
        `StateNotSaved` when the code ran and the state could not be stored.
        """
        async with AsyncExitStack() as held:
            session = await held.enter_async_context(self._lease(request))
            hold = await self._hold(held, session, request)
            ready = await self._sessions.kernel(session, hold.problem if hold is not None else "")
            self._sessions.mark(session, busy=True)
            on_start()
            run = await self._execute(session, ready, request)
            if hold is None:
                return _with_state(run, session, ready, error="the store cannot be reached: nothing was saved")
            if hold.refused:
                return _with_state(
                    run, session, ready, error=f"nothing is saved until it is deleted: {hold.problem}"
                )
            if self._state.durable:
                await self._commit(session, hold, ready, run)
                return _with_state(run, session, ready)
            self._background.spawn(self._commit_later(held.pop_all(), session, hold, ready, run))
            return _with_state(run, session, ready, pending=True)

    async def close(self) -> None:
        """Wait until all that is to be stored after its reply is stored."""
        await self._background.wait()

    async def _hold(self, held: AsyncExitStack, session: Session, request: ExecRequest) -> Held | None:
        """Hold the session against other servers. None: the store is down, which a new session can do without."""
        try:
            return await held.enter_async_context(
                self._sessions.hold(session, self._admission.queue_timeout, is_new=not request.session_id)
            )
        except StoreError as error:
            if request.session_id:
                raise
            self.log.warning("a new session is not stored: %s", error)
            return None

    async def _execute(self, session: Session, ready: Ready, request: ExecRequest) -> Run:
        started = now()
        execution = self._execution(request, self._state.save_request(session.has))
        result = await execute(ready.kernel, execution)
        return Run(request.code, started, result, self._reply(session, result, ready))

    async def _commit(self, session: Session, hold: Held, ready: Ready, run: Run) -> None:
        """Store the execution, to the end even when the caller goes away. Raises `StateNotSaved`."""
        work = asyncio.ensure_future(self._store(session, hold, ready, run))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})
            raise

    async def _store(self, session: Session, hold: Held, ready: Ready, run: Run) -> None:
        try:
            stored = await self._state.commit(hold, session.record, ready.kernel, session.has, run)
        except (StoreError, LeaseLost, BlobsMissing) as error:
            if session.deleted:
                return
            raise StateNotSaved(f"the code ran, but its state could not be stored: {error}") from error
        session.record, session.has, session.stored = stored.record, stored.has, True
        self._sessions.mark(session, busy=False)

    async def _commit_later(
        self, held: AsyncExitStack, session: Session, hold: Held, ready: Ready, run: Run
    ) -> None:
        async with held:
            try:
                await self._store(session, hold, ready, run)
            except GateError as error:
                self.log.error("session %s: %s", session.id, error)

    @asynccontextmanager
    async def _lease(self, request: ExecRequest) -> AsyncIterator[Session]:
        """Hold the session, then one of the places to run; waiting for the session is bounded as well."""
        lease = self._sessions.lease(request.owner, request.session_id, request.language)
        async with self._admission.session_turn(lease) as session, self._admission.slot(request.owner):
            yield session

    def _execution(self, request: ExecRequest, save: SaveRequest | None) -> Execution:
        timeout = min(request.timeout or self.max_execution_time, self.max_execution_time)
        limits = OutputLimits(self.max_stream_chars, self.max_output_mb << 20, self.max_outputs)
        return Execution(request.code, timeout=timeout, argv=request.argv, limits=limits, save=save)

    def _reply(self, session: Session, result: Result, ready: Ready) -> Json:
        output = result.output
        return {
            "session_id": session.id,
            "stdout": self._stdout(result),
            "stderr": _stderr(result, ready.problem, _loss(session) if result.kernel_lost else ""),
            "files": [],
            "status": result.status.value,
            "exit_code": result.exit_code,
            "outputs": output.outputs,
            "execution_count": output.execution_count,
            "duration_ms": round(result.duration * 1000, 3),
            "truncated": output.truncated,
            "runtime_session_id": session.id,
            "runtime_status": ready.status,
        }

    def _stdout(self, result: Result) -> str:
        output = result.output
        return output.stdout + (output.shown if self.show_last_expression and not output.stdout.strip() else "")


def _loss(session: Session) -> str:
    """Say what becomes of a session whose kernel is dead."""
    version = session.record.version
    return (
        f"The session goes on from what was saved last, version {version}" if version else "Its variables are lost"
    )


def _stderr(result: Result, problem: str, loss: str) -> str:
    """Return stderr with what a terminal would have shown on it: the traceback, and why the code was stopped."""
    output = result.output
    parts = [f"The session's state could not be restored, it begins anew: {problem}\n"] if problem else []
    if output.stderr:
        parts.append(output.stderr)
    if output.error is not None and result.exit_code != 0:
        parts.append("\n".join(output.error["traceback"]) + "\n")
    if result.message:
        parts.append(result.message + "\n")
    if loss:
        parts.append(loss + "\n")
    for name in output.truncated:
        parts.append(
            "Some outputs were left out\n" if name == "outputs" else f"{name} length exceeded: the rest was cut\n"
        )
    return "".join(
        part if part.endswith("\n") or part is parts[-1] else part + "\n" for part in parts if part.strip()
    )


def _with_state(run: Run, session: Session, ready: Ready, error: str = "", pending: bool = False) -> Json:
    """Return the reply with what is stored of the session's state."""
    return {**run.reply, "state": state_field(run.result, session, ready, error, pending)}


def state_field(result: Result, session: Session, ready: Ready, error: str, pending: bool) -> Json:
    """Return the reply's ``state``: the session's version, what is in it, what had to be left out."""
    snapshot = result.snapshot
    shown: Json = {
        "version": session.record.version,
        "captured": snapshot is not None and not error,
        "pending": pending,
        "error": error or result.save_error or None,
        "restored": None,
    }
    if ready.status == "restored" or ready.problem:
        lost, problem = ready.restored.lost, ready.problem or None
        shown["restored"] = {"names": ready.restored.names, "lost": lost, "error": problem}
    if snapshot is None:
        return {**shown, "saved": 0, "bytes": 0, "skipped": [], "skipped_count": 0, "files": None}
    layout = snapshot.layout
    files = [entry for entry in layout["files"] if "size" in entry]
    shown["saved"], shown["bytes"] = layout["names"], sum(layout["sizes"])
    shown["skipped"], shown["skipped_count"] = layout["skipped"], layout["skipped_count"]
    shown["files"] = {
        "saved": len(files),
        "bytes": sum(entry["size"] for entry in files),
        "skipped": layout["files_skipped"],
        "skipped_count": layout["files_skipped_count"],
    }
    return shown
