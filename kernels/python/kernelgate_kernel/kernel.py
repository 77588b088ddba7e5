"""The kernel: ipykernel's, with what a request may ask for in its metadata."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from fnmatch import fnmatchcase
from os import getpid
from typing import Any, NoReturn

from ipykernel.ipkernel import IPythonKernel
from IPython.core.error import StdinNotImplementedError
from traitlets import Type

from .interrupts import Interrupts
from .shell import SandboxShell
from .state.sender import Sender
from .state.snapshot import NotRestored, Snapshots
from .state.variables import describe, describe_all
from .streams import SandboxStream

PROGRAM_NAME = "main.py"
WORK_FOLDER = "/mnt/data"
OOM_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
LAST_WORDS_SECONDS = 0.02
SEEN_THROUGH = frozenset({"execute_request", "kernelgate_restore_request"})
"""No interrupt cuts these off: the shell says when a cell's code runs; of a state nothing is to be lost."""


class SandboxKernel(IPythonKernel):
    """Runs cells.

    An ``execute_request`` may carry ``metadata["kernelgate"]``: ``argv`` (list of str) becomes ``sys.argv[1:]``,
    ``max_stream_chars`` (int) bounds what the cell may print on each of stdout and stderr, ``save`` (object) has
    the state sent behind the reply.
    """

    _execute_sleep = 0
    shell_class = Type(SandboxShell)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shell_handlers["kernelgate_restore_request"] = self.restore_request
        self.shell_handlers["kernelgate_vars_request"] = self.vars_request
        self._snapshots = Snapshots(self.shell, WORK_FOLDER)
        self.interrupts = Interrupts()
        """Opened by the shell when the code of a cell begins."""
        for name, handler in self.shell_handlers.items():
            if name not in SEEN_THROUGH:
                self.shell_handlers[name] = self.interrupts.around(handler)
        self._parts: list[memoryview] = []
        self._seeing: set[asyncio.Future[None]] = set()
        """Interrupts of which it is not known that they were noticed."""
        self._succeeded = False
        """Whether the last cell came to its end."""

    # ---- execution

    async def do_execute(self, code: str, silent: bool, *args: Any, cell_meta: Any = None, **kwargs: Any) -> Any:
        wishes = _wishes(cell_meta)
        pid, kills = getpid(), out_of_memory_kills()
        sys.argv = [PROGRAM_NAME, *wishes.get("argv", ())]
        for stream in (self._stdout, self._stderr):
            if isinstance(stream, SandboxStream):
                stream.begin_cell(wishes.get("max_stream_chars"))
        sys.stdout, sys.stderr = self._stdout, self._stderr
        try:
            reply = await super().do_execute(code, silent, *args, cell_meta=cell_meta, **kwargs)
            self.interrupts.close()
        except KeyboardInterrupt:
            self.interrupts.close()
            reply = self._interrupted()
        finally:
            self.interrupts.close()
        if getpid() != pid:
            _leave_fork(reply)
        sys.stdout, sys.stderr = self._stdout, self._stderr
        if reply["status"] == "error" and out_of_memory_kills() > kills:
            reply["out_of_memory"] = True
        self._succeeded = reply["status"] == "ok" or _left_well(reply)
        return reply

    async def execute_request(self, stream: Any, ident: Any, parent: Any) -> None:
        self._succeeded = False
        await super().execute_request(stream, ident, parent)
        request = _wishes(parent.get("metadata")).get("save")
        if request is not None:
            sender = Sender(self.session, stream, ident, parent, self.interrupts)
            sender.send(self._snapshots, request, self._succeeded)

    def _interrupted(self) -> dict[str, Any]:
        """Return the reply of a cell that was interrupted when its code did not run yet, or no more."""
        assert self.shell is not None
        self.shell.showtraceback()
        return {
            "status": "error",
            "ename": "KeyboardInterrupt",
            "evalue": "",
            "traceback": ["KeyboardInterrupt"],
            "execution_count": self.execution_count,
            "user_expressions": {},
            "payload": [],
        }

    def set_parent(self, ident: Any, parent: Any, channel: str = "shell") -> None:
        if channel == "shell":
            self.interrupts.forget()
        super().set_parent(ident, parent, channel)

    def pre_handler_hook(self) -> None:
        """Take the signal back, if a cell took it."""
        self.interrupts.install()

    def post_handler_hook(self) -> None:
        """Keep it: what nobody is to be interrupted by is told apart there."""
        self.interrupts.install()

    def do_history(  # type: ignore[override]
        self,
        hist_access_type: str,
        output: bool,
        raw: bool,
        session: int = 0,
        start: int = 0,
        stop: int | None = None,
        n: int | None = None,
        pattern: str | None = None,
        unique: bool = False,
    ) -> dict[str, Any]:
        """Tell of the inputs of this session; IPython would look in a database, and there is none."""
        if hist_access_type not in ("tail", "search"):
            reply: dict[str, Any] = super().do_history(
                hist_access_type, output, raw, session, start, stop, n, pattern, unique
            )
            return reply
        assert self.shell is not None
        kept = self.shell.history_manager.input_hist_raw if raw else self.shell.history_manager.input_hist_parsed
        found = {number: text for number, text in enumerate(kept) if number and text}
        if hist_access_type == "search":
            found = {number: text for number, text in found.items() if fnmatchcase(text, pattern or "*")}
        if unique:
            found = {number: text for text, number in {text: number for number, text in found.items()}.items()}
        last = sorted(found)[-n:] if n else sorted(found)
        entries = [(0, number, (found[number], None) if output else found[number]) for number in last]
        return {"status": "ok", "history": entries}

    async def interrupt_request(self, stream: Any, ident: Any, parent: Any) -> None:
        moment = self.interrupts.moment
        await super().interrupt_request(stream, ident, parent)
        # the signal may have found the loop asleep; what its handler scheduled is done when the loop wakes
        self.io_loop.asyncio_loop.call_soon_threadsafe(lambda: None)  # type: ignore[attr-defined]
        seeing = asyncio.ensure_future(self.interrupts.see_through(moment))
        self._seeing.add(seeing)
        seeing.add_done_callback(self._seeing.discard)

    # ---- state

    async def restore_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Take a part of a state; with the last one, restore it."""
        self._parts += parent["buffers"]
        content = parent["content"]
        if not content["last"]:
            return
        parts, self._parts = self._parts, []
        reply: dict[str, Any]
        try:
            names, lost = self._snapshots.restore(content, parts)
            reply = {"status": "ok", "restored": names, "lost": lost}
        except NotRestored as error:
            reply = {"status": "error", "reason": str(error)}
        except Exception as error:  # noqa: BLE001  user code made the state, and may have forged it
            reply = {"status": "error", "reason": f"it is not in order: {type(error).__name__}"}
        self._reply(stream, "kernelgate_restore_reply", reply, ident, parent)

    async def vars_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Describe the variables, or one of them with some of its rows."""
        content, shell = parent["content"], self.shell
        assert shell is not None
        if "name" in content:
            reply = describe(shell.user_ns, content["name"], content["rows"], content["offset"])
        else:
            hidden = {name for name, value in shell.user_ns_hidden.items() if shell.user_ns.get(name) is value}
            reply = describe_all(shell.user_ns, {*hidden, "In", "Out"})
        self._reply(stream, "kernelgate_vars_reply", reply, ident, parent)

    def _reply(self, stream: Any, msg_type: str, content: dict[str, Any], ident: Any, parent: Any) -> None:
        assert self.session is not None
        self.session.send(stream, msg_type, content, parent, ident=ident)

    # ---- the rest

    def raw_input(self, prompt: object = "") -> Any:
        """Ask the client, or say at once that it does not answer."""
        if not self._allow_stdin:
            raise StdinNotImplementedError("input() has nobody to ask here: give the value in the code or in args")
        return super().raw_input(prompt)


