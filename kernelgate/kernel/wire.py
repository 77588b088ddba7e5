"""Jupyter messages <-> WebSocket frames, in the two protocols that clients speak. Pure.

`V1` is ``v1.kernel.websocket.jupyter.org``: an index of offsets, then the parts of the message. The other one, of
clients that ask for no subprotocol, is JSON, and with buffers an index and JSON and the buffers.
https://jupyter-server.readthedocs.io/en/latest/developers/websocket-protocols.html

What a client sends is hostile: counts and offsets are checked before they are used, and whatever is not
well-formed raises `BadMessage`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from kernelgate.kernel.messages import MAX_FRAMES, PROTOCOL_VERSION, BadMessage, read_object

V1 = "v1.kernel.websocket.jupyter.org"
CLIENT_CHANNELS = frozenset({"shell", "control", "stdin"})
OFFSET = 8
LEGACY_OFFSET = 4
MAX_ID_CHARS = 256
MAX_DEPTH = 100
MAX_CHANNEL_BYTES = 16
PARTS = ("header", "parent_header", "metadata", "content")
"""What of a message is JSON. Buffers follow."""

TEXT_PARTS = len(PARTS)
HEADER_FIELDS = ("msg_id", "msg_type", "session", "username", "subshell_id")


@dataclass(frozen=True)
class ClientMessage:
    """A message from a client: for which channel, and what its parts are."""

    channel: str
    header: Mapping[str, Any]
    content: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    parent_header: Mapping[str, Any] = field(default_factory=dict)
    buffers: Sequence[bytes] = ()
    size: int = 0
    """Bytes that it came in."""

    @property
    def msg_id(self) -> str:
        return str(self.header["msg_id"])

    @property
    def msg_type(self) -> str:
        return str(self.header["msg_type"])


# ---- from clients


def read(frame: str | bytes, protocol: str | None) -> ClientMessage:
    """Read a frame in ``protocol``, `V1` or None. Raises `BadMessage`."""
    if protocol == V1:
        if isinstance(frame, str):
            raise BadMessage(f"{V1} has binary frames, got text")
        return _read_v1(frame)
    return _read_legacy(frame)


def _read_v1(frame: bytes) -> ClientMessage:
    count = _number(frame, 0, OFFSET, "little")
    if not TEXT_PARTS + 2 <= count <= MAX_FRAMES + 2:
        raise BadMessage(f"{TEXT_PARTS + 2} to {MAX_FRAMES + 2} offsets are expected, got {count}")
    offsets = [_number(frame, OFFSET * (index + 1), OFFSET, "little") for index in range(count)]
    if offsets[0] != OFFSET * (count + 1):
        raise BadMessage(f"the first part is expected behind the offsets, at {OFFSET * (count + 1)}")
    channel, *parts = _cut(frame, offsets)
    if len(channel) > MAX_CHANNEL_BYTES:
        raise BadMessage(f"a channel's name has at most {MAX_CHANNEL_BYTES} bytes")
    texts = zip(PARTS, parts, strict=False)
    header, parent, metadata, content = (read_object(part or b"{}", what) for what, part in texts)
    name = channel.decode("ascii", "replace")
    return _checked(ClientMessage(name, header, content, metadata, parent, parts[TEXT_PARTS:], len(frame)))


def _read_legacy(frame: str | bytes) -> ClientMessage:
    text, buffers = (_encoded(frame), []) if isinstance(frame, str) else _read_index(frame)
    fields = read_object(text, "the message")
    parts = {}
    for name in PARTS:
        part = fields.get(name) or {}
        if not isinstance(part, dict):
            raise BadMessage(f"{name} is no JSON object")
        parts[name] = part
    channel = fields.get("channel", "shell")  # some clients leave it out, and mean that
    if not isinstance(channel, str):
        raise BadMessage("channel: a text is expected")
    return _checked(ClientMessage(channel, **parts, buffers=buffers, size=len(frame)))


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadMessage("there is a lone surrogate") from error


def _read_index(frame: bytes) -> tuple[bytes, list[bytes]]:
    """Return the JSON and the buffers of a binary frame of the older protocol."""
    count = _number(frame, 0, LEGACY_OFFSET, "big")
    if not 1 <= count <= MAX_FRAMES:
        raise BadMessage(f"1 to {MAX_FRAMES} parts are expected, got {count}")
    offsets = [_number(frame, LEGACY_OFFSET * (index + 1), LEGACY_OFFSET, "big") for index in range(count)]
    if offsets[0] != LEGACY_OFFSET * (count + 1):
        raise BadMessage(f"the first part is expected behind the offsets, at {LEGACY_OFFSET * (count + 1)}")
    text, *buffers = _cut(frame, [*offsets, len(frame)])
    return text, buffers


def _number(frame: bytes, start: int, size: int, order: Any) -> int:
    if start + size > len(frame):
        raise BadMessage(f"an index of numbers is expected, got {len(frame)} bytes")
    return int.from_bytes(frame[start : start + size], order)


def _cut(frame: bytes, offsets: Sequence[int]) -> list[bytes]:
    if any(start > end for start, end in pairwise(offsets)) or offsets[-1] > len(frame):
        raise BadMessage("the offsets must go up and stay inside the frame")
    return [frame[start:end] for start, end in pairwise(offsets)]


def _checked(message: ClientMessage) -> ClientMessage:
    if message.channel not in CLIENT_CHANNELS:
        raise BadMessage(f"one of {', '.join(sorted(CLIENT_CHANNELS))} is expected as the channel")
    for part in (message.header, message.parent_header, message.metadata, message.content):
        _check_depth(part)
    for name in ("msg_id", "msg_type"):
        value = message.header.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS:
            raise BadMessage(f"a text of 1 to {MAX_ID_CHARS} characters is expected as {name} in the header")
    return message


def plain_header(given: Mapping[str, Any]) -> dict[str, str]:
    """Return a client's header as every kernel can read it: the client says who it is, the rest is ours."""
    known = {name: given[name] for name in HEADER_FIELDS if isinstance(given.get(name), str) and given[name]}
    own = {"session": "", "username": "", **{name: value[:MAX_ID_CHARS] for name, value in known.items()}}
    return {**own, "date": datetime.now(UTC).isoformat(), "version": PROTOCOL_VERSION}


