"""The language table: one row per language, from which kernelspecs, images and pool sizes follow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """One language that kernelgate runs.

    ``id`` is what ``POST /exec`` calls ``lang``; ``aliases`` are other spellings of it. ``base_image`` is the
    image the kernel is layered on unless the variable ``image_env`` names another. ``folder`` names the
    subfolder of ``images/`` and of ``kernels/`` that belongs to the language. ``argv`` starts the kernel inside
    its container; ``{connection_file}`` stands for the connection file's path there.
    """

    id: str
    display_name: str
    kernel_name: str
    folder: str
    base_image: str
    image_env: str
    argv: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    file_extension: str = ".txt"


PYTHON = Language(
    id="py",
    display_name="Python 3",
    kernel_name="kernelgate-python",
    folder="python",
    base_image="python:3.11-slim",
    image_env="LANG_PYTHON_IMAGE",
    argv=(
        "/opt/kernel/bin/python",
        "-X",
        "frozen_modules=on",
        "/opt/kernelgate/launch.py",
        "-f",
        "{connection_file}",
    ),
    aliases=("python", "python3", "ipython"),
    file_extension=".py",
)

LANGUAGES: tuple[Language, ...] = (PYTHON,)
"""Every language that can be run, in the order in which it is shown."""


def find_language(name: str) -> Language | None:
    """Return the language that ``name`` (an id or an alias, in any case) means, None if there is none."""
    wanted = name.lower()
    for language in LANGUAGES:
        if wanted == language.id or wanted in language.aliases:
            return language
    return None
