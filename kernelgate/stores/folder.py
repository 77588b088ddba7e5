"""The state folder: used by one process at a time."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from kernelgate.errors import StoreError
from kernelgate.stores.database import disk_error

LOCK = "lock"


class StateFolder:
    """A folder that only its user may look into. The lock on it ends with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def open(self) -> None:
        """Make the folder and take it. Blocks. Raises `StoreError`, which names the process that has it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error(error, self.path) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except BlockingIOError as error:
            owner = os.pread(lock, 200, 0).decode(errors="replace") or "another process"
            os.close(lock)
            raise StoreError(
                f"the state folder {self.path} is in use by {owner}: stop that server, set STATE_DIR to another "
                "folder, or let the servers share a Redis (REDIS_HOST)"
            ) from error
        except OSError as error:
            os.close(lock)
            raise disk_error(error, self.path) from error
        self._lock = lock

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def default_state_dir() -> Path:
    """Return the state folder of this process's user."""
    if os.getuid() == 0:
        return Path("/var/lib/kernelgate")
    data_home = os.environ.get("XDG_DATA_HOME", "")
    base = Path(data_home) if os.path.isabs(data_home) else Path.home() / ".local" / "share"
    return base / "kernelgate"
