"""From messages to a result. Pure: messages in, nbformat outputs, stdout and stderr out, all within bounds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kernelgate.kernel.messages import BadMessage, Message

OnEvent = Callable[[str, dict[str, Any]], None]
"""Takes what happened, in Jupyter's words (``stream``, ``display_data``, …), and what belongs to it."""

Output = dict[str, Any]
"""An output as nbformat 4 has it: ``output_type`` stream, display_data, execute_result or error."""


@dataclass(frozen=True)
class OutputLimits:
    """What one execution may put out: characters for each of stdout and stderr; bytes and number of outputs."""

    stream_chars: int = 1_000_000
    bytes: int = 20 << 20
    count: int = 1000

    @property
    def largest_message(self) -> int:
        """Bytes of the largest message that is worth reading: a display, or text of which JSON makes more."""
        return max(self.bytes, 8 * self.stream_chars)


JSON_MIME = re.compile(r"^application/(.*\+)?json$")
"""As nbformat has it."""

ERROR_CHARS = 100_000
"""Characters of an error's name, its value, and its traceback, each."""

SMALL_MESSAGE = 1 << 16
"""Bytes up to which a message is always read."""

READ_FACTOR = 8
"""Times the limits that are read from one execution before what is large is passed over unread."""

TELL_FACTOR = 8
"""Times the limits that are told of one execution as it goes on. What is cleared gives nothing back here."""

EVENT_BYTES = 64
"""Bytes that an event takes beside what belongs to it."""


@dataclass
class Folded:
    """The outputs of one execution, in order."""

    stdout: str = ""
    stderr: str = ""
    shown: str = ""
    """The texts of results and displays that are no pictures, as a terminal would show them."""
    outputs: list[Output] = field(default_factory=list)
    error: Output | None = None
    execution_count: int | None = None
    truncated: list[str] = field(default_factory=list)
    """What a limit cut: any of ``stdout``, ``stderr``, ``outputs``."""


class _Displays:
    """The displays of one ``display_id``; ``size`` is what they take together.

    Once updated they share their data, so that an update costs the same however many they are.
    """

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.size = 0
        self._shared: Output | None = None

    def add(self, output: Output, size: int) -> None:
        self.outputs.append(output)
        self.size += size
        self._shared = None

    def update(self, bundle: Output, size: int) -> None:
        self.size = size
        if self._shared is None:
            self._shared = {"data": {}, "metadata": {}}
            for output in self.outputs:
                output.update(self._shared)
        for name, shared in self._shared.items():
            shared.clear()
            shared.update(bundle[name])


