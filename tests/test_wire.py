"""Frames of WebSockets: what any Jupyter client sends and reads, and what one sends that means harm."""

from __future__ import annotations

import json
import random
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from jupyter_server.services.kernels.connection import base

from kernelgate.kernel.messages import DELIMITER, MAX_FRAMES, BadMessage, parse
from kernelgate.kernel.wire import MAX_ID_CHARS, V1, ClientMessage, read, write

reference: Any = base
"""Jupyter Server's own functions, which have no types."""

HEADER = {"msg_id": "m1", "msg_type": "execute_request", "session": "s1", "username": "", "version": "5.4"}
PARENT = {"msg_id": "p1"}
METADATA = {"cellId": "c1"}
CONTENT = {"code": "print('Grüße, 世界 🙂\\n\\u2028')", "silent": False, "n": [1, 2.5, None, "\x00\x7f"]}
PARTS = (HEADER, PARENT, METADATA, CONTENT)
BUFFERS: list[list[bytes]] = [[], [b""], [b"\x00\xff" * 100], [b"one", b"", b"three" * 50_000]]
KERNEL_HEADER = b'{"msg_id":"k1","msg_type":"stream"}'

SMALL = 1 << 20
"""Bytes of memory that no small frame may take."""


def encoded(parts: Sequence[object]) -> list[bytes]:
    return [json.dumps(part).encode() for part in parts]


def v1_frame(channel: bytes, chunks: Sequence[bytes]) -> bytes:
    """Return a frame of the newer protocol, with whatever is put into it."""
    offsets = [8 * (len(chunks) + 3)]
    for chunk in (channel, *chunks):
        offsets.append(offsets[-1] + len(chunk))
    return struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets) + channel + b"".join(chunks)


def index_v1(*numbers: int, rest: bytes = b"") -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers) + rest


def index_legacy(*numbers: int, rest: bytes = b"") -> bytes:
    return struct.pack(f"!{len(numbers)}I", *numbers) + rest


def legacy_text(**fields: object) -> str:
    names = ("header", "parent_header", "metadata", "content")
    return json.dumps({**dict(zip(names, PARTS, strict=True)), "channel": "shell", **fields})


def refused(frame: str | bytes, protocol: str | None) -> bool:
    with pytest.raises(BadMessage) as caught:
        read(frame, protocol)
    return 0 < len(str(caught.value)) < 1000


def read_all(message: ClientMessage) -> tuple[object, ...]:
    return message.channel, message.header, message.parent_header, message.metadata, message.content


# ---- what well-meaning clients send


@pytest.mark.parametrize("buffers", BUFFERS, ids=len)
def test_a_v1_frame_of_jupyter_server_is_read(buffers: list[bytes]) -> None:
    frame = reference.serialize_msg_to_ws_v1([*encoded(PARTS), *buffers], "control")
    message = read(frame, V1)
    assert read_all(message) == ("control", *PARTS)
    assert list(message.buffers) == buffers
    assert (message.msg_id, message.msg_type, message.size) == ("m1", "execute_request", len(frame))


@pytest.mark.parametrize("buffers", BUFFERS, ids=len)
def test_a_legacy_frame_of_jupyter_server_is_read(buffers: list[bytes]) -> None:
    names = ("header", "parent_header", "metadata", "content")
    frame = reference.serialize_binary_message(
        {**dict(zip(names, PARTS, strict=True)), "channel": "stdin", "buffers": buffers}
    )
    message = read(frame, None)
    assert read_all(message) == ("stdin", *PARTS)
    assert list(message.buffers) == buffers
    assert message.size == len(frame)


def test_a_legacy_text_is_read() -> None:
    assert read_all(read(legacy_text(buffers=[], msg_id="m1", extra=[1]), None)) == ("shell", *PARTS)


def test_a_legacy_message_without_a_channel_is_for_the_shell() -> None:
    fields = json.loads(legacy_text())
    del fields["channel"]
    assert read(json.dumps(fields), None).channel == "shell"


@pytest.mark.parametrize("missing", ["parent_header", "metadata", "content"])
@pytest.mark.parametrize("how", ["left out", "null", "empty"])
def test_parts_other_than_the_header_may_be_missing(missing: str, how: str) -> None:
    fields = json.loads(legacy_text())
    fields[missing] = {} if how == "empty" else None
    if how == "left out":
        del fields[missing]
    assert getattr(read(json.dumps(fields), None), missing) == {}
    if how != "null":
        chunks = [b"" if name == missing else json.dumps(fields.get(name)).encode() for name in ORDER]
        assert getattr(read(v1_frame(b"shell", chunks), V1), missing) == {}


