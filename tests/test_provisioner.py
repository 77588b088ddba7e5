"""The provisioner: any Jupyter program starts a locked-down kernel with it, and nothing is left when it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager
from traitlets.config import Config

from kernelgate.containers.engine import GONE, Engine
from kernelgate.containers.provisioner import DockerProvisioner, remove_leftovers
from kernelgate.containers.runtime import RuntimeFolder
from kernelgate.errors import EngineError, KernelStartError
from kernelgate.images.builder import ImageBuilder
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.manager import kernel_spec
from kernelgate.kernel.starter import KernelStarter
from kernelgate.languages import PYTHON

SOON = 20.0
SPECS = ("kernelgate-python", "crashing", "silent", "no-image")


class Gate:
    """A runtime folder, an engine and kernelspecs, as a Jupyter program has them."""

    def __init__(self, folder: Path, image: str) -> None:
        self.image = image
        self.runtime = RuntimeFolder.instance()
        self.engine = Engine.instance()
        self.specs = KernelSpecManager(kernel_dirs=[str(folder)])
        for name in SPECS:
            spec = kernel_spec(PYTHON, "kernelgate/no-such-image:1" if name == "no-image" else image)
            if name == "crashing":
                spec.argv = ["/bin/sh", "-c", "exit 9"]
            if name == "silent":
                spec.argv = ["sleep", "60"]
            (folder / name).mkdir()
            (folder / name / "kernel.json").write_text(json.dumps(spec.to_dict()))

    def manager(self, name: str = "kernelgate-python", **settings: Any) -> AsyncKernelManager:
        config = Config(DockerProvisioner=Config(settings))
        return AsyncKernelManager(kernel_name=name, kernel_spec_manager=self.specs, config=config)

    async def containers(self) -> list[dict[str, Any]]:
        """The containers of this process."""
        return await self.engine.containers(f"kernelgate.server={self.runtime.lock_path}")

    async def inspect(self, provisioner: DockerProvisioner) -> dict[str, Any]:
        """What Docker knows of a kernel's container."""
        container = provisioner.container or ""
        return dict(await self.engine.run(lambda api: api.inspect_container(container)))

    def kernel_folders(self) -> list[str]:
        return sorted(set(os.listdir(self.runtime.path)) - {"lock"})


@pytest.fixture
def gate(image: None) -> Iterator[Gate]:
    """In the end neither containers nor folders of kernels may be left."""
    with tempfile.TemporaryDirectory(prefix="kgt-", dir="/tmp") as folder:
        specs, runtime = Path(folder, "specs"), Path(folder, "run")
        specs.mkdir()
        RuntimeFolder.instance(runtime_dir=str(runtime))
        name = ImageBuilder(Engine.instance().api).name(PYTHON)
        gate = Gate(specs, name)
        gate.runtime.open()
        try:
            yield gate
            left = asyncio.run(take_away_containers(gate.runtime.lock_path))
            assert (left, gate.kernel_folders()) == ([], [])
        finally:
            gate.runtime.close()
            gate.engine.close()
            RuntimeFolder.clear_instance()
            Engine.clear_instance()


async def take_away_containers(lock: str) -> list[str]:
    """Remove the containers of an instance; returns their names."""
    engine = Engine()
    try:
        left = await engine.containers(f"kernelgate.server={lock}")
        await asyncio.gather(*(engine.remove(container["Id"]) for container in left))
        return [name for container in left for name in container["Names"]]
    finally:
        engine.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())


def provisioner_of(manager: KernelManager) -> DockerProvisioner:
    assert isinstance(manager.provisioner, DockerProvisioner)
    return manager.provisioner


async def connected(manager: AsyncKernelManager) -> AsyncKernelClient:
    client = manager.client()
    assert isinstance(client, AsyncKernelClient)
    client.start_channels()
    await client.wait_for_ready(timeout=SOON)
    return client


