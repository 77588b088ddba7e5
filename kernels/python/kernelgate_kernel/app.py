"""The kernel's application: reads the connection file, binds the sockets, runs the kernel."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import zmq
from ipykernel.iostream import IOPubThread
from ipykernel.kernelapp import IPKernelApp
from traitlets import Type, default
from traitlets.config import Config

from . import loops
from .kernel import SandboxKernel, install_exit
from .session import SandboxSession, pack, unpack

FONT_CACHE = Path("/opt/kernelgate/matplotlib")


class SandboxKernelApp(IPKernelApp):
    """ipykernel's application without what a sandbox has no use for: profiles, history files, subprocess pipes."""

    kernel_class = Type(SandboxKernel)
    blocking_class = Type(object)  # a client: nothing that a kernel needs, and its module is slow to import
    outstream_class = "kernelgate_kernel.streams.SandboxStream"
    log_level = 50

    @default("session")
    def _default_session(self) -> SandboxSession:
        return SandboxSession(parent=self, pack=pack, unpack=unpack)

    def initialize(self, argv: Any = None) -> None:
        loops.install()
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        config.Completer.use_jedi = False
        self.update_config(config)
        provide_font_cache()
        self.log.setLevel(logging.CRITICAL)  # what its handlers would drop need not be written first
        super().initialize(argv)

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        """Publish without a high-water mark: what the gateway has not read yet waits here, within our memory."""
        self.iopub_socket = context.socket(zmq.XPUB)
        self.iopub_socket.linger = 1000
        self.iopub_socket.sndhwm = 0
        self.iopub_port = self._bind_socket(self.iopub_socket, self.iopub_port)
        self.configure_tornado_logger()
        self.iopub_thread = IOPubThread(self.iopub_socket, pipe=False, session=self.session)
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket

    def init_kernel(self) -> None:
        super().init_kernel()
        install_exit(self.kernel)

    def init_io(self) -> None:
        super().init_io()
        sys.stdout.peer, sys.stderr.peer = sys.stderr, sys.stdout  # type: ignore[union-attr]

    def write_connection_file(self, **kwargs: Any) -> None:
        """Nothing: the gateway wrote the file, and it is read-only here."""


def provide_font_cache() -> None:
    """Copy matplotlib's prebuilt font cache to its writable folder, so that no plot waits for a rebuild."""
    target = os.environ.get("MPLCONFIGDIR")
    if target and FONT_CACHE.is_dir() and not os.path.exists(target):
        try:
            shutil.copytree(FONT_CACHE, target)
        except OSError as error:
            logging.getLogger(__name__).warning("no font cache: %s", error)
