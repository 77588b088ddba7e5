"""Admission: how many run, who is next, and that no place is ever lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from traitlets import TraitError

from kernelgate.auth import Owner
from kernelgate.errors import RateLimited, ShuttingDown
from kernelgate.sessions.admission import Admission

ANN, BOB, EVE = Owner("ann"), Owner("bob"), Owner("eve")
SOON = 2.0
"""Seconds after which something that should have happened at once has not."""


class Hall:
    """Tasks that hold places, each until it is told to go."""

    def __init__(self, **settings: Any) -> None:
        self.admission = Admission(**settings)
        self.order: list[str] = []
        self.peak = 0
        self._go: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def _hold(self, owner: Owner, name: str) -> None:
        async with self.admission.slot(owner):
            self.order.append(name)
            self.peak = max(self.peak, self.admission.running)
            await self._go[name].wait()

    async def enter(self, owner: Owner, *names: str) -> None:
        for name in names:
            self._go[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._hold(owner, name))
            await settle()

    async def leave(self, *names: str) -> None:
        for name in names:
            self._go[name].set()
            await settle()

    async def leave_in_turn(self) -> None:
        """Let one after the other go until nobody is left."""
        for number in range(len(self.tasks)):
            await self.leave(self.order[number])

    async def end_of(self, name: str) -> BaseException | None:
        await asyncio.wait_for(asyncio.wait([self.tasks[name]]), SOON)
        task = self.tasks[name]
        return asyncio.CancelledError() if task.cancelled() else task.exception()

    @property
    def counters(self) -> tuple[int, int]:
        return self.admission.running, self.admission.queued


async def settle() -> None:
    """Let every task do what it can do now."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())


# --- order


def test_places_are_given_at_once_while_there_are_any() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=2)
        await hall.enter(ANN, "a1", "a2", "a3")
        assert (hall.order, hall.counters) == (["a1", "a2"], (2, 1))
        await hall.leave("a1")
        assert (hall.order, hall.counters) == (["a1", "a2", "a3"], (2, 0))
        await hall.leave("a2", "a3")
        assert hall.counters == (0, 0)

    run(scenario)


def test_one_owner_is_served_in_order() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=1)
        names = [f"a{number}" for number in range(8)]
        await hall.enter(ANN, *names)
        await hall.leave_in_turn()
        assert hall.order == names

    run(scenario)


def test_owners_take_turns() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=1)
        await hall.enter(ANN, "a1", "a2", "a3", "a4")
        await hall.enter(BOB, "b1", "b2")
        await hall.enter(EVE, "e1")
        await hall.leave_in_turn()
        assert hall.order == ["a1", "a2", "b1", "e1", "a3", "b2", "a4"]

    run(scenario)


def test_an_owner_with_many_does_not_keep_another_waiting() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=2)
        await hall.enter(ANN, *(f"a{number}" for number in range(50)))
        await hall.enter(BOB, "b1")
        await hall.leave("a0", "a1")
        assert hall.order.index("b1") <= 3
        for task in hall.tasks.values():
            task.cancel()
        await asyncio.wait(hall.tasks.values())
        assert hall.counters == (0, 0)

    run(scenario)


def test_users_of_one_key_are_owners_of_their_own() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=1)
        await hall.enter(Owner("key", "u1"), "x1", "x2", "x3")
        await hall.enter(Owner("key", "u2"), "y1")
        await hall.leave_in_turn()
        assert hall.order == ["x1", "x2", "y1", "x3"]

    run(scenario)


# --- refusals


def test_who_waits_too_long_is_told_when_to_come_again() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=1, queue_timeout=1)
        await hall.enter(ANN, "a1", "a2")
        error = await hall.end_of("a2")
        assert isinstance(error, RateLimited)
        assert str(error) == "no turn came within 1 s: try again later"
        assert error.details() == {"retry_after_seconds": 1}
        assert hall.counters == (1, 0)
        await hall.leave("a1")
        await hall.enter(ANN, "a3")
        assert (hall.order, hall.counters) == (["a1", "a3"], (1, 0))
        await hall.leave("a3")

    run(scenario)


@pytest.mark.parametrize("most", [0, 1, 3])
def test_no_more_wait_than_may(most: int) -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=1, max_queued=most)
        await hall.enter(ANN, "running", *(f"a{number}" for number in range(most)))
        await hall.enter(BOB, "b1")
        error = await hall.end_of("b1")
        assert isinstance(error, RateLimited)
        assert str(error) == f"{most} executions wait already: try again later"
        assert hall.counters == (1, most)
        for number in range(most + 1):
            await hall.leave(hall.order[number])
        assert hall.counters == (0, 0)

    run(scenario)


@pytest.mark.parametrize(("queued", "concurrent", "seconds"), [(0, 1, 1), (5, 1, 5), (5, 2, 2), (3, 10, 1)])
def test_the_longer_the_queue_the_later_one_should_come_again(queued: int, concurrent: int, seconds: int) -> None:
    admission = Admission(max_concurrent=concurrent)
    admission.queued = queued
    assert admission.refusal("why").retry_after_seconds == seconds


