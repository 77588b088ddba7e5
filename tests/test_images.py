"""The images: what they are called, what goes into them, and that the real one holds what it promises."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from kernelgate.containers.images import (
    BuildOutput,
    ImageBuilder,
    Interpreter,
    base_name,
    build_lock,
    cache_folder,
    context_files,
    debootstrap_progress,
    download_command,
    download_progress,
    fallback_release,
    image_name,
    parse_interpreter,
    registry_unreachable,
    require_debootstrap,
    resource_folder,
    run,
    started,
    updated_sources,
    wheel_files,
    wheel_platforms,
    write_context,
)
from kernelgate.errors import EngineError, ImageError
from kernelgate.languages import PYTHON

BASE = PYTHON.base_image
BOOKWORM = Interpreter((3, 11), "x86_64", (2, 36))
NO_SUCH_HOST = 'Get "https://registry.test/v2/": dial tcp: lookup registry.test: no such host'
NOT_FOUND = "manifest for python:3.99 not found: manifest unknown"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A checkout: a package folder with ``images`` and ``kernels`` beside it."""
    (tmp_path / "kernelgate").mkdir()
    for name in ("images/python/Dockerfile", "images/python/requirements.txt", "kernels/python/launch.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    return tmp_path / "kernelgate"


# The name


def test_the_same_sources_give_the_same_name(package: Path) -> None:
    name = image_name(PYTHON, BASE, package)
    assert name == image_name(PYTHON, BASE, package)
    repository, _, tag = name.partition(":")
    assert repository == "kernelgate/python"
    assert len(tag) == 12
    assert int(tag, 16) >= 0


@pytest.mark.parametrize(
    "changed", ["images/python/Dockerfile", "images/python/requirements.txt", "kernels/python/launch.py"]
)
def test_any_changed_source_gives_another_name(package: Path, changed: str) -> None:
    before = image_name(PYTHON, BASE, package)
    (package.parent / changed).write_text("changed")
    assert image_name(PYTHON, BASE, package) != before


def test_a_new_or_renamed_source_gives_another_name(package: Path) -> None:
    missing = [path for path in Path(folder).rglob("*.py") if not Path(importlib.util.cache_from_source(path)).exists()]
    assert len(missing) < 20, missing
print("good")
"""
    assert run_in(image, code) == "good\n"


PLOT = """
import io, logging
import matplotlib
logging.basicConfig()
matplotlib.use({backend!r})
{style}
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
axes.set_title("{text}")
figure.savefig(io.BytesIO())
print("good")
"""
SCRIPTS = "\N{MINUS SIGN}5 é Ω Ж 中文 日本語 カタカナ 한국어 العربية עברית हिन्दी ไทย বাংলা தமிழ் తెలుగు ខ្មែរ አማርኛ ქართ ∑ ★ 😀"


@pytest.mark.parametrize("backend", ["agg", "pdf", "svg"])
@pytest.mark.parametrize(
    "style",
    [
        "",
        "import seaborn; seaborn.set_theme()",
        "matplotlib.rcParams['font.sans-serif'] = ['SimHei']",
        "matplotlib.rcParams['font.family'] = 'Malgun Gothic'",
        "matplotlib.rcParams['font.family'] = 'serif'",
        "matplotlib.rcParams.update({'font.family': 'Arial', 'axes.titleweight': 'bold'})",
    ],
)
def test_one_plot_mixes_scripts_without_a_warning(image: str, backend: str, style: str) -> None:
    assert run_in(image, PLOT.format(backend=backend, style=style, text=SCRIPTS)) == "good\n"


def test_no_plot_waits_for_a_font_list(image: str) -> None:
    code = """
import pathlib
before = {path: path.stat().st_mtime_ns for path in pathlib.Path("/tmp/matplotlib").iterdir()}
import matplotlib.font_manager
after = {path: path.stat().st_mtime_ns for path in pathlib.Path("/tmp/matplotlib").iterdir()}
assert before == after, (before, after)
print(*[path.name for path in before])
"""
    assert run_in(image, code).startswith("fontlist-v")
