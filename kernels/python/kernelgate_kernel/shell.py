"""The interactive shell of user code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn

from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from .tracebacks import format_exception


def leave(code: object = None) -> NoReturn:
    """End the program with an exit code, as Python's own ``exit`` does."""
    raise SystemExit(code)


class Forgetful(dict[int, list[Any]]):
    """Takes outputs and keeps none: IPython would hold every one of the session in memory for ``%notebook``."""

    def __missing__(self, execution_count: int) -> list[Any]:
        return []


class SandboxShell(ZMQInteractiveShell):
    """An IPython shell that shows errors as a script does and leaves ``exit`` to Python."""

    system = InteractiveShell.system_raw  # what a subshell prints comes through the descriptors, unchanged

    def init_environment(self) -> None:
        """Nothing: output goes to programs, so no tool is asked to colour it."""

    def init_user_ns(self) -> None:
        super().init_user_ns()
        for name in ("exit", "quit"):  # IPython's would stop the kernel
            self.user_ns[name] = self.user_ns_hidden[name] = leave
        warnings.filterwarnings("ignore", message="To exit: use 'exit'", category=UserWarning)

    def init_history(self) -> None:
        super().init_history()
        assert self.history_manager is not None
        self.history_manager.outputs = Forgetful()

    async def run_code(self, code_obj: Any, result: Any = None, *, async_: bool = False) -> bool:
        """Run what is compiled of a cell. From here on it can be interrupted.

        What IPython does before would swallow an interrupt: it is raised here if it came already.
        """
        self.kernel.interrupts.open()
        failed: bool = await super().run_code(code_obj, result, async_=async_)
        return failed

    @contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        """Keep no copy of what is printed."""
        yield

    def showtraceback(
        self,
        exc_tuple: Any = None,
        filename: str | None = None,
        tb_offset: int | None = None,
        exception_only: bool = False,
        running_compiled_code: bool = False,
    ) -> None:
        """Send the current exception as an ``error`` message with one text: a script's traceback."""
        etype, value, tb = self._get_exc_info(exc_tuple)
        self._showtraceback(etype, value, self._text(etype, value, tb))

    def showsyntaxerror(self, filename: str | None = None, running_compiled_code: bool = False) -> None:
        etype, value, _tb = self._get_exc_info()
        self._showtraceback(etype, value, self._text(etype, value, None))

    def _text(self, etype: Any, value: Any, tb: TracebackType | None) -> list[str]:
        if issubclass(etype, UsageError):
            return [f"UsageError: {value}"]
        if issubclass(etype, SystemExit):
            code = value.code
            return [] if code is None or isinstance(code, int) else [str(code)]
        return format_exception(value, tb, self._cell_name).split("\n")

    def _cell_name(self, filename: str) -> str | None:
        known = self.compile.format_code_name(filename)
        if known is None:
            return None
        number = known[1].removeprefix("In[").removesuffix("]")
        return f"<cell {number}>"
