"""Lets code that starts an event loop of its own run in a cell, inside the kernel's running loop.

A script calls ``asyncio.run(main())`` or ``loop.run_until_complete(main())``; asyncio refuses both while a loop
runs in the thread. Here the running loop and its current task step aside for as long as the other one runs.
"""

from __future__ import annotations

import asyncio
from asyncio import base_events, events, tasks
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any


@contextmanager
def stepped_aside() -> Iterator[None]:
    """Make this thread look as if no event loop ran in it."""
    loop = events._get_running_loop()
    if loop is None:
        yield
        return
    task = tasks.current_task(loop)
    if task is not None:
        tasks._leave_task(loop, task)
    events._set_running_loop(None)
    try:
        yield
    finally:
        events._set_running_loop(loop)
        events.set_event_loop(loop)
        if task is not None:
            tasks._enter_task(loop, task)


def _outside(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with stepped_aside():
            return function(*args, **kwargs)

    return call


def _reentrant(run_forever: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(run_forever)
    def call(loop: Any) -> None:
        reentered = events._get_running_loop() is loop
        with stepped_aside():
            if not reentered:
                run_forever(loop)
                return
            events._set_running_loop(loop)
            while not loop._stopping:
                loop._run_once()
            loop._stopping = False

    return call


def _check_running(loop: Any) -> None:
    if loop.is_running() and events._get_running_loop() is not loop:
        raise RuntimeError("This event loop is already running")


def install() -> None:
    """Patch asyncio in this process. Called once, before any user code."""
    base: Any = base_events.BaseEventLoop
    base.run_forever = _reentrant(base.run_forever)
    base._check_running = _check_running
    asyncio.Runner.run = _outside(asyncio.Runner.run)  # type: ignore[method-assign]
    asyncio.run = _outside(asyncio.run)
    asyncio.runners.run = asyncio.run
