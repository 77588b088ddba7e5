"""The lockdown: exactly what Docker is asked for, and nothing that a container could break out with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kernelgate.containers.lockdown import (
    CONNECTION_FILE,
    ENVIRONMENT,
    SOCKET_FOLDER,
    WORK_FOLDER,
    Limits,
    Sandbox,
    container_body,
    running_limits,
)
from kernelgate.containers.seccomp import seccomp_profile

MB = 1 << 20
LIMITS = Limits(
    memory_mb=300,
    cpu_quota=70_000,
    processes=21,
    open_files=99,
    work_folder_mb=11,
    temporary_folder_mb=12,
    shared_memory_mb=13,
    home_folder_mb=14,
    files=1_500,
)
SANDBOX = Sandbox(
    image="an/image:tag",
    command=("run", "--it"),
    uid=200_123,
    sockets="/run/k/sockets",
    connection_file="/run/k/connection.json",
    labels={"kernelgate.kernel": "k1"},
    limits=LIMITS,
)
TMPFS = "rw,nosuid,nodev,exec,size={}m,nr_inodes=1500,mode=0700,uid=200123,gid=200123"


def body(**changed: Any) -> dict[str, Any]:
    return container_body(Sandbox(**{**vars(SANDBOX), **changed}))


def test_the_whole_body() -> None:
    assert body() == {
        "Image": "an/image:tag",
        "Cmd": ["run", "--it"],
        "User": "200123:200123",
        "Env": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
        "WorkingDir": "/mnt/data",
        "Hostname": "sandbox",
        "Labels": {"kernelgate": "1", "kernelgate.kernel": "k1"},
        "NetworkDisabled": True,
        "HostConfig": {
            "Memory": 300 * MB,
            "MemorySwap": 300 * MB,
            "PidsLimit": 21,
            "Ulimits": [
                {"Name": "nofile", "Soft": 99, "Hard": 99},
                {"Name": "fsize", "Soft": 13 * MB, "Hard": 13 * MB},
                {"Name": "core", "Soft": 0, "Hard": 0},
                {"Name": "memlock", "Soft": 65_536, "Hard": 65_536},
            ],
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges", f"seccomp={seccomp_profile()}"],
            "Privileged": False,
            "ReadonlyRootfs": True,
            "NetworkMode": "none",
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "Tmpfs": {
                "/mnt/data": TMPFS.format(11),
                "/tmp": TMPFS.format(12),
                "/home/sandbox": TMPFS.format(14),
                "/dev/shm": TMPFS.format(13),
            },
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": "/run/k/sockets",
                    "Target": "/run/kernelgate/sockets",
                    "ReadOnly": False,
                    "BindOptions": {"Propagation": "rprivate"},
                },
                {
                    "Type": "bind",
                    "Source": "/run/k/connection.json",
                    "Target": "/run/kernelgate/connection.json",
                    "ReadOnly": True,
                    "BindOptions": {"Propagation": "rprivate"},
                },
            ],
            "LogConfig": {"Type": "none"},
            "RestartPolicy": {"Name": "no"},
        },
    }


def test_the_body_is_json() -> None:
    assert json.loads(json.dumps(body())) == body()


@pytest.mark.parametrize(
    "key",
    [
        "Binds",
        "CapAdd",
        "DeviceCgroupRules",
        "DeviceRequests",
        "Devices",
        "GroupAdd",
        "Links",
        "OomKillDisable",
        "PidMode",
        "PortBindings",
        "PublishAllPorts",
        "Sysctls",
        "UTSMode",
        "UsernsMode",
        "VolumesFrom",
    ],
)
def test_nothing_is_asked_for_that_opens_the_container(key: str) -> None:
    assert key not in body()["HostConfig"]


def test_swap_gives_no_memory_on_top() -> None:
    config = body(limits=Limits(memory_mb=64))["HostConfig"]
    assert (config["Memory"], config["MemorySwap"]) == (64 * MB, 64 * MB)


@pytest.mark.parametrize("path", [WORK_FOLDER, "/tmp", "/home/sandbox", "/dev/shm"])
def test_a_writable_folder_is_bounded_in_bytes_and_in_files_and_holds_no_devices(path: str) -> None:
    options = body()["HostConfig"]["Tmpfs"][path].split(",")
    assert {"nosuid", "nodev", "nr_inodes=1500"} <= set(options)
    assert [option for option in options if option.startswith("size=")] != ["size=0m"]


@pytest.mark.parametrize("large", ["work_folder_mb", "temporary_folder_mb", "shared_memory_mb"])
def test_a_file_may_be_as_large_as_the_largest_folder(large: str) -> None:
    ulimits = body(limits=Limits(**{large: 500}))["HostConfig"]["Ulimits"]
    assert {"Name": "fsize", "Soft": 500 * MB, "Hard": 500 * MB} in ulimits


def test_no_variable_of_the_host_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "PATH", "HOME", "HTTP_PROXY", "DOCKER_HOST"):
        monkeypatch.setenv(name, "a secret of the host")
    assert "a secret of the host" not in json.dumps(body())
    assert len(body()["Env"]) == len(ENVIRONMENT)


def test_every_variable_that_names_a_writable_place_names_a_tmpfs() -> None:
    writable = tuple(body()["HostConfig"]["Tmpfs"])
    places = {name: ENVIRONMENT[name] for name in ("HOME", "IPYTHONDIR", "MPLCONFIGDIR")}
    assert all(place.startswith(writable) for place in places.values())


def test_the_kernel_gets_its_own_sockets_and_a_connection_file_that_it_cannot_change() -> None:
    mounts = {mount["Target"]: mount for mount in body()["HostConfig"]["Mounts"]}
    assert set(mounts) == {SOCKET_FOLDER, CONNECTION_FILE}
    assert mounts[CONNECTION_FILE]["ReadOnly"]
    assert not CONNECTION_FILE.startswith(SOCKET_FOLDER)


def test_labels_are_told_to_docker_and_cannot_take_away_ours() -> None:
    assert body(labels={})["Labels"] == {"kernelgate": "1"}
    assert body(labels={"a": "b"})["Labels"] == {"kernelgate": "1", "a": "b"}


@pytest.mark.parametrize("mode", ["bridge", "host", "a-network"])
def test_another_network_comes_only_when_it_is_asked_for(mode: str) -> None:
    changed = body(network_mode=mode)
    assert (changed["HostConfig"]["NetworkMode"], changed["NetworkDisabled"]) == (mode, False)


def test_a_writable_root_comes_only_when_it_is_asked_for() -> None:
    assert body(read_only=False)["HostConfig"]["ReadonlyRootfs"] is False


def test_a_runtime_is_named_only_when_there_is_one() -> None:
    assert "Runtime" not in body()["HostConfig"]
    assert body(runtime="runsc")["HostConfig"]["Runtime"] == "runsc"


def test_the_defaults_are_those_of_the_configuration_guide() -> None:
    limits = Limits()
    assert (limits.memory_mb, limits.cpu_quota, limits.processes, limits.open_files) == (512, 50_000, 32, 1024)


def test_the_cpu_quota_comes_when_the_kernel_runs() -> None:
    assert running_limits(LIMITS) == {"cpu_period": 100_000, "cpu_quota": 70_000, "cpu_shares": 256}
    assert not [key for key in body()["HostConfig"] if key.startswith(("Cpu", "NanoCpus"))]
