"""Who may run code now: a bounded number at once, the others wait in turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeVar

from traitlets import Int
from traitlets.config import LoggingConfigurable

from kernelgate.auth import Owner
from kernelgate.errors import RateLimited, ShuttingDown

T = TypeVar("T")


class Admission(LoggingConfigurable):
    """Lets ``MAX_CONCURRENT_EXECUTIONS`` run. Owners who wait take turns: none crowds out another."""

    max_concurrent = Int(10, min=1, help="Executions that run at once.").tag(
        config=True, env="MAX_CONCURRENT_EXECUTIONS", group="Session limits"
    )
    max_queued = Int(1000, min=0, help="Executions that may wait for their turn; more are refused with 429.").tag(
        config=True, env="MAX_QUEUED_EXECUTIONS", group="Session limits"
    )
    queue_timeout = Int(
        60, min=1, help="Seconds that an execution waits for its turn before it is refused with 429."
    ).tag(config=True, env="QUEUE_TIMEOUT_SECONDS", group="Session limits")

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.running = 0
        self.queued = 0
        self._queues: OrderedDict[Owner, deque[asyncio.Future[None]]] = OrderedDict()
        self._all_done = asyncio.Event()
        self._all_done.set()
        self._closed = False

    @asynccontextmanager
    async def slot(self, owner: Owner) -> AsyncIterator[None]:
        """Hold one of the places. Raises `RateLimited` when none becomes free in time."""
        await self._enter(owner)
        try:
            yield
        finally:
            self._leave()

    def close(self) -> None:
        """Admit nobody any more; those who wait are told so."""
        self._closed = True
        for queue in self._queues.values():
            for place in queue:
                if not place.done():
                    place.set_exception(ShuttingDown("the server is shutting down"))

    async def wait_all_done(self, timeout: float) -> bool:
        """Wait until nothing runs; False when the time is over before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._all_done.wait()
        return self.running == 0

    def refusal(self, reason: str) -> RateLimited:
        """Return the error for a call that has to come again."""
        return RateLimited(
            f"{reason}: try again later", retry_after_seconds=max(1, self.queued // self.max_concurrent)
        )

    @asynccontextmanager
    async def session_turn(self, lease: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        """Enter ``lease``, within the time that an execution may wait. Raises `RateLimited`."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self.queue_timeout):
                    session = await held.enter_async_context(lease)
            except TimeoutError:
                raise self.refusal("other executions of the session have not ended") from None
            yield session

    def check_open(self) -> None:
        """Raise `ShuttingDown` when nobody is admitted any more."""
        if self._closed:
            raise ShuttingDown("the server is shutting down")

    async def _enter(self, owner: Owner) -> None:
        self.check_open()
        if self.running < self.max_concurrent and not self.queued:
            self._begin()
            return
        if self.queued >= self.max_queued:
            raise self.refusal(f"{self.queued} executions wait already")
        await self._wait_for_turn(owner)

    async def _wait_for_turn(self, owner: Owner) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(owner, deque()).append(place)
        self.queued += 1
        try:
            async with asyncio.timeout(self.queue_timeout):
                await place
        except TimeoutError:
            if _was_admitted(place):
                self._leave()
            raise self.refusal(f"no turn came within {self.queue_timeout} s") from None
        except asyncio.CancelledError:
            if _was_admitted(place):
                self._leave()
            raise
        finally:
            self._drop(owner, place)

    def _begin(self) -> None:
        self.running += 1
        self._all_done.clear()

    def _leave(self) -> None:
        self.running -= 1
        if not self.running:
            self._all_done.set()
        self._admit_next()

    def _admit_next(self) -> None:
        """Give the places that are free to those whose turn it is."""
        while self.running < self.max_concurrent:
            place = self._next()
            if place is None:
                return
            self._begin()
            place.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        """Return the first in the queue of the owner whose turn it is; the owner's next turn comes last."""
        for owner in list(self._queues):
            queue = self._queues[owner]
            self._queues.move_to_end(owner)
            for place in queue:
                if not place.done():
                    return place
        return None

    def _drop(self, owner: Owner, place: asyncio.Future[None]) -> None:
        self.queued -= 1
        queue = self._queues[owner]
        queue.remove(place)
        if not queue:
            del self._queues[owner]
        self._admit_next()  # a place may have become free while this one, already gone, was the next


def _was_admitted(place: asyncio.Future[None]) -> bool:
    return place.done() and not place.cancelled() and place.exception() is None
