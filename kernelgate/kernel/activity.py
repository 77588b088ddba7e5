"""What a kernel does at the moment, as far as it says so. Pure."""

from __future__ import annotations

from collections import OrderedDict

from kernelgate.kernel.messages import BadMessage, Message

MAX_OPEN = 100
MAX_OPEN_BYTES = 10_000
"""Requests that a kernel may be busy with, and bytes of the header of one, as far as it is remembered."""


class Activity:
    """The requests that a kernel said it is busy with, and not yet that it is idle.

    On the control channel and in subshells it does several at a time.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, bytes] = OrderedDict()

    @property
    def latest(self) -> bytes:
        """The header of what it began last of what it still does, as JSON; empty when it does nothing."""
        return next(reversed(self._open.values()), b"")

    def __len__(self) -> int:
        return len(self._open)

    def watch(self, message: Message) -> None:
        """Take a message of its iopub channel."""
        if message.msg_type != "status" or message.is_own:
            return
        try:
            is_busy = message.content.get("execution_state") == "busy"
        except BadMessage:
            return
        if is_busy:
            self._begin(message.parent_id, message.frames[2])
        else:
            self.end(message.parent_id)

    def end(self, msg_id: str) -> None:
        """Take a request for done: a kernel may have been interrupted before it could say so."""
        self._open.pop(msg_id, None)

    def _begin(self, msg_id: str, header: bytes) -> None:
        if not msg_id or len(header) > MAX_OPEN_BYTES:
            return
        self._open[msg_id] = header
        self._open.move_to_end(msg_id)
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
