"""Kernels outlive their server: the next one takes over those it wants, removes the others, and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from kernelgate.containers.engine import Engine
from kernelgate.containers.provisioner import Survivor, find_survivors, remove_leftovers, remove_own
from kernelgate.containers.runtime import FILE_LIMIT, KernelFolder, RuntimeFolder, is_dead
from kernelgate.errors import EngineError, KernelStartError
from kernelgate.images.builder import ImageBuilder
from kernelgate.kernel.client import Execution, Status, execute
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.starter import KernelStarter
from kernelgate.languages import PYTHON
from tests.server import Json, containers_below, wait_for

ROOT = Path(__file__).parent.parent
SOON = 20.0
SERVE = "from tests.test_takeover import serve; serve()"


class Server:
    """What a server has to do with kernels, in this process."""

    def __init__(self, runtime_dir: str, image: str, **settings: Any) -> None:
        self.runtime = RuntimeFolder.instance(runtime_dir=runtime_dir)
        self.engine = Engine.instance()
        config = Config(DockerProvisioner=Config(settings))
        self.starter = KernelStarter({"py": image}, warmup_timeout=15, config=config)
        self.runtime.open()

    async def survivors(self, wanted: Callable[[Json], bool] = bool) -> list[Survivor]:
        return await find_survivors(self.engine, self.runtime, self.starter.adoptable(), wanted)

    async def adopt(self, survivor: Survivor) -> Kernel:
        return await self.starter.adopt(PYTHON, survivor)

    async def adopt_all(self) -> list[Kernel]:
        return await asyncio.gather(*map(self.adopt, await self.survivors()))

    async def stop(self) -> None:
        """Stop as a server does: nothing is left."""
        await remove_own(self.engine, self.runtime)
        self.starter.close()
        self.vanish()
        self.runtime.close()

    def vanish(self) -> None:
        """Leave all where it is."""
        self.engine.close()
        RuntimeFolder.clear_instance()
        Engine.clear_instance()


@dataclass(frozen=True)
class Orders:
    """What a server in a process of its own does before it waits to be killed."""

    runtime_dir: str
    image: str
    start: int = 0
    """How many kernels it starts."""
    adopt: bool = False
    """Whether it takes over what it finds, as soon as it is told to."""
    code: str = "x = 41"
    """What it runs in each."""
    noted: bool = True
    then: str = ""
    """What it goes on to run in the first kernel, without waiting for the end."""
    settings: Json = field(default_factory=dict)


def serve() -> None:
    """Carry out the orders in ``argv``; tell the ids of the kernels."""
    asyncio.run(carry_out(Orders(**json.loads(sys.argv[1]))))


async def carry_out(orders: Orders) -> None:
    server = Server(orders.runtime_dir, orders.image, **orders.settings)
    if orders.adopt:
        tell("ready")
        await asyncio.to_thread(sys.stdin.readline)
        kernels = await server.adopt_all()
    else:
        kernels = await asyncio.gather(*(server.starter.start(PYTHON) for _ in range(orders.start)))
    for kernel in kernels:
        await printed(kernel, orders.code)
        if orders.noted:
            kernel.provisioner.write_note({"session": f"session of {kernel.id}", "busy": False})
    if orders.then:
        kernels[0].provisioner.write_note({"session": f"session of {kernels[0].id}", "busy": True})
        kernels[0].send("shell", "execute_request", {"code": orders.then, "silent": False})
        await asyncio.sleep(0.3)
    tell([kernel.id for kernel in kernels])
    await asyncio.sleep(3600)


def tell(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def printed(kernel: Kernel, code: str) -> str:
    """Run code that must succeed; returns what it printed."""
    result = await execute(kernel, Execution(code, timeout=SOON))
    assert result.status is Status.OK, result
    return result.output.stdout.strip()


class Site:
    """A runtime folder and the servers that use it, one after the other."""

    def __init__(self, runtime_dir: str, image: str) -> None:
        self.runtime_dir = runtime_dir
        self.image = image
        self._processes: list[subprocess.Popen[str]] = []

    def server(self, **orders: Any) -> subprocess.Popen[str]:
        """Start a server in a process of its own."""
        argument = json.dumps(asdict(Orders(self.runtime_dir, self.image, **orders)))
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, argument],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def dead_server(self, **orders: Any) -> list[str]:
        """Have a server carry out orders and kill it; returns the ids of its kernels."""
        process = self.server(**orders)
        if orders.get("adopt"):
            assert said(process) == "ready"
            go(process)
        kernels = said(process)
        self.kill(process)
        return list(kernels)

    def kill(self, process: subprocess.Popen[str]) -> None:
        self._processes.remove(process)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()

    def kill_all(self) -> None:
        for process in list(self._processes):
            self.kill(process)

    @contextlib.asynccontextmanager
    async def heir(self, **settings: Any) -> AsyncIterator[Server]:
        """A new server in this process."""
        server = Server(self.runtime_dir, self.image, **settings)
        try:
            yield server
        finally:
            await server.stop()

    def containers(self) -> list[str]:
        """The names of the containers of all servers, running or not."""
        return sorted(name for each in containers_below(self.runtime_dir) for name in each["Names"])

    def instances(self) -> list[str]:
        return os.listdir(self.runtime_dir)

    def kernel_folders(self) -> list[str]:
        return sorted(path.name for path in Path(self.runtime_dir).glob("*/*") if path.is_dir())

    def folder(self, kernel_id: str) -> KernelFolder:
        """The folder of a kernel, whose instance it may be."""
        [path] = Path(self.runtime_dir).glob(f"*/{kernel_id[:12]}")
        return KernelFolder(path)


def said(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the server has failed"
    return json.loads(line)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def names(kernels: Iterable[str]) -> list[str]:
    """The names of kernels' containers."""
    return sorted(f"/kernelgate-{kernel_id}" for kernel_id in kernels)


