"""The commands beside the server: ``kernelgate images …``, ``kernelspecs …`` and ``config …``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from traitlets import Bool, Unicode

from kernelgate import kernelspecs, settings
from kernelgate.configuration import CLASSES, ConfiguredApp
from kernelgate.containers.engine import Engine
from kernelgate.errors import UnsupportedLanguage
from kernelgate.images.builder import ImageBuilder
from kernelgate.languages import LANGUAGES, Language, find_language


class ImagesApp(ConfiguredApp):
    """``kernelgate images build|list|prune [LANG…]``."""

    name = "kernelgate-images"
    description = """Build the images that kernels run in.

    kernelgate images build [LANG…]   build what is missing, for all languages or those named
    kernelgate images list            show the images and whether they are there
    kernelgate images prune           remove images of other versions that no container needs
    """

    def run(self) -> None:
        self.checked_values()
        engine = Engine.instance(parent=self)
        builder = ImageBuilder(engine.api, parent=self)
        action, *names = self.extra_args or ["list"]
        languages = [_language(name) for name in names] or list(LANGUAGES)
        if action == "build":
            for language in languages:
                self.say(f"{language.id}: {builder.build(language, self.say)} is there")
        elif action == "prune":
            for language in languages:
                for name in builder.prune(language):
                    self.say(f"{language.id}: {name} was removed")
        elif action == "list":
            for language in languages:
                self.say(
                    f"{language.id}: {builder.name(language)} {'' if builder.present(language) else '(not built)'}"
                )
        else:
            self.fail(f"'build', 'list' or 'prune' is expected, got {action!r}")


class KernelspecsApp(ConfiguredApp):
    """``kernelgate kernelspecs install|list|remove [LANG…]``."""

    name = "kernelgate-kernelspecs"
    description = """Let other Jupyter programs start the kernels, without the server.

    kernelgate kernelspecs install [LANG…]   put the kernelspecs of all languages, or of those named, in place
    kernelgate kernelspecs list              show which are in place, and where
    kernelgate kernelspecs remove [LANG…]    remove them again

    --user, --sys-prefix or --prefix=PATH says where; install without them means all users of the system, remove
    without them wherever Jupyter looks.
    """
    aliases = {**ConfiguredApp.aliases, "prefix": "KernelspecsApp.prefix"}  # noqa: RUF012
    flags = {  # noqa: RUF012
        **ConfiguredApp.flags,
        "user": ({"KernelspecsApp": {"user": True}}, "Install for this user only."),
        "sys-prefix": ({"KernelspecsApp": {"sys_prefix": True}}, "Install into this Python's own environment."),
        "build": ({"KernelspecsApp": {"build": True}}, "Build the images that are missing."),
    }

    user = Bool(False, help="Install for this user only.").tag(config=True)
    sys_prefix = Bool(False, help="Install into this Python's own environment.").tag(config=True)
    prefix = Unicode("", help="Install into the environment in this folder.").tag(config=True)
    build = Bool(False, help="Build the images that are missing.").tag(config=True)

    def run(self) -> None:
        self.checked_values()
        if sum(map(bool, (self.user, self.sys_prefix, self.prefix))) > 1:
            self.fail("one of --user, --sys-prefix and --prefix=PATH is expected, got more")
        action, *names = self.extra_args or ["list"]
        actions = {"install": self.install, "list": self.list_all, "remove": self.remove}
        if action not in actions:
            self.fail(f"'install', 'list' or 'remove' is expected, got {action!r}")
        actions[action]([_language(name) for name in names] or list(LANGUAGES))

    def install(self, languages: Sequence[Language]) -> None:
        """Put kernelspecs in place: all of them, or none if an image is missing."""
        builder = self._builder()
        if self.build:
            for language in languages:
                builder.build(language, self.say)
        missing = [language for language in languages if not builder.present(language)]
        if missing:
            ids = " ".join(language.id for language in missing)
            self.fail(
                *(f"the image {builder.name(language)} is not built" for language in missing),
                f"`kernelgate images build {ids}` builds what is missing; so does this command with --build",
            )
        for language in languages:
            try:
                own = kernelspecs.install(language, builder.name(language), self._chosen_folder)
            except OSError as error:
                self._fail_at(self._chosen_folder, error)
            self.say(f"{language.kernel_name}: installed in {own}")
        if str(self._chosen_folder) not in self._search_path:
            self.say(f"Jupyter does not look into {self._chosen_folder} from here; its path: {self._search_path}")

    def list_all(self, languages: Sequence[Language]) -> None:
        """Show where kernelspecs are, and what is wrong with them."""
        builder = self._builder()
        found = kernelspecs.find_installed(self._folders)
        for language in languages:
            own = [each for each in found if each.language is language]
            for each in own:
                self.say(f"{language.kernel_name}: {each.folder}{self._complaint(builder, each)}")
            if not own:
                self.say(f"{language.kernel_name}: not installed")

    def remove(self, languages: Sequence[Language]) -> None:
        """Remove kernelspecs."""
        found = [each for each in kernelspecs.find_installed(self._folders) if each.language in languages]
        if not found:
            self.fail("no kernelspec of kernelgate is there; `kernelgate kernelspecs list` shows where they are")
        for each in found:
            try:
                kernelspecs.remove(each)
            except OSError as error:
                self._fail_at(each.folder, error)
            self.say(f"{each.language.kernel_name}: removed from {each.folder.parent}")

    @property
    def _chosen_folder(self) -> Path:
        """The folder that the options name; else the system's."""
        return kernelspecs.kernels_folder(self.user, sys.prefix if self.sys_prefix else self.prefix)

    @property
    def _search_path(self) -> list[str]:
        """The folders in which Jupyter programs look for kernelspecs."""
        return list(KernelSpecManager(parent=self).kernel_dirs)

    @property
    def _folders(self) -> Sequence[str | Path]:
        """The folder that the options name; else all in which Jupyter looks."""
        chosen = self.user or self.sys_prefix or self.prefix
        return [self._chosen_folder] if chosen else self._search_path

    def _builder(self) -> ImageBuilder:
        return ImageBuilder(Engine.instance(parent=self).api, parent=self)

    def _complaint(self, builder: ImageBuilder, installed: kernelspecs.Installed) -> str:
        """Say what keeps an installed kernelspec from working as it should; nothing when all is well."""
        if installed.image != builder.name(installed.language):
            return f" (names {installed.image}, which is another version's: install it again)"
        return "" if builder.present(installed.language) else f" (its image {installed.image} is not built)"

    def _fail_at(self, folder: Path, error: OSError) -> None:
        self.fail(
            f"{folder} cannot be written to: {error.strerror}",
            "--user, --sys-prefix or --prefix=PATH names another folder",
        )


