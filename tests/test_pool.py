"""The pool: who gets which kernel, how many there are, and what happens when kernels or starts fail."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count, pairwise
from typing import Any, cast

import pytest
from traitlets import TraitError

from kernelgate.containers.engine import Exit
from kernelgate.errors import EngineError, GateError, KernelDied, KernelStartError, ShuttingDown, Unavailable
from kernelgate.kernel import pool as pool_module
from kernelgate.kernel.hub import Kernel, Listener, Request
from kernelgate.kernel.messages import DELIMITER, Message, parse
from kernelgate.kernel.pool import KernelPool, PoolSettings
from kernelgate.kernel.starter import KernelStarter
from kernelgate.languages import PYTHON, Language

SOON = 5.0
"""Seconds after which something that should have happened at once has not."""

QUICK_BACKOFF = 0.03


def message(msg_type: str, **content: Any) -> Message:
    header = json.dumps({"msg_type": msg_type}).encode()
    return parse([DELIMITER, b"", header, b"{}", b"{}", json.dumps(content).encode()])


class FakeKernel:
    """A kernel without a container: it answers, runs code by writing it down, and dies when it is told to."""

    def __init__(self, number: int) -> None:
        self.id = str(number)
        self.number = number
        self.warmth = 0
        self.interrupts = 0
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.closed = False
        self.executed: list[str] = []
        self.busy = asyncio.Event()
        self.busy.set()
        self.cannot_import: set[str] = set()
        self.ask_error: BaseException | None = None
        self.close_error: GateError | None = None

    def __repr__(self) -> str:
        return f"kernel {self.number}"

    @property
    def alive(self) -> bool:
        return not self.ended.done()

    @property
    def end(self) -> Exit | None:
        return self.ended.result() if self.ended.done() else None

    def die(self) -> None:
        self.ended.set_result(Exit(137))

    def send(
        self,
        channel: str,
        msg_type: str,
        content: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        on_output: Listener | None = None,
        on_state: Listener | None = None,
        on_input: Listener | None = None,
        buffers: Sequence[bytes] = (),
        header: Mapping[str, Any] | None = None,
    ) -> Request:
        assert (channel, msg_type, on_state, on_input) == ("shell", "execute_request", None, None)
        assert (buffers, header) == ((), None)
        request = Request("id", on_output, on_state)
        self._task = asyncio.create_task(self._execute(request, content["code"]))
        return request

    async def _execute(self, request: Request, code: str) -> None:
        await self.busy.wait()
        self.executed.append(code)
        failed = any(module in code for module in self.cannot_import)
        if not request.reply.done():
            request.reply.set_result(message("execute_reply", status="error" if failed else "ok"))
        if request.on_output is not None:
            request.on_output(message("status", execution_state="idle"))

    def forget(self, request: Request) -> None:
        request.reply.cancel()

    def interrupt(self) -> None:
        self.busy.set()

    async def settle_interrupts(self) -> None:
        await asyncio.sleep(0)

    async def kill(self) -> None:
        if self.alive:
            self.die()

    async def ask(self, channel: str, msg_type: str, content: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.ask_error is not None:
            raise self.ask_error
        return {"status": "ok"}

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed = True
        if self.alive:
            self.die()
        if self.close_error is not None:
            raise self.close_error


class FakeStarter:
    """Starts fake kernels, at once or each when it is told to; fails with the errors that it is given."""

    def __init__(self, concurrency: int = 2, by_hand: bool = False) -> None:
        self.concurrency = concurrency
        self.made: list[FakeKernel] = []
        self.errors: list[GateError] = []
        self.starts: list[float] = []
        self.under_way = 0
        self.peak = 0
        self._by_hand = by_hand
        self._turn = asyncio.Semaphore(0)
        self._numbers = count(1)

    async def start(self, language: Language) -> FakeKernel:
        assert language is PYTHON
        self.starts.append(time.monotonic())
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)
        try:
            await (self._turn.acquire() if self._by_hand else asyncio.sleep(0))
            if self.errors:
                raise self.errors.pop(0)
            self.made.append(FakeKernel(next(self._numbers)))
            return self.made[-1]
        finally:
            self.under_way -= 1

    def finish(self, number: int = 1) -> None:
        """Let the next starts come to their end."""
        for _ in range(number):
            self._turn.release()


class Bench:
    """A pool with a starter of its own."""

    def __init__(self, least: int, most: int, starter: FakeStarter | None = None, **settings: Any) -> None:
        values = {"py_min": least, "py_max": most, "imports_enabled": False, **settings}
        self.starter = starter or FakeStarter()
        self.pool = KernelPool(PYTHON, cast(KernelStarter, self.starter), PoolSettings(**values))
        self.got: list[tuple[str, int]] = []
        self.tasks: dict[str, asyncio.Task[FakeKernel]] = {}

    async def acquire(self) -> FakeKernel:
        async with asyncio.timeout(SOON):
            return cast(FakeKernel, await self.pool.acquire())

    async def come(self, *names: str) -> None:
        """Let callers ask for a kernel, one after the other."""
        for name in names:
            self.tasks[name] = asyncio.create_task(self._named(name))
            await settle()

    async def _named(self, name: str) -> FakeKernel:
        kernel = await self.acquire()
        self.got.append((name, kernel.number))
        return kernel

    async def result_of(self, name: str) -> object:
        await asyncio.wait([self.tasks[name]], timeout=SOON)
        task = self.tasks[name]
        return "cancelled" if task.cancelled() else task.exception() or task.result()

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many are ready, starting, waiting."""
        health = self.pool.health()
        return health["ready"], health["starting"], health["waiting"]


