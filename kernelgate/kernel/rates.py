"""How much output a kernel may put out per second, where that is bounded. Pure but for the clock."""

from __future__ import annotations

import time

WINDOW_SECONDS = 3.0
"""A burst may be as long as this at the full rate."""

OUTPUTS = frozenset(
    {"stream", "display_data", "execute_result", "update_display_data", "clear_output", "comm_msg"}
)
"""What may be dropped: a client waits for none of these."""


class Rates:
    """Messages and bytes per second, 0 for any number: each has a store that time fills and use empties."""

    def __init__(self, messages: float, data: float) -> None:
        self._rates = messages, data
        self._stores = [messages * WINDOW_SECONDS, data * WINDOW_SECONDS]
        self._filled_at = time.monotonic()
        self._dropping = False
        self.is_news = False
        """Whether the message that was dropped last is the first of a row."""

    def let_pass(self, msg_type: str, size: int) -> bool:
        """Tell whether a message of ``size`` bytes may go on."""
        if self._rates == (0.0, 0.0) or msg_type not in OUTPUTS:
            return True
        self._fill()
        needed = 1, size
        enough = all(
            not rate or store >= min(need, rate * WINDOW_SECONDS)
            for rate, store, need in zip(self._rates, self._stores, needed, strict=True)
        )
        if enough:
            self._stores = [store - need for store, need in zip(self._stores, needed, strict=True)]
        self.is_news = not enough and not self._dropping
        self._dropping = not enough
        return enough

    def _fill(self) -> None:
        now = time.monotonic()
        seconds, self._filled_at = now - self._filled_at, now
        self._stores = [
            min(rate * WINDOW_SECONDS, store + rate * seconds)
            for rate, store in zip(self._rates, self._stores, strict=True)
        ]
