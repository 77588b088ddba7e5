"""Giving a fresh kernel the state that another one had."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kernelgate.containers.engine import GONE
from kernelgate.errors import KernelDied
from kernelgate.kernel.client import KILLED
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.messages import BadMessage
from kernelgate.kernel.snapshot import digests, read_lost

CHUNKS_PER_MESSAGE = 4
RESTORE = "kernelgate_restore_request"


class RestoreFailed(Exception):
    """The kernel did not take the state; ``str(error)`` says why. It must not be used any more.

    ``may_work_again``: it may not have been the state's fault.
    """

    def __init__(self, reason: str, may_work_again: bool = False) -> None:
        super().__init__(reason)
        self.may_work_again = may_work_again


@dataclass(frozen=True)
class Restored:
    """What came of it: how many variables are there, and which could not be loaded."""

    names: int
    lost: list[dict[str, Any]]


NOTHING = Restored(0, [])
"""Of a kernel that was given no variables."""


async def restore(
    kernel: Kernel,
    layout: Mapping[str, Any],
    chunks: Mapping[str, bytes],
    tag: str,
    seconds: float,
    files_only: bool = False,
) -> Restored:
    """Send ``layout`` and its chunks to a fresh kernel and wait until it has loaded them. Raises `RestoreFailed`.

    ``chunks`` holds every chunk that the layout refers to. A kernel that fails must not be used any more. With
    ``files_only`` it gets the files, and no variables.
    """
    names = sorted(digests(layout))
    numbers = {name: number for number, name in enumerate(names)}
    for start in range(0, len(names), CHUNKS_PER_MESSAGE):
        part = [chunks[name] for name in names[start : start + CHUNKS_PER_MESSAGE]]
        kernel.forget(kernel.send("shell", RESTORE, {"last": False}, buffers=part))
        await asyncio.sleep(0)  # others get their turn between the parts
    content = {
        "last": True,
        "layout": _numbered(layout, numbers),
        "seconds": seconds,
        "tag": tag,
        "digests": names,
        "files_only": files_only,
    }
    try:
        return _outcome(await kernel.ask("shell", RESTORE, content, seconds + 2.0))
    except TimeoutError:
        raise RestoreFailed(f"it was not loaded within {seconds:g} s") from None
    except KernelDied:
        end = kernel.end or GONE
        what = "ran out of memory" if end.out_of_memory else "ended"
        was_killed = end.code == KILLED and not end.out_of_memory
        raise RestoreFailed(f"the kernel {what} while it loaded the state", may_work_again=was_killed) from None
    except BadMessage as error:
        raise RestoreFailed(f"the kernel's answer is not well-formed: {error}") from None


def _outcome(reply: dict[str, Any]) -> Restored:
    if reply.get("status") != "ok":
        reason = reply.get("reason")
        raise RestoreFailed(reason[:400] if isinstance(reason, str) else "the kernel gave no reason")
    names = reply.get("restored")
    return Restored(names if isinstance(names, int) else 0, read_lost(reply))


def _numbered(layout: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return the layout with numbers in the place of digests."""
    files = [
        {**entry, "chunks": [numbers[name] for name in entry["chunks"]]} if "chunks" in entry else entry
        for entry in layout["files"]
    ]
    streams = [[numbers[name] for name in stream] for stream in layout["streams"]]
    return {**layout, "streams": streams, "files": files}
