"""``WS /api/kernels/{kernel_id}/channels``: a kernel's channels over a WebSocket."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from tornado.websocket import WebSocketClosedError, WebSocketHandler

from kernelgate.api.jupyter import JupyterClient
from kernelgate.auth import Owner
from kernelgate.cors import is_same_site
from kernelgate.errors import BadOrigin, GateError, InvalidRequest
from kernelgate.kernel.frontends import Connection
from kernelgate.kernel.messages import BadMessage
from kernelgate.kernel.wire import V1, read, write
from kernelgate.sessions.channels import Channels

UNSENT_BYTES = 1 << 20
"""Bytes that wait in the server for a socket to take them; what is more stays in the kernel's journal."""

ACKNOWLEDGE_SECONDS = 0.03
"""Seconds after a message until the client is asked whether it has read it."""

MAX_ID_CHARS = 256
MAX_REASON = 100
TURN = 20
"""Messages of a client that are taken one after the other."""

POLICY_VIOLATION = 1008
GOING_AWAY = 1001


class ChannelsHandler(JupyterClient, WebSocketHandler):
    """One socket of a client.

    A ping carries the number of the message that follows next: its pong says that the client has read all before.
    """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._channels: Channels | None = None
        self._connection: Connection | None = None
        self._unsent = self._received = 0
        self._is_taking = False
        self._asked_at = 0.0
        """When the ping was sent that has no pong yet; 0 when there is none."""
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._life: asyncio.TimerHandle | None = None

    # ---- the handshake

    async def get(self, kernel_id: str) -> None:
        """Check who asks, then make the request a WebSocket."""
        self._loop = asyncio.get_running_loop()
        self._caller: Owner = self.owner()
        self._check_origin()
        self._session_id = self.get_query_argument("session_id", "")
        if len(self._session_id) > MAX_ID_CHARS:
            raise InvalidRequest(f"session_id: at most {MAX_ID_CHARS} characters are expected")
        self._kernel_id = (await self.services.gateway.kernel(self._caller, kernel_id))["session_id"]
        await super().get(kernel_id)

    def _check_origin(self) -> None:
        """Raise `BadOrigin` for a page of another site, unless it is listed in CORS_ORIGINS."""
        origin = self.request.headers.get("Origin") or self.request.headers.get("Sec-Websocket-Origin")
        if origin is None or self.services.cors.allows(origin):
            return
        if not is_same_site(origin, self.request.host):
            raise BadOrigin("a WebSocket is expected from a page of this server, or of CORS_ORIGINS")

    def check_origin(self, origin: str) -> bool:
        """Nothing more: it was checked."""
        return True

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return V1 if V1 in subprotocols else None

    async def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        self._protocol = self.selected_subprotocol
        self._heard_at = self._loop.time()
        try:
            self._channels, self._connection = await self.services.gateway.connect(
                self._caller, self._kernel_id, self._session_id, self._pump, partial(self.close, GOING_AWAY)
            )
        except GateError as error:
            self._refuse(error)
            return
        if self.gone:
            self.on_close()
            return
        self._life = self._loop.call_later(self.services.web_sockets.ping_seconds, self._look)
        self._pump()

    def _refuse(self, error: Exception) -> None:
        """End the connection and say why, in what a close frame can carry."""
        self.close(POLICY_VIOLATION, str(error).encode("ascii", "replace").decode()[:MAX_REASON])

    # ---- from the client

    async def on_message(self, message: str | bytes) -> None:
        if self._channels is None or self._connection is None:
            return
        self._heard_at = self._loop.time()
        self._received += 1
        if self._received % TURN == 0:
            await asyncio.sleep(0)  # others get their turn
        self._is_taking = True  # until there is room, no pong is read either
        try:
            await self._channels.take(self._connection, read(message, self._protocol))
        except BadMessage as error:
            self._refuse(error)
        finally:
            self._is_taking = False
            self._heard_at = self._loop.time()

    def on_pong(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        self._asked_at = 0.0
        if self._connection is not None and data.isdigit() and len(data) < 20:
            self._connection.acknowledge(int(data))
            if self._connection.unread:
                self._ask_soon()

    def on_close(self) -> None:
        self.gone = True
        for timer in (self._timer, self._life):
            if timer is not None:
                timer.cancel()
        connection, self._connection = self._connection, None
        if connection is not None and self._channels is not None:
            self._channels.frontends.disconnect(connection)

    # ---- to the client

    def _pump(self) -> None:
        """Send what there is, as long as the socket takes it."""
        connection = self._connection
        if connection is None or self.gone:
            return
        while self._unsent < UNSENT_BYTES:
            message = connection.take()
            if message is None:
                break
            self._send(write(*message, self._protocol))
        if connection.unread:
            self._ask_soon()

    def _send(self, frame: bytes | str) -> None:
        self._unsent += len(frame)
        try:
            sent = self.write_message(frame, binary=isinstance(frame, bytes))
        except WebSocketClosedError:
            return  # on_close does the rest
        sent.add_done_callback(partial(self._on_sent, len(frame)))

    def _on_sent(self, size: int, sent: asyncio.Future[None]) -> None:
        was_full = self._unsent >= UNSENT_BYTES
        self._unsent -= size
        if sent.cancelled() or sent.exception() is not None:
            return
        self._heard_at = self._loop.time()
        if was_full and self._unsent < UNSENT_BYTES:
            self._pump()

    def _ask_soon(self) -> None:
        if self._timer is None and not self._asked_at:
            self._timer = self._loop.call_later(ACKNOWLEDGE_SECONDS, self._ask)

    def _ask(self) -> None:
        """Find out how far the client has read."""
        self._timer = None
        if self._connection is not None and not self._asked_at:
            self._asked_at = self._loop.time()
            try:
                self.ping(b"%d" % self._connection.cursor)
            except WebSocketClosedError:
                return

    def _look(self) -> None:
        """End the connection to a client that gives no sign of life."""
        silence = self._loop.time() - self._heard_at
        if silence > self.services.web_sockets.timeout_seconds and not self._is_taking:
            self.close(POLICY_VIOLATION, "no answer to a ping")
            return
        self._life = self._loop.call_later(self.services.web_sockets.ping_seconds, self._look)
        if not self._asked_at:
            self._ask()