async def settle() -> None:
    """Let every task do what it can do now."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON):
        while not look():  # noqa: ASYNC110  the pool tells nobody of its steps
            await asyncio.sleep(0.005)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())


@pytest.fixture
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "BACKOFF_FIRST", QUICK_BACKOFF)


# --- how many


def test_the_pool_is_filled_one_by_one_to_its_least() -> None:
    async def scenario() -> None:
        bench = Bench(3, 5)
        bench.pool.open()
        await settle()
        assert (bench.counts, bench.starter.peak) == ((3, 0, 0), 1)
        await bench.pool.close()

    run(scenario)


def test_without_warmup_the_pool_is_empty_until_somebody_comes() -> None:
    async def scenario() -> None:
        bench = Bench(2, 5, warmup_on_startup=False)
        bench.pool.open()
        await settle()
        assert bench.counts == (0, 0, 0)
        assert (await bench.acquire()).number == 1
        await settle()
        assert bench.counts == (2, 0, 0)
        await bench.pool.close()

    run(scenario)


def test_what_is_taken_is_replaced() -> None:
    async def scenario() -> None:
        bench = Bench(2, 2)
        bench.pool.open()
        for taken in range(1, 6):
            await settle()
            await bench.acquire()
            await settle()
            assert len(bench.starter.made) == taken + 1  # the caller's first call goes before
            await until(lambda: bench.counts == (2, 0, 0))
            assert len(bench.starter.made) == taken + 2
        await bench.pool.close()

    run(scenario)


def test_nothing_waits_in_a_pool_that_is_off() -> None:
    async def scenario() -> None:
        bench = Bench(3, 5, enabled=False)
        bench.pool.open()
        await settle()
        assert bench.counts == (0, 0, 0)
        first, second = await bench.acquire(), await bench.acquire()
        await settle()
        assert (first.number, second.number, bench.counts) == (1, 2, (0, 0, 0))
        await bench.pool.close()

    run(scenario)


def test_for_those_who_wait_several_start_at_once_but_no_more_than_the_starter_bears() -> None:
    async def scenario() -> None:
        bench = Bench(0, 10, FakeStarter(concurrency=3, by_hand=True))
        await bench.come(*"abcde")
        assert bench.counts == (0, 3, 5)
        bench.starter.finish(5)
        await settle()
        assert (bench.counts, bench.starter.peak) == ((0, 0, 0), 3)
        await bench.pool.close()

    run(scenario)


def test_no_more_start_than_may_be_there() -> None:
    async def scenario() -> None:
        bench = Bench(1, 2, FakeStarter(concurrency=8, by_hand=True))
        await bench.come(*"abcdef")
        assert bench.counts == (0, 2, 6)
        bench.starter.finish(20)
        await settle()
        assert (bench.counts, bench.starter.peak) == ((1, 0, 0), 2)
        await bench.pool.close()

    run(scenario)


@pytest.mark.parametrize("seed", range(15))
def test_whatever_happens_the_bounds_hold_and_everyone_is_served(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "BACKOFF_FIRST", 0.001)
    monkeypatch.setattr(pool_module, "BACKOFF_MOST", 0.002)

    async def scenario() -> None:
        rng = random.Random(seed)
        least = rng.randint(0, 3)
        most = max(1, least + rng.randint(0, 2))
        bench = Bench(least, most, FakeStarter(concurrency=rng.randint(1, 4)))
        bench.pool.open()
        callers: list[asyncio.Task[FakeKernel]] = []
        for _ in range(150):
            event = rng.random()
            if event < 0.5:
                callers.append(asyncio.create_task(bench.acquire()))
            elif event < 0.65 and callers:
                rng.choice(callers).cancel()
            elif event < 0.75 and bench.starter.made:
                await rng.choice(bench.starter.made).kill()
            elif event < 0.8:
                bench.starter.errors.append(EngineError("refused"))
            for _ in range(rng.randint(0, 3)):
                await asyncio.sleep(0)
            ready, starting, _ = bench.counts
            assert ready + starting <= most
            assert starting <= bench.starter.concurrency
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert {type(result) for result in results} <= {FakeKernel, asyncio.CancelledError, EngineError}
        kernels = [id(result) for result in results if isinstance(result, FakeKernel)]
        assert len(set(kernels)) == len(kernels)
        await until(lambda: least <= bench.counts[0] <= most and bench.counts[1:] == (0, 0))
        await bench.pool.close()
        kept = [kernel for kernel in bench.starter.made if id(kernel) not in kernels]
        assert [kernel for kernel in kept if not kernel.closed] == []

    run(scenario)


# --- who gets which


def test_those_who_wait_are_served_in_order() -> None:
    async def scenario() -> None:
        bench = Bench(0, 10, FakeStarter(concurrency=1, by_hand=True))
        await bench.come(*"abcd")
        for _ in range(4):
            bench.starter.finish()
            await settle()
        assert bench.got == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
        await bench.pool.close()

    run(scenario)


def test_the_warmest_kernel_is_handed_out_first() -> None:
    async def scenario() -> None:
        bench = Bench(4, 4)
        bench.pool.open()
        await settle()
        for kernel, warmth in zip(bench.starter.made, (1, 0, 3, 2), strict=True):
            kernel.warmth = warmth
        assert [(await bench.acquire()).number for _ in range(4)] == [3, 4, 1, 2]
        await bench.pool.close()

    run(scenario)


def test_a_kernel_that_imports_is_handed_out_last() -> None:
    async def scenario() -> None:
        bench = Bench(2, 2, FakeStarter(by_hand=True), imports_enabled=True, imports=["one", "two"])
        bench.pool.open()
        bench.starter.finish()
        await settle()
        bench.starter.made[0].busy.clear()
        bench.starter.finish()
        await settle()
        first, second = bench.starter.made
        first.warmth = 1
        await until(lambda: bench.pool._importing is not None)
        importing = cast(FakeKernel, bench.pool._importing)
        other = second if importing is first else first
        assert [await bench.acquire(), await bench.acquire()] == [other, importing]
        importing.busy.set()
        await bench.pool.close()

    run(scenario)


def test_a_kernel_is_handed_out_once() -> None:
    async def scenario() -> None:
        bench = Bench(2, 4)
        bench.pool.open()
        kernels = [await bench.acquire() for _ in range(20)]
        assert len({kernel.number for kernel in kernels}) == 20
        assert not any(kernel.closed for kernel in kernels)
        await bench.pool.close()
        assert not any(kernel.closed for kernel in kernels)

    run(scenario)


# --- callers who go away


def test_a_kernel_for_a_caller_who_has_gone_goes_to_the_next() -> None:
    async def scenario() -> None:
        bench = Bench(0, 10, FakeStarter(concurrency=1, by_hand=True))
        await bench.come("a", "b")
        bench.tasks["a"].cancel()
        await settle()
        bench.starter.finish()
        await settle()
        assert (bench.got, await bench.result_of("a")) == ([("b", 1)], "cancelled")
        await bench.pool.close()

    run(scenario)


def test_a_kernel_that_nobody_waits_for_any_more_is_kept() -> None:
    async def scenario() -> None:
        bench = Bench(0, 10, FakeStarter(by_hand=True))
        await bench.come("a")
        bench.tasks["a"].cancel()
        bench.starter.finish()
        await settle()
        assert bench.counts == (1, 0, 0)
        assert (await bench.acquire()).number == 1
        await bench.pool.close()

    run(scenario)


def test_a_caller_who_goes_as_the_kernel_comes_gives_it_back() -> None:
    async def scenario() -> None:
        bench = Bench(0, 10, FakeStarter(concurrency=1))
        task = asyncio.create_task(bench.pool.acquire())
        await as_it_comes(bench, waiting=0)
        assert task.cancel()
        await settle()
        assert (task.cancelled(), bench.counts) == (True, (1, 0, 0))
        assert (await bench.acquire()).number == 1
        await bench.pool.close()

    run(scenario)


def test_a_caller_who_goes_as_the_kernel_comes_gives_it_to_the_next() -> None:
    async def scenario() -> None:
        bench = Bench(0, 10, FakeStarter(concurrency=1))
        first = asyncio.create_task(bench.pool.acquire())
        second = asyncio.create_task(bench.acquire())
        await as_it_comes(bench, waiting=1)
        assert first.cancel()
        assert (await second).number == 1
        assert first.cancelled()
        await bench.pool.close()

    run(scenario)


async def as_it_comes(bench: Bench, waiting: int) -> None:
    """Return when the first kernel is the first caller's, who does not know yet."""
    while not bench.starter.made or bench.counts[2] != waiting:  # noqa: ASYNC110  to stop in time
        await asyncio.sleep(0)


