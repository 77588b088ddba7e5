"""Builds the images that kernels run in, and says what they are called.

An image is named after its content: the Dockerfile's folder (``images/``), the kernel's sources
(``kernels/``) and the base image's reference. So a stale image is never used, and nothing is built twice.

Nothing but Debian packages is fetched inside a build: Python packages come as wheels that pip downloads on
this machine, with this machine's pip configuration and certificates.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, BinaryIO, NamedTuple

import docker
import docker.errors
import docker.utils
import requests
from traitlets import Unicode
from traitlets.config import LoggingConfigurable

from kernelgate.errors import EngineError, ImageError
from kernelgate.languages import PYTHON, Language

Say = Callable[[str], None]
Files = Mapping[str, bytes | Path]

PACKAGE = Path(__file__).resolve().parent.parent
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

PROBE = """
import json, platform, sys
libc, version = platform.libc_ver()
print(json.dumps([sys.version_info[:2], platform.machine(), version if libc == "glibc" else ""]))
"""


# What an image is made of, and its name


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


# The base image


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


# The wheels


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


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder where downloads are kept between builds."""
    cache = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "kernelgate"


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


def debootstrap_progress(line: str) -> str | None:
    """Return what to say of a line of debootstrap's output: its stages, not its packages."""
    match = re.match(r"I: (\w+ .*(packages|system|release)\b.*)\.\.\.$", line.rstrip())
    return f"  {match[1].lower()}" if match else None


# Running things