def out_of_memory_kills() -> int:
    """Return how many processes of this container the kernel has killed because memory was short."""
    for path in OOM_COUNTERS:
        try:
            with open(path) as counters:
                return int(dict(line.split() for line in counters)["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return 0


def _left_well(reply: dict[str, Any]) -> bool:
    """Tell whether a cell ended with ``sys.exit()`` and no complaint."""
    return reply.get("ename") == "SystemExit" and reply.get("evalue") in ("", "0", "None", "False")


def _wishes(metadata: Any) -> dict[str, Any]:
    wishes = metadata.get("kernelgate") if isinstance(metadata, dict) else None
    return wishes if isinstance(wishes, dict) else {}


def install_exit(kernel: SandboxKernel) -> None:
    """Have ``os._exit`` in this process send what was printed first; in forked children it stays as it was."""
    leave, pid = os._exit, getpid()

    def _exit(status: int) -> NoReturn:
        if getpid() == pid:
            for stream in (kernel._stdout, kernel._stderr):
                stream.flush()
            time.sleep(LAST_WORDS_SECONDS)  # ZeroMQ sends in a thread of its own
        leave(status)

    os._exit = _exit


def _leave_fork(reply: dict[str, Any]) -> None:
    """End a forked child that came out of its cell: it must not go on as a second kernel."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0 if reply["status"] == "ok" else 1)
