"""Leases and locks of one process, in memory. Pure: the caller says what time it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kernelgate.errors import LeaseLost
from kernelgate.stores.store import LEASE_MEMORY, Lease


@dataclass
class Hold:
    """Who has something, and until when; ``token`` is that of the last lease."""

    holder: str
    token: int
    until: float

    def keeps_out(self, holder: str, dead: Collection[str], now: float) -> bool:
        return self.until > now and self.holder != holder and self.holder not in dead


class Leases:
    """The leases of all sessions. Tokens begin with the time, so they grow from one process to the next too."""

    def __init__(self, started: float) -> None:
        self._last_token = int(started * 1_000_000)
        self._holds: dict[str, Hold] = {}

    def acquire(self, key: str, holder: str, ttl: float, dead: Collection[str], now: float) -> int | None:
        """Return the token of a new lease, None when somebody else has one."""
        hold = self._holds.get(key)
        if hold is not None and hold.keeps_out(holder, dead, now):
            return None
        self._last_token += 1
        self._holds[key] = Hold(holder, self._last_token, now + ttl)
        return self._last_token

    def is_good(self, lease: Lease) -> bool:
        """Tell whether nobody else has acquired the lease since."""
        hold = self._holds.get(lease.key)
        return hold is None or hold.token == lease.token

    def check(self, lease: Lease) -> None:
        if not self.is_good(lease):
            raise LeaseLost(f"the session {lease.key} was taken over by another server: nothing was stored")

    def renew(self, lease: Lease, ttl: float, now: float) -> bool:
        good = self.is_good(lease)
        if good:
            self._holds[lease.key] = Hold(lease.holder, lease.token, now + ttl)
        return good

    def release(self, lease: Lease) -> None:
        hold = self._holds.get(lease.key)
        if hold is not None and hold.token == lease.token:
            hold.until = 0.0

    def forget(self, now: float) -> None:
        """Forget the leases of which no writer can be left."""
        old = [
            key
            for key, hold in self._holds.items()
            if hold.until < now and hold.token < (now - LEASE_MEMORY) * 1_000_000
        ]
        for key in old:
            del self._holds[key]


class Locks:
    """Named locks."""

    def __init__(self) -> None:
        self._holds: dict[str, Hold] = {}

    def lock(self, name: str, holder: str, ttl: float, now: float) -> bool:
        hold = self._holds.get(name)
        if hold is not None and hold.keeps_out(holder, (), now):
            return False
        self._holds[name] = Hold(holder, 0, now + ttl)
        return True

    def unlock(self, name: str, holder: str) -> None:
        hold = self._holds.get(name)
        if hold is not None and hold.holder == holder:
            del self._holds[name]
