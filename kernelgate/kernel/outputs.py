"""From messages to a result. Pure: messages in, nbformat outputs, stdout and stderr out, all within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kernelgate.kernel.messages import BadMessage, Message

Output = dict[str, Any]
"""An output as nbformat 4 has it: ``output_type`` stream, display_data, execute_result or error."""


@dataclass(frozen=True)
class OutputLimits:
    """What one execution may put out: characters for each of stdout and stderr; bytes and number of outputs."""

    stream_chars: int = 1_000_000
    bytes: int = 20 << 20
    count: int = 1000


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


class OutputFold:
    """Takes an execution's iopub messages one by one.

    ``clear_output`` and ``update_display_data`` act on the outputs as they do in a notebook; what was printed
    stays in stdout.
    """

    def __init__(self, limits: OutputLimits) -> None:
        self._limits = limits
        self._outputs: list[Output] = []
        self._displays: dict[str, list[Output]] = {}
        self._printed: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._chars = {"stdout": 0, "stderr": 0}
        self._bytes = 0
        self._count = 0
        self._clear_pending = False
        self._error: Output | None = None
        self._truncated: dict[str, None] = {}
        self._shown: list[str] = []
        self.execution_count: int | None = None
        self.idle = False
        """Whether the kernel said that it has done all the request asked for."""

    def add(self, message: Message) -> None:
        """Take one message; malformed ones and those of other types are passed over."""
        take = _TAKERS.get(message.msg_type)
        if take is None:
            return
        if self._bytes + message.size > self._limits.bytes and message.msg_type != "status":
            self.lost()
            return
        try:
            take(self, message.content)
        except BadMessage:
            self.lost()

    def lost(self) -> None:
        """Remember that an output was left out."""
        self._truncated["outputs"] = None

    def result(self) -> Folded:
        """Return what has come so far."""
        return Folded(
            stdout="".join(self._printed["stdout"]),
            stderr="".join(self._printed["stderr"]),
            shown="".join(f"{text}\n" for text in self._shown),
            outputs=list(self._outputs),
            error=self._error,
            execution_count=self.execution_count,
            truncated=list(self._truncated),
        )

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
        self._apply_clear()
        last = self._outputs[-1] if self._outputs else None
        if last is not None and last["output_type"] == "stream" and last["name"] == name:
            last["text"] += text
        else:
            self._append({"output_type": "stream", "name": name, "text": text}, 0)

    def _take_display(self, content: Mapping[str, Any]) -> None:
        output = {"output_type": "display_data", **_bundle(content)}
        if self._append(output, _size(content)):
            transient = content.get("transient")
            display_id = transient.get("display_id") if isinstance(transient, dict) else None
            if isinstance(display_id, str):
                self._displays.setdefault(display_id, []).append(output)
            self._show(output["data"])

    def _take_result(self, content: Mapping[str, Any]) -> None:
        output = {"output_type": "execute_result", "execution_count": _count(content), **_bundle(content)}
        if self._append(output, _size(content)):
            self._show(output["data"])

    def _take_update(self, content: Mapping[str, Any]) -> None:
        transient = content.get("transient")
        display_id = transient.get("display_id") if isinstance(transient, dict) else None
        self._bytes += _size(content)
        for output in self._displays.get(display_id, ()) if isinstance(display_id, str) else ():
            output.update(_bundle(content))

    def _take_error(self, content: Mapping[str, Any]) -> None:
        traceback = content.get("traceback")
        lines = [clean(line) for line in traceback if isinstance(line, str)] if isinstance(traceback, list) else []
        self._error = {
            "output_type": "error",
            "ename": clean(str(content.get("ename", ""))),
            "evalue": clean(str(content.get("evalue", ""))),
            "traceback": lines,
        }
        self._append(self._error, _size(content))

    def _take_clear(self, content: Mapping[str, Any]) -> None:
        self._clear_pending = True
        if not content.get("wait"):
            self._apply_clear()

    # ---- the list of outputs

    def _append(self, output: Output, size: int) -> bool:
        self._apply_clear()
        if self._count >= self._limits.count or self._bytes + size > self._limits.bytes:
            self.lost()
            return False
        self._count += 1
        self._bytes += size
        self._outputs.append(output)
        return True

    def _apply_clear(self) -> None:
        if self._clear_pending:
            self._clear_pending = False
            self._outputs.clear()
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
    texts = {mime: "".join(value) if _is_lines(value) else value for mime, value in data.items()}
    kept = {mime: value for mime, value in texts.items() if isinstance(value, str) or mime.endswith("json")}
    return {
        "data": _clean_json(kept),
        "metadata": _clean_json(metadata) if isinstance(metadata, dict) else {},
    }


def _is_lines(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(line, str) for line in value)


def _count(content: Mapping[str, Any]) -> int | None:
    count = content.get("execution_count")
    return count if isinstance(count, int) and 0 <= count < 1 << 53 else None


def _size(content: Mapping[str, Any]) -> int:
    """Return about how many bytes a message's texts have; no need to look deeper, their messages are bounded."""
    data = content.get("data")
    values = data.values() if isinstance(data, dict) else content.values()
    return sum(len(value) if isinstance(value, str) else len(repr(value)) for value in values)
