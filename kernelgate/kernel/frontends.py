"""The clients of a kernel: each gets every message in order, whether it is connected at the moment or not."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from traitlets import Float, Int
from traitlets.config import LoggingConfigurable

from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.journal import Budget, Item, Journal
from kernelgate.kernel.messages import BadMessage, Message, new_header, read_object, to_json
from kernelgate.kernel.rates import OUTPUTS, Rates
from kernelgate.kernel.wire import ClientMessage

STALL_SECONDS = 5.0
"""Seconds without progress after which nobody waits for a client any more."""

MAX_LEFT = 16
"""Clients that are remembered although they are gone, per kernel."""

MAX_COMMS = 10_000
MAX_ASKED = 10_000
MAX_ID_CHARS = 256
MAX_NAMES = 16
SUCCEEDED_SECONDS = 60.0
"""Seconds for which a client is remembered that another one has taken the place of."""

HANDED_BYTES = 32 << 20
HANDED_MESSAGES = 500
"""Messages that a kernel may have been sent and not done."""

SUBSHELL_SECONDS = 2.0
"""Seconds for which the deletion of a subshell waits for what the kernel has to do there."""

SMALL_BYTES = 1 << 16
"""Bytes of the largest iopub message that is kept when outputs are dropped."""

RATE_EXCEEDED = "[outputs were dropped: more came than IOPUB_MSG_RATE_LIMIT or IOPUB_DATA_RATE_LIMIT allow]\n"
SERVER = "kernelgate"
"""What the headers of the server's own messages give as their session."""


class ReplaySettings(LoggingConfigurable):
    """How much is kept for clients that are slow or not connected."""

    buffer_mb = Int(
        64,
        min=1,
        help="MB of messages that are kept for the clients of one kernel until they have read them. They are told "
        "when that was not enough.",
    ).tag(config=True, env="REPLAY_BUFFER_MB", group="Jupyter")
    total_mb = Int(512, min=1, help="MB of messages that are kept for the clients of all kernels together.").tag(
        config=True, env="REPLAY_TOTAL_MB", group="Jupyter"
    )
    seconds = Int(
        3600,
        min=0,
        help="Seconds for which messages are kept for a client that has gone and may come back.",
    ).tag(config=True, env="REPLAY_SECONDS", group="Jupyter")

    message_rate = Float(
        0.0, min=0.0, help="Outputs of a kernel per second; what exceeds it is dropped. 0: any number."
    ).tag(config=True, env="IOPUB_MSG_RATE_LIMIT", group="Jupyter")
    data_rate = Float(
        0.0, min=0.0, help="Bytes of a kernel's outputs per second; what exceeds it is dropped. 0: any number."
    ).tag(config=True, env="IOPUB_DATA_RATE_LIMIT", group="Jupyter")

    def budget(self) -> Budget:
        """Return what all kernels share."""
        return Budget(self.total_mb << 20)


class WebSockets(LoggingConfigurable):
    """How the sockets of clients are treated."""

    max_message_mb = Int(32, min=1, help="MB of one message from a client; a larger one ends its connection.").tag(
        config=True, env="WEBSOCKET_MAX_MESSAGE_MB", group="Jupyter"
    )
    ping_seconds = Float(
        20.0, min=0.1, help="Seconds after which a client is asked for a sign of life, again and again."
    ).tag(config=True, env="WEBSOCKET_PING_SECONDS", group="Jupyter")
    timeout_seconds = Float(
        60.0, min=0.2, help="Seconds without a sign of life after which the connection to a client is ended."
    ).tag(config=True, env="WEBSOCKET_TIMEOUT_SECONDS", group="Jupyter")


class Handed(NamedTuple):
    """A message that a kernel was sent: its bytes, the subshell that it is for, what to do when it is lost."""

    size: int
    subshell_id: str
    on_lost: Callable[[], None]


NOTHING = Handed(0, "", lambda: None)


class Frontend:
    """One client, as its session id names it: where it is, and what it has got."""

    def __init__(self, name: str, delivered: int) -> None:
        self.names = [name]
        """Its own name, and those of clients whose messages it gets in their place."""
        self.delivered = delivered
        """The number of the first message that it is not known to have."""
        self.sent = delivered
        """The number of the first message that was never sent to it."""
        self.connections: set[Connection] = set()
        self.left_at = 0.0
        self.is_succeeded = False
        """Whether another client has taken its place; it may come back all the same."""

    @property
    def needs(self) -> int:
        """The number of the first message that is still kept for it."""
        return min([self.delivered, *(each.cursor for each in self.connections)])