# --- starts that fail


@pytest.mark.usefixtures("quick_backoff")
def test_one_failed_start_is_not_told_to_those_who_wait() -> None:
    async def scenario() -> None:
        bench = Bench(0, 10, FakeStarter(concurrency=1))
        bench.starter.errors.append(KernelStartError("once"))
        assert (await bench.acquire()).number == 1
        health = bench.pool.health()
        assert (health["failed_starts_in_a_row"], health["last_error"]) == (0, "")
        await bench.pool.close()

    run(scenario)


@pytest.mark.usefixtures("quick_backoff")
def test_when_starts_go_on_failing_all_who_wait_are_told() -> None:
    async def scenario() -> None:
        bench = Bench(0, 10, FakeStarter(concurrency=1))
        errors: list[GateError] = [KernelStartError("first"), EngineError("second")]
        bench.starter.errors += errors
        await bench.come("a", "b")
        assert [await bench.result_of("a"), await bench.result_of("b")] == [errors[1], errors[1]]
        health = bench.pool.health()
        assert (health["waiting"], health["failed_starts_in_a_row"]) == (0, 2)
        assert health["last_error"] == "engine_unavailable: second"
        assert (await bench.acquire()).number == 1
        assert bench.pool.health()["failed_starts_in_a_row"] == 0
        await bench.pool.close()

    run(scenario)


