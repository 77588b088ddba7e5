"""Jupyter's kernel manager, as the server uses it: it launches through the provisioner and keeps no sockets."""

from __future__ import annotations

from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from kernelgate.languages import Language


class KernelManager(AsyncKernelManager):
    """Launches one kernel from a kernelspec that is given to it, not looked up."""

    def __init__(self, spec: KernelSpec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kernel_spec = spec

    def forget(self) -> None:
        """Remove the connection file."""
        self.cleanup_connection_file()

    def _connect_control_socket(self) -> None:
        """Nothing: the hub has the control channel."""


def kernel_spec(language: Language, image: str) -> KernelSpec:
    """Return the kernelspec of ``language`` in the Docker image ``image``."""
    return KernelSpec(
        argv=list(language.argv),
        display_name=f"{language.display_name} (kernelgate)",
        language=language.folder,
        interrupt_mode="message",
        metadata={
            "kernel_provisioner": {
                "provisioner_name": "kernelgate-docker",
                "config": {"image": image},
            }
        },
    )