@pytest.fixture(scope="module")
def image_name(image: None) -> str:
    engine = Engine()
    try:
        return ImageBuilder(engine.api).name(PYTHON)
    finally:
        engine.close()


@pytest.fixture
def site(image_name: str) -> Iterator[Site]:
    """In the end neither containers nor folders may be left."""
    with tempfile.TemporaryDirectory(prefix="kgt-", dir="/tmp") as folder:
        site = Site(folder, image_name)
        try:
            yield site
            assert (site.containers(), site.instances()) == ([], [])
        finally:
            site.kill_all()
            asyncio.run(remove_below(folder))


async def remove_below(folder: str) -> None:
    engine = Engine()
    try:
        await asyncio.gather(*(engine.remove(container["Id"]) for container in containers_below(folder)))
    finally:
        engine.close()


def run(scenario: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())


# --- kernels that go on


def test_a_kernel_goes_on_under_the_next_server(site: Site) -> None:
    [kernel_id] = site.dead_server(start=1)

    async def scenario() -> None:
        async with site.heir() as heir:
            [survivor] = await heir.survivors()
            assert (survivor.kernel_id, survivor.note["session"]) == (kernel_id, f"session of {kernel_id}")
            kernel = await heir.adopt(survivor)
            assert (kernel.id, kernel.alive, kernel.language) == (kernel_id, True, PYTHON)
            assert await printed(kernel, "print(x + 1)") == "42"
            assert site.containers() == names([kernel_id])
            await kernel.close()
            assert (site.containers(), site.instances()) == ([], [heir.runtime.name])

    run(scenario)


def test_an_adopted_kernel_is_interrupted_like_any_other(site: Site) -> None:
    site.dead_server(start=1)

    async def scenario() -> None:
        async with site.heir() as heir:
            [kernel] = await heir.adopt_all()
            result = await execute(kernel, Execution("import time; time.sleep(60)", timeout=0.5))
            assert (result.status, kernel.alive) == (Status.TIMEOUT, True)
            assert await printed(kernel, "print(x + 1)") == "42"

    run(scenario)


def test_the_death_of_an_adopted_kernel_is_noticed(site: Site) -> None:
    ids = site.dead_server(start=3)

    async def scenario() -> None:
        async with site.heir() as heir:
            kernels = {kernel.id: kernel for kernel in await heir.adopt_all()}
            exits, killed, removed = (kernels[kernel_id] for kernel_id in ids)
            result = await execute(exits, Execution("import os; os._exit(3)", timeout=SOON))
            assert result.exit_code == 3
            await killed.kill()
            await heir.engine.remove(removed.provisioner.container or "")
            ends = [await kernel.wait_ended() for kernel in (exits, killed, removed)]
            assert [end.code for end in ends] == [3, 137, 137]
            await asyncio.gather(*(kernel.close() for kernel in kernels.values()))
            assert (site.containers(), site.instances()) == ([], [heir.runtime.name])

    run(scenario)


