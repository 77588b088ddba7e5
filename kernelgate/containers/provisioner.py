"""The kernel provisioner: the one place where a kernel becomes a container."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from concurrent.futures import Future
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Bool, Int, Unicode

from kernelgate.containers.engine import GONE, Engine, Exit, complete
from kernelgate.containers.lockdown import (
    CONNECTION_FILE,
    LABEL_KERNEL,
    LABEL_SERVER,
    SOCKET_FOLDER,
    Limits,
    Sandbox,
    container_body,
    running_limits,
)
from kernelgate.containers.runtime import KernelFolder, RuntimeFolder
from kernelgate.errors import KernelStartError

CHANNELS = 5
SOCKET_POLL_SECONDS = 0.01
UIDS = 60_000


def unsafe_network(isolated: object) -> str | None:
    """Say what is unsafe about containers that may have a network."""
    return None if isolated else "off, so user code gets the network of DOCKER_NETWORK_MODE"


def unsafe_root(isolated: object) -> str | None:
    """Say what is unsafe about containers whose root file system may be written to."""
    return None if isolated else "off, so DOCKER_READ_ONLY decides whether the root file system is read-only"


class DockerProvisioner(KernelProvisionerBase):
    """Runs a kernel in a locked-down Docker container and reaches it over ipc.

    `launch_kernel` returns when the kernel's sockets are bound and can no longer be replaced. A server that
    knows when the kernel is ready launches with ``hold_limits=True`` and calls `apply_limits` then, so that the
    CPU quota does not slow the boot.
    """

    image = Unicode("", help="Docker image of the kernel.").tag(config=True)
    network_mode = Unicode(
        "none", help="Network of the containers. Counts only when ENABLE_NETWORK_ISOLATION is off."
    ).tag(config=True, env="DOCKER_NETWORK_MODE", group="Docker")
    read_only = Bool(
        True,
        help="Whether the root file system of the containers is read-only. "
        "Counts only when ENABLE_FILESYSTEM_ISOLATION is off.",
    ).tag(config=True, env="DOCKER_READ_ONLY", group="Docker")
    runtime = Unicode(
        "", help="OCI runtime of the containers, such as runsc or kata. Empty: the engine's default."
    ).tag(config=True, env="DOCKER_RUNTIME", group="Docker")
    network_isolation = Bool(
        True, help="Keep every container without a network, whatever DOCKER_NETWORK_MODE says."
    ).tag(config=True, env="ENABLE_NETWORK_ISOLATION", group="Security", insecure=unsafe_network)
    filesystem_isolation = Bool(
        True, help="Keep the root file system of every container read-only, whatever DOCKER_READ_ONLY says."
    ).tag(config=True, env="ENABLE_FILESYSTEM_ISOLATION", group="Security", insecure=unsafe_root)
    max_memory_mb = Int(512, min=64, help="MB of memory that a container may use; there is no swap.").tag(
        config=True, env="MAX_MEMORY_MB", group="Execution limits"
    )
    max_cpu_quota = Int(
        50_000, min=1000, help="CPU time that a container may use: 100000 is one CPU, 50000 is half of one."
    ).tag(config=True, env="MAX_CPU_QUOTA", group="Execution limits")
    max_processes = Int(32, min=16, help="Processes and threads that may exist in a container.").tag(
        config=True, env="MAX_PROCESSES", group="Execution limits"
    )
    max_open_files = Int(1024, min=64, help="Files that a process in a container may have open.").tag(
        config=True, env="MAX_OPEN_FILES", group="Execution limits"
    )
    work_folder_mb = Int(192, min=1, help="MB that the work folder /mnt/data holds (part of the memory).").tag(
        config=True, env="WORK_FOLDER_MB", group="Execution limits"
    )
    uid_base = Int(
        200_000,
        min=1000,
        help="Each container runs as a user id of its own, one of the 60000 that begin here.",
    ).tag(config=True)
    start_timeout = Int(60, min=1, help="Seconds until a container must have bound its sockets.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.engine = Engine.instance(parent=self.parent)
        self.runtime_folder = RuntimeFolder.instance(parent=self.parent)
        self.container: str | None = None
        self.folder: KernelFolder | None = None
        self._ended: Future[Exit] | None = None
        self._hold_limits = False

    # ---- the contract of KernelProvisionerBase

    @property
    def has_process(self) -> bool:
        return self.container is not None

    async def poll(self) -> int | None:
        """Return None while the kernel runs, else its exit code."""
        end = self.ended
        return None if end is None else end.code

    async def wait(self) -> int | None:
        """Wait until the kernel has ended; returns its exit code."""
        if self._ended is None:
            return 0
        end = await asyncio.shield(asyncio.wrap_future(self._ended))
        self.container = None
        return end.code

    async def send_signal(self, signum: int) -> None:
        if self.container is not None and signum != 0:
            await self.engine.kill(self.container, signal.Signals(signum).name)

    async def kill(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGTERM)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Choose the channels' addresses; write the connection file, once for us and once for the kernel."""
        self._hold_limits = kwargs.pop("hold_limits", False)
        kwargs.pop("extra_arguments", None)
        self.runtime_folder.open()
        self.folder = self.runtime_folder.kernel_folder(self.kernel_id)
        self.folder.make()
        manager: Any = self.parent
        manager.transport, manager.ip, manager.cache_ports = "ipc", self.folder.address, False
        manager.write_connection_file()
        self.connection_info = manager.get_connection_info()
        self._write_kernels_connection_file(self.folder)
        command = [part.replace("{connection_file}", CONNECTION_FILE) for part in self.kernel_spec.argv]
        return await super().pre_launch(cmd=command, **kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the container; returns when its sockets can be connected to. Raises `KernelStartError`."""
        assert self.folder is not None, "pre_launch comes first"
        try:
            await self._start_container(cmd, self.folder)
        except BaseException:
            await asyncio.shield(self.cleanup())
            raise
        return self.connection_info

    async def _start_container(self, cmd: list[str], folder: KernelFolder) -> None:
        body = container_body(self._sandbox(cmd, folder))
        self.container = await self.engine.launch(body, name=f"kernelgate-{self.kernel_id}")
        self._ended = self.engine.watch(self.container)
        await self._wait_for_sockets(folder)
        if not self._hold_limits:
            await self.apply_limits()

    async def cleanup(self, restart: bool = False) -> None:
        """Remove the container and its folder."""
        container, self.container = self.container or f"kernelgate-{self.kernel_id}", None
        await self.engine.remove(container)
        if self._ended is not None:
            complete(self._ended, GONE)
        if self.folder is not None:
            self.folder.remove()

    async def get_provisioner_info(self) -> dict[str, Any]:
        info = await super().get_provisioner_info()
        return {**info, "container": self.container, "folder": str(self.folder.path) if self.folder else None}

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        await super().load_provisioner_info(provisioner_info)
        self.container = provisioner_info["container"]
        if self.container is not None:
            self._ended = self.engine.watch(self.container)

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        return min(recommended, 2.0)

    # ---- beyond it

    @property
    def ended(self) -> Exit | None:
        """How the container ended; None while it runs, or before there is one."""
        return self._ended.result() if self._ended is not None and self._ended.done() else None

    @property
    def ended_future(self) -> Future[Exit]:
        """Done when the container has ended."""
        assert self._ended is not None, "no container was launched"
        return self._ended

    @property
    def limits(self) -> Limits:
        return Limits(
            memory_mb=self.max_memory_mb,
            cpu_quota=self.max_cpu_quota,
            processes=self.max_processes,
            open_files=self.max_open_files,
            work_folder_mb=self.work_folder_mb,
        )

    async def apply_limits(self) -> None:
        """Put the CPU quota on. Called once the kernel is ready and before user code runs."""
        if self.container is not None:
            await self.engine.update(self.container, running_limits(self.limits))

    def overruled(self) -> list[str]:
        """Return a sentence for each setting that another one keeps without effect."""
        sentences = []
        if self.network_isolation and self.network_mode != "none":
            sentences.append("DOCKER_NETWORK_MODE has no effect while ENABLE_NETWORK_ISOLATION is on")
        if self.filesystem_isolation and not self.read_only:
            sentences.append("DOCKER_READ_ONLY has no effect while ENABLE_FILESYSTEM_ISOLATION is on")
        return sentences

    def _sandbox(self, command: list[str], folder: KernelFolder) -> Sandbox:
        return Sandbox(
            image=self.image,
            command=command,
            uid=self._choose_uid(),
            sockets=str(folder.sockets),
            connection_file=str(folder.connection_file),
            labels={LABEL_SERVER: self.runtime_folder.lock_path, LABEL_KERNEL: self.kernel_id},
            limits=self.limits,
            network_mode="none" if self.network_isolation else self.network_mode,
            read_only=True if self.filesystem_isolation else self.read_only,
            runtime=self.runtime,
        )

    def _choose_uid(self) -> int:
        """Pick a user id that no other container has, so that no per-user limit is shared; and not ours."""
        uid = self.uid_base + random.randrange(UIDS)
        return uid if uid != os.getuid() else uid + 1

    def _write_kernels_connection_file(self, folder: KernelFolder) -> None:
        info: dict[str, Any] = {**self.connection_info, "ip": f"{SOCKET_FOLDER}/k"}
        info["key"] = info["key"].decode()
        folder.connection_file.write_text(json.dumps(info))
        folder.connection_file.chmod(0o644)

    async def _wait_for_sockets(self, folder: KernelFolder) -> None:
        deadline = time.monotonic() + self.start_timeout
        while not folder.bound(CHANNELS):
            if self.ended is not None:
                raise KernelStartError(
                    f"the kernel's container ended with exit code {self.ended.code} as it started"
                )
            if time.monotonic() > deadline:
                raise KernelStartError(f"the kernel bound no sockets within {self.start_timeout} s")
            await asyncio.sleep(SOCKET_POLL_SECONDS)
        try:
            folder.seal()
        except OSError as error:
            raise KernelStartError(str(error)) from error


async def remove_leftovers(engine: Engine, runtime_folder: RuntimeFolder) -> int:
    """Remove the containers and folders of servers that are dead; returns how many containers there were.

    A server is dead when the lock that its containers' label names is there and held by nobody. What belongs to
    a server that cannot be seen from here is left alone.
    """
    removed = 0
    for container in await engine.containers(LABEL_SERVER):
        if runtime_folder.owner_is_dead(container["Labels"][LABEL_SERVER]):
            await engine.remove(container["Id"])
            removed += 1
    runtime_folder.sweep()
    return removed