ORDER = ("header", "parent_header", "metadata", "content")


# ---- what clients are sent


@pytest.mark.parametrize("buffers", BUFFERS, ids=len)
def test_a_v1_frame_is_read_by_jupyter_server(buffers: list[bytes]) -> None:
    parts = [*encoded(PARTS), *buffers]
    frame = write("iopub", parts, V1)
    assert isinstance(frame, bytes)
    assert frame == reference.serialize_msg_to_ws_v1(parts, "iopub")
    assert reference.deserialize_msg_from_ws_v1(frame) == ("iopub", parts)


@pytest.mark.parametrize("buffers", BUFFERS, ids=len)
def test_a_legacy_frame_is_read_by_jupyter_server(buffers: list[bytes]) -> None:
    frame = write("iopub", [*encoded(PARTS), *buffers], None)
    if not buffers:
        assert isinstance(frame, str)
        found: dict[str, Any] = json.loads(frame)
    else:
        assert isinstance(frame, bytes)
        found = reference.deserialize_binary_message(frame)
    assert [found[name] for name in ORDER] == list(PARTS)
    assert (found["channel"], found["msg_id"], found["msg_type"]) == ("iopub", "m1", "execute_request")
    assert found["buffers"] == buffers


@pytest.mark.parametrize("protocol", [V1, None], ids=["v1", "legacy"])
def test_what_was_written_is_read_again(protocol: str | None) -> None:
    for buffers in BUFFERS:
        message = read(write("shell", [*encoded(PARTS), *buffers], protocol), protocol)
        assert read_all(message) == ("shell", *PARTS)
        assert list(message.buffers) == buffers


@pytest.mark.parametrize(
    "msg_id", ['"', "\\", '","channel":"stdin', "\ud800", "\x00", "\u2028</script>", "é" * 256]
)
def test_ids_that_would_end_a_text_early_do_not(msg_id: str) -> None:
    header = {**HEADER, "msg_id": msg_id}
    frame = write("iopub", encoded((header, {}, {}, {})), None)
    assert isinstance(frame, str)
    found = json.loads(frame)
    assert (found["msg_id"], found["header"]["msg_id"], found["channel"]) == (msg_id, msg_id, "iopub")
    assert read(v1_frame(b"shell", encoded((header, {}, {}, {}))), V1).msg_id == msg_id


# ---- frames of the newer protocol that mean harm

CHUNKS = encoded(PARTS)
GOOD = v1_frame(b"shell", CHUNKS)
END = len(GOOD)
FIRST = 8 * 7
"""Where the first part begins in a frame with the usual six offsets."""

BAD_V1: dict[str, str | bytes] = {
    "nothing": b"",
    "a byte": b"\x06",
    "seven bytes": b"\x06" + b"\0" * 6,
    "only a count": index_v1(6),
    "count 0": index_v1(0, rest=GOOD[8:]),
    "count 0 and nothing else": index_v1(0),
    "count 1": index_v1(1, 16),
    "too few parts": v1_frame(b"shell", CHUNKS[:3]),
    "only a channel": v1_frame(b"shell", []),
    "2^60 offsets": index_v1(1 << 60, rest=GOOD[8:]),
    "2^64 - 1 offsets": index_v1((1 << 64) - 1, rest=GOOD[8:]),
    "2^63 offsets": index_v1(1 << 63),
    "a count in the other byte order": struct.pack(">Q", 6) + GOOD[8:],
    "more offsets than there is": index_v1(200, rest=GOOD[8:]),
    "too many buffers": v1_frame(b"shell", [*CHUNKS, *[b""] * MAX_FRAMES]),
    "offsets that go back": index_v1(6, FIRST, 61, 58, 70, 80, END, rest=GOOD[FIRST:]),
    "an end before the beginning": index_v1(6, FIRST, 61, 70, 80, 90, 0, rest=GOOD[FIRST:]),
    "offsets beyond the end": index_v1(6, FIRST, 61, 70, 80, 90, END + 1, rest=GOOD[FIRST:]),
    "offsets of 2^64 - 1": index_v1(6, *[(1 << 64) - 1] * 6, rest=GOOD[FIRST:]),
    "all offsets 0": index_v1(6, *[0] * 6, rest=GOOD[FIRST:]),
    "a first part among the offsets": index_v1(6, 8, 61, 70, 80, 90, END, rest=GOOD[FIRST:]),
    "a gap before the first part": index_v1(6, FIRST + 1, 61, 70, 80, 90, END, rest=GOOD[FIRST:]),
    "all parts empty": index_v1(6, *[FIRST] * 6),
    "text": GOOD.decode("latin-1"),
    "legacy JSON as text": legacy_text(),
    "legacy JSON as bytes": legacy_text().encode(),
    "a zip file": b"PK\x03\x04" * 100,
}


