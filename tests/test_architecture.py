"""The architecture: who may import whom, that importing does nothing, and what keeps the source readable."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kernelgate"
KERNELS = ROOT / "kernels"

LAYERS = [
    ["kernelgate", "kernelgate.compact", "kernelgate.errors", "kernelgate.languages", "kernelgate.settings"],
    ["kernelgate.auth", "kernelgate.cors"],
    ["kernelgate.resources"],
    ["kernelgate.containers", "kernelgate.images", "kernelgate.stores"],
    ["kernelgate.kernel", "kernelgate.notebook"],
    ["kernelgate.kernelspecs", "kernelgate.sessions"],
    ["kernelgate.health"],
    ["kernelgate.api"],
    ["kernelgate.server"],
    ["kernelgate.configuration"],
    ["kernelgate.commands"],
    ["kernelgate.app"],
    ["kernelgate.__main__"],
]
"""From the ground up. A module imports from its own layer and from those before it."""

DOORS = {
    "uvloop": {"kernelgate.app"},
    "docker": {"kernelgate.containers.engine", "kernelgate.images.builder"},
    "requests": {"kernelgate.containers.engine", "kernelgate.images.builder"},
    "urllib3": {"kernelgate.containers.engine", "kernelgate.stores.minio"},
    "redis": {"kernelgate.stores.redis"},
    "minio": {"kernelgate.stores.minio"},
    "sqlite3": {"kernelgate.stores.database"},
    "zmq": {"kernelgate.kernel.channels", "kernelgate.kernel.hub"},
    "subprocess": {"kernelgate.images.processes"},
    "threading": {"kernelgate.containers.engine", "kernelgate.stores.database"},
    "concurrent": {
        "kernelgate.containers.engine",
        "kernelgate.containers.provisioner",
        "kernelgate.stores.blobfiles",
        "kernelgate.stores.database",
        "kernelgate.stores.embedded",
        "kernelgate.stores.minio",
    },
    "tornado": {
        "kernelgate.api.base",
        "kernelgate.api.events",
        "kernelgate.api.notebooks",
        "kernelgate.api.routes",
        "kernelgate.api.running",
        "kernelgate.api.websocket",
        "kernelgate.app",
        "kernelgate.server",
    },
    "pickle": set(),
    "dill": set(),
}
"""The modules that may import what speaks to the world outside (or would let it in). ``hub`` takes constants of
ZeroMQ; ``provisioner`` takes the future that ends with a container, ``embedded`` those of what is written."""

BROAD_EXCEPTS = {
    "kernels/python/kernelgate_kernel/kernel.py": 1,
    "kernels/python/kernelgate_kernel/state/guard.py": 1,
    "kernels/python/kernelgate_kernel/state/pickling.py": 2,
    "kernels/python/kernelgate_kernel/state/sender.py": 1,
}
"""Handlers of every exception that do not raise it again, by file. Each has a reason: around code of the user's,
inside his own container."""

LONGEST_FUNCTION = 60


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = sorted([*PACKAGE.rglob("*.py"), *KERNELS.rglob("*.py")])


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """The full names that a file imports, of modules and of what is in them."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def imported_modules(name: str) -> set[str]:
    """The modules of kernelgate that a module of it imports."""
    found = set()
    for full in imports(MODULES[name]):
        for candidate in (full, full.rpartition(".")[0]):
            if candidate in MODULES:
                found.add(candidate)
                break
    return found


def layer(name: str) -> int:
    """The number of the layer of a module: that of the longest prefix which is named."""
    ranks = {prefix: rank for rank, prefixes in enumerate(LAYERS) for prefix in prefixes}
    parts = name.split(".")
    if len(parts) == 2 and name not in ranks:
        pytest.fail(f"{name} is in no layer: give it a place in LAYERS")
    return ranks[next(".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in ranks)]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def place(path: Path, node: ast.stmt | ast.ExceptHandler) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


# --- imports


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: imported_modules(name) - {name} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_its_layer_and_below(name: str) -> None:
    upwards = {other for other in imported_modules(name) if layer(other) > layer(name)}
    assert upwards == set()


def test_every_layer_that_is_named_exists() -> None:
    assert [name for names in LAYERS for name in names if name not in MODULES] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_imports_anything(path: Path) -> None:
    inside = [
        place(path, node)
        for function in functions(path)
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert inside == []


@pytest.mark.parametrize("path", sorted(KERNELS.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_runs_in_containers_imports_nothing_of_the_server(path: Path) -> None:
    assert [full for full in imports(path) if full.split(".")[0] == "kernelgate"] == []


@pytest.mark.parametrize("package", DOORS)
def test_only_its_door_speaks_to_a_system_outside(package: str) -> None:
    users = {
        name for name, path in MODULES.items() if any(full.split(".")[0] == package for full in imports(path))
    }
    assert users == DOORS[package]


THIRD_PARTY = [
    "docker",
    "jupyter_client.manager",
    "jupyter_core.application",
    "minio",
    "redis.asyncio",
    "requests",
    "tornado.web",
    "zmq",
]
"""What may do things of its own when it is imported, and so is imported before anybody looks."""

WATCHED_IMPORT = """
import importlib, sys, threading
modules, third_party = sys.argv[1].split(","), sys.argv[2].split(",")
for name in third_party:
    importlib.import_module(name)
threads, events = threading.active_count(), []

def watch(event, args):
    writing = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if writing or event.startswith(("socket.", "subprocess.", "os.mkdir", "os.rename", "os.remove", "os.putenv")):
        events.append((event, str(args)))

sys.addaudithook(watch)
for name in modules:
    importlib.import_module(name)
    assert not events, (name, events)
    assert threading.active_count() == threads, name
"""


def test_importing_opens_nothing_starts_nothing_and_says_nothing(tmp_path: Path) -> None:
    names = [name for name in MODULES if name != "kernelgate.__main__"]  # which is the program itself
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCHED_IMPORT, ",".join(names), ",".join(THIRD_PARTY)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


# --- the source


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(path: Path) -> None:
    lengths = {place(path, each): (each.end_lineno or 0) - each.lineno + 1 for each in functions(path)}
    assert {where: lines for where, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether a handler takes every exception and does not raise it again."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
    everything = handler.type is None or bool(names & {"Exception", "BaseException"})
    last = handler.body[-1]
    return everything and not (isinstance(last, ast.Raise) and last.exc is None)


def test_what_is_caught_is_named() -> None:
    broad = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and is_broad(node)
    ]
    assert {name: broad.count(name) for name in broad} == BROAD_EXCEPTS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    module = tree(path)
    only_a_value = all(isinstance(node, ast.Assign) for node in module.body)
    assert only_a_value or ast.get_docstring(module)
