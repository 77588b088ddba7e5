"""What all handlers share: who calls, the body, errors as JSON."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from logging import Logger
from typing import Any

from tornado.web import HTTPError, RequestHandler, stream_request_body

from kernelgate.api.parse import parse_user
from kernelgate.auth import Authenticator, Owner
from kernelgate.compact import compact_json
from kernelgate.cors import Cors
from kernelgate.errors import BodyTooLarge, GateError, InvalidRequest, MethodNotAllowed, NotFound
from kernelgate.health import Health
from kernelgate.kernel.frontends import WebSockets
from kernelgate.sessions.control import Control
from kernelgate.sessions.execute import Executor
from kernelgate.sessions.gateway import Gateway
from kernelgate.sessions.history import History
from kernelgate.sessions.notebooks import Notebooks
from kernelgate.sessions.sessions import Sessions
from kernelgate.sessions.variables import Variables

REQUEST_ID_HEADER = "X-Request-ID"
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True)
class Services:
    """What the handlers call; the application makes it once."""

    authenticator: Authenticator
    executor: Executor
    sessions: Sessions
    history: History
    variables: Variables
    health: Health
    control: Control
    gateway: Gateway
    notebooks: Notebooks
    cors: Cors
    web_sockets: WebSockets
    log: Logger
    started: str
    """When the server was started, in ISO 8601."""
    max_body_bytes: int
    keepalive_seconds: float


@stream_request_body
class GateHandler(RequestHandler):
    """A handler whose errors are JSON: ``{"error": code, "message": sentence, "request_id": id, …}``.

    It wants no body; what comes of one is dropped.
    """

    services: Services
    gone = False
    """Whether the client has gone before it had its answer."""

    def initialize(self, services: Services) -> None:
        self.services = services
        given = self.request.headers.get(REQUEST_ID_HEADER, "")
        self.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)

    def set_default_headers(self) -> None:
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.clear_header("Server")

    def prepare(self) -> None:
        self._set_common_headers()

    def _set_common_headers(self) -> None:
        self.set_header(REQUEST_ID_HEADER, self.request_id)
        origin, key_header = self.request.headers.get("Origin"), self.services.authenticator.header
        for name, value in self.services.cors.headers(origin, key_header).items():
            self.set_header(name, value)

    def data_received(self, chunk: bytes) -> None:
        """Drop a part of the body."""

    def on_connection_close(self) -> None:
        self.gone = True
        super().on_connection_close()

    def options(self, *_args: str, **_kwargs: str) -> None:
        """Answer what a browser asks before it lets a page of another origin call."""
        self.nothing()

    def nothing(self) -> None:
        """Finish without content."""
        self.set_status(204)
        self.clear_header("Content-Type")
        self.finish()

    def owner(self, user: str | None = None) -> Owner:
        """Return who calls. The user is ``user``, else the query's ``user_id``. Raises `Unauthorized`."""
        if user is None:
            user = parse_user(self.get_query_argument("user_id", None, strip=False), "user_id")
        return self.services.authenticator.owner(self.request.headers, user, self.token())

    def token(self) -> str:
        """Return a key from elsewhere than the headers, empty for none."""
        return ""

    def reply(self, value: Any, status: int = 200) -> None:
        """Finish with ``value`` as JSON."""
        self.set_status(status)
        self.finish(compact_json(value))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = as_gate_error(status_code, kwargs.get("exc_info", (None, None, None))[1])
        self._set_common_headers()
        if error.status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        details = error.details()
        if "retry_after_seconds" in details:
            self.set_header("Retry-After", str(details["retry_after_seconds"]))
        self.reply(self.error_body(error), error.status)

    def error_body(self, error: GateError) -> dict[str, Any]:
        message = (
            str(error) if error.status != 500 or type(error) is not GateError else "an internal error; see the log"
        )
        return {"error": error.code, "message": message, "request_id": self.request_id, **error.details()}

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what is no answer to a client, without the query: a key may be in it."""
        if not isinstance(value, GateError | HTTPError):
            self.services.log.error(
                "%s %s failed", self.request.method, self.request.path, exc_info=(typ, value, tb)
            )


class BodyHandler(GateHandler):
    """A handler that reads a body of bounded size. What is too large is read to its end and answered with 413."""

    def prepare(self) -> None:
        super().prepare()
        self._chunks: list[bytes] = []
        self._received = 0

    def data_received(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received <= self.services.max_body_bytes:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()

    def body(self) -> bytes:
        """Return the body. Raises `BodyTooLarge`."""
        if self._received > self.services.max_body_bytes:
            raise BodyTooLarge(
                f"a body of at most {self.services.max_body_bytes} bytes is expected, got {self._received}"
            )
        return b"".join(self._chunks)


class NotFoundHandler(BodyHandler):
    """Answers what no route matches."""

    def _no_route(self, *_args: str, **_kwargs: str) -> None:
        raise NotFound(f"there is no {self.request.path}")

    get = post = put = delete = patch = head = options = _no_route


def as_gate_error(status: int, error: BaseException | None) -> GateError:
    """Return what a client is told of ``error``; what is not ours becomes an internal error without details."""
    if isinstance(error, GateError):
        return error
    if isinstance(error, HTTPError):
        if status == 404:
            return NotFound("there is no such route")
        if status == 405:
            return MethodNotAllowed("the route does not know this method")
        if 400 <= status < 500:
            return InvalidRequest(error.log_message or "the request cannot be understood")
    return GateError("internal error")
