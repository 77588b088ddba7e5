"""The wheelhouse: Python packages that pip downloads on this machine, with this machine's configuration."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from kernelgate.errors import ImageError
from kernelgate.images.context import content_hash
from kernelgate.images.processes import Say, cache_folder, run
from kernelgate.languages import PYTHON

PROBE = """
import json, platform, sys
libc, version = platform.libc_ver()
print(json.dumps([sys.version_info[:2], platform.machine(), version if libc == "glibc" else ""]))
"""


class Interpreter(NamedTuple):
    """The Python of a base image, as far as it decides which wheels fit."""

    version: tuple[int, int]
    machine: str
    glibc: tuple[int, int]

    @property
    def tag(self) -> str:
        return f"cp{self.version[0]}{self.version[1]}-{self.machine}"


def parse_interpreter(output: str) -> Interpreter:
    """Read what `PROBE` printed. Raises `ImageError` if no wheels are made for such a Python."""
    try:
        version, machine, glibc = json.loads(output)
        return Interpreter((version[0], version[1]), machine, tuple_of_two(glibc))
    except (ValueError, TypeError, IndexError) as error:
        raise ImageError(
            f"expected a base image with Python 3 and glibc, its python3 said {output.strip()[-200:]!r}; "
            f"use one based on Debian, such as {PYTHON.base_image}"
        ) from error


def tuple_of_two(version: str) -> tuple[int, int]:
    """Return the first two numbers of ``version``, such as ``"2.36"``. Raises `ValueError`."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def wheel_platforms(python: Interpreter) -> list[str]:
    """Return the platform tags of the wheels that run on ``python``, newest first."""
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    oldest = 5 if python.machine == "x86_64" else 17
    platforms: list[str] = []
    for minor in range(python.glibc[1], oldest - 1, -1):
        platforms.append(f"manylinux_{python.glibc[0]}_{minor}_{python.machine}")
        if minor in legacy:
            platforms.append(f"{legacy[minor]}_{python.machine}")
    return platforms


def pip_command() -> list[str]:
    """Return the command that starts this machine's pip. Raises `ImageError` if there is none."""
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if path := shutil.which(name):
            return [path]
    raise ImageError(f"expected pip beside {sys.executable} or on the PATH, found none; install it")


def download_command(
    python: Interpreter, requirements: Iterable[Path], target: Path, known: Iterable[Path]
) -> list[str]:
    """Return the pip command that fills ``target`` with the wheels of ``requirements``, which pin everything.

    Wheels in the ``known`` folders are copied instead of downloaded. Dependencies are left to the build: pip
    would look at this machine's Python to tell which apply.
    """
    command = [*pip_command(), "download", "--no-input", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", "{}.{}".format(*python.version)]
    command += [f"--platform={platform}" for platform in wheel_platforms(python)]
    command += [f"--find-links={folder}" for folder in known]
    command += [f"--requirement={path}" for path in requirements]
    return [*command, "--dest", str(target)]


def wheel_files(requirements: Sequence[bytes], python: Interpreter, say: Say) -> dict[str, Path]:
    """Return the wheels of ``requirements`` for the build context, downloaded if they are not here yet.

    ``requirements`` are the contents of requirement files.
    """
    house = cache_folder() / "wheels"
    folder = house / f"{python.tag}-{content_hash(requirements)}"
    if not folder.is_dir():
        house.mkdir(parents=True, exist_ok=True)
        known = sorted(house.glob(f"{python.tag}-*"))
        say(f"downloading Python packages for {python.tag}")
        with TemporaryDirectory(dir=house, prefix=".partial-") as partial:
            fill_wheelhouse(Path(partial), requirements, python, known, say).rename(folder)
        for old in known:
            shutil.rmtree(old)
    return {f"wheels/{path.name}": path for path in sorted(folder.glob("*.whl"))}


def fill_wheelhouse(
    folder: Path, requirements: Sequence[bytes], python: Interpreter, known: Sequence[Path], say: Say
) -> Path:
    """Download the wheels of ``requirements`` and return the folder below ``folder`` that holds them."""
    lists = [folder / f"requirements-{number}.txt" for number in range(len(requirements))]
    for path, content in zip(lists, requirements, strict=True):
        path.write_bytes(content)
    run(download_command(python, lists, folder / "wheels", known), say, download_progress)
    return folder / "wheels"


def download_progress(line: str) -> str | None:
    """Return what to say of a line of pip's output: the downloads that take a while."""
    match = re.match(r"\s*Downloading \S*?([^/\s]+\.whl) \(([\d.]+ [MG]B)\)", line)
    return f"  {match[1]} ({match[2]})" if match else None
