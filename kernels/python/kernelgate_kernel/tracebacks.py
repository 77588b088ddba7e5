"""Tracebacks as a script would print them, with the frames of the user's code only."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Callable
from types import TracebackType

HIDDEN = tuple(
    os.path.join(path, "")
    for path in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        os.path.dirname(os.__file__),
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    }
)
MAX_CHARS = 20_000


def is_users(filename: str) -> bool:
    """Tell whether a frame of ``filename`` is the user's own code: not a library's, not ours."""
    return not filename.startswith(HIDDEN) and not filename.startswith("<frozen ")


def format_exception(
    exception: BaseException, tb: TracebackType | None, cell_name: Callable[[str], str | None]
) -> str:
    """Return the text of ``exception``, which ends without a newline and is cut in the middle when very long.

    ``cell_name`` gives the name to show for a cell's file name, None for other files.
    """
    shown = traceback.TracebackException(type(exception), exception, tb, compact=True)
    seen: set[int] = set()
    _keep_user_frames(shown, cell_name, seen)
    text = "".join(shown.format()).rstrip("\n")
    if len(text) > MAX_CHARS:
        half = MAX_CHARS // 2
        text = f"{text[:half]}\n...\n{text[-half:]}"
    return text


def _keep_user_frames(
    shown: traceback.TracebackException, cell_name: Callable[[str], str | None], seen: set[int]
) -> None:
    if id(shown) in seen:
        return
    seen.add(id(shown))
    frames = [frame for frame in shown.stack if is_users(frame.filename)]
    shown.stack[:] = [_named(frame, cell_name) for frame in frames]
    if isinstance(getattr(shown, "filename", None), str):  # a SyntaxError's place
        shown.filename = cell_name(shown.filename) or shown.filename
    for other in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        if other is not None:
            _keep_user_frames(other, cell_name, seen)


def _named(frame: traceback.FrameSummary, cell_name: Callable[[str], str | None]) -> traceback.FrameSummary:
    frame.line  # noqa: B018  reads the source line while the file name still leads to it
    name = cell_name(frame.filename)
    if name is not None:
        frame.filename = name
        frame.name = frame.name.replace("<cell line: 1>", "<module>")
    return frame
