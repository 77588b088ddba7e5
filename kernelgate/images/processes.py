"""The programs that a build runs, and what it leaves on this machine."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kernelgate.errors import ImageError

Say = Callable[[str], None]


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder where downloads are kept between builds."""
    cache = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "kernelgate"


@contextmanager
def started(command: Sequence[str], stderr: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``command``, its output in a pipe and in a process group of its own. Leaving early ends the group."""
    try:
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=stderr)
    except OSError as error:
        raise ImageError(f"cannot run {command[0]}: {error.strerror}; install it") from error
    with process:
        try:
            yield process
            process.wait()
        finally:
            if process.poll() is None:
                end_group(process)


def end_group(process: subprocess.Popen[bytes], seconds: float = 10) -> None:
    """End a process and all in its group, by force if it takes longer than ``seconds``."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def run(command: Sequence[str], say: Say, progress: Callable[[str], str | None] = lambda line: None) -> None:
    """Run ``command``, and say what ``progress`` makes of its output's lines.

    Raises `ImageError` with the end of the output if it fails.
    """
    tail: deque[str] = deque(maxlen=20)
    with started(command, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode(errors="replace")
            tail.append(line)
            if message := progress(line):
                say(message)
    if process.returncode:
        raise ImageError(f"{' '.join(command[:4])} … failed with exit code {process.returncode}:\n{''.join(tail)}")


@contextmanager
def build_lock(folder: Path, say: Say) -> Iterator[None]:
    """Let one process at a time build images of ours on this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
