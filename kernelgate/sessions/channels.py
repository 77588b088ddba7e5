"""A session's Jupyter channels: what clients send goes to its kernel in order, whichever kernel that is.

Shell messages form one queue, as in a kernel. The next one is taken when an execution has ended and its state is
stored; so an evicted kernel comes back when there is something to do, and all is saved as for ``POST /exec``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from kernelgate.auth import Owner
from kernelgate.errors import Aborted, GateError, Unavailable
from kernelgate.kernel.background import Background
from kernelgate.kernel.client import Cell, Status
from kernelgate.kernel.frontends import Connection, Frontends, checked_parts, message_parts
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.messages import OWN_MESSAGES, BadMessage, Message, to_json
from kernelgate.kernel.wire import ClientMessage, plain_header
from kernelgate.languages import Language
from kernelgate.sessions.control import Control
from kernelgate.sessions.execute import Done, ExecRequest, Executor
from kernelgate.sessions.session import Ready
from kernelgate.sessions.sessions import Sessions

QUEUE_MESSAGES = 1000
QUEUE_BYTES = 32 << 20
PASSING_OVERHEAD = QUEUE_BYTES // 100
MAX_ANSWER_BYTES = 1 << 20
"""Bytes of what a user types."""

FULL_PAUSE = 0.05
"""Seconds until a kernel that took no more messages is tried again."""

TRIES = 200
ABORTED = {"status": "aborted"}
MAX_TEXT = 10_000
"""Characters of an error that the server tells of."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A message of a client, and where its answers go."""

    message: ClientMessage
    name: str

    @property
    def is_execution(self) -> bool:
        return self.message.msg_type == "execute_request"

    @property
    def stops_on_error(self) -> bool:
        """Whether what waits behind it is not to run when it fails."""
        return self.is_execution and self.message.content.get("stop_on_error", True) is True

    @property
    def parent(self) -> bytes:
        """The header, as that of what it is the parent of."""
        return to_json(self.message.header)