def test_a_kernel_may_outlive_several_servers(site: Site) -> None:
    ids = site.dead_server(start=2)
    assert sorted(site.dead_server(adopt=True, code="x += 1")) == sorted(ids)
    assert len(site.instances()) == 2
    assert sorted(site.dead_server(adopt=True, code="x += 1")) == sorted(ids)

    async def scenario() -> None:
        async with site.heir() as heir:
            kernels = await heir.adopt_all()
            assert [await printed(kernel, "print(x)") for kernel in kernels] == ["43", "43"]
            assert len(site.instances()) == 2
            await kernels[0].close()
            assert len(site.instances()) == 2
            await kernels[1].close()
            assert site.instances() == [heir.runtime.name]

    run(scenario)


def test_a_server_starts_kernels_beside_those_it_has_adopted(site: Site) -> None:
    site.dead_server(start=1)

    async def scenario() -> None:
        async with site.heir() as heir:
            [adopted] = await heir.adopt_all()
            started = await heir.starter.start(PYTHON)
            assert await printed(started, "print('x' in globals())") == "False"
            assert await printed(adopted, "print(x)") == "41"
            assert len(site.instances()) == 2

    run(scenario)


# --- kernels that ran code when their server died


def test_a_kernel_that_is_busy_is_removed_if_nobody_wants_it(site: Site) -> None:
    _busy, idle = site.dead_server(start=2, then="while True: pass")

    async def scenario() -> None:
        async with site.heir() as heir:
            survivors = await heir.survivors(lambda note: not note["busy"])
            assert [survivor.kernel_id for survivor in survivors] == [idle]
            assert site.containers() == names([idle])
            assert site.kernel_folders() == [idle[:12]]
            assert await printed(await heir.adopt(survivors[0]), "print(x)") == "41"

    run(scenario)


def test_a_kernel_that_becomes_idle_soon_can_be_adopted(site: Site) -> None:
    site.dead_server(start=1, then="import time; time.sleep(1.5); x = 'done'")

    async def scenario() -> None:
        async with site.heir() as heir:
            [kernel] = await heir.adopt_all()
            assert await printed(kernel, "print(x)") == "done"

    run(scenario)


def test_a_kernel_that_does_not_answer_is_removed(site: Site) -> None:
    site.dead_server(start=1, then="while True: pass")

    async def scenario() -> None:
        async with site.heir() as heir:
            heir.starter.warmup_timeout = 1
            [survivor] = await heir.survivors()
            with pytest.raises(KernelStartError, match="could not be taken over: it did not answer within 1 s"):
                await heir.adopt(survivor)
            assert (site.containers(), site.instances()) == ([], [heir.runtime.name])

    run(scenario)


# --- kernels that are not taken over


def without_note(folder: KernelFolder, _container: str) -> None:
    folder.note.unlink()


def broken_note(folder: KernelFolder, _container: str) -> None:
    folder.note.write_text('{"session": ')


def huge_note(folder: KernelFolder, _container: str) -> None:
    folder.note.write_text(json.dumps({"session": "x" * FILE_LIMIT}))


def link_among_sockets(folder: KernelFolder, _container: str) -> None:
    (folder.sockets / "k-1").unlink()
    (folder.sockets / "k-1").symlink_to("/var/run/docker.sock")


def socket_missing(folder: KernelFolder, _container: str) -> None:
    (folder.sockets / "k-5").unlink()


def not_sealed(folder: KernelFolder, _container: str) -> None:
    folder.sockets.chmod(0o777)


def without_connection(folder: KernelFolder, _container: str) -> None:
    folder.gateway_file.unlink()


def container_dead(_folder: KernelFolder, container: str) -> None:
    subprocess.run(["docker", "kill", container], check=True, capture_output=True)


def container_paused(_folder: KernelFolder, container: str) -> None:
    subprocess.run(["docker", "pause", container], check=True, capture_output=True)


DAMAGES = [
    without_note,
    broken_note,
    huge_note,
    link_among_sockets,
    socket_missing,
    not_sealed,
    without_connection,
    container_dead,
    container_paused,
]


def test_only_what_is_whole_is_taken_over_and_the_rest_is_removed(site: Site) -> None:
    whole, *ids = site.dead_server(start=1 + len(DAMAGES))
    damaged = dict(zip(ids, DAMAGES, strict=True))
    for kernel_id, damage in damaged.items():
        damage(site.folder(kernel_id), f"kernelgate-{kernel_id}")

    async def scenario() -> None:
        async with site.heir() as heir:
            survivors = await heir.survivors()
            survived = {survivor.kernel_id for survivor in survivors}
            assert [damage.__name__ for kernel_id, damage in damaged.items() if kernel_id in survived] == []
            assert (site.containers(), len(site.instances())) == (names([whole]), 2)
            assert {path.name for path in site.folder(whole).path.parent.iterdir()} == {"lock", whole[:12]}
            assert await printed(await heir.adopt(survivors[0]), "print(x)") == "41"

    run(scenario)