@pytest.mark.usefixtures("quick_backoff")
def test_the_pool_waits_longer_after_each_failure() -> None:
    async def scenario() -> None:
        bench = Bench(1, 1, FakeStarter(concurrency=1))
        bench.starter.errors += [KernelStartError("no")] * 4
        bench.pool.open()
        await until(lambda: bench.counts[0])
        starts = bench.starter.starts
        pauses = [after - before for before, after in pairwise(starts)]
        assert len(pauses) == 4
        assert all(pause >= QUICK_BACKOFF * 2**n * 0.9 for n, pause in enumerate(pauses))
        assert bench.pool.health()["failed_starts_in_a_row"] == 0
        await bench.pool.close()

    run(scenario)


@pytest.mark.usefixtures("quick_backoff")
def test_the_pause_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "BACKOFF_MOST", 0.04)

    async def scenario() -> None:
        bench = Bench(1, 1, FakeStarter(concurrency=1))
        bench.starter.errors += [KernelStartError("no")] * 8
        bench.pool.open()
        began = time.monotonic()
        await until(lambda: bench.counts[0])
        assert time.monotonic() - began < 8 * 0.04 + 1
        await bench.pool.close()

    run(scenario)


def test_who_comes_in_a_long_pause_after_failures_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "PATIENCE", 0.1)
    monkeypatch.setattr(pool_module, "BACKOFF_FIRST", 0.2)

    async def scenario() -> None:
        bench = Bench(0, 2)
        bench.starter.errors += [KernelStartError("first"), KernelStartError("second")]
        with pytest.raises(KernelStartError, match="second"):
            await bench.acquire()
        before = time.monotonic()
        with pytest.raises(KernelStartError, match=r"the next try is in .* second"):
            await bench.acquire()
        assert time.monotonic() - before < 0.1
        await until(lambda: bench.counts[0] == 1)
        assert (await bench.acquire()).alive
        await bench.pool.close()

    run(scenario)