@pytest.mark.parametrize("case", BAD_V1)
def test_a_malformed_v1_frame_is_refused(case: str) -> None:
    assert refused(BAD_V1[case], V1)


BAD_LEGACY: dict[str, str | bytes] = {
    "an empty text": "",
    "nothing": b"",
    "three bytes": b"\0\0\0",
    "only a count": index_legacy(1),
    "count 0": index_legacy(0, rest=legacy_text().encode()),
    "a negative count": struct.pack("!i", -1) + legacy_text().encode(),
    "the most negative count": struct.pack("!i", -(1 << 31)) + legacy_text().encode(),
    "2^31 - 1 parts": index_legacy((1 << 31) - 1, rest=legacy_text().encode()),
    "too many parts": index_legacy(MAX_FRAMES + 1, *[0] * (MAX_FRAMES + 1)),
    "offsets that go back": index_legacy(3, 16, 500, 20, rest=legacy_text().encode() + b"x" * 500),
    "offsets beyond the end": index_legacy(2, 12, 1 << 30, rest=legacy_text().encode()),
    "a first part among the offsets": index_legacy(2, 4, 40, rest=legacy_text().encode()),
    "an index in the other byte order": struct.pack("<II", 1, 8) + legacy_text().encode(),
    "a v1 frame": GOOD,
    "JSON without an index": legacy_text().encode(),
    "no object": "[]",
    "null": "null",
    "a number": "1",
    "two objects": legacy_text() + legacy_text(),
    "an object that goes on": legacy_text() + "}",
    "NaN": legacy_text(content={"x": float("nan")}),
    "infinity": legacy_text(content={"x": float("-inf")}),
    "1e999": legacy_text(content={"x": 0}).replace('"x": 0', '"x": 1e999'),
    "a number of 5,000 digits": legacy_text(content={"x": 0}).replace('"x": 0', '"x": ' + "9" * 5000),
    "100,000 lists deep": legacy_text(content={"x": 0}).replace('"x": 0', '"x": ' + "[" * 100_000),
    "100,000 objects deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "invalid UTF-8": index_legacy(1, 8, rest=legacy_text(content={"x": "y"}).encode().replace(b"y", b"\xff")),
    "no header": legacy_text(header=None),
    "a header that is a list": legacy_text(header=["msg_id"]),
    "a header that is a text": legacy_text(header="m1"),
    "a content that is a list": legacy_text(content=[1]),
    "a content that is a text": legacy_text(content="code"),
    "metadata that are a number": legacy_text(metadata=1),
    "a parent that is true": legacy_text(parent_header=True),
    "a channel that is a list": legacy_text(channel=["shell"]),
    "a channel that is an object": legacy_text(channel={}),
    "a channel that is null": legacy_text(channel=None),
    "a channel of surrogates": legacy_text(channel="\ud800"),
}


@pytest.mark.parametrize("case", BAD_LEGACY)
def test_a_malformed_legacy_frame_is_refused(case: str) -> None:
    assert refused(BAD_LEGACY[case], None)


# ---- channels, ids, JSON: the same in both protocols

Framer = Callable[[bytes, Sequence[bytes]], "str | bytes"]


def _legacy(channel: bytes, chunks: Sequence[bytes]) -> bytes:
    fields = b",".join(b'"%b":%b' % (name.encode(), chunk) for name, chunk in zip(ORDER, chunks, strict=True))
    text = b'{%b,"channel":%b}' % (fields, json.dumps(channel.decode("latin-1")).encode())
    return index_legacy(1, 8, rest=text)


both = pytest.mark.parametrize(("framer", "protocol"), [(v1_frame, V1), (_legacy, None)], ids=["v1", "legacy"])


@both
@pytest.mark.parametrize(
    "channel",
    [
        b"",
        b"iopub",
        b"hb",
        b"heartbeat",
        b"Shell",
        b"shell ",
        b"shell\0",
        b"\xff",
        b"shell,control",
        b"x" * 10_000,
    ],
)
def test_a_forged_channel_is_refused(framer: Framer, protocol: str | None, channel: bytes) -> None:
    assert refused(framer(channel, CHUNKS), protocol)


