"""What ``POST /exec`` answers. Pure."""

from __future__ import annotations

from typing import Any

from kernelgate.kernel.client import Result
from kernelgate.kernel.outputs import Folded
from kernelgate.sessions.session import Ready, Session
from kernelgate.sessions.state import Run

Json = dict[str, Any]


def execution_reply(session: Session, ready: Ready, result: Result, show_last_expression: bool = False) -> Json:
    """Return the reply without its ``state``.

    ``show_last_expression``: what the last expression gives is in stdout when nothing was printed.
    """
    output = result.output
    return {
        "session_id": session.id,
        "stdout": _stdout(output, show_last_expression),
        "stderr": _stderr(result, ready.problem, _loss(session) if result.kernel_lost else ""),
        "files": [],
        "status": result.status.value,
        "exit_code": result.exit_code,
        "outputs": output.outputs,
        "execution_count": output.execution_count,
        "duration_ms": round(result.duration * 1000, 3),
        "truncated": output.truncated,
        "runtime_session_id": session.id,
        "runtime_status": ready.status,
    }


def _stdout(output: Folded, show_last_expression: bool) -> str:
    shows = show_last_expression and not output.stdout.strip()
    return output.stdout + (output.shown if shows else "")


def _loss(session: Session) -> str:
    """Say what becomes of a session whose kernel is dead."""
    version = session.record.version
    return (
        f"The session goes on from what was saved last, version {version}" if version else "Its variables are lost"
    )


def _stderr(result: Result, problem: str, loss: str) -> str:
    """Return stderr with what a terminal would have shown on it: the traceback, and why the code was stopped."""
    output = result.output
    parts = [f"The session's state could not be restored, it begins anew: {problem}\n"] if problem else []
    if output.stderr:
        parts.append(output.stderr)
    if output.error is not None and result.exit_code != 0:
        parts.append("\n".join(output.error["traceback"]) + "\n")
    if result.message:
        parts.append(result.message + "\n")
    if loss:
        parts.append(loss + "\n")
    for name in output.truncated:
        parts.append(
            "Some outputs were left out\n" if name == "outputs" else f"{name} length exceeded: the rest was cut\n"
        )
    return "".join(
        part if part.endswith("\n") or part is parts[-1] else part + "\n" for part in parts if part.strip()
    )


def with_state(run: Run, session: Session, ready: Ready, error: str = "", pending: bool = False) -> Json:
    """Return the reply with what is stored of the session's state."""
    return {**run.reply, "state": state_field(run.result, session, ready, error, pending)}


def state_field(result: Result, session: Session, ready: Ready, error: str, pending: bool) -> Json:
    """Return the reply's ``state``: the session's version, what is in it, what had to be left out."""
    snapshot = result.snapshot
    shown: Json = {
        "version": session.record.version,
        "captured": snapshot is not None and not error,
        "pending": pending,
        "error": error or result.save_error or None,
        "restored": None,
    }
    if ready.status == "restored" or ready.problem:
        lost, problem = ready.restored.lost, ready.problem or None
        shown["restored"] = {"names": ready.restored.names, "lost": lost, "error": problem}
    if snapshot is None:
        return {**shown, "saved": 0, "bytes": 0, "skipped": [], "skipped_count": 0, "files": None}
    layout = snapshot.layout
    files = [entry for entry in layout["files"] if "size" in entry]
    shown["saved"], shown["bytes"] = layout["names"], sum(layout["sizes"])
    shown["skipped"], shown["skipped_count"] = layout["skipped"], layout["skipped_count"]
    shown["files"] = {
        "saved": len(files),
        "bytes": sum(entry["size"] for entry in files),
        "skipped": layout["files_skipped"],
        "skipped_count": layout["files_skipped_count"],
    }
    return shown
