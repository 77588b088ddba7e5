"""``GET /openapi.json``: the API as an OpenAPI 3.1 document."""

from __future__ import annotations

from functools import cache

from kernelgate import __version__
from kernelgate.api.base import GateHandler
from kernelgate.api.openapi_exec import EXEC_SCHEMAS, exec_paths
from kernelgate.api.openapi_jupyter import JUPYTER_SCHEMAS, jupyter_paths
from kernelgate.api.openapi_notebooks import NOTEBOOK_SCHEMAS, notebook_paths
from kernelgate.api.openapi_operation import CALLER_ERRORS, ERROR, KEYS, OBJECT, USER, Json, answer, operation
from kernelgate.api.openapi_sessions import SESSION_SCHEMAS, session_paths


class OpenApiHandler(GateHandler):
    """``GET /openapi.json``, for everyone."""

    def get(self) -> None:
        self.reply(document())


@cache
def document() -> Json:
    """Return the OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kernelgate",
            "version": __version__,
            "description": "Runs code in Jupyter kernels inside locked-down containers. Every route stands under "
            "/v1 as well, but for those of Jupyter's clients below /api and /kernelspecs. All answer OPTIONS.",
        },
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {
                "Error": ERROR,
                **EXEC_SCHEMAS,
                **SESSION_SCHEMAS,
                **NOTEBOOK_SCHEMAS,
                **JUPYTER_SCHEMAS,
            },
        },
        "security": KEYS,
        "paths": {
            **exec_paths(),
            **session_paths(),
            **notebook_paths(),
            **jupyter_paths(),
            **_server(),
        },
    }


def _server() -> Json:
    """Return the routes to what the server says of itself."""
    return {
        "/health": {
            "get": operation(
                "Tell whether the server is well.",
                {"200": answer("`healthy` or `degraded`.", OBJECT)},
                [],
                security=[],
            )
        },
        "/health/detailed": {
            "get": operation(
                "Tell how Docker, the pools, executions and sessions are.",
                {"200": answer("The state of each part.", OBJECT)},
                CALLER_ERRORS,
                parameters=[USER],
            )
        },
        "/openapi.json": {
            "get": operation("This document.", {"200": answer("An OpenAPI document.", OBJECT)}, [], security=[])
        },
    }
