"""Running code in a kernel: one execute request, from the sending until the kernel has done with it or is dead."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from kernelgate.containers.engine import Exit
from kernelgate.kernel.hub import Kernel, Listener
from kernelgate.kernel.messages import BadMessage, Message
from kernelgate.kernel.outputs import Folded, OnEvent, OutputFold, OutputLimits
from kernelgate.kernel.snapshot import Inbox, SaveRequest, Snapshot

INTERRUPT_GRACE = 2.0
"""Seconds between an interrupt and the kill of a kernel that goes on."""

KILLED = 137
"""Exit code of what a SIGKILL ended, as a shell gives it."""

REPLY_WAIT = 2.0
"""Seconds after the idle status in which the reply must come."""

IDLE_WAIT = 1.0
"""Seconds without any output after which the idle status is taken for lost, once the reply is there."""

LAST_WORDS = 0.05
"""Seconds in which what a kernel sent before its death is still read."""

BEGIN_SECONDS = 1.0
"""Seconds within which a kernel that has not said that it began with a request is believed."""

SAVE_GRACE = 3.0
"""Seconds beyond its time limit that a kernel has to send its state."""

IDLE_WAIT_MOST = 20.0
LISTEN_AGAIN = 2.0

UNANSWERED = {"status": "error"}
"""Stands for the reply of a kernel that was interrupted at a bad moment and sent none."""

EXIT_NUMBER = re.compile(r"-?[0-9]{1,12}")


class Status(StrEnum):
    """How an execution ended."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"


@dataclass(frozen=True)
class Cell:
    """An ``execute_request`` of a Jupyter client: it is run as it is."""

    header: Mapping[str, Any]
    metadata: Mapping[str, Any]
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Execution:
    """What to run: the code, its command line, its bounds."""

    code: str
    timeout: float | None
    """Seconds; None for as long as it takes."""
    argv: Sequence[str] = ()
    limits: OutputLimits = field(default_factory=OutputLimits)
    silent: bool = False
    save: SaveRequest | None = None
    """Have the kernel send its state behind the reply."""
    cell: Cell | None = None
    """The client's own request, when there is one."""
    allow_stdin: bool = False
    on_event: OnEvent | None = None
    """Called with the name and the data of each output as it comes."""
    on_input: Listener | None = None
    """Called with each question to the user."""
    interrupted: bool = False
    """Whether it was to be interrupted before it could begin."""

    def without_stdin(self) -> Execution:
        """Return the same where the code cannot ask the user anything."""
        cell = self.cell and replace(self.cell, content={**self.cell.content, "allow_stdin": False})
        return replace(self, allow_stdin=False, cell=cell)


@dataclass(frozen=True)
class Result:
    """How an execution ended and what it put out. ``duration`` in seconds, without the saving."""

    status: Status
    exit_code: int
    output: Folded
    duration: float
    message: str = ""
    """For statuses other than ok and error: what happened, in a sentence."""
    kernel_lost: bool = False
    """Whether the kernel is dead, and with it what was not saved."""
    snapshot: Snapshot | None = None
    save_error: str = ""
    """Why there is no snapshot, though one was asked for; empty also when a failed cell was not to be saved."""
    reply: Message | None = None
    """What the kernel replied, if it did."""
    idle: bool = True
    """Whether the kernel said that it has done with the request."""
    began: bool = True
    """Whether the code may have run. False: the kernel was dead, or died before it came to it."""


