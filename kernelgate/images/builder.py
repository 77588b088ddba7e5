"""Builds the images that kernels run in. Nothing but Debian packages is fetched inside a build."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import docker
import docker.errors
import docker.utils
import requests
from traitlets import Unicode
from traitlets.config import LoggingConfigurable

from kernelgate.errors import EngineError, ImageError
from kernelgate.images.context import Files, context_files, image_name, name_of_context, repository, write_context
from kernelgate.images.debian import (
    archive_command,
    base_name,
    debootstrap_command,
    debootstrap_progress,
    fallback_release,
    finish_root,
    require_debootstrap,
)
from kernelgate.images.processes import Say, build_lock, cache_folder, run, started
from kernelgate.images.wheels import PROBE, Interpreter, parse_interpreter, wheel_files
from kernelgate.languages import PYTHON, Language


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
