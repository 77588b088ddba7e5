"""Every route of the server. Each stands at the root and under ``/v1``."""

from __future__ import annotations

from typing import Any

from tornado.web import Application, RequestHandler

from .base import NotFoundHandler, Services
from .exec import ExecHandler
from .health import DetailedHealthHandler, HealthHandler
from .openapi import OpenApiHandler
from .sessions import SessionHandler, SessionsHandler

SESSION = r"(?P<session_id>[^/]+)"

ROUTES: list[tuple[str, type[RequestHandler]]] = [
    (r"/exec", ExecHandler),
    (r"/sessions", SessionsHandler),
    (rf"/sessions/{SESSION}", SessionHandler),
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
        handlers,  # type: ignore[arg-type]
        default_handler_class=NotFoundHandler,
        default_handler_args={"services": services},
        **settings,
    )
