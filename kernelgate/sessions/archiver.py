"""Moves sessions that nobody uses to the archive, and forgets the oldest there."""

from __future__ import annotations

import asyncio
import time

from traitlets import Bool, Int
from traitlets.config import LoggingConfigurable

from kernelgate.errors import GateError, StateRefused
from kernelgate.kernel.background import Background
from kernelgate.sessions.vault import Vault

BATCH = 100
"""Sessions that are looked up at once."""

ROUND_SECONDS = 300.0
"""The longest time that one server archives before another may."""

LOCK = "archiver"
LOCK_SECONDS = 30.0
"""How long a server that was killed keeps the others from archiving."""


class Archiver(LoggingConfigurable):
    """One of the servers that share a store archives at a time; each of its rounds is bounded."""

    enabled = Bool(True, help="Move inactive sessions to the archive, if there is one.").tag(
        config=True, env="STATE_ARCHIVE_ENABLED", group="State archival"
    )
    after_seconds = Int(3600, min=1, help="Seconds after its last use until a session is archived.").tag(
        config=True, env="STATE_ARCHIVE_AFTER_SECONDS", group="State archival"
    )
    ttl_days = Int(7, min=1, help="Days for which an archived session is kept.").tag(
        config=True, env="STATE_ARCHIVE_TTL_DAYS", group="State archival"
    )
    interval_seconds = Int(300, min=1, help="Seconds between two looks for sessions to be archived.").tag(
        config=True, env="STATE_ARCHIVE_CHECK_INTERVAL_SECONDS", group="State archival"
    )

    def start(self, vault: Vault) -> None:
        """Begin the rounds, the first one at once."""
        self._vault = vault
        self._background = Background(self.log, "archiving")
        self._background.spawn(self._rounds())

    async def close(self) -> None:
        """End the rounds; what is being archived stays where it was."""
        self._background.cancel()
        await self._background.wait()

    async def _rounds(self) -> None:
        while True:
            try:
                await self.round()
            except GateError as error:
                self.log.warning("sessions were not archived this time: %s", error)
            await asyncio.sleep(self.interval_seconds)

    async def round(self) -> int:
        """Archive what is due and remove what has expired; returns how many sessions were archived."""
        if not await self._vault.alone(LOCK, LOCK_SECONDS):
            return 0
        archived = 0
        try:
            if self.enabled and self._vault.has_archive:
                archived = await self._archive_due(time.monotonic() + ROUND_SECONDS)
                await self._vault.expire_archived(self.ttl_days * 86_400)
            await self._vault.hot.sweep()
        finally:
            await asyncio.shield(self._vault.not_alone(LOCK))
        return archived

    async def _archive_due(self, deadline: float) -> int:
        archived, passed = 0, set[str]()
        before = time.time() - self.after_seconds
        while True:
            keys = [key for key in await self._vault.hot.idle(before, BATCH + len(passed)) if key not in passed]
            for key in keys:
                if time.monotonic() > deadline or not await self._vault.alone(LOCK, LOCK_SECONDS):
                    return archived
                passed.add(key)
                archived += await self._archive(key)
            if not keys:
                return archived

    async def _archive(self, key: str) -> bool:
        try:
            return await self._vault.archive(key)
        except StateRefused as error:
            self.log.warning("a session cannot be archived and stays where it is: %s", error)
            return False
