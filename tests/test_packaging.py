"""The wheel that is built from the tree works without the tree."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel, as an installation has it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("kernelgate", "kernels", "images", "setup.cfg", "pyproject.toml", "README.md"):
        subprocess.run(["cp", "-r", ROOT / name, source if source.exists() else _made(source)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, timeout=240)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def run(installed: Path, code: str) -> str:
    """Run Python code that sees the installation and not the checkout; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(installed)!r}); {code}"],
        capture_output=True,
        text=True,
        cwd=installed,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_wheel_holds_what_images_are_made_of(unpacked: Path) -> None:
    resources = unpacked / "kernelgate" / "resources"
    for kind in ("images", "kernels"):
        expected = {
            path.relative_to(ROOT / kind)
            for path in (ROOT / kind).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        shipped = {path.relative_to(resources / kind) for path in (resources / kind).rglob("*") if path.is_file()}
        assert expected <= shipped


def test_the_wheel_holds_every_module(unpacked: Path) -> None:
    source, installed = ROOT / "kernelgate", unpacked / "kernelgate"
    missing = {path.relative_to(source) for path in source.rglob("*.py")} - {
        path.relative_to(installed) for path in installed.rglob("*.py")
    }
    assert missing == set()


def test_an_installation_names_the_same_image_as_the_checkout(unpacked: Path) -> None:
    code = (
        "from kernelgate.images import context as images; from kernelgate.languages import PYTHON; "
        "assert '/installed/' in images.__file__, images.__file__; "
        "print(images.image_name(PYTHON, 'python:3.11-slim'))"
    )
    here = subprocess.run(
        [
            sys.executable,
            "-c",
            "from kernelgate.images.context import image_name; from kernelgate.languages import PYTHON; "
            "print(image_name(PYTHON, 'python:3.11-slim'))",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert run(unpacked, code) == here.stdout.strip()


def test_the_commands_and_the_provisioner_are_entry_points(unpacked: Path) -> None:
    (entry_points,) = unpacked.glob("*.dist-info/entry_points.txt")
    text = entry_points.read_text()
    assert "kernelgate = kernelgate.app:main" in text
    assert "jupyter-kernelgate = kernelgate.app:main" in text
    assert "kernelgate-docker = kernelgate.containers.provisioner:DockerProvisioner" in text
