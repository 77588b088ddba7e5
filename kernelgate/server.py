"""The server: makes each part once, in order; starts and stops them."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import time
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from traitlets import Bool, Int, Unicode
from traitlets.config import LoggingConfigurable

from kernelgate.api.base import Services
from kernelgate.api.routes import application
from kernelgate.auth import Authenticator
from kernelgate.containers.engine import Engine
from kernelgate.containers.provisioner import DockerProvisioner, Survivor, find_survivors, remove_own
from kernelgate.containers.runtime import RuntimeFolder
from kernelgate.cors import Cors
from kernelgate.errors import ConfigError, GateError, ImageError, KernelStartError, StateRefused, StoreError
from kernelgate.health import Health
from kernelgate.images.builder import ImageBuilder
from kernelgate.kernel.frontends import ReplaySettings, WebSockets
from kernelgate.kernel.pool import KernelPool, PoolSettings
from kernelgate.kernel.starter import KernelStarter
from kernelgate.languages import LANGUAGES, Language
from kernelgate.sessions.admission import Admission
from kernelgate.sessions.archive import Archive
from kernelgate.sessions.archiver import Archiver
from kernelgate.sessions.control import Control
from kernelgate.sessions.culling import Culling
from kernelgate.sessions.execute import Executor
from kernelgate.sessions.files import WorkFolder
from kernelgate.sessions.gateway import Gateway
from kernelgate.sessions.history import History
from kernelgate.sessions.notebooks import Notebooks
from kernelgate.sessions.seal import Seal
from kernelgate.sessions.sessions import Sessions
from kernelgate.sessions.state import State, StateSettings
from kernelgate.sessions.variables import Variables
from kernelgate.sessions.vault import Lifetimes, Vault
from kernelgate.stores.choice import Stores

MAX_DRAINED_BYTES = 1 << 30
"""A body larger than the limit is read up to this size, so that the client gets to see the answer."""

IDLE_CONNECTION_SECONDS = 120
BODY_SECONDS = 120


def unsafe_debug(debug: object) -> str | None:
    """Say what makes debugging unsafe in production."""
    return "on, so logs may show what users run" if debug else None


class Server(LoggingConfigurable):
    """The whole server in one process."""

    host = Unicode("0.0.0.0", help="Address to listen on.").tag(config=True, env="API_HOST", group="API")
    port = Int(8000, min=0, max=65535, help="Port to listen on. 0: one that is free.").tag(
        config=True, env="API_PORT", group="API"
    )
    debug = Bool(
        False,
        help="Log every detail. Not for production.",
    ).tag(config=True, env="API_DEBUG", group="API", insecure=unsafe_debug)
    reload = Bool(False, help="Start again when the source changes. For development.").tag(
        config=True, env="API_RELOAD", group="API"
    )
    max_request_mb = Int(32, min=1, help="MB that the body of a request may have.").tag(config=True)
    keepalive_seconds = Int(
        4,
        min=1,
        help="Seconds after which a client that waits for running code is sent a space, again and again.",
    ).tag(config=True)
    shutdown_seconds = Int(
        15, min=0, help="Seconds that running executions have to end when the server stops."
    ).tag(config=True, env="SHUTDOWN_SECONDS", group="API")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.runtime_folder = RuntimeFolder.instance(parent=self)
        self.engine = Engine.instance(parent=self)
        self.authenticator = Authenticator(parent=self)
        self.pool_settings = PoolSettings(parent=self)
        self.admission = Admission(parent=self)
        self.stores = Stores(parent=self)
        self.state_settings = StateSettings(parent=self)
        self.archiver = Archiver(parent=self)
        self.culling = Culling(parent=self)
        self.replay = ReplaySettings(parent=self)
        self.web_sockets = WebSockets(parent=self)
        self.cors = Cors(parent=self)
        self._http: HTTPServer | None = None
        self._sockets: list[socket.socket] = []

    async def start(self) -> None:
        """Start everything. Raises `ConfigError` (also for a port that is taken), `EngineError`, `ImageError`."""
        problems = self.pool_settings.problems()
        if problems:
            raise ConfigError(problems)
        for sentence in DockerProvisioner(parent=self).overruled():
            self.log.warning(sentence)
        raise_file_limit()
        self._bind()
        images = await self._images()
        await self.stores.open()
        self.runtime_folder.open()
        self._make_parts(images)
        await self._take_over()
        for pool in self.pools.values():
            pool.open()
        self.sessions.open()
        self.archiver.start(self.vault)
        gc.collect()
        gc.freeze()  # what is there stays: to look through it again and again would hold up callers
        self._listen()

    async def ready(self) -> None:
        """Wait until a first kernel waits in each pool that is filled ahead, or has failed to start."""
        for pool in self.pools.values():
            await pool.wait_filled()

    async def stop(self) -> None:
        """Let what runs come to its end, within bounds; then remove every container and folder."""
        if self._http is not None:
            self._http.stop()
            self.admission.close()
            deadline = time.monotonic() + self.shutdown_seconds
            if not await self.admission.wait_all_done(self.shutdown_seconds):
                self.log.warning("%d executions are cut off", self.admission.running)
            await self._attempt(self.gateway.close(max(0.0, deadline - time.monotonic())))
            await self._attempt(self.executor.close())
            await self._attempt(self.archiver.close())
            await self._attempt(self.sessions.close())
            await self._attempt(self.vault.close())
            for pool in self.pools.values():
                await self._attempt(pool.close())
            await self._attempt(self._http.close_all_connections())
            self.starter.close()
        for bound in self._sockets:
            bound.close()
        if self.runtime_folder.is_open:
            await self._attempt(remove_own(self.engine, self.runtime_folder))
        await self._attempt(self.stores.close())
        self.engine.close()
        self.runtime_folder.close()
        RuntimeFolder.clear_instance()
        Engine.clear_instance()

    @property
    def address(self) -> str:
        """The URL at which this machine reaches the server."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.bound_port}"

    def _make_parts(self, images: dict[str, str]) -> None:
        self.starter = KernelStarter(images, parent=self)
        self.pools = {
            language.id: KernelPool(language, self.starter, self.pool_settings) for language in LANGUAGES
        }
        self.vault = self._make_vault()
        state = State(self.vault, self.state_settings, WorkFolder(parent=self).limits)
        self.sessions = Sessions(self.pools, self.vault, state, self.culling, parent=self)
        self.executor = Executor(self.sessions, state, self.admission, parent=self)
        self.control = Control(self.sessions, state)
        self.gateway = Gateway(
            self.sessions,
            self.executor,
            self.control,
            self.vault,
            self.starter,
            self.replay,
            self.culling.max_busy_seconds,
            parent=self,
        )
        self.history = History(self.sessions, self.vault, state, self.admission)
        self.notebooks = Notebooks(self.executor, self.sessions, self.history, parent=self)
        self.variables = Variables(self.sessions, self.admission)
        self.health = Health(self.engine, self.pools, self.admission, self.sessions, self.stores)

    def _make_vault(self) -> Vault:
        settings, session_life = self.state_settings, self.state_settings.session_hours * 3600
        archived = self.archiver.enabled and self.stores.cold is not None
        life = Lifetimes(
            record=max(session_life, settings.ttl_seconds),
            state=settings.ttl_seconds if settings.enabled else session_life,
            archive=self.archiver.ttl_days * 86_400 if archived else 0,
        )
        archive = Archive(self.stores.cold) if self.stores.cold is not None and archived else None
        seal = Seal(settings.secret or f"of {self.authenticator.api_key}")
        return Vault(self.stores.hot, archive, seal, self.runtime_folder.name, life, self.log)

    def _bind(self) -> None:
        """Take the port, before anything is started that would have to be undone."""
        try:
            self._sockets = bind_sockets(self.port, self.host)
        except OSError as error:
            raise ConfigError(
                [f"API_HOST and API_PORT: cannot listen on {self.host}:{self.port}: {error}"]
            ) from error
        self.bound_port = self._sockets[0].getsockname()[1]

    def _listen(self) -> None:
        services = Services(
            authenticator=self.authenticator,
            executor=self.executor,
            sessions=self.sessions,
            history=self.history,
            variables=self.variables,
            health=self.health,
            control=self.control,
            gateway=self.gateway,
            notebooks=self.notebooks,
            cors=self.cors,
            web_sockets=self.web_sockets,
            log=self.log,
            started=datetime.now(UTC).isoformat(),
            max_body_bytes=self.max_request_mb << 20,
            keepalive_seconds=self.keepalive_seconds,
        )
        self._http = HTTPServer(
            application(services),
            max_body_size=MAX_DRAINED_BYTES,
            idle_connection_timeout=IDLE_CONNECTION_SECONDS,
            body_timeout=BODY_SECONDS,
        )
        self._http.add_sockets(self._sockets)

    async def _images(self) -> dict[str, str]:
        builder = ImageBuilder(self.engine.api, parent=self)
        names = {language.id: builder.name(language) for language in LANGUAGES}
        for language in LANGUAGES:
            if not await self.engine.has_image(names[language.id]):
                raise ImageError(
                    f"the image {names[language.id]} is not there: run 'kernelgate images build {language.id}'"
                )
        return names

    async def _take_over(self) -> None:
        """Go on with the kernels of servers that were killed; remove what else they left. Raises `EngineError`."""
        self.vault.dead_holders = set(self.runtime_folder.dead_instances())
        languages = self.starter.adoptable()
        survivors = await find_survivors(self.engine, self.runtime_folder, languages, is_at_rest)
        adopted = await asyncio.gather(*(self._adopt(languages[each.settings], each) for each in survivors))
        if survivors:
            self.log.info("took over %d of %d kernels of a server that was killed", sum(adopted), len(survivors))

    async def _adopt(self, language: Language, survivor: Survivor) -> bool:
        try:
            kernel = await self.starter.adopt(language, survivor)
        except KernelStartError as error:
            self.log.warning("%s", error)
            return False
        try:
            if await self.sessions.adopt(kernel, survivor.note):
                return True
        except (StoreError, StateRefused, KeyError) as error:
            self.log.warning("kernel %s is not taken over: %s", kernel.id, error)
        await kernel.close()
        return False

    async def _attempt(self, work: Coroutine[Any, Any, None]) -> None:
        """Do a part of the stop; that it fails must not keep the rest from being done."""
        try:
            await work
        except (GateError, OSError):
            self.log.exception("a part of the server did not stop as it should")


def is_at_rest(note: Mapping[str, Any]) -> bool:
    """Tell from its note whether a kernel ran nothing when its server died, so that all it has is stored."""
    return note.get("busy") is False


def raise_file_limit() -> None:
    """Allow this process as many open files as it may allow itself: a kernel takes about ten."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, os.sysconf("SC_OPEN_MAX"))
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
