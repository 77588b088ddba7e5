"""The runtime folder: paths that sockets fit in, whose server is dead, who inherits it, what nobody replaces."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from jupyter_client.connect import port_names
from traitlets import TraitError

from kernelgate.containers.runtime import (
    DEEPEST,
    FILE_LIMIT,
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
    assert folder.inherit() == []
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
        assert (is_dead(lock), folder.inherit()) == (False, [])
        process.kill()
        process.wait()
        assert os.path.exists(lock)
        assert (is_dead(lock), folder.inherit()) == (True, [lock])


def test_looking_takes_no_lock_away(root: Path, folder: RuntimeFolder) -> None:
    with other_process(root) as (process, lock):
        process.kill()
        process.wait()
        assert [is_dead(lock) for _ in range(3)] == [True, True, True]


@pytest.mark.parametrize(
    ("lock", "below"),
    [
        ("{root}/12345678/lock", True),
        ("/elsewhere/12345678/lock", False),
        ("{root}/lock", False),
        ("{root}/a/b/lock", False),
        ("", False),
    ],
)
def test_an_instance_is_below_the_folder_that_it_is_in(folder: RuntimeFolder, lock: str, below: bool) -> None:
    assert folder.is_below(lock.format(root=folder.root)) is below
    assert not is_dead(lock.format(root=folder.root))


def test_a_lock_has_one_name_whatever_path_leads_to_it(root: Path, folder: RuntimeFolder) -> None:
    (root / "inner").mkdir()
    other_way = root / "way"
    other_way.symlink_to(root)
    assert folder.canonical(f"{other_way}/12345678/lock") == f"{root}/12345678/lock"
    assert folder.canonical(f"{root}/inner/12345678/lock") == f"{root}/inner/12345678/lock"
    assert folder.canonical("/elsewhere/12345678/lock") == "/elsewhere/12345678/lock"
    assert folder.canonical("") == ""


@as_root
def test_an_instance_that_we_may_not_look_at_counts_as_alive(root: Path) -> None:
    with other_process(root) as (process, lock):
        process.kill()
        process.wait()
        assert become(NOBODY, f"print(is_dead({lock!r}))") == "False"
        assert is_dead(lock)


# --- what the dead leave


@pytest.fixture
def estate(root: Path) -> Path:
    """The folder of a dead instance with two kernels."""
    with other_process(root) as (process, lock):
        for name in ("one", "two"):
            (Path(lock).parent / name / "sockets").mkdir(parents=True)
        process.kill()
        process.wait()
    return Path(lock).parent


@pytest.fixture
def heir(folder: RuntimeFolder, estate: Path) -> RuntimeFolder:
    folder.open()
    assert folder.inherit() == [f"{estate}/lock"]
    return folder


def test_only_the_dead_are_inherited(root: Path, folder: RuntimeFolder, estate: Path) -> None:
    folder.open()
    (root / "foreign").mkdir()
    (root / "a-file").write_text("")
    (root / "half" / "lock").mkdir(parents=True)
    with other_process(root):
        assert folder.inherit() == [f"{estate}/lock"]
        assert folder.inherit() == []
    assert folder.lock_paths == [folder.lock_path, f"{estate}/lock"]


def test_what_is_inherited_is_alive_for_everybody_else(root: Path, heir: RuntimeFolder, estate: Path) -> None:
    assert not is_dead(f"{estate}/lock")
    assert RuntimeFolder(runtime_dir=str(root)).inherit() == []


def test_each_instance_has_one_heir(root: Path, estate: Path) -> None:
    contenders = [RuntimeFolder(runtime_dir=str(root)) for _ in range(8)]
    start = threading.Barrier(len(contenders))

    def contend(contender: RuntimeFolder) -> list[str]:
        start.wait()
        return contender.inherit()

    with ThreadPoolExecutor(len(contenders)) as threads:
        taken = list(threads.map(contend, contenders))
    assert sorted(filter(None, taken)) == [[f"{estate}/lock"]]
    for contender in contenders:
        contender.close()


def test_what_is_given_back_can_be_inherited_again(root: Path, heir: RuntimeFolder, estate: Path) -> None:
    heir.give_back([f"{estate}/lock", "/nowhere/lock"])
    assert is_dead(f"{estate}/lock")
    assert {path.name for path in estate.iterdir()} == {"lock", "one", "two"}
    assert heir.lock_paths == [heir.lock_path]
    assert heir.inherit() == [f"{estate}/lock"]


def test_kernels_that_are_not_kept_are_removed(heir: RuntimeFolder, estate: Path) -> None:
    heir.keep_only(f"{estate}/lock", {estate / "two"})
    assert {path.name for path in estate.iterdir()} == {"lock", "two"}
    assert not is_dead(f"{estate}/lock")


def test_an_inherited_instance_without_kernels_is_removed(heir: RuntimeFolder, estate: Path) -> None:
    heir.keep_only(f"{estate}/lock", set())
    assert not estate.exists()
    assert heir.lock_paths == [heir.lock_path]


def test_an_inherited_instance_goes_with_its_last_kernel(heir: RuntimeFolder, estate: Path) -> None:
    heir.remove(KernelFolder(estate / "one"))
    assert {path.name for path in estate.iterdir()} == {"lock", "two"}
    heir.remove(KernelFolder(estate / "two"))
    assert not estate.exists()
    heir.remove(KernelFolder(estate / "two"))
    assert heir.path.exists()


def test_ones_own_instance_stays_when_its_last_kernel_goes(
    folder: RuntimeFolder, kernel_folder: KernelFolder
) -> None:
    folder.remove(kernel_folder)
    assert not kernel_folder.path.exists()
    assert os.path.exists(folder.lock_path)


def test_close_removes_what_was_inherited(root: Path, heir: RuntimeFolder) -> None:
    heir.close()
    assert list(root.iterdir()) == []


def test_a_lock_that_was_removed_meanwhile_is_nobodys(
    monkeypatch: pytest.MonkeyPatch, folder: RuntimeFolder, estate: Path
) -> None:
    """Between the opening of the file and its locking, the heir of the instance removes it."""
    lock = fcntl.flock

    def removed(file: IO[str], operation: int) -> None:
        shutil.rmtree(estate)
        lock(file, operation)

    folder.open()
    monkeypatch.setattr(fcntl, "flock", removed)
    assert folder.inherit() == []


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


@pytest.fixture
def sealed(kernel_folder: KernelFolder) -> Iterator[KernelFolder]:
    """A kernel's folder with five sockets."""
    with contextlib.ExitStack() as stack:
        for number in range(1, 6):
            stack.enter_context(bind(f"{kernel_folder.address}-{number}"))
        kernel_folder.seal()
        yield kernel_folder


