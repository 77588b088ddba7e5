"""Saving and loading values inside the kernel's image, in one process, beside ``pickle`` and ``dill``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import values
from benchmarks.process import ChildEnded
from benchmarks.table import Rounds, Row
from kernelgate.containers.engine import Engine
from kernelgate.images.builder import ImageBuilder
from kernelgate.languages import PYTHON

MOST_TIMES_PICKLE = 2.0
PROGRAM = Path(__file__).with_name("in_kernel.py")
PYTHON_PATH = "/opt/kernelgate"
SECONDS = 240
LOG_CHARS = 2000

Samples = dict[str, dict[str, list[float]]]


def measure(quick: bool) -> list[Row]:
    """Return the rows of all values. Plain pickle cannot save functions: where there is one, it has no turn."""
    most = {"own": 3, "pickle": 3, "dill": 1} if quick else {"own": 9, "pickle": 9, "dill": 2}
    small = {"own": 50, "dill": 50} if quick else {"own": 300, "dill": 300}
    cases: dict[str, dict[str, Any]] = {
        "20 variables and a function": {"setup": values.SMALL, "rounds": small},
        "10^6 ints in a list": {"setup": values.NUMBERS, "rounds": most},
        "200,000 small dicts": {"setup": values.RECORDS, "rounds": most},
        "DataFrame, 100,000 rows, strings": {"setup": values.FRAME, "rounds": most},
        **{
            f"array of {size} MB": {"setup": values.array(size), "change": values.CHANGE_ARRAY, "rounds": most}
            for size in ((20,) if quick else (20, 200))
        },
    }
    return [row for name, samples in run(cases).items() for row in rows(name, samples)]


def run(cases: dict[str, dict[str, Any]]) -> dict[str, Samples]:
    """Run the program in a container of its own; returns its seconds."""
    engine = Engine(base_url=os.environ.get("DOCKER_BASE_URL", ""))
    image = ImageBuilder(engine.api).name(PYTHON)
    if not engine.api.images(image):
        raise ChildEnded(f"the image {image} is not there: run `python -m kernelgate images build`")
    command = [PYTHON.argv[0], "-c", PROGRAM.read_text(), json.dumps(cases)]
    with container(engine, image, command) as name:
        status = engine.api.wait(name, timeout=SECONDS)["StatusCode"]
        if status != 0:
            said = engine.api.logs(name, stdout=False, stderr=True).decode(errors="replace")
            raise ChildEnded(f"{PROGRAM.name} ended with {status}: {said[-LOG_CHARS:]}")
        found: dict[str, Samples] = json.loads(engine.api.logs(name, stdout=True, stderr=False))
    return found


@contextmanager
def container(engine: Engine, image: str, command: Sequence[str]) -> Iterator[str]:
    """Start a container; afterwards it is gone."""
    limits = engine.api.create_host_config(network_mode="none")
    created = engine.api.create_container(
        image, list(command), environment={"PYTHONPATH": PYTHON_PATH}, host_config=limits
    )
    try:
        engine.api.start(created["Id"])
        yield created["Id"]
    finally:
        engine.api.remove_container(created["Id"], force=True, v=True)


def rows(name: str, samples: Samples) -> list[Row]:
    """Return the rows of one case: saving its values, loading them, and what a kernel does behind each cell."""
    found = [_compared(f"{name}: dump", samples["dump"]), _compared(f"{name}: load", samples["load"])]
    if "save" in samples:
        base = by_round(samples["dump"]["pickle"])
        for what, seconds in samples["save"].items():
            kept = by_round(seconds)
            text = f"{kept.p50 * 1000:.1f} ms, {kept.ratio(base):.2f} x dumps of pickle ({base.p50 * 1000:.1f} ms)"
            found.append(Row(f"{name}: kernel saves it, {what}", text))
    return found


def _compared(what: str, samples: dict[str, list[float]]) -> Row:
    own = by_round(samples["own"])
    ratios = {name: own_ratio(own, by_round(samples[name])) for name in samples if name != "own"}
    text = f"{own.p50 * 1000:.2f} ms" + "".join(f", {ratio:.2f} x {name}" for name, ratio in ratios.items())
    if "pickle" not in ratios:
        return Row(what, text)
    return Row(what, text, target=f"<= {MOST_TIMES_PICKLE:g} x pickle", met=ratios["pickle"] <= MOST_TIMES_PICKLE)


def own_ratio(own: Rounds, other: Rounds) -> float:
    """Return the ratio over the rounds that both had, which are the last ones."""
    count = min(len(own.samples), len(other.samples))
    return Rounds(own.samples[-count:]).ratio(Rounds(other.samples[-count:]))


def by_round(seconds: Sequence[float]) -> Rounds:
    return Rounds([[one] for one in seconds])