@both
@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
def test_the_channels_of_clients_are_taken(framer: Framer, protocol: str | None, channel: str) -> None:
    assert read(framer(channel.encode(), CHUNKS), protocol).channel == channel


@both
@pytest.mark.parametrize("name", ["msg_id", "msg_type"])
@pytest.mark.parametrize(
    "value", [None, "", 1, True, [], {}, ["m1"], {"msg_id": "m1"}, 1.5, "x" * (MAX_ID_CHARS + 1), "left out"]
)
def test_a_header_without_an_id_or_a_type_is_refused(
    framer: Framer, protocol: str | None, name: str, value: object
) -> None:
    header = {**HEADER, name: value}
    if value == "left out":
        del header[name]
    assert refused(framer(b"shell", [json.dumps(header).encode(), *CHUNKS[1:]]), protocol)


BAD_JSON = {
    "nothing but spaces": b"  ",
    "a list": b"[1]",
    "a text": b'"x"',
    "true": b"true",
    "cut off": b'{"a":',
    "NaN": b'{"a":NaN}',
    "infinity": b'{"a":Infinity}',
    "1e999": b'{"a":1e999}',
    "1E+999 in a list": b'{"a":[1E+999]}',
    "a number of 5,000 digits": b'{"a":' + b"1" * 5000 + b"}",
    "100,000 lists deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "invalid UTF-8": b'{"a":"\xff"}',
    "half of a character": b'{"a":"\xe4\xb8"}',
    "an overlong slash": b'{"a":"\xc0\xaf"}',
    "a line end in a text": b'{"a":"\n"}',
    "single quotes": b"{'a':1}",
    "a comment": b'{"a":1/**/}',
    "an end and more": b'{"a":1}}',
}


@both
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("case", BAD_JSON)
def test_a_part_that_is_no_json_object_is_refused(
    framer: Framer, protocol: str | None, part: int, case: str
) -> None:
    chunks = [*CHUNKS]
    chunks[part] = BAD_JSON[case]
    assert refused(framer(b"shell", chunks), protocol)


# ---- JSON of a kernel

HOSTILE_PARTS = {
    "an end before its time": b'{"text":"x"},"channel":"shell","content":{}',
    "an end of the message": b'{}}{"header":{}',
    "an end and a comma": b"{},",
    "nothing": b"",
    "a list": b"[1]",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"text":"x"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"text":"x"}'.encode("utf-16-le"),
    "UTF-16, the other way round": '{"text":"x"}'.encode("utf-16-be"),
    "UTF-16 with what is UTF-8 too": '{"text":"\u2020"}'.encode("utf-16-le"),
    "UTF-16 with quotes inside": '{"text":"\u2c22\u227d\u7b3a"}'.encode("utf-16-le"),
    "UTF-32": '{"text":"x"}'.encode("utf-32"),
    "UTF-32 without a mark": '{"text":"x"}'.encode("utf-32-be"),
    "surrogates in UTF-8": b'{"text":"\xed\xa0\x80"}',
    "escaped surrogates": b'{"text":"\\ud800"}',
    "NaN": b'{"text":NaN}',
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "spaces around it": b' \n\t{"text":"x"}\r\n ',
    "a NUL behind it": b"{}\0",
    "a form feed before it": b"\x0c{}",
    "a space of no width before it": "\u200b{}".encode(),
    "a key twice": b'{"text":"x","text":"y"}',
}


def strict_json(text: str | bytes) -> Any:
    """Read JSON as a browser does: UTF-8 without a byte order mark, no NaN."""

    def no_number(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text if isinstance(text, str) else text.decode(), parse_constant=no_number)


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("case", HOSTILE_PARTS)
def test_a_part_of_a_kernel_is_refused_or_goes_to_clients_as_json(part: int, case: str) -> None:
    """Whatever a kernel puts into a part: no client gets a frame it cannot read, or reads other parts."""
    frames = [b"topic", DELIMITER, b"signature", KERNEL_HEADER, b'{"msg_id":"p1"}', b"{}", b'{"text":"hello"}']
    hostile = HOSTILE_PARTS[case]
    if part == 0 and hostile.startswith(b"{") and case not in ("NaN", "deep"):
        hostile = hostile.replace(b"{", KERNEL_HEADER[:-1] + b",", 1)
    frames[part + 3] = hostile
    try:
        parts = parse(frames).parts
        if not isinstance(strict_json(parts[0]).get("msg_id"), str):
            return  # such a message reaches no client, whatever else is in it
    except BadMessage:
        return
    text = write("iopub", parts, None)
    assert isinstance(text, str)
    text.encode()
    found = strict_json(text)
    assert sorted(found) == sorted([*ORDER, "msg_id", "msg_type", "channel", "buffers"])
    assert found["channel"] == "iopub"
    frame = write("iopub", parts, V1)
    assert isinstance(frame, bytes)
    channel, chunks = reference.deserialize_msg_from_ws_v1(frame)
    assert channel == "iopub"
    assert [strict_json(chunk) for chunk in chunks] == [found[name] for name in ORDER]


