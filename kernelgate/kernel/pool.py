"""The pool: kernels that are started ahead, so that a caller gets one at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import Any

from traitlets import Bool, Int, List, Unicode
from traitlets.config import LoggingConfigurable

from kernelgate.errors import GateError, KernelStartError, ShuttingDown
from kernelgate.kernel.background import Background
from kernelgate.kernel.client import Execution, Status, execute
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.starter import KernelStarter, describe
from kernelgate.languages import Language

BACKOFF_FIRST = 1.0
BACKOFF_MOST = 60.0
FAILURES_TO_TELL = 2
"""Failed starts in a row after which those who wait are told."""

PATIENCE = 2.0
"""Seconds until the next try for which a caller waits after failures; else it is told at once."""

IMPORT_SECONDS = 60.0
IMPORT_LOOK_SECONDS = 1.0

REFILL_DELAY = 0.15
"""Seconds after a kernel was handed out until the next one is started: its first call goes before."""


class PoolSettings(LoggingConfigurable):
    """How many kernels wait in the pools, and what they import while they wait."""

    enabled = Bool(True, help="Start kernels ahead. Off: each is started when it is asked for.").tag(
        config=True, env="CONTAINER_POOL_ENABLED", group="Container pool"
    )
    min_size = Int(2, min=0, help="Kernels that wait in the pool of a language.").tag(
        config=True, env="CONTAINER_POOL_MIN_SIZE", group="Container pool"
    )
    max_size = Int(15, min=1, help="Kernels that may wait or start in the pool of a language.").tag(
        config=True, env="CONTAINER_POOL_MAX_SIZE", group="Container pool"
    )
    warmup_on_startup = Bool(True, help="Fill the pools when the server starts, not at the first request.").tag(
        config=True, env="CONTAINER_POOL_WARMUP_ON_STARTUP", group="Container pool"
    )
    py_min = Int(5, min=0, help="Python kernels that wait in the pool.").tag(
        config=True, env="CONTAINER_POOL_PY_MIN", group="Container pool"
    )
    py_max = Int(20, min=1, help="Python kernels that may wait or start in the pool.").tag(
        config=True, env="CONTAINER_POOL_PY_MAX", group="Container pool"
    )
    js_min = Int(2, min=0, help="JavaScript kernels that wait in the pool.").tag(
        config=True, env="CONTAINER_POOL_JS_MIN", group="Container pool"
    )
    js_max = Int(8, min=1, help="JavaScript kernels that may wait or start in the pool.").tag(
        config=True, env="CONTAINER_POOL_JS_MAX", group="Container pool"
    )
    imports_enabled = Bool(
        True, help="Import common libraries in Python kernels while they wait in the pool."
    ).tag(config=True, env="REPL_ENABLED", group="REPL")
    health_check_timeout = Int(5, min=1, help="Seconds that a waiting kernel has to answer a health check.").tag(
        config=True, env="REPL_HEALTH_CHECK_TIMEOUT_SECONDS", group="REPL"
    )
    health_check_interval = Int(30, min=1, help="Seconds between the health checks of a waiting kernel.").tag(
        config=True
    )
    imports = List(
        Unicode(),
        ["numpy", "pandas", "matplotlib.pyplot"],
        help="Libraries that Python kernels import while they wait, one after the other.",
    ).tag(config=True)

    def bounds(self, language: Language) -> tuple[int, int]:
        """Return the least and the most kernels of ``language`` in its pool."""
        if not self.enabled:
            return 0, self.max_size
        sizes = {"py": (self.py_min, self.py_max), "js": (self.js_min, self.js_max)}
        return sizes.get(language.id, (self.min_size, self.max_size))

    def modules(self, language: Language) -> list[str]:
        """Return what kernels of ``language`` import ahead."""
        return list(self.imports) if language.id == "py" and self.imports_enabled and self.enabled else []

    def problems(self) -> list[str]:
        """Return what is wrong with the settings taken together."""
        names = {
            "": (self.min_size, self.max_size),
            "PY_": (self.py_min, self.py_max),
            "JS_": (self.js_min, self.js_max),
        }
        return [
            f"CONTAINER_POOL_{name}MIN{'' if name else '_SIZE'} must be at most "
            f"CONTAINER_POOL_{name}MAX{'' if name else '_SIZE'}, got {least} and {most}"
            for name, (least, most) in names.items()
            if least > most
        ]


class KernelPool:
    """The kernels of one language that nobody uses yet.

    Callers are served first come, first served. The pool starts what callers wait for, several at once; what it
    refills ahead it starts one by one and only while nobody waits.
    """

    def __init__(self, language: Language, starter: KernelStarter, settings: PoolSettings) -> None:
        self.language = language
        self.log = settings.log
        self._starter = starter
        self._settings = settings
        self._least, self._most = settings.bounds(language)
        self._modules = settings.modules(language)
        self._ready: list[Kernel] = []
        self._importing: Kernel | None = None
        self._starting = 0
        self._waiters: deque[asyncio.Future[Kernel]] = deque()
        self._background = Background(self.log, "the pool's background work")
        self._wake = asyncio.Event()
        self._failures = 0
        self._last_error = ""
        self._not_before = 0.0
        self._closed = False

    # ---- for callers

    def open(self) -> None:
        """Start the background work, and the kernels to wait, if they are wanted right away."""
        self._background.spawn(self._import_ahead())
        self._background.spawn(self._check_health())
        if self._settings.warmup_on_startup:
            self._refill()

    async def acquire(self) -> Kernel:
        """Return a kernel that nobody else has or will get. Raises `KernelStartError`, `EngineError`."""
        if self._closed:
            raise ShuttingDown("the server is shutting down")
        while True:
            kernel = self._take() or await self._wait_for_kernel()
            asyncio.get_running_loop().call_later(REFILL_DELAY, self._refill)
            if kernel.alive:
                return kernel
            self._background.spawn(self._close_kernel(kernel))  # it ended on its way to the caller

    async def wait_filled(self) -> None:
        """Wait until a first kernel is there, if kernels are started ahead. Raises `KernelStartError`."""
        while not self._ready and self._starting and not self._failures:
            self._wake.clear()
            await self._wake.wait()
        if self._failures:
            raise KernelStartError(self._last_error)

    def health(self) -> dict[str, Any]:
        """Return what the pool has and does, for the health routes."""
        return {
            "ready": len(self._ready),
            "warm": sum(kernel.warmth >= len(self._modules) for kernel in self._ready),
            "starting": self._starting,
            "waiting": len(self._waiters),
            "min": self._least,
            "max": self._most,
            "failed_starts_in_a_row": self._failures,
            "last_error": self._last_error,
        }

    async def close(self) -> None:
        """Stop the background work, fail those who wait, end all waiting kernels."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(ShuttingDown("the server is shutting down"))
        self._background.cancel()
        await self._background.wait()
        ready, self._ready = self._ready, []
        await asyncio.gather(*(self._close_kernel(kernel) for kernel in ready))

    # ---- handing out

    def _take(self) -> Kernel | None:
        """Take the warmest kernel; one that imports at the moment only when there is no other."""
        living = [kernel for kernel in self._ready if kernel.alive]
        if not living:
            return None
        best = max(living, key=lambda kernel: (kernel is not self._importing, kernel.warmth))
        self._ready.remove(best)
        return best

    async def _wait_for_kernel(self) -> Kernel:
        pause = self._not_before - time.monotonic()
        if self._failures >= FAILURES_TO_TELL and pause > PATIENCE:
            if not self._starting:
                self._start()  # it waits for the pause to end; with it the pool gets well again
            raise KernelStartError(f"kernels fail to start, the next try is in {pause:.0f} s: {self._last_error}")
        waiter: asyncio.Future[Kernel] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._refill()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._offer(waiter.result())
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    def _offer(self, kernel: Kernel) -> None:
        """Give a kernel to whoever has waited longest, else keep it."""
        if self._closed:
            self._background.spawn(self._close_kernel(kernel))
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(kernel)
                return
        self._ready.append(kernel)
        kernel.ended.add_done_callback(lambda _ended: self._discard(kernel))
        self._wake.set()

    def _discard(self, kernel: Kernel) -> None:
        """Drop a waiting kernel that has ended."""
        if kernel in self._ready:
            self._ready.remove(kernel)
            self._background.spawn(self._close_kernel(kernel))
            self._refill()

    # ---- starting

    def _refill(self) -> None:
        while not self._closed and self._starting < self._wanted():
            self._start()

    def _start(self) -> None:
        self._starting += 1
        self._background.spawn(self._start_one())

    def _wanted(self) -> int:
        """Return how many kernels should be starting now."""
        if self._waiters:
            missing = len(self._waiters) + max(0, self._least - len(self._ready))
            return min(missing, self._starter.concurrency, max(1, self._most - len(self._ready)))
        return 1 if len(self._ready) < self._least else 0

    async def _start_one(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
            kernel = await self._starter.start(self.language)
        except GateError as error:
            self._failed(error)
        else:
            self._failures, self._last_error, self._not_before = 0, "", 0.0
            self._offer(kernel)
        finally:
            self._starting -= 1
            self._refill()

    def _failed(self, error: GateError) -> None:
        self._failures += 1
        self._wake.set()
        self._last_error = describe(error)
        self._not_before = time.monotonic() + min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** (self._failures - 1))
        self.log.error("a %s kernel could not be started: %s", self.language.display_name, error)
        if self._failures >= FAILURES_TO_TELL:
            waiters, self._waiters = self._waiters, deque()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(error)

    # ---- while kernels wait

    async def _import_ahead(self) -> None:
        """Import libraries in waiting kernels, one at a time, while nobody waits and nothing starts."""
        while self._modules:
            kernel = self._next_to_import()
            if kernel is None or self._waiters or self._starting:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IMPORT_LOOK_SECONDS):
                        await self._wake.wait()
                continue
            self._importing = kernel
            try:
                await self._import_next(kernel)
            finally:
                self._importing = None

    def _next_to_import(self) -> Kernel | None:
        unfinished = [kernel for kernel in self._ready if kernel.warmth < len(self._modules)]
        return max(unfinished, key=lambda kernel: kernel.warmth, default=None)

    async def _import_next(self, kernel: Kernel) -> None:
        module = self._modules[kernel.warmth]
        code = f"__import__({module!r})"
        try:
            result = await execute(kernel, Execution(code, timeout=IMPORT_SECONDS, silent=True))
        except GateError as error:
            self.log.warning("a %s kernel could not import %s: %s", self.language.display_name, module, error)
            return
        finally:
            kernel.warmth += 1  # whatever came of it: it is not tried again
        if result.status is not Status.OK:
            self.log.warning("a %s kernel could not import %s", self.language.display_name, module)

    async def _check_health(self) -> None:
        """Replace waiting kernels that do not answer."""
        while True:
            await asyncio.sleep(self._settings.health_check_interval)
            for kernel in list(self._ready):
                if kernel is self._importing:
                    continue  # its time limit is that of the import
                if not await self._answers(kernel) and kernel in self._ready:
                    self.log.warning("kernel %s did not answer a health check and is replaced", kernel.id)
                    self._discard(kernel)

    async def _answers(self, kernel: Kernel) -> bool:
        try:
            await kernel.ask("shell", "kernel_info_request", {}, self._settings.health_check_timeout)
        except (TimeoutError, GateError):
            return False
        return True

    async def _close_kernel(self, kernel: Kernel) -> None:
        try:
            await kernel.close()
        except GateError as error:
            self.log.warning("kernel %s could not be removed: %s", kernel.id, error)
