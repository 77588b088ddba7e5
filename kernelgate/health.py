"""How the server is: what its parts say of themselves."""

from __future__ import annotations

import platform
import time
from typing import Any

from kernelgate import __version__
from kernelgate.containers.engine import Engine
from kernelgate.errors import EngineError
from kernelgate.kernel.pool import KernelPool
from kernelgate.sessions.admission import Admission
from kernelgate.sessions.session import Sessions


class Health:
    """Collects what the parts of the server say of themselves."""

    def __init__(
        self, engine: Engine, pools: dict[str, KernelPool], admission: Admission, sessions: Sessions
    ) -> None:
        self._engine = engine
        self._pools = pools
        self._admission = admission
        self._sessions = sessions
        self._started = time.monotonic()

    def status(self) -> str:
        """``healthy``, or ``degraded`` when kernels cannot be started."""
        failing = any(pool.health()["failed_starts_in_a_row"] for pool in self._pools.values())
        return "degraded" if failing else "healthy"

    async def detailed(self) -> dict[str, Any]:
        docker = await self._docker()
        return {
            "status": self.status() if docker["status"] == "healthy" else "degraded",
            "version": __version__,
            "python": platform.python_version(),
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "docker": docker,
            "pools": {language: pool.health() for language, pool in self._pools.items()},
            "executions": {"running": self._admission.running, "queued": self._admission.queued},
            **self._sessions.health(),
        }

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