@pytest.mark.parametrize(
    "case", ["an end before its time", "an end of the message", "an end and a comma", "nothing"]
)
@pytest.mark.parametrize("part", [3, 4, 5, 6], ids=ORDER)
def test_a_part_that_ends_the_object_early_is_refused_before_it_is_written(part: int, case: str) -> None:
    frames = [b"topic", DELIMITER, b"signature", KERNEL_HEADER, b"{}", b"{}", b"{}"]
    frames[part] = HOSTILE_PARTS[case]
    with pytest.raises(BadMessage):
        _ = parse(frames).parts


# ---- anything at all


def garbage(rng: random.Random) -> bytes:
    """Return a frame: random bytes, or a good one with bytes changed, cut, doubled, or numbers put into it."""
    seed = rng.choice([GOOD, _legacy(b"shell", CHUNKS), v1_frame(b"stdin", [*CHUNKS, b"x" * 50]), b""])
    data = bytearray(seed or rng.randbytes(rng.randrange(200)))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            data[at : at + 1] = rng.randbytes(1)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = data[: rng.randrange(40)]
        elif kind == 3:
            data[:8] = struct.pack("<Q", rng.choice([0, 1, 6, 7, 255, 1 << 31, 1 << 60, (1 << 64) - 1]))
        else:
            size = rng.choice([4, 8])
            place = size * rng.randrange(9)
            data[place : place + size] = rng.choice([0, 1, 56, len(data), 1 << 31]).to_bytes(size, "little")
    return bytes(data)


def test_any_bytes_are_a_message_or_refused_in_bounded_time_and_memory() -> None:
    """12,000 frames: `BadMessage` or a message whose fields have the types that the rest relies on."""
    rng = random.Random(7)
    frames = [garbage(rng) for _ in range(4_000)]
    taken = 0
    started = time.process_time()
    tracemalloc.start()
    try:
        for frame in frames:
            for given, protocol in ((frame, V1), (frame, None), (frame.decode("latin-1"), None)):
                try:
                    message = read(given, protocol)
                except BadMessage:
                    continue
                taken += 1
                assert message.channel in ("shell", "control", "stdin")
                assert 0 < len(message.msg_id) <= MAX_ID_CHARS
                assert isinstance(message.content, dict)
                assert all(isinstance(each, bytes) for each in message.buffers)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken > 20
    assert peak < SMALL
    assert time.process_time() - started < 30


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("size", [4, 8])
def test_a_count_costs_no_more_than_its_frame(order: Any, size: int) -> None:
    """Each power of two as the count: refused, and nothing is allocated for it."""
    tracemalloc.start()
    try:
        for power in range(8 * size):
            frame = (1 << power).to_bytes(size, order) + b"\0" * 64
            for protocol in (V1, None):
                assert refused(frame, protocol)
        assert tracemalloc.get_traced_memory()[1] < SMALL
    finally:
        tracemalloc.stop()


def test_json_of_any_depth_is_refused_or_can_be_written_on() -> None:
    """What is read near the limit of recursion must not fail later, where the stack is deeper."""
    limit = sys.getrecursionlimit()
    deepest = 0
    for depth in range(100, limit, 10):
        content = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
        for framer, protocol in ((v1_frame, V1), (_legacy, None)):
            try:
                message = read(framer(b"shell", [CHUNKS[0], b"{}", b"{}", content]), protocol)
            except BadMessage:
                continue
            deepest = max(deepest, depth)
            _at_depth(100, lambda message=message: json.dumps(message.content))  # type: ignore[misc]
    assert deepest >= 100


def _at_depth(frames: int, work: Callable[[], object]) -> object:
    return work() if frames == 0 else _at_depth(frames - 1, work)
