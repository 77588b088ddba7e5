"""The commands beside the server: ``kernelgate images …`` and ``kernelgate config …``."""

from __future__ import annotations

import json
from collections.abc import Callable

from kernelgate import settings
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
