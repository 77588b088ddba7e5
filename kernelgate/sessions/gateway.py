"""Sessions as Jupyter's clients see them: kernels, kernelspecs, and the documents that use a kernel."""

from __future__ import annotations

import asyncio
import fnmatch
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from weakref import WeakValueDictionary

from traitlets import Int, List, Unicode
from traitlets.config import LoggingConfigurable

from kernelgate.auth import Owner
from kernelgate.errors import Conflict, KernelLimit, KernelNotFound, KernelspecNotFound, SessionNotFound
from kernelgate.kernel.background import Background
from kernelgate.kernel.frontends import Connection, Frontends, ReplaySettings
from kernelgate.kernel.starter import KernelStarter
from kernelgate.languages import LANGUAGES, Language, find_language
from kernelgate.sessions.channels import Channels, Parts
from kernelgate.sessions.control import Control
from kernelgate.sessions.execute import Executor
from kernelgate.sessions.record import JUPYTER, Record, kernel_id
from kernelgate.sessions.session import Session
from kernelgate.sessions.sessions import HOLD_SECONDS, Sessions
from kernelgate.sessions.vault import Change, Vault

SESSION_SPEC = "session-"
"""What the kernelspec of a session is called, with its id behind."""

SESSION_VARIABLE = "KERNEL_SESSION_ID"
MAX_LISTED = 500
MAX_SESSION_SPECS = 10
MAX_DOCUMENTS = 64

Json = dict[str, Any]


@dataclass(frozen=True)
class StartRequest:
    """What a client wants of a new kernel; empty is the default."""

    name: str = ""
    kernel_id: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


