"""``kernelgate``: starts the server, and stops it when it is told to."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import uvloop
from tornado import autoreload

from kernelgate import settings
from kernelgate.auth import DEFAULT_KEY
from kernelgate.commands import ConfigApp, ImagesApp, KernelspecsApp
from kernelgate.configuration import ConfiguredApp
from kernelgate.errors import KernelStartError
from kernelgate.server import Server


class KernelGateApp(ConfiguredApp):
    """The server as an application."""

    name = "kernelgate"
    description = "Run code in Jupyter kernels inside locked-down Docker containers, for whoever asks over HTTP."
    subcommands = {  # noqa: RUF012
        "images": (ImagesApp, "Build the images that kernels run in."),
        "kernelspecs": (KernelspecsApp, "Let other Jupyter programs start the kernels, without the server."),
        "config": (ConfigApp, "Show, check and export the configuration."),
    }
    aliases = {  # noqa: RUF012
        **ConfiguredApp.aliases,
        "host": "Server.host",
        "port": "Server.port",
    }

    def run(self) -> None:
        values = self.checked_values()
        for finding in settings.security_findings(values):
            self.log.warning(finding)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except OSError as error:
            self.fail(f"the server could not be started: {error}")

    async def _serve(self) -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, stopping.set)
        server = Server(parent=self)
        if server.debug:
            self.log_level = logging.DEBUG
        if server.reload:
            autoreload.start()
        try:
            await server.start()
            await self._until_stopped(server, stopping)
        finally:
            await server.stop()
        self.log.info("stopped")

    async def _until_stopped(self, server: Server, stopping: asyncio.Event) -> None:
        announce = asyncio.create_task(self._announce(server))
        await stopping.wait()
        self.log.info("stopping: running code has %d s to end", server.shutdown_seconds)
        announce.cancel()

    async def _announce(self, server: Server) -> None:
        try:
            await server.ready()
        except KernelStartError as error:
            self.log.error("no kernel could be started yet: %s", error)
        key = DEFAULT_KEY if server.authenticator.api_key == DEFAULT_KEY else "$API_KEY"
        header = server.authenticator.header
        self.say(
            f"kernelgate {self.version} is ready at {server.address}\n"
            f"Try it:\n"
            f"  curl -s {server.address}/exec -H '{header}: {key}' "
            """-d '{"lang": "py", "code": "print(6 * 7)"}'"""
        )


def main(argv: Any = None) -> None:
    """Entry point of the commands ``kernelgate`` and ``jupyter kernelgate``."""
    KernelGateApp.launch_instance(argv)


if __name__ == "__main__":
    main()
