"""Which kernels are ended although nobody asked for it."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from kernelgate.auth import Owner
from kernelgate.kernel.frontends import Connection, Frontends, ReplaySettings
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.wire import ClientMessage
from kernelgate.languages import PYTHON
from kernelgate.sessions.culling import Culling
from kernelgate.sessions.session import Session

NOW = 1_000_000.0


class Heard:
    """All that is asked of a kernel here: when it was last heard of."""

    def __init__(self, heard_at: float) -> None:
        self.heard_at = heard_at


def session(idle: float = 0.0, age: float = 0.0, heard: float = NOW) -> Session:
    """A session that was last used ``idle`` seconds ago.

    It has a kernel that is ``age`` seconds old and was last heard of ``heard`` seconds ago.
    """
    made = Session(Owner("ann"), "a", PYTHON)
    made.used_at, made.kernel_since = NOW - idle, NOW - max(age, idle)
    made.kernel = cast(Kernel, Heard(NOW - heard))
    return made


def watch(watched: Session) -> Connection:
    """Have a client look on."""
    settings = ReplaySettings()
    watched.frontends = Frontends(settings, settings.budget())
    return watched.frontends.connect("client", lambda: None, lambda: None)


@pytest.mark.parametrize(
    ("seconds", "idle", "due"), [(300, 299, False), (300, 301, True), (5, 6, True), (0, 1, True)]
)
def test_a_kernel_ends_when_it_has_idled(seconds: int, idle: float, due: bool) -> None:
    assert Culling(kernel_idle_seconds=seconds).is_due(session(idle), NOW) is due


def test_a_kernel_of_which_all_is_stored_ends_although_a_client_looks_on() -> None:
    watched = session(idle=301)
    watch(watched)
    assert Culling().is_due(watched, NOW)


@pytest.mark.parametrize("keeps", ["comm", "variables"])
def test_a_kernel_with_more_than_is_stored_is_kept_while_a_client_looks_on(keeps: str) -> None:
    watched = session(idle=100_000)
    connection = watch(watched)
    assert watched.frontends is not None
    if keeps == "comm":
        watched.frontends.comms.add("widget")
    else:
        watched.is_whole = False
    assert not Culling().is_due(watched, NOW)
    watched.frontends.disconnect(connection)
    assert Culling().is_due(watched, NOW)


def test_what_a_kernel_says_counts_as_use() -> None:
    for is_watched in (False, True):
        used = session(idle=400, heard=10)
        if is_watched:
            watch(used)
        assert not Culling().is_due(used, NOW)
        assert not Culling(cull_idle_timeout=300, cull_connected=True, cull_busy=True).is_stuck(used, NOW)


async def hand(watched: Session) -> None:
    """Send the session's kernel something that it has not done with."""
    header = {"msg_id": "request", "msg_type": "execute_request", "subshell_id": "one"}
    assert watched.frontends is not None
    await watched.frontends.hand(ClientMessage("shell", header, {}), lambda: None)


@pytest.mark.parametrize("cull_busy", [False, True])
def test_a_kernel_that_works_for_a_client_is_kept_unless_silent_work_is_culled(cull_busy: bool) -> None:
    watched = session(idle=1001)
    watch(watched)
    asyncio.run(hand(watched))
    assert watched.has_work
    assert (
        Culling(cull_idle_timeout=1000, cull_connected=True, cull_busy=cull_busy).is_due(watched, NOW) is cull_busy
    )
    assert not Culling(cull_busy=cull_busy).is_due(watched, NOW)


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("cull_connected", [False, True])
def test_a_kernel_that_was_idle_for_long_ends_whatever_it_has(connected: bool, cull_connected: bool) -> None:
    culling = Culling(cull_idle_timeout=1000, cull_connected=cull_connected)
    for idle, over in ((999, False), (1001, True)):
        watched = session(idle)
        connection = watch(watched)
        watched.is_whole = False
        if not connected:
            assert watched.frontends is not None
            watched.frontends.disconnect(connection)
        due = not connected or (over and cull_connected)
        assert culling.is_due(watched, NOW) is due


def test_no_kernel_is_too_idle_unless_that_is_set() -> None:
    watched = session(idle=1e6)
    watch(watched)
    watched.is_whole = False
    assert not Culling(cull_connected=True).is_due(watched, NOW)
    assert not Culling(cull_connected=True, cull_busy=True).is_stuck(watched, NOW)


@pytest.mark.parametrize(
    ("settings", "idle", "stuck"),
    [
        ({"cull_idle_timeout": 10}, 11, False),
        ({"cull_idle_timeout": 10, "cull_busy": True}, 9, False),
        ({"cull_idle_timeout": 10, "cull_busy": True}, 11, True),
        ({"cull_busy": True}, 11, False),
    ],
)
def test_a_kernel_that_runs_code_silently_ends_if_that_is_wanted(
    settings: dict[str, int], idle: float, stuck: bool
) -> None:
    assert Culling(**settings).is_stuck(session(idle), NOW) is stuck


@pytest.mark.parametrize(("most", "age", "due"), [(0, 1e6, False), (60, 59, False), (60, 61, True)])
def test_a_kernel_is_replaced_when_it_has_lived_long_enough(most: int, age: float, due: bool) -> None:
    assert Culling(max_life_seconds=most).is_due(session(age=age), NOW) is due
