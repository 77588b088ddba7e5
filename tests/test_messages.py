"""Messages: requests that any Jupyter program accepts, and frames from a kernel that nobody can trust."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pytest
from jupyter_client.session import Session

from kernelgate.kernel.messages import (
    DELIMITER,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    PROTOCOL_VERSION,
    BadMessage,
    Encoder,
    new_header,
    parse,
    read_object,
)

KEY = b"a key of a kernel"
HEADER = b'{"msg_id":"m1","msg_type":"stream"}'
PARENT = b'{"msg_id":"p1"}'
VALID = [b"topic", DELIMITER, b"signature", HEADER, PARENT, b'{"m":1}', b'{"text":"hello"}']

DEEP = b"[" * 10_000 + b"]" * 10_000
DIGITS = b"9" * 5_000

NO_OBJECT = [
    b"",
    b" ",
    b"{",
    b"}",
    b"nothing",
    b"null",
    b"true",
    b"1",
    b'"text"',
    b"[]",
    b'["msg_id"]',
    b"{}{}",
    b"{'msg_id': 1}",
    b'{"a":}',
    b"{1:2}",
    b"\xff\xfe\xfd",
    b'{"a":"\xc3"}',
    b"\x00\x00\x00",
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":[-Infinity]}',
    b'{"a":1e999}',
    b'{"a":-1e999}',
    b'{"a":' + DIGITS + b"}",
    b'{"a":-' + DIGITS + b"}",
    b'{"a":' + DEEP + b"}",
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    DEEP,
    b"[" * 10_000,
]


def shortened(value: object) -> str:
    return repr(value)[:40]


def framed(**replaced: bytes) -> list[bytes]:
    """A valid message with some of its frames replaced."""
    names = ["topic", "delimiter", "signature", "header", "parent", "metadata", "content"]
    frames = list(VALID)
    for name, frame in replaced.items():
        frames[names.index(name)] = frame
    return frames


def read_all(frames: Sequence[bytes]) -> None:
    """Do with frames all that is ever done with them."""
    message = parse(frames)
    assert isinstance(message.msg_type, str)
    assert isinstance(message.parent_id, str)
    assert message.size >= 0
    assert isinstance(message.metadata, dict)
    assert isinstance(message.content, dict)


# --- from a kernel


def test_a_message_is_read() -> None:
    message = parse([*VALID, b"buffer", b"\x00\xff"])
    assert (message.msg_type, message.parent_id) == ("stream", "p1")
    assert message.header == {"msg_id": "m1", "msg_type": "stream"}
    assert (message.metadata, message.content) == ({"m": 1}, {"text": "hello"})
    assert list(message.buffers) == [b"buffer", b"\x00\xff"]
    assert message.size == len(b'{"text":"hello"}') + 8


@pytest.mark.parametrize("routing", [0, 1, 2, 7])
def test_routing_frames_are_passed_over(routing: int) -> None:
    assert parse([b"id"] * routing + VALID[1:]).msg_type == "stream"


@pytest.mark.parametrize(
    ("header", "parent", "expected"),
    [
        (b"{}", b"{}", ("", "")),
        (b'{"msg_type":null}', b'{"msg_id":1}', ("", "")),
        (b'{"msg_type":["stream"]}', b'{"msg_id":{"a":1}}', ("", "")),
        (b'{"msg_type":true}', b'{"msg_id":1.5}', ("", "")),
        (b'{"msg_type":"\\ud800"}', b'{"msg_id":"\\u0000"}', ("\ud800", "\0")),
    ],
)
def test_a_type_or_id_that_is_no_text_is_empty(header: bytes, parent: bytes, expected: tuple[str, str]) -> None:
    message = parse(framed(header=header, parent=parent))
    assert (message.msg_type, message.parent_id) == expected


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"topic"],
        VALID[2:],
        [b"id"] * 8 + VALID[1:],
        [b"<IDS|MSG> ", *VALID[2:]],
        [DELIMITER],
        VALID[:3],
        VALID[:4],
        VALID[:5],
        VALID[:6],
        VALID[:7] + [b""] * (MAX_FRAMES - 4),
    ],
    ids=shortened,
)
def test_frames_that_are_too_few_or_too_many_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(BadMessage):
        parse(frames)


def test_as_many_frames_as_are_allowed_are_taken() -> None:
    assert len(parse(VALID + [b""] * (MAX_FRAMES - 5)).buffers) == MAX_FRAMES - 5


@pytest.mark.parametrize("frame", NO_OBJECT, ids=shortened)
@pytest.mark.parametrize("which", ["header", "parent"])
def test_headers_that_are_no_json_object_are_refused(which: str, frame: bytes) -> None:
    with pytest.raises(BadMessage):
        parse(framed(**{which: frame}))


@pytest.mark.parametrize("frame", NO_OBJECT, ids=shortened)
@pytest.mark.parametrize("which", ["content", "metadata"])
def test_contents_that_are_no_json_object_are_refused_when_they_are_asked_for(which: str, frame: bytes) -> None:
    message = parse(framed(**{which: frame}))
    for _ in range(2):
        with pytest.raises(BadMessage):
            getattr(message, which)


@pytest.mark.parametrize("which", ["header", "parent"])
def test_a_header_may_have_so_many_bytes_and_no_more(which: str) -> None:
    largest = b'{"msg_id":"%s"}' % (b"x" * (MAX_HEADER_BYTES - 13))
    assert len(largest) == MAX_HEADER_BYTES
    parse(framed(**{which: largest}))
    with pytest.raises(BadMessage, match=f"has {MAX_HEADER_BYTES + 1} bytes, more than {MAX_HEADER_BYTES}"):
        parse(framed(**{which: largest + b" "}))


def test_a_refusal_says_what_is_wrong() -> None:
    with pytest.raises(BadMessage, match=r"^content is no JSON object$"):
        read_object(b"[]", "content")
    with pytest.raises(BadMessage, match=r"^header is no JSON: "):
        read_object(b"{", "header")
    with pytest.raises(BadMessage, match=r"^a message has 5 to 256 frames, got 1$"):
        parse([DELIMITER, b""])


def test_numbers_at_the_border_are_read() -> None:
    value = b"9" * 4_000
    assert read_object(b'{"a":' + value + b',"b":1e308}', "content") == {"a": int(value), "b": 1e308}


# --- fuzz


def _flip(rng: random.Random, frames: list[bytes]) -> None:
    index = rng.randrange(len(frames))
    data = bytearray(frames[index] or b"x")
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    frames[index] = bytes(data)


def _cut(rng: random.Random, frames: list[bytes]) -> None:
    index = rng.randrange(len(frames))
    frames[index] = frames[index][: rng.randint(0, len(frames[index]))]


def _drop(rng: random.Random, frames: list[bytes]) -> None:
    del frames[rng.randrange(len(frames))]


def _insert(rng: random.Random, frames: list[bytes]) -> None:
    frames.insert(rng.randint(0, len(frames)), rng.randbytes(rng.randint(0, 40)))


def _swap(rng: random.Random, frames: list[bytes]) -> None:
    one, other = rng.randrange(len(frames)), rng.randrange(len(frames))
    frames[one], frames[other] = frames[other], frames[one]


def _poison(rng: random.Random, frames: list[bytes]) -> None:
    frames[rng.randrange(len(frames))] = rng.choice(NO_OBJECT)


MUTATIONS: list[Callable[[random.Random, list[bytes]], None]] = [_flip, _cut, _drop, _insert, _swap, _poison]


def outcome(frames: Sequence[bytes]) -> str:
    try:
        read_all(frames)
    except BadMessage:
        return "refused"
    return "read"


def test_random_frames_are_refused_and_nothing_else_happens() -> None:
    rng = random.Random(1)
    for _ in range(3_000):
        frames = [rng.randbytes(rng.randint(0, 60)) for _ in range(rng.randint(0, 12))]
        if rng.random() < 0.7:
            frames.insert(rng.randint(0, len(frames)), DELIMITER)
        assert outcome(frames) == "refused"


def test_mutated_messages_are_read_or_refused_and_nothing_else_happens() -> None:
    rng = random.Random(2)
    outcomes = set()
    for _ in range(4_000):
        frames = [*VALID, b"buffer"]
        for _ in range(rng.randint(1, 3)):
            if frames:
                rng.choice(MUTATIONS)(rng, frames)
        outcomes.add(outcome(frames))
    assert outcomes == {"read", "refused"}


# --- to a kernel


def deserialized(frames: list[bytes], key: bytes) -> dict[str, Any]:
    """Read a request as a kernel does, its signature checked."""
    session = Session(key=key, signature_scheme="hmac-sha256")
    identities, rest = session.feed_identities(frames)
    assert identities == []
    return dict(session.deserialize(rest))


def test_a_request_comes_back_as_it_was() -> None:
    encoder = Encoder(KEY)
    content = {"code": "print('é\U0001f600')\n", "silent": False, "n": [1, 2.5, None]}
    header = encoder.header("execute_request")
    frames = encoder.encode(header, content, {"argv": ["a"]}, [b"\x00\xff", b""])
    message = parse(frames)
    assert (message.msg_type, message.parent_id, message.parent_header) == ("execute_request", "", {})
    assert (message.content, message.metadata, list(message.buffers)) == (
        content,
        {"argv": ["a"]},
        [b"\x00\xff", b""],
    )
    date = message.header.pop("date")
    assert datetime.fromisoformat(date).utcoffset() is not None
    assert message.header == {
        "msg_id": header["msg_id"],
        "msg_type": "execute_request",
        "session": encoder.session,
        "username": "kernelgate",
        "version": PROTOCOL_VERSION,
    }


def test_jupyter_accepts_the_signature_of_a_request() -> None:
    header = Encoder(KEY).header("execute_request")
    frames = Encoder(KEY).encode(header, {"code": "é"}, {"a": 1}, [b"buffer"])
    message = deserialized(frames, KEY)
    assert (message["msg_id"], message["msg_type"]) == (header["msg_id"], "execute_request")
    assert (message["content"], message["metadata"]) == ({"code": "é"}, {"a": 1})
    assert [bytes(buffer) for buffer in message["buffers"]] == [b"buffer"]


@pytest.mark.parametrize("changed", [2, 3, 4, 5])
def test_jupyter_refuses_a_request_that_was_changed(changed: int) -> None:
    frames = Encoder(KEY).encode(new_header("execute_request", "s"), {"code": "1"})
    frames[changed] = frames[changed].replace(b"}", b" }") + b" "
    with pytest.raises(ValueError, match="Invalid Signature"):
        deserialized(frames, KEY)


def test_jupyter_refuses_a_request_that_another_key_signed() -> None:
    frames = Encoder(b"another key").encode(new_header("execute_request", "s"), {"code": "1"})
    with pytest.raises(ValueError, match="Invalid Signature"):
        deserialized(frames, KEY)


def test_the_signature_is_hmac_sha256_over_the_four_json_frames() -> None:
    frames = Encoder(KEY).encode(new_header("kernel_info_request", "s"), {}, buffers=[b"not signed"])
    assert frames[1] == hmac.new(KEY, b"".join(frames[2:6]), hashlib.sha256).hexdigest().encode()
    assert Encoder(KEY).sign(frames[2:6]) == frames[1]


def test_each_request_has_an_id_of_its_own_and_each_encoder_a_session() -> None:
    one, other = Encoder(KEY), Encoder(KEY)
    assert len({one.header("a")["msg_id"] for _ in range(100)}) == 100
    assert one.session != other.session


def test_what_is_read_from_a_jupyter_session_is_what_was_sent() -> None:
    session = Session(key=KEY, signature_scheme="hmac-sha256")
    sent = session.msg("stream", {"name": "stdout", "text": "é"}, parent={"msg_id": "p9"}, metadata={"m": [1]})
    message = parse([b"stream", *session.serialize(sent)])
    assert (message.msg_type, message.content, message.metadata) == (
        "stream",
        {"name": "stdout", "text": "é"},
        {"m": [1]},
    )
    assert json.loads(message.frames[1])["session"] == session.session
