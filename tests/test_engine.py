"""The engine: containers on the Docker engine of this machine, and what happens when none answers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kernelgate.containers.engine import GONE, Engine, Exit, complete
from kernelgate.errors import EngineError
from kernelgate.images.builder import ImageBuilder
from kernelgate.languages import PYTHON

LABEL = f"kernelgate.test={secrets.token_hex(4)}"
SOON = 15.0


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine that all tests share; in the end none of their containers may be left."""
    engine = Engine()
    yield engine
    left = asyncio.run(engine.containers(LABEL))
    for container in left:
        asyncio.run(engine.remove(container["Id"]))
    engine.close()
    assert left == []


@pytest.fixture(scope="module")
def image_name(image: None, engine: Engine) -> str:
    return ImageBuilder(engine.api).name(PYTHON)


class Containers:
    """Launches containers that run a shell command."""

    def __init__(self, engine: Engine, image: str) -> None:
        self.engine = engine
        self.image = image
        self.ids: list[str] = []

    def body(self, command: str, **host_config: Any) -> dict[str, Any]:
        key, _, value = LABEL.partition("=")
        return {
            "Image": self.image,
            "Cmd": ["/bin/sh", "-c", command],
            "Labels": {key: value},
            "HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": "none"}, **host_config},
        }

    async def launch(self, command: str = "sleep 60", **host_config: Any) -> str:
        body = self.body(command, **host_config)
        self.ids.append(await self.engine.launch(body, f"kernelgate-test-{secrets.token_hex(4)}"))
        return self.ids[-1]

    async def ends(self, container: str) -> Exit:
        """Wait until the container has ended."""
        return await asyncio.wait_for(asyncio.wrap_future(await self.engine.watch(container)), SOON)


@pytest.fixture
def containers(engine: Engine, image_name: str) -> Iterator[Containers]:
    """What launches containers; they are removed when the test ends."""
    containers = Containers(engine, image_name)
    yield containers

    async def remove_all() -> None:
        await asyncio.gather(*map(engine.remove, containers.ids))

    asyncio.run(remove_all())


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())


# --- the life of a container


def test_a_container_is_launched_changed_killed_and_removed(containers: Containers) -> None:
    async def scenario() -> None:
        engine = containers.engine
        container = await containers.launch()
        ended = await engine.watch(container)
        assert (await engine.state(container), ended.done()) == (None, False)
        assert [each["Id"] for each in await engine.containers(LABEL)] == [container]
        await engine.update(container, {"cpu_period": 100_000, "cpu_quota": 40_000, "cpu_shares": 256})
        limits = (await engine.run(lambda api: api.inspect_container(container)))["HostConfig"]
        assert [limits[key] for key in ("CpuPeriod", "CpuQuota", "CpuShares")] == [100_000, 40_000, 256]
        await engine.kill(container)
        assert await asyncio.wait_for(asyncio.wrap_future(ended), SOON) == Exit(137)
        assert await engine.state(container) == Exit(137)
        await engine.remove(container)
        assert await engine.state(container) == GONE
        assert await engine.containers(LABEL) == []

    run(scenario)


def test_what_is_gone_may_be_killed_and_removed_again(containers: Containers) -> None:
    async def scenario() -> None:
        container = await containers.launch("exit 0")
        await containers.ends(container)
        for _ in range(2):
            await containers.engine.kill(container)
            await containers.engine.remove(container)
        await containers.engine.remove("kernelgate-never-there")
        assert await containers.ends(container) == GONE

    run(scenario)


def test_a_running_container_is_removed_and_its_end_is_told(containers: Containers) -> None:
    async def scenario() -> None:
        container = await containers.launch()
        ended = await containers.engine.watch(container)
        await containers.engine.remove(container)
        assert (await asyncio.wait_for(asyncio.wrap_future(ended), SOON)).code == 137

    run(scenario)


def test_each_container_ends_with_its_own_exit_code(containers: Containers) -> None:
    async def scenario() -> None:
        codes = (0, 1, 7, 255)
        launched = [await containers.launch(f"sleep 0.2; exit {code}") for code in codes]
        ends = await asyncio.gather(*(containers.ends(container) for container in launched))
        assert list(ends) == [Exit(code) for code in codes]

    run(scenario)


def test_a_signal_reaches_the_program(containers: Containers) -> None:
    async def scenario() -> None:
        container = await containers.launch("trap 'exit 5' USR1; while true; do sleep 0.05; done")
        await asyncio.sleep(0.3)
        await containers.engine.kill(container, "SIGUSR1")
        assert await containers.ends(container) == Exit(5)

    run(scenario)


def test_the_end_for_want_of_memory_is_told(containers: Containers) -> None:
    async def scenario() -> None:
        memory = 32 << 20
        command = "exec /opt/kernel/bin/python -c \"b'x' * (1 << 29)\""
        container = await containers.launch(command, Memory=memory, MemorySwap=memory)
        assert await containers.ends(container) == Exit(137, out_of_memory=True)

    run(scenario)


def test_what_cannot_start_leaves_nothing_behind(containers: Containers) -> None:
    async def scenario() -> None:
        body = {**containers.body(""), "Entrypoint": ["/no/such/program"]}
        with pytest.raises(EngineError, match="no such file"):
            await containers.engine.launch(body, "kernelgate-test-cannot-start")
        assert await containers.engine.containers(LABEL) == []

    run(scenario)


