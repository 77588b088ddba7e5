"""What a kernel sends of its state: taken when it is in order, refused when it is not, whatever a kernel sends."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from kernelgate.kernel.messages import Message
from kernelgate.kernel.snapshot import CHUNK_BYTES, FileLimits, Inbox, SaveRequest, Snapshot, digest

Json = dict[str, Any]
LIMITS = FileLimits(max_file=4 << 20, max_total=6 << 20, max_count=3, max_name=20)
OLD = digest(b"what the gateway has")
REQUEST = SaveRequest("tag", "base", frozenset({OLD}), (), 8 << 20, 5.0, False, LIMITS)

LAYOUT: Json = {
    "format": 1,
    "python": "3.11",
    "dill": None,
    "execution_count": 3,
    "streams": [[0], [OLD]],
    "sizes": [5, 20],
    "names": 2,
    "skipped": [{"name": "g", "type": "generator", "reason": "runs"}],
    "skipped_count": 1,
    "files": [
        {"path": "a/b.txt", "size": 3, "mode": 0o644, "mtime_ns": 5, "chunks": [1]},
        {"path": "a", "folder": True, "mode": 0o755},
    ],
    "files_skipped": [],
    "files_skipped_count": 0,
}


def message(content: Any, buffers: tuple[bytes, ...] = ()) -> Message:
    header = json.dumps({"msg_type": "kernelgate_state"}).encode()
    return Message([b"", header, b"{}", b"{}", json.dumps(content).encode(), *buffers])


def last(layout: Any, **more: Any) -> Json:
    return {"last": True, "tag": "tag", "layout": layout, "error": None, **more}


def receive(*messages: Message, request: SaveRequest = REQUEST) -> tuple[Snapshot | None, Inbox]:
    async def collect() -> tuple[Snapshot | None, Inbox]:
        inbox = Inbox(request)
        for each in messages:
            inbox.take(each)
        return await inbox.snapshot(), inbox

    return asyncio.run(collect())


def changed(change: Callable[[Json], object]) -> Json:
    layout = copy.deepcopy(LAYOUT)
    change(layout)
    return layout


def test_a_state_in_parts_is_put_together() -> None:
    snapshot, inbox = receive(message({"last": False}, (b"hello",)), message(last(LAYOUT), (b"abc",)))
    assert inbox.error == ""
    assert snapshot is not None
    assert snapshot.layout["streams"] == [[digest(b"hello")], [OLD]]
    assert snapshot.layout["files"][0]["chunks"] == [digest(b"abc")]
    assert snapshot.chunks == {digest(b"hello"): b"hello", digest(b"abc"): b"abc"}
    assert snapshot.digests == {OLD, digest(b"hello"), digest(b"abc")}


def test_the_names_of_chunks_are_those_of_what_came_whatever_the_kernel_calls_them() -> None:
    layout = changed(lambda layout: layout["streams"].__setitem__(0, [digest(b"somebody's secret")]))
    snapshot, inbox = receive(message(last(layout), (b"hello", b"abc")))
    assert snapshot is None
    assert "nobody knows" in inbox.error


def test_chunks_that_nothing_refers_to_are_dropped() -> None:
    snapshot, _ = receive(message(last(LAYOUT), (b"hello", b"abc", b"more")))
    assert snapshot is not None
    assert digest(b"more") not in snapshot.chunks


def test_a_failed_cell_has_no_state_and_no_error() -> None:
    snapshot, inbox = receive(message(last(None)))
    assert (snapshot, inbox.error, inbox.complete) == (None, "", True)


def test_the_kernels_reason_is_told() -> None:
    snapshot, inbox = receive(message(last(None, error="out of time \ud800" + "x" * 500)))
    assert snapshot is None
    assert inbox.error.startswith("out of time ?")
    assert len(inbox.error) == 200


def test_a_state_for_another_request_is_refused() -> None:
    snapshot, inbox = receive(message({**last(LAYOUT), "tag": "other"}, (b"hello", b"abc")))
    assert snapshot is None
    assert inbox.error


def test_what_is_larger_than_asked_for_is_not_kept() -> None:
    chunk = bytes(CHUNK_BYTES)
    inbox_messages = [message({"last": False}, (chunk,)) for _ in range(20)]
    snapshot, inbox = receive(*inbox_messages, message(last(LAYOUT), (b"hello", b"abc")))
    assert snapshot is None
    assert "larger than what was asked for" in inbox.error
    assert inbox._chunks == []


@pytest.mark.parametrize("size", [0, CHUNK_BYTES + 1])
def test_a_chunk_of_another_size_is_refused(size: int) -> None:
    _, inbox = receive(message({"last": False}, (bytes(size),)))
    assert inbox.error


PATHS = [
    "",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a//b",
    ".",
    "a/./b",
    "a\0b",
    "\ud800",
    "x" * 21,
    "a/" * 3000 + "b",
    7,
    None,
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path)[:20])
def test_a_path_that_leads_elsewhere_is_refused(path: object) -> None:
    layout = changed(lambda layout: layout["files"][0].__setitem__("path", path))
    snapshot, inbox = receive(message(last(layout), (b"hello", b"abc")))
    assert snapshot is None
    assert "path" in inbox.error


WRONG: list[tuple[str, Any]] = [
    ("format", 2),
    ("format", None),
    ("python", 3),
    ("dill", 4),
    ("execution_count", -1),
    ("execution_count", 1e300),
    ("execution_count", True),
    ("streams", {}),
    ("streams", []),
    ("streams", [[0]]),
    ("streams", [[0], [True]]),
    ("streams", [[0], [-1]]),
    ("streams", [[0], [2]]),
    ("streams", [[0, 0], [OLD]]),
    ("streams", [[0]] * 1000),
    ("sizes", [5, -20]),
    ("sizes", [5, 9 << 20]),
    ("sizes", [5, "20"]),
    ("names", "two"),
    ("skipped", "g"),
    ("skipped", [1]),
    ("skipped", [{"name": 1, "type": "", "reason": ""}]),
    ("skipped_count", None),
    ("files", None),
    ("files", [None]),
    ("files", [{"path": "a", "size": 5 << 20, "mode": 0, "mtime_ns": 0, "chunks": [0, 0, 0]}]),
    ("files", [{"path": "a", "size": 3, "mode": 0, "mtime_ns": 1 << 70, "chunks": [0]}]),
    ("files", [{"path": "a", "size": 3, "mode": "rw", "mtime_ns": 0, "chunks": [0]}]),
    ("files", [{"path": "a", "size": 3, "mode": 0, "mtime_ns": 0, "chunks": []}]),
    ("files", [{"path": name, "size": 0, "mode": 0, "mtime_ns": 0, "chunks": []} for name in "abcd"]),
    ("files", [{"path": "a", "folder": True, "mode": 0}] * 2),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: repr(value)[:30])
def test_a_layout_that_is_not_in_order_is_refused(field: str, value: Any) -> None:
    layout = changed(lambda layout: layout.__setitem__(field, value))
    snapshot, inbox = receive(message(last(layout), (b"hello", b"abc")))
    assert snapshot is None
    assert "not well-formed" in inbox.error


def test_files_are_not_taken_when_they_were_not_asked_for() -> None:
    request = SaveRequest("tag", None, frozenset({OLD}), (), 8 << 20, 5.0, False, None)
    snapshot, _ = receive(message(last(LAYOUT), (b"hello", b"abc")), request=request)
    assert snapshot is not None
    assert snapshot.layout["files"] == []


@pytest.mark.parametrize("content", [None, [], "x", {"last": 1}, {}])
def test_a_message_that_says_nothing_is_not_the_last_one(content: Any) -> None:
    snapshot, inbox = receive(message(content, (b"hello",)))
    assert snapshot is None
    assert not inbox.complete or inbox.error