class Gateway(LoggingConfigurable):
    """Hands out kernels to Jupyter's clients and connects them. Each client sees its owner's kernels only."""

    max_kernels = Int(
        0,
        min=0,
        help="Kernels that Jupyter's clients may have started at once; more are refused with 403. 0: any number.",
    ).tag(config=True, env="MAX_KERNELS", group="Jupyter")
    allowed_envs = List(
        Unicode(),
        ["KERNEL_*"],
        help="Names of environment variables that a client may give a new kernel; * stands for any characters.",
    ).tag(config=True, env="ALLOWED_ENVS", group="Jupyter")

    def __init__(
        self,
        sessions: Sessions,
        executor: Executor,
        control: Control,
        vault: Vault,
        starter: KernelStarter,
        replay: ReplaySettings,
        max_busy_seconds: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._sessions = sessions
        self._control = control
        self._vault = vault
        self._replay = replay
        self._budget = replay.budget()
        self._background = Background(self.log, "work for a Jupyter client")
        self._channels: dict[Frontends, Channels] = {}
        self._starting = 0
        self._adding: WeakValueDictionary[Owner, asyncio.Lock] = WeakValueDictionary()
        self._parts = Parts(
            sessions=sessions,
            executor=executor,
            control=control,
            background=self._background,
            max_busy_seconds=max_busy_seconds,
            info=starter.info,
            shut_down=self.shut_down,
        )

    async def close(self, seconds: float) -> None:
        """Give what runs some ``seconds`` to come to its end, then cut it off; end all connections."""
        for frontends in self._channels:
            frontends.abort()
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._background.wait())
        except TimeoutError:
            self._background.cancel()
        await self._background.wait()
        for frontends in list(self._channels):
            frontends.close()

    # ---- kernelspecs

    async def kernelspecs(self, owner: Owner) -> Json:
        """Return all kernelspecs, as ``GET /api/kernelspecs`` shows them. Raises `StoreError`."""
        specs = {language.kernel_name: _spec(language.kernel_name, language) for language in LANGUAGES}
        others = [each for each in await self._listed(owner) if each.get("origin") != JUPYTER]
        for each in others[:MAX_SESSION_SPECS]:
            language = find_language(each["lang"])
            if language is not None:
                name = SESSION_SPEC + each["session_id"]
                specs[name] = _spec(name, language, f"Session {each['session_id']}")
        return {"default": LANGUAGES[0].kernel_name, "kernelspecs": specs}

    async def kernelspec(self, owner: Owner, name: str) -> Json:
        """Return one kernelspec. Raises `KernelspecNotFound`, `StoreError`."""
        if name.startswith(SESSION_SPEC):
            found = await self._known(owner, name.removeprefix(SESSION_SPEC))
            language = find_language(found["lang"])
            if language is not None:
                return _spec(name, language, f"Session {found['session_id']}")
        return _spec(name, _language(name))

    # ---- kernels

    async def start(self, owner: Owner, request: StartRequest) -> Json:
        """Start a kernel, or open the one of a session that is named; returns its model.

        Raises `KernelLimit`, `KernelspecNotFound`, `Conflict`, `KernelStartError`, `EngineError`, `StoreError`.
        """
        session_id = request.env.get(SESSION_VARIABLE, "")
        if request.name.startswith(SESSION_SPEC):
            session_id = request.name.removeprefix(SESSION_SPEC)
        if session_id:
            return _model(await self._open(owner, session_id))
        return _model(await self._begin(owner, request))

    async def _open(self, owner: Owner, session_id: str) -> Json:
        """Show a session to Jupyter's clients again, if they had closed it."""
        described = await self._known(owner, session_id)
        if described["closed"]:
            await self._amend(owner, session_id, _reopen)
        return described

    async def _known(self, owner: Owner, session_id: str) -> Json:
        """Return what is known of a session that a kernelspec is named after. Raises `KernelspecNotFound`."""
        try:
            return await self._sessions.get(owner, session_id)
        except SessionNotFound as error:
            raise KernelspecNotFound(str(error)) from error

    async def _begin(self, owner: Owner, request: StartRequest) -> Json:
        """Begin a session with its kernel, and store it. The place for it is taken before anything is awaited."""
        language = _language(request.name)
        if self.max_kernels and self._count() >= self.max_kernels:
            raise KernelLimit(f"there are {self.max_kernels} kernels already, which is as many as there may be")
        self._starting += 1
        try:
            return await self._create(owner, request.kernel_id or str(uuid.uuid4()), language, request.env)
        finally:
            self._starting -= 1

    def _count(self) -> int:
        """Return how many kernels there are, or are about to be, for Jupyter's clients."""
        return self._starting + sum(
            session.record.origin == JUPYTER and session.stored and session.kernel is not None
            for session in self._sessions.all()
        )

    async def _create(self, owner: Owner, session_id: str, language: Language, env: Mapping[str, str]) -> Json:
        if self._sessions.find(owner, session_id) is not None:
            raise Conflict(f"there is a kernel {session_id} already")
        async with self._sessions.lease(owner, session_id, language) as session:
            try:
                async with self._sessions.hold(session, HOLD_SECONDS) as held:
                    if held.record is not None or held.refused:
                        raise Conflict(f"there is a kernel {session_id} already")
                    session.record.origin = JUPYTER
                    session.record.env = self._allowed(env)
                    await self._sessions.kernel(session)
                    record = session.record.copy()
                    await self._vault.commit(held.lease, record, Change())
                    session.record, session.stored = record, True
                    self._sessions.mark(session, busy=False)
            except BaseException:
                await self._sessions.forget(session)
                raise
            return {**session.describe(), "state": "idle"}

    def _allowed(self, env: Mapping[str, str]) -> dict[str, str]:
        return {
            name: value
            for name, value in env.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.allowed_envs)
        }

    async def kernels(self, owner: Owner) -> list[Json]:
        """Return the models of the owner's kernels, the last used first. Raises `StoreError`."""
        return [_model(each) for each in await self._listed(owner)]

    async def kernel(self, owner: Owner, kernel: str) -> Json:
        """Return a kernel's model. Raises `KernelNotFound`, `StoreError`."""
        return _model(await self._find(owner, kernel))

    async def interrupt(self, owner: Owner, kernel: str) -> None:
        """Interrupt what a kernel runs. Raises `KernelNotFound`, `StoreError`."""
        await self._control.interrupt(owner, (await self._find(owner, kernel))["session_id"])

    async def restart(self, owner: Owner, kernel: str) -> Json:
        """Give a session a new kernel; returns its model. Raises what `Control.restart` does, `KernelNotFound`."""
        found = await self._find(owner, kernel)
        await self._control.restart(owner, found["session_id"])
        return await self.kernel(owner, found["session_id"])

    async def delete(self, owner: Owner, kernel: str) -> None:
        """End a kernel. Raises `KernelNotFound`, `StoreError`."""
        await self.shut_down(owner, (await self._find(owner, kernel))["session_id"])

    async def shut_down(self, owner: Owner, session_id: str) -> None:
        """End a session's kernel; a session that Jupyter began ends too. Raises as `Sessions.get` does."""
        described = await self._sessions.get(owner, session_id)
        if described["origin"] == JUPYTER:
            await self._sessions.delete(owner, session_id)
            return
        session = self._sessions.find(owner, session_id)
        if session is not None:
            await self._sessions.shut_down(session)
        await self._amend(owner, session_id, _close)

    # ---- documents: what Jupyter calls sessions

    async def documents(self, owner: Owner) -> list[Json]:
        """Return what uses the owner's kernels. Raises `StoreError`."""
        return [model for each in await self._listed(owner) for model in _document_models(each)]

    async def document(self, owner: Owner, document_id: str) -> Json:
        """Return one of `documents`. Raises `SessionNotFound`, `StoreError`."""
        return (await self._document(owner, document_id))[1]

    async def add_document(self, owner: Owner, document: Json, kernel: str, request: StartRequest) -> Json:
        """Connect a document to a kernel, a new one unless ``kernel`` names one; one that is there stays as it is.

        Raises what `start` does, and `KernelNotFound`.
        """
        async with self._adding.setdefault(owner, asyncio.Lock()):  # two at once with one path are one document
            for model in await self.documents(owner):
                if document["path"] and model["path"] == document["path"]:
                    return model
            found = await self._find(owner, kernel) if kernel else await self._started(owner, request)
            document = {"id": str(uuid.uuid4()), **document}
            await self._put(owner, found["session_id"], document)
            return _document_model(found, document)

    async def change_document(
        self, owner: Owner, document_id: str, changes: Json, kernel: str, request: StartRequest | None
    ) -> Json:
        """Rename a document, or connect it to another kernel. Raises `SessionNotFound`, and what `start` does."""
        described, model = await self._document(owner, document_id)
        document = {name: model[name] for name in ("id", "path", "name", "type")} | changes
        target = described
        if kernel:
            target = await self._find(owner, kernel)
        elif request is not None:
            target = await self._started(owner, request)
        if target["session_id"] != described["session_id"]:
            await self._drop(owner, described, document_id)
        await self._put(owner, target["session_id"], document)
        return _document_model(target, document)

    async def delete_document(self, owner: Owner, document_id: str) -> None:
        """Take a document away; its kernel ends when no other uses it. Raises `SessionNotFound`, `StoreError`."""
        described, _model = await self._document(owner, document_id)
        await self._drop(owner, described, document_id)

    async def _document(self, owner: Owner, document_id: str) -> tuple[Json, Json]:
        for described in await self._listed(owner):
            for model in _document_models(described):
                if model["id"] == document_id:
                    return described, model
        raise SessionNotFound(f"there is no session {document_id!r}")

    async def _started(self, owner: Owner, request: StartRequest) -> Json:
        return await self._find(owner, (await self.start(owner, request))["id"])

    async def _put(self, owner: Owner, session_id: str, document: Json) -> None:
        def put(record: Record) -> None:
            others = [each for each in record.documents if each["id"] != document["id"]]
            record.documents = [*others, document][-MAX_DOCUMENTS:]

        await self._amend(owner, session_id, put)

    async def _drop(self, owner: Owner, described: Json, document_id: str) -> None:
        def drop(record: Record) -> None:
            record.documents = [each for each in record.documents if each["id"] != document_id]

        others = [each for each in described["documents"] if each["id"] != document_id]
        if others:
            await self._amend(owner, described["session_id"], drop)
        else:
            await self.shut_down(owner, described["session_id"])

    # ---- connections

    async def connect(
        self,
        owner: Owner,
        kernel: str,
        session_id: str,
        wake: Callable[[], None],
        end: Callable[[], None],
    ) -> tuple[Channels, Connection]:
        """Connect a client's socket to a kernel. Raises `KernelNotFound`, `StoreError`."""
        found = await self._find(owner, kernel)
        language = find_language(found["lang"])
        if language is None:
            raise KernelNotFound(f"kernel {kernel} is of a language that is not there any more")
        session = self._sessions.keep(owner, found["session_id"], language)
        if session.frontends is None:
            session.frontends = Frontends(self._replay, self._budget)
            if session.kernel is not None and session.kernel.alive:
                session.frontends.attach(session.kernel)
        return self._channels_of(session), session.frontends.connect(session_id, wake, end)

    def _channels_of(self, session: Session) -> Channels:
        frontends = session.frontends
        assert frontends is not None
        channels = self._channels.get(frontends)
        if channels is None:
            channels = Channels(session.owner, session.id, session.language, frontends, self._parts)
            self._channels[frontends] = channels
            frontends.on_close = lambda: self._channels.pop(frontends, None)
        return channels

    # ---- finding and changing

    async def _listed(self, owner: Owner) -> list[Json]:
        return [each for each in await self._sessions.list(owner) if not each.get("closed")][:MAX_LISTED]

    async def _find(self, owner: Owner, kernel: str) -> Json:
        """Return what is known of a session by its kernel's id or its own. Raises `KernelNotFound`."""
        known = (each.id for each in self._sessions.owned(owner) if kernel in (each.id, each.record.kernel_id))
        try:
            described = await self._sessions.get(owner, next(known, kernel))
        except SessionNotFound:
            found = (each for each in await self._listed(owner) if kernel_id(each["session_id"]) == kernel)
            described = next(found, {"closed": True})
        if described.get("closed"):
            raise KernelNotFound(f"there is no kernel {kernel!r}")
        return described

    async def _amend(self, owner: Owner, session_id: str, change: Callable[[Record], None]) -> None:
        """Change a session's record; while code runs, here at once and in the store when it has ended."""
        session = self._sessions.find(owner, session_id)
        if session is not None and session.is_running:
            change(session.record)
            self._background.spawn(self._store(owner, session_id, change))
        else:
            await self._store(owner, session_id, change)

    async def _store(self, owner: Owner, session_id: str, change: Callable[[Record], None]) -> None:
        async with self._sessions.existing(owner, session_id) as (session, held):
            record = session.record.copy()
            change(record)
            await self._vault.commit(held.lease, record, Change())
            session.record = record