class Connection:
    """One socket of a client: its place in the journal.

    ``wake`` is called when there is something to take, ``end`` when the server wants the socket closed.
    """

    def __init__(
        self,
        frontends: Frontends,
        frontend: Frontend,
        name: str,
        wake: Callable[[], None],
        end: Callable[[], None],
    ) -> None:
        self._frontends = frontends
        self.frontend = frontend
        self.name = name
        """What the client's requests are answered to."""
        self.wake = wake
        self.end = end
        self.cursor = frontend.delivered
        """The number of the message that it is sent next."""
        self._sent_before = frontend.sent
        self.position = frontends.journal.start_of(self.cursor)
        self.moved_at = time.monotonic()

    def take(self) -> tuple[str, Sequence[bytes]] | None:
        """Return the channel and the parts of the message that this client is sent next, None when it has all."""
        journal = self._frontends.journal
        while (item := journal.from_number(self.cursor)) is not None:
            if self.cursor < item.number:
                return self._say_lost(item)
            self.cursor += 1
            self.position, self.moved_at = item.start + item.size, time.monotonic()
            self.frontend.sent = max(self.frontend.sent, self.cursor)
            if item.once and item.number < self._sent_before:
                continue
            if not item.to or item.to in self.frontend.names:
                return item.channel, item.parts
        self.position = journal.end  # what is missing at the end is told with what comes next
        return None

    def _say_lost(self, item: Item) -> tuple[str, Sequence[bytes]]:
        """Go on at ``item``, before which messages are missing; returns what the user is told instead.

        It is shown where the output of what ``item`` answers to is: that is mostly the end of the same cell.
        """
        count, self.cursor, self.position = item.number - self.cursor, item.number, item.start
        text = f"[{count} messages were dropped: more came than is kept for a client that does not read]\n"
        return "iopub", message_parts("stream", {"name": "stderr", "text": text}, item.parts[1])

    @property
    def unread(self) -> bool:
        """Whether it was sent what it is not known to have read."""
        return self.cursor > self.frontend.delivered

    def acknowledge(self, number: int) -> None:
        """Remember that the client has read all messages with numbers below ``number``."""
        if number <= self.cursor:
            self.moved_at = time.monotonic()
            self._frontends.deliver(self.frontend, number)


