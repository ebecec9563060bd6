"""Syncing a path to stable storage."""

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """Fsync a file or folder by its name, in the calling thread. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
