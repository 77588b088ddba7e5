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
from kernelgate.kernel.client import Execution, Result, execute
from kernelgate.kernel.outputs import OutputLimits
from kernelgate.languages import Language
from kernelgate.sessions.admission import Admission
from kernelgate.sessions.session import Session, Sessions


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

    def __init__(self, sessions: Sessions, admission: Admission, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._sessions = sessions
        self._admission = admission

    async def run(self, request: ExecRequest, on_start: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Run the code and return the reply of ``POST /exec``; ``on_start`` is called when a kernel has the code.

        Raises `RateLimited` when it takes too long until it is the request's turn, `KernelStartError` and
        `EngineError` when there is no kernel to be had.
        """
        async with self._lease(request) as session:
            kernel, reused = await self._sessions.kernel(session)
            on_start()
            session.executions += 1
            result = await execute(kernel, self._execution(request))
            return self._reply(session, result, reused)

    @asynccontextmanager
    async def _lease(self, request: ExecRequest) -> AsyncIterator[Session]:
        """Hold the session, then one of the places to run; waiting for the session is bounded as well."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._admission.queue_timeout):
                    session = await held.enter_async_context(
                        self._sessions.lease(request.owner, request.session_id, request.language)
                    )
            except TimeoutError:
                raise self._admission.refusal("other executions of the session have not ended") from None
            await held.enter_async_context(self._admission.slot(request.owner))
            yield session

    def _execution(self, request: ExecRequest) -> Execution:
        timeout = min(request.timeout or self.max_execution_time, self.max_execution_time)
        limits = OutputLimits(self.max_stream_chars, self.max_output_mb << 20, self.max_outputs)
        return Execution(request.code, timeout=timeout, argv=request.argv, limits=limits)

    def _reply(self, session: Session, result: Result, reused: bool) -> dict[str, Any]:
        output = result.output
        return {
            "session_id": session.id,
            "stdout": self._stdout(result),
            "stderr": _stderr(result),
            "files": [],
            "status": result.status.value,
            "exit_code": result.exit_code,
            "outputs": output.outputs,
            "execution_count": output.execution_count,
            "duration_ms": round(result.duration * 1000, 3),
            "truncated": output.truncated,
            "runtime_session_id": session.id,
            "runtime_status": "reused" if reused else "new",
        }

    def _stdout(self, result: Result) -> str:
        output = result.output
        return output.stdout + (output.shown if self.show_last_expression and not output.stdout.strip() else "")


def _stderr(result: Result) -> str:
    """Return stderr with what a terminal would have shown on it: the traceback, and why the code was stopped."""
    output = result.output
    parts = [output.stderr] if output.stderr else []
    if output.error is not None and result.exit_code != 0:
        parts.append("\n".join(output.error["traceback"]) + "\n")
    if result.message:
        parts.append(result.message + "\n")
    for name in output.truncated:
        parts.append(
            "Some outputs were left out\n" if name == "outputs" else f"{name} length exceeded: the rest was cut\n"
        )
    return "".join(
        part if part.endswith("\n") or part is parts[-1] else part + "\n" for part in parts if part.strip()
    )
