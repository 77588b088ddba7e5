"""Every route of the server. Each stands at the root and under ``/v1``."""

from __future__ import annotations

import logging
from functools import partial
from logging import Logger
from typing import Any

from tornado.web import Application, RequestHandler

from kernelgate.api.base import NotFoundHandler, Services
from kernelgate.api.exec import ExecHandler
from kernelgate.api.health import DetailedHealthHandler, HealthHandler
from kernelgate.api.history import ForkHandler, HistoryHandler, UndoHandler
from kernelgate.api.jupyter import (
    DocumentHandler,
    DocumentsHandler,
    KernelHandler,
    KernelInterruptHandler,
    KernelRestartHandler,
    KernelsHandler,
    KernelspecHandler,
    KernelspecResourceHandler,
    KernelspecsHandler,
    MeHandler,
    StatusHandler,
    VersionHandler,
)
from kernelgate.api.notebooks import ExecuteNotebookHandler, NotebookHandler
from kernelgate.api.openapi import OpenApiHandler
from kernelgate.api.sessions import InputHandler, InterruptHandler, SessionHandler, SessionsHandler
from kernelgate.api.variables import VariableHandler, VariablesHandler
from kernelgate.api.websocket import ChannelsHandler

SESSION = r"(?P<session_id>[^/]+)"
KERNEL = r"/api/kernels/(?P<kernel_id>[^/]+)"

ROUTES: list[tuple[str, type[RequestHandler]]] = [
    (r"/exec", ExecHandler),
    (r"/sessions", SessionsHandler),
    (rf"/sessions/{SESSION}", SessionHandler),
    (rf"/sessions/{SESSION}/history", HistoryHandler),
    (rf"/sessions/{SESSION}/undo", UndoHandler),
    (rf"/sessions/{SESSION}/fork", ForkHandler),
    (rf"/sessions/{SESSION}/interrupt", InterruptHandler),
    (rf"/sessions/{SESSION}/input", InputHandler),
    (rf"/sessions/{SESSION}/notebook", NotebookHandler),
    (r"/notebooks/execute", ExecuteNotebookHandler),
    (rf"/sessions/{SESSION}/vars", VariablesHandler),
    (rf"/sessions/{SESSION}/vars/(?P<name>[^/]+)", VariableHandler),
    (r"/health", HealthHandler),
    (r"/health/detailed", DetailedHealthHandler),
    (r"/openapi.json", OpenApiHandler),
]

JUPYTER_ROUTES: list[tuple[str, type[RequestHandler]]] = [
    (r"/api", VersionHandler),
    (r"/api/status", StatusHandler),
    (r"/api/me", MeHandler),
    (r"/api/kernelspecs", KernelspecsHandler),
    (r"/api/kernelspecs/(?P<name>[^/]+)", KernelspecHandler),
    (r"/kernelspecs/(?P<name>[^/]+)/(?P<path>.+)", KernelspecResourceHandler),
    (r"/api/kernels", KernelsHandler),
    (KERNEL, KernelHandler),
    (rf"{KERNEL}/interrupt", KernelInterruptHandler),
    (rf"{KERNEL}/restart", KernelRestartHandler),
    (rf"{KERNEL}/channels", ChannelsHandler),
    (r"/api/sessions", DocumentsHandler),
    (r"/api/sessions/(?P<document_id>[^/]+)", DocumentHandler),
]
"""The routes of a kernel gateway, which are where Jupyter's clients look for them."""

PREFIX = r"(?:/v1)?/*"
"""Some clients put ``/v1`` before the route, with one slash more than there should be."""


def log_request(log: Logger, handler: RequestHandler) -> None:
    """Log a request that failed, without its query: a key may be in it."""
    status, request = handler.get_status(), handler.request
    if status >= 400:
        level = logging.ERROR if status >= 500 else logging.DEBUG
        log.log(level, "%d %s %s %.1f ms", status, request.method, request.path, 1000 * request.request_time())


def application(services: Services, **settings: Any) -> Application:
    """Return the web application. ``settings`` are Tornado's."""
    arguments = {"services": services}
    handlers = [(PREFIX + route + r"/?", handler, arguments) for route, handler in ROUTES]
    handlers += [(route + r"/?", handler, arguments) for route, handler in JUPYTER_ROUTES]
    settings["websocket_max_message_size"] = services.web_sockets.max_message_mb << 20
    settings["log_function"] = partial(log_request, services.log)
    return Application(
        handlers,
        default_handler_class=NotFoundHandler,
        default_handler_args={"services": services},
        **settings,
    )
