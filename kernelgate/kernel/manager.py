"""Jupyter's kernel manager, as the server uses it: it launches through the provisioner and keeps no sockets."""

from __future__ import annotations

from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory

from kernelgate.containers.provisioner import DockerProvisioner
from kernelgate.languages import Language


class KernelManager(AsyncKernelManager):
    """Launches one kernel from a kernelspec that is given to it, not looked up."""

    def __init__(self, spec: KernelSpec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kernel_spec = spec

    def new_provisioner(self) -> DockerProvisioner:
        """Return a provisioner with the settings of the kernel that this manager would launch."""
        factory = KernelProvisionerFactory.instance(parent=self.parent)
        provisioner = factory.create_provisioner_instance(self.kernel_id, self.kernel_spec, parent=self)
        assert isinstance(provisioner, DockerProvisioner)
        return provisioner

    async def take_over(self, connection: KernelConnectionInfo, container: str, folder: str) -> None:
        """Manage a kernel that runs already. Raises `EngineError`."""
        self.load_connection_info(connection)
        provisioner = self.new_provisioner()
        await provisioner.load_provisioner_info(
            {
                "kernel_id": self.kernel_id,
                "connection_info": self.get_connection_info(),
                "container": container,
                "folder": folder,
            }
        )
        self.provisioner = provisioner

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