def test_filled_is_told_when_the_first_kernel_is_there() -> None:
    async def scenario() -> None:
        bench = Bench(2, 2, FakeStarter(by_hand=True))
        await bench.pool.wait_filled()
        bench.pool.open()
        waiting = asyncio.create_task(bench.pool.wait_filled())
        await settle()
        assert not waiting.done()
        bench.starter.finish()
        await asyncio.wait_for(waiting, SOON)
        await bench.pool.close()

    run(scenario)


def test_filled_fails_when_no_kernel_can_be_started() -> None:
    async def scenario() -> None:
        bench = Bench(1, 1)
        bench.starter.errors.append(EngineError("refused"))
        bench.pool.open()
        with pytest.raises(KernelStartError, match=r"^engine_unavailable: refused$"):
            await asyncio.wait_for(bench.pool.wait_filled(), SOON)
        await bench.pool.close()

    run(scenario)


# --- kernels that die


def test_a_kernel_that_dies_while_it_waits_is_removed_and_replaced() -> None:
    async def scenario() -> None:
        bench = Bench(2, 2)
        bench.pool.open()
        await settle()
        bench.starter.made[0].die()
        await settle()
        assert [kernel.closed for kernel in bench.starter.made] == [True, False, False]
        assert bench.counts == (2, 0, 0)
        await bench.pool.close()

    run(scenario)


def test_a_dead_kernel_is_not_handed_out() -> None:
    async def scenario() -> None:
        bench = Bench(2, 2)
        bench.pool.open()
        await settle()
        for kernel in bench.starter.made:
            kernel.die()
        kernel = await bench.acquire()  # before the pool was told of the deaths
        assert kernel.alive
        await bench.pool.close()

    run(scenario)


def test_a_kernel_that_dies_at_its_user_is_not_the_pools_business() -> None:
    async def scenario() -> None:
        bench = Bench(1, 1)
        bench.pool.open()
        kernel = await bench.acquire()
        await settle()
        kernel.die()
        await settle()
        assert (kernel.closed, bench.counts) == (False, (1, 0, 0))
        await bench.pool.close()

    run(scenario)


