"""A live kernel: its channels, who listens to them, and its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zmq
from traitlets import Int
from traitlets.config import LoggingConfigurable

from kernelgate.containers.engine import GONE, Exit
from kernelgate.containers.provisioner import DockerProvisioner
from kernelgate.errors import KernelDied, Unavailable
from kernelgate.kernel.channels import Channel
from kernelgate.kernel.manager import KernelManager
from kernelgate.kernel.messages import BadMessage, Encoder, Message, parse
from kernelgate.languages import Language

Listener = Callable[[Message], None]

HELLO_SECONDS = 0.1
STATE_MESSAGE = "kernelgate_state"


class Request:
    """A request that was sent: its id and the future of its reply.

    ``on_state`` takes the messages with state that a kernel sends on the same channel besides its reply.
    """

    __slots__ = ("msg_id", "on_output", "on_state", "reply")

    def __init__(self, msg_id: str, on_output: Listener | None, on_state: Listener | None) -> None:
        self.msg_id = msg_id
        self.on_output = on_output
        self.on_state = on_state
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
        self._closed = False
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
        return not self.ended.done() and not self._closed

    @property
    def end(self) -> Exit | None:
        """How the kernel ended, `GONE` when it was closed; None while it lives."""
        if self.ended.done():
            return self.ended.result()
        return GONE if self._closed else None

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
        buffers: Sequence[bytes] = (),
    ) -> Request:
        """Send a request on ``shell`` or ``control``. Its reply fails with `KernelDied` when the kernel ends.

        Raises `Unavailable` when the kernel takes no more. Whoever sends must `forget` the request in the end.
        """
        msg_id, frames = self._encoder.encode(msg_type, content, metadata, buffers)
        request = self._requests[msg_id] = Request(msg_id, on_output, on_state)
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
        """Take no more messages for ``request``."""
        self._requests.pop(request.msg_id, None)
        request.reply.cancel()

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
        if self.alive:
            with contextlib.suppress(Unavailable):  # who takes no message is killed in the end
                self.forget(self.send("control", "interrupt_request", {}))

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
            await self.ask("shell", "kernel_info_request", {}, timeout)
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
        self._closed = True
        self._close_channels()
        await self.provisioner.cleanup()
        self.manager.forget()

    def _channel(self, name: str) -> Channel:
        """Return a channel, connected at its first use: most kernels never need control."""
        if name not in self._channels:
            kind = zmq.SUB if name == "iopub" else zmq.DEALER
            take = self._on_iopub if name == "iopub" else self._on_reply
            self._channels[name] = Channel(self._context, kind, self._url(name), take, self.max_message_mb << 20)
        return self._channels[name]

    def _url(self, channel: str) -> str:
        return str(self.manager._make_url(channel))

    def _on_iopub(self, frames: list[bytes]) -> None:
        self._heard.set()
        message = self._read(frames)
        if message is None:
            return
        request = self._requests.get(message.parent_id)
        if request is not None and request.on_output is not None:
            request.on_output(message)
        for listener in self._subscribers:
            listener(message)

    def _on_reply(self, frames: list[bytes]) -> None:
        message = self._read(frames)
        request = self._requests.get(message.parent_id) if message is not None else None
        if message is None or request is None:
            return
        if message.msg_type == STATE_MESSAGE:
            if request.on_state is not None:
                request.on_state(message)
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