def _language(name: str) -> Language:
    """Return the language of a kernelspec's name; empty is the default. Raises `KernelspecNotFound`."""
    for language in LANGUAGES:
        if name in ("", language.kernel_name):
            return language
    found = find_language(name)
    if found is None:
        known = ", ".join(language.kernel_name for language in LANGUAGES)
        raise KernelspecNotFound(f"name: one of {known} is expected, got {name[:80]!r}")
    return found


def _spec(name: str, language: Language, display_name: str = "") -> Json:
    spec = {
        "argv": list(language.argv),
        "env": {},
        "display_name": f"{display_name or language.display_name} (kernelgate)",
        "language": language.folder,
        "interrupt_mode": "message",
        "metadata": {},
    }
    return {"name": name, "spec": spec, "resources": {}}


def _model(described: Json) -> Json:
    """Return the model of a session's kernel."""
    language = find_language(described["lang"])
    busy = described["state"] == "busy"
    used = datetime.now(UTC) if busy else datetime.fromisoformat(described["last_used"])
    return {
        "id": kernel_id(described["session_id"]),
        "name": language.kernel_name if language is not None else described["lang"],
        "last_activity": used.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "execution_state": "busy" if busy else "idle",
        "connections": described.get("connections", 0),
        "session_id": described["session_id"],
    }


def _document_models(described: Json) -> list[Json]:
    """Return what uses a session's kernel; when no client has named a document, the session itself."""
    own = {"path": described["session_id"], "name": described["session_id"], "type": "console"}
    documents = described.get("documents") or []
    if not documents:
        documents = [{"id": kernel_id(described["session_id"]), **own}]
    return [_document_model(described, document) for document in documents]


def _document_model(described: Json, document: Json) -> Json:
    notebook = {"path": document["path"], "name": document["name"]}
    return {**document, "kernel": _model(described), "notebook": notebook}


def _reopen(record: Record) -> None:
    record.closed = False


def _close(record: Record) -> None:
    record.closed = True
    record.documents = []