async def value_of(client: AsyncKernelClient, expression: str) -> str:
    """Evaluate an expression; returns its value's text, or the name of the exception."""
    values: list[str] = []

    def take(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "execute_result":
            values.append(content["data"]["text/plain"])
        if message["msg_type"] == "error":
            values.append(content["ename"])

    await client.execute_interactive(expression, timeout=SOON, output_hook=take, allow_stdin=False)
    return "".join(values)


# --- through Jupyter's managers


def test_a_jupyter_program_starts_uses_interrupts_restarts_and_ends_a_kernel(gate: Gate) -> None:
    async def scenario() -> None:
        manager = gate.manager()
        await manager.start_kernel()
        client = await connected(manager)
        assert await value_of(client, "1+1") == "2"
        assert await manager.is_alive()
        first = provisioner_of(manager).container

        running = asyncio.create_task(value_of(client, "__import__('time').sleep(60)"))
        await asyncio.sleep(0.3)
        await manager.interrupt_kernel()
        assert await asyncio.wait_for(running, SOON) == "KeyboardInterrupt"

        await value_of(client, "x = 1")
        await manager.restart_kernel()
        await client.wait_for_ready(timeout=SOON)
        assert await value_of(client, "'x' in globals()") == "False"
        assert provisioner_of(manager).container != first
        assert [each["Id"] for each in await gate.containers()] == [provisioner_of(manager).container]

        client.stop_channels()
        await manager.shutdown_kernel()
        assert not await manager.is_alive()
        assert (await gate.containers(), gate.kernel_folders()) == ([], [])
        files.append(manager.connection_file)

    files: list[str] = []
    run(scenario)
    assert not os.path.exists(files[0])


def test_a_blocking_program_can_do_the_same(gate: Gate) -> None:
    manager = KernelManager(kernel_name="kernelgate-python", kernel_spec_manager=gate.specs)
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=SOON)
    assert client.execute("1+1", reply=True, timeout=SOON)["content"]["status"] == "ok"
    assert manager.is_alive()
    client.execute("__import__('time').sleep(60)")
    time.sleep(0.3)
    manager.interrupt_kernel()
    assert client.get_shell_msg(timeout=SOON)["content"]["ename"] == "KeyboardInterrupt"
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=SOON)
    assert client.execute("2+2", reply=True, timeout=SOON)["content"]["execution_count"] == 1
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    assert not manager.is_alive()


def test_two_kernels_know_nothing_of_each_other(gate: Gate) -> None:
    async def scenario() -> None:
        managers = [gate.manager(), gate.manager()]
        await asyncio.gather(*(manager.start_kernel() for manager in managers))
        one, other = [await connected(manager) for manager in managers]
        folder = "__import__('os').listdir('/run/kernelgate/sockets')"
        assert await value_of(one, f"sorted({folder})") == str([f"k-{number}" for number in range(1, 6)])
        uids = [int(await value_of(client, "__import__('os').getuid()")) for client in (one, other)]
        assert uids[0] != uids[1]
        assert all(200_000 <= uid < 260_000 for uid in uids)
        assert len({manager.session.key for manager in managers}) == 2
        for client, manager in zip((one, other), managers, strict=True):
            client.stop_channels()
            await manager.shutdown_kernel(now=True)

    run(scenario)


def test_the_container_is_locked_down_as_asked_for(gate: Gate) -> None:
    async def scenario() -> None:
        settings: dict[str, Any] = {
            "max_memory_mb": 256,
            "max_cpu_quota": 80_000,
            "max_processes": 40,
            "max_open_files": 300,
        }
        manager = gate.manager(**settings)
        await manager.start_kernel()
        provisioner = provisioner_of(manager)
        info = await gate.inspect(provisioner)
        host = info["HostConfig"]
        assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"]) == ("none", True, ["ALL"])
        assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (256 << 20, 256 << 20, 40)
        assert (host["CpuQuota"], host["CpuPeriod"], host["CpuShares"]) == (80_000, 100_000, 256)
        assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]}["nofile"] == 300
        assert info["Config"]["Labels"]["kernelgate.kernel"] == manager.kernel_id
        assert info["Config"]["Labels"]["kernelgate.server"] == gate.runtime.lock_path
        assert info["Name"] == f"/kernelgate-{manager.kernel_id}"
        assert not [value for value in info["Config"]["Env"] if value.startswith("KERNELGATE")]
        await manager.shutdown_kernel(now=True)

    run(scenario)


