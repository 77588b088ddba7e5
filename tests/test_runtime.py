"""The runtime folder: paths that sockets fit in, whose server is dead, and sockets that nobody can replace."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from traitlets import TraitError

from kernelgate.containers.runtime import (
    DEEPEST,
    SOCKET_PATH_LIMIT,
    KernelFolder,
    RuntimeFolder,
    SocketFolderPath,
    default_runtime_dir,
    is_dead,
)

NOBODY = 65_534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder whose path is short."""
    with tempfile.TemporaryDirectory(prefix="kgt-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def folder(root: Path) -> Iterator[RuntimeFolder]:
    instance = RuntimeFolder(runtime_dir=str(root))
    yield instance
    instance.close()


@contextmanager
def other_process(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process with an instance of its own; yields it and the path of its lock."""
    code = (
        "import sys, time; from kernelgate.containers.runtime import RuntimeFolder\n"
        f"folder = RuntimeFolder(runtime_dir={str(root)!r}); folder.open()\n"
        "print(folder.lock_path, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def become(uid: int, code: str) -> str:
    """Run Python code as another user; returns what it printed."""
    first = (
        "import os, socket\n"
        "from kernelgate.containers.runtime import is_dead\n"
        f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
    )
    argv = [sys.executable, "-c", first + code]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


# --- paths


@pytest.mark.parametrize("spare", [0, 1, 50])
def test_a_folder_whose_sockets_have_room_is_taken(spare: int) -> None:
    path = "/tmp/" + "x" * (SOCKET_PATH_LIMIT - len(DEEPEST) - len("/tmp/") - 1 - spare)
    assert RuntimeFolder(runtime_dir=path).runtime_dir == path


@pytest.mark.parametrize("excess", [1, 7, 500])
def test_a_folder_that_is_too_deep_is_refused(excess: int) -> None:
    path = "/tmp/" + "x" * (SocketFolderPath.longest - len("/tmp/") + excess)
    with pytest.raises(TraitError, match=f"a path of at most {SocketFolderPath.longest} bytes"):
        RuntimeFolder(runtime_dir=path)


def test_bytes_count_and_not_characters() -> None:
    path = "/tmp/" + "é" * ((SocketFolderPath.longest - len("/tmp/")) // 2)
    assert RuntimeFolder(runtime_dir=path).runtime_dir == path
    with pytest.raises(TraitError, match="bytes"):
        RuntimeFolder(runtime_dir=path + "éé")


def test_the_deepest_path_is_that_of_a_kernels_socket(folder: RuntimeFolder) -> None:
    kernel = folder.kernel_folder("0123456789abcdef0123")
    assert len(f"{kernel.address}-5") == len(os.path.join(folder.root, DEEPEST))


def test_a_relative_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.chdir(root)
    assert RuntimeFolder(runtime_dir="a/../b").root == root / "b"


def test_without_a_setting_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert default_runtime_dir() == "/run/kernelgate"
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_runtime_dir() == "/run/user/1000/kernelgate-1000"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_runtime_dir() == "/tmp/kernelgate-1000"
    assert RuntimeFolder().root == Path("/tmp/kernelgate-1000")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/" + "x" * 90)
    assert default_runtime_dir() == "/tmp/kernelgate-1000"


def test_each_instance_has_a_name_of_its_own(root: Path) -> None:
    assert len({RuntimeFolder(runtime_dir=str(root)).path for _ in range(20)}) == 20


# --- whose server is dead


def test_an_instance_is_alive_from_open_to_close(folder: RuntimeFolder) -> None:
    folder.open()
    assert os.path.isfile(folder.lock_path)
    assert not is_dead(folder.lock_path)
    assert not folder.owner_is_dead(folder.lock_path)
    folder.open()
    assert not is_dead(folder.lock_path)
    folder.close()
    assert not folder.path.exists()
    folder.close()


def test_nobody_else_sees_into_the_folder(folder: RuntimeFolder) -> None:
    folder.open()
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_another_process_is_alive_until_it_is_killed(root: Path, folder: RuntimeFolder) -> None:
    with other_process(root) as (process, lock):
        assert (is_dead(lock), folder.owner_is_dead(lock)) == (False, False)
        process.kill()
        process.wait()
        assert os.path.exists(lock)
        assert (is_dead(lock), folder.owner_is_dead(lock)) == (True, True)


def test_looking_takes_no_lock_away(root: Path, folder: RuntimeFolder) -> None:
    with other_process(root) as (process, lock):
        process.kill()
        process.wait()
        assert [is_dead(lock) for _ in range(3)] == [True, True, True]


@pytest.mark.parametrize(
    ("lock", "dead"),
    [
        ("{root}/12345678/lock", True),
        ("/elsewhere/12345678/lock", False),
        ("{root}/lock", False),
        ("{root}/a/b/lock", False),
        ("", False),
    ],
)
def test_an_instance_that_is_not_there_is_dead_only_if_it_was_below_our_folder(
    folder: RuntimeFolder, lock: str, dead: bool
) -> None:
    assert folder.owner_is_dead(lock.format(root=folder.root)) is dead
    assert not is_dead(lock.format(root=folder.root))


@as_root
def test_an_instance_that_we_may_not_look_at_counts_as_alive(root: Path) -> None:
    with other_process(root) as (process, lock):
        process.kill()
        process.wait()
        assert become(NOBODY, f"print(is_dead({lock!r}))") == "False"
        assert is_dead(lock)


def test_sweep_removes_the_dead_and_nothing_else(root: Path, folder: RuntimeFolder) -> None:
    folder.open()
    foreign = root / "foreign"
    foreign.mkdir()
    (root / "a-file").write_text("")
    with other_process(root) as (living, lock), other_process(root) as (dying, dead_lock):
        (Path(dead_lock).parent / "kernel" / "sockets").mkdir(parents=True)
        dying.kill()
        dying.wait()
        folder.sweep()
        names = {path.name for path in root.iterdir()}
        assert names == {folder.name, "foreign", "a-file", Path(lock).parent.name}
        assert living.poll() is None


# --- a kernel's folder


def bind(path: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(path)
    return bound


@pytest.fixture
def kernel_folder(folder: RuntimeFolder) -> KernelFolder:
    folder.open()
    kernel_folder = folder.kernel_folder("0123-4567-89ab-cdef-0123")
    kernel_folder.make()
    return kernel_folder


def test_a_kernels_folder_is_named_after_its_id(folder: RuntimeFolder, kernel_folder: KernelFolder) -> None:
    assert kernel_folder.path == folder.path / "0123456789ab"
    assert kernel_folder.address == f"{kernel_folder.path}/sockets/k"
    assert kernel_folder.connection_file == kernel_folder.path / "connection.json"


def test_a_kernels_folder_is_made_anew(kernel_folder: KernelFolder) -> None:
    (kernel_folder.sockets / "old").write_text("")
    kernel_folder.make()
    assert list(kernel_folder.path.rglob("*")) == [kernel_folder.sockets]
    assert kernel_folder.path.stat().st_mode & 0o777 == 0o700
    assert kernel_folder.sockets.stat().st_mode & 0o777 == 0o777


def test_sockets_are_counted(kernel_folder: KernelFolder) -> None:
    assert not kernel_folder.bound(1)
    with bind(f"{kernel_folder.address}-1"), bind(f"{kernel_folder.address}-2"):
        assert [kernel_folder.bound(count) for count in (1, 2, 3)] == [True, True, False]


def test_a_sealed_folder_belongs_to_the_gateway_alone(kernel_folder: KernelFolder) -> None:
    with bind(f"{kernel_folder.address}-1"):
        kernel_folder.seal()
    assert kernel_folder.sockets.stat().st_mode & 0o777 == 0o755


def link(path: Path) -> None:
    path.symlink_to("/var/run/docker.sock")


def hard_file(path: Path) -> None:
    path.write_text("")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def subfolder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [link, hard_file, pipe, subfolder])
@pytest.mark.parametrize("name", ["k-1", "k-9", ".hidden"])
def test_what_is_no_socket_is_refused(kernel_folder: KernelFolder, make: object, name: str) -> None:
    assert callable(make)
    with bind(f"{kernel_folder.address}-2"):
        make(kernel_folder.sockets / name)
        with pytest.raises(OSError, match=f"^the kernel's socket folder holds {name!r}, which is no socket$"):
            kernel_folder.seal()
    assert kernel_folder.sockets.stat().st_mode & 0o777 == 0o755


def test_a_link_to_a_socket_is_refused(kernel_folder: KernelFolder) -> None:
    with bind(f"{kernel_folder.address}-1"):
        (kernel_folder.sockets / "k-2").symlink_to("k-1")
        with pytest.raises(OSError, match="'k-2', which is no socket"):
            kernel_folder.seal()


ATTEMPTS = """
os.chdir({folder!r})
def attempt(what, *args):
    try:
        what(*args)
    except OSError as error:
        print(error.errno, end=' ')
    else:
        print('done', end=' ')
attempt(os.symlink, '/etc/passwd', 'k-new')
attempt(socket.socket(socket.AF_UNIX).bind, 'k-bound')
attempt(os.rename, 'k-1', 'k-2')
attempt(os.unlink, 'k-1')
attempt(os.chmod, '.', 0o777)
"""


@as_root
def test_the_container_may_make_its_sockets_and_nothing_once_they_are_sealed(kernel_folder: KernelFolder) -> None:
    for path in (kernel_folder.path, kernel_folder.path.parent, kernel_folder.path.parent.parent):
        path.chmod(0o755)  # in the container, the folder is mounted by itself
    code = ATTEMPTS.format(folder=str(kernel_folder.sockets))
    with bind(f"{kernel_folder.address}-1"):
        shutil.chown(f"{kernel_folder.address}-1", NOBODY)
        assert become(NOBODY, code) == "done done done 2 1"
    for path in kernel_folder.sockets.iterdir():
        path.unlink()
    with bind(f"{kernel_folder.address}-1"):
        shutil.chown(f"{kernel_folder.address}-1", NOBODY)
        kernel_folder.seal()
        assert become(NOBODY, code) == "13 13 13 13 1"
        assert sorted(os.listdir(kernel_folder.sockets)) == ["k-1"]


def test_a_kernels_folder_is_removed_and_may_be_gone(kernel_folder: KernelFolder) -> None:
    kernel_folder.remove()
    kernel_folder.remove()
    assert not kernel_folder.path.exists()
