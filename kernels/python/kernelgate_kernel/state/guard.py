"""Calls of what may run user code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import TextIOBase
from threading import get_ident
from time import monotonic
from typing import Any, TypeVar

from .deadline import deadline

T = TypeVar("T")

CALL_SECONDS = 0.2


class Guard:
    """Makes calls that may end in user code: each ends in time, prints nothing, and what it raises stays here.

    ``seconds`` hold for all calls together; what is asked for afterwards gets its default. Works in the main
    thread; elsewhere every call gets its default.
    """

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds
        self._stdout, self._stderr = Muted(sys.stdout), Muted(sys.stderr)

    def attempt(self, default: T, function: Callable[..., T], *args: Any, seconds: float = CALL_SECONDS) -> T:
        """Return ``function(*args)``, or ``default`` when it raises anything at all or takes too long."""
        seconds = min(seconds, self._end - monotonic())
        if seconds <= 0:
            return default
        streams = sys.stdout, sys.stderr
        try:
            sys.stdout, sys.stderr = self._stdout, self._stderr
            with deadline(seconds):
                return function(*args)
        except BaseException:  # noqa: BLE001  user code raises what it likes: SystemExit, an error of its own
            return default
        finally:
            sys.stdout, sys.stderr = streams


class Muted(TextIOBase):
    """Takes what this thread prints and passes on what others print meanwhile."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._thread = get_ident()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text) if get_ident() == self._thread else int(self._stream.write(text))

    def flush(self) -> None:
        if get_ident() != self._thread:
            self._stream.flush()
