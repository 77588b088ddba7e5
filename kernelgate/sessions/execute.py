"""One execution, from request to reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from traitlets import Bool, Int
from traitlets.config import LoggingConfigurable

from kernelgate.auth import Owner
from kernelgate.errors import Aborted, BlobsMissing, GateError, LeaseLost, StateNotSaved, StoreError
from kernelgate.kernel.background import Background
from kernelgate.kernel.client import Cell, Execution, Result, execute
from kernelgate.kernel.hub import Kernel, Listener
from kernelgate.kernel.messages import BadMessage, Message
from kernelgate.kernel.outputs import OnEvent, OutputLimits
from kernelgate.kernel.snapshot import SaveRequest
from kernelgate.languages import Language
from kernelgate.sessions.admission import Admission
from kernelgate.sessions.record import now
from kernelgate.sessions.replies import execution_reply, with_state
from kernelgate.sessions.session import Question, Ready, Session
from kernelgate.sessions.sessions import Sessions
from kernelgate.sessions.state import Run, State
from kernelgate.sessions.vault import Held

Json = dict[str, Any]
OnStart = Callable[[Session, Ready], None]

BEGIN_TRIES = 3
"""Kernels that are given the code, if each is dead before it begins."""


@dataclass(frozen=True)
class ExecRequest:
    """What a client asks for. ``timeout`` in seconds, None for the longest that is allowed."""

    owner: Owner
    language: Language
    code: str
    session_id: str = ""
    argv: tuple[str, ...] = ()
    timeout: float | None = None
    allow_stdin: bool = False
    """Whether the client answers what the code asks the user."""
    on_event: OnEvent | None = None
    """Called with each output as it comes."""
    on_input: Listener | None = None
    """Called with each question to the user."""
    cell: Cell | None = None
    """What a Jupyter client sent: it waits for nothing but its session, and runs as long as it takes."""


@dataclass(frozen=True)
class Place:
    """A session that a request holds, and how often it was to be interrupted and aborted before that."""

    session: Session
    interrupts: int
    aborts: int

    def is_aborted(self) -> bool:
        """Tell whether the request is not to run any more."""
        return self.session.aborts > self.aborts


@dataclass(frozen=True)
class Done:
    """An execution that has come to its end. ``error``: the code ran, and its state could not be stored."""

    ready: Ready
    result: Result
    reply: Json
    error: StateNotSaved | None = None


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

        Raises what `execute` does, and `StateNotSaved` when the code ran and the state could not be stored.
        """
        has_started = False

        def started(session: Session, ready: Ready) -> None:
            nonlocal has_started
            if has_started:
                return
            has_started = True
            on_start()
            if request.on_event is not None:
                request.on_event("start", {"session_id": session.id, "status": ready.status})

        done = await self.execute(request, started)
        if done.error is not None:
            raise done.error
        return done.reply

    async def execute(self, request: ExecRequest, on_start: OnStart) -> Done:
        """Run the code; ``on_start`` is called when there is a kernel that is about to be given it.

        It is called again for each other kernel, where one was dead before it began. Raises `RateLimited` when it
        takes too long until it is the request's turn, `KernelStartError` and `EngineError` when there is no kernel
        to be had, `StoreError` when the store does not answer, `Aborted` when the session was restarted or shut
        down meanwhile.
        """
        async with AsyncExitStack() as held:
            place = await held.enter_async_context(self._place(request))
            session = place.session
            hold = await self._hold(held, session, request)
            problem = hold.problem if hold is not None else ""
            async with self._state.kept(hold, session.record if session.stored else None):
                ready, run = await self._run(place, request, problem, on_start)
            return await self._finish(held, session, hold, ready, run)

    async def _run(self, place: Place, request: ExecRequest, problem: str, on_start: OnStart) -> tuple[Ready, Run]:
        """Run the code in the session's kernel, in another one if that was dead before it began."""
        for _ in range(BEGIN_TRIES):
            ready = await self._kernel(place, problem)
            on_start(place.session, ready)
            self._sessions.mark(place.session, busy=True)
            run = await self._execute(place, ready, request)
            if run.result.began or ready.kernel.closed or ready.kernel.is_ended:
                break
        return ready, run

    async def _finish(
        self, held: AsyncExitStack, session: Session, hold: Held | None, ready: Ready, run: Run
    ) -> Done:
        """Store what came of the execution, now or later, if it can be."""
        error, failure, pending = "", None, False
        if hold is None:
            error = "the store cannot be reached: nothing was saved"
        elif hold.refused:
            error = f"nothing is saved until it is deleted: {hold.problem}"
        elif self._state.durable:
            try:
                await self._commit(session, hold, ready, run)
            except StateNotSaved as not_saved:
                error, failure = str(not_saved), not_saved
        else:
            pending = True
            self._background.spawn(self._commit_later(held.pop_all(), session, hold, ready, run))
        return Done(ready, run.result, with_state(run, session, ready, error, pending), failure)

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

    async def _kernel(self, place: Place, problem: str) -> Ready:
        """Return a kernel for what is to run. Raises `Aborted`, and what `Sessions.kernel` raises."""
        if not place.is_aborted():
            ready = await self._sessions.kernel(place.session, problem)
            if not place.is_aborted():
                return ready
            await self._sessions.drop_kernel(place.session)
        raise Aborted("the session was restarted or shut down before the code ran")

    async def _execute(self, place: Place, ready: Ready, request: ExecRequest) -> Run:
        session, started = place.session, now()
        execution = self._execution(request, self._state.save_request(session.has))
        if execution.allow_stdin and not await ready.kernel.open_stdin():
            execution = execution.without_stdin()
        if execution.allow_stdin and execution.on_input is None:
            execution = replace(execution, on_input=partial(_ask_client, session, ready.kernel, request.on_event))
        if session.interrupts > place.interrupts:
            execution = replace(execution, interrupted=True)
        try:
            result = await execute(ready.kernel, execution)
        finally:
            session.question = None
        session.is_whole = _is_whole(result)
        silent = request.cell is not None and request.cell.content["silent"] is True
        reply = execution_reply(session, ready, result, self.show_last_expression)
        return Run(request.code, started, result, reply, silent)

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
    async def _place(self, request: ExecRequest) -> AsyncIterator[Place]:
        """Hold the session for a request. A restart aborts cells that wait; calls of ``/exec`` keep their turn."""
        known = self._sessions.find(request.owner, request.session_id) if request.cell is not None else None
        aborts = known.aborts if known is not None else None
        async with self._lease(request) as session:
            yield Place(session, session.interrupts, session.aborts if aborts is None else aborts)

    @asynccontextmanager
    async def _lease(self, request: ExecRequest) -> AsyncIterator[Session]:
        """Hold the session, then one of the places to run; waiting for the session is bounded as well."""
        is_cell = request.cell is not None
        lease = self._sessions.lease(request.owner, request.session_id, request.language, known=is_cell)
        if is_cell:
            self._admission.check_open()
            async with lease as session:
                yield session
            return
        async with self._admission.session_turn(lease) as session, self._admission.slot(request.owner):
            yield session

    def _execution(self, request: ExecRequest, save: SaveRequest | None) -> Execution:
        timeout = request.timeout
        if request.cell is None:
            timeout = min(timeout or self.max_execution_time, self.max_execution_time)
        return Execution(
            request.code,
            timeout=timeout,
            argv=request.argv,
            limits=OutputLimits(self.max_stream_chars, self.max_output_mb << 20, self.max_outputs),
            save=save,
            cell=request.cell,
            allow_stdin=request.allow_stdin,
            on_event=request.on_event,
            on_input=request.on_input,
        )


def _ask_client(session: Session, kernel: Kernel, on_event: OnEvent | None, message: Message) -> None:
    """Have what the kernel asks the user wait for an answer."""
    try:
        session.question = Question.of(kernel, message)
    except BadMessage:
        return
    if on_event is not None:
        on_event("input_request", session.question.describe())


def _is_whole(result: Result) -> bool:
    """Tell whether all that the kernel has is in its snapshot."""
    layout = result.snapshot.layout if result.snapshot is not None else None
    return layout is not None and not layout["skipped_count"] and not layout["files_skipped_count"]
