"""Which kernels are ended although nobody asked for it."""

from __future__ import annotations

from traitlets import Bool, Int
from traitlets.config import LoggingConfigurable

from kernelgate.sessions.session import Session


class Culling(LoggingConfigurable):
    """Bounds on the lives of kernels. A session whose kernel was ended goes on in another, from what is stored."""

    kernel_idle_seconds = Int(
        300,
        min=0,
        help="Seconds that a session keeps its kernel after its last use. 0: the kernel ends at once. While a "
        "Jupyter client is connected, a kernel with widgets, or with more than could be stored, is kept.",
    ).tag(config=True, env="KERNEL_IDLE_SECONDS", group="Sessions")
    cull_idle_timeout = Int(
        0,
        min=0,
        help="Seconds without any activity after which a kernel is ended whatever it has. 0: never.",
    ).tag(config=True, env="CULL_IDLE_TIMEOUT", group="Jupyter")
    cull_connected = Bool(False, help="Whether CULL_IDLE_TIMEOUT ends kernels that clients are connected to.").tag(
        config=True, env="CULL_CONNECTED", group="Jupyter"
    )
    cull_busy = Bool(False, help="Whether CULL_IDLE_TIMEOUT ends kernels that run code and put nothing out.").tag(
        config=True, env="CULL_BUSY", group="Jupyter"
    )
    max_busy_seconds = Int(
        0, min=0, help="Seconds that a cell of a Jupyter client may run before it is interrupted. 0: any time."
    ).tag(config=True, env="MAX_BUSY_SECONDS", group="Jupyter")
    max_life_seconds = Int(
        0,
        min=0,
        help="Seconds after which a session's kernel is replaced by a new one, once it is idle. 0: never.",
    ).tag(config=True, env="MAX_KERNEL_LIFE_SECONDS", group="Jupyter")

    def is_due(self, session: Session, now: float) -> bool:
        """Tell whether the kernel of a session that executes nothing is to end. ``now`` is monotonic time."""
        if session.has_work:
            return self.is_stuck(session, now)
        idle = now - session.active_at
        if idle > self.kernel_idle_seconds and not session.keeps_more_than_is_stored:
            return True
        return self._is_too_idle(session, idle) or self._is_too_old(session, now)

    def is_stuck(self, session: Session, now: float) -> bool:
        """Tell whether the session's kernel is to end although it runs code."""
        return self.cull_busy and self._is_too_idle(session, now - session.active_at)

    def _is_too_idle(self, session: Session, idle: float) -> bool:
        if not self.cull_idle_timeout or idle <= self.cull_idle_timeout:
            return False
        return self.cull_connected or not session.connections

    def _is_too_old(self, session: Session, now: float) -> bool:
        return bool(self.max_life_seconds) and now - session.kernel_since > self.max_life_seconds
