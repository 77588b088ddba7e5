"""``GET /health``: is the server well."""

from __future__ import annotations

from kernelgate.api.base import GateHandler


class HealthHandler(GateHandler):
    """``GET /health``, for everyone: 200 as long as requests are answered."""

    def get(self) -> None:
        self.reply({"status": self.services.health.status()})


class DetailedHealthHandler(GateHandler):
    """``GET /health/detailed``, with a key: Docker, pools, executions, sessions, versions."""

    async def get(self) -> None:
        self.owner()
        self.reply(await self.services.health.detailed())