@pytest.mark.parametrize(
    "damage", [link_among_sockets, not_sealed, without_connection, container_dead], ids=lambda each: each.__name__
)
def test_what_breaks_after_it_was_found_is_not_adopted(site: Site, damage: Callable[..., None]) -> None:
    [kernel_id] = site.dead_server(start=1)

    async def scenario() -> None:
        async with site.heir() as heir:
            [survivor] = await heir.survivors()
            damage(site.folder(kernel_id), survivor.container)
            with pytest.raises(KernelStartError, match=f"^kernel {kernel_id} could not be taken over: "):
                await heir.adopt(survivor)
            assert (site.containers(), site.instances()) == ([], [heir.runtime.name])

    run(scenario)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_memory_mb": 300},
        {"max_cpu_quota": 70_000},
        {"network_isolation": False, "network_mode": "bridge"},
        {"filesystem_isolation": False, "read_only": False},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_kernel_under_other_settings_is_removed(site: Site, settings: Json) -> None:
    site.dead_server(start=1, settings=settings)

    async def scenario() -> None:
        async with site.heir() as heir:
            assert await heir.survivors() == []
            assert (site.containers(), site.instances()) == ([], [heir.runtime.name])

    run(scenario)


def test_a_kernel_under_other_settings_is_not_adopted_either(site: Site) -> None:
    site.dead_server(start=1, settings={"max_memory_mb": 300})

    async def scenario() -> None:
        async with site.heir(max_memory_mb=300) as heir:
            [survivor] = await heir.survivors()
            other = KernelStarter({"py": site.image})
            with pytest.raises(KernelStartError, match="it was started under other settings"):
                await other.adopt(PYTHON, survivor)
            other.close()
            assert (site.containers(), site.instances()) == ([], [heir.runtime.name])

    run(scenario)


def test_a_survivor_can_be_discarded(site: Site) -> None:
    ids = site.dead_server(start=2)

    async def scenario() -> None:
        async with site.heir() as heir:
            one, other = await heir.survivors()
            await heir.starter.discard(one)
            assert site.containers() == names(set(ids) - {one.kernel_id})
            assert await printed(await heir.adopt(other), "print(x)") == "41"

    run(scenario)


def test_a_server_that_takes_nothing_over_removes_all(site: Site) -> None:
    site.dead_server(start=2)

    async def scenario() -> None:
        async with site.heir() as heir:
            assert await remove_leftovers(heir.engine, heir.runtime) == 2
            assert (site.containers(), site.instances()) == ([], [heir.runtime.name])

    run(scenario)


def test_a_stop_removes_what_was_adopted_and_what_was_not(site: Site) -> None:
    ids = site.dead_server(start=2)

    async def scenario() -> None:
        async with site.heir() as heir:
            survivors = await heir.survivors()
            await heir.adopt(survivors[0])
            assert site.containers() == names(ids)
        assert (site.containers(), site.instances()) == ([], [])

    run(scenario)


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.02, 0.08])
def test_an_adoption_that_is_cancelled_leaves_nothing_behind(site: Site, seconds: float) -> None:
    site.dead_server(start=1, then="while True: pass")

    async def scenario() -> None:
        async with site.heir() as heir:
            [survivor] = await heir.survivors()
            adopting = asyncio.create_task(heir.adopt(survivor))
            await asyncio.sleep(seconds)
            adopting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await adopting
            if seconds:  # else it had not begun
                assert (site.containers(), site.instances()) == ([], [heir.runtime.name])

    run(scenario)


# --- several servers


def test_kernels_of_living_servers_are_left_alone(site: Site) -> None:
    living = site.server(start=1)
    ids = said(living)

    async def scenario() -> None:
        async with site.heir() as heir:
            assert await heir.survivors() == []
            assert await remove_leftovers(heir.engine, heir.runtime) == 0
            assert (site.containers(), len(site.instances())) == (names(ids), 2)
            site.kill(living)
            assert [survivor.kernel_id for survivor in await heir.survivors()] == ids

    run(scenario)


