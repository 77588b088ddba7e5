"""Starting kernels: from a language to a kernel that answers."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping
from typing import Any

from traitlets import Int
from traitlets.config import LoggingConfigurable

from kernelgate.containers.engine import Engine
from kernelgate.containers.provisioner import CHANNELS, Survivor, remove_survivor
from kernelgate.containers.runtime import KernelFolder, RuntimeFolder
from kernelgate.errors import EngineError, GateError, KernelDied, KernelStartError
from kernelgate.kernel.channels import new_context
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.manager import KernelManager, kernel_spec
from kernelgate.languages import LANGUAGES, Language

ADOPT_SECONDS = 5
"""Seconds at most until a kernel that is taken over must answer: it has been ready before."""


class KernelStarter(LoggingConfigurable):
    """Starts kernels in new containers, no more at once than the machine bears."""

    max_concurrent_starts = Int(
        0, min=0, help="Containers that may start at once. 0: as many as the machine has CPUs."
    ).tag(config=True)
    warmup_timeout = Int(15, min=1, help="Seconds until a new kernel must answer.").tag(
        config=True, env="REPL_WARMUP_TIMEOUT_SECONDS", group="REPL"
    )

    def __init__(self, images: Mapping[str, str], **kwargs: Any) -> None:
        """``images``: the name of the Docker image of each language id."""
        super().__init__(**kwargs)
        self._images = images
        self._context = new_context()
        self._turn = asyncio.Semaphore(self.concurrency)
        self.info: dict[str, dict[str, Any]] = {}
        """By language id: what a kernel says of itself (``kernel_info_reply``) before it has run any code."""

    @property
    def concurrency(self) -> int:
        """How many kernels start at once."""
        return self.max_concurrent_starts or os.cpu_count() or 1

    async def start(self, language: Language) -> Kernel:
        """Return a new kernel that answers and has its limits on. Raises `KernelStartError`, `EngineError`.

        Leaves nothing behind when it fails or is cancelled.
        """
        async with self._turn:
            kernel_id = secrets.token_hex(8)
            manager = self._manager(language, kernel_id, self._runtime_folder.kernel_folder(kernel_id))
            try:
                return await self._boot(manager, language)
            except (TimeoutError, KernelDied, OSError) as error:
                await self._clean_up(manager)
                raise KernelStartError(
                    f"the {language.display_name} kernel did not answer within {self.warmup_timeout} s"
                    if isinstance(error, TimeoutError)
                    else f"the {language.display_name} kernel could not be started: {error}"
                ) from error
            except BaseException:
                await asyncio.shield(self._clean_up(manager))
                raise

    def adoptable(self) -> dict[str, Language]:
        """Return, by the hash of the settings that it must run under, the language of a kernel to be adopted.

        It is what `find_survivors` takes as ``settings``: kernels that were started under other settings, or in
        another image, are not to be taken over.
        """
        languages = [language for language in LANGUAGES if language.id in self._images]
        return {self._settings_hash(language): language for language in languages}

    async def adopt(self, language: Language, survivor: Survivor) -> Kernel:
        """Take over a kernel of a dead server; it must answer soon. Raises `KernelStartError`.

        When that fails or is cancelled, the kernel's container and folder are removed.
        """
        manager = self._manager(language, survivor.kernel_id, survivor.folder)
        try:
            return await self._take_over(manager, language, survivor)
        except (TimeoutError, GateError, OSError, ValueError) as error:
            await self.discard(survivor)
            why = f"it did not answer within {self._adopt_timeout} s" if isinstance(error, TimeoutError) else error
            raise KernelStartError(f"kernel {survivor.kernel_id} could not be taken over: {why}") from error
        except BaseException:
            await asyncio.shield(self.discard(survivor))
            raise

    async def discard(self, survivor: Survivor) -> None:
        """Remove a survivor that is not to be adopted. A failure of the engine is logged: the stop tries again."""
        try:
            await remove_survivor(Engine.instance(parent=self.parent), self._runtime_folder, survivor)
        except EngineError as error:
            self.log.warning("kernel %s of a dead server could not be removed: %s", survivor.kernel_id, error)

    def close(self) -> None:
        self._context.destroy(linger=0)

    @property
    def _runtime_folder(self) -> RuntimeFolder:
        return RuntimeFolder.instance(parent=self.parent)

    @property
    def _adopt_timeout(self) -> int:
        return min(self.warmup_timeout, ADOPT_SECONDS)

    def _manager(self, language: Language, kernel_id: str, folder: KernelFolder) -> KernelManager:
        manager = KernelManager(
            kernel_spec(language, self._images[language.id]), parent=self, kernel_name=language.kernel_name
        )
        manager.kernel_id = kernel_id
        manager.connection_file = str(folder.gateway_file)
        return manager

    def _settings_hash(self, language: Language) -> str:
        manager = self._manager(language, "none", self._runtime_folder.kernel_folder("none"))
        return manager.new_provisioner().settings_hash

    async def _boot(self, manager: KernelManager, language: Language) -> Kernel:
        await manager.start_kernel(hold_limits=True)
        kernel = await self._connect(manager, language, self.warmup_timeout)
        self.info[language.id] = kernel.info
        try:
            await kernel.provisioner.apply_limits()
        except BaseException:
            await asyncio.shield(kernel.close())
            raise
        return kernel

    async def _take_over(self, manager: KernelManager, language: Language, survivor: Survivor) -> Kernel:
        if self._settings_hash(language) != survivor.settings:
            raise ValueError("it was started under other settings")
        survivor.folder.check_sealed(CHANNELS)
        connection = survivor.folder.read_connection()
        await manager.take_over(connection, survivor.container, str(survivor.folder.path))
        return await self._connect(manager, language, self._adopt_timeout)

    async def _connect(self, manager: KernelManager, language: Language, timeout: float) -> Kernel:
        """Return the kernel once it answers; else it is closed and `TimeoutError` or `KernelDied` raised."""
        kernel = Kernel(manager, language, self._context, parent=self)
        try:
            await kernel.wait_ready(timeout)
        except BaseException:
            await asyncio.shield(kernel.close())
            raise
        return kernel

    async def _clean_up(self, manager: KernelManager) -> None:
        if manager.provisioner is None:
            return
        try:
            await manager.provisioner.cleanup()
        except EngineError as error:
            self.log.warning("a container that did not start could not be removed: %s", error)


def describe(error: BaseException) -> str:
    """Return an error as one line for health and logs."""
    return f"{error.code}: {error}" if isinstance(error, GateError) else f"{type(error).__name__}: {error}"
