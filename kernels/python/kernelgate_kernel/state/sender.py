"""Sends a state to the gateway, behind the reply of the execution that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..interrupts import Interrupts
from .chunks import Bytes
from .snapshot import Snapshots

MESSAGE = "kernelgate_state"
TOGETHER = 4
"""Chunks that one message carries."""

SECONDS = 30.0


class Sender:
    """Answers one execute request with the state. Whatever happens, the gateway gets a last message."""

    def __init__(self, session: Any, stream: Any, ident: Any, parent: Any, interrupts: Interrupts) -> None:
        """``interrupts``: whoever does not want to wait may cut the saving off."""
        self._interrupts = interrupts
        self._session = session
        self._stream = stream
        self._ident = ident
        self._parent = parent

    def send(self, snapshots: Snapshots, request: Mapping[str, Any], succeeded: bool) -> None:
        """Save and send, unless the cell failed and that is not to be saved."""
        last = {"last": True, "tag": request["tag"], "layout": None, "error": None}
        buffers: list[Bytes] = []
        if succeeded or request["on_error"]:
            try:
                with self._interrupts:
                    save = snapshots.save(request)
                    buffers = self._send_all_but_some(save.chunks())
                last["layout"] = save.layout
            except BaseException as error:  # noqa: BLE001  an interrupt, or what user code made of this process
                snapshots.forget()
                reason = getattr(error, "strerror", None) or type(error).__name__
                last["error"] = f"saving was cut off: {reason}"
                buffers = []
        self._send(last, buffers)

    def _send_all_but_some(self, chunks: Any) -> list[Bytes]:
        """Send chunks in messages of their own; returns the few that go with the last one."""
        waiting: list[Bytes] = []
        for chunk in chunks:
            if len(waiting) == TOGETHER:
                self._send({"last": False}, waiting)
                waiting = []
            waiting.append(chunk)
        return waiting

    def _send(self, content: Mapping[str, Any], buffers: list[Bytes]) -> None:
        """Send a message; what user code could change has been read when this returns."""
        message = self._session.send(
            self._stream,
            MESSAGE,
            content,
            parent=self._parent,
            ident=self._ident,
            buffers=buffers,
            track=bool(buffers),
        )
        if buffers:
            message["tracker"].wait(SECONDS)
