"""Sessions and their kernels, with kernels that need no container and a real store."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from kernelgate.auth import Owner
from kernelgate.containers.engine import Exit
from kernelgate.errors import SessionNotFound
from kernelgate.kernel.pool import KernelPool
from kernelgate.languages import PYTHON
from kernelgate.sessions.culling import Culling
from kernelgate.sessions.files import WorkFolder
from kernelgate.sessions.seal import Seal
from kernelgate.sessions.session import Session
from kernelgate.sessions.sessions import Sessions
from kernelgate.sessions.state import State, StateSettings
from kernelgate.sessions.vault import Lifetimes, Vault
from kernelgate.stores.embedded import EmbeddedStore

ANN, BOB = Owner("ann"), Owner("bob")


class FakeKernel:
    """Lives until it is closed or dies; closing takes a turn of the loop, as it does in truth."""

    def __init__(self) -> None:
        self.id = "fake"
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.closed = self.is_ended = False
        self.heard_at = 0.0

    @property
    def alive(self) -> bool:
        return not self.closed and not self.ended.done()

    async def close(self) -> None:
        self.closed = True
        await asyncio.sleep(0)


class FakePool:
    """Gives out fake kernels and remembers them."""

    def __init__(self) -> None:
        self.given: list[FakeKernel] = []

    async def acquire(self) -> FakeKernel:
        await asyncio.sleep(0)
        self.given.append(FakeKernel())
        return self.given[-1]


class House:
    """Sessions over a fake pool and a store of their own."""

    def __init__(self, culling: Culling | None = None, **settings: int) -> None:
        self.pool = FakePool()
        self._culling = culling or Culling()
        self._settings = settings
        self._folder = tempfile.TemporaryDirectory()

    async def __aenter__(self) -> House:
        self.store = EmbeddedStore(state_dir=self._folder.name)
        await self.store.open()
        life = Lifetimes(record=60, state=60, archive=0)
        vault = Vault(self.store, None, Seal("secret"), "house", life, logging.getLogger())
        state = State(vault, StateSettings(enabled=False), WorkFolder().limits)
        pools = {"py": cast(KernelPool, self.pool)}
        self.sessions = Sessions(pools, vault, state, self._culling, **self._settings)
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.sessions.close()
        await self.store.close()
        self._folder.cleanup()

    async def use(
        self, owner: Owner, session_id: str, hold: Awaitable[object] | None = None
    ) -> tuple[FakeKernel, bool]:
        """Run something in a session, for as long as ``hold`` takes; returns its kernel and whether it had it."""
        async with self.sessions.lease(owner, session_id, PYTHON) as session:
            ready = await self.sessions.kernel(session)
            if hold is not None:
                await hold
            return cast(FakeKernel, ready.kernel), ready.status == "reused"

    def found(self, owner: Owner, session_id: str) -> Session:
        session = self.sessions.find(owner, session_id)
        assert session is not None
        return session


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scenario()

    asyncio.run(bounded())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_session_keeps_its_kernel() -> None:
    async def scenario() -> None:
        async with House() as house:
            first, reused = await house.use(ANN, "a")
            again = await house.use(ANN, "a")
            assert (reused, again) == (False, (first, True))

    run(scenario)


def test_the_same_id_of_another_owner_is_another_session() -> None:
    async def scenario() -> None:
        async with House() as house:
            anns, _ = await house.use(ANN, "a")
            bobs, reused = await house.use(BOB, "a")
            assert (bobs is anns, reused) == (False, False)
            with pytest.raises(SessionNotFound):
                await house.sessions.get(Owner("carl"), "a")

    run(scenario)


def test_the_kernel_that_idled_longest_gives_way() -> None:
    async def scenario() -> None:
        async with House(max_live_kernels=2) as house:
            kernels = [(await house.use(ANN, name))[0] for name in "abc"]
            await settle()
            assert [kernel.alive for kernel in kernels] == [False, True, True]
            assert house.sessions.health() == {"sessions": 3, "kernels": 2}

    run(scenario)


def test_a_session_that_is_taken_up_again_keeps_the_kernel_that_was_to_give_way() -> None:
    async def scenario() -> None:
        async with House(max_live_kernels=1) as house:
            first, _ = await house.use(ANN, "a")
            done = asyncio.Event()
            other = asyncio.create_task(house.use(ANN, "b", done.wait()))
            back = asyncio.create_task(house.use(ANN, "a", done.wait()))
            await settle()
            kernel = house.found(ANN, "a").kernel
            assert kernel is not None
            assert kernel.alive
            done.set()
            assert (await back)[0] is cast(object, kernel)
            await other
            await settle()
            assert house.sessions.health()["kernels"] == 1
            assert sum(kernel.alive for kernel in house.pool.given) == 1
            assert first in house.pool.given

    run(scenario)


def test_a_kernel_that_died_is_replaced_and_the_new_one_stays() -> None:
    async def scenario() -> None:
        async with House() as house:
            first, _ = await house.use(ANN, "a")
            done = asyncio.Event()
            running = asyncio.create_task(house.use(ANN, "a", done.wait()))
            waiting = asyncio.create_task(house.use(ANN, "a"))
            await settle()
            first.ended.set_result(Exit(137))
            done.set()
            await running
            second, reused = await waiting
            await settle()
            assert (second is first, reused, second.alive) == (False, False, True)
            assert house.sessions.health()["kernels"] == 1

    run(scenario)


def test_no_idle_time_ends_each_kernel_at_once() -> None:
    async def scenario() -> None:
        async with House(Culling(kernel_idle_seconds=0)) as house:
            kernel, _ = await house.use(ANN, "a")
            await settle()
            assert (kernel.alive, house.found(ANN, "a").state) == (False, "dormant")

    run(scenario)


def test_who_waits_for_a_session_that_is_deleted_gets_a_new_one() -> None:
    async def scenario() -> None:
        async with House() as house:
            done = asyncio.Event()
            running = asyncio.create_task(house.use(ANN, "a", done.wait()))
            waiting = asyncio.create_task(house.use(ANN, "a"))
            await settle()
            await house.sessions.delete(ANN, "a")
            done.set()
            old, _ = await running
            new, reused = await waiting
            assert (old.alive, new.alive, reused) == (False, True, False)

    run(scenario)


def test_a_caller_that_goes_while_it_waits_for_a_kernel_leaves_no_count_behind() -> None:
    async def scenario() -> None:
        async with House() as house:
            going = asyncio.create_task(house.use(ANN, "a"))
            await asyncio.sleep(0)
            going.cancel()
            with pytest.raises(asyncio.CancelledError):
                await going
            assert house.sessions.health()["kernels"] == 0

    run(scenario)
