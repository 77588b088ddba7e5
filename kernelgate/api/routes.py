"""Every route of the server. Each stands at the root and under ``/v1``."""

from __future__ import annotations

from typing import Any

from tornado.web import Application, RequestHandler

from kernelgate.api.base import NotFoundHandler, Services
from kernelgate.api.exec import ExecHandler
from kernelgate.api.health import DetailedHealthHandler, HealthHandler
from kernelgate.api.history import ForkHandler, HistoryHandler, UndoHandler
from kernelgate.api.openapi import OpenApiHandler
from kernelgate.api.sessions import SessionHandler, SessionsHandler
from kernelgate.api.variables import VariableHandler, VariablesHandler

SESSION = r"(?P<session_id>[^/]+)"

ROUTES: list[tuple[str, type[RequestHandler]]] = [
    (r"/exec", ExecHandler),
    (r"/sessions", SessionsHandler),
    (rf"/sessions/{SESSION}", SessionHandler),
    (rf"/sessions/{SESSION}/history", HistoryHandler),
    (rf"/sessions/{SESSION}/undo", UndoHandler),
    (rf"/sessions/{SESSION}/fork", ForkHandler),
    (rf"/sessions/{SESSION}/vars", VariablesHandler),
    (rf"/sessions/{SESSION}/vars/(?P<name>[^/]+)", VariableHandler),
    (r"/health", HealthHandler),
    (r"/health/detailed", DetailedHealthHandler),
    (r"/openapi.json", OpenApiHandler),
]

PREFIX = r"(?:/v1)?/*"
"""Some clients put ``/v1`` before the route, with one slash more than there should be."""


def application(services: Services, **settings: Any) -> Application:
    """Return the web application. ``settings`` are Tornado's."""
    handlers = [(PREFIX + route + r"/?", handler, {"services": services}) for route, handler in ROUTES]
    return Application(
        handlers,
        default_handler_class=NotFoundHandler,
        default_handler_args={"services": services},
        **settings,
    )