def test_a_kernel_that_cannot_be_removed_stops_nothing() -> None:
    async def scenario() -> None:
        bench = Bench(1, 1)
        bench.pool.open()
        await settle()
        bench.starter.made[0].close_error = EngineError("refused")
        bench.starter.made[0].die()
        await settle()
        assert bench.counts == (1, 0, 0)
        bench.starter.made[1].close_error = EngineError("refused")
        await bench.pool.close()

    run(scenario)


def test_kernels_that_do_not_answer_are_replaced() -> None:
    async def scenario() -> None:
        bench = Bench(4, 4, health_check_interval=1)
        bench.pool.open()
        await settle()
        errors = [TimeoutError(), Unavailable("the kernel takes no more messages"), KernelDied("dead")]
        for kernel, error in zip(bench.starter.made, errors, strict=False):
            kernel.ask_error = error
        await until(lambda: len(bench.starter.made) == 7)
        await settle()
        assert [kernel.closed for kernel in bench.starter.made] == [True] * 3 + [False] * 4
        assert bench.counts == (4, 0, 0)
        await bench.pool.close()

    run(scenario)


# --- imports


def imports(*modules: str) -> list[str]:
    return [f"__import__({module!r})" for module in modules]


def test_kernels_import_in_order_while_they_wait() -> None:
    async def scenario() -> None:
        bench = Bench(2, 2, imports_enabled=True, imports=["one", "two"])
        bench.pool.open()
        await until(lambda: bench.pool.health()["warm"] == 2)
        assert [kernel.executed for kernel in bench.starter.made] == [imports("one", "two")] * 2
        assert [kernel.warmth for kernel in bench.starter.made] == [2, 2]
        await bench.pool.close()

    run(scenario)


def test_a_library_that_cannot_be_imported_is_tried_once() -> None:
    async def scenario() -> None:
        bench = Bench(1, 1, FakeStarter(by_hand=True), imports_enabled=True, imports=["one", "two"])
        bench.pool.open()
        bench.starter.finish()
        await until(lambda: bench.starter.made)
        bench.starter.made[0].cannot_import = {"one"}
        await until(lambda: bench.pool.health()["warm"] == 1)
        assert bench.starter.made[0].executed == imports("one", "two")
        await bench.pool.close()

    run(scenario)


def test_nothing_is_imported_while_somebody_waits() -> None:
    async def scenario() -> None:
        starter = FakeStarter(concurrency=1, by_hand=True)
        bench = Bench(1, 2, starter, imports_enabled=True, imports=["one"])
        bench.pool.open()
        await bench.come("a", "b")
        starter.finish(2)
        await settle()
        assert [kernel.executed for kernel in starter.made] == [[], []]
        starter.finish()
        await until(lambda: bench.pool.health()["warm"] == 1)
        await bench.pool.close()

    run(scenario)


def test_imports_go_on_when_one_kernel_dies_at_them() -> None:
    async def scenario() -> None:
        bench = Bench(2, 2, FakeStarter(by_hand=True), imports_enabled=True, imports=["one"])
        bench.pool.open()
        bench.starter.finish()
        await until(lambda: bench.starter.made)
        bench.starter.made[0].busy.clear()
        await settle()
        bench.starter.finish(3)
        await settle()
        bench.starter.made[0].die()
        bench.starter.made[0].busy.set()
        await until(lambda: bench.pool.health()["warm"] == 2)
        await bench.pool.close()

    run(scenario)


def test_imports_go_on_when_one_kernel_takes_no_message() -> None:
    async def scenario() -> None:
        bench = Bench(2, 2, FakeStarter(by_hand=True), imports_enabled=True, imports=["one"])
        bench.pool.open()
        bench.starter.finish()
        await until(lambda: bench.starter.made)
        first = bench.starter.made[0]

        def refuse(*_args: object, **_options: object) -> Request:
            raise Unavailable("the kernel takes no more messages")

        first.send = refuse  # type: ignore[method-assign]
        bench.starter.finish(5)
        await until(lambda: any(kernel.warmth and kernel.executed for kernel in bench.starter.made))
        await bench.pool.close()

    run(scenario)


