"""A lean WebSocket client of a kernel: it reads the JSON of small messages, and counts bytes in the others."""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.bare import request
from benchmarks.process import ChildEnded

V1 = "v1.kernel.websocket.jupyter.org"
SESSION = "session_id"
TIMEOUT = 60.0
READ_SIZE = 1 << 20
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MASK = b"\0\0\0\0"
"""A mask that changes nothing."""

Parts = dict[str, Any]


class Silence(TimeoutError):
    """Nothing came in time."""


class KernelSocket:
    """One connection to one kernel's channels; one request at a time."""

    def __init__(self, port: int, kernel_id: str, headers: Mapping[str, str], *, v1: bool) -> None:
        self._session = secrets.token_hex(16)
        self._v1 = v1
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._at = 0
        lines = [
            f"GET /api/kernels/{kernel_id}/channels?{SESSION}={self._session} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in headers.items()),
            *([f"Sec-WebSocket-Protocol: {V1}"] if v1 else []),
        ]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = self._head()
        if b" 101 " not in head.split(b"\r\n")[0] or (V1.encode() in head) is not v1:
            raise ChildEnded(f"the WebSocket was not opened as asked: {head.decode(errors='replace')}")

    def close(self) -> None:
        self._socket.close()

    def kernel_info(self) -> None:
        """Wait until the kernel answers."""
        msg_id = self._send("kernel_info_request", {})
        for message in self.messages(TIMEOUT):
            if message["parent_header"].get("msg_id") == msg_id and message["channel"] == "shell":
                return

    def result(self, code: str) -> str:
        """Run code; returns the text of its result when reply and idle status are there."""
        msg_id = self._send("execute_request", request(code))
        replied = idle = False
        text = ""
        for message in self.messages(TIMEOUT):
            if message["parent_header"].get("msg_id") == msg_id:
                kind, content = message["header"]["msg_type"], message["content"]
                replied |= kind == "execute_reply"
                idle |= kind == "status" and content["execution_state"] == "idle"
                text = content["data"]["text/plain"] if kind == "execute_result" else text
                if replied and idle:
                    break
        return text

    def flood(self, code: str, marker: bytes, take: Callable[[bytes], None], silence: float) -> tuple[bool, bool]:
        """Run code whose outputs, and nothing else, contain ``marker``: each goes to ``take`` as it came.

        Returns whether the reply and the idle status came; it gives up when nothing comes for ``silence`` seconds.
        """
        msg_id = self._send("execute_request", request(code))
        replied = idle = False
        try:
            for opcode, payload in self._frames(silence):
                if marker in payload:
                    take(payload)
                    continue
                message = self._message(opcode, payload)
                if message["parent_header"].get("msg_id") == msg_id:
                    kind, content = message["header"]["msg_type"], message["content"]
                    replied |= kind == "execute_reply"
                    idle |= kind == "status" and content["execution_state"] == "idle"
                    if replied and idle:
                        break
        except Silence:
            pass
        return replied, idle

    def messages(self, silence: float) -> Iterator[Parts]:
        """Give message after message. Raises `Silence`."""
        for opcode, payload in self._frames(silence):
            yield self._message(opcode, payload)

    def _send(self, msg_type: str, content: Parts) -> str:
        msg_id = secrets.token_hex(16)
        header = {
            "msg_id": msg_id,
            "msg_type": msg_type,
            "session": self._session,
            "username": "",
            "version": "5.3",
        }
        header["date"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        parts = [header, {}, {}, content]
        if self._v1:
            self._send_frame(BINARY, pack("shell", [json.dumps(part).encode() for part in parts]))
        else:
            names = ("header", "parent_header", "metadata", "content")
            message = {**dict(zip(names, parts, strict=True)), "channel": "shell", "buffers": []}
            self._send_frame(TEXT, json.dumps(message).encode())
        return msg_id

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        length = len(payload)
        size = bytes([0x80 | length]) if length < 126 else bytes([0x80 | 126]) + struct.pack("!H", length)
        self._socket.sendall(bytes([0x80 | opcode]) + size + MASK + payload)

    def _message(self, opcode: int, payload: bytes) -> Parts:
        return unpack(payload) if opcode == BINARY else json.loads(payload)

    def _frames(self, silence: float) -> Iterator[tuple[int, bytes]]:
        """Give opcode and payload of each message; answers pings between them."""
        self._socket.settimeout(silence)
        parts: list[bytes] = []
        kind = 0
        while True:
            first, second = self._exactly(2)
            length = second & 0x7F
            if length >= 126:
                length = int.from_bytes(self._exactly(2 if length == 126 else 8), "big")
            payload = self._exactly(length)
            opcode = first & 0x0F
            if opcode == PING:
                self._send_frame(PONG, payload)
            elif opcode == CLOSE:
                raise ConnectionError(f"the server has closed the WebSocket: {payload!r}")
            elif opcode != PONG:
                kind = opcode or kind
                parts.append(payload)
                if first & 0x80:
                    yield kind, parts[0] if len(parts) == 1 else b"".join(parts)
                    parts = []

    def _head(self) -> bytes:
        while b"\r\n\r\n" not in self._buffer:
            self._read(READ_SIZE)
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        return head

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) - self._at < size:
            del self._buffer[: self._at]
            self._at = 0
            self._read(max(READ_SIZE, size - len(self._buffer)))
        found = bytes(memoryview(self._buffer)[self._at : self._at + size])
        self._at += size
        return found

    def _read(self, size: int) -> None:
        try:
            data = self._socket.recv(size)
        except TimeoutError:
            raise Silence("nothing came in time") from None
        if not data:
            raise ConnectionError("the server has closed the connection")
        self._buffer += data


def pack(channel: str, parts: Sequence[bytes]) -> bytes:
    """Return the frame of a message of the newer protocol: header, parent header, metadata, content."""
    chunks = [channel.encode(), *parts]
    count = len(chunks) + 1
    offsets = [8 * (count + 1)]
    for chunk in chunks:
        offsets.append(offsets[-1] + len(chunk))
    return b"".join((struct.pack(f"<{count + 1}Q", count, *offsets), *chunks))


def unpack(frame: bytes) -> Parts:
    """Return what the client needs of a frame of the newer protocol."""
    channel, header, parent, metadata, content, end = struct.unpack_from("<6Q", frame, 8)
    return {
        "channel": frame[channel:header].decode(),
        "header": json.loads(frame[header:parent]),
        "parent_header": json.loads(frame[parent:metadata]),
        "content": json.loads(frame[content:end]),
    }
