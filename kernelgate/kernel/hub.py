"""A live kernel: its channels, who listens to them, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import zmq
from traitlets import Int
from traitlets.config import LoggingConfigurable

from kernelgate.containers.engine import GONE, Exit
from kernelgate.containers.provisioner import DockerProvisioner
from kernelgate.errors import KernelDied, Unavailable
from kernelgate.kernel.activity import Activity
from kernelgate.kernel.channels import Channel
from kernelgate.kernel.manager import KernelManager
from kernelgate.kernel.messages import OWN_MESSAGES, BadMessage, Encoder, Message, parse
from kernelgate.kernel.wire import ClientMessage
from kernelgate.languages import Language

Listener = Callable[[Message], None]
Replies = Callable[[str, Message], None]
"""Takes a channel and what came on it that no request of the server waits for."""

HELLO_SECONDS = 0.1
STDIN_SECONDS = 2.0
INTERRUPT_SECONDS = 1.0
"""Seconds in which a kernel confirms an interrupt, unless C code keeps its threads from running."""

STATE_MESSAGE = "kernelgate_state"


class Request:
    """A request that was sent: its id and the future of its reply.

    ``on_state`` takes the messages with state that a kernel sends on the same channel besides its reply,
    ``on_input`` its questions to the user.
    """

    __slots__ = ("msg_id", "on_input", "on_output", "on_state", "reply")

    def __init__(
        self,
        msg_id: str,
        on_output: Listener | None = None,
        on_state: Listener | None = None,
        on_input: Listener | None = None,
    ) -> None:
        self.msg_id = msg_id
        self.on_output = on_output
        self.on_state = on_state
        self.on_input = on_input
        self.reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()


class Kernel(LoggingConfigurable):
    """A kernel in its container.

    There is one subscription to its iopub channel; `subscribe` hands each message on. Messages that belong to a
    request of `send` reach that request's ``on_output`` too.
    """

    max_message_mb = Int(
        64, min=1, help="MB of one message from a kernel. A kernel that sends a larger one loses output."
    ).tag(config=True)

    def __init__(
        self, manager: KernelManager, language: Language, context: zmq.Context[Any], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.manager = manager
        self.language = language
        self.id: str = manager.kernel_id
        self.warmth = 0
        """How many of the libraries to be imported ahead have been."""
        self.ended: asyncio.Future[Exit] = asyncio.wrap_future(self.provisioner.ended_future)
        self.dropped_messages = 0
        self.info: dict[str, Any] = {}
        """The content of the last ``kernel_info_reply`` to `wait_ready`."""
        self.on_other: Replies | None = None
        self.heard_at = 0.0
        """When it last put something out, as `time.monotonic` has it."""
        self.activity = Activity()
        self._in_a_hurry = 0
        self.interrupts = 0
        """How many times it was asked to interrupt what it runs."""
        self._interrupting: Request | None = None
        """An interrupt that the kernel has not confirmed yet."""
        self._interrupts_again = False
        """Whether another one goes behind it. More would do no more than that one."""
        self.closed = False
        """Whether nobody uses it any more."""
        self.is_ended = False
        """Whether its end is wanted by somebody who tells its clients of it."""
        self._requests: dict[str, Request] = {}
        self._subscribers: list[Listener] = []
        self._encoder = Encoder(manager.session.key)
        self._heard = asyncio.Event()
        self._context = context
        self._channels: dict[str, Channel] = {}
        self._channel("iopub")
        self._channel("shell")
        self.ended.add_done_callback(self._on_end)

    @property
    def provisioner(self) -> DockerProvisioner:
        provisioner = self.manager.provisioner
        assert isinstance(provisioner, DockerProvisioner)
        return provisioner

    @property
    def alive(self) -> bool:
        return not self.ended.done() and not self.closed

    @property
    def end(self) -> Exit | None:
        """How the kernel ended, `GONE` when it was closed; None while it lives."""
        if self.ended.done():
            return self.ended.result()
        return GONE if self.closed else None

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have ``listener`` called with each iopub message; returns what ends that."""
        self._subscribers.append(listener)
        return lambda: self._subscribers.remove(listener)

    def send(
        self,
        channel: str,
        msg_type: str,
        content: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        on_output: Listener | None = None,
        on_state: Listener | None = None,
        on_input: Listener | None = None,
        buffers: Sequence[bytes] = (),
        header: Mapping[str, Any] | None = None,
    ) -> Request:
        """Send a request on ``shell`` or ``control``. Its reply fails with `KernelDied` when the kernel ends.

        ``header`` is that of a client's request, which must not be under way already. Raises `Unavailable` when
        the kernel takes no more. Whoever sends must `forget` the request in the end.
        """
        header = header or self._encoder.header(msg_type)
        frames = self._encoder.encode(header, content, metadata, buffers)
        request = Request(header["msg_id"], on_output, on_state, on_input)
        self._requests[request.msg_id] = request
        if not self.alive:
            self._fail(request)
            return request
        try:
            self._channel(channel).send(frames)
        except Unavailable:
            self.forget(request)
            raise
        return request

    def forget(self, request: Request) -> None:
        """Take no more messages for ``request``: it is done, even where the kernel did not say so."""
        self._requests.pop(request.msg_id, None)
        self.activity.end(request.msg_id)
        request.reply.cancel()

    def is_asked(self, msg_id: str) -> bool:
        """Tell whether a request with that id is under way."""
        return msg_id in self._requests

    def forward(self, message: ClientMessage) -> None:
        """Send a client's message as it is; what comes of it goes to ``on_other``. Raises `Unavailable`."""
        if self.alive:
            frames = self._encoder.encode(
                message.header, message.content, message.metadata, message.buffers, message.parent_header
            )
            self._channel(message.channel).send(frames)

    def answer(self, question: Message, value: str) -> None:
        """Answer an ``input_request``. Raises `Unavailable`."""
        if self.alive:
            header = self._encoder.header("input_reply")
            parent = question.header
            self._channel("stdin").send(self._encoder.encode(header, {"value": value}, parent_header=parent))

    async def open_stdin(self) -> bool:
        """Make sure that the kernel's questions reach us; False: it takes no connection to put them on."""
        try:
            async with asyncio.timeout(STDIN_SECONDS):
                if self.alive:
                    await self._channel("stdin").wait_connected()
        except TimeoutError:
            return False
        return True

    def pause(self, paused: bool) -> None:
        """Leave the kernel's output where it is, in its container, unless somebody is in a hurry; or read on."""
        self._channel("iopub").pause(paused and not self._in_a_hurry)

    def hurry(self, more: bool) -> None:
        """Somebody waits for all of the output, or has it: no other client is waited for meanwhile."""
        self._in_a_hurry += 1 if more else -1
        if self._in_a_hurry and self.alive:
            self.pause(False)

    @property
    def paused(self) -> bool:
        return self._channels["iopub"].paused

    async def ask(self, channel: str, msg_type: str, content: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request and return the content of its reply. Raises `TimeoutError`, `KernelDied`."""
        request = self.send(channel, msg_type, content)
        try:
            async with asyncio.timeout(timeout):
                return (await request.reply).content
        finally:
            self.forget(request)

    def interrupt(self) -> None:
        """Ask the kernel to interrupt what it runs."""
        self.interrupts += 1
        if self._interrupting is not None:
            self._interrupts_again = True
        else:
            self._send_interrupt()

    def _send_interrupt(self) -> None:
        self._interrupts_again = False
        if self.alive:
            with contextlib.suppress(Unavailable):  # who takes no message is killed in the end
                self._interrupting = self.send("control", "interrupt_request", {})
                self._interrupting.reply.add_done_callback(self._on_interrupted)

    def _on_interrupted(self, _reply: asyncio.Future[Message]) -> None:
        if self._interrupting is not None:
            self.forget(self._interrupting)
            self._interrupting = None
        if self._interrupts_again:
            self._send_interrupt()

    async def settle_interrupts(self) -> None:
        """Wait until the kernel has taken the interrupts that it was sent: they are not for what comes now."""
        if self._interrupting is None:
            return
        try:
            async with asyncio.timeout(INTERRUPT_SECONDS):
                while self._interrupting is not None and self.alive:
                    await asyncio.wait({self._interrupting.reply})
        except TimeoutError:
            self._interrupts_again = False
            if self._interrupting is not None:
                self.forget(self._interrupting)

    async def kill(self) -> None:
        """Kill the kernel at once; returns when it has ended."""
        await self.provisioner.kill()
        await self.wait_ended()

    async def wait_ended(self) -> Exit:
        return await asyncio.shield(self.ended)

    async def wait_ready(self, timeout: float) -> None:
        """Wait until the kernel answers on shell and our iopub subscription is in effect.

        Raises `TimeoutError`, `KernelDied`.
        """
        async with asyncio.timeout(timeout):
            self.info = await self.ask("shell", "kernel_info_request", {}, timeout)
            while not self._heard.is_set():
                await self.ask("shell", "kernel_info_request", {}, timeout)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HELLO_SECONDS):
                        await self._heard.wait()

    async def listen_again(self, timeout: float) -> bool:
        """Find out whether iopub still reaches us, after messages were missed. False: it does not."""
        self._heard.clear()
        try:
            await self.wait_ready(timeout)
        except (TimeoutError, KernelDied):
            return False
        return True

    def note(self, data: Mapping[str, Any]) -> None:
        """Leave a note for a server that takes the kernel over when this one was killed."""
        if not self.alive or self.provisioner.folder is None:
            return
        try:
            self.provisioner.folder.write_note(data)
        except OSError as error:
            self.log.warning("kernel %s could not be taken over later: %s", self.id, error)

    async def close(self) -> None:
        """End the kernel and remove its container and its folder. Requests under way fail."""
        self.closed = True
        self._close_channels()
        await self.provisioner.cleanup()
        self.manager.forget()

    def _channel(self, name: str) -> Channel:
        """Return a channel, connected at its first use: most kernels never need control."""
        if name not in self._channels:
            kind = zmq.SUB if name == "iopub" else zmq.DEALER
            take = self._on_iopub if name == "iopub" else partial(self._on_reply, name)
            # a kernel puts its questions to whoever has the same identity on stdin as on shell
            identity = b"" if name == "iopub" else self._encoder.session.encode()
            size = self.max_message_mb << 20
            self._channels[name] = Channel(
                self._context, kind, self._url(name), take, size, identity, immediate=name == "stdin"
            )
        return self._channels[name]

    def _url(self, channel: str) -> str:
        return str(self.manager._make_url(channel))

    def _on_iopub(self, frames: list[bytes]) -> None:
        self._heard.set()
        self.heard_at = time.monotonic()
        message = self._read(frames)
        if message is None:
            return
        self.activity.watch(message)
        request = self._requests.get(message.parent_id)
        if request is not None and request.on_output is not None:
            request.on_output(message)
        for listener in self._subscribers:
            listener(message)

    def _on_reply(self, channel: str, frames: list[bytes]) -> None:
        message = self._read(frames)
        if message is None:
            return
        request = self._requests.get(message.parent_id)
        if message.msg_type.startswith(OWN_MESSAGES) or request is not None:
            self._on_answer(channel, message, request)
        elif self.on_other is not None:
            self.on_other(channel, message)

    def _on_answer(self, channel: str, message: Message, request: Request | None) -> None:
        if request is None:
            return
        if message.msg_type == STATE_MESSAGE:
            if request.on_state is not None:
                request.on_state(message)
        elif channel == "stdin":
            if request.on_input is not None:
                request.on_input(message)
        elif not request.reply.done():
            request.reply.set_result(message)

    def _read(self, frames: list[bytes]) -> Message | None:
        try:
            return parse(frames)
        except BadMessage as error:
            self.dropped_messages += 1
            if self.dropped_messages == 1:
                self.log.warning("kernel %s sent what is no message: %s", self.id, error)
            return None

    def _on_end(self, _ended: asyncio.Future[Exit]) -> None:
        self.pause(False)  # what it has said before can only be read now
        for request in list(self._requests.values()):
            self._fail(request)

    def _fail(self, request: Request) -> None:
        if not request.reply.done():
            request.reply.set_exception(KernelDied(f"kernel {self.id} has ended"))
            request.reply.exception()  # whoever waits gets it; nobody waiting is no error

    def _close_channels(self) -> None:
        for channel in self._channels.values():
            channel.close()
        self._on_end(self.ended)