def test_of_two_servers_that_start_at_once_one_takes_all_over(site: Site) -> None:
    ids = site.dead_server(start=2)
    rivals = [site.server(adopt=True) for _ in range(2)]
    assert [said(rival) for rival in rivals] == ["ready", "ready"]
    for rival in rivals:
        go(rival)
    taken = [sorted(said(rival)) for rival in rivals]
    assert sorted(taken) == [[], sorted(ids)]
    assert site.containers() == names(ids)
    site.kill_all()

    async def scenario() -> None:
        async with site.heir() as heir:
            kernels = await heir.adopt_all()
            assert sorted(kernel.id for kernel in kernels) == sorted(ids)

    run(scenario)


def test_in_another_runtime_folder_only_kernels_without_a_note_are_removed(site: Site) -> None:
    noted = site.dead_server(start=1)
    site.dead_server(start=1, noted=False)

    async def scenario() -> None:
        with tempfile.TemporaryDirectory(prefix="kgt-", dir="/tmp") as elsewhere:
            stranger = Server(elsewhere, site.image)
            assert await stranger.survivors() == []
            assert site.containers() == names(noted)
            assert len(site.instances()) == 2
            await stranger.stop()
        async with site.heir() as heir:
            assert [survivor.kernel_id for survivor in await heir.survivors()] == noted
            assert len(site.instances()) == 2

    run(scenario)


def test_the_runtime_folder_may_be_called_otherwise(site: Site) -> None:
    """The sockets' addresses are no longer the same, so nothing is adopted; and nothing is forgotten."""
    site.dead_server(start=1)

    async def scenario() -> None:
        with tempfile.TemporaryDirectory(prefix="kgt-", dir="/tmp") as elsewhere:
            way = os.path.join(elsewhere, "way")
            os.symlink(site.runtime_dir, way)
            heir = Server(way, site.image)
            assert await heir.survivors() == []
            assert (site.containers(), site.instances()) == ([], [heir.runtime.name])
            await heir.stop()

    run(scenario)


# --- when something fails


async def out_of_order(*_arguments: Any) -> None:
    """What an engine does that fails."""
    raise EngineError("Docker: it is out of order")


@pytest.mark.parametrize("what", ["containers", "remove"])
def test_an_engine_that_fails_loses_nothing(site: Site, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    busy, idle = site.dead_server(start=2, then="while True: pass")

    def is_idle(note: Json) -> bool:
        return not note["busy"]

    async def scenario() -> None:
        async with site.heir() as heir:
            with monkeypatch.context() as patch:
                patch.setattr(heir.engine, what, out_of_order)
                with pytest.raises(EngineError, match="out of order"):
                    await heir.survivors(is_idle)
            assert site.containers() == names([busy, idle])
            assert is_dead(str(site.folder(busy).path.parent / "lock"))
            assert [survivor.kernel_id for survivor in await heir.survivors(is_idle)] == [idle]

    run(scenario)


def test_a_survivor_that_cannot_be_removed_goes_when_the_server_stops(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    [kernel_id] = site.dead_server(start=1)

    async def scenario() -> None:
        async with site.heir() as heir:
            [survivor] = await heir.survivors()
            without_connection(survivor.folder, survivor.container)
            with monkeypatch.context() as patch:
                patch.setattr(heir.engine, "remove", out_of_order)
                with pytest.raises(KernelStartError):
                    await heir.adopt(survivor)
            assert site.containers() == names([kernel_id])
            assert not is_dead(str(survivor.folder.path.parent / "lock"))

    run(scenario)


def test_what_a_predicate_raises_comes_through_and_loses_nothing(site: Site) -> None:
    ids = site.dead_server(start=1)

    async def scenario() -> None:
        async with site.heir() as heir:
            with pytest.raises(KeyError, match="no such field"):
                await heir.survivors(lambda note: bool(note["no such field"]))
            assert heir.runtime.lock_paths == [heir.runtime.lock_path]
            assert [survivor.kernel_id for survivor in await heir.survivors()] == ids

    run(scenario)


def test_an_heir_that_dies_as_well_loses_nothing(site: Site) -> None:
    ids = site.dead_server(start=1)
    found = site.server(adopt=True, code="import time; time.sleep(3600)")
    assert said(found) == "ready"
    go(found)
    wait_for(lambda: not is_dead(str(site.folder(ids[0]).path.parent / "lock")))
    site.kill(found)

    async def scenario() -> None:
        async with site.heir() as heir:
            assert [survivor.kernel_id for survivor in await heir.survivors()] == ids

    run(scenario)