class _Run:
    """One execution under way.

    ``replied`` completes when the code has ended, or the kernel; ``saved`` when the kernel has come to the end of
    its saving; ``done`` when all that belongs to the execution has come: its state, if that was asked for, and the
    idle status, which comes behind all output.
    """

    def __init__(self, kernel: Kernel, execution: Execution, interrupts: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._kernel = kernel
        self.fold = OutputFold(execution.limits, execution.on_event)
        self.inbox = Inbox(execution.save) if execution.save is not None else None
        self.reply: dict[str, Any] | None = None
        self.message: Message | None = None
        self.replied: asyncio.Future[None] = self._loop.create_future()
        self.saved: asyncio.Future[None] = self._loop.create_future()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._last_output = self._replied_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._interrupts = interrupts
        """How many interrupts of the kernel were none of this execution."""
        self.began = False
        """Whether the kernel has put out anything for the request: it says at first that it is busy."""
        cell = execution.cell
        self._hurries = cell is None and not execution.silent
        self.request = kernel.send(
            "shell",
            "execute_request",
            cell.content if cell is not None else _content(execution),
            _metadata(execution),
            on_output=self._on_output,
            on_state=self._on_state if self.inbox is not None else None,
            on_input=execution.on_input,
            header=cell.header if cell is not None else None,
        )
        self.request.reply.add_done_callback(self._on_reply)
        if self._hurries:
            kernel.hurry(True)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._kernel.forget(self.request)
        if self._hurries:
            self._kernel.hurry(False)

    def _on_output(self, message: Message) -> None:
        self._last_output = self._loop.time()
        if not self.began:
            self._begin()
        self.fold.add(message)
        self._await_idle()

    def _begin(self) -> None:
        """Interrupt again what was interrupted before the kernel began with it: that did not reach it."""
        self.began = True
        if self._kernel.interrupts > self._interrupts:
            self._kernel.interrupt()

    def _on_state(self, message: Message) -> None:
        if self.inbox is not None:
            self._last_output = self._loop.time()
            self.inbox.take(message)
            if self.inbox.ended:
                _complete(self.saved)
            self._await_idle()

    def _on_reply(self, future: asyncio.Future[Message]) -> None:
        if future.cancelled():
            return
        if future.exception() is not None:  # the kernel has died; what it put out may still be on its way
            self._timer = self._loop.call_later(LAST_WORDS, self._finish)
            return
        try:
            self.message, self.reply = future.result(), future.result().content
        except BadMessage:
            self.message, self.reply = None, {"status": "error", "ename": ""}
        _complete(self.replied)
        self._await_idle()

    @property
    def _has_state(self) -> bool:
        return self.inbox is None or self.inbox.complete

    def _await_idle(self) -> None:
        """Once the reply is there: finish, or wait for the idle status or the state when only that is missing."""
        if self._is_unanswered and self.fold.idle and self._timer is None:
            self._timer = self._loop.call_later(REPLY_WAIT, self._check_reply)
        if self.reply is None or not (self._has_state or self.fold.idle):
            return
        if self._has_state and self.fold.idle:
            self._finish()
        elif self._timer is None:
            self._replied_at = self._last_output = self._loop.time()
            self._timer = self._loop.call_later(IDLE_WAIT, self._check_idle)

    @property
    def _is_unanswered(self) -> bool:
        """Whether it was interrupted and the kernel has not replied."""
        return self.reply is None and not self.replied.done() and self._kernel.interrupts > self._interrupts

    def _check_reply(self) -> None:
        """Give up on a reply: a kernel sends it before it is idle. Interrupted at a bad moment it sends none."""
        self._timer = None
        if self._is_unanswered:
            self.reply = UNANSWERED
            if self.inbox is not None:
                self.inbox.fail("the kernel was interrupted and did not reply")
            self._finish()

    def _check_idle(self) -> None:
        """Give up on what is missing when nothing comes any more: it went missing with other messages."""
        now = self._loop.time()
        if self._kernel.alive and self._kernel.paused:  # what is missing waits for clients that read slowly
            self._replied_at = now
            self._timer = self._loop.call_later(IDLE_WAIT, self._check_idle)
        elif now - self._last_output >= IDLE_WAIT or now - self._replied_at >= IDLE_WAIT_MOST:
            if not self.fold.idle:
                self.fold.lost()
            if self.inbox is not None and not self.inbox.complete:
                self.inbox.fail("the kernel did not send its state")
            self._finish()
        else:
            self._timer = self._loop.call_later(IDLE_WAIT, self._check_idle)

    def _finish(self) -> None:
        _complete(self.replied)
        _complete(self.done)


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def execute(kernel: Kernel, execution: Execution) -> Result:
    """Run code and return the result, whatever the code does; the kernel may be dead afterwards.

    When the caller is cancelled, the code is interrupted, or the kernel killed, before this returns.
    """
    interrupts = kernel.interrupts - execution.interrupted
    await kernel.settle_interrupts()
    started = time.monotonic()
    run = _Run(kernel, execution, interrupts)
    try:
        timed_out = not await _wait(run.replied, execution.timeout)
        if timed_out:
            await _stop(kernel, run.replied)
        duration = time.monotonic() - started
        await _wait_done(kernel, run, execution)
        if kernel.alive and not run.fold.idle:
            await _resume(kernel)
        snapshot = await run.inbox.snapshot() if run.inbox is not None else None
    except asyncio.CancelledError:
        await see_through(_stop(kernel, run.done))
        raise
    finally:
        run.close()
    return _result(kernel, run, timed_out, duration, snapshot)


async def see_through(work: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` to its end, however often the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)


async def _wait(future: asyncio.Future[None], seconds: float | None) -> bool:
    """Wait until ``future`` is done; False when the time is over before."""
    try:
        async with asyncio.timeout(seconds):
            await asyncio.shield(future)
    except TimeoutError:
        return future.done()
    return True


async def _stop(kernel: Kernel, end: asyncio.Future[None]) -> None:
    """Interrupt what runs; kill the kernel when ``end`` does not come of it in time."""
    kernel.interrupt()
    if not await _wait(end, INTERRUPT_GRACE):
        await kernel.kill()


async def _wait_done(kernel: Kernel, run: _Run, execution: Execution) -> None:
    """Wait for all that follows the reply. A kernel that does not come to the end of its saving is stopped.

    Only the saving has a time limit: output may have to wait for clients that read slowly.
    """
    if execution.save is not None and run.inbox is not None:
        await _wait_saved(kernel, run, run.inbox, execution.save.seconds)
    if kernel.alive and not run.done.done():
        ends: set[asyncio.Future[Any]] = {run.done, kernel.ended}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not run.done.done():
        await asyncio.sleep(LAST_WORDS)


async def _wait_saved(kernel: Kernel, run: _Run, inbox: Inbox, seconds: float) -> None:
    ends: set[asyncio.Future[Any]] = {run.saved, run.done, kernel.ended}
    await asyncio.wait(ends, timeout=seconds + SAVE_GRACE, return_when=asyncio.FIRST_COMPLETED)
    if not inbox.complete and kernel.alive:
        inbox.fail(f"saving took longer than {seconds:g} s")
        await _stop(kernel, run.saved)
    elif not inbox.complete:
        await asyncio.sleep(LAST_WORDS)
    if not inbox.complete:
        inbox.fail("the kernel ended before it had saved its state")


async def _resume(kernel: Kernel) -> None:
    """After the idle status went missing: listen again, or give the kernel up."""
    if not await kernel.listen_again(LISTEN_AGAIN):
        await kernel.kill()


def _result(kernel: Kernel, run: _Run, timed_out: bool, duration: float, snapshot: Snapshot | None) -> Result:
    output = run.fold.result()
    end = kernel.end
    status, exit_code, message = _verdict(output, run.reply, end, timed_out, duration)
    began = run.began or run.reply is not None or kernel.paused or timed_out or duration > BEGIN_SECONDS
    return Result(
        status,
        exit_code,
        output,
        duration,
        message,
        kernel_lost=end is not None,
        snapshot=snapshot,
        save_error=run.inbox.error if run.inbox is not None else "",
        reply=run.message,
        idle=run.fold.idle,
        began=began,
    )


def _verdict(
    output: Folded, reply: dict[str, Any] | None, end: Exit | None, timed_out: bool, duration: float
) -> tuple[Status, int, str]:
    """Decide what happened: status, exit code, and a sentence for what the code did not cause by itself."""
    if end is not None and end.out_of_memory and end.code == KILLED and not timed_out:
        return Status.OUT_OF_MEMORY, KILLED, "Out of memory: the kernel was killed"
    if (reply or {}).get("out_of_memory") is True:
        return Status.OUT_OF_MEMORY, KILLED, "Out of memory: a process of the code was killed"
    if timed_out:
        lost = " The kernel did not react and was killed" if end is not None else ""
        return Status.TIMEOUT, 124, f"Time limit exceeded: stopped after {duration:.1f} s.{lost}"
    if end is not None and reply is None:
        return (
            Status.KILLED,
            end.code,
            f"The kernel ended with exit code {end.code}",
        )
    if output.error is None and (reply or {}).get("status") == "ok":
        return Status.OK, 0, ""
    if output.error is None and reply is UNANSWERED:
        return Status.ERROR, 1, "The kernel was interrupted"
    exit_code = _exit_code(output.error or {})
    return (Status.OK if exit_code == 0 else Status.ERROR), exit_code, ""


def _exit_code(error: dict[str, Any]) -> int:
    """Return the exit code that a script would have had: ``sys.exit``'s, else 1."""
    if error.get("ename") != "SystemExit":
        return 1
    value = error.get("evalue", "")
    if value in ("", "None", "False"):
        return 0
    return int(value) & 0xFF if EXIT_NUMBER.fullmatch(value) else 1


def _content(execution: Execution) -> dict[str, Any]:
    return {
        "code": execution.code,
        "silent": execution.silent,
        "store_history": not execution.silent,
        "user_expressions": {},
        "allow_stdin": execution.allow_stdin,
        "stop_on_error": False,
    }


def _metadata(execution: Execution) -> dict[str, Any]:
    wishes: dict[str, Any] = {"argv": list(execution.argv)}
    if execution.cell is None:
        wishes["max_stream_chars"] = execution.limits.stream_chars
    if execution.save is not None:
        wishes["save"] = execution.save.metadata()
    return {**(execution.cell.metadata if execution.cell is not None else {}), "kernelgate": wishes}
