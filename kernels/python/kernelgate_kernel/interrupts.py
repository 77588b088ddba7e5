"""When an interrupt reaches the code of the user, and when it waits or does nothing.

Python raises KeyboardInterrupt wherever the main thread happens to be. In the middle of the kernel's own work that
would cost a reply, and whoever asked would wait for ever.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from types import FrameType, TracebackType
from typing import Any

TRIES = 20
TRY_SECONDS = 0.02

Handler = Callable[[Any, Any, Any], Awaitable[None] | None]


class Interrupts:
    """Raises KeyboardInterrupt while it is open. One that comes before is raised when it opens.

    Code in other threads than the main one is never interrupted.
    """

    def __init__(self) -> None:
        self._open = False
        self._pending = False
        self._noticed = 0
        self._requests = 0
        self._lock = threading.Lock()
        """Held so that no signal is given for a request that is over."""

    def install(self) -> None:
        """Take the signal, whatever took it before."""
        signal.signal(signal.SIGINT, self._handle)

    def forget(self) -> None:
        """A new request: what was to be interrupted is over."""
        if in_main_thread():
            with self._lock:
                self._requests += 1
            self._pending = False

    @property
    def moment(self) -> tuple[int, int]:
        """What changes as soon as a signal is noticed, or another request begins."""
        return self._requests, self._noticed

    def open(self) -> None:
        """From here on the user's code runs. Raises KeyboardInterrupt."""
        if in_main_thread():
            self._open = True
            if self._pending:
                self._pending = False
                raise KeyboardInterrupt

    def close(self) -> None:
        """The user's code has ended."""
        if in_main_thread():
            self._open = False

    def __enter__(self) -> None:
        self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def around(self, handler: Handler) -> Handler:
        """Return a handler of messages that can be interrupted all the time."""

        async def handle(stream: Any, ident: Any, parent: Any) -> None:
            try:
                self.open()
                result = handler(stream, ident, parent)
                if isawaitable(result):
                    await result
            finally:
                self.close()

        return handle

    async def see_through(self, moment: tuple[int, int]) -> None:
        """Signal again until ``moment`` is over. Called in another thread.

        A signal that comes in the moment in which the main thread begins to wait in C, for which it has just given
        the interpreter's lock to whoever signals, does not wake it. A handler of the user's is left alone.
        """
        for _ in range(TRIES):
            await asyncio.sleep(TRY_SECONDS)
            with self._lock:
                if self.moment != moment or signal.getsignal(signal.SIGINT) != self._handle:
                    return
                os.kill(os.getpid(), signal.SIGINT)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        self._noticed += 1
        if self._open:
            raise KeyboardInterrupt
        self._pending = True


def in_main_thread() -> bool:
    """Tell whether this is the thread that signals reach."""
    return threading.current_thread() is threading.main_thread()
