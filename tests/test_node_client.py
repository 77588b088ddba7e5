"""``@jupyterlab/services`` in Node, with both protocols of the WebSocket. The clients are in ``tests/node``."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import KEY, OTHER_KEY, Server, Servers
from tests.services import program

NODE = Path(__file__).parent / "node"
SECONDS = 60.0
SCENARIOS = re.findall(r"^export async function (\w+)", (NODE / "scenarios.mjs").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def gate(servers: Servers) -> Iterator[Server]:
    """The server that the clients use. None of them may leave a kernel, or an error in its log."""
    with servers.serving({"MAX_CPU_QUOTA": "100000", "CONTAINER_POOL_PY_MIN": "3"}) as server:
        yield server
        for key in (KEY, OTHER_KEY):
            assert server.client(key).request("GET", "/api/kernels").json() == []


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 13


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_client_in_node_passes(scenario: str, gate: Server) -> None:
    """One scenario, with both protocols, in a process that ends by itself, with 0."""
    if not (NODE / "node_modules").is_dir():
        pytest.fail("tests/node has no packages: run 'make node-clients'", pytrace=False)
    ended = subprocess.run(
        [program("node"), "run.mjs", scenario, gate.url],
        cwd=NODE,
        env={"TOKENS": f"{KEY},{OTHER_KEY}"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout[-4000:]}\n{ended.stderr[-8000:]}"