@pytest.mark.parametrize("setting", [{"max_concurrent": 0}, {"max_queued": -1}, {"queue_timeout": 0}])
def test_settings_that_make_no_sense_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(TraitError):
        Admission(**setting)


# --- cancellation


def test_who_is_cancelled_while_waiting_leaves_no_trace() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=1)
        await hall.enter(ANN, "a1", "a2", "a3")
        hall.tasks["a2"].cancel()
        assert isinstance(await hall.end_of("a2"), asyncio.CancelledError)
        assert hall.counters == (1, 1)
        await hall.leave("a1", "a3")
        assert (hall.order, hall.counters) == (["a1", "a3"], (0, 0))

    run(scenario)


def test_who_is_cancelled_while_running_gives_the_place_on() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=1)
        await hall.enter(ANN, "a1", "a2")
        hall.tasks["a1"].cancel()
        await settle()
        assert (hall.order, hall.counters) == (["a1", "a2"], (1, 0))
        await hall.leave("a2")
        assert hall.counters == (0, 0)

    run(scenario)


def test_who_is_cancelled_as_the_place_comes_gives_it_on() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=1)
        await hall.enter(ANN, "a1", "a2", "a3")
        hall.tasks["a1"].cancel()
        await asyncio.sleep(0)  # a1 has left and named a2, which does not know yet
        hall.tasks["a2"].cancel()
        await settle()
        assert (hall.order, hall.counters) == (["a1", "a3"], (1, 0))
        await hall.leave("a3")
        assert hall.counters == (0, 0)

    run(scenario)


def test_a_place_is_not_lost_when_the_only_one_who_waits_is_cancelled_as_it_becomes_free() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=1, queue_timeout=60)
        async with hall.admission.slot(ANN):
            await hall.enter(BOB, "b1")
            hall.tasks["b1"].cancel()
        async with asyncio.timeout(SOON), hall.admission.slot(ANN):
            assert hall.admission.running == 1
        await settle()
        assert hall.counters == (0, 0)

    run(scenario)


def test_a_place_is_not_lost_when_a_newcomer_comes_in_the_same_moment() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=1)
        await hall.enter(ANN, "a1", "a2")
        hall.tasks["a2"].cancel()
        hall.tasks["a1"].cancel()
        await hall.enter(BOB, "b1")
        assert hall.order == ["a1", "b1"]
        await hall.leave("b1")
        assert hall.counters == (0, 0)

    run(scenario)


def test_an_error_of_the_one_who_runs_gives_the_place_back() -> None:
    async def scenario() -> None:
        admission = Admission(max_concurrent=1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with admission.slot(ANN):
                    raise ZeroDivisionError
        assert (admission.running, admission.queued) == (0, 0)

    run(scenario)


# --- the end


def test_after_the_end_nobody_is_admitted_and_those_who_wait_are_told() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=1)
        await hall.enter(ANN, "a1", "a2")
        await hall.enter(BOB, "b1")
        hall.admission.close()
        await hall.enter(EVE, "e1")
        for name in ("a2", "b1", "e1"):
            error = await hall.end_of(name)
            assert isinstance(error, ShuttingDown)
            assert str(error) == "the server is shutting down"
        assert (hall.order, hall.counters) == (["a1"], (1, 0))
        await hall.leave("a1")
        assert hall.counters == (0, 0)
        hall.admission.close()

    run(scenario)


def test_the_end_of_what_runs_is_waited_for() -> None:
    async def scenario() -> None:
        hall = Hall(max_concurrent=2)
        assert await hall.admission.wait_all_done(0)
        await hall.enter(ANN, "a1", "a2")
        assert not await hall.admission.wait_all_done(0.01)
        waiting = asyncio.create_task(hall.admission.wait_all_done(SOON))
        await hall.leave("a1")
        assert not waiting.done()
        await hall.leave("a2")
        assert await waiting

    run(scenario)


# --- many


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_bound_holds_and_no_place_is_lost(seed: int) -> None:
    async def scenario() -> None:
        rng = random.Random(seed)
        most = rng.randint(1, 4)
        admission = Admission(max_concurrent=most, max_queued=rng.choice([3, 1000]), queue_timeout=60)
        running = done = 0

        async def work(owner: Owner) -> None:
            nonlocal running, done
            async with admission.slot(owner):
                running += 1
                assert running <= admission.running <= most
                try:
                    for _ in range(rng.randint(0, 3)):
                        await asyncio.sleep(0)
                finally:
                    running -= 1
                    done += 1

        tasks: list[asyncio.Task[None]] = []
        for _ in range(200):
            tasks.append(asyncio.create_task(work(rng.choice([ANN, BOB, EVE]))))
            if rng.random() < 0.4:
                rng.choice(tasks).cancel()
            if rng.random() < 0.5:
                await asyncio.sleep(0)
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        kinds = {type(result) for result in results}
        assert kinds <= {type(None), asyncio.CancelledError, RateLimited}
        assert done > 0
        assert (admission.running, admission.queued) == (0, 0)
        assert await admission.wait_all_done(0)

    run(scenario)
