"""What the numbers were measured on, and with which programs."""

import contextlib
import os
import platform
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from scripts.benchmarks.plan import Peer

_TOOLS: Final = {Peer.DCMTK: ("dcmtk", "storescp"), Peer.ORTHANC: ("orthanc", "Orthanc")}
"""Debian package and program."""
_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
_VERSION: Final = re.compile(r"\d+(\.\d+)+")
IN_MEMORY: Final = ("tmpfs", "ramfs")
"""File systems on which a sync costs nothing."""


def missing(peer: Peer) -> str:
    """Name the package that `peer` needs and that is not installed; else empty."""
    package, program = _TOOLS.get(peer, ("", ""))
    return package if program and shutil.which(program, path=_PATH) is None else ""


def file_system(folder: Path) -> str:
    """Tell the type of the file system that holds `folder`."""
    resolved = folder.resolve()
    best, found = -1, "unknown"
    for partition in psutil.disk_partitions(all=True):
        mount = Path(partition.mountpoint)
        # of two mounts on one place the later one shows
        if resolved.is_relative_to(mount) and len(mount.parts) >= best:
            best, found = len(mount.parts), partition.fstype
    return found


def describe(folder: Path, peers: Sequence[Peer]) -> dict[str, str]:
    """Name the machine and the versions, as label and value."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": file_system(folder),
        "Python": f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        **{str(peer): _version(peer) for peer in peers},
    }


def _version(peer: Peer) -> str:
    match peer:
        case Peer.EDGE:
            return version("dicom-edge")
        case Peer.PYNETDICOM:
            return version("pynetdicom")
        case Peer.DCMTK | Peer.ORTHANC:
            _, program = _TOOLS[peer]
            path = shutil.which(program, path=_PATH) or program
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=30)
            found = _VERSION.search(done.stdout or done.stderr)
            return f"{_TOOLS[peer][0]} {found[0] if found else 'of unknown version'}"
        case _:
            return ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def even_start() -> None:
    """Let every run begin alike: nothing left to write, and as root nothing cached."""
    os.sync()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
