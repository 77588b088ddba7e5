"""How the server is: what its parts say of themselves."""

from __future__ import annotations

import asyncio
import platform
import time
from typing import Any

from kernelgate import __version__
from kernelgate.containers.engine import Engine
from kernelgate.errors import EngineError, StoreError
from kernelgate.kernel.pool import KernelPool
from kernelgate.sessions.admission import Admission
from kernelgate.sessions.sessions import Sessions
from kernelgate.stores.choice import Stores
from kernelgate.stores.store import BlobStore


class Health:
    """Collects what the parts of the server say of themselves."""

    def __init__(
        self,
        engine: Engine,
        pools: dict[str, KernelPool],
        admission: Admission,
        sessions: Sessions,
        stores: Stores,
    ) -> None:
        self._engine = engine
        self._pools = pools
        self._admission = admission
        self._sessions = sessions
        self._stores = stores
        self._started = time.monotonic()

    def status(self) -> str:
        """``healthy``, or ``degraded`` when kernels cannot be started."""
        failing = any(pool.health()["failed_starts_in_a_row"] for pool in self._pools.values())
        return "degraded" if failing else "healthy"

    async def detailed(self) -> dict[str, Any]:
        docker, store, archive = await asyncio.gather(
            self._docker(), self._store(self._stores.hot), self._store(self._stores.cold)
        )
        working = all(part["status"] in ("healthy", "none") for part in (docker, store, archive))
        return {
            "status": self.status() if working else "degraded",
            "version": __version__,
            "python": platform.python_version(),
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "docker": docker,
            "store": store,
            "archive": archive,
            "pools": {language: pool.health() for language, pool in self._pools.items()},
            "executions": {"running": self._admission.running, "queued": self._admission.queued},
            **self._sessions.health(),
        }

    async def _store(self, store: BlobStore | None) -> dict[str, Any]:
        if store is None:
            return {"status": "none"}
        kind = type(store).__name__.removesuffix("Store").lower()
        try:
            await store.check()
        except StoreError as error:
            return {"kind": kind, "status": "unavailable", "message": str(error)}
        return {"kind": kind, "status": "healthy"}

    async def _docker(self) -> dict[str, Any]:
        try:
            version = await self._engine.version()
        except EngineError as error:
            return {"status": "unavailable", "message": str(error)}
        return {
            "status": "healthy",
            "version": version.get("Version"),
            "api_version": version.get("ApiVersion"),
        }
