"""The runtime folder: the kernels' sockets, and the proof that the server they belong to is alive.

<runtime_dir>/<instance>/lock                        locked for as long as the instance lives
<runtime_dir>/<instance>/<kernel>/sockets/           mounted into that kernel's container
<runtime_dir>/<instance>/<kernel>/connection.json    mounted too: the connection file as the kernel reads it
<runtime_dir>/<instance>/<kernel>/gateway.json       the connection file as the server reads it
<runtime_dir>/<instance>/<kernel>/note.json          what the server wrote down about the kernel

An instance is a server's; its lock outlives no process. Whoever takes the lock of a dead instance inherits what is
in it, and everybody else sees the instance as alive again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, cast

from jupyter_client.connect import KernelConnectionInfo, port_names
from traitlets import Unicode
from traitlets.config import SingletonConfigurable

SOCKET_PATH_LIMIT = 107
"""Bytes that the path of a UNIX socket may have (``sun_path`` less its end)."""

FILE_LIMIT = 64 << 10
"""Bytes that a note or a connection file may have."""

CONNECTION_FIELDS = ("transport", "ip", "key", *port_names)

LOCK = "lock"
DEEPEST = os.path.join("12345678", "123456789012", "sockets", "k-5")
SOCKETS_OPEN = 0o777
SOCKETS_SEALED = 0o755


class SocketFolderPath(Unicode[str, str]):
    """A folder whose path leaves room for the sockets below it."""

    longest = SOCKET_PATH_LIMIT - len(DEEPEST) - 1
    info_text = f"a path of at most {longest} bytes, as sockets lie below it"

    def validate(self, obj: Any, value: Any) -> str:
        path = super().validate(obj, value)
        if len(os.fsencode(os.path.abspath(path) if path else "")) > self.longest:
            self.error(obj, value)
        return path


class RuntimeFolder(SingletonConfigurable):
    """This process's part of the runtime folder. Made at first use, gone after `close`."""

    runtime_dir = SocketFolderPath(
        "",
        help="Folder for the kernels' sockets and connection files. Docker must see it under the same path. "
        "Empty: /run/kernelgate for root, else a folder of the user's.",
    ).tag(config=True, env="RUNTIME_DIR", group="Docker")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = secrets.token_hex(4)
        self._lock: IO[str] | None = None
        self._inherited: dict[str, IO[str]] = {}
        """The locks of dead instances that are ours now, by their paths."""

    @property
    def root(self) -> Path:
        """The folder that all instances share."""
        return Path(os.path.abspath(self.runtime_dir or default_runtime_dir()))

    @property
    def path(self) -> Path:
        """This instance's folder."""
        return self.root / self.name

    @property
    def lock_path(self) -> str:
        return str(self.path / LOCK)

    @property
    def lock_paths(self) -> list[str]:
        """The locks that this process holds: its own instance's and those of the instances it has inherited."""
        return [self.lock_path, *self._inherited]

    @property
    def is_open(self) -> bool:
        return self._lock is not None

    def open(self) -> None:
        """Make the instance's folder and lock it. Called again, it does nothing. Raises `OSError`."""
        if self._lock is not None:
            return
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_owner(self.root)
        self.path.mkdir(mode=0o700)
        fresh = f"{self.lock_path}.new"
        self._lock = open(fresh, "w")  # noqa: SIM115  held for as long as the process lives
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(fresh, self.lock_path)  # nobody ever sees it without its lock

    def close(self) -> None:
        """Remove the instance's folder with all that is in it, and those of inherited instances."""
        for lock_path in list(self._inherited):
            self._remove_inherited(lock_path)
        if self._lock is None:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()
        self._lock = None

    def kernel_folder(self, kernel_id: str, lock_path: str = "") -> KernelFolder:
        """Return the folder, made or not, of a kernel of this instance or of the one with ``lock_path``."""
        instance = Path(lock_path).parent if lock_path else self.path
        return KernelFolder(instance / folder_name(kernel_id))

    def kernel_folders(self) -> list[Path]:
        """Return the folders of all kernels that this process answers for."""
        return [folder for lock_path in self.lock_paths for folder in subfolders(Path(lock_path).parent)]

    def remove(self, folder: KernelFolder) -> None:
        """Remove a kernel's folder. An inherited instance goes with its last kernel."""
        folder.remove()
        self._remove_if_empty(str(folder.path.parent / LOCK))

    # ---- what dead instances leave

    def canonical(self, lock_path: str) -> str:
        """Return the path of a lock as it is here, when another path leads to the same runtime folder."""
        instance = Path(lock_path).parent
        try:
            ours = instance.parent.samefile(self.root)
        except OSError:
            return lock_path
        return str(self.root / instance.name / LOCK) if ours else lock_path

    def is_below(self, lock_path: str) -> bool:
        """Tell whether ``lock_path`` is that of an instance in the same runtime folder."""
        return Path(lock_path).parent.parent == self.root

    def dead_instances(self) -> list[str]:
        """Return the names of the instances in the runtime folder whose servers were killed."""
        return [folder.name for folder in subfolders(self.root) if is_dead(str(folder / LOCK))]

    def inherit(self, noted: bool = True) -> list[str]:
        """Take the locks of all instances in the runtime folder that are dead; returns the locks' paths.

        Of several servers that do so at once, only one gets a lock. The folder must be open. With ``noted=False``
        instances in which a kernel has a note are left alone: they are for servers, which may take kernels over.
        """
        taken = {}
        for folder in self.root.iterdir():
            lock = take_lock(str(folder / LOCK)) if noted or not has_notes(folder) else None
            if lock is not None:
                taken[lock.name] = lock
        self._inherited.update(taken)
        return list(taken)

    def keep_only(self, lock_path: str, kept: Collection[Path]) -> None:
        """Remove the folders of an inherited instance's kernels, except ``kept``; without any, it goes as well."""
        for folder in subfolders(Path(lock_path).parent):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        self._remove_if_empty(lock_path)

    def give_back(self, lock_paths: Iterable[str]) -> None:
        """Give up inherited instances as they are: they are dead again, and the next server may inherit them."""
        for lock_path in lock_paths:
            lock = self._inherited.pop(lock_path, None)
            if lock is not None:
                lock.close()

    def _remove_if_empty(self, lock_path: str) -> None:
        if lock_path in self._inherited and not subfolders(Path(lock_path).parent):
            self._remove_inherited(lock_path)

    def _remove_inherited(self, lock_path: str) -> None:
        shutil.rmtree(Path(lock_path).parent, ignore_errors=True)
        self.give_back([lock_path])


