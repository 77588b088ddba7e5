"""The only door to the Docker engine. Its blocking calls run on threads of its own, nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import docker
import docker.errors
import docker.utils
import requests
import urllib3.exceptions
from traitlets import Int, Unicode
from traitlets.config import SingletonConfigurable

from kernelgate.errors import EngineError

T = TypeVar("T")

FAILURES = (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)
RECONNECT_SECONDS = 1.0


@dataclass(frozen=True)
class Exit:
    """How a container ended: its exit code, and whether the kernel's out-of-memory killer struck in it."""

    code: int
    out_of_memory: bool = False


GONE = Exit(code=137)
"""The end of a container that is no longer there to be asked."""


class Engine(SingletonConfigurable):
    """A Docker engine: containers are created, started, watched and removed through it.

    Methods raise `EngineError` when the engine refuses, fails, or cannot be reached. One object serves a whole
    process: ``Engine.instance(parent=…)``.
    """

    base_url = Unicode(
        "",
        help="URL of the Docker engine, such as unix:///var/run/docker.sock. "
        "Empty: what DOCKER_HOST names, else the engine of this machine.",
    ).tag(config=True, env="DOCKER_BASE_URL", group="Docker")
    timeout = Int(60, min=1, help="Seconds that one call to the Docker engine may take.").tag(
        config=True, env="DOCKER_TIMEOUT", group="Docker"
    )
    threads = Int(8, min=1, max=64, help="Calls to the Docker engine that may run at once.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._api: docker.APIClient | None = None
        self._api_lock = threading.Lock()
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="docker")
        self._watcher: ExitWatcher | None = None

    @property
    def api(self) -> docker.APIClient:
        """The blocking client, made at first use. For commands without a loop; servers use the methods."""
        with self._api_lock:
            if self._api is None:
                self._api = self._connect()
            return self._api

    def _connect(self) -> docker.APIClient:
        settings = docker.utils.kwargs_from_env()
        if self.base_url:
            settings = {"base_url": self.base_url}
        try:
            return docker.APIClient(
                **settings, version="auto", timeout=self.timeout, max_pool_size=self.threads + 1
            )
        except FAILURES as error:
            where = settings.get("base_url") or "the engine of this machine"
            raise EngineError(f"no Docker engine answers at {where}: {error}") from error

    async def run(self, call: Callable[[docker.APIClient], T]) -> T:
        """Run ``call`` with the blocking client on a thread of the engine."""

        def guarded() -> T:
            try:
                return call(self.api)
            except FAILURES as error:
                raise EngineError(f"Docker: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._executor, guarded)

    async def launch(self, body: Mapping[str, Any], name: str) -> str:
        """Create a container from ``body`` and start it; returns its id. What fails to start is removed."""

        def create_and_start(api: docker.APIClient) -> str:
            container = str(api.create_container_from_config(dict(body), name)["Id"])
            try:
                api.start(container)
            except FAILURES:
                remove(api, container)
                raise
            return container

        launching = asyncio.ensure_future(self.run(create_and_start))
        try:
            return await asyncio.shield(launching)
        except asyncio.CancelledError:
            await self.remove(await launching)  # the thread cannot be stopped half-way
            raise

    async def update(self, container: str, limits: Mapping[str, Any]) -> None:
        """Change a running container's limits, named as in docker's ``APIClient.update_container``."""
        await self.run(lambda api: api.update_container(container, **limits))

    async def kill(self, container: str, signal: str = "KILL") -> None:
        """Send ``signal`` to a container's first process; one that runs no more is left alone."""

        def send(api: docker.APIClient) -> None:
            try:
                api.kill(container, signal)
            except docker.errors.APIError as error:
                if error.status_code not in (404, 409):
                    raise

        await self.run(send)

    async def remove(self, container: str) -> None:
        """Kill and remove a container, if it is there."""
        await self.run(lambda api: remove(api, container))

    async def state(self, container: str) -> Exit | None:
        """Return None while the container runs, else how it ended (`GONE` if there is no such container)."""
        return await self.run(lambda api: inspect_exit(api, container))

    async def containers(self, *labels: str) -> list[dict[str, Any]]:
        """Return Docker's summary of each container, running or not, that has all ``labels``."""
        return list(await self.run(lambda api: api.containers(all=True, filters={"label": list(labels)})))

    async def has_image(self, name: str) -> bool:
        """Tell whether the image ``name`` (with its tag) is on the engine."""

        def look(api: docker.APIClient) -> bool:
            try:
                api.inspect_image(name)
            except docker.errors.ImageNotFound:
                return False
            return True

        return await self.run(look)

    async def version(self) -> dict[str, Any]:
        """Return what Docker says of itself: ``Version``, ``ApiVersion``, ``KernelVersion`` …"""
        return dict(await self.run(lambda api: api.version()))

    async def watch(self, container: str) -> Future[Exit]:
        """Return a future that is done when ``container``, which must have been started, has ended."""

        def watch(api: docker.APIClient) -> Future[Exit]:
            with self._api_lock:
                if self._watcher is None:
                    self._watcher = ExitWatcher(api)
                    self._watcher.start()
            return self._watcher.watch(container)

        return await self.run(watch)

    def close(self) -> None:
        """End the threads. Waits for calls under way."""
        if self._watcher is not None:
            self._watcher.stop()
        self._executor.shutdown(wait=True)
        if self._api is not None:
            self._api.close()
        self._watcher = self._api = None


class ExitWatcher(threading.Thread):
    """Reads Docker's events and completes the futures of the containers that end.

    Containers that end while no events can be read (the engine restarts, say) are found out afterwards.
    """

    def __init__(self, api: docker.APIClient) -> None:
        super().__init__(name="docker-events", daemon=True)
        self._api = api
        self._futures: dict[str, Future[Exit]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._connected = threading.Event()
        self._stream: Any = None

    def watch(self, container: str) -> Future[Exit]:
        future: Future[Exit] = Future()
        with self._lock:
            self._futures[container] = future
        future.add_done_callback(lambda _done: self._forget(container))
        self._connected.wait(RECONNECT_SECONDS)
        with contextlib.suppress(*FAILURES):  # its end is an event too
            self._settle([container])
        return future

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._read_events()
            except FAILURES:
                pass  # the engine went away: wait, connect again, look what happened meanwhile
            except ValueError:
                pass  # the stream was cut in the middle of an event
            self._connected.clear()
            self._stopped.wait(RECONNECT_SECONDS)

    def stop(self) -> None:
        self._stopped.set()
        stream = self._stream
        if stream is not None:
            stream.close()
        self.join(timeout=5)

    def _read_events(self) -> None:
        self._stream = self._api.events(filters={"type": "container", "event": ["die"]}, decode=True)
        self._connected.set()
        with self._lock:
            known = list(self._futures)
        self._settle(known)
        for event in self._stream:
            if event.get("id") in self._futures:
                self._settle([event["id"]])

    def _settle(self, containers: Iterable[str]) -> None:
        """Look how containers are. When the engine does not say, `run` connects again and looks at all of them."""
        for container in containers:
            end = inspect_exit(self._api, container)
            if end is None:
                continue
            with self._lock:
                future = self._futures.pop(container, None)
            if future is not None:
                complete(future, end)

    def _forget(self, container: str) -> None:
        with self._lock:
            self._futures.pop(container, None)


def complete(future: Future[Exit], end: Exit) -> None:
    """Set the result of ``future``, unless somebody else has."""
    with contextlib.suppress(InvalidStateError):
        future.set_result(end)


def inspect_exit(api: docker.APIClient, container: str) -> Exit | None:
    """Return None while ``container`` runs, else how it ended."""
    try:
        state = api.inspect_container(container)["State"]
    except docker.errors.NotFound:
        return GONE
    if state["Running"] or state["Status"] == "created":
        return None
    return Exit(code=int(state["ExitCode"]), out_of_memory=bool(state["OOMKilled"]))


def remove(api: docker.APIClient, container: str) -> None:
    """Kill and remove ``container``; it is no error when it is gone or going."""
    try:
        api.remove_container(container, force=True, v=True)
    except docker.errors.APIError as error:
        if error.status_code not in (404, 409):
            raise