def _check_depth(value: object, depth: int = 0) -> None:
    """Refuse what a kernel, which reads it with a limit of its own, might pass over in silence."""
    if depth > MAX_DEPTH:
        raise BadMessage(f"at most {MAX_DEPTH} levels are expected")
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        if isinstance(child, dict | list):
            _check_depth(child, depth + 1)


# ---- to clients


def write(channel: str, parts: Sequence[bytes], protocol: str | None) -> bytes | str:
    """Return the frame of a message in ``protocol``, `V1` or None; a str goes as a text frame.

    ``parts``: header, parent header, metadata and content, each as JSON in UTF-8, then buffers.
    """
    return _write_v1(channel, parts) if protocol == V1 else _write_legacy(channel, parts)


def _write_v1(channel: str, parts: Sequence[bytes]) -> bytes:
    chunks = [channel.encode(), *parts]
    position = OFFSET * (len(chunks) + 2)
    offsets = [len(chunks) + 1, position]
    for chunk in chunks:
        position += len(chunk)
        offsets.append(position)
    return b"".join([struct.pack(f"<{len(offsets)}Q", *offsets), *chunks])


def _write_legacy(channel: str, parts: Sequence[bytes]) -> bytes | str:
    header, parent, metadata, content = parts[:TEXT_PARTS]
    buffers = parts[TEXT_PARTS:]
    known = read_object(header, "header")
    ids = f'"msg_id":{json.dumps(known["msg_id"])},"msg_type":{json.dumps(known["msg_type"])}'.encode()
    fields = b'"parent_header":%b,"metadata":%b,"content":%b' % (parent, metadata, content)
    text = b'{"header":%b,%b,%b,"buffers":[],"channel":"%b"}' % (header, ids, fields, channel.encode())
    if not buffers:
        return text.decode()
    chunks = [text, *buffers]
    offsets = [LEGACY_OFFSET * (len(chunks) + 1)]
    for chunk in chunks[:-1]:
        offsets.append(offsets[-1] + len(chunk))
    return b"".join([struct.pack(f">{len(chunks) + 1}I", len(chunks), *offsets), *chunks])
