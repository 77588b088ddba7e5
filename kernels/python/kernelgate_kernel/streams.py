"""stdout and stderr of user code: what Python prints, and what anyone writes to the file descriptors 1 and 2."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
import threading
from typing import Any

from ipykernel.iostream import IOPubThread, OutStream

READ_SIZE = 1 << 16
MESSAGE_CHARS = 1 << 18
BUFFER_CHARS = 1 << 20


class ByteStream(io.RawIOBase):
    """The ``buffer`` of a stream: bytes that are written to it come out as text of the stream."""

    def __init__(self, stream: SandboxStream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, data: Any) -> int:
        data = bytes(data)
        self._stream.write(self._decoder.decode(data))
        return len(data)

    def flush(self) -> None:
        self._stream.flush()


class PublishingSocket:
    """The iopub socket as the thread that publishes uses it: at once, not by way of its own queue."""

    def __init__(self, thread: IOPubThread) -> None:
        self.send_multipart = thread._really_send


class SandboxStream(OutStream):
    """An OutStream that loses nothing.

    What is written to the file descriptor goes through a pipe. Whoever flushes empties the pipe first, so all
    that a cell's code and its finished subprocesses wrote comes before the cell's reply. Forked children write
    to the descriptor too. Closing lasts until the next cell.
    """

    peer: SandboxStream | None = None
    """The other one of stdout and stderr."""

    limit: int | None = None
    """Characters that one cell may print; what exceeds them is dropped here. None: no limit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pipe_lock = threading.Lock()
        self._sending = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._shut = False
        self._buffered = 0
        self._printed = 0
        self.buffer = ByteStream(self)
        super().__init__(*args, **kwargs)
        self._socket = PublishingSocket(self.pub_thread)
        os.register_at_fork(after_in_child=self._leave_to_child)

    # ---- the descriptor

    def _setup_stream_redirects(self, name: str) -> None:
        self._descriptor = getattr(sys, name).fileno()
        self._pipe, self._pipe_end = os.pipe()
        os.set_inheritable(self._pipe_end, False)
        os.dup2(self._pipe_end, self._descriptor)
        self.watch_fd_thread = threading.Thread(target=self._watch_pipe_fd, name=f"{name}-pipe", daemon=True)
        self.watch_fd_thread.start()

    def _watch_pipe_fd(self) -> None:
        waiting = select.poll()
        waiting.register(self._pipe, select.POLLIN)
        while True:
            waiting.poll()
            self._empty_pipe(READ_SIZE)

    def _pipe_holds(self) -> bool:
        poll = select.poll()  # one object serves one thread at a time, so each call has its own
        poll.register(self._pipe, select.POLLIN)
        return bool(poll.poll(0))

    def _empty_pipe(self, at_most: int) -> None:
        """Take what the pipe holds, up to about ``at_most`` bytes, and write it to the stream."""
        with self._pipe_lock:
            while at_most > 0 and self._pipe_holds():
                data = os.read(self._pipe, READ_SIZE)
                at_most -= len(data)
                self._append(self._decoder.decode(data))

    def _leave_to_child(self) -> None:
        """In a forked child: print to the descriptor, the threads of this object do not exist there."""
        plain = open(self._descriptor, "w", buffering=1, closefd=False, errors="replace")  # noqa: SIM115
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is self:
                setattr(sys, name, plain)

    def fileno(self) -> int:
        return int(self._descriptor)

    # ---- what Python's own files offer

    def reconfigure(self, **_options: object) -> None:
        """Accepted and without effect: text leaves as Unicode."""

    @property
    def line_buffering(self) -> bool:
        return False

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"

    def close(self) -> None:
        """Refuse what is written from now on, until the next cell begins."""
        self.flush()
        self._shut = True

    @property
    def closed(self) -> bool:
        return self._shut

    def write(self, string: str) -> int:
        if self._shut:
            raise ValueError("I/O operation on closed file.")
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string).__name__}")
        if self._pipe_holds():
            self._empty_pipe(READ_SIZE)  # what came before in the pipe is shown before
        self._append(string)
        if self._buffered > BUFFER_CHARS and threading.current_thread() is not self.pub_thread.thread:
            self.flush()
        return len(string)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    # ---- cells

    def begin_cell(self, limit: int | None) -> None:
        """Open the stream and its descriptor again and count from zero. Called before each cell."""
        for name in ("write", "flush"):  # user code may have put something else there
            self.__dict__.pop(name, None)
        self._shut = False
        self._printed = 0
        self.limit = limit
        try:
            intact = os.path.samestat(os.fstat(self._descriptor), os.fstat(self._pipe_end))
        except OSError:
            intact = False
        if not intact:
            os.dup2(self._pipe_end, self._descriptor)

    def _append(self, string: str) -> None:
        if self.limit is not None and self._printed + len(string) > self.limit:
            string = string[: max(0, self.limit + 1 - self._printed)]  # one more tells that there was more
        if not string:
            return
        if self.peer is not None and self.peer._buffered:
            self.peer.hand_over()  # what the other stream was given before goes out before
        self._printed += len(string)
        self._buffered += len(string)
        super().write(string)

    def hand_over(self) -> None:
        """Have what is buffered sent before anything that comes later, without waiting for it."""
        buffers = self._rotate_buffers()
        self._buffered = 0
        self.pub_thread.schedule(lambda: self._publish(buffers))

    def flush(self) -> None:
        """Send all that was written; returns when it is on its way. Costs little when there is nothing."""
        self._empty_pipe(BUFFER_CHARS)
        if self._flush_pending or not self._sending.acquire(blocking=False):
            super().flush()
        else:
            self._sending.release()

    def _flush(self) -> None:
        """Send what is buffered. Called in the thread that publishes."""
        with self._sending:
            self._flush_pending = False
            self._buffered = 0
            self._publish(self._rotate_buffers())

    def _publish(self, buffers: dict[frozenset[tuple[str, Any]], io.StringIO]) -> None:
        """Send texts, each with the parent header it was written under. Called in the thread that publishes."""
        for parent, buffer in buffers.items():
            text = buffer.getvalue()
            for start in range(0, len(text), MESSAGE_CHARS):
                content = {"name": self.name, "text": text[start : start + MESSAGE_CHARS]}
                self.session.send(self._socket, "stream", content, parent=dict(parent), ident=self.topic)
