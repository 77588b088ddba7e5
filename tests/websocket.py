"""A small WebSocket client of kernels, for tests: both of Jupyter's protocols, and what a browser would never do.

It reads on a thread of its own and answers pings at once, unless it is told to `pause`. Nothing is thrown away:
``messages`` has all that came, in order.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.server import Client, Json

V1 = "v1.kernel.websocket.jupyter.org"
ANSWER_SECONDS = 30.0
NO_LINGER = struct.pack("ii", 1, 0)
READ_SIZE = 1 << 18
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MASK = b"\0\0\0\0"
"""A mask that changes nothing: a test has nothing to hide from proxies."""


class Refused(Exception):
    """The server did not open the WebSocket."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Message:
    """A message from the server."""

    channel: str
    header: Json
    parent: Json
    metadata: Json
    content: Json
    buffers: tuple[bytes, ...] = ()

    @property
    def type(self) -> str:
        return str(self.header["msg_type"])

    @property
    def id(self) -> str:
        return str(self.header["msg_id"])

    @property
    def parent_id(self) -> str:
        return str(self.parent.get("msg_id", ""))

    @property
    def state(self) -> str:
        """The execution state that a ``status`` tells, of other messages nothing."""
        return str(self.content.get("execution_state", "")) if self.type == "status" else ""

    @property
    def label(self) -> str:
        """The type, of a status the state."""
        return self.state or self.type


@dataclass
class Cell:
    """All that came for one request, in order."""

    messages: list[Message] = field(default_factory=list)
    replied: bool = False
    idle: bool = False

    def add(self, message: Message) -> None:
        self.messages.append(message)
        self.replied |= message.type.endswith("_reply")
        self.idle |= message.state == "idle"

    def copy(self) -> Cell:
        return replace(self, messages=list(self.messages))

    @property
    def reply(self) -> Message:
        """The reply; fails when there is none, or more than one."""
        (reply,) = (one for one in self.messages if one.type.endswith("_reply"))
        return reply

    @property
    def status(self) -> str:
        return str(self.reply.content["status"])

    @property
    def stdout(self) -> str:
        return self._text("stdout")

    @property
    def stderr(self) -> str:
        return self._text("stderr")

    @property
    def labels(self) -> list[str]:
        """Types of the messages, of statuses their states, in order; streams one after the other count once."""
        labels: list[str] = []
        for message in self.messages:
            if message.type != "stream" or labels[-1:] != ["stream"]:
                labels.append(message.label)
        return labels

    @property
    def duplicates(self) -> list[str]:
        """Ids of messages that came more than once."""
        counts = Counter(one.id for one in self.messages)
        return [msg_id for msg_id, count in counts.items() if count > 1]

    @property
    def complete(self) -> bool:
        """Whether reply and idle status are there."""
        return self.replied and self.idle

    def of(self, msg_type: str) -> list[Message]:
        return [one for one in self.messages if one.type == msg_type]

    def _text(self, name: str) -> str:
        return "".join(one.content["text"] for one in self.of("stream") if one.content["name"] == name)