def test_the_limits_can_be_held_until_the_kernel_is_ready(gate: Gate) -> None:
    async def scenario() -> None:
        manager = gate.manager()
        await manager.start_kernel(hold_limits=True)
        provisioner = provisioner_of(manager)

        async def quota() -> int:
            info = await gate.inspect(provisioner)
            return int(info["HostConfig"]["CpuQuota"])

        assert await quota() == 0
        await provisioner.apply_limits()
        assert await quota() == 50_000
        await manager.shutdown_kernel(now=True)

    run(scenario)


def test_the_sockets_are_sealed_when_the_kernel_is_there(gate: Gate) -> None:
    async def scenario() -> None:
        manager = gate.manager()
        await manager.start_kernel()
        folder = provisioner_of(manager).folder
        assert folder is not None
        assert folder.sockets.stat().st_mode & 0o777 == 0o755
        assert folder.sockets.stat().st_uid == os.getuid()
        assert all(stat.S_ISSOCK(path.lstat().st_mode) for path in folder.sockets.iterdir())
        client = await connected(manager)
        replace = "__import__('os').rename('/run/kernelgate/sockets/k-1', '/run/kernelgate/sockets/k-9')"
        assert await value_of(client, replace) in ("PermissionError", "OSError")
        assert await value_of(client, "open('/run/kernelgate/connection.json', 'w')") in (
            "PermissionError",
            "OSError",
        )
        client.stop_channels()
        await manager.shutdown_kernel(now=True)

    run(scenario)


# --- how kernels end


def test_a_kernel_that_is_killed_is_dead_with_its_exit_code(gate: Gate) -> None:
    async def scenario() -> None:
        manager = gate.manager()
        await manager.start_kernel()
        provisioner = provisioner_of(manager)
        assert (await provisioner.poll(), provisioner.ended) == (None, None)
        await provisioner.send_signal(0)
        assert await provisioner.poll() is None
        await provisioner.send_signal(signal.SIGKILL)
        assert await asyncio.wait_for(provisioner.wait(), SOON) == 137
        assert await provisioner.poll() == 137
        assert not await manager.is_alive()
        await provisioner.cleanup()
        await provisioner.cleanup()
        await manager.shutdown_kernel(now=True)

    run(scenario)


def test_code_that_ends_its_kernel_gives_the_exit_code(gate: Gate) -> None:
    async def scenario() -> None:
        manager = gate.manager()
        await manager.start_kernel()
        client = await connected(manager)
        client.execute("__import__('os')._exit(5)")
        ended = await asyncio.wait_for(asyncio.wrap_future(provisioner_of(manager).ended_future), SOON)
        assert (ended.code, ended.out_of_memory) == (5, False)
        client.stop_channels()
        await manager.shutdown_kernel(now=True)

    run(scenario)


def test_a_kernel_that_is_cleaned_up_while_it_runs_has_ended(gate: Gate) -> None:
    async def scenario() -> None:
        manager = gate.manager()
        await manager.start_kernel()
        provisioner = provisioner_of(manager)
        ended = provisioner.ended_future
        await provisioner.cleanup()
        assert ended.result(0) in (GONE, provisioner.ended)
        assert await provisioner.poll() == 137
        await manager.shutdown_kernel(now=True)

    run(scenario)


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("crashing", KernelStartError, "the kernel's container ended with exit code 9 as it started"),
        ("silent", KernelStartError, "the kernel bound no sockets within 1 s"),
        ("no-image", EngineError, "No such image: kernelgate/no-such-image:1"),
    ],
)
def test_a_kernel_that_does_not_start_says_why_and_leaves_nothing_behind(
    gate: Gate, name: str, error: type[Exception], sentence: str
) -> None:
    async def scenario() -> None:
        manager = gate.manager(name, start_timeout=1)
        with pytest.raises(error, match=sentence):
            await manager.start_kernel()
        assert (await gate.containers(), gate.kernel_folders()) == ([], [])

    run(scenario)


