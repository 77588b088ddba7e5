"""Starting kernels: from a language to a kernel that answers."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping
from typing import Any

from traitlets import Int
from traitlets.config import LoggingConfigurable

from kernelgate.containers.runtime import RuntimeFolder
from kernelgate.errors import EngineError, GateError, KernelDied, KernelStartError
from kernelgate.kernel.channels import new_context
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.manager import KernelManager, kernel_spec
from kernelgate.languages import Language


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

    @property
    def concurrency(self) -> int:
        """How many kernels start at once."""
        return self.max_concurrent_starts or os.cpu_count() or 1

    async def start(self, language: Language) -> Kernel:
        """Return a new kernel that answers and has its limits on. Raises `KernelStartError`, `EngineError`.

        Leaves nothing behind when it fails or is cancelled.
        """
        async with self._turn:
            manager = self._manager(language)
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

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _manager(self, language: Language) -> KernelManager:
        manager = KernelManager(
            kernel_spec(language, self._images[language.id]), parent=self, kernel_name=language.kernel_name
        )
        manager.kernel_id = secrets.token_hex(8)
        folder = RuntimeFolder.instance(parent=self.parent).kernel_folder(manager.kernel_id)
        manager.connection_file = str(folder.path / "gateway.json")
        return manager

    async def _boot(self, manager: KernelManager, language: Language) -> Kernel:
        await manager.start_kernel(hold_limits=True)
        kernel = Kernel(manager, language, self._context, parent=self)
        try:
            await kernel.wait_ready(self.warmup_timeout)
            await kernel.provisioner.apply_limits()
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
