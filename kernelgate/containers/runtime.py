"""The runtime folder: the kernels' sockets, and the proof that the server they belong to is alive.

<runtime_dir>/<instance>/lock                  locked for as long as the instance lives
<runtime_dir>/<instance>/<kernel>/sockets/     mounted into that kernel's container, nothing else is
<runtime_dir>/<instance>/<kernel>/connection.json
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import IO, Any

from traitlets import Unicode
from traitlets.config import SingletonConfigurable

SOCKET_PATH_LIMIT = 107
"""Bytes that the path of a UNIX socket may have (``sun_path`` less its end)."""

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
    def is_open(self) -> bool:
        return self._lock is not None

    def open(self) -> None:
        """Make the instance's folder and lock it. Called again, it does nothing."""
        if self._lock is not None:
            return
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700)
        fresh = f"{self.lock_path}.new"
        self._lock = open(fresh, "w")  # noqa: SIM115  held for as long as the process lives
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(fresh, self.lock_path)  # nobody ever sees it without its lock

    def close(self) -> None:
        """Remove the instance's folder with all that is in it."""
        if self._lock is None:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()
        self._lock = None

    def kernel_folder(self, kernel_id: str) -> KernelFolder:
        """Return the folder of one kernel, not made yet."""
        return KernelFolder(self.path / kernel_id.replace("-", "")[:12])

    def owner_is_dead(self, lock_path: str) -> bool:
        """Tell whether the instance of ``lock_path`` has ended. What is not ours to see counts as alive."""
        if is_dead(lock_path):
            return True
        return not os.path.exists(lock_path) and Path(lock_path).parent.parent == self.root

    def sweep(self) -> None:
        """Remove the folders of instances that are dead."""
        for folder in self.root.iterdir():
            if folder.is_dir() and is_dead(str(folder / LOCK)):
                shutil.rmtree(folder, ignore_errors=True)


class KernelFolder:
    """The files that one kernel shares with the gateway."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sockets = path / "sockets"
        self.connection_file = path / "connection.json"
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
        for name in os.listdir(self.sockets):
            if not stat.S_ISSOCK(os.lstat(self.sockets / name).st_mode):
                raise OSError(f"the kernel's socket folder holds {name!r}, which is no socket")

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def default_runtime_dir() -> str:
    """Return the runtime folder of this process's user."""
    if os.getuid() == 0:
        return "/run/kernelgate"
    name = f"kernelgate-{os.getuid()}"
    folder = os.path.join(os.environ.get("XDG_RUNTIME_DIR", "/tmp"), name)
    return folder if len(os.fsencode(folder)) <= SocketFolderPath.longest else os.path.join("/tmp", name)


def is_dead(lock_path: str) -> bool:
    """Tell whether the instance that made ``lock_path`` has ended: the file is there and nobody holds its lock."""
    try:
        with open(lock_path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
