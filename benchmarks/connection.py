"""A lean HTTP client: one kept-alive connection, one request at a time, no parsing beyond what framing needs."""

from __future__ import annotations

import json
import socket
from typing import Any

TIMEOUT = 180.0
"""Seconds that one answer may take."""

READ_SIZE = 1 << 16


class Connection:
    """A kept-alive connection to a server on this machine."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = [f"Host: 127.0.0.1:{port}", *(f"{name}: {value}" for name, value in headers.items())]
        self._headers = "\r\n".join(lines)
        self._buffer = b""

    def close(self) -> None:
        self._socket.close()

    def request(self, method: str, path: str, value: Any = None) -> tuple[int, Any]:
        """Send ``value`` as JSON and return the answer's status and its JSON. Raises `OSError`."""
        body = b"" if value is None else json.dumps(value).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        status, answer = self._answer()
        return status, json.loads(answer) if answer else None

    def _answer(self) -> tuple[int, bytes]:
        head = self._until(b"\r\n\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        status = int(head[9:12])
        if headers.get(b"transfer-encoding") == b"chunked":
            return status, self._chunks()
        return status, self._exactly(int(headers.get(b"content-length", b"0")))

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self._until(b"\r\n"), 16):
            parts.append(self._exactly(size))
            self._exactly(2)
        self._until(b"\r\n")
        return b"".join(parts)

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._read()
        found, _, self._buffer = self._buffer.partition(end)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._read()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _read(self) -> None:
        data = self._socket.recv(READ_SIZE)
        if not data:
            raise ConnectionError("the server has closed the connection")
        self._buffer += data
