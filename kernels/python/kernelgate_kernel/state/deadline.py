"""A time limit for code that nobody can trust to end."""

from __future__ import annotations

from _signal import (  # type: ignore[import-not-found]
    ITIMER_REAL,
    SIG_IGN,
    SIG_SETMASK,
    SIG_UNBLOCK,
    SIGALRM,
    getsignal,
    pthread_sigmask,
    setitimer,
    signal,
)
from time import monotonic
from types import FrameType, MethodType, TracebackType
from typing import Any

REPEAT_SECONDS = 0.05
"""Code that is out of time is told so again and again: it may swallow an exception, ``__del__`` always does."""
SHORTEST = 1e-6


class OutOfTime(BaseException):
    """The time of a `deadline` is over."""


class deadline:
    """``with deadline(seconds):`` raises `OutOfTime` in the block when it lasts longer.

    Works in the main thread only (a ValueError elsewhere). Deadlines nest: an inner one lasts no longer than what
    the outer one has left, and what swallows the exception of the inner one meets that of the outer one.
    SIGALRM, its handler and the real-time timer are the user's: both are put back when the block ends, the timer
    with what remains of it, and a timer that should have gone off meanwhile goes off then. (A handler that was not
    set from Python cannot be put back: the signal is ignored then.)

    The exception may come anywhere in the block, in its ``finally`` clauses too: what has to be tidied up in any
    case belongs outside. It comes at the next bytecode, so one long call into C ends first.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start = self._end = 0.0  # on the monotonic clock
        self._timer = (0.0, 0.0)  # what was there before: timer, handler, blocked signals
        self._handler: Any = None
        self._mask: set[int] = set()

    def __enter__(self) -> deadline:
        self._start = monotonic()
        self._end = self._start + max(self.seconds, SHORTEST)
        handler = getsignal(SIGALRM)
        if type(handler) is MethodType and type(handler.__self__) is deadline:
            self._end = min(self._end, handler.__self__._end)
            if self._end <= self._start:  # and the outer one's timer stays as it is: it is to be heard at last
                raise OutOfTime(f"out of time before {self.seconds:g} s began")
        self._timer = setitimer(ITIMER_REAL, 0)
        try:
            self._handler = signal(SIGALRM, self._ring)
        except ValueError:  # not the main thread
            setitimer(ITIMER_REAL, *self._timer)
            raise
        self._mask = pthread_sigmask(SIG_UNBLOCK, (SIGALRM,))
        setitimer(ITIMER_REAL, max(self._end - monotonic(), SHORTEST), REPEAT_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        setitimer(ITIMER_REAL, 0)
        signal(SIGALRM, SIG_IGN if self._handler is None else self._handler)
        self._handler = None
        remaining, interval = self._timer
        if remaining:
            setitimer(ITIMER_REAL, max(remaining - (monotonic() - self._start), SHORTEST), interval)
        pthread_sigmask(SIG_SETMASK, self._mask)

    def _ring(self, _signal: int, frame: FrameType | None) -> None:
        if monotonic() < self._end or (frame is not None and frame.f_code in OWN_CODE):
            return  # someone else's alarm, or the block is over, or begins; it rings again
        raise OutOfTime(f"out of time after {self.seconds:g} s")


OWN_CODE = frozenset(
    method.__code__ for method in (deadline.__enter__, deadline.__exit__, deadline.__init__, deadline._ring)
)
