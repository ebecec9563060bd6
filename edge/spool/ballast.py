"""Ballast: a file that is thrown overboard on a full disk, so that tombstones can be written and files deleted."""

import os
from pathlib import Path
from typing import Final

LENGTH: Final = 4 << 20
"""Bytes: several times what deleting a batch writes to the database and its log."""


class Ballast:
    """The file ``ballast`` below ``root``."""

    def __init__(self, root: Path) -> None:
        self._path = root / "ballast"

    def drop(self) -> bool:
        """Give its room back to the disk; False where it was gone already."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def load(self) -> None:
        """Take the room again, where it is not taken. Raises OSError."""
        fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < LENGTH:
                os.posix_fallocate(fd, 0, LENGTH)
        except OSError:
            self.drop()
            raise
        finally:
            os.close(fd)
