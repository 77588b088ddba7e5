"""Kernelspecs on disk: what lets any Jupyter program find our kernels and start them with the provisioner.

<folder>/kernelgate-python/kernel.json      names the provisioner and the Docker image
<folder>/kernelgate-python/logo-svg.svg     what notebook pages show
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_core.paths import SYSTEM_JUPYTER_PATH, jupyter_data_dir

from kernelgate.kernel.manager import kernel_spec
from kernelgate.languages import LANGUAGES, Language

SPEC_FILE = "kernel.json"
LOGO_FILE = "logo-svg.svg"
LOGO = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">
<rect x="4" y="4" width="56" height="56" rx="12" fill="#24476b"/>
<path d="M14 22 L32 12 L50 22" fill="none" stroke="#ffd166" stroke-width="4" stroke-linecap="round"/>
<text x="32" y="47" font-family="sans-serif" font-size="22" font-weight="bold" text-anchor="middle"
 fill="#ffffff">{letters}</text>
</svg>
"""
"""A gate's roof over the language's id."""


@dataclass(frozen=True)
class Installed:
    """A kernelspec of ours that is in place, and the Docker image that it names."""

    language: Language
    folder: Path
    image: str


def kernels_folder(user: bool = False, prefix: str = "") -> Path:
    """Return the folder for kernelspecs of this user, of the environment in ``prefix``, or of the system."""
    if user:
        return Path(jupyter_data_dir(), "kernels")
    if prefix:
        return Path(os.path.abspath(prefix), "share", "jupyter", "kernels")
    return Path(SYSTEM_JUPYTER_PATH[0], "kernels")


def install(language: Language, image: str, folder: Path) -> Path:
    """Put the kernelspec of ``language`` into ``folder`` and return its own folder. Raises `OSError`.

    One that is there is replaced, each file at once: a program that reads it meanwhile sees the old or the new.
    """
    own = folder / language.kernel_name
    own.mkdir(parents=True, exist_ok=True)
    _replace(own / LOGO_FILE, LOGO.format(letters=language.id.capitalize()[:3]))
    _replace(own / SPEC_FILE, json.dumps(kernel_spec(language, image).to_dict(), indent=1) + "\n")
    return own


def find_installed(folders: Iterable[str | Path]) -> list[Installed]:
    """Return our kernelspecs in ``folders``, in the order in which Jupyter looks for them."""
    candidates = ((language, Path(folder, language.kernel_name)) for folder in folders for language in LANGUAGES)
    found = ((language, folder, _image(folder / SPEC_FILE)) for language, folder in candidates)
    return [Installed(language, folder, image) for language, folder, image in found if image is not None]


def remove(installed: Installed) -> None:
    """Remove a kernelspec with its folder. Raises `OSError`."""
    shutil.rmtree(installed.folder)


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def _image(spec_file: Path) -> str | None:
    """Return the image that a kernelspec names; None if it is not there or not one for our provisioner."""
    try:
        spec: Any = json.loads(spec_file.read_text(encoding="utf-8"))
        provisioner = spec["metadata"]["kernel_provisioner"]
        ours = provisioner["provisioner_name"] == "kernelgate-docker"
        return str(provisioner["config"]["image"]) if ours else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
