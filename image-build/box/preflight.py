"""What the host must have to build and to start an image, and how to get it."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from box.rootfs import Arch
from box.toolbox import SUITE

_PROGRAMS: Final = {
    "mmdebstrap": "mmdebstrap",
    "bwrap": "bubblewrap",
    "dpkg-deb": "dpkg",
    "tar": "tar",
    "xz": "xz-utils",
    "git": "git",
}
_EMULATOR: Final = ("qemu-user-static", "binfmt-support", "arch-test")
_INSTALL: Final = "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends"
_ROOM: Final = 10 * 1024**3
_KEYS: Final = Path("/usr/share/keyrings")


class Missing(msgspec.Struct, frozen=True):
    """What is missing, and the command that gets it; empty where a person must decide."""

    what: str
    command: str = ""


def missing(arch: Arch, *, room: Path) -> list[Missing]:
    """What the host lacks; empty: everything is there."""
    return [*_packages(arch), *_emulation(arch), *_keys(), *_users(), *_space(room)]


def mend(found: Iterable[Missing]) -> None:
    """As root: do what can be done by the commands themselves."""
    for one in found:
        if one.command:
            subprocess.run(["sh", "-c", one.command], check=False, stdout=subprocess.DEVNULL)


def _packages(arch: Arch) -> list[Missing]:
    packages = [package for program, package in _PROGRAMS.items() if not shutil.which(program)]
    if arch == "arm64" and os.uname().machine != "aarch64" and not shutil.which("arch-test"):
        packages.extend(_EMULATOR)
    if not packages:
        return []
    listed = " ".join(packages)
    return [
        Missing(
            f"programs of the packages {listed}",
            f"{_INSTALL} {listed}",
        )
    ]


def _emulation(arch: Arch) -> list[Missing]:
    if arch == "amd64" or os.uname().machine == "aarch64" or not shutil.which("arch-test"):
        return []
    if subprocess.run(["arch-test", "arm64"], capture_output=True, check=False).returncode == 0:
        return []
    return [
        Missing(
            "emulation of 64-bit Arm (binfmt_misc), which nothing registers by itself",
            "mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc;"
            " update-binfmts --enable qemu-aarch64",
        )
    ]


def _keys() -> list[Missing]:
    if list(_KEYS.glob(f"debian-archive-{SUITE}-*")):
        return []
    return [
        Missing(
            f"Debian's keys for {SUITE}",
            f"{_INSTALL} debian-archive-keyring",
        )
    ]


def _users() -> list[Missing]:
    if os.geteuid() == 0 or shutil.which("newuidmap"):
        return []
    return [Missing("newuidmap, to build without being root", f"{_INSTALL} uidmap")]


def _space(room: Path) -> list[Missing]:
    free = shutil.disk_usage(room).free
    if free >= _ROOM:
        return []
    return [Missing(f"room: {free // 1024**3} GiB are free at {room}, and a build takes {_ROOM // 1024**3}")]


def can_mend() -> bool:
    """Whether this user may install what is missing: root, on a Debian."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None