class Channels:
    """The channels of one session, as its clients see them."""

    def __init__(
        self,
        owner: Owner,
        session_id: str,
        language: Language,
        frontends: Frontends,
        parts: Parts,
    ) -> None:
        self.frontends = frontends
        self._owner = owner
        self._session_id = session_id
        self._language = language
        self._parts = parts
        self._queue: deque[Asked] = deque()
        self._waiting_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._worker: asyncio.Task[None] | None = None
        self._is_asking = False
        """Whether the running code has asked the user something."""
        self._passing = 0
        """Bytes of messages that go round the queue, and a little more for each."""
        frontends.on_death = self._on_death
        frontends.on_abort = self._abort

    # ---- what clients send

    async def take(self, connection: Connection, message: ClientMessage) -> None:
        """Take a client's message; returns when there is room for another. Raises `BadMessage`."""
        if self.frontends.closed or self._is_under_way(message.msg_id):
            return  # the answers to an id that is taken would go to somebody else
        if message.msg_type.startswith(OWN_MESSAGES):
            raise BadMessage(f"{message.msg_type} is no message for clients to send")
        if message.channel == "stdin" and message.size > MAX_ANSWER_BYTES:
            raise BadMessage(f"an input of at most {MAX_ANSWER_BYTES} bytes is expected")
        metadata = {name: value for name, value in message.metadata.items() if name != "kernelgate"}
        message = replace(message, header=plain_header(message.header), metadata=metadata)
        asked = Asked(message, connection.name)
        if message.msg_type == "kernel_info_request" and message.channel != "stdin" and self._tell_info(asked):
            return
        if message.channel == "shell" and not message.header.get("subshell_id"):
            try:
                await self._enqueue(asked)
            except Unavailable as error:
                self._fail(asked, "Unavailable", str(error))
        else:
            work = self._parts.background.spawn(self._pass_by(asked))
            self._passing += message.size + PASSING_OVERHEAD
            if self._passing > QUEUE_BYTES:
                await asyncio.wait({work})

    def _is_under_way(self, msg_id: str) -> bool:
        session = self._parts.sessions.find(self._owner, self._session_id)
        return session is not None and session.kernel is not None and session.kernel.is_asked(msg_id)

    async def _enqueue(self, asked: Asked) -> None:
        """Have a message wait for its turn. Raises `Unavailable` where the client cannot be made to wait, too."""
        if self._fills(2):
            raise Unavailable("the kernel waits for an input, and has more to do than can be kept for it")
        self._queue.append(asked)
        self._waiting_bytes += asked.message.size
        if self._worker is None:
            self._worker = self._parts.background.spawn(self._work())
        if self._fills(1) and not self._is_asking:
            self._room.clear()
        await self._room.wait()

    def _fills(self, times: int) -> bool:
        return len(self._queue) > times * QUEUE_MESSAGES or self._waiting_bytes > times * QUEUE_BYTES

    # ---- in order

    async def _work(self) -> None:
        """Do what waits, one after the other."""
        try:
            while self._queue:
                asked = self._next()
                try:
                    if asked.is_execution:
                        await self._execute(asked)
                    else:
                        await self._forward(asked)
                except Aborted:
                    self._reply_idle(asked, "execute_reply", ABORTED)
                except (GateError, BadMessage) as error:
                    self._fail(asked, type(error).__name__, str(error))
                    if asked.stops_on_error:
                        self._abort()
        finally:
            self._worker = None

    def _next(self) -> Asked:
        asked = self._queue.popleft()
        self._waiting_bytes -= asked.message.size
        self._room.set()
        return asked

    def _abort(self) -> None:
        """Run nothing of what waits: its clients are told."""
        waiting = [asked for asked in self._queue if asked.is_execution]
        self._queue = deque(asked for asked in self._queue if not asked.is_execution)
        self._waiting_bytes = sum(asked.message.size for asked in self._queue)
        self._room.set()
        for asked in waiting:
            self._reply_idle(asked, "execute_reply", ABORTED)

    async def _execute(self, asked: Asked) -> None:
        content = execute_content(asked.message.content)
        request = ExecRequest(
            owner=self._owner,
            language=self._language,
            code=content["code"],
            session_id=self._session_id,
            timeout=self._parts.max_busy_seconds or None,
            allow_stdin=content["allow_stdin"],
            on_input=lambda question: self._ask(asked, question),
            cell=Cell(asked.message.header, asked.message.metadata, {**content, "stop_on_error": False}),
        )
        self.frontends.run(True)
        try:
            done = await self._parts.executor.execute(request, lambda _it, ready: self._on_start(asked, ready))
        finally:
            self.frontends.run(False)
            self._is_asking = False
        self._finish(asked, done)
        if asked.stops_on_error and done.result.status is not Status.OK:
            self._abort()

    def _on_start(self, asked: Asked, ready: Ready) -> None:
        """Tell what of the session's state is not in the kernel that runs the cell."""
        if ready.kernel.is_asked(asked.message.msg_id):
            raise Unavailable("a request with the same msg_id runs already")
        if ready.problem:
            self._warn(asked, f"The session's state could not be restored, it begins anew: {ready.problem}")
        elif ready.restored.lost:
            lost = ", ".join(f"{each['name']} ({each['reason']})" for each in ready.restored.lost)
            self._warn(asked, f"The kernel was started again. These could not be restored: {lost}")

    def _ask(self, asked: Asked, question: Message) -> None:
        """Put a question to the client. Its answer may come behind more than there is room for."""
        self._is_asking = True
        self._room.set()
        with contextlib.suppress(BadMessage):
            self.frontends.publish("stdin", checked_parts(question), asked.name)

    def _finish(self, asked: Asked, done: Done) -> None:
        """Send the reply, with what became of the state; of a kernel that is dead, the end of the cell as well."""
        result, state = done.result, done.reply["state"]
        if state["error"]:
            self._warn(asked, f"The session's state was not saved: {state['error']}")
        own = {"kernelgate": {"session_id": self._session_id, "state": state}}
        try:
            parts = checked_parts(result.reply) if result.reply is not None else None
        except BadMessage:
            parts = None
        if parts is not None and result.reply is not None:
            if not result.idle:
                self.frontends.status("idle", asked.parent)
            metadata = to_json({**result.reply.metadata, **own})
            self.frontends.publish("shell", [*parts[:2], metadata, *parts[3:]], asked.name)
        else:
            name = "KernelDied" if result.kernel_lost else "KeyboardInterrupt"
            self._end(asked, name, done.reply["stderr"].strip()[-MAX_TEXT:])
        kernel = done.ready.kernel
        if result.kernel_lost and not kernel.is_ended and not kernel.closed:
            self.frontends.status("restarting")

    # ---- at once

    async def _pass_by(self, asked: Asked) -> None:
        """Do what does not wait for its turn: control, stdin, and what runs in subshells."""
        message = asked.message
        try:
            if message.msg_type == "shutdown_request":
                await self._shut_down(asked)
            elif message.msg_type == "interrupt_request":
                await self._parts.control.interrupt(self._owner, self._session_id)
                self._answer(asked, "interrupt_reply", {"status": "ok"})
            elif message.channel == "stdin":
                session = self._parts.sessions.find(self._owner, self._session_id)
                if session is not None and session.kernel is not None:
                    session.kernel.forward(message)
            else:
                if message.msg_type == "delete_subshell_request":
                    await self.frontends.settle_subshell(str(message.content.get("subshell_id")))
                await self._forward(asked)
        except (GateError, BadMessage) as error:
            self._fail(asked, type(error).__name__, str(error))
        finally:
            self._passing -= message.size + PASSING_OVERHEAD

    async def _shut_down(self, asked: Asked) -> None:
        restart = asked.message.content.get("restart") is True
        if restart:
            await self._parts.control.restart(self._owner, self._session_id)
        self._answer(asked, "shutdown_reply", {"status": "ok", "restart": restart})
        if not restart:
            await self._parts.shut_down(self._owner, self._session_id)

    async def _forward(self, asked: Asked) -> None:
        """Hand a message to the kernel, which may have to be started for it. Raises `GateError`."""
        message = asked.message
        session = self._parts.sessions.find(self._owner, self._session_id)
        kernel = session.kernel if session is not None else None
        if kernel is None or not kernel.alive:
            if self._needs_no_kernel(asked):
                return
            kernel = await self._kernel()
        if message.msg_type == "kernel_info_request" and self._tell_info(asked):
            return
        if session is not None and message.msg_type in ("execute_request", "comm_msg"):
            session.is_whole = False  # what it changes is not stored before the next cell
        self.frontends.expect(message.msg_id, asked.name)
        await self.frontends.hand(message, partial(self._lose, asked))
        try:
            await hand_over(kernel, message)
        except Unavailable:
            self.frontends.take_back(message.msg_id)
            raise

    def _needs_no_kernel(self, asked: Asked) -> bool:
        """Answer what is about comms: those there were went with the kernel. False for anything else."""
        if asked.message.msg_type == "comm_info_request":
            self._reply_idle(asked, "comm_info_reply", {"status": "ok", "comms": {}})
        elif asked.message.msg_type in ("comm_msg", "comm_close"):
            self.frontends.status("busy", asked.parent)
            self.frontends.status("idle", asked.parent)
        else:
            return False
        return True

    async def _kernel(self) -> Kernel:
        """Return the session's kernel, started for the purpose. Raises `GateError`."""
        async with self._parts.sessions.existing(self._owner, self._session_id) as (session, held):
            return (await self._parts.sessions.kernel(session, held.problem)).kernel

    # ---- what the server says itself

    def _tell_info(self, asked: Asked) -> bool:
        """Answer a ``kernel_info_request``, which no kernel has to be asked for; False when there was none yet."""
        info = self._parts.info.get(self._language.id)
        if info is None:
            return False
        self._reply_idle(asked, "kernel_info_reply", info)
        session = self._parts.sessions.find(self._owner, self._session_id)
        if session is not None and session.is_running and self.frontends.busy_with:
            self.frontends.status("busy", self.frontends.busy_with)
        return True

    def _reply_idle(self, asked: Asked, msg_type: str, content: Mapping[str, Any]) -> None:
        self.frontends.status("busy", asked.parent)
        self._answer(asked, msg_type, content)
        self.frontends.status("idle", asked.parent)

    def _answer(self, asked: Asked, msg_type: str, content: Mapping[str, Any]) -> None:
        parts = message_parts(msg_type, content, asked.parent)
        self.frontends.publish(asked.message.channel, parts, asked.name)

    def _warn(self, asked: Asked, text: str) -> None:
        self.frontends.say("stream", {"name": "stderr", "text": f"[{text}]\n"}, asked.parent)

    def _fail(self, asked: Asked, name: str, text: str) -> None:
        """Tell the client that its request came to nothing, so that it does not wait."""
        self.frontends.status("busy", asked.parent)
        self._end(asked, name, text)

    def _end(self, asked: Asked, name: str, text: str) -> None:
        """End a request with an error, in the kernel's place."""
        error = {"ename": name, "evalue": text, "traceback": [f"{name}: {text}"]}
        if asked.is_execution:
            self.frontends.say("error", error, asked.parent)
        self.frontends.status("idle", asked.parent)
        reply = asked.message.msg_type.removesuffix("_request") + "_reply"
        if reply != asked.message.msg_type + "_reply":
            self._answer(asked, reply, {"status": "error", "execution_count": None, **error})

    def _lose(self, asked: Asked) -> None:
        """Tell the client that its request was not done: the kernel has ended."""
        self._end(asked, "KernelDied", "the kernel ended before it had done this")

    def _on_death(self) -> None:
        """Tell clients that the kernel ended although it was not to; the next cell brings another."""
        if not self.frontends.is_running:
            self.frontends.status("restarting")


