"""Jupyter's REST routes: kernels, kernelspecs, sessions (documents that use a kernel)."""

from __future__ import annotations

from typing import Any

from kernelgate import __version__
from kernelgate.api.base import BodyHandler, GateHandler
from kernelgate.api.parse_jupyter import parse_document, parse_start
from kernelgate.errors import GateError, NotFound
from kernelgate.sessions.gateway import StartRequest


class JupyterClient(GateHandler):
    """A handler for Jupyter's clients: ``token`` in the query is a key; errors have a ``reason`` too."""

    def token(self) -> str:
        return self.get_query_argument("token", "")

    def error_body(self, error: GateError) -> dict[str, Any]:
        body = super().error_body(error)
        return {**body, "reason": body["message"]}


class JupyterHandler(JupyterClient, BodyHandler):
    """A route of Jupyter's."""

    def created(self, path: str, model: dict[str, Any]) -> None:
        """Answer that a thing is there now, and where."""
        self.set_header("Location", path)
        self.reply(model, 201)


class VersionHandler(GateHandler):
    """``GET /api``: needs no key."""

    def get(self) -> None:
        self.reply({"version": __version__})


class StatusHandler(JupyterHandler):
    """``GET /api/status``."""

    async def get(self) -> None:
        kernels = await self.services.gateway.kernels(self.owner())
        active = max((each["last_activity"] for each in kernels), default=self.services.started)
        self.reply(
            {
                "started": self.services.started,
                "last_activity": active,
                "kernels": len(kernels),
                "connections": sum(each["connections"] for each in kernels),
            }
        )


class MeHandler(JupyterHandler):
    """``GET /api/me``: who calls."""

    def get(self) -> None:
        owner = self.owner()
        name = owner.user or "kernelgate"
        identity = {"username": name, "name": name, "display_name": name, "initials": name[:2].upper()}
        self.reply({"identity": {**identity, "avatar_url": None, "color": None}, "permissions": {}})


class KernelspecsHandler(JupyterHandler):
    """``GET /api/kernelspecs``."""

    async def get(self) -> None:
        self.reply(await self.services.gateway.kernelspecs(self.owner()))


class KernelspecHandler(JupyterHandler):
    """``GET /api/kernelspecs/{name}``."""

    async def get(self, name: str) -> None:
        self.reply(await self.services.gateway.kernelspec(self.owner(), name))


class KernelspecResourceHandler(JupyterHandler):
    """``GET /kernelspecs/{name}/{path}``: kernelspecs have no logos yet."""

    async def get(self, name: str, path: str) -> None:
        spec = await self.services.gateway.kernelspec(self.owner(), name)
        raise NotFound(f"the kernelspec {spec['name']} has no {path[:80]!r}")


class KernelsHandler(JupyterHandler):
    """``GET`` and ``POST /api/kernels``."""

    async def get(self) -> None:
        self.reply(await self.services.gateway.kernels(self.owner()))

    async def post(self) -> None:
        model = await self.services.gateway.start(self.owner(), parse_start(self.body()))
        self.created(f"/api/kernels/{model['id']}", model)


class KernelHandler(JupyterHandler):
    """``GET`` and ``DELETE /api/kernels/{kernel_id}``."""

    async def get(self, kernel_id: str) -> None:
        self.reply(await self.services.gateway.kernel(self.owner(), kernel_id))

    async def delete(self, kernel_id: str) -> None:
        await self.services.gateway.delete(self.owner(), kernel_id)
        self.nothing()


class KernelInterruptHandler(JupyterHandler):
    """``POST /api/kernels/{kernel_id}/interrupt``."""

    async def post(self, kernel_id: str) -> None:
        await self.services.gateway.interrupt(self.owner(), kernel_id)
        self.nothing()


class KernelRestartHandler(JupyterHandler):
    """``POST /api/kernels/{kernel_id}/restart``."""

    async def post(self, kernel_id: str) -> None:
        self.reply(await self.services.gateway.restart(self.owner(), kernel_id))


class DocumentsHandler(JupyterHandler):
    """``GET`` and ``POST /api/sessions``."""

    async def get(self) -> None:
        self.reply(await self.services.gateway.documents(self.owner()))

    async def post(self) -> None:
        owner, body = self.owner(), parse_document(self.body())
        document = {"path": "", "name": "", "type": "notebook", **body.fields}
        start = body.start or StartRequest()
        model = await self.services.gateway.add_document(owner, document, body.kernel_id, start)
        self.created(f"/api/sessions/{model['id']}", model)


class DocumentHandler(JupyterHandler):
    """``GET``, ``PATCH`` and ``DELETE /api/sessions/{document_id}``."""

    async def get(self, document_id: str) -> None:
        self.reply(await self.services.gateway.document(self.owner(), document_id))

    async def patch(self, document_id: str) -> None:
        owner, body = self.owner(), parse_document(self.body())
        self.reply(
            await self.services.gateway.change_document(
                owner, document_id, body.fields, body.kernel_id, body.start
            )
        )

    async def delete(self, document_id: str) -> None:
        await self.services.gateway.delete_document(self.owner(), document_id)
        self.nothing()
