"""The bound of what can be reached: a stock ipykernel over ipc, without a container, and a raw ZeroMQ client."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmq

from benchmarks import process
from benchmarks.process import ChildEnded
from kernelgate.kernel.messages import Encoder, Message, parse

START_SECONDS = 60
ANSWER_SECONDS = 30
RETRY_SECONDS = 0.5


class BareKernel:
    """A client of one kernel: a DEALER on its shell channel, a SUB on its iopub channel, nothing in between."""

    def __init__(self, address: str, key: bytes) -> None:
        self._encoder = Encoder(key)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._shell = self._context.socket(zmq.DEALER)
        self._iopub = self._context.socket(zmq.SUB)
        self._iopub.setsockopt(zmq.SUBSCRIBE, b"")
        self._shell.connect(f"ipc://{address}-1")
        self._iopub.connect(f"ipc://{address}-2")
        self._poller = zmq.Poller()
        for channel in (self._shell, self._iopub):
            self._poller.register(channel, zmq.POLLIN)

    def sample(self) -> float:
        """Run ``print(1)``; returns the seconds until reply, output and idle status are there."""
        began = time.perf_counter()
        text = self.run("print(1)", ANSWER_SECONDS)
        seconds = time.perf_counter() - began
        if text != "1\n":
            raise ChildEnded(f"ipykernel printed {text!r}")
        return seconds

    def wait_ready(self) -> None:
        """Wait until the kernel answers on both channels."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.run("print(1)", RETRY_SECONDS) == "1\n":
                return
        raise ChildEnded("ipykernel does not answer")

    def close(self) -> None:
        self._context.destroy(linger=0)

    def run(self, code: str, timeout: float) -> str | None:
        """Return what ``code`` printed, None when it takes longer than ``timeout`` seconds."""
        header = self._encoder.header("execute_request")
        msg_id = header["msg_id"]
        self._shell.send_multipart(self._encoder.encode(header, request(code)))
        replied = idle = False
        text = ""
        deadline = time.monotonic() + timeout
        while not (replied and idle):
            ready = dict(self._poller.poll(max(0, int((deadline - time.monotonic()) * 1000))))
            if not ready:
                return None
            if self._shell in ready:
                replied |= parse(self._shell.recv_multipart()).parent_id == msg_id
            if self._iopub in ready:
                message = parse(self._iopub.recv_multipart())
                if message.parent_id == msg_id:
                    text += printed(message)
                    idle |= is_idle(message)
        return text


@contextmanager
def kernel() -> Iterator[BareKernel]:
    """Start ``python -m ipykernel_launcher``."""
    with process.folder() as home:
        key = secrets.token_hex(16)
        address = str(home / "k")
        connection_file = home / "connection.json"
        connection_file.write_text(json.dumps(connection_info(address, key)))
        environment = process.environment(frozenset(), IPYTHONDIR=str(home / "ipython"))
        command = ["ipykernel_launcher", "-f", str(connection_file)]
        with process.started(command, home, environment):
            client = BareKernel(address, key.encode())
            try:
                client.wait_ready()
                yield client
            finally:
                client.close()


def connection_info(address: str, key: str) -> dict[str, Any]:
    """Return the content of a connection file for ipc; ports are suffixes of the sockets' paths."""
    ports = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}
    return {**ports, "transport": "ipc", "ip": address, "key": key, "signature_scheme": "hmac-sha256"}


def request(code: str) -> dict[str, Any]:
    """Return the content of an ``execute_request``."""
    return {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }


def printed(message: Message) -> str:
    """Return the text of a ``stream`` message, of others nothing."""
    return str(message.content["text"]) if message.msg_type == "stream" else ""


def is_idle(message: Message) -> bool:
    """Tell whether a message says that the kernel has done with its request."""
    return message.msg_type == "status" and message.content["execution_state"] == "idle"