def test_a_sealed_folder_passes_the_check(sealed: KernelFolder) -> None:
    sealed.check_sealed(5)
    with pytest.raises(OSError, match=r"^the kernel's socket folder lacks k-6, k-7$"):
        sealed.check_sealed(7)


@pytest.mark.parametrize("make", [link, hard_file, pipe, subfolder])
def test_what_came_into_a_sealed_folder_is_found(sealed: KernelFolder, make: object) -> None:
    assert callable(make)
    make(sealed.sockets / "k-9")
    with pytest.raises(OSError, match="'k-9', which is no socket"):
        sealed.check_sealed(5)


def test_a_folder_that_was_not_sealed_is_found(sealed: KernelFolder) -> None:
    sealed.sockets.chmod(0o777)
    with pytest.raises(OSError, match="is not sealed"):
        sealed.check_sealed(5)


def test_a_folder_that_is_a_link_is_found(sealed: KernelFolder) -> None:
    sealed.sockets.rename(sealed.path / "moved")
    sealed.sockets.symlink_to(sealed.path / "moved")
    with pytest.raises(OSError, match="is not sealed"):
        sealed.check_sealed(5)


@as_root
@pytest.mark.parametrize("name", ["", "sockets"])
def test_a_folder_of_somebody_else_is_found(sealed: KernelFolder, name: str) -> None:
    shutil.chown(sealed.path / name, NOBODY)
    with pytest.raises(OSError, match="somebody else's"):
        sealed.check_sealed(5)


# --- what is written down about a kernel


def test_a_note_is_read_as_it_was_written_last(kernel_folder: KernelFolder) -> None:
    assert kernel_folder.read_note() is None
    for version in range(3):
        note = {"session": "ключ", "version": version, "busy": version % 2 == 0}
        kernel_folder.write_note(note)
        assert kernel_folder.read_note() == note
    assert {path.name for path in kernel_folder.path.iterdir()} == {"sockets", "note.json"}


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 60_000, b'{"a": "' + b"x" * FILE_LIMIT + b'"}'],
    ids=["empty", "cut", "list", "null", "bytes", "deep", "huge"],
)
def test_a_note_that_is_broken_is_none(kernel_folder: KernelFolder, data: bytes) -> None:
    kernel_folder.note.write_bytes(data)
    assert kernel_folder.read_note() is None


def test_a_note_that_is_too_long_is_refused_and_the_old_one_stays(kernel_folder: KernelFolder) -> None:
    kernel_folder.write_note({"a": "x" * (FILE_LIMIT - 9)})
    with pytest.raises(ValueError, match=f"^a note may have {FILE_LIMIT} bytes, not {FILE_LIMIT + 1}$"):
        kernel_folder.write_note({"a": "x" * (FILE_LIMIT - 8)})
    assert kernel_folder.read_note() == {"a": "x" * (FILE_LIMIT - 9)}


def test_a_note_needs_its_folder(kernel_folder: KernelFolder) -> None:
    kernel_folder.remove()
    with pytest.raises(FileNotFoundError):
        kernel_folder.write_note({})
    assert kernel_folder.read_note() is None


def connection(folder: KernelFolder, **changed: object) -> dict[str, object]:
    ports = {name: number for number, name in enumerate(port_names, start=1)}
    return {"transport": "ipc", "ip": folder.address, "key": "secret", **ports, **changed}


def test_the_connection_is_read_without_what_it_need_not_have(kernel_folder: KernelFolder) -> None:
    kernel_folder.gateway_file.write_text(json.dumps(connection(kernel_folder, more=1)))
    assert kernel_folder.read_connection() == connection(kernel_folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"transport": "tcp"},
        {"ip": "/run/elsewhere/k"},
        {"ip": None},
        {"key": None},
        {"key": 1},
        {"shell_port": 0},
        {"iopub_port": 6},
        {"hb_port": "1"},
        {"control_port": [1]},
        {"stdin_port": None},
        {"more": "x" * FILE_LIMIT},
    ],
    ids=str,
)
def test_a_connection_that_does_not_lead_to_the_kernel_is_refused(
    kernel_folder: KernelFolder, changed: dict[str, object]
) -> None:
    kernel_folder.gateway_file.write_text(json.dumps(connection(kernel_folder, **changed)))
    with pytest.raises(ValueError, match=r"gateway\.json is not the connection file of this kernel"):
        kernel_folder.read_connection()


def test_a_connection_that_is_not_there_is_refused(kernel_folder: KernelFolder) -> None:
    with pytest.raises(ValueError, match="is not the connection file"):
        kernel_folder.read_connection()


def test_a_kernels_folder_is_removed_and_may_be_gone(kernel_folder: KernelFolder) -> None:
    kernel_folder.remove()
    kernel_folder.remove()
    assert not kernel_folder.path.exists()