class OutputFold:
    """Takes an execution's iopub messages one by one.

    ``clear_output`` and ``update_display_data`` act on the outputs as they do in a notebook; what was printed
    stays in stdout.
    """

    def __init__(self, limits: OutputLimits, on_event: OnEvent | None = None) -> None:
        """``on_event`` is called with each output as it comes, within the limits.

        Code may clear and display for ever: what is told has a limit of its own. The result then says that
        ``outputs`` were truncated, and has them all the same.
        """
        self._limits = limits
        self._on_event = on_event
        self._outputs: list[Output] = []
        self._pieces: list[str] = []
        """The text of the last output while it is a stream that may go on. It is put together when it is needed:
        to add each piece to the text would cost the whole text each time."""
        self._bytes = 0
        self._displays: dict[str, _Displays] = {}  # by display_id
        self._printed: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._chars = {"stdout": 0, "stderr": 0}
        self._clear_pending = False
        self._error: Output | None = None
        self._truncated: dict[str, None] = {}
        self._shown: list[str] = []
        self._to_read = READ_FACTOR * (limits.bytes + limits.stream_chars)
        self._to_tell = TELL_FACTOR * (limits.bytes + limits.stream_chars)
        self.execution_count: int | None = None
        self.idle = False
        """Whether the kernel said that it has done all the request asked for."""

    def add(self, message: Message) -> None:
        """Take one message; malformed ones and those of other types are passed over."""
        take = _TAKERS.get(message.msg_type)
        if take is None:
            return
        self._to_read -= message.size
        if message.size > SMALL_MESSAGE and (self._to_read < 0 or message.size > self._limits.largest_message):
            self.lost()
            return
        try:
            take(self, message.content)
        except (BadMessage, RecursionError):
            self.lost()

    def lost(self) -> None:
        """Remember that an output was left out."""
        self._truncated["outputs"] = None

    def result(self) -> Folded:
        """Return what has come so far."""
        self._join_pieces()
        return Folded(
            stdout="".join(self._printed["stdout"]),
            stderr="".join(self._printed["stderr"]),
            shown="".join(f"{text}\n" for text in self._shown),
            outputs=list(self._outputs),
            error=self._error,
            execution_count=self.execution_count,
            truncated=list(self._truncated),
        )

    def _tell(self, name: str, data: dict[str, Any], size: int) -> None:
        """Tell of an event, whose data has about ``size`` bytes, as long as not too much was told."""
        if self._on_event is None:
            return
        self._to_tell -= size + EVENT_BYTES
        if self._to_tell >= 0:
            self._on_event(name, data)
        else:
            self.lost()

    # ---- one message each

    def _take_status(self, content: Mapping[str, Any]) -> None:
        self.idle = self.idle or content.get("execution_state") == "idle"

    def _take_input(self, content: Mapping[str, Any]) -> None:
        self.execution_count = _count(content)

    def _take_stream(self, content: Mapping[str, Any]) -> None:
        name, text = content.get("name"), content.get("text")
        if name not in ("stdout", "stderr") or not isinstance(text, str):
            raise BadMessage("a stream has a name and a text")
        room = self._limits.stream_chars - self._chars[name]
        if len(text) > room:
            self._truncated[name] = None
            text = text[:room]
        if not text:
            return
        text = clean(text)
        self._chars[name] += len(text)
        self._printed[name].append(text)
        self._tell("stream", {"name": name, "text": text}, len(text))
        self._apply_clear()
        goes_on = bool(self._pieces) and self._outputs[-1]["name"] == name
        if goes_on or self._append({"output_type": "stream", "name": name, "text": ""}, 0):
            self._pieces.append(text)

    def _take_display(self, content: Mapping[str, Any]) -> None:
        output = {"output_type": "display_data", **_bundle(content)}
        size = _size(output)
        if self._append(output, size):
            self._show(output["data"])
            display_id = _display_id(content)
            about = {"display_id": display_id} if display_id else {}
            self._tell("display_data", {**_without_type(output), **about}, size + len(display_id))
            if display_id:
                self._displays.setdefault(display_id, _Displays()).add(output, size)

    def _take_result(self, content: Mapping[str, Any]) -> None:
        output = {"output_type": "execute_result", "execution_count": _count(content), **_bundle(content)}
        size = _size(output)
        if self._append(output, size):
            self._show(output["data"])
            self._tell("execute_result", _without_type(output), size)

    def _take_update(self, content: Mapping[str, Any]) -> None:
        display_id = _display_id(content)
        displays = self._displays.get(display_id)
        if displays is None:
            return
        bundle = _bundle(content)
        size = _size(bundle)
        growth = size * len(displays.outputs) - displays.size
        if self._bytes + growth > self._limits.bytes:
            self.lost()
            return
        self._bytes += growth
        self._tell("update_display_data", {**bundle, "display_id": display_id}, size + len(display_id))
        displays.update(bundle, displays.size + growth)

    def _take_error(self, content: Mapping[str, Any]) -> None:
        traceback = content.get("traceback")
        lines = [line for line in traceback if isinstance(line, str)] if isinstance(traceback, list) else []
        self._error = {
            "output_type": "error",
            "ename": _short(content.get("ename", "")),
            "evalue": _short(content.get("evalue", "")),
            "traceback": clean("\n".join(lines)[:ERROR_CHARS]).split("\n") if lines else [],
        }
        self._append(self._error, 0)
        self._tell("error", _without_type(self._error), len(json.dumps(self._error)))

    def _take_clear(self, content: Mapping[str, Any]) -> None:
        self._clear_pending = True
        self._tell("clear_output", {"wait": bool(content.get("wait"))}, 0)
        if not content.get("wait"):
            self._apply_clear()

    # ---- the list of outputs

    def _append(self, output: Output, size: int) -> bool:
        self._apply_clear()
        if len(self._outputs) >= self._limits.count or self._bytes + size > self._limits.bytes:
            self.lost()
            return False
        self._join_pieces()
        self._pieces.clear()
        self._outputs.append(output)
        self._bytes += size
        return True

    def _join_pieces(self) -> None:
        """Put the text of the last stream together, in an output of its own: the one before may be in a result."""
        if self._pieces:
            self._pieces = ["".join(self._pieces)]
            self._outputs[-1] = {**self._outputs[-1], "text": self._pieces[0]}

    def _apply_clear(self) -> None:
        if self._clear_pending:
            self._clear_pending = False
            self._outputs.clear()
            self._pieces.clear()
            self._bytes = 0
            self._displays.clear()
            self._shown.clear()

    def _show(self, data: Mapping[str, Any]) -> None:
        """Remember what a terminal would show for a display: its text, unless it is a picture."""
        text = data.get("text/plain")
        if isinstance(text, str) and not any(mime.startswith("image/") for mime in data):
            self._shown.append(text)


_TAKERS = {
    "status": OutputFold._take_status,
    "execute_input": OutputFold._take_input,
    "stream": OutputFold._take_stream,
    "display_data": OutputFold._take_display,
    "execute_result": OutputFold._take_result,
    "update_display_data": OutputFold._take_update,
    "error": OutputFold._take_error,
    "clear_output": OutputFold._take_clear,
}


def clean(text: str) -> str:
    """Return ``text`` with what no UTF-8 can carry (lone surrogates) replaced."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def _clean_json(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_clean_json(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _clean_json(item) for key, item in value.items()}
    return value


def _bundle(content: Mapping[str, Any]) -> Output:
    """Return ``data`` and ``metadata`` of a display as nbformat wants them."""
    data, metadata = content.get("data"), content.get("metadata")
    if not isinstance(data, dict):
        raise BadMessage("a display has data")
    kept = {mime: value if is_json(mime) else _joined(value) for mime, value in data.items()}
    kept = {mime: value for mime, value in kept.items() if isinstance(value, str) or is_json(mime)}
    return {"data": _clean_json(kept), "metadata": _clean_json(metadata) if isinstance(metadata, dict) else {}}


def is_json(mime: str) -> bool:
    """Tell whether nbformat lets values of the type ``mime`` be any JSON."""
    return JSON_MIME.search(mime) is not None


def _without_type(output: Output) -> Output:
    return {name: value for name, value in output.items() if name != "output_type"}


def _joined(value: object) -> object:
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value


def _display_id(content: Mapping[str, Any]) -> str:
    transient = content.get("transient")
    display_id = transient.get("display_id") if isinstance(transient, dict) else None
    return display_id if isinstance(display_id, str) else ""


def _short(value: object) -> str:
    return clean(str(value)[:ERROR_CHARS]) if isinstance(value, str | int | float | None) else ""


def _count(content: Mapping[str, Any]) -> int | None:
    count = content.get("execution_count")
    known = isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1 << 53
    return count if known else None


def _size(bundle: Output) -> int:
    """Return how many characters the JSON of a display has."""
    return len(json.dumps(bundle["data"])) + len(json.dumps(bundle["metadata"]))
