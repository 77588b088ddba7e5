"""The kernel provisioner: the one place where a kernel becomes a container."""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Bool, Int, Unicode
from traitlets.config import Application, Config

from kernelgate import settings
from kernelgate.containers.engine import FAILURES, GONE, Engine, Exit, complete, remove
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
from kernelgate.containers.runtime import KernelFolder, RuntimeFolder, is_dead, is_random
from kernelgate.errors import ConfigError, EngineError, KernelStartError

LABEL_SETTINGS = "kernelgate.settings"
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

    In a program that is not kernelgate's own (JupyterLab, nbclient …) it stands alone: it takes its settings from
    that program's configuration, the environment and ``.env``, and sees to what dead programs left and to what is
    left when this one ends.
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
    env_file = Unicode(
        ".env",
        help="File with environment variables, read when it is there, in programs that are not kernelgate's own. "
        "Empty: none.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        """Raises `ConfigError` when it stands alone and the environment or ``.env`` holds mistakes."""
        self._alone = not in_own_application()
        if self._alone:
            kwargs["config"] = surrounding_config(kwargs.get("config") or config_of(kwargs.get("parent")))
        super().__init__(**kwargs)
        self.engine = Engine.instance(config=self.config)
        self.runtime_folder = RuntimeFolder.instance(config=self.config)
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
        end = self.ended
        if end is None:
            end = await asyncio.shield(asyncio.wrap_future(self._ended))
        self.container = None
        return end.code

    async def send_signal(self, signum: int) -> None:
        if self.container is None or signum == 0:
            return
        try:
            await self.engine.kill(self.container, signal.Signals(signum).name)
        except RuntimeError:  # the program is ending, as in `cleanup`
            remove(self.engine.api, self.container)

    async def kill(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGTERM)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Choose the channels' addresses; write the connection file, once for us and once for the kernel.

        Of the caller's environment (``env``, else that of a Jupyter program) the kernel gets the variables
        ``KERNEL_*``; besides, those of the kernelspec. A kernel that is started again has the same addresses and
        key: clients keep their sockets.
        """
        self._hold_limits = kwargs.pop("hold_limits", False)
        kwargs.pop("extra_arguments", None)
        if self._alone:
            await self._look_after_the_dead()
        self.runtime_folder.open()
        self.folder = self.runtime_folder.kernel_folder(self.kernel_id)
        self.folder.make()
        try:
            self._write_connection_files(self.folder)
        except BaseException:
            self.runtime_folder.remove(self.folder)
            raise
        given = kwargs.get("env", os.environ if self._alone else {})
        kwargs = await super().pre_launch(cmd=self._command(), **kwargs)
        kwargs["env"] = kernels_environment(given, kwargs["env"], self.kernel_spec.env)
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the container; returns when its sockets can be connected to. Raises `KernelStartError`."""
        assert self.folder is not None, "pre_launch comes first"
        try:
            await self._start_container(cmd, self.folder, kwargs.get("env", {}))
        except BaseException:
            await asyncio.shield(self.cleanup())
            raise
        return self.connection_info

    async def _start_container(self, cmd: list[str], folder: KernelFolder, env: Mapping[str, str]) -> None:
        body = container_body(self._sandbox(cmd, folder))
        body["Env"] += [f"{name}={value}" for name, value in env.items()]
        try:
            self.container = await self.engine.launch(body, name=self._container_name)
        except EngineError as error:
            await self._explain(error)
            raise
        self._ended = await self.engine.watch(self.container)
        await self._wait_for_sockets(folder)
        if not self._hold_limits:
            await self.apply_limits()

    async def cleanup(self, restart: bool = False) -> None:
        """Remove the container and its folder."""
        container, self.container = self.container or self._container_name, None
        try:
            await self.engine.remove(container)
        except RuntimeError:  # the program is ending (``atexit``): the engine's threads take no calls any more
            remove(self.engine.api, container)
        if self._ended is not None:
            complete(self._ended, GONE)
        if self.folder is not None:
            self.runtime_folder.remove(self.folder)

    async def get_provisioner_info(self) -> dict[str, Any]:
        """Return what another provisioner needs to go on with the kernel: its container and its folder."""
        info = await super().get_provisioner_info()
        return {**info, "container": self.container, "folder": str(self.folder.path) if self.folder else None}

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Go on with a kernel that another provisioner has launched. Raises `EngineError`."""
        await super().load_provisioner_info(provisioner_info)
        self.container, folder = provisioner_info["container"], provisioner_info["folder"]
        self.folder = KernelFolder(Path(folder)) if folder is not None else None
        if self.container is not None:
            self._ended = await self.engine.watch(self.container)

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
    def settings_hash(self) -> str:
        """What `LABEL_SETTINGS` says of a container that is launched with these settings."""
        return settings_hash(self._template(self._command()))

    def write_note(self, data: Mapping[str, Any]) -> None:
        """Write a note about the kernel for a server that comes after this one: `KernelFolder.write_note`."""
        assert self.folder is not None, "no container was launched"
        self.folder.write_note(data)

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

    @property
    def _container_name(self) -> str:
        """A name that no other program gives its containers, even if its kernel has the same id."""
        if is_random(self.kernel_id):
            return f"kernelgate-{self.kernel_id}"
        folder = self.runtime_folder.kernel_folder(self.kernel_id).path
        return f"kernelgate-{folder.parent.name}-{folder.name}"

    async def _look_after_the_dead(self) -> None:
        """Remove what killed programs have left. The first call also prepares for the end of this one."""
        first = not self.runtime_folder.is_open
        self.runtime_folder.open()
        if first:
            atexit.register(remove_at_exit, self.engine, self.runtime_folder, os.getpid())
            for sentence in self.overruled():
                self.log.warning(sentence)
        if first or self.runtime_folder.dead_instances():
            try:
                await remove_leftovers(self.engine, self.runtime_folder, noted=False)
            except EngineError as error:
                self.log.warning("what a dead program left could not be removed: %s", error)

    async def _explain(self, error: EngineError) -> None:
        """Raise an error that says what to do if the image is missing."""
        if not await self.engine.has_image(self.image):
            raise EngineError(
                f"No such image: {self.image}. `kernelgate kernelspecs install --build` builds the image of this "
                "version and installs the kernelspec that names it."
            ) from error

    def _command(self) -> list[str]:
        return [part.replace("{connection_file}", CONNECTION_FILE) for part in self.kernel_spec.argv]

    def _sandbox(self, command: list[str], folder: KernelFolder) -> Sandbox:
        template = self._template(command)
        return replace(
            template,
            uid=self._choose_uid(),
            sockets=str(folder.sockets),
            connection_file=str(folder.connection_file),
            labels={
                LABEL_SERVER: self.runtime_folder.lock_path,
                LABEL_KERNEL: self.kernel_id,
                LABEL_SETTINGS: settings_hash(template),
            },
        )

    def _template(self, command: list[str]) -> Sandbox:
        """Return a container as the settings make it, without what is one container's own."""
        return Sandbox(
            image=self.image,
            command=command,
            uid=0,
            sockets="",
            connection_file="",
            limits=self.limits,
            network_mode="none" if self.network_isolation else self.network_mode,
            read_only=True if self.filesystem_isolation else self.read_only,
            runtime=self.runtime,
        )

    def _choose_uid(self) -> int:
        """Pick a user id that no other container has, so that no per-user limit is shared; and not ours."""
        uid = self.uid_base + random.randrange(UIDS)
        return uid if uid != os.getuid() else uid + 1

    def _write_connection_files(self, folder: KernelFolder) -> None:
        manager: Any = self.parent
        manager.transport, manager.ip, manager.cache_ports = "ipc", folder.address, False
        manager.write_connection_file()
        self.connection_info = manager.get_connection_info()
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


def settings_hash(template: Sandbox) -> str:
    """Return a short hash of what image and settings make of a container: its body and its running limits."""
    shape = (container_body(template), running_limits(template.limits))
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


# ---- in a program that is not kernelgate's own

OWN_CLASSES = [DockerProvisioner, Engine, RuntimeFolder]
"""The classes that take settings in a program that only has the provisioner."""


def in_own_application() -> bool:
    """Tell whether this process runs an application that takes care of the provisioner: one that lists its class.

    Such an application has read the environment, and removes what it and its predecessors leave.
    """
    return Application.initialized() and DockerProvisioner in Application.instance().classes


def config_of(parent: Any) -> Config:
    return Config() if parent is None else parent.config


def surrounding_config(config: Config) -> Config:
    """Return the configuration of a Jupyter program with what the environment and ``.env`` say of our settings.

    Command line > environment > .env > configuration files, as in kernelgate's own commands. Raises `ConfigError`.
    """
    command_line = Application.instance().cli_config if Application.initialized() else Config()
    env_file = str(config.get("DockerProvisioner", {}).get("env_file", DockerProvisioner.env_file.default_value))
    entries = settings.read_env_file(Path(env_file)) if env_file else settings.EnvFile()
    environment, problems = settings.environment_config(OWN_CLASSES, os.environ, entries)
    if problems:
        raise ConfigError(problems)
    result = settings.override(OWN_CLASSES, config, environment)
    result.merge(command_line)
    return result


def kernels_environment(
    given: Mapping[str, str], substituted: Mapping[str, str], spec: Mapping[str, str]
) -> dict[str, str]:
    """Return what a kernel gets of its launcher's variables: those of the kernelspec, and ``KERNEL_*``.

    ``given`` is what the caller has passed, ``substituted`` the same with the values of the kernelspec.
    """
    names = {*spec, *(name for name in given if name.startswith("KERNEL_"))}
    return {name: substituted[name] for name in sorted(names) if name in substituted}


def remove_at_exit(engine: Engine, runtime_folder: RuntimeFolder, pid: int) -> None:
    """Remove what kernels that nobody shut down have left when the program ends. Forked processes do nothing.

    It speaks to the engine on its own thread: those of the engine have ended by then. What fails is left to the
    next program: the lock is no longer held.
    """
    if os.getpid() != pid or not runtime_folder.is_open:
        return
    try:
        for lock_path in runtime_folder.lock_paths if runtime_folder.kernel_folders() else []:
            labels = {"label": f"{LABEL_SERVER}={lock_path}"}
            for container in engine.api.containers(all=True, filters=labels):
                remove(engine.api, container["Id"])
    except (*FAILURES, EngineError):
        return
    runtime_folder.close()


# ---- what dead servers leave


@dataclass(frozen=True)
class Survivor:
    """A kernel that runs on although its server is dead."""

    kernel_id: str
    container: str
    folder: KernelFolder
    settings: str
    """The hash of the settings it was launched with."""
    note: dict[str, Any]
    """What its server wrote down about it."""


async def find_survivors(
    engine: Engine,
    runtime_folder: RuntimeFolder,
    settings: Collection[str],
    wanted: Callable[[dict[str, Any]], bool] = bool,
) -> list[Survivor]:
    """Inherit the dead servers in the runtime folder; returns their kernels that may be taken over.

    Those are the kernels that run, in sealed socket folders, under one of the hashes ``settings``, with a note
    that is ``wanted``. Whoever calls must adopt or discard each (`KernelStarter`). All other containers and
    folders of dead servers are removed. When `EngineError` is raised, or whatever ``wanted`` raises, no survivor
    was touched and nothing is inherited: another try finds the same.
    """

    def fits(survivor: Survivor) -> bool:
        return survivor.settings in settings and wanted(survivor.note)

    survivors, _removed = await _sort_out(engine, runtime_folder, fits)
    return survivors


async def remove_leftovers(engine: Engine, runtime_folder: RuntimeFolder, noted: bool = True) -> int:
    """Remove the containers and folders of servers that are dead; returns how many containers there were.

    A server is dead when the lock that its containers' label names is there and held by nobody, or when its folder
    is gone. What belongs to a server that cannot be seen from here is left alone, and so are kernels with notes in
    other runtime folders; with ``noted=False`` also servers in this one whose kernels have notes. Raises
    `EngineError`; what was not removed then is found by the next try.
    """
    _survivors, removed = await _sort_out(engine, runtime_folder, lambda _survivor: False, noted)
    return removed


async def remove_survivor(engine: Engine, runtime_folder: RuntimeFolder, survivor: Survivor) -> None:
    """Remove a survivor's container and then its folder. Raises `EngineError`."""
    await engine.remove(survivor.container)
    runtime_folder.remove(survivor.folder)


async def remove_own(engine: Engine, runtime_folder: RuntimeFolder) -> None:
    """Remove all containers of this process, the inherited ones among them. Raises `EngineError`."""
    locks = set(runtime_folder.lock_paths)
    found = await engine.containers(LABEL_SERVER)
    await _remove(engine, (each["Id"] for each in found if each["Labels"][LABEL_SERVER] in locks))


async def _sort_out(
    engine: Engine, runtime_folder: RuntimeFolder, fits: Callable[[Survivor], bool], noted: bool = True
) -> tuple[list[Survivor], int]:
    inherited = runtime_folder.inherit(noted)  # before the containers are listed: from here on they are all there
    survivors: list[Survivor] = []
    leftovers: list[str] = []
    try:
        for container in await engine.containers(LABEL_SERVER):
            lock_path = runtime_folder.canonical(container["Labels"][LABEL_SERVER])
            folder = runtime_folder.kernel_folder(container["Labels"].get(LABEL_KERNEL, ""), lock_path)
            survivor = _survivor(container, folder) if lock_path in inherited else None
            if survivor is not None and fits(survivor):
                survivors.append(survivor)
            elif lock_path in inherited or _is_left(runtime_folder, lock_path, folder):
                leftovers.append(container["Id"])
        await _remove(engine, leftovers)
    except BaseException:
        runtime_folder.give_back(inherited)
        raise
    kept = {survivor.folder.path for survivor in survivors}
    for lock_path in inherited:
        runtime_folder.keep_only(lock_path, kept)
    return survivors, len(leftovers)


def _survivor(container: Mapping[str, Any], folder: KernelFolder) -> Survivor | None:
    """Return an inherited kernel if it can be connected to and has a note."""
    labels, note = container["Labels"], folder.read_note()
    kernel_id = labels.get(LABEL_KERNEL, "")
    if container["State"] != "running" or not kernel_id.isalnum() or note is None:
        return None
    try:
        folder.check_sealed(CHANNELS)
        folder.read_connection()
    except (OSError, ValueError):
        return None
    return Survivor(kernel_id, container["Id"], folder, labels.get(LABEL_SETTINGS, ""), note)


def _is_left(runtime_folder: RuntimeFolder, lock_path: str, folder: KernelFolder) -> bool:
    """Tell whether the kernel of a server that was not inherited is nobody's.

    In our runtime folder that is when the server's folder is gone: one that died just now is for the next try.
    A note in another runtime folder is for the servers there.
    """
    if runtime_folder.is_below(lock_path):
        return not os.path.exists(lock_path)
    return is_dead(lock_path) and folder.read_note() is None


async def _remove(engine: Engine, containers: Iterable[str]) -> None:
    """Remove containers: all that can be, then raise `EngineError` if one could not."""
    results = await asyncio.gather(*map(engine.remove, containers), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
