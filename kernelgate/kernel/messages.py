"""Jupyter messages <-> ZeroMQ frames. Pure: no sockets, no loop.

Every byte from a kernel is hostile: user code shares the process, knows the key and can send what it likes. So
signatures of incoming messages are not looked at (they would prove nothing), sizes are bounded, and whatever is
not well-formed raises `BadMessage`. Wire format: https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from kernelgate.compact import compact_json, compact_unicode_json

DELIMITER = b"<IDS|MSG>"
PROTOCOL_VERSION = "5.3"
OWN_MESSAGES = "kernelgate_"
"""What begins so is between server and kernel."""

MAX_FRAMES = 256
MAX_HEADER_BYTES = 1 << 16
KNOWN_BYTES, KNOWN_PARENTS = 1 << 10, 256
"""Parent headers up to that size, so many of them, are read once."""

_HUGE_NUMBER = re.compile(rb"\d[eE]\+?\d{3}")
"""What may be a number too large for a float; only then floats are worth a second look."""


class BadMessage(ValueError):
    """Frames that are no Jupyter message."""


class Message:
    """A message that came from a kernel. ``content`` and ``metadata`` are read from JSON when asked for."""

    __slots__ = ("_content", "buffers", "frames", "header", "parent_header")

    def __init__(self, frames: Sequence[bytes]) -> None:
        """``frames``: signature, header, parent header, metadata, content, then buffers."""
        if not 5 <= len(frames) <= MAX_FRAMES:
            raise BadMessage(f"a message has 5 to {MAX_FRAMES} frames, got {len(frames)}")
        self.frames = frames
        self.header = _small_object(frames[1], "header")
        self.parent_header = _parent_header(frames[2])
        self.buffers = frames[5:]
        self._content: dict[str, Any] | None = None

    @property
    def msg_type(self) -> str:
        """The type, empty if there is none."""
        return _text(self.header.get("msg_type"))

    @property
    def parent_id(self) -> str:
        """The ``msg_id`` of the request that this message belongs to, empty if there is none."""
        return _text(self.parent_header.get("msg_id"))

    @property
    def is_own(self) -> bool:
        """Whether it belongs to what only server and kernel have to do with each other."""
        return _text(self.parent_header.get("msg_type")).startswith(OWN_MESSAGES)

    @property
    def size(self) -> int:
        """Bytes of content and buffers."""
        return len(self.frames[4]) + sum(len(buffer) for buffer in self.buffers)

    @property
    def content(self) -> dict[str, Any]:
        """The content. Raises `BadMessage` when it is no JSON object."""
        if self._content is None:
            self._content = read_object(self.frames[4], "content")
        return self._content

    @property
    def metadata(self) -> dict[str, Any]:
        return read_object(self.frames[3], "metadata")

    @property
    def parts(self) -> list[bytes]:
        """Header, parent header, metadata, content, buffers: each of the first four is JSON in UTF-8.

        Raises `BadMessage` when one is not well-formed.
        """
        read_object(self.frames[3], "metadata")
        assert self.content is not None, "that it can be read is known now"
        return [*self.frames[1:5], *self.buffers]


def parse(frames: Sequence[bytes]) -> Message:
    """Read what came from a socket: routing frames or a topic, the delimiter, the message."""
    for index, frame in enumerate(frames[:8]):
        if frame == DELIMITER:
            return Message(frames[index + 1 :])
    raise BadMessage("no delimiter among the first frames")


class Encoder:
    """Makes signed requests for one kernel."""

    def __init__(self, key: bytes) -> None:
        self._hmac = hmac.new(key, digestmod=hashlib.sha256)
        self.session = secrets.token_hex(16)

    def header(self, msg_type: str) -> dict[str, Any]:
        """Return the header of a new message."""
        return new_header(msg_type, self.session)

    def encode(
        self,
        header: Mapping[str, Any],
        content: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[bytes] = (),
        parent_header: Mapping[str, Any] | None = None,
    ) -> list[bytes]:
        """Return the frames of a message."""
        parts = [to_json(header), to_json(parent_header or {}), to_json(metadata or {}), to_json(content)]
        return [DELIMITER, self.sign(parts), *parts, *buffers]

    def sign(self, parts: Sequence[bytes]) -> bytes:
        """Return the signature of the four JSON frames of a message."""
        digest = self._hmac.copy()
        for part in parts:
            digest.update(part)
        return digest.hexdigest().encode("ascii")


def new_header(msg_type: str, session: str) -> dict[str, Any]:
    """Return the header of a message that the server makes."""
    return {
        "msg_id": secrets.token_hex(16),
        "msg_type": msg_type,
        "session": session,
        "username": "kernelgate",
        "date": datetime.now(UTC).isoformat(),
        "version": PROTOCOL_VERSION,
    }


def read_object(data: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in ``data``, which is UTF-8.

    Raises `BadMessage` for anything else, however deep or malformed.
    """
    try:
        if data == b"{}":
            return {}
        value = (_CAREFUL if _HUGE_NUMBER.search(data) else _DECODER).decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"{what} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadMessage(f"{what} is no JSON object")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


_DECODER = json.JSONDecoder(parse_constant=_no_number)
_CAREFUL = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)


def _small_object(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > MAX_HEADER_BYTES:
        raise BadMessage(f"{what} has {len(data)} bytes, more than {MAX_HEADER_BYTES}")
    return read_object(data, what)


def _parent_header(data: bytes) -> Mapping[str, Any]:
    """Read a parent header: all that a request leads to comes with the same one."""
    return _known_parent(data) if len(data) <= KNOWN_BYTES else _small_object(data, "parent_header")


@lru_cache(maxsize=KNOWN_PARENTS)
def _known_parent(data: bytes) -> Mapping[str, Any]:
    return MappingProxyType(_small_object(data, "parent_header"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def to_json(value: Mapping[str, Any]) -> bytes:
    """Return a part of a message; what UTF-8 cannot carry (lone surrogates) is escaped.

    Raises `BadMessage` for what is nested too deep.
    """
    try:
        return compact_unicode_json(value).encode()
    except UnicodeEncodeError:
        return compact_json(value).encode()
    except RecursionError as error:
        raise BadMessage("nested too deep") from error
