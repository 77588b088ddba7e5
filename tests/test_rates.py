"""How much output a kernel may put out per second."""

from __future__ import annotations

import pytest

from kernelgate.kernel import rates
from kernelgate.kernel.rates import OUTPUTS, WINDOW_SECONDS, Rates


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rates, "time", clock)
    return clock


def passed(limit: Rates, count: int, size: int = 1, msg_type: str = "stream") -> int:
    """How many of ``count`` messages go on."""
    return sum(limit.let_pass(msg_type, size) for _ in range(count))


@pytest.mark.parametrize(("messages", "data", "size"), [(10, 0, 1), (0, 1000, 100)], ids=["messages", "bytes"])
def test_a_burst_goes_on_and_then_as_much_as_time_gives(
    clock: Clock, messages: float, data: float, size: int
) -> None:
    """Ten a second: thirty at once, five after half a second, thirty after a day."""
    limit = Rates(messages, data)
    assert WINDOW_SECONDS == 3
    assert [passed(limit, 100, size), passed(limit, 100, size)] == [30, 0]
    clock.now += 0.5
    assert passed(limit, 100, size) == 5
    clock.now += 86_400
    assert passed(limit, 100, size) == 30


def test_the_tighter_of_two_limits_counts(clock: Clock) -> None:
    assert passed(Rates(10, 10), 100, 1) == 30
    assert passed(Rates(10, 10), 100, 5) == 6


@pytest.mark.parametrize("limits", [(0.0, 0.0), (0.0, 1e6), (1e6, 0.0)])
def test_nothing_is_a_limit_of_zero(clock: Clock, limits: tuple[float, float]) -> None:
    assert passed(Rates(*limits), 1000, 1) == 1000


def test_an_output_that_is_larger_than_a_burst_goes_on_when_nothing_else_does(clock: Clock) -> None:
    """And is paid for afterwards."""
    limit = Rates(0, 1000)
    assert passed(limit, 2, 10_000) == 1
    clock.now += 7
    assert passed(limit, 1, 1) == 0
    clock.now += 1
    assert passed(limit, 1, 1) == 1


@pytest.mark.parametrize(
    "msg_type", ["status", "execute_input", "error", "shutdown_reply", "comm_open", "comm_close"]
)
def test_what_clients_wait_for_is_never_dropped(clock: Clock, msg_type: str) -> None:
    limit = Rates(1, 1)
    assert passed(limit, 100, 100) == 1
    assert passed(limit, 100, 100, msg_type) == 100
    assert msg_type not in OUTPUTS


def test_a_row_of_dropped_messages_is_news_once(clock: Clock) -> None:
    limit, news = Rates(1, 0), []
    for _ in range(2):
        for _ in range(6):
            limit.let_pass("stream", 1)
            news.append(limit.is_news)
        clock.now += 10
    assert news == [False, False, False, True, False, False] * 2