@contextmanager
def started(command: Sequence[str], stderr: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``command``, its output in a pipe and in a process group of its own. Leaving early ends the group."""
    try:
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=stderr)
    except OSError as error:
        raise ImageError(f"cannot run {command[0]}: {error.strerror}; install it") from error
    with process:
        try:
            yield process
            process.wait()
        finally:
            if process.poll() is None:
                end_group(process)


def end_group(process: subprocess.Popen[bytes], seconds: float = 10) -> None:
    """End a process and all in its group, by force if it takes longer than ``seconds``."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def run(command: Sequence[str], say: Say, progress: Callable[[str], str | None] = lambda line: None) -> None:
    """Run ``command``, and say what ``progress`` makes of its output's lines.

    Raises `ImageError` with the end of the output if it fails.
    """
    tail: deque[str] = deque(maxlen=20)
    with started(command, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode(errors="replace")
            tail.append(line)
            if message := progress(line):
                say(message)
    if process.returncode:
        raise ImageError(f"{' '.join(command[:4])} … failed with exit code {process.returncode}:\n{''.join(tail)}")


@contextmanager
def build_lock(folder: Path, say: Say) -> Iterator[None]:
    """Let one process at a time build images of ours on this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn errors of the Docker client into `EngineError`."""
    try:
        yield
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise EngineError(f"the Docker engine failed while an image was built: {error}") from error


class BuildOutput:
    """What the engine says during a build: progress is passed on, errors raised, image ids kept."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.tail: deque[str] = deque(maxlen=30)  # The end of what the steps themselves wrote.
        self.images: set[str] = set()  # Short ids of all images that the build made or reused.

    def read(self, events: Iterable[Mapping[str, Any]]) -> str:
        """Read a build to its end and return the id of its image. Raises `ImageError` if it fails."""
        image = ""
        for event in events:
            if "error" in event:
                raise ImageError(f"an image could not be built: {event['error']}\n{''.join(self.tail)}")
            image = event.get("aux", {}).get("ID", image)
            self.line(event.get("stream", ""))
        if not image:
            raise ImageError("the Docker engine ended a build without an image; look at the engine's log")
        return image

    def line(self, text: str) -> None:
        """Take one line. What a step writes to its standard output is progress; its errors come in red."""
        if match := re.match(r" ---> ([0-9a-f]{12})$", text.rstrip("\n")):
            self.images.add(match[1])
        elif text.strip() and not re.match(r" --->|Step |Removing |Successfully ", text):
            self.tail.append(re.sub(r"\x1b\[[\d;]*m", "", text))
            if not text.startswith("\x1b"):
                self.say(f"  {text.strip()}")


class ImageBuilder(LoggingConfigurable):
    """Builds kernel images. Its methods block: whoever serves others meanwhile calls them in a thread.

    They raise `ImageError` when an image cannot be had, `EngineError` when the engine itself fails.
    """

    python_image = Unicode(
        PYTHON.base_image,
        help="Image that the Python kernel's image is built on: one based on Debian. Where no registry "
        "answers, an official python image is replaced by Debian's own Python.",
    ).tag(config=True, env="LANG_PYTHON_IMAGE", group="Languages")

    def __init__(self, api: docker.APIClient, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.api = api

    def base_image(self, language: Language) -> str:
        """Return the reference of the image that the language's image is built on."""
        return self.python_image if language is PYTHON else language.base_image

    def name(self, language: Language) -> str:
        """Return the name of the language's image, whether it is there or not."""
        return image_name(language, self.base_image(language))

    def present(self, language: Language) -> bool:
        """Tell whether the engine has the language's image."""
        with engine_errors():
            return self._has(self.name(language))

    def build(self, language: Language, say: Say) -> str:
        """Make sure that the language's image is there and return its name; ``say`` gets the progress."""
        files = context_files(language)
        name = name_of_context(language, self.base_image(language), files)
        with engine_errors():
            if self._has(name):
                return name
            with build_lock(cache_folder(), say):
                if not self._has(name):
                    self._build(language, name, files, say)
        return name

    def _build(self, language: Language, name: str, sources: Mapping[str, bytes], say: Say) -> None:
        say(f"building {name}")
        base, output = self._base(self.base_image(language), say), BuildOutput(say)
        files: Files = sources
        if "requirements.txt" in sources:
            system = self._build_image(sources, base, output, target="system")
            lists = [sources["requirements.txt"], sources["installer.txt"]]
            files = {**sources, **wheel_files(lists, self._interpreter(system), say)}
        self._build_image(files, base, output, tag=name)
        self._remove_old_stages(language, output.images)
        say(f"built {name}")

    def _has(self, image: str) -> bool:
        try:
            self.api.inspect_image(image)
        except docker.errors.ImageNotFound:
            return False
        return True

    def _base(self, image: str, say: Say) -> str:
        """Return the image to build on: ``image``, pulled if it is not there, or what stands in for it."""
        if self._has(image):
            return image
        say(f"pulling {image}")
        reason = self._pull(image, say)
        if reason is None:
            return image
        release = fallback_release(image, reason)
        say(f"no registry answers: {reason}")
        say(f"instead of {image}, the image is built on Debian {release} with Debian's own Python")
        return self._debian(release, say)

    def _pull(self, image: str, say: Say) -> str | None:
        """Pull ``image``; return what went wrong, None if all went well."""
        name, tag = docker.utils.parse_repository_tag(image)
        try:
            for event in self.api.pull(name, tag=tag or "latest", stream=True, decode=True):
                if "error" in event:
                    return str(event["error"])
                if event.get("status") == "Pull complete":
                    say(f"  layer {event.get('id')}")
        except docker.errors.APIError as error:
            return str(error.explanation or error)
        return None

    def _debian(self, release: str, say: Say) -> str:
        """Return a base image of ours with Debian's ``release``, made here if it is not there."""
        name = base_name(release)
        if self._has(name):
            return name
        require_debootstrap(say)
        say(f"building {name} from Debian's packages")
        with TemporaryDirectory(prefix="kernelgate-base-") as folder:
            root = Path(folder, "root")
            run(debootstrap_command(release, root), say, debootstrap_progress)
            finish_root(root, release)
            self._import(root, name)
        return name

    def _import(self, root: Path, name: str) -> None:
        repository, _, tag = name.rpartition(":")
        with started(archive_command(root)) as process:
            self.api.import_image_from_stream(process.stdout, repository=repository, tag=tag)
        if process.returncode or not self._has(name):
            raise ImageError(f"expected the base image {name} after its import; look at the engine's log")

    def _build_image(self, files: Files, base: str, output: BuildOutput, **options: Any) -> str:
        """Build the context ``files`` upon ``base`` and return the image's id."""
        proxies = {name: value for name, value in os.environ.items() if name.lower() in PROXIES and value}
        with TemporaryFile() as context:
            write_context(files, context)
            events = self.api.build(
                fileobj=context,
                custom_context=True,
                buildargs={"BASE_IMAGE": base, **proxies},
                network_mode="host",
                rm=True,
                forcerm=True,
                decode=True,
                **options,
            )
            return output.read(events)

    def _interpreter(self, image: str) -> Interpreter:
        """Return what kind of Python ``image`` holds."""
        container = self.api.create_container(
            image, entrypoint=["python3"], command=["-c", PROBE], network_disabled=True, user="65534:65534"
        )
        try:
            self.api.start(container)
            self.api.wait(container)
            return parse_interpreter(self.api.logs(container).decode(errors="replace"))
        finally:
            self.api.remove_container(container, force=True)

    def prune(self, language: Language) -> list[str]:
        """Remove the language's images of other versions, but those of which containers are left; returns them.

        No build does that by itself: a server that runs starts its containers from the image it began with.
        """
        with engine_errors():
            tags = [tag for image in self.api.images(repository(language)) for tag in image["RepoTags"] or ()]
            return [tag for tag in tags if tag != self.name(language) and self._remove(tag)]

    def _remove_old_stages(self, language: Language, used: set[str]) -> None:
        """Remove what is left of earlier builds and was not ``used`` by this one."""
        label = f"kernelgate.language={language.folder}"
        for image in self.api.images(filters={"dangling": True, "label": label}):
            if image["Id"].removeprefix("sha256:")[:12] not in used:
                self._remove(image["Id"])

    def _remove(self, image: str) -> bool:
        try:
            self.api.remove_image(image)
        except docker.errors.APIError as error:
            self.log.info("The image %s stays: %s", image, error.explanation)
            return False
        return True


PROXIES = frozenset({"http_proxy", "https_proxy", "no_proxy", "ftp_proxy", "all_proxy"})
"""Environment variables that a build's apt needs as much as this process. They are no part of the image."""
