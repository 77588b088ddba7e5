"""How every command of kernelgate gets its configuration: command line > environment > .env > file > default."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from jupyter_core.application import JupyterApp, base_aliases, base_flags
from traitlets import Unicode, observe
from traitlets.config import Configurable, SingletonConfigurable

from kernelgate import __version__, settings
from kernelgate.auth import Authenticator
from kernelgate.containers.engine import Engine
from kernelgate.containers.provisioner import DockerProvisioner
from kernelgate.containers.runtime import RuntimeFolder
from kernelgate.cors import Cors
from kernelgate.errors import ConfigError, GateError
from kernelgate.images.builder import ImageBuilder
from kernelgate.kernel.frontends import ReplaySettings, WebSockets
from kernelgate.kernel.hub import Kernel
from kernelgate.kernel.pool import PoolSettings
from kernelgate.kernel.starter import KernelStarter
from kernelgate.server import Server
from kernelgate.sessions.admission import Admission
from kernelgate.sessions.archiver import Archiver
from kernelgate.sessions.culling import Culling
from kernelgate.sessions.execute import Executor
from kernelgate.sessions.files import WorkFolder
from kernelgate.sessions.gateway import Gateway
from kernelgate.sessions.notebooks import Notebooks
from kernelgate.sessions.sessions import Sessions
from kernelgate.sessions.state import StateSettings
from kernelgate.stores.choice import Stores
from kernelgate.stores.embedded import EmbeddedStore
from kernelgate.stores.minio import MinioStore
from kernelgate.stores.redis import RedisStore

CLASSES: list[type[Configurable]] = [
    Server,
    Authenticator,
    Engine,
    RuntimeFolder,
    DockerProvisioner,
    ImageBuilder,
    KernelStarter,
    Kernel,
    PoolSettings,
    Stores,
    EmbeddedStore,
    RedisStore,
    MinioStore,
    Sessions,
    Culling,
    StateSettings,
    WorkFolder,
    Archiver,
    Admission,
    Executor,
    Gateway,
    ReplaySettings,
    WebSockets,
    Notebooks,
    Cors,
]
"""Every class with settings, in the order of the documentation."""


class ConfiguredApp(JupyterApp):
    """A Jupyter application that takes the settings of `CLASSES` from everywhere and checks them all at once."""

    version = __version__
    classes = CLASSES
    raise_config_file_errors = True
    aliases = {**base_aliases, "env-file": "ConfiguredApp.env_file"}  # noqa: RUF012
    flags = {  # noqa: RUF012
        name: flag for name, flag in base_flags.items() if name in ("debug", "show-config", "show-config-json")
    }

    env_file = Unicode(".env", help="File with environment variables, read when it is there.").tag(config=True)

    @observe("config")
    def _config_changed(self, change: Any) -> None:
        """Take a new configuration. `Application` would write it to the log, with all its secrets."""
        SingletonConfigurable._config_changed(self, change)

    def load_config_file(self, suppress_errors: bool = True) -> None:  # type: ignore[override]
        super().load_config_file(suppress_errors)
        env_file = settings.read_env_file(Path(self.env_file))
        environment, self._problems = settings.environment_config(self.classes, os.environ, env_file)
        for warning in settings.env_file_warnings(self.classes, env_file):
            self.log.warning(warning)
        self.config = settings.override(self.classes, self.config, environment)

    def checked_values(self) -> dict[settings.Knob, Any]:
        """Return all settings; warn of what does not go together. Raises `ConfigError` with all that is wrong."""
        problems = [*self._problems, *settings.check_config(self.classes, self.config)]
        if not problems:
            problems = PoolSettings(parent=self).problems()
        if problems:
            raise ConfigError(problems)
        for warning in self._contradictions():
            self.log.warning(warning)
        return settings.effective_values(self.classes, self.config)

    def _contradictions(self) -> list[str]:
        """Return a sentence for each pair of settings that are valid and do not go together."""
        archiver, state = Archiver(parent=self), StateSettings(parent=self)
        archives = archiver.enabled and state.enabled and Stores(parent=self).cold is not None
        if not archives or archiver.after_seconds < state.ttl_seconds:
            return []
        return [
            f"STATE_ARCHIVE_AFTER_SECONDS should be less than STATE_TTL_SECONDS, got {archiver.after_seconds} and "
            f"{state.ttl_seconds}: states expire before they are archived."
        ]

    def start(self) -> None:
        """Run the command; a `GateError` is told in a line and ends it with exit code 1."""
        super().start()
        try:
            self.run()
        except ConfigError as error:
            self.fail("the configuration holds mistakes:", *(f"  {problem}" for problem in error.problems))
        except GateError as error:
            self.fail(str(error))

    def run(self) -> None:
        """Do what the command is for."""
        raise NotImplementedError

    def say(self, text: str) -> None:
        """Print a line for the person at the terminal."""
        print(text, flush=True)  # noqa: T201

    def fail(self, *lines: str) -> None:
        print(f"{self.name}: " + "\n".join(lines), file=sys.stderr)  # noqa: T201
        self.exit(1)
