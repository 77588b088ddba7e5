"""The table of results: rows, targets, and the statistics behind them. No I/O."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HEADINGS = ("what", "result", "x bare", "target", "")


@dataclass(frozen=True)
class Row:
    """One measured thing. ``met`` is None where there is no target."""

    what: str
    result: str
    ratio: float | None = None
    target: str = ""
    met: bool | None = None

    def cells(self) -> tuple[str, ...]:
        verdict = {None: "", True: "ok", False: "MISSED"}[self.met]
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return (self.what, self.result, ratio, self.target, verdict)


def at_most(what: str, value: float, unit: str, bound: float, detail: str = "") -> Row:
    """Return the row of a value that must not exceed ``bound``."""
    return Row(what, f"{value:.1f} {unit}{detail}", target=f"<= {bound:g} {unit}", met=value <= bound)


def at_least(what: str, value: float, unit: str, bound: float, detail: str = "") -> Row:
    """Return the row of a value that must reach ``bound``."""
    return Row(what, f"{value:.2f}{unit}{detail}", target=f">= {bound:g}{unit}", met=value >= bound)


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that ``share`` of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Rounds:
    """Samples of one thing in seconds, by round."""

    samples: Sequence[Sequence[float]]

    @property
    def p50(self) -> float:
        """The median over the rounds of each round's median."""
        return statistics.median(statistics.median(one) for one in self.samples)

    @property
    def p95(self) -> float:
        """The 95th percentile of all samples."""
        return quantile([sample for one in self.samples for sample in one], 0.95)

    def ratio(self, base: Rounds) -> float:
        """Return the median over the rounds of this median to the base's median in the same round."""
        pairs = zip(self.samples, base.samples, strict=True)
        return statistics.median(statistics.median(own) / statistics.median(other) for own, other in pairs)

    def text(self) -> str:
        return spread(self.p50, self.p95)


def spread(p50: float, p95: float) -> str:
    """Return two times, given in seconds, as text in milliseconds."""
    return f"p50 {p50 * 1000:.1f} ms, p95 {p95 * 1000:.1f} ms"


def table(rows: Iterable[Row]) -> str:
    """Return the rows as aligned text."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    formatted = "  ".join(f"{{:{width}}}" for width in widths)
    text = [formatted.format(*line).rstrip() for line in lines]
    text.insert(1, "-" * max(len(line) for line in text))
    return "\n".join(text)
