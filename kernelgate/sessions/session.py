"""A session as this server knows it: whose it is, its kernel, and who looks on."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from kernelgate.auth import Owner
from kernelgate.kernel.frontends import Frontends
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.messages import Message
from kernelgate.kernel.outputs import clean
from kernelgate.kernel.restore import NOTHING, Restored
from kernelgate.languages import Language
from kernelgate.sessions.record import Record
from kernelgate.sessions.state import EMPTY
from kernelgate.sessions.vault import Vault

MAX_PROMPT = 10_000
"""Characters of a question that are shown."""


class Session:
    """One session as this server knows it. One execution at a time uses it; the others wait in order."""

    def __init__(self, owner: Owner, session_id: str, language: Language) -> None:
        self.owner = owner
        self.id = session_id
        self.key = Vault.key(owner, session_id)
        self.language = language
        self.record = Record.new(owner, session_id, language.id)
        self.stored = False
        """Whether the record was ever stored, or read from the store."""
        self.kernel: Kernel | None = None
        self.has = EMPTY
        """What of the kernel's state is stored."""
        self.used_at = self.kernel_since = time.monotonic()
        self.turn = asyncio.Lock()
        self.users = 0
        """Executions that run or wait."""
        self.interrupts = 0
        """How many times what has the session was to be interrupted."""
        self.aborts = 0
        """How many times what had not run yet was not to run any more."""
        self.deleted = False
        self.frontends: Frontends | None = None
        """The Jupyter clients that look on, if there are any."""
        self.is_whole = True
        """Whether all that the kernel has is stored too."""
        self.question: Question | None = None
        """What the running code asks the user, while nobody has answered."""

    @property
    def is_only_known_here(self) -> bool:
        """Whether what the store says of it is not the last word; calls that wait or were refused do not count."""
        return (self.stored or self.kernel is not None) and (self.users > 0 or not self.stored)

    @property
    def connections(self) -> int:
        """How many sockets of Jupyter clients there are."""
        return len(self.frontends.connections) if self.frontends is not None else 0

    @property
    def keeps_more_than_is_stored(self) -> bool:
        """Whether somebody who looks on would miss something if the kernel ended now."""
        if self.frontends is None or not self.frontends.connections:
            return False
        return not self.is_whole or bool(self.frontends.comms)

    def touch(self) -> None:
        self.used_at = time.monotonic()

    @property
    def active_at(self) -> float:
        """When it was used last, or its kernel was last heard of."""
        return max(self.used_at, self.kernel.heard_at if self.kernel is not None else 0.0)

    @property
    def has_work(self) -> bool:
        """Whether the kernel does something for a Jupyter client that is no execution: in a subshell, say."""
        return self.kernel is not None and self.frontends is not None and self.frontends.is_busy

    @property
    def state(self) -> str:
        """``busy``, ``idle`` (it has a kernel), or ``dormant`` (it has none at the moment)."""
        if self.users:
            return "busy"
        return "idle" if self.kernel is not None and self.kernel.alive else "dormant"

    @property
    def is_running(self) -> bool:
        """Whether code runs in it."""
        return self.turn.locked()

    def describe(self) -> dict[str, Any]:
        """Return the session as the API shows it; times in ISO 8601."""
        return {**self.record.describe(), **self.describe_use()}

    def describe_use(self) -> dict[str, Any]:
        """Return what the API shows of a session beside its record."""
        return {
            "state": self.state,
            "connections": self.connections,
            "input_request": self.question.describe() if self.question is not None else None,
        }


@dataclass(frozen=True)
class Question:
    """What running code asks the user."""

    kernel: Kernel
    message: Message
    prompt: str
    password: bool

    @classmethod
    def of(cls, kernel: Kernel, message: Message) -> Question:
        """Read an ``input_request``. Raises `BadMessage`."""
        prompt = message.content.get("prompt")
        text = clean(prompt[:MAX_PROMPT]) if isinstance(prompt, str) else ""
        return cls(kernel, message, text, message.content.get("password") is True)

    def describe(self) -> dict[str, Any]:
        """Return the question as the API shows it."""
        return {"prompt": self.prompt, "password": self.password}


@dataclass(frozen=True)
class Ready:
    """A kernel that is in its session's state, and how it came to be."""

    kernel: Kernel
    status: str
    """``reused``: it was the session's already. ``restored``: it was given the state. ``new``: there was none."""
    restored: Restored = NOTHING
    problem: str = ""
    """Why the session does not go on from its state."""