@dataclass(frozen=True)
class Parts:
    """What all channels share; the gateway makes it once."""

    sessions: Sessions
    executor: Executor
    control: Control
    background: Background
    max_busy_seconds: int
    info: Mapping[str, Json]
    """By language id: the content of a ``kernel_info_reply``, once a kernel was there."""
    shut_down: Callable[[Owner, str], Any]


async def hand_over(kernel: Kernel, message: ClientMessage) -> None:
    """Send a message to a kernel, after others that it has not taken yet. Raises `Unavailable`."""
    await kernel.settle_interrupts()
    for _ in range(TRIES):
        if not kernel.alive:
            raise Unavailable("the kernel has ended")
        try:
            kernel.forward(message)
        except Unavailable:
            await asyncio.sleep(FULL_PAUSE)
        else:
            return
    raise Unavailable("the kernel takes no more messages")


def execute_content(content: Mapping[str, Any]) -> Json:
    """Return the content of an ``execute_request`` with all its fields. Raises `BadMessage`."""
    code = content.get("code")
    expressions = content.get("user_expressions") or {}
    if not isinstance(code, str):
        raise BadMessage("code: a text is expected")
    if not isinstance(expressions, dict) or not all(isinstance(each, str) for each in expressions.values()):
        raise BadMessage("user_expressions: an object of texts is expected")
    flags = {"silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
    given = {name: content.get(name, default) for name, default in flags.items()}
    for name, value in given.items():
        if not isinstance(value, bool):
            raise BadMessage(f"{name}: true or false is expected")
    if given["silent"]:
        given["store_history"] = False
    return {"code": code, "user_expressions": expressions, **given}
