"""Folders that others write to: walked and opened without ever following a link, a device or a pipe.

Every component of a path is opened on its own, below the folder before it, so that a link put in its place meanwhile
leads nowhere. Errors are OSError; what may not be read is an entry with the reason.
"""

import contextlib
import errno
import fcntl
import os
import signal
import stat
from collections.abc import Generator, Iterator
from pathlib import Path, PurePath
from typing import Final, Protocol

import msgspec

from edge.model import Origin
from edge.phrase import N_, say

MOST_DEEP: Final = 64
"""Folders inside one another."""
FIRST: Final = 1 << 20
"""Bytes of a file read at once, when it is opened."""

MOST_NUMBER: Final = (1 << 63) - 1
"""The largest integer that a row holds."""
_ROOT: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Entry(msgspec.Struct, frozen=True):
    """One thing in a folder: a file as it stood when it was seen, or something that is never read."""

    path: str
    """Relative to the folder that is walked."""
    inode: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    odd: str = ""
    """Why it is never read; empty for a file."""
    closed: bool = False
    """Whether it could not be looked into: there may be files below it."""

    def origin(self, place: str) -> Origin:
        """Say what makes it the same file again. A name that is no UTF-8 is written out byte by byte."""
        return Origin(
            place=place,
            path=plain(self.path),
            inode=signed(self.inode),
            size=self.size,
            mtime_ns=bounded(self.mtime_ns),
            ctime_ns=bounded(self.ctime_ns),
        )


def plain(path: str) -> str:
    """Write out byte by byte what of a path is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def signed(number: int) -> int:
    """Bring a number of 64 bits into the range of a row's: some file systems use all of them."""
    return number - (1 << 64) if number >> 63 else number


def bounded(number: int) -> int:
    """Bring a time into the range of a row's: what a file is dated beyond the year 2262 is all one."""
    return max(-MOST_NUMBER, min(number, MOST_NUMBER))


class ChangedError(Exception):
    """The file is not the one any more that was seen."""


class Readable(Protocol):
    """An open file whose bytes stand still."""

    size: int
    first: bytes
    """Its beginning, up to `FIRST` bytes."""

    def read(self, offset: int, count: int, /) -> bytes:
        """Give up to ``count`` bytes from ``offset``. Raises OSError."""

    def check(self) -> None:
        """Raise `ChangedError` where it is not what it was when it was opened."""

    def close(self) -> None:
        """Close it."""


class OpenFile:
    """A regular file of the tree."""

    def __init__(self, fd: int, entry: Entry) -> None:
        self.size = entry.size
        self.first = b""
        self._fd = fd
        self._entry = entry

    def load(self) -> None:
        """Read its beginning. Raises OSError."""
        self.first = os.pread(self._fd, min(FIRST, self.size), 0)

    def read(self, offset: int, count: int, /) -> bytes:
        """Give up to ``count`` bytes from ``offset``. Raises OSError."""
        if offset + count <= len(self.first):
            return self.first[offset : offset + count]
        return os.pread(self._fd, min(count, max(0, self.size - offset)), offset)

    def check(self) -> None:
        """Raise `ChangedError` where size, times or inode are not what they were."""
        if entry_of(self._entry.path, os.fstat(self._fd)) != self._entry:
            raise ChangedError

    def busy(self) -> str:
        """Say who still has it, as far as the system knows: a writer, or somebody who locked it."""
        for lock in (fcntl.flock, fcntl.lockf):
            try:
                lock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                lock(self._fd, fcntl.LOCK_UN)
            except BlockingIOError:
                return N_("it is locked by another program")
            except OSError:  # this file system knows no such lock
                pass
        try:
            # should somebody open it for writing just now, the kernel sends a signal: one that does nothing
            fcntl.fcntl(self._fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except BlockingIOError:
            return N_("another program has it open for writing")
        except OSError:  # not our file and no CAP_LEASE, or a file system without leases: size and time must do
            pass
        return ""

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


def walk(root: Path, skip: str = "") -> Generator[Entry]:
    """Give everything below ``root`` that is not a folder, and nothing of its folder ``skip``.

    Raises OSError where ``root`` itself cannot be read.
    """
    fd = os.open(root, _ROOT)
    try:
        yield from _below(fd, "", 0, skip)
    finally:
        os.close(fd)


def _below(folder: int, prefix: str, depth: int, skip: str = "") -> Iterator[Entry]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    if skip and _is(folder, entry, skip):
                        continue
                    if depth == MOST_DEEP:
                        yield Entry(path, odd=say("it lies more than {most} folders deep", most=MOST_DEEP), closed=True)
                        continue
                    inner = os.open(entry.name, _FOLDER, dir_fd=folder)
                    try:
                        yield from _below(inner, path + "/", depth + 1)
                    finally:
                        os.close(inner)
                else:
                    yield entry_of(path, os.stat(entry.name, dir_fd=folder, follow_symlinks=False))
            except FileNotFoundError:
                continue  # it went while we looked
            except OSError as e:
                yield Entry(path, odd=say("it cannot be looked at: {error}", error=e.strerror or e), closed=True)


def _is(folder: int, entry: "os.DirEntry[str]", name: str) -> bool:
    """Whether it is what ``name`` means here: some file systems do not tell capitals from small letters."""
    if entry.name.casefold() != name.casefold():
        return False
    with contextlib.suppress(FileNotFoundError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino == entry.stat(follow_symlinks=False).st_ino
    return False


def look(path: Path) -> Entry:
    """Give the entry of one file, named by itself. Raises OSError."""
    return entry_of(path.name, path.lstat())


def entry_of(path: str, found: os.stat_result) -> Entry:
    """Give the entry of what was found at ``path``."""
    if stat.S_ISREG(found.st_mode):
        return Entry(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    link = stat.S_ISLNK(found.st_mode)
    return Entry(path, odd=N_("it is a link, and links are not followed") if link else N_("it is no regular file"))


def open_file(root: Path, entry: Entry) -> OpenFile:
    """Open a file for reading. Raises OSError, `ChangedError`."""
    with parent(root, entry.path) as (folder, name):
        file = OpenFile(os.open(name, _FILE, dir_fd=folder), entry)
    try:
        file.check()
    except BaseException:
        file.close()
        raise
    return file


def device(root: Path) -> int:
    """Give the number of the file system in which ``root`` is. Raises OSError."""
    return root.stat().st_dev


def gone(root: Path, path: str) -> bool:
    """Whether nothing lies at ``path`` below ``root``; False where that cannot be told."""
    try:
        with parent(root, path) as (folder, name):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as e:
        return e.errno == errno.ENAMETOOLONG  # of one component: it never was a name here
    return False


@contextlib.contextmanager
def parent(root: Path, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """Open the folder in which ``path`` lies, component by component; with the last name."""
    *folders, name = PurePath(path).parts
    fd = os.open(root, _ROOT)
    try:
        for folder in folders:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=fd)
            inner = os.open(folder, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd, name
    finally:
        os.close(fd)
