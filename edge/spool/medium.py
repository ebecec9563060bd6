"""What the file system under the spool promises: a sync is worth what it stands on."""

import os
from pathlib import Path
from typing import Final

from edge.phrase import say

_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_NO_JOURNAL: Final = frozenset({"vfat", "msdos", "exfat", "ext2"})
_FAR: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"})
_NO_FLUSH: Final = frozenset({"nobarrier", "barrier=0"})


def doubts(path: Path, mounts: Path = Path("/proc/self/mounts"), sysfs: Path = Path("/sys/fs/ext4")) -> list[str]:
    """Say why what is synced below ``path`` may not be there after a power cut; nothing where no reason is known."""
    try:
        table = mounts.read_text("utf-8", "replace")
    except OSError:
        return []
    device, kind, options = _mount(path, table)
    found = []
    if kind in _IN_MEMORY:
        found.append(say("{path} is in memory ({kind}): it is empty after a power cut", path=path, kind=kind))
    if kind in _NO_JOURNAL or (kind == "ext4" and not _journalled(device, sysfs)):
        found.append(
            say(
                "{path} is on {kind} without a journal: a power cut may damage the file system itself",
                path=path,
                kind=kind,
            )
        )
    if kind in _FAR:
        found.append(
            say("{path} is on another machine ({kind}): what is synced is as safe as it is there", path=path, kind=kind)
        )
    if options & _NO_FLUSH:
        found.append(
            say(
                "{path} is mounted with {options}: the disk is not told to flush",
                path=path,
                options=", ".join(sorted(options & _NO_FLUSH)),
            )
        )
    return found


def _mount(path: Path, table: str) -> tuple[str, str, set[str]]:
    """Device, type and options of the file system that ``path``, or the nearest folder there is, lies on."""
    there = Path(os.path.realpath(path))
    best: tuple[int, tuple[str, str, set[str]]] = (-1, ("", "", set()))
    for line in table.splitlines():
        device, point, kind, options, *_ = [*line.split(" "), "", "", ""]
        at = Path(point.replace("\\040", " "))
        if there.is_relative_to(at) and len(at.parts) >= best[0]:
            best = (len(at.parts), (device, kind, set(options.split(","))))
    return best[1]


def _journalled(device: str, sysfs: Path) -> bool:
    """Whether an ext4 has a journal; taken for granted where the kernel does not say."""
    try:
        return (sysfs / Path(os.path.realpath(device)).name / "journal_task").read_text("ascii").strip() != "<none>"
    except OSError:
        return True