@pytest.mark.parametrize("seconds", [0.005, 0.03, 0.1, 0.2, 0.3])
def test_a_start_that_is_cancelled_leaves_nothing_behind(gate: Gate, seconds: float) -> None:
    async def scenario() -> None:
        starter = KernelStarter({"py": gate.image})
        starting = [asyncio.create_task(starter.start(PYTHON)) for _ in range(2)]
        await asyncio.sleep(seconds)
        for task in starting:
            task.cancel()
        results = await asyncio.gather(*starting, return_exceptions=True)
        for result in results:
            if isinstance(result, Kernel):  # it was there before
                await result.close()
            else:
                assert isinstance(result, asyncio.CancelledError)
        starter.close()
        gate.engine.close()  # waits for calls under way
        assert gate.kernel_folders() == []

    run(scenario)


def test_a_jupyter_program_that_gives_a_start_up_leaves_nothing_behind(gate: Gate) -> None:
    async def scenario() -> None:
        starting = asyncio.ensure_future(gate.manager().start_kernel())
        while not await gate.containers():
            assert not starting.done()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert (await gate.containers(), gate.kernel_folders()) == ([], [])

    run(scenario)


def test_another_provisioner_goes_on_with_what_one_has_launched(gate: Gate) -> None:
    async def scenario() -> None:
        manager = gate.manager()
        await manager.start_kernel()
        info = await provisioner_of(manager).get_provisioner_info()
        other = DockerProvisioner(kernel_spec=manager.kernel_spec, parent=manager)
        await other.load_provisioner_info(info)
        assert await other.get_provisioner_info() == info
        assert (other.has_process, await other.poll()) == (True, None)
        other.write_note({"session": "a"})
        assert other.folder is not None
        assert other.folder.read_note() == {"session": "a"}
        await other.kill()
        assert await asyncio.wait_for(other.wait(), SOON) == 137
        await other.cleanup()
        assert (await gate.containers(), gate.kernel_folders()) == ([], [])
        await manager.shutdown_kernel(now=True)

    run(scenario)


def test_a_provisioner_that_has_launched_nothing_can_be_loaded(gate: Gate) -> None:
    async def scenario() -> None:
        provisioner = DockerProvisioner(kernel_id="k")
        await provisioner.load_provisioner_info(await DockerProvisioner(kernel_id="k2").get_provisioner_info())
        assert (provisioner.kernel_id, provisioner.folder, provisioner.has_process) == ("k2", None, False)

    run(scenario)


# --- what a dead server leaves


def test_leftovers_of_the_dead_are_removed_and_the_living_are_left_alone(gate: Gate) -> None:
    async def scenario() -> None:
        manager = gate.manager()
        await manager.start_kernel()
        dead, strange = gate.runtime.root / "deadbeef", gate.runtime.root.parent / "strange"
        (dead / "kernel").mkdir(parents=True)
        (dead / "lock").write_text("")
        owners = {
            "dead": f"{dead}/lock",
            "removed": f"{gate.runtime.root}/gone/lock",
            "strange": f"{strange}/lock",
        }
        launched = {
            name: await gate.engine.launch(
                {"Image": gate.image, "Cmd": ["sleep", "60"], "Labels": {"kernelgate.server": owner}},
                f"kernelgate-test-{name}-{manager.kernel_id}",
            )
            for name, owner in owners.items()
        }
        try:
            assert await remove_leftovers(gate.engine, gate.runtime) == 2
            states = {name: await gate.engine.state(container) for name, container in launched.items()}
            assert states == {"dead": GONE, "removed": GONE, "strange": None}
            assert await manager.is_alive()
            assert sorted(os.listdir(gate.runtime.root)) == [gate.runtime.name]
        finally:
            await asyncio.gather(*map(gate.engine.remove, launched.values()))
            await manager.shutdown_kernel(now=True)

    run(scenario)


