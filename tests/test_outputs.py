"""Outputs: messages in, a result out; whatever a kernel sends, the result is bounded and can be sent on."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import nbformat
import pytest

from kernelgate.kernel.messages import DELIMITER, Message, parse
from kernelgate.kernel.outputs import (
    EVENT_BYTES,
    TELL_FACTOR,
    Folded,
    Output,
    OutputFold,
    OutputLimits,
    clean,
)

SMALL = OutputLimits(stream_chars=10, bytes=1_000, count=3)


def raw_message(msg_type: str, content: bytes, buffers: tuple[bytes, ...] = ()) -> Message:
    header = json.dumps({"msg_type": msg_type}).encode()
    return parse([DELIMITER, b"", header, b'{"msg_id":"p"}', b"{}", content, *buffers])


def message(msg_type: str, /, **content: Any) -> Message:
    return raw_message(msg_type, json.dumps(content).encode())


def stdout(text: str) -> Message:
    return message("stream", name="stdout", text=text)


def stderr(text: str) -> Message:
    return message("stream", name="stderr", text=text)


def display(display_id: str | None = None, /, metadata: object = None, **data: Any) -> Message:
    transient = {"display_id": display_id} if display_id else {}
    return message("display_data", data=mimes(data), metadata=metadata or {}, transient=transient)


def update(display_id: str, /, metadata: object = None, **data: Any) -> Message:
    return message(
        "update_display_data", data=mimes(data), metadata=metadata or {}, transient={"display_id": display_id}
    )


def result(count: Any, /, **data: Any) -> Message:
    return message("execute_result", execution_count=count, data=mimes(data), metadata={})


def clear(wait: bool) -> Message:
    return message("clear_output", wait=wait)


MIMES = {"text": "text/plain", "html": "text/html", "png": "image/png", "json": "application/json"}


def mimes(data: dict[str, Any]) -> dict[str, Any]:
    return {MIMES[name]: value for name, value in data.items()}


def stream_output(name: str, text: str) -> Output:
    return {"output_type": "stream", "name": name, "text": text}


def display_output(**data: Any) -> Output:
    return {"output_type": "display_data", "data": mimes(data), "metadata": {}}


def result_output(count: int | None, **data: Any) -> Output:
    return {"output_type": "execute_result", "execution_count": count, "data": mimes(data), "metadata": {}}


def error_output(ename: str, evalue: str, *traceback: str) -> Output:
    return {"output_type": "error", "ename": ename, "evalue": evalue, "traceback": list(traceback)}


def fold(*messages: Message, limits: OutputLimits | None = None) -> Folded:
    taken = OutputFold(limits or OutputLimits())
    for each in messages:
        taken.add(each)
    return taken.result()


def assert_is_json(folded: Folded) -> None:
    json.dumps([folded.outputs, folded.error, folded.shown], allow_nan=False, ensure_ascii=False).encode()
    (folded.stdout + folded.stderr).encode()


def assert_can_be_sent(folded: Folded) -> None:
    """The result is valid JSON in UTF-8, and its outputs are what a notebook may hold."""
    assert_is_json(folded)
    outputs = [nbformat.from_dict(output) for output in folded.outputs]  # type: ignore[no-untyped-call]
    cell = nbformat.v4.new_code_cell(outputs=outputs)  # type: ignore[no-untyped-call]
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))  # type: ignore[no-untyped-call]


# --- what each message does

TRACEBACK = ["Traceback", "ZeroDivisionError"]
ZERO_DIVISION = error_output("ZeroDivisionError", "division by zero", *TRACEBACK)
ERROR = message(
    "error", ename="ZeroDivisionError", evalue="division by zero", traceback=ZERO_DIVISION["traceback"]
)

TABLE: dict[str, tuple[list[Message], Folded]] = {
    "nothing": ([], Folded()),
    "status": ([message("status", execution_state="busy"), message("status", execution_state="idle")], Folded()),
    "input": ([message("execute_input", code="1", execution_count=7)], Folded(execution_count=7)),
    "stdout": ([stdout("a\n")], Folded(stdout="a\n", outputs=[stream_output("stdout", "a\n")])),
    "stderr": ([stderr("a\n")], Folded(stderr="a\n", outputs=[stream_output("stderr", "a\n")])),
    "an empty text": ([stdout("")], Folded()),
    "streams that follow each other are one": (
        [stdout("a"), stdout("b"), stderr("c"), stderr("d"), stdout("e")],
        Folded(
            stdout="abe",
            stderr="cd",
            outputs=[stream_output("stdout", "ab"), stream_output("stderr", "cd"), stream_output("stdout", "e")],
        ),
    ),
    "a display parts streams": (
        [stdout("a"), display(text="b"), stdout("c")],
        Folded(
            stdout="ac",
            shown="b\n",
            outputs=[stream_output("stdout", "a"), display_output(text="b"), stream_output("stdout", "c")],
        ),
    ),
    "result": ([result(3, text="4")], Folded(shown="4\n", outputs=[result_output(3, text="4")])),
    "a result without a count": (
        [result(None, text="4")],
        Folded(shown="4\n", outputs=[result_output(None, text="4")]),
    ),
    "a picture is not shown as text": (
        [display(text="<Figure>", png="aGk=")],
        Folded(outputs=[display_output(text="<Figure>", png="aGk=")]),
    ),
    "error": ([ERROR], Folded(error=ZERO_DIVISION, outputs=[ZERO_DIVISION])),
    "an error after output": (
        [stdout("a"), ERROR],
        Folded(stdout="a", error=ZERO_DIVISION, outputs=[stream_output("stdout", "a"), ZERO_DIVISION]),
    ),
    "the last error counts": (
        [ERROR, message("error", ename="B", evalue="b", traceback=["x"])],
        Folded(error=error_output("B", "b", "x"), outputs=[ZERO_DIVISION, error_output("B", "b", "x")]),
    ),
    "clear": ([stdout("a"), display(text="b"), clear(False)], Folded(stdout="a")),
    "clear, then more": (
        [display(text="a"), clear(False), display(text="b")],
        Folded(shown="b\n", outputs=[display_output(text="b")]),
    ),
    "clear that waits for ever": (
        [display(text="a"), clear(True)],
        Folded(shown="a\n", outputs=[display_output(text="a")]),
    ),
    "clear that waits for a display": (
        [display(text="a"), clear(True), display(text="b")],
        Folded(shown="b\n", outputs=[display_output(text="b")]),
    ),
    "clear that waits for a stream": (
        [display(text="a"), clear(True), stdout("b")],
        Folded(stdout="b", outputs=[stream_output("stdout", "b")]),
    ),
    "clear that waits for an error": (
        [display(text="a"), clear(True), ERROR],
        Folded(error=ZERO_DIVISION, outputs=[ZERO_DIVISION]),
    ),
    "clear that waits, then one that does not": ([display(text="a"), clear(True), clear(False)], Folded()),
    "an update changes all displays of its id": (
        [display("i", text="a"), display("j", text="b"), display("i", text="c"), update("i", text="d")],
        Folded(
            shown="a\nb\nc\n",
            outputs=[display_output(text="d"), display_output(text="b"), display_output(text="d")],
        ),
    ),
    "an update of nothing": ([update("i", text="a")], Folded()),
    "an update of what was cleared": (
        [display("i", text="a"), clear(False), update("i", text="b")],
        Folded(),
    ),
    "an update drops what it does not name": (
        [display("i", text="a", html="<a>"), update("i", text="b")],
        Folded(shown="a\n", outputs=[display_output(text="b")]),
    ),
    "other types": (
        [message("comm_open", data={"text/plain": "x"}), message("", a=1), message("execute_reply", status="ok")],
        Folded(),
    ),
    "lines of a text are joined": (
        [display(text=["a\n", "b"])],
        Folded(shown="a\nb\n", outputs=[display_output(text="a\nb")]),
    ),
    "a JSON value stays what it is": (
        [display(json={"a": [1, None, {"b": True}]})],
        Folded(outputs=[display_output(json={"a": [1, None, {"b": True}]})]),
    ),
    "a JSON list of texts stays a list": (
        [display(json=["a", "b"])],
        Folded(outputs=[display_output(json=["a", "b"])]),
    ),
}


@pytest.mark.parametrize(("messages", "expected"), TABLE.values(), ids=TABLE)
def test_messages_become_a_result(messages: list[Message], expected: Folded) -> None:
    folded = fold(*messages)
    assert folded == expected
    assert_can_be_sent(folded)


def test_idle_is_remembered() -> None:
    taken = OutputFold(OutputLimits())
    seen = []
    for state in ("busy", "idle", "busy"):
        taken.add(message("status", execution_state=state))
        seen.append(taken.idle)
    assert seen == [False, True, True]


def test_a_result_does_not_change_with_what_comes_later() -> None:
    taken = OutputFold(OutputLimits())
    taken.add(display(text="a"))
    first = taken.result()
    taken.add(display(text="b"))
    taken.lost()
    assert (len(first.outputs), first.shown, first.truncated) == (1, "a\n", [])


def test_a_stream_in_a_result_does_not_grow_with_what_comes_later() -> None:
    taken = OutputFold(OutputLimits())
    texts = []
    for text in ("a", "b", "c"):
        taken.add(stdout(text))
        texts.append(taken.result().outputs)
    assert texts == [[stream_output("stdout", text)] for text in ("a", "ab", "abc")]
    assert taken.result().outputs == texts[-1]


def test_the_pieces_of_a_stream_are_put_together_once() -> None:
    """100,000 pieces: the text so far is not touched by the next piece, whatever characters it has."""
    taken = OutputFold(OutputLimits())
    for _ in range(100_000):
        taken.add(stdout("12345678\U0001f600\n"))
    assert [output["text"] for output in taken._outputs] == [""]
    assert taken.result().outputs == [stream_output("stdout", "12345678\U0001f600\n" * 100_000)]


def test_a_stream_goes_on_behind_an_output_that_had_no_place() -> None:
    folded = fold(stdout("a"), display(text="x" * 1_000), update("i", text="b"), stdout("c"), limits=SMALL)
    assert folded.outputs == [stream_output("stdout", "ac")]


def test_a_stream_that_has_no_place_does_not_go_on_elsewhere() -> None:
    folded = fold(stderr("a"), stdout("b"), stderr("c"), stdout("d"), stderr("e"), limits=SMALL)
    assert [output["text"] for output in folded.outputs] == ["a", "b", "ce"]
    assert (folded.stdout, folded.stderr, folded.truncated) == ("bd", "ace", ["outputs"])


def test_streams_are_as_in_a_notebook_whenever_the_result_is_asked_for() -> None:
    """Random messages, and a result after some of them: as when each piece was added to the last output."""
    rng = random.Random(5)
    for _ in range(200):
        taken, expected, pending = OutputFold(OutputLimits()), list[Output](), False
        for number in range(30):
            kind = rng.choice(["stdout", "stdout", "stderr", "display", "update", "clear", "wait"])
            if kind in ("clear", "wait"):
                taken.add(clear(kind == "wait"))
                pending = True
            elif kind == "update":
                taken.add(update("none", text="a"))
            if kind in ("stdout", "stderr", "display", "clear") and pending:
                expected, pending = [], False
            if kind == "display":
                taken.add(display(text=str(number)))
                expected.append(display_output(text=str(number)))
            elif kind in ("stdout", "stderr"):
                taken.add(message("stream", name=kind, text=f"{number},"))
                before = expected.pop()["text"] if expected and expected[-1].get("name") == kind else ""
                expected.append(stream_output(kind, f"{before}{number},"))
            if rng.random() < 0.3:
                assert taken.result().outputs == expected
        assert taken.result().outputs == expected


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ({"text/plain": 5}, {}),
        ({"text/plain": None, "text/html": "a"}, {"text/html": "a"}),
        ({"text/plain": {"a": 1}}, {}),
        ({"text/plain": ["a", 1]}, {}),
        ({"text/plain": []}, {}),
        ({"image/png": True}, {}),
        ({"application/json": 5}, {"application/json": 5}),
        ({"application/json": []}, {"application/json": []}),
        ({"application/vnd.plotly.v1+json": {"a": []}}, {"application/vnd.plotly.v1+json": {"a": []}}),
        ({"text/json": 5}, {}),
        ({"xjson": {"a": 1}}, {}),
        ({}, {}),
    ],
)
def test_data_that_no_notebook_may_hold_is_left_out(data: dict[str, Any], kept: dict[str, Any]) -> None:
    folded = fold(message("display_data", data=data))
    assert [output["data"] for output in folded.outputs] == [kept]
    assert_can_be_sent(folded)


# --- limits


@pytest.mark.parametrize(
    ("texts", "kept", "truncated"),
    [
        (["0123456789"], "0123456789", []),
        (["0123456789a"], "0123456789", ["stdout"]),
        (["01234", "56789"], "0123456789", []),
        (["01234", "56789a", "b"], "0123456789", ["stdout"]),
        (["0123456789", ""], "0123456789", []),
        (["\U0001f600" * 10], "\U0001f600" * 10, []),
        (["\U0001f600" * 11], "\U0001f600" * 10, ["stdout"]),
    ],
)
def test_a_stream_is_cut_at_its_limit(texts: list[str], kept: str, truncated: list[str]) -> None:
    folded = fold(*map(stdout, texts), limits=SMALL)
    assert folded == Folded(stdout=kept, outputs=[stream_output("stdout", kept)], truncated=truncated)


def test_each_stream_has_its_own_limit() -> None:
    folded = fold(stdout("a" * 10), stderr("b" * 12), stdout("c"), limits=SMALL)
    assert (folded.stdout, folded.stderr, folded.truncated) == ("a" * 10, "b" * 10, ["stderr", "stdout"])


def test_outputs_are_cut_at_their_number() -> None:
    folded = fold(*(display(text=str(number)) for number in range(5)), limits=SMALL)
    assert [output["data"]["text/plain"] for output in folded.outputs] == ["0", "1", "2"]
    assert (folded.shown, folded.truncated) == ("0\n1\n2\n", ["outputs"])


def test_outputs_are_cut_at_their_bytes() -> None:
    folded = fold(display(text="a" * 600), display(text="b" * 600), display(text="c" * 200), limits=SMALL)
    assert [output["data"]["text/plain"][0] for output in folded.outputs] == ["a", "c"]
    assert folded.truncated == ["outputs"]


@pytest.mark.parametrize(
    "large",
    [
        display(text="a" * 1_000),
        result(1, text="a" * 1_000),
    ],
)
def test_a_single_output_over_the_limit_is_left_out(large: Message) -> None:
    assert fold(large, limits=SMALL) == Folded(truncated=["outputs"])


def test_nothing_is_truncated_at_the_limits() -> None:
    assert (
        fold(*(display(text="a") for _ in range(3)), stdout("a" * 10), limits=replace(SMALL, count=4)).truncated
        == []
    )


def test_metadata_counts_against_the_limit() -> None:
    large = [display(metadata={"a": "x" * 800}, text="a") for _ in range(3)]
    folded = fold(*large, limits=SMALL)
    assert len(folded.outputs) == 1
    assert folded.truncated == ["outputs"]


def test_one_update_of_many_displays_stays_within_the_limit() -> None:
    limits = OutputLimits(bytes=10_000, count=100)
    folded = fold(*(display("i", text="a") for _ in range(100)), update("i", text="b" * 5_000), limits=limits)
    assert len(json.dumps(folded.outputs)) < 2 * (limits.bytes + 100 * len(json.dumps(display_output(text=""))))
    assert folded.truncated == ["outputs"]


def test_many_updates_of_one_display_are_fine_as_only_the_last_remains() -> None:
    folded = fold(display("i", text="a"), *(update("i", text=f"{n:0300}") for n in range(50)), limits=SMALL)
    assert folded.outputs == [display_output(text=f"{49:0300}")]
    assert folded.truncated == []


def test_what_was_cleared_does_not_count() -> None:
    frames = [each for n in range(50) for each in (clear(True), display(text=f"{n:0300}"))]
    folded = fold(*frames, limits=SMALL)
    assert folded.outputs == [display_output(text=f"{49:0300}")]
    assert folded.truncated == []


def test_printed_text_has_its_place_when_rich_outputs_fill_theirs() -> None:
    full = display(text="a" * 900)
    limits = OutputLimits(stream_chars=300, bytes=full.size, count=9)
    folded = fold(full, stdout("p" * 200), stderr("w" * 200), limits=limits)
    assert (folded.stdout, folded.stderr) == ("p" * 200, "w" * 200)


def test_an_error_is_told_when_rich_outputs_fill_their_place() -> None:
    full = display(text="a" * 900)
    folded = fold(full, ERROR, limits=replace(SMALL, bytes=full.size))
    assert folded.error == ZERO_DIVISION


def test_an_error_is_told_when_there_are_too_many_outputs() -> None:
    folded = fold(*(display(text="a") for _ in range(5)), ERROR, limits=SMALL)
    assert (folded.error, len(folded.outputs), folded.truncated) == (ZERO_DIVISION, 3, ["outputs"])


def test_text_goes_on_in_stdout_when_there_are_too_many_outputs() -> None:
    folded = fold(*(display(text="a") for _ in range(3)), stdout("b"), limits=SMALL)
    assert (folded.stdout, len(folded.outputs), folded.truncated) == ("b", 3, ["outputs"])


def test_what_was_lost_is_told() -> None:
    taken = OutputFold(OutputLimits())
    taken.lost()
    taken.lost()
    assert taken.result() == Folded(truncated=["outputs"])


# --- what is told as it comes


def told(*messages: Message, limits: OutputLimits | None = None) -> tuple[list[str], int, Folded]:
    """Return the names of the events, how many bytes their data has, and the result."""
    names, size = [], 0

    def on_event(name: str, data: dict[str, Any]) -> None:
        nonlocal size
        names.append(name)
        size += len(json.dumps(data))

    taken = OutputFold(limits or OutputLimits(), on_event)
    for each in messages:
        taken.add(each)
    return names, size, taken.result()


def test_outputs_are_told_as_they_come() -> None:
    messages = [
        stdout("a"),
        display("i", text="b"),
        update("i", text="c"),
        clear(True),
        result(1, text="d"),
        ERROR,
    ]
    names, _size, folded = told(*messages)
    assert names == [each.msg_type for each in messages]
    assert folded == fold(*messages)


@pytest.mark.parametrize(
    "again",
    [
        [clear(False), display(text="a" * 800)],
        [clear(True), display(text="a" * 800)],
        [display("i", text="a" * 400), clear(False)],
        [update("kept", text="a" * 400)],
        [clear(False), result(1, text="a" * 800)],
        [clear(False)],
        [message("error", ename="E", evalue="e" * 400, traceback=["t" * 400])],
        [message("error", ename="E", evalue="e", traceback=["\n" * 400])],
        [display("i" * 400, text="a"), clear(False)],
        [display("i" * 400, text="a"), update("i" * 400, text="b"), clear(False)],
    ],
    ids=lambda messages: " ".join(each.msg_type for each in messages),
)
def test_what_is_told_is_bounded_though_it_is_cleared(again: list[Message]) -> None:
    """A thousand rounds that leave no more than a few outputs: the client is told of the first of them."""
    messages = [display("kept", text="a"), *again * 1_000]
    names, size, folded = told(*messages, limits=SMALL)
    assert size + EVENT_BYTES * len(names) <= 2 * TELL_FACTOR * (SMALL.bytes + SMALL.stream_chars)
    assert folded.outputs == fold(*messages, limits=SMALL).outputs
    assert "outputs" in folded.truncated


def test_all_that_the_limits_let_in_is_told() -> None:
    messages = [*(display(text="a" * 150) for _ in range(3)), *(stdout("a") for _ in range(9)), ERROR]
    names, _size, folded = told(*messages, limits=replace(SMALL, count=9))
    assert (len(names), folded.truncated) == (len(messages), [])


def test_nothing_is_truncated_where_nobody_is_told() -> None:
    assert fold(*[clear(False), display(text="a" * 800)] * 1_000, limits=SMALL).truncated == []


# --- hostile contents


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"null",
        b'{"data":NaN}',
        b"\xff",
        b'{"name":"stdin","text":"a"}',
        b'{"name":"stdout"}',
        b'{"name":["stdout"],"text":"a"}',
        b'{"name":{},"text":"a"}',
        b'{"name":"stdout","text":5}',
    ],
)
def test_a_malformed_stream_is_left_out_and_told(content: bytes) -> None:
    assert fold(raw_message("stream", content)) == Folded(truncated=["outputs"])


@pytest.mark.parametrize("msg_type", ["display_data", "execute_result"])
@pytest.mark.parametrize("content", [b"{}", b'{"data":[]}', b'{"data":"a"}', b'{"data":null}', b"[1]"])
def test_a_display_without_data_is_left_out_and_told(msg_type: str, content: bytes) -> None:
    assert fold(raw_message(msg_type, content)) == Folded(truncated=["outputs"])


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5_000])
def test_a_number_that_no_json_holds_is_left_out_and_told(number: bytes) -> None:
    content = b'{"data":{"application/json":{"a":[' + number + b"]}}}"
    assert fold(raw_message("display_data", content)) == Folded(truncated=["outputs"])


@pytest.mark.parametrize("depth", [10, 100, 300, 490, 900, 980, 5_000])
@pytest.mark.parametrize(
    ("msg_type", "before", "after"),
    [
        ("display_data", b'{"data":{"application/json":', b"}}"),
        ("display_data", b'{"data":{"text/plain":"a"},"metadata":{"a":', b"}}"),
        ("display_data", b'{"data":{"text/plain":', b"}}"),
        ("execute_result", b'{"data":{},"execution_count":', b"}"),
        ("error", b'{"ename":', b"}"),
        ("error", b'{"ename":"a","traceback":', b"}"),
        ("execute_input", b'{"execution_count":', b"}"),
        ("update_display_data", b'{"transient":{"display_id":"i"},"data":{"application/json":', b"}}"),
        ("stream", b'{"name":"stdout","text":', b"}"),
        ("clear_output", b'{"wait":', b"}"),
        ("status", b'{"execution_state":', b"}"),
    ],
    ids=str,
)
def test_a_deeply_nested_content_does_no_harm(msg_type: str, before: bytes, after: bytes, depth: int) -> None:
    nested = b"[" * depth + b"1" + b"]" * depth
    folded = fold(display("i", text="a"), raw_message(msg_type, before + nested + after))
    assert_is_json(folded)
    if depth <= 100:
        assert_can_be_sent(folded)


@pytest.mark.parametrize(
    ("count", "kept"),
    [
        (0, 0),
        ((1 << 53) - 1, (1 << 53) - 1),
        (1 << 53, None),
        (10**4_000, None),
        (-1, None),
        (1.0, None),
        (True, None),
        ("1", None),
        ([1], None),
        (None, None),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, int) or value < 10**20 else "huge",
)
def test_a_count_that_is_none_becomes_none(count: Any, kept: int | None) -> None:
    folded = fold(message("execute_input", execution_count=count), result(count, text="a"))
    assert folded.execution_count is kept or folded.execution_count == kept
    assert folded.outputs[0]["execution_count"] == kept
    assert type(folded.execution_count) is type(kept)
    assert_can_be_sent(folded)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, error_output("", "")),
        ({"ename": None, "evalue": 5, "traceback": "text"}, error_output("None", "5")),
        ({"ename": "A", "evalue": "b", "traceback": ["c", 1, None, "d"]}, error_output("A", "b", "c", "d")),
        ({"ename": "\ud800", "evalue": "\udfff", "traceback": ["\ud83d"]}, error_output("?", "?", "?")),
    ],
)
def test_an_error_is_made_of_texts_whatever_came(content: dict[str, Any], expected: Output) -> None:
    folded = fold(message("error", **content))
    assert (folded.error, folded.outputs) == (expected, [expected])


def test_lone_surrogates_are_replaced_everywhere() -> None:
    bad = "a\ud800b"
    folded = fold(
        stdout(bad),
        stderr(bad),
        message(
            "display_data",
            data={bad: bad, "text/plain": [bad, "c"], "application/json": {bad: [bad, {"k": bad}]}},
            metadata={bad: {"k": [bad]}},
        ),
        message("error", ename=bad, evalue=bad, traceback=[bad]),
    )
    assert (folded.stdout, folded.stderr) == ("a?b", "a?b")
    assert folded.outputs[2] == {
        "output_type": "display_data",
        "data": {"a?b": "a?b", "text/plain": "a?bc", "application/json": {"a?b": ["a?b", {"k": "a?b"}]}},
        "metadata": {"a?b": {"k": ["a?b"]}},
    }
    assert folded.error == error_output("a?b", "a?b", "a?b")
    assert_can_be_sent(folded)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ""), ("a", "a"), ("é\U0001f600\0", "é\U0001f600\0"), ("\ud800", "?"), ("é\udc80x\ud83d", "é?x?")],
)
def test_clean_replaces_lone_surrogates_and_nothing_else(text: str, expected: str) -> None:
    assert clean(text) == expected


# --- fuzz

TYPES = [
    "status",
    "execute_input",
    "stream",
    "display_data",
    "execute_result",
    "update_display_data",
    "error",
    "clear_output",
    "comm_msg",
]
FIELDS = [
    "name",
    "text",
    "data",
    "metadata",
    "transient",
    "execution_count",
    "execution_state",
    "ename",
    "evalue",
    "traceback",
    "wait",
    "display_id",
    "text/plain",
    "image/png",
    "application/json",
    "x+json",
    "text/json",
]
LEAVES = [
    None,
    True,
    False,
    0,
    -1,
    3,
    1 << 60,
    10**400,
    1.5,
    "",
    "a",
    "stdout",
    "stderr",
    "idle",
    "i",
    "\ud800",
    "é" * 9,
]


def random_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if depth > 4 or kind < 0.5:
        return rng.choice(LEAVES)
    if kind < 0.7:
        return [random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return random_object(rng, depth)


def random_object(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    return {rng.choice(FIELDS): random_value(rng, depth + 1) for _ in range(rng.randint(0, 5))}


def test_whatever_comes_the_result_is_bounded_and_can_be_sent() -> None:
    rng = random.Random(3)
    limits = OutputLimits(stream_chars=300, bytes=3_000, count=12)
    for _ in range(150):
        messages = [message(rng.choice(TYPES), **random_object(rng)) for _ in range(30)]
        folded = fold(*messages, limits=limits)
        assert_can_be_sent(folded)
        assert len(folded.outputs) <= limits.count
        assert max(len(folded.stdout), len(folded.stderr)) <= limits.stream_chars
        assert set(folded.truncated) <= {"stdout", "stderr", "outputs"}
        assert len(json.dumps(folded.outputs, ensure_ascii=False)) < 3 * limits.bytes
