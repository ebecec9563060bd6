"""What a rig needs of the machine, asked before anything is done, with a word on how to get it."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

_SYSTEM: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_PACKAGES: Final = {
    "strace": "strace",
    "losetup": "mount",
    "mount": "mount",
    "umount": "mount",
    "mkfs.ext4": "e2fsprogs",
    "e2fsck": "e2fsprogs",
}


class MissingError(Exception):
    """The machine lacks something; the text says what, and how to get it."""


class NoLoopDeviceError(MissingError):
    """The kernel of this machine gives no loop device; no package and no right can help."""


def root() -> None:
    """Ask for the rights to mount. Raises `MissingError`."""
    if os.geteuid() != 0:
        raise MissingError("it needs root, to mount file systems. Run it with sudo, or in a virtual machine.")


def tool(name: str) -> str:
    """Find a program; administrators' folders count even where PATH lacks them. Raises `MissingError`."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM]))
    if found is None:
        raise MissingError(f"{name} is not installed. On Debian: apt install {_PACKAGES.get(name, name)}")
    return found


def loop_devices() -> None:
    """Ask for root, the tools and a free loop device. Raises `MissingError`."""
    root()
    for name in ("losetup", "mount", "umount", "mkfs.ext4", "e2fsck"):
        tool(name)
    if not Path("/dev/loop-control").exists():
        raise NoLoopDeviceError(
            "there is no /dev/loop-control, so no file can be mounted. Load the module (modprobe loop); in a "
            "container, give it the device and the right to mount (--privileged)."
        )
    asked = subprocess.run([tool("losetup"), "--find"], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise NoLoopDeviceError(f"there is no free loop device: {asked.stderr.strip()}")


def tracer() -> str:
    """Find an strace that may trace here. Raises `MissingError`."""
    strace = tool("strace")
    tried = subprocess.run(
        [strace, "-f", "-qq", "-o", os.devnull, "-e", "trace=none", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        raise MissingError(
            f"strace may not trace here ({tried.stderr.strip()}). In a container, give it the right "
            "(--cap-add SYS_PTRACE)."
        )
    return strace