class KernelSocket:
    """A client on the WebSocket of one kernel.

    ``session_id``: as the client names itself in the URL and in its messages; a new one unless given, None for a
    client that names itself in its messages only. Raises `Refused` when the server does not open the WebSocket.
    """

    def __init__(
        self,
        client: Client,
        kernel_id: str,
        *,
        session_id: str | None = "",
        v1: bool = True,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        protocols: Sequence[str] | None = None,
    ) -> None:
        """``headers``: instead of the API key's; ``protocols``: what is offered, instead of what ``v1`` says."""
        self.client = client
        self.kernel_id = kernel_id
        self.session_id = secrets.token_hex(16) if session_id == "" else session_id
        self.session = self.session_id or secrets.token_hex(16)
        self.messages: list[Message] = []
        self.closed: int | None = None
        """The code with which the connection was closed; 1006 when it broke."""
        self.failure: Exception | None = None
        """Why the client could not go on reading."""
        self._v1 = v1
        self._cut = False
        self._more = threading.Condition()
        self._by_parent: dict[str, Cell] = {}
        self._reading = threading.Event()
        self._reading.set()
        offered = ([V1] if v1 else []) if protocols is None else protocols
        given = {"Authorization": f"token {client.key}"} if headers is None else headers
        self._socket = self._open({**given}, {**(query or {})}, offered)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> KernelSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- requests

    def send(
        self,
        msg_type: str,
        content: Mapping[str, Any] | None = None,
        channel: str = "shell",
        *,
        buffers: Sequence[bytes] = (),
        metadata: Mapping[str, Any] | None = None,
        parent: Mapping[str, Any] | None = None,
        **header: Any,
    ) -> str:
        """Send a message and return its id. ``header``: more fields of it, such as ``subshell_id``."""
        msg_id = secrets.token_hex(16)
        now = datetime.now(UTC).isoformat()
        own = {"msg_id": msg_id, "msg_type": msg_type, "session": self.session, "username": "", "date": now}
        parts = [{**own, "version": "5.4", **header}, parent or {}, metadata or {}, content or {}]
        if self._v1:
            self.send_frame(BINARY, encode_v1(channel, parts, buffers))
        else:
            self.send_frame(*encode_legacy(channel, parts, buffers))
        return msg_id

    def execute(self, code: str, *, subshell_id: str | None = None, **content: Any) -> str:
        """Send an ``execute_request`` and return its id."""
        usual = {"silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        header: dict[str, Any] = {} if subshell_id is None else {"subshell_id": subshell_id}
        return self.send("execute_request", {"code": code, **usual, "stop_on_error": True, **content}, **header)

    def run(self, code: str, *, timeout: float = ANSWER_SECONDS, **content: Any) -> Cell:
        """Run code and return all that came for it, as soon as reply and idle status are there."""
        return self.collect(self.execute(code, **content), timeout)

    def ask(
        self,
        msg_type: str,
        content: Mapping[str, Any] | None = None,
        channel: str = "shell",
        *,
        timeout: float = ANSWER_SECONDS,
    ) -> Message:
        """Send a request and return its reply."""
        msg_id = self.send(msg_type, content, channel)
        reply_type = msg_type.removesuffix("_request") + "_reply"
        return self.wait(lambda one: one.parent_id == msg_id and one.type == reply_type, timeout)

    # ---- what comes

    def collect(self, msg_id: str, timeout: float = ANSWER_SECONDS) -> Cell:
        """Return all that came for a request, as soon as reply and idle status are there."""
        cell = self._by_parent.setdefault(msg_id, Cell())
        with self._more:
            if not self._more.wait_for(lambda: self._ended or cell.complete, timeout) or not cell.complete:
                raise AssertionError(f"{self._told()}; of the request there came {_brief(cell.messages)}")
            return cell.copy()

    def seen(self, msg_id: str) -> Cell:
        """Return what came for a request until now."""
        with self._more:
            return self._by_parent.setdefault(msg_id, Cell()).copy()

    def wait(self, which: Callable[[Message], bool], timeout: float = ANSWER_SECONDS, after: int = 0) -> Message:
        """Return the first message that is as wanted among those that came or come, from number ``after`` on."""
        at = after

        def look() -> bool:
            nonlocal at
            while at < len(self.messages):
                if which(self.messages[at]):
                    return True
                at += 1
            return self._ended

        with self._more:
            if not self._more.wait_for(look, timeout) or at == len(self.messages):
                raise AssertionError(f"{self._told()}; there came {_brief(self.messages)}")
            return self.messages[at]

    def wait_state(self, state: str, timeout: float = ANSWER_SECONDS, after: int = 0) -> Message:
        """Return the first status that tells ``state``."""
        return self.wait(lambda one: one.state == state, timeout, after)

    def wait_quiet(self, seconds: float = 0.3) -> None:
        """Wait until nothing has come for a while."""
        count = -1
        while count != len(self.messages):
            count = len(self.messages)
            time.sleep(seconds)

    # ---- the connection

    def close(self) -> None:
        """Close the connection in order."""
        if self.closed is None:
            with contextlib.suppress(OSError):
                self.send_frame(CLOSE, struct.pack("!H", 1000))
        self.resume()
        self._thread.join(ANSWER_SECONDS)
        self._socket.close()

    def cut(self) -> None:
        """Break the connection, as when the network goes: the server gets a reset, what was not read is lost."""
        self._cut = True
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
        self.resume()
        self._thread.join(ANSWER_SECONDS)
        self._socket.close()

    def again(self, session_id: str | None = "") -> KernelSocket:
        """Return a new connection of the same client, or of a client with another ``session_id``."""
        named = self.session_id if session_id == "" else session_id
        return KernelSocket(self.client, self.kernel_id, session_id=named, v1=self._v1)

    def pause(self) -> None:
        """Read nothing any more (what is being read is read), and answer no pings."""
        self._reading.clear()

    def resume(self) -> None:
        self._reading.set()

    def wait_closed(self, timeout: float = ANSWER_SECONDS) -> int:
        """Return the code with which the server closed the connection; 1006 when it broke it."""
        with self._more:
            assert self._more.wait_for(lambda: self.closed is not None, timeout), "the connection is still open"
            assert self.closed is not None
            return self.closed

    def send_frame(self, opcode: int, payload: bytes) -> None:
        """Send one frame, whatever is in it."""
        length = len(payload)
        if length < 126:
            size = bytes([0x80 | length])
        elif length < 1 << 16:
            size = bytes([0x80 | 126]) + struct.pack("!H", length)
        else:
            size = bytes([0x80 | 127]) + struct.pack("!Q", length)
        self._socket.sendall(b"".join((bytes([0x80 | opcode]), size, MASK, payload)))

    @property
    def _ended(self) -> bool:
        return self.closed is not None

    def _told(self) -> str:
        if self.failure is not None:
            return f"the client failed: {self.failure!r}"
        return f"the connection was closed with {self.closed}" if self._ended else "it did not come in time"

    def _open(self, headers: dict[str, str], query: dict[str, str], protocols: Sequence[str]) -> socket.socket:
        where = urlsplit(self.client.url)
        if self.session_id is not None:
            query.setdefault("session_id", self.session_id)
        if self.client.user is not None:
            query.setdefault("user_id", self.client.user)
        lines = [
            f"GET /api/kernels/{self.kernel_id}/channels?{urlencode(query)} HTTP/1.1",
            f"Host: {where.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in headers.items()),
            *([f"Sec-WebSocket-Protocol: {', '.join(protocols)}"] if protocols else []),
        ]
        connection = socket.create_connection((where.hostname or "", where.port or 80), ANSWER_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        try:
            self.protocol, self._buffer = _handshake(connection)
        except BaseException:
            connection.close()
            raise
        connection.settimeout(None)
        return connection

    # ---- the thread that reads

    def _read(self) -> None:
        code = 1006
        try:
            for opcode, payload in self._frames():
                if opcode == PING:
                    self.send_frame(PONG, payload)
                elif opcode == CLOSE:
                    code = struct.unpack("!H", payload[:2])[0] if payload else 1005
                    self.send_frame(CLOSE, payload[:2])
                    break
                elif opcode in (TEXT, BINARY):
                    self._take(self._decode(opcode, payload))
        except OSError:
            pass
        except (ValueError, KeyError, struct.error) as error:
            self.failure = error
        with self._more:
            self.closed = code
            self._more.notify_all()

    def _decode(self, opcode: int, payload: bytes) -> Message:
        if self.protocol == V1:
            return decode_v1(payload)
        return decode_legacy(payload, binary=opcode == BINARY)

    def _take(self, message: Message) -> None:
        with self._more:
            self.messages.append(message)
            self._by_parent.setdefault(message.parent_id, Cell()).add(message)
            if message.type != "display_data" or len(self.messages) % 256 == 0:
                self._more.notify_all()

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """Give opcode and payload of each message, and of each control frame between its parts."""
        kind, parts = 0, list[bytes]()
        while True:
            first, second = self._exactly(2)
            length = second & 0x7F
            if length >= 126:
                length = int.from_bytes(self._exactly(2 if length == 126 else 8), "big")
            payload = self._exactly(length)
            opcode = first & 0x0F
            if opcode >= CLOSE:
                yield opcode, payload
                continue
            kind = opcode or kind
            parts.append(payload)
            if first & 0x80:
                yield kind, b"".join(parts)
                parts.clear()

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._reading.wait()
            data = b"" if self._cut else self._socket.recv(max(READ_SIZE, size - len(self._buffer)))
            if not data or self._cut:
                raise ConnectionError("the server has closed the connection")
            self._buffer += data
        found = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return found


def start_kernel(client: Client, **body: Any) -> str:
    """Have the server make a kernel; returns its id."""
    answer = client.request("POST", "/api/kernels", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def end_kernel(client: Client, kernel_id: str) -> None:
    """Have the server end a kernel that it may not have any more."""
    answer = client.request("DELETE", f"/api/kernels/{kernel_id}")
    assert answer.status_code in (204, 404), answer.text


def encode_v1(channel: str, parts: Sequence[Mapping[str, Any]], buffers: Sequence[bytes] = ()) -> bytes:
    """Return the frame of a message: header, parent header, metadata, content."""
    chunks = [channel.encode(), *(json.dumps(part).encode() for part in parts), *buffers]
    count = len(chunks) + 1
    offsets = [8 * (count + 1)]
    for chunk in chunks:
        offsets.append(offsets[-1] + len(chunk))
    return b"".join((struct.pack(f"<{count + 1}Q", count, *offsets), *chunks))


def decode_v1(frame: bytes) -> Message:
    count = int.from_bytes(frame[:8], "little")
    offsets = struct.unpack_from(f"<{count}Q", frame, 8)
    chunks = [frame[start:end] for start, end in pairwise(offsets)]
    header, parent, metadata, content = (json.loads(chunk) for chunk in chunks[1:5])
    return Message(chunks[0].decode(), header, parent, metadata, content, tuple(chunks[5:]))


def encode_legacy(
    channel: str, parts: Sequence[Mapping[str, Any]], buffers: Sequence[bytes] = ()
) -> tuple[int, bytes]:
    """Return opcode and frame of a message: header, parent header, metadata, content."""
    names = ("header", "parent_header", "metadata", "content")
    text = json.dumps({**dict(zip(names, parts, strict=True)), "channel": channel}).encode()
    if not buffers:
        return TEXT, text
    chunks = [text, *buffers]
    offsets = [4 * (len(chunks) + 1)]
    for chunk in chunks[:-1]:
        offsets.append(offsets[-1] + len(chunk))
    return BINARY, b"".join((struct.pack(f"!{len(chunks) + 1}I", len(chunks), *offsets), *chunks))


def decode_legacy(frame: bytes, binary: bool) -> Message:
    buffers: tuple[bytes, ...] = ()
    if binary:
        count = int.from_bytes(frame[:4], "big")
        offsets = [*struct.unpack_from(f"!{count}I", frame, 4), len(frame)]
        frame, *rest = (frame[start:end] for start, end in pairwise(offsets))
        buffers = tuple(rest)
    data = json.loads(frame)
    parts = (data["header"], data["parent_header"], data["metadata"], data["content"])
    return Message(data["channel"], *parts, buffers)


def _handshake(connection: socket.socket) -> tuple[str, bytearray]:
    """Read the server's answer; returns the protocol that it chose, and what came behind."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        more = connection.recv(READ_SIZE)
        if not more:
            raise Refused(0, "the server has closed the connection")
        data += more
    head, _, rest = bytes(data).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    status = int(first.split()[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if status == 101:
        return headers.get("sec-websocket-protocol", ""), bytearray(rest)
    while len(rest) < int(headers.get("content-length", "0")):
        more = connection.recv(READ_SIZE)
        if not more:
            break
        rest += more
    raise Refused(status, rest.decode(errors="replace"))


def _brief(messages: Sequence[Message]) -> str:
    """Return the labels of the last messages."""
    return f"{len(messages)} messages, the last: {[one.label for one in messages[-20:]]}"