class Frontends:
    """All clients of a session's kernel, whichever kernel it has at the moment."""

    def __init__(self, settings: ReplaySettings, budget: Budget) -> None:
        self._settings = settings
        self._high = (settings.buffer_mb << 20) // 2
        self._kernel: Kernel | None = None
        self._rates = Rates(settings.message_rate, settings.data_rate)
        self.closed = False
        self._frontends: dict[str, Frontend] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.journal = Journal(settings.buffer_mb << 20, budget)
        self.comms: set[str] = set()
        self._asked: OrderedDict[str, str] = OrderedDict()
        self._handed: dict[str, Handed] = {}
        self._ending: dict[str, str] = {}
        """Subshells that are about to be deleted, by the id of the request."""
        self._was_done = asyncio.Event()
        """Set whenever something is handed no more."""
        self._handed_bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self.is_running = False
        self._done_at = 0.0
        self.on_death: Callable[[], None] = lambda: None
        """Called when the kernel ended by itself."""
        self.on_abort: Callable[[], None] = lambda: None
        """Called when what waits for the kernel is not to be run any more."""
        self.on_close: Callable[[], object] = lambda: None

    # ---- clients come and go

    @property
    def connections(self) -> list[Connection]:
        return [each for frontend in self._frontends.values() for each in frontend.connections]

    @property
    def is_needed(self) -> bool:
        """Whether a client is connected, or may come back for what it has missed."""
        self._expire()
        return bool(self._frontends)

    def connect(self, session_id: str, wake: Callable[[], None], end: Callable[[], None]) -> Connection:
        """Take in a socket. A client that was here before gets what it has missed.

        A client with a new session id, or with none, takes the place of the one that went last.
        """
        name = session_id or secrets.token_hex(16)
        frontend = self._frontends.get(name) or self._new(name)
        frontend.is_succeeded = False
        connection = Connection(self, frontend, name, wake, end)
        frontend.connections.add(connection)
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Let a socket go; what its client has not got is kept for a while."""
        frontend = connection.frontend
        frontend.connections.discard(connection)
        frontend.left_at = time.monotonic()
        left = [name for name, each in self._frontends.items() if not each.connections]
        for name in sorted(left, key=lambda name: self._frontends[name].left_at)[:-MAX_LEFT]:
            self._forget(name)
        self._balance()

    def deliver(self, frontend: Frontend, number: int) -> None:
        """Remember that a client has all messages below ``number``, and drop what everyone has."""
        frontend.delivered = max(frontend.delivered, number)
        self._drop_delivered()
        if self._kernel is not None and self._kernel.paused:
            self._balance()

    def _new(self, name: str) -> Frontend:
        self._expire()
        frontend = Frontend(name, self.journal.next)
        left = [each for each in self._frontends.values() if not each.connections and not each.is_succeeded]
        if left:
            last = max(left, key=lambda each: each.left_at)
            frontend.delivered, frontend.sent = last.delivered, last.sent
            frontend.names += last.names[:MAX_NAMES]
            last.is_succeeded = True
        self._frontends[name] = frontend
        return frontend

    def _expire(self) -> None:
        """Forget clients that went long ago, and had as long since anything they asked for was done."""
        now = time.monotonic()
        for name, each in list(self._frontends.items()):
            if each.connections:
                continue
            if each.is_succeeded:
                is_over = each.left_at + min(SUCCEEDED_SECONDS, self._settings.seconds) <= now
            else:
                is_over = not self.is_running and max(each.left_at, self._done_at) + self._settings.seconds <= now
            if is_over:
                self._forget(name)

    def _forget(self, name: str) -> None:
        del self._frontends[name]
        self._drop_delivered()

    def _drop_delivered(self) -> None:
        self.journal.forget(min((each.needs for each in self._frontends.values()), default=self.journal.next))

    # ---- messages

    @property
    def busy_with(self) -> bytes:
        """The header of what the kernel began last of what it still does, as JSON; empty when it does nothing."""
        return b"" if self._kernel is None else self._kernel.activity.latest

    def attach(self, kernel: Kernel) -> None:
        """Listen to the kernel that the session has from now on."""
        if kernel is self._kernel:
            return
        self._kernel = kernel
        self._lose()
        self._ending.clear()
        self.comms.clear()
        kernel.subscribe(self._on_iopub)
        kernel.on_other = self._on_reply
        kernel.ended.add_done_callback(lambda _end: self._on_end(kernel))

    def publish(
        self, channel: str, parts: Sequence[bytes], to: str = "", once: bool = False, is_output: bool = False
    ) -> None:
        """Send a message to all clients, or to the one called ``to``.

        ``is_output``: clients can do without it when more comes than is kept for them.
        """
        if not self._frontends:
            return
        self.journal.append(channel, parts, to, once, is_output)
        for connection in self.connections:
            connection.wake()
        self._balance()

    def expect(self, msg_id: str, name: str) -> None:
        """Have the answers to a request go to the client called ``name``."""
        self._asked[msg_id] = name
        if len(self._asked) > MAX_ASKED:
            self._asked.popitem(last=False)

    async def hand(self, message: ClientMessage, on_lost: Callable[[], None]) -> None:
        """Count a message that is about to be sent to the kernel, until it has been done.

        Waits while the kernel has too much of that sort. ``on_lost`` is called when the kernel ends before.
        """
        await self._has_room.wait()
        self.take_back(message.msg_id)
        self._handed[message.msg_id] = Handed(message.size, message.header.get("subshell_id", ""), on_lost)
        self._handed_bytes += message.size
        if message.msg_type == "delete_subshell_request" and len(self._ending) < MAX_ASKED:
            self._ending[message.msg_id] = str(message.content.get("subshell_id"))
        if self._handed_bytes > HANDED_BYTES or len(self._handed) > HANDED_MESSAGES:
            self._has_room.clear()

    async def settle_subshell(self, subshell_id: str) -> None:
        """Wait until the kernel has done what it was sent for a subshell, unless that takes long.

        The deletion of a subshell goes another way than what is for it, and what arrives after it is dropped.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SUBSHELL_SECONDS):
                while any(handed.subshell_id == subshell_id for handed in self._handed.values()):
                    self._was_done.clear()
                    await self._was_done.wait()

    @property
    def is_busy(self) -> bool:
        """Whether the kernel has been sent messages that it has not done with."""
        return bool(self._handed)

    def _lose(self) -> None:
        """The kernel will not do any more what it has been handed."""
        lost = list(self._handed.values())
        self.take_back(*self._handed)
        for handed in lost:
            handed.on_lost()

    def take_back(self, *msg_ids: str) -> None:
        """Count messages no more: the kernel has done with them, or was not sent them after all."""
        for msg_id in msg_ids:
            self._handed_bytes -= self._handed.pop(msg_id, NOTHING).size
        self._was_done.set()
        if self._handed_bytes <= HANDED_BYTES and len(self._handed) <= HANDED_MESSAGES:
            self._has_room.set()

    def say(self, msg_type: str, content: Mapping[str, Any], parent: bytes = b"{}", once: bool = False) -> None:
        """Send an iopub message of the server's own."""
        parts = message_parts(msg_type, content, parent)
        self.publish("iopub", parts, once=once, is_output=is_output(msg_type, parts))

    def status(self, state: str, parent: bytes = b"{}") -> None:
        """Tell all clients what the kernel does.

        Some answer to ``restarting`` by connecting anew: to get it again would have them do so for ever.
        """
        if state == "idle" and self._kernel is not None:
            self._kernel.activity.end(str(read_object(parent, "parent").get("msg_id")))
        self.say("status", {"execution_state": state}, parent, once=state in ("restarting", "starting"))

    def run(self, running: bool) -> None:
        """Remember whether something runs that a client asked for."""
        self.is_running = running
        self._done_at = time.monotonic()

    def abort(self) -> None:
        """Have nothing run any more of what clients have asked for so far."""
        self.on_abort()

    def restarted(self, kernel: Kernel) -> None:
        """Tell all clients that the kernel has begun anew, on request."""
        self.attach(kernel)
        self.say("shutdown_reply", {"status": "ok", "restart": True}, once=True)
        self.status("starting")
        self.status("idle")

    def close(self) -> None:
        """End all connections."""
        if self._timer is not None:
            self._timer.cancel()
        self.closed = True
        self.take_back(*self._handed)
        self.on_abort()
        for connection in self.connections:
            connection.end()
        self._frontends.clear()
        self.journal.close()
        self._kernel = None
        self.on_close()

    def _on_iopub(self, message: Message) -> None:
        if message.is_own:
            return
        try:
            parts = checked_parts(message)
            self._watch(message)
        except BadMessage:
            return
        if self._rates.let_pass(message.msg_type, sum(map(len, parts))):
            self.publish("iopub", parts, is_output=is_output(message.msg_type, parts))
        elif self._rates.is_news:
            self.say("stream", {"name": "stderr", "text": RATE_EXCEEDED}, parts[1])

    def _on_reply(self, channel: str, message: Message) -> None:
        """Hand on the answer to a client's request."""
        try:
            parts = checked_parts(message)
        except BadMessage:
            return
        ended = self._ending.pop(message.parent_id, None)
        if ended is not None:  # of what a subshell had not done it never says that it has
            self.take_back(*(each for each, handed in self._handed.items() if handed.subshell_id == ended))
        name = self._asked.get(message.parent_id)
        if name is not None:
            self.publish(channel, parts, name)

    def _watch(self, message: Message) -> None:
        """Notice what the kernel has done, and which of its objects have a counterpart in clients."""
        if message.msg_type == "status":
            if message.content.get("execution_state") != "busy":
                self.take_back(message.parent_id)
        elif message.msg_type in ("comm_open", "comm_close"):
            comm_id = message.content.get("comm_id")
            if not isinstance(comm_id, str) or len(comm_id) > MAX_ID_CHARS:
                return
            if message.msg_type == "comm_close":
                self.comms.discard(comm_id)
            elif len(self.comms) < MAX_COMMS:
                self.comms.add(comm_id)

    def _on_end(self, kernel: Kernel) -> None:
        if kernel is self._kernel:
            self._kernel = None
            self._lose()
            if not kernel.closed and not kernel.is_ended:
                self.on_death()

    # ---- no faster than the fastest client reads

    def _balance(self) -> None:
        """Leave the kernel's output in its container while all clients lag behind, and one at least goes on."""
        kernel = self._kernel
        if kernel is None:
            return
        moved_after = time.monotonic() - STALL_SECONDS
        lags = [self.journal.end - each.position for each in self.connections if each.moved_at > moved_after]
        lag = min(lags, default=0)
        if lag > self._high:
            kernel.pause(True)
        elif lag < self._high // 2:
            kernel.pause(False)
        if kernel.paused and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(STALL_SECONDS / 2, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._balance()


def message_parts(msg_type: str, content: Mapping[str, Any], parent: bytes = b"{}") -> list[bytes]:
    """Return a message of the server's own; ``parent``: the header that it answers, as JSON."""
    return [to_json(new_header(msg_type, SERVER)), parent, b"{}", to_json(content)]


def is_output(msg_type: str, parts: Sequence[bytes]) -> bool:
    """Tell whether clients can do without an iopub message.

    They can do without what is large. A small result stays, as an error does: a cell has one.
    """
    if sum(map(len, parts)) > SMALL_BYTES:
        return True
    return msg_type in OUTPUTS and msg_type != "execute_result"


def checked_parts(message: Message) -> list[bytes]:
    """Return the parts of a kernel's message. Raises `BadMessage` for what no client could read."""
    if not message.msg_type or not isinstance(message.header.get("msg_id"), str):
        raise BadMessage("a message has an id and a type")
    return message.parts
