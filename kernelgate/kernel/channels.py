"""ZeroMQ sockets on the event loop: the only door to a kernel's channels."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

import zmq

from kernelgate.errors import Unavailable

MAX_SOCKETS = 65_536
MAX_PARTS = 300
"""Frames of a message; one that has as many is not taken."""

TURN = 200
"""Messages taken from one socket before others get their turn."""

LAST, MORE_FOLLOWS = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
"""Flags of the frames of a message, as numbers: to combine pyzmq's own costs as much as to send."""

CONNECT_POLL_SECONDS = 0.002
RECEIVE_QUEUE = 64
"""Messages that wait on our side for being read. More wait in the kernel's container, within its own memory."""


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return a context for all the kernels of a server."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
    return context


class Channel:
    """One connected socket. Calls ``on_frames`` with each message, on the loop, in order.

    ZeroMQ's file descriptor tells of a change only once, so each use of the socket is followed by a look whether
    there is something to read.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        kind: int,
        address: str,
        on_frames: Callable[[list[bytes]], None],
        max_message_bytes: int,
        identity: bytes = b"",
        immediate: bool = False,
    ) -> None:
        """``immediate``: take nothing for sending before there is a connection."""
        self._loop = asyncio.get_running_loop()
        self._on_frames = on_frames
        self._drain_scheduled = False
        self._max_message_bytes = max_message_bytes
        self.paused = False
        self._socket = socket = context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IMMEDIATE, int(immediate))
        socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE)
        socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
        if kind == zmq.SUB:
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        if identity:
            socket.setsockopt(zmq.IDENTITY, identity)
        socket.connect(address)
        self._descriptor = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptor, self._drain)
        self._schedule_drain()

    def send(self, frames: Sequence[bytes]) -> None:
        """Send a message. Raises `Unavailable` when the kernel has not taken the ones before."""
        try:
            for frame in frames[:-1]:
                self._socket.send(frame, MORE_FOLLOWS)
            self._socket.send(frames[-1], LAST)
        except zmq.Again:
            raise Unavailable("the kernel takes no more messages") from None
        self._schedule_drain()

    async def wait_connected(self) -> None:
        """Return when the other side knows of us. Only a socket that is ``immediate`` can tell."""
        for _ in itertools.count():
            if self._socket.closed or int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
                return
            await asyncio.sleep(CONNECT_POLL_SECONDS)

    def pause(self, paused: bool) -> None:
        """Read nothing from now on, or read on."""
        if paused == self.paused or self._socket.closed:
            return
        self.paused = paused
        if paused:
            self._loop.remove_reader(self._descriptor)
        else:
            self._loop.add_reader(self._descriptor, self._drain)
            self._schedule_drain()

    def close(self) -> None:
        """Close the socket. Called again, it does nothing."""
        if not self._socket.closed:
            self._loop.remove_reader(self._descriptor)
            self._socket.close()

    def _schedule_drain(self) -> None:
        if not self._drain_scheduled:
            self._drain_scheduled = True
            self._loop.call_soon(self._scheduled_drain)

    def _scheduled_drain(self) -> None:
        self._drain_scheduled = False
        self._drain()

    def _drain(self) -> None:
        for _ in range(TURN):
            if self._socket.closed or self.paused:
                return
            try:
                frames = self._receive()
            except zmq.Again:
                return
            if frames:
                self._on_frames(frames)
        self._schedule_drain()

    def _receive(self) -> list[bytes]:
        """Return a message, empty when it has more parts or bytes than any that is taken. Raises `zmq.Again`."""
        frames, size = [self._socket.recv(zmq.NOBLOCK)], 0
        while self._socket.getsockopt(zmq.RCVMORE):
            frame = self._socket.recv(zmq.NOBLOCK)
            size += len(frame)
            if len(frames) < MAX_PARTS and size <= self._max_message_bytes:
                frames.append(frame)
            else:
                frames = [b""] * MAX_PARTS  # nothing of it is kept
        return frames if len(frames) < MAX_PARTS else []
