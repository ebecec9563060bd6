"""Small file systems in files, to be cut off, filled and broken; and a workshop that leaves none of them behind.

Everything a rig makes lies in one folder whose `owner` file it keeps locked. Whoever makes the next workshop beside it
clears away what a killed rig left: its processes, its mounts, its loop devices, its folder.
"""

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from scripts.rigs.preflight import tool
from scripts.rigs.report import say
from tests.peers.ports import wait_for

_PREFIX: Final = "edge-rig-"
_OWNER: Final = "owner"
_SHUTDOWN: Final = 0x8004587D
"""EXT4_IOC_SHUTDOWN. With 2, EXT4_GOING_FLAGS_NOLOGFLUSH, nothing is written any more, as if the power went."""
_NO_FLUSH: Final = 2
_UNMOUNT: Final = 10.0


class CommandFailedError(Exception):
    """A system's command failed; the text is what it said."""


def command(name: str, *arguments: str) -> str:
    """Run one of the system's commands; its output. Raises `CommandFailedError`."""
    done = subprocess.run([tool(name), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandFailedError(f"{name} {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class Volume:
    """An ext4 file system in a file, on a loop device, mounted at ``point``."""

    def __init__(self, image: Path, point: Path, megabytes: int, options: Sequence[str] = ()) -> None:
        self.image, self.point = image, point
        self._device = ""
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        command("mkfs.ext4", "-q", "-F", *options, str(image))

    def __enter__(self) -> Self:
        """Attach and mount it."""
        self._device = command("losetup", "--find", "--show", str(self.image)).strip()
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Unmount and forget it."""
        with suppress(CommandFailedError):
            self.unmount()
        if self._device:
            command("losetup", "--detach", self._device)
            self._device = ""
        self.image.unlink(missing_ok=True)

    @property
    def name(self) -> str:
        """The device's short name, as in /sys/fs/ext4."""
        return Path(self._device).name

    def mount(self) -> None:
        """Mount it; the journal is replayed where the last end was a cut."""
        self.point.mkdir(parents=True, exist_ok=True)
        command("mount", "-t", "ext4", self._device, str(self.point))

    def unmount(self) -> None:
        """Unmount it. No process may use it any more."""
        if os.path.ismount(self.point):
            command("umount", str(self.point))

    def cut(self) -> None:
        """Take the power away: what was not synced is gone, whatever comes now fails."""
        fd = os.open(self.point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(fd)

    def check(self) -> None:
        """Ask e2fsck whether the file system itself is sound, after the journal was replayed. It must be unmounted."""
        command("e2fsck", "-f", "-n", self._device)

    def repair(self) -> None:
        """Let e2fsck put right what it finds. It must be unmounted."""
        # 1: something was put right
        subprocess.run([tool("e2fsck"), "-f", "-y", self._device], capture_output=True, check=False)

    def fail(self) -> None:
        """Make the kernel find an error in it, upon which it turns read-only."""
        Path("/sys/fs/ext4", self.name, "trigger_fs_error").write_text("rig\n")


class Workshop:
    """A folder that is gone afterwards, whatever happens."""

    def __init__(self, below: Path | None = None) -> None:
        self._below = below or Path(tempfile.gettempdir())
        self._lock = -1
        self.folder = self._below

    def __enter__(self) -> Path:
        """Clear away what was left by others that were killed, and make a folder."""
        for folder in self._below.glob(f"{_PREFIX}*"):
            if _abandoned(folder):
                say(f"clearing away what an earlier rig left in {folder}")
                clear(folder)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._below)).resolve()
        self._lock = os.open(self.folder / _OWNER, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self.folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Clear it away."""
        clear(self.folder)
        os.close(self._lock)


def clear(folder: Path) -> None:
    """End what runs with ``folder`` in its arguments, unmount what is mounted below it, delete it."""
    for pid in _running(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(TimeoutError):
        wait_for(lambda: not _running(folder), _UNMOUNT, "what ran on it ends")
    for point in sorted(_mounts(folder), reverse=True):
        try:
            command("umount", point)
        except CommandFailedError:
            command("umount", "--lazy", point)
    for device in _loops(folder):
        with suppress(CommandFailedError):
            command("losetup", "--detach", device)
    shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    """Whether nobody holds the folder's lock."""
    try:
        fd = os.open(folder / _OWNER, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False  # being made at this moment, or not ours
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _running(folder: Path) -> list[int]:
    """Processes that were started with a path below ``folder``, zombies and this one left out."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if any(argument.startswith(f"{folder}/".encode()) for argument in arguments):
                found.append(int(process.name))
    return found


def _mounts(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return [point for point in points if point.startswith(f"{folder}/")]


def _loops(folder: Path) -> list[str]:
    if shutil.which("losetup") is None:
        return []
    listed = command("losetup", "--json", "--list", "--output", "NAME,BACK-FILE")
    devices = json.loads(listed)["loopdevices"] if listed.strip() else []
    return [device["name"] for device in devices if str(device["back-file"]).startswith(f"{folder}/")]