class KernelFolder:
    """The files that one kernel shares with the gateway."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sockets = path / "sockets"
        self.connection_file = path / "connection.json"
        self.gateway_file = path / "gateway.json"
        self.note = path / "note.json"
        self.address = str(self.sockets / "k")

    def make(self) -> None:
        """Make the folder; its socket folder may be written to by whoever reaches it, so by the container."""
        self.remove()
        self.path.mkdir(mode=0o700, parents=True)
        self.sockets.mkdir()
        self.sockets.chmod(SOCKETS_OPEN)

    def bound(self, count: int) -> bool:
        """Tell whether ``count`` sockets have been made."""
        return len(os.listdir(self.sockets)) >= count

    def seal(self) -> None:
        """Take the container's right to change the socket folder; then check that sockets are all it holds.

        ZeroMQ follows symbolic links at each connect, so from here on none can come in between. Raises
        `OSError` when something else than a socket is there.
        """
        self.sockets.chmod(SOCKETS_SEALED)
        self._check_sockets()

    def check_sealed(self, count: int) -> None:
        """Check that the socket folder is sealed and holds the kernel's ``count`` sockets. Raises `OSError`."""
        status = os.lstat(self.sockets)
        if not stat.S_ISDIR(status.st_mode) or stat.S_IMODE(status.st_mode) != SOCKETS_SEALED:
            raise OSError("the kernel's socket folder is not sealed")
        if {status.st_uid, os.lstat(self.path).st_uid} != {os.getuid()}:
            raise OSError("the kernel's folder is somebody else's")
        missing = {f"k-{number}" for number in range(1, count + 1)} - self._check_sockets()
        if missing:
            raise OSError(f"the kernel's socket folder lacks {', '.join(sorted(missing))}")

    def _check_sockets(self) -> set[str]:
        names = os.listdir(self.sockets)
        for name in names:
            if not stat.S_ISSOCK(os.lstat(self.sockets / name).st_mode):
                raise OSError(f"the kernel's socket folder holds {name!r}, which is no socket")
        return set(names)

    def write_note(self, data: Mapping[str, Any]) -> None:
        """Write down what a later server must know of the kernel, in place of what was there before.

        It survives this process, not the machine: nothing waits for the disk. Raises `OSError`, and `ValueError`
        for what is too long to be read again.
        """
        text = json.dumps(data).encode()
        if len(text) > FILE_LIMIT:
            raise ValueError(f"a note may have {FILE_LIMIT} bytes, not {len(text)}")
        descriptor = os.open(self.note, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:  # one write, no shorter than what was there: a kill leaves the old or the new
            os.pwrite(descriptor, text.ljust(os.fstat(descriptor).st_size), 0)
        finally:
            os.close(descriptor)

    def read_note(self) -> dict[str, Any] | None:
        """Return what `write_note` wrote; None when there is no note, or none that can be read."""
        return read_object(self.note)

    def read_connection(self) -> KernelConnectionInfo:
        """Return the kernel's connection info, as the server that started it wrote it down.

        Raises `ValueError` unless it leads to the sockets in this folder.
        """
        info = read_object(self.gateway_file) or {}
        numbers = range(1, len(port_names) + 1)
        leads_here = (info.get("transport"), info.get("ip")) == ("ipc", self.address)
        complete = isinstance(info.get("key"), str) and all(info.get(name) in numbers for name in port_names)
        if not (leads_here and complete):
            raise ValueError(f"{self.gateway_file} is not the connection file of this kernel")
        return cast(KernelConnectionInfo, {name: info[name] for name in CONNECTION_FIELDS})

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def folder_name(kernel_id: str) -> str:
    """Return the name of a kernel's folder: 12 digits that are the kernel's alone, whatever its id looks like."""
    digits = kernel_id.replace("-", "")
    return digits[:12] if is_random(kernel_id) else hashlib.sha256(kernel_id.encode()).hexdigest()[:12]


def is_random(kernel_id: str) -> bool:
    """Tell whether a kernel's id is a UUID or the like: no other kernel has it, in this process or another."""
    return re.fullmatch("[0-9a-f]{12,}", kernel_id.replace("-", "")) is not None


def has_notes(instance: Path) -> bool:
    """Tell whether a kernel in an instance's folder has a note."""
    return any(KernelFolder(folder).note.exists() for folder in subfolders(instance))


def check_owner(folder: Path) -> None:
    """Check that nobody else can put folders in place of those in ``folder``. Raises `OSError`."""
    status = folder.stat()
    if status.st_uid not in (0, os.getuid()):
        raise OSError(f"the runtime folder {folder} belongs to user {status.st_uid}: set RUNTIME_DIR to another")


def default_runtime_dir() -> str:
    """Return the runtime folder of this process's user."""
    if os.getuid() == 0:
        return "/run/kernelgate"
    name = f"kernelgate-{os.getuid()}"
    folder = os.path.join(os.environ.get("XDG_RUNTIME_DIR", "/tmp"), name)
    return folder if len(os.fsencode(folder)) <= SocketFolderPath.longest else os.path.join("/tmp", name)


def take_lock(lock_path: str) -> IO[str] | None:
    """Take the lock of an instance that has ended. None: it lives, is gone, or is not ours to see."""
    try:
        lock = open(lock_path)  # noqa: SIM115  held for as long as the caller wants
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock.fileno()), os.stat(lock_path)):
            return lock
    except OSError:
        pass  # somebody holds it, or has removed it meanwhile
    lock.close()
    return None


def is_dead(lock_path: str) -> bool:
    """Tell whether the instance that made ``lock_path`` has ended: the file is there and nobody holds its lock."""
    lock = take_lock(lock_path)
    if lock is None:
        return False
    lock.close()
    return True


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in ``folder``; none if it is not there."""
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file of bounded size; None when there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
        value = json.loads(data) if len(data) <= FILE_LIMIT else None
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