# --- settings that overrule others


@pytest.mark.parametrize(
    ("settings", "network", "read_only", "overruled"),
    [
        ({}, "none", True, []),
        ({"network_mode": "bridge"}, "none", True, ["DOCKER_NETWORK_MODE"]),
        ({"network_mode": "bridge", "network_isolation": False}, "bridge", True, []),
        ({"read_only": False}, "none", True, ["DOCKER_READ_ONLY"]),
        ({"read_only": False, "filesystem_isolation": False}, "none", False, []),
        ({"network_isolation": False, "filesystem_isolation": False}, "none", True, []),
    ],
)
def test_isolation_overrules(
    gate: Gate, settings: dict[str, Any], network: str, read_only: bool, overruled: list[str]
) -> None:
    provisioner = DockerProvisioner(image="an/image", kernel_id="k", **settings)
    sandbox = provisioner._sandbox([], gate.runtime.kernel_folder("k"))
    assert (sandbox.network_mode, sandbox.read_only) == (network, read_only)
    assert [sentence.split()[0] for sentence in provisioner.overruled()] == overruled


@pytest.mark.parametrize(
    "changed",
    [
        {"image": "another/image"},
        {"network_mode": "bridge", "network_isolation": False},
        {"read_only": False, "filesystem_isolation": False},
        {"runtime": "runsc"},
        {"max_memory_mb": 513},
        {"max_cpu_quota": 50_001},
        {"max_processes": 33},
        {"max_open_files": 1025},
        {"work_folder_mb": 193},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_settings_that_shape_the_container_change_the_hash(gate: Gate, changed: dict[str, Any]) -> None:
    spec = kernel_spec(PYTHON, "an/image")
    plain = DockerProvisioner(kernel_spec=spec, kernel_id="k", image="an/image")
    other = DockerProvisioner(kernel_spec=spec, kernel_id="k", **{"image": "an/image", **changed})
    assert plain.settings_hash != other.settings_hash


def test_what_a_container_has_for_itself_does_not_change_the_hash(gate: Gate) -> None:
    spec = kernel_spec(PYTHON, "an/image")
    alike: list[dict[str, Any]] = [
        {"kernel_id": "a"},
        {"kernel_id": "b"},
        {"kernel_id": "a", "uid_base": 5_000},
        {"kernel_id": "a", "start_timeout": 7},
        {"kernel_id": "a", "network_mode": "bridge"},  # which is overruled
    ]
    hashes = {DockerProvisioner(kernel_spec=spec, image="an/image", **each).settings_hash for each in alike}
    assert len(hashes) == 1


def test_the_container_says_under_which_settings_it_runs(gate: Gate) -> None:
    provisioner = DockerProvisioner(kernel_spec=kernel_spec(PYTHON, "an/image"), kernel_id="k", image="an/image")
    sandbox = provisioner._sandbox(provisioner._command(), gate.runtime.kernel_folder("k"))
    assert sandbox.labels["kernelgate.settings"] == provisioner.settings_hash


def test_the_user_is_never_the_servers_own(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    provisioner = DockerProvisioner(image="an/image", kernel_id="k", uid_base=5_000)
    monkeypatch.setattr(os, "getuid", lambda: 5_001)
    uids = {provisioner._choose_uid() for _ in range(5_000)}
    assert 5_001 not in uids
    assert min(uids) >= 5_000
    assert max(uids) <= 65_000
    assert len(uids) > 4_000
