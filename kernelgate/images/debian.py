"""The base made of Debian packages, for where no registry answers."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from kernelgate.errors import ImageError
from kernelgate.images.context import content_hash
from kernelgate.images.processes import Say, run

BASE_REPOSITORY = "kernelgate/base"
DEBIAN_RELEASES = {"3.11": "bookworm", "3.13": "trixie"}
"""The Debian release that ships each version of Python."""

OFFICIAL_PYTHON = re.compile(r"(?:library/)?python(?::(?P<tag>[\w.-]+))?")
UNREACHABLE = re.compile(
    r"dial tcp|no such host|connection (refused|reset)|i/o timeout|timeout exceeded|deadline exceeded"
    r"|request canceled while waiting|tls handshake|x509|proxyconnect|unexpected http status: 403|: forbidden"
    r"|: proxy authentication required|bad gateway|service unavailable|gateway time-?out|\beof\b"
    r"|network is unreachable|no route to host",
    re.IGNORECASE,
)
"""What an engine says when something other than the registry, or nothing at all, answered it."""


def registry_unreachable(reason: str) -> bool:
    """Tell from an engine's error whether no registry answered, rather than one that refused."""
    return UNREACHABLE.search(reason) is not None


def fallback_release(image: str, reason: str) -> str:
    """Return the Debian release that can stand in for the base ``image``, which could not be pulled.

    Raises `ImageError` when the registry answered, or when Debian has no such Python.
    """
    match = OFFICIAL_PYTHON.fullmatch(image)
    if match is None or not registry_unreachable(reason):
        raise ImageError(
            f"expected the base image {image} in the engine or in its registry, but pulling it failed: "
            f"{reason}; check the image's name, or load it with 'docker load'"
        )
    tag = match["tag"] or "latest"
    version = re.match(r"\d+(\.\d+)?", tag)
    release = DEBIAN_RELEASES.get(version[0]) if version and version[0] != "3" else DEBIAN_RELEASES["3.11"]
    if release is None or "alpine" in tag or "windows" in tag:
        raise ImageError(
            f"expected the base image {image}, but no registry answers ({reason}) and no Debian release can "
            f"stand in for it; use python:{' or python:'.join(DEBIAN_RELEASES)}, or load it with 'docker load'"
        )
    return release


def debootstrap_command(release: str, root: Path) -> list[str]:
    """Return the command that unpacks a small Debian below ``root``; what it mounts vanishes when it ends."""
    return ["unshare", "--mount", "debootstrap", "--variant=minbase", release, str(root)]


LEFT_OUT = (
    *("./dev/*", "./proc/*", "./sys/*", "./var/cache/apt/*", "./var/lib/apt/lists/*", "./var/log/*"),
    *("./usr/share/doc/*", "./usr/share/info/*", "./usr/share/locale/*", "./usr/share/man/*"),
)
DPKG_EXCLUDES = "".join(f"path-exclude={path[1:]}\n" for path in LEFT_OUT if path.startswith("./usr/"))


def archive_command(root: Path) -> list[str]:
    """Return the command that writes what belongs into a base image to its standard output."""
    excludes = [f"--exclude={path}" for path in LEFT_OUT]
    return ["tar", "--numeric-owner", *excludes, "-C", str(root), "-c", "."]


def base_name(release: str) -> str:
    """Return the name of the base image made of Debian's ``release``."""
    recipe = [*debootstrap_command(release, Path("/")), *archive_command(Path("/")), DPKG_EXCLUDES]
    return f"{BASE_REPOSITORY}:{release}-{content_hash(part.encode() for part in recipe)}"


def updated_sources(sources: str, release: str) -> str:
    """Return apt's ``sources`` as debootstrap wrote them, with the same mirror's updates added."""
    match = re.search(r"^deb (\S+/debian)/? ", sources, re.MULTILINE)
    if match is None:
        return sources
    mirror = match[1]
    return (
        f"{sources.rstrip()}\ndeb {mirror} {release}-updates main\ndeb {mirror}-security {release}-security main\n"
    )


def finish_root(root: Path, release: str) -> None:
    """Set up apt and dpkg in a Debian that debootstrap unpacked."""
    sources = root / "etc/apt/sources.list"
    sources.write_text(updated_sources(sources.read_text(), release))
    (root / "etc/dpkg/dpkg.cfg.d/left-out").write_text(DPKG_EXCLUDES)


def require_debootstrap(say: Say) -> None:
    """Make sure that debootstrap can run here. Raises `ImageError` that says what is missing."""
    if os.geteuid() != 0:
        raise ImageError(
            f"no registry answers, and building a base image from Debian's packages needs root, not uid "
            f"{os.geteuid()}; run this once as root, or load the base image with 'docker load'"
        )
    if shutil.which("debootstrap"):
        return
    if not shutil.which("apt-get"):
        raise ImageError("no registry answers: install debootstrap or load the base image with 'docker load'")
    say("installing debootstrap")
    run(["apt-get", "update", "-qq"], say)
    run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", "debootstrap"], say)


def debootstrap_progress(line: str) -> str | None:
    """Return what to say of a line of debootstrap's output: its stages, not its packages."""
    match = re.match(r"I: (\w+ .*(packages|system|release)\b.*)\.\.\.$", line.rstrip())
    return f"  {match[1].lower()}" if match else None