# --- the end


def test_at_the_end_those_who_wait_are_told_and_all_kernels_end() -> None:
    async def scenario() -> None:
        bench = Bench(2, 2, FakeStarter(concurrency=1, by_hand=True))
        bench.pool.open()
        bench.starter.finish(2)
        await settle()
        taken = [await bench.acquire(), await bench.acquire()]
        await bench.come("a", "b")
        await bench.pool.close()
        for name in ("a", "b"):
            error = await bench.result_of(name)
            assert isinstance(error, ShuttingDown)
            assert str(error) == "the server is shutting down"
        assert bench.starter.under_way == 0
        with pytest.raises(ShuttingDown):
            await bench.pool.acquire()
        assert [kernel.closed for kernel in taken] == [False, False]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario)


def test_at_the_end_every_kernel_that_waits_is_closed() -> None:
    async def scenario() -> None:
        bench = Bench(3, 3)
        bench.pool.open()
        await settle()
        bench.starter.made[0].die()
        await bench.pool.close()
        assert all(kernel.closed for kernel in bench.starter.made)
        assert bench.counts == (0, 0, 0)
        await bench.pool.close()

    run(scenario)


def test_a_kernel_that_is_given_back_after_the_end_is_closed() -> None:
    async def scenario() -> None:
        bench = Bench(0, 3, FakeStarter(concurrency=1))
        task = asyncio.create_task(bench.pool.acquire())
        await as_it_comes(bench, waiting=0)
        task.cancel()
        await bench.pool.close()
        await settle()
        assert [kernel.closed for kernel in bench.starter.made] == [True]

    run(scenario)


# --- settings

JS = Language("js", "JavaScript", "k", "js", "i", "E", ())
OTHER = Language("go", "Go", "k", "go", "i", "E", ())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [(5, 20), (2, 8), (2, 15)]),
        ({"py_min": 1, "js_max": 9, "max_size": 3}, [(1, 20), (2, 9), (2, 3)]),
        ({"enabled": False}, [(0, 15), (0, 15), (0, 15)]),
    ],
)
def test_each_language_has_its_bounds(settings: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    assert [PoolSettings(**settings).bounds(language) for language in (PYTHON, JS, OTHER)] == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["numpy", "pandas", "matplotlib.pyplot"]),
        ({"imports": ["json"]}, ["json"]),
        ({"imports": []}, []),
        ({"imports_enabled": False}, []),
        ({"enabled": False}, []),
    ],
)
def test_only_python_kernels_in_a_pool_import_ahead(settings: dict[str, Any], expected: list[str]) -> None:
    assert [PoolSettings(**settings).modules(language) for language in (PYTHON, JS)] == [expected, []]


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        ({}, []),
        ({"py_min": 20}, []),
        ({"py_min": 21}, ["CONTAINER_POOL_PY_MIN must be at most CONTAINER_POOL_PY_MAX, got 21 and 20"]),
        ({"js_max": 1}, ["CONTAINER_POOL_JS_MIN must be at most CONTAINER_POOL_JS_MAX, got 2 and 1"]),
        ({"min_size": 16}, ["CONTAINER_POOL_MIN_SIZE must be at most CONTAINER_POOL_MAX_SIZE, got 16 and 15"]),
    ],
)
def test_bounds_that_contradict_each_other_are_told(settings: dict[str, int], problems: list[str]) -> None:
    assert PoolSettings(**settings).problems() == problems


@pytest.mark.parametrize(
    "setting", [{"min_size": -1}, {"max_size": 0}, {"py_min": -1}, {"health_check_interval": 0}]
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(TraitError):
        PoolSettings(**setting)


def test_the_fakes_have_what_the_pool_uses() -> None:
    for name in ("ask", "close", "forget", "interrupt", "kill", "send", "alive"):
        assert hasattr(Kernel, name)
        assert hasattr(FakeKernel, name)
    for name in ("start", "concurrency"):
        assert hasattr(KernelStarter, name)
