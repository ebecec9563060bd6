"""Syncing to stable storage: a path, or a small file that is replaced as a whole."""

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """Fsync a file or folder by its name, in the calling thread. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_synced(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Put ``data`` in the place of the file at ``path``, whole or not at all, whenever the power goes. Raises OSError.

    ``mode`` is that of a new file, less the umask.
    """
    temporary = path.with_name(f"{path.stem}.new")
    fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_path(path.parent)
