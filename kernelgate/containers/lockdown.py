"""How a kernel's container is locked down: from limits to the body of Docker's "create a container". No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernelgate.containers.seccomp import seccomp_profile

MB = 1 << 20
CPU_PERIOD = 100_000
"""Microseconds that a CPU quota refers to, so a quota of 100000 is one whole CPU."""

WORK_FOLDER = "/mnt/data"
HOME_FOLDER = "/home/sandbox"
SHARED_MEMORY = "/dev/shm"
SOCKET_FOLDER = "/run/kernelgate/sockets"
CONNECTION_FILE = "/run/kernelgate/connection.json"

LABEL = "kernelgate"
LABEL_SERVER = "kernelgate.server"
LABEL_KERNEL = "kernelgate.kernel"


@dataclass(frozen=True)
class Limits:
    """What a container may use. Sizes in MB, ``cpu_quota`` in microseconds per `CPU_PERIOD`."""

    memory_mb: int = 512
    cpu_quota: int = 50_000
    processes: int = 32
    open_files: int = 1024
    work_folder_mb: int = 192
    temporary_folder_mb: int = 64
    shared_memory_mb: int = 64
    home_folder_mb: int = 16
    files: int = 20_000


@dataclass(frozen=True)
class Sandbox:
    """One container: what runs in it, as whom, with which limits."""

    image: str
    command: Sequence[str]
    uid: int
    sockets: str
    connection_file: str
    labels: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    network_mode: str = "none"
    read_only: bool = True
    runtime: str = ""


ENVIRONMENT = {
    "PATH": "/opt/kernel/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": HOME_FOLDER,
    "USER": "sandbox",
    "LOGNAME": "sandbox",
    "LANG": "C.UTF-8",
    "IPYTHONDIR": "/tmp/.ipython",
    "MPLCONFIGDIR": "/tmp/.matplotlib",
    "MATPLOTLIBRC": "/opt/kernelgate/matplotlibrc",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",  # hashes that objects have kept, and the order of sets, stay right after a restore
    "OPENBLAS_NUM_THREADS": "2",
    "OMP_NUM_THREADS": "2",
}


def container_body(sandbox: Sandbox) -> dict[str, Any]:
    """Return the body of ``POST /containers/create`` (Docker Engine API 1.41) for a locked-down container.

    The CPU quota is not in it: it is put on once the kernel is ready, see `running_limits`.
    """
    return {
        "Image": sandbox.image,
        "Cmd": list(sandbox.command),
        "User": f"{sandbox.uid}:{sandbox.uid}",
        "Env": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
        "WorkingDir": WORK_FOLDER,
        "Hostname": "sandbox",
        "Labels": {LABEL: "1", **sandbox.labels},
        "NetworkDisabled": sandbox.network_mode == "none",
        "HostConfig": _host_config(sandbox),
    }


def running_limits(limits: Limits) -> dict[str, int]:
    """Return what a container is updated with when user code is about to run.

    A quarter of the usual CPU shares lets a kernel that boots pass the ones that run user code.
    """
    return {"cpu_period": CPU_PERIOD, "cpu_quota": limits.cpu_quota, "cpu_shares": 256}


def _host_config(sandbox: Sandbox) -> dict[str, Any]:
    limits = sandbox.limits
    config = {
        "Memory": limits.memory_mb * MB,
        "MemorySwap": limits.memory_mb * MB,
        "PidsLimit": limits.processes,
        "Ulimits": _ulimits(limits),
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={seccomp_profile()}"],
        "Privileged": False,
        "ReadonlyRootfs": sandbox.read_only,
        "NetworkMode": sandbox.network_mode,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "Tmpfs": _tmpfs(sandbox.uid, limits),
        "Mounts": [
            _bind(sandbox.sockets, SOCKET_FOLDER, read_only=False),
            _bind(sandbox.connection_file, CONNECTION_FILE, read_only=True),
        ],
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
    }
    if sandbox.runtime:
        config["Runtime"] = sandbox.runtime
    return config


def _ulimits(limits: Limits) -> list[dict[str, Any]]:
    largest_file = max(limits.work_folder_mb, limits.temporary_folder_mb, limits.shared_memory_mb) * MB
    bounds = {"nofile": limits.open_files, "fsize": largest_file, "core": 0, "memlock": 64 << 10}
    return [{"Name": name, "Soft": bound, "Hard": bound} for name, bound in bounds.items()]


def _tmpfs(uid: int, limits: Limits) -> dict[str, str]:
    sizes = {
        WORK_FOLDER: limits.work_folder_mb,
        "/tmp": limits.temporary_folder_mb,
        HOME_FOLDER: limits.home_folder_mb,
        SHARED_MEMORY: limits.shared_memory_mb,  # Docker's own would not bound the number of files
    }
    return {
        path: f"rw,nosuid,nodev,exec,size={size}m,nr_inodes={limits.files},mode=0700,uid={uid},gid={uid}"
        for path, size in sizes.items()
    }


def _bind(source: str, target: str, read_only: bool) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }
