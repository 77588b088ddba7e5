"""What of a session's work folder is kept."""

from __future__ import annotations

from traitlets import Int
from traitlets.config import LoggingConfigurable

from kernelgate.kernel.snapshot import FileLimits


class WorkFolder(LoggingConfigurable):
    """The limits of the files in ``/mnt/data`` that are saved with a session."""

    max_file_mb = Int(10, min=1, help="MB that one file of a session may have; larger ones are not saved.").tag(
        config=True, env="MAX_FILE_SIZE_MB", group="File limits"
    )
    max_total_mb = Int(50, min=1, help="MB that the files of a session may have together; more is not saved.").tag(
        config=True, env="MAX_TOTAL_FILE_SIZE_MB", group="File limits"
    )
    max_files = Int(50, min=0, help="Files that a session may have; more are not saved.").tag(
        config=True, env="MAX_FILES_PER_SESSION", group="File limits"
    )
    max_name = Int(255, min=1, max=255, help="Characters that the name of a file may have.").tag(
        config=True, env="MAX_FILENAME_LENGTH", group="File limits"
    )

    @property
    def limits(self) -> FileLimits:
        return FileLimits(self.max_file_mb << 20, self.max_total_mb << 20, self.max_files, self.max_name)
