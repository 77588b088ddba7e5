"""How an execution ended: what came of it, in a status, an exit code and a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from kernelgate.containers.engine import GONE, Exit
from kernelgate.kernel.client import UNANSWERED, Status, _exit_code, _verdict
from kernelgate.kernel.outputs import Folded

OK = {"status": "ok"}
FAILED = {"status": "error", "ename": "ValueError"}
ABORTED = {"status": "aborted"}


def raised(ename: str, evalue: str = "") -> Folded:
    return Folded(error={"output_type": "error", "ename": ename, "evalue": evalue, "traceback": []})


QUIET = Folded()
OUT_OF_MEMORY = "Out of memory: the kernel was killed"
STOPPED = "Time limit exceeded: stopped after 1.5 s."
KILLED = " The kernel did not react and was killed"

VERDICTS: dict[str, tuple[Folded, dict[str, Any] | None, Exit | None, bool, tuple[Status, int, str]]] = {
    "ok": (QUIET, OK, None, False, (Status.OK, 0, "")),
    "an exception": (raised("ValueError", "no"), FAILED, None, False, (Status.ERROR, 1, "")),
    "an exception whose message was lost": (QUIET, FAILED, None, False, (Status.ERROR, 1, "")),
    "an exception whose reply says ok": (raised("ValueError"), OK, None, False, (Status.ERROR, 1, "")),
    "an aborted request": (QUIET, ABORTED, None, False, (Status.ERROR, 1, "")),
    "a reply without a status": (QUIET, {}, None, False, (Status.ERROR, 1, "")),
    "a reply with a status that is none": (QUIET, {"status": ["ok"]}, None, False, (Status.ERROR, 1, "")),
    "interrupted without a reply": (
        QUIET,
        UNANSWERED,
        None,
        False,
        (Status.ERROR, 1, "The kernel was interrupted"),
    ),
    "interrupted and told so without a reply": (
        raised("KeyboardInterrupt"),
        UNANSWERED,
        None,
        False,
        (Status.ERROR, 1, ""),
    ),
    "no reply": (QUIET, None, None, False, (Status.ERROR, 1, "")),
    "exit 0": (raised("SystemExit", "0"), FAILED, None, False, (Status.OK, 0, "")),
    "exit 3": (raised("SystemExit", "3"), FAILED, None, False, (Status.ERROR, 3, "")),
    "interrupted": (raised("KeyboardInterrupt"), FAILED, None, False, (Status.ERROR, 1, "")),
    "out of memory": (QUIET, None, Exit(137, True), False, (Status.OUT_OF_MEMORY, 137, OUT_OF_MEMORY)),
    "out of memory in a child, later ended by itself": (
        QUIET,
        None,
        Exit(3, True),
        False,
        (Status.KILLED, 3, "The kernel ended with exit code 3"),
    ),
    "out of memory in a child": (
        raised("BrokenProcessPool"),
        {"status": "error", "out_of_memory": True},
        None,
        False,
        (Status.OUT_OF_MEMORY, 137, "Out of memory: a process of the code was killed"),
    ),
    "out of memory in a child that was waited for": (
        raised("KeyboardInterrupt"),
        {"status": "error", "out_of_memory": True},
        None,
        True,
        (Status.OUT_OF_MEMORY, 137, "Out of memory: a process of the code was killed"),
    ),
    "killed": (
        QUIET,
        None,
        Exit(9),
        False,
        (Status.KILLED, 9, "The kernel ended with exit code 9"),
    ),
    "ended by itself": (
        QUIET,
        None,
        Exit(0),
        False,
        (Status.KILLED, 0, "The kernel ended with exit code 0"),
    ),
    "removed": (
        QUIET,
        None,
        GONE,
        False,
        (Status.KILLED, 137, "The kernel ended with exit code 137"),
    ),
    "ended after the reply": (QUIET, OK, Exit(0), False, (Status.OK, 0, "")),
    "ended after an error": (raised("ValueError"), FAILED, Exit(1), False, (Status.ERROR, 1, "")),
    "stopped": (raised("KeyboardInterrupt"), FAILED, None, True, (Status.TIMEOUT, 124, STOPPED)),
    "stopped as it was done": (QUIET, OK, None, True, (Status.TIMEOUT, 124, STOPPED)),
    "stopped by force": (QUIET, None, Exit(137), True, (Status.TIMEOUT, 124, STOPPED + KILLED)),
    "stopped by force, too large": (
        QUIET,
        None,
        Exit(137, True),
        True,
        (Status.TIMEOUT, 124, STOPPED + KILLED),
    ),
}


@pytest.mark.parametrize(("output", "reply", "end", "timed_out", "expected"), VERDICTS.values(), ids=VERDICTS)
def test_the_verdict(
    output: Folded,
    reply: dict[str, Any] | None,
    end: Exit | None,
    timed_out: bool,
    expected: tuple[Status, int, str],
) -> None:
    assert _verdict(output, reply, end, timed_out, duration=1.46) == expected


@pytest.mark.parametrize(
    ("ename", "evalue", "code"),
    [
        ("SystemExit", "", 0),
        ("SystemExit", "None", 0),
        ("SystemExit", "0", 0),
        ("SystemExit", "False", 0),
        ("SystemExit", "True", 1),
        ("SystemExit", "1", 1),
        ("SystemExit", "42", 42),
        ("SystemExit", "255", 255),
        ("SystemExit", "256", 0),
        ("SystemExit", "300", 44),
        ("SystemExit", "-1", 255),
        ("SystemExit", "-255", 1),
        ("SystemExit", "an error message", 1),
        ("SystemExit", "1.5", 1),
        ("SystemExit", "-", 1),
        ("SystemExit", "--1", 1),
        ("SystemExit", "---", 1),
        ("SystemExit", "1-1", 1),
        ("SystemExit", "+1", 1),
        ("SystemExit", " 1", 1),
        ("SystemExit", "1_0", 1),
        ("SystemExit", "\u0663", 1),
        ("SystemExit", "\u00b2", 1),
        ("SystemExit", "9" * 5_000, 1),
        ("SystemExit", "[1]", 1),
        ("ValueError", "0", 1),
        ("ValueError", "", 1),
        ("KeyboardInterrupt", "", 1),
        ("", "", 1),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_the_exit_code_is_that_of_a_script(ename: str, evalue: str, code: int) -> None:
    assert _exit_code({"ename": ename, "evalue": evalue}) == code


@pytest.mark.parametrize("error", [{}, {"ename": "SystemExit"}, {"evalue": "3"}])
def test_an_error_without_its_fields_has_an_exit_code_too(error: dict[str, Any]) -> None:
    assert _exit_code(error) == (0 if error.get("ename") == "SystemExit" else 1)


def test_statuses_are_texts_that_clients_know() -> None:
    assert [status.value for status in Status] == ["ok", "error", "timeout", "out_of_memory", "killed"]