class ConfigApp(ConfiguredApp):
    """``kernelgate config summary|validate|security|template|table|export``."""

    name = "kernelgate-config"
    description = """Look at the configuration.

    kernelgate config summary    every setting and its value
    kernelgate config validate   check all settings; exit code 1 when there are mistakes
    kernelgate config security   what is unsafe for production; exit code 1 when something is
    kernelgate config template   a .env file with every variable
    kernelgate config table      every variable as Markdown
    kernelgate config export     every variable as JSON, secrets masked
    """

    def run(self) -> None:
        actions: dict[str, Callable[[], None]] = {
            "summary": lambda: self.say(settings.summary(self.checked_values())),
            "validate": self.validate,
            "security": self.security,
            "template": lambda: self.say(settings.env_template(CLASSES).rstrip("\n")),
            "table": lambda: self.say(settings.markdown_table(CLASSES).rstrip("\n")),
            "export": lambda: self.say(json.dumps(settings.export(self.checked_values()), indent=2)),
        }
        wanted = self.extra_args[0] if self.extra_args else ""
        if wanted not in actions:
            self.fail(f"one of {', '.join(actions)} is expected, got {wanted!r}")
        actions[wanted]()

    def validate(self) -> None:
        self.checked_values()
        self.say("the configuration is valid")

    def security(self) -> None:
        findings = settings.security_findings(self.checked_values())
        if findings:
            self.fail("unsafe for production:", *(f"  {finding}" for finding in findings))
        self.say("nothing unsafe was found")


def _language(name: str) -> Language:
    language = find_language(name)
    if language is None:
        raise UnsupportedLanguage(f"one of {', '.join(known.id for known in LANGUAGES)} is expected, got {name!r}")
    return language
