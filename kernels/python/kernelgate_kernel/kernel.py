"""The kernel: ipykernel's, with what a request may ask for in its metadata."""

from __future__ import annotations

import os
import sys
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from IPython.core.error import StdinNotImplementedError
from traitlets import Type

from .shell import SandboxShell
from .streams import SandboxStream

PROGRAM_NAME = "main.py"


class SandboxKernel(IPythonKernel):
    """Runs cells.

    An ``execute_request`` may carry ``metadata["kernelgate"]``: ``argv`` (list of str) becomes ``sys.argv[1:]``,
    ``max_stream_chars`` (int) bounds what the cell may print on each of stdout and stderr.
    """

    _execute_sleep = 0
    shell_class = Type(SandboxShell)

    async def do_execute(self, code: str, silent: bool, *args: Any, cell_meta: Any = None, **kwargs: Any) -> Any:
        wishes = _wishes(cell_meta)
        pid = os.getpid()
        sys.argv = [PROGRAM_NAME, *wishes.get("argv", ())]
        for stream in (self._stdout, self._stderr):
            if isinstance(stream, SandboxStream):
                stream.begin_cell(wishes.get("max_stream_chars"))
        sys.stdout, sys.stderr = self._stdout, self._stderr
        reply = await super().do_execute(code, silent, *args, cell_meta=cell_meta, **kwargs)
        if os.getpid() != pid:
            _leave_fork(reply)
        sys.stdout, sys.stderr = self._stdout, self._stderr
        return reply

    def raw_input(self, prompt: object = "") -> Any:
        """Ask the client, or say at once that it does not answer."""
        if not self._allow_stdin:
            raise StdinNotImplementedError("input() has nobody to ask here: give the value in the code or in args")
        return super().raw_input(prompt)


def _wishes(metadata: Any) -> dict[str, Any]:
    wishes = metadata.get("kernelgate") if isinstance(metadata, dict) else None
    return wishes if isinstance(wishes, dict) else {}


def _leave_fork(reply: dict[str, Any]) -> None:
    """End a forked child that came out of its cell: it must not go on as a second kernel."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0 if reply["status"] == "ok" else 1)
