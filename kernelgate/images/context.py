"""What an image is made of, and its name.

An image is named after its content: the Dockerfile's folder (``images/``), the kernel's sources
(``kernels/``) and the base image's reference. So a stale image is never used, and nothing is built twice.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from kernelgate.errors import ImageError
from kernelgate.languages import Language

Files = Mapping[str, bytes | Path]

PACKAGE = Path(__file__).resolve().parent.parent


def resource_folder(kind: str, package: Path = PACKAGE) -> Path:
    """Return the folder ``images`` or ``kernels``: in the installed package, or beside it in a checkout."""
    installed = package / "resources" / kind
    return installed if installed.is_dir() else package.parent / kind


def source_files(folder: Path) -> dict[str, bytes]:
    """Return what is in the files below ``folder``, by relative path. Hidden and compiled files do not count."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if not hidden and path.suffix != ".pyc" and path.is_file():
            found[name.as_posix()] = path.read_bytes()
    return found


def context_files(language: Language, package: Path = PACKAGE) -> dict[str, bytes]:
    """Return the build context of a language's image, without the wheels, as it is at this moment.

    The Dockerfile's folder is its root; the kernel's sources are in ``kernel/``.
    """
    files = source_files(resource_folder("images", package) / language.folder)
    if "Dockerfile" not in files:
        raise ImageError(
            f"expected a Dockerfile for {language.display_name} in "
            f"{resource_folder('images', package) / language.folder}, found none; install kernelgate again"
        )
    kernel = source_files(resource_folder("kernels", package) / language.folder)
    return files | {f"kernel/{name}": content for name, content in kernel.items()}


def content_hash(parts: Iterable[bytes]) -> str:
    """Return 12 hexadecimal digits that stand for ``parts``, their order and their borders."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:12]


def repository(language: Language) -> str:
    """Return the name of a language's images without the tag."""
    return f"kernelgate/{language.folder}"


def image_name(language: Language, base_image: str, package: Path = PACKAGE) -> str:
    """Return the name of a language's image upon ``base_image``. Needs no engine; takes milliseconds."""
    return name_of_context(language, base_image, context_files(language, package))


def name_of_context(language: Language, base_image: str, files: Mapping[str, bytes]) -> str:
    """Return the name of a language's image that is built of ``files`` upon ``base_image``."""
    parts = [base_image.encode()]
    for name, content in sorted(files.items()):
        parts += [name.encode(), content]
    return f"{repository(language)}:{content_hash(parts)}"


def write_context(files: Files, target: BinaryIO) -> None:
    """Write ``files`` as a tar archive that depends on their names and contents alone."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.mode = 0o644
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
                entry.size = source.seek(0, io.SEEK_END)
                source.seek(0)
                archive.addfile(entry, source)
    target.seek(0)
