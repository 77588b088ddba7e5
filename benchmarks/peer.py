"""A peer: the stock Jupyter Kernel Gateway with one stock ipykernel, over its WebSocket."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websocket import WebSocket, create_connection

from benchmarks import process
from benchmarks.bare import request
from benchmarks.connection import Connection
from benchmarks.process import ChildEnded

START_SECONDS = 60
POLL_SECONDS = 0.1
FOLDERS = ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")


class PeerKernel:
    """A client of one kernel behind the gateway."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._session = secrets.token_hex(16)

    def sample(self) -> float:
        """Run ``print(1)``; returns the seconds until reply, output and idle status are there."""
        began = time.perf_counter()
        text = self._run("print(1)")
        seconds = time.perf_counter() - began
        if text != "1\n":
            raise ChildEnded(f"the kernel gateway's kernel printed {text!r}")
        return seconds

    def _run(self, code: str) -> str:
        msg_id = secrets.token_hex(16)
        self._socket.send(json.dumps(self._message(msg_id, code)))
        replied = idle = False
        text = ""
        while not (replied and idle):
            message = json.loads(self._socket.recv())
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            replied |= kind == "execute_reply"
            idle |= kind == "status" and content["execution_state"] == "idle"
            text += content["text"] if kind == "stream" else ""
        return text

    def _message(self, msg_id: str, code: str) -> dict[str, Any]:
        header = {"msg_id": msg_id, "msg_type": "execute_request", "session": self._session, "version": "5.3"}
        message: dict[str, Any] = {"header": {**header, "username": ""}, "parent_header": {}, "metadata": {}}
        return {**message, "content": request(code), "channel": "shell"}


@contextmanager
def kernel() -> Iterator[PeerKernel]:
    """Start ``python -m kernel_gateway`` and one kernel in it."""
    with process.folder() as home:
        port = process.free_port()
        folders = {name: str(home / name) for name in FOLDERS}
        command = ["kernel_gateway", "--KernelGatewayApp.ip=127.0.0.1", f"--KernelGatewayApp.port={port}"]
        with process.started(command, home, process.environment(frozenset(), **folders)):
            kernel_id = start_kernel(port)
            url = f"ws://127.0.0.1:{port}/api/kernels/{kernel_id}/channels"
            socket = create_connection(url, timeout=START_SECONDS)
            try:
                client = PeerKernel(socket)
                client.sample()
                yield client
            finally:
                socket.close()


def start_kernel(port: int) -> str:
    """Return the id of a new kernel of the gateway at ``port``."""
    connection = connect(port)
    try:
        status, answer = connection.request("POST", "/api/kernels", {})
    finally:
        connection.close()
    if status != 201:
        raise ChildEnded(f"the kernel gateway started no kernel: {status} {answer}")
    return str(answer["id"])


def connect(port: int) -> Connection:
    """Return a connection; waits until the gateway listens."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return Connection(port, {})
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise ChildEnded("the kernel gateway does not listen") from None
            time.sleep(POLL_SECONDS)
