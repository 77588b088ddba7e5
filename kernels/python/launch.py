"""Starts the Python kernel inside its container: ``python launch.py -f CONNECTION_FILE``."""

import gc
import os
import sys

gc.disable()
os.umask(0)  # the gateway's user must be able to connect to the sockets

from kernelgate_kernel import lazy  # noqa: E402

lazy.install()

from kernelgate_kernel.app import SandboxKernelApp  # noqa: E402

if __name__ == "__main__":
    sys.path[0] = ""  # user code sees its work folder where this file's folder was
    app = SandboxKernelApp.instance()
    app.initialize(sys.argv[1:])
    os.umask(0o022)
    gc.freeze()
    gc.enable()
    app.start()