def test_what_the_engine_refuses_is_an_error_that_says_why(containers: Containers) -> None:
    async def scenario() -> None:
        engine = containers.engine
        body = {**containers.body(""), "Image": "kernelgate/no-such-image:1"}
        with pytest.raises(EngineError, match=r"^Docker: .*[Nn]o such image: kernelgate/no-such-image:1"):
            await engine.launch(body, "kernelgate-test-no-image")
        with pytest.raises(EngineError, match=r"^Docker: .*[Nn]o such container"):
            await engine.update("kernelgate-never-there", {"cpu_shares": 2})
        name = "kernelgate-test-twice"
        containers.ids.append(await engine.launch(containers.body("sleep 60"), name))
        with pytest.raises(EngineError, match="already in use"):
            await engine.launch(containers.body("sleep 60"), name)
        assert len(await engine.containers(LABEL)) == 1

    run(scenario)


def test_containers_are_found_by_all_their_labels(containers: Containers) -> None:
    async def scenario() -> None:
        engine = containers.engine
        key = LABEL.partition("=")[0]
        await containers.launch("exit 0")
        assert len(await engine.containers(LABEL, key)) == 1
        assert await engine.containers(LABEL, "kernelgate.other=1") == []
        assert await engine.containers(f"{LABEL}x") == []

    run(scenario)


def test_images_are_looked_for(engine: Engine, image_name: str) -> None:
    assert asyncio.run(engine.has_image(image_name))
    assert not asyncio.run(engine.has_image("kernelgate/no-such-image:1"))


def test_the_engine_tells_its_version(engine: Engine) -> None:
    version = asyncio.run(engine.version())
    assert {"Version", "ApiVersion", "KernelVersion"} <= set(version)


def test_the_loop_goes_on_while_the_engine_works(engine: Engine) -> None:
    async def scenario() -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.01)

        beating = asyncio.create_task(beat())
        await asyncio.gather(*(engine.run(lambda _api: time.sleep(0.2)) for _ in range(engine.threads)))
        beating.cancel()
        assert beats > 5

    run(scenario)


# --- an engine that is not there


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kgt-", dir="/tmp") as folder:
        yield Path(folder)


@contextmanager
def unreachable(url: str, **settings: Any) -> Iterator[Engine]:
    """An engine that cannot be reached. The sockets that Docker's client forgets to close are collected."""
    engine = Engine(base_url=url, **settings)
    try:
        yield engine
    finally:
        engine.close()
        gc.collect()


forgetful = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@forgetful
@pytest.mark.parametrize("url", ["unix:///no/such/docker.sock", "tcp://127.0.0.1:1"])
def test_an_engine_that_is_not_there_is_an_error_that_says_where(url: str) -> None:
    with unreachable(url) as engine:
        for _ in range(2):
            with pytest.raises(EngineError, match=f"^no Docker engine answers at {url}: "):
                asyncio.run(engine.version())
        with pytest.raises(EngineError, match=url):
            asyncio.run(engine.watch("a"))


@forgetful
def test_an_engine_that_does_not_answer_is_an_error_in_time(folder: Path) -> None:
    address = str(folder / "docker.sock")
    with socket.socket(socket.AF_UNIX) as silent, unreachable(f"unix://{address}", timeout=1) as engine:
        silent.bind(address)
        silent.listen()
        started = time.monotonic()
        with pytest.raises(EngineError):
            asyncio.run(engine.version())
        assert time.monotonic() - started < 5


DOCKER_SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


class Proxy:
    """Stands between a client and the Docker engine, and can be taken away."""

    def __init__(self, address: Path) -> None:
        self._address = address
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Proxy:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._address))
        self._listening.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Cut every connection and let nobody connect any more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(SOON)
        self._address.unlink()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for each in (self._listening, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listening.accept()[0]
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(DOCKER_SOCKET)
            self._sockets += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


with_socket = pytest.mark.skipif(not os.path.exists(DOCKER_SOCKET), reason="the engine has no UNIX socket")


@forgetful
@with_socket
def test_an_engine_that_was_not_there_is_used_when_it_comes(folder: Path) -> None:
    address = folder / "docker.sock"
    with unreachable(f"unix://{address}") as engine:
        with pytest.raises(EngineError):
            asyncio.run(engine.version())
        with Proxy(address):
            assert asyncio.run(engine.version())["Version"]


@forgetful
@with_socket
def test_an_end_is_told_even_when_it_came_while_the_engine_was_away(containers: Containers, folder: Path) -> None:
    async def scenario() -> None:
        short, long = await containers.launch("sleep 1; exit 4"), await containers.launch("sleep 3; exit 6")
        address = folder / "docker.sock"
        with unreachable(f"unix://{address}", timeout=5) as engine:
            with Proxy(address):
                ended = [await engine.watch(short), await engine.watch(long)]
                assert not any(future.done() for future in ended)
            await containers.ends(short)
            assert not any(future.done() for future in ended)
            with Proxy(address):
                ends = await asyncio.wait_for(asyncio.gather(*map(asyncio.wrap_future, ended)), SOON)
                assert ends == [Exit(4), Exit(6)]

    run(scenario)


# --- the rest


def test_closing_ends_the_threads_and_may_be_done_twice(containers: Containers) -> None:
    async def scenario() -> None:
        engine = Engine()
        container = await containers.launch()
        ended = await engine.watch(container)
        engine.close()
        engine.close()
        assert not ended.done()
        names = {thread.name for thread in threading.enumerate()}
        assert not {name for name in names if name.startswith("docker_")} - mine
        assert len([name for name in names if name == "docker-events"]) <= watching

    mine = {thread.name for thread in threading.enumerate() if thread.name.startswith("docker_")}
    watching = len([thread for thread in threading.enumerate() if thread.name == "docker-events"])
    run(scenario)


def test_an_end_is_set_once() -> None:
    async def scenario() -> None:
        engine = Engine()
        future = await engine.watch("kernelgate-never-there")
        assert future.result(SOON) == GONE
        complete(future, Exit(1))
        assert future.result() == GONE
        engine.close()

    run(scenario)
