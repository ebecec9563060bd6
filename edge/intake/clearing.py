"""What becomes of a file that was taken: moved or deleted; never another one, and never onto another one.

A name may mean another file the moment after it was looked at. So a file gets a hidden name first, is looked at under
that, and goes on from there, or back where it is not the one that was taken. What a kill leaves under a hidden name is
put back by the next pass, and read again: what was in it is known. Errors are OSError.
"""

import contextlib
import ctypes
import errno
import functools
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from edge.intake.tree import ChangedError, Entry, entry_of, parent

_HIDDEN: Final = re.compile(r"\.edge[0-9]*~(.+)", re.DOTALL)
_LONGEST: Final = 255
"""Bytes of a name."""
_ENDING: Final = 16
"""Bytes of what counts as a name's ending."""
_TRIES: Final = 100
_NOREPLACE: Final = 1
_UNABLE: Final = frozenset(
    (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV)
)
"""What a file system says that does not know the call."""

_Move = Callable[[int, str, int, str], None]


def delete(root: Path, entry: Entry) -> None:
    """Delete a file that is still what it was; one that is gone is fine. Raises OSError, `ChangedError`."""
    with (
        contextlib.suppress(FileNotFoundError),
        parent(root, entry.path) as (folder, name),
        _claimed(root, folder, name, entry) as mine,
    ):
        os.unlink(mine, dir_fd=folder)


def move(root: Path, entry: Entry, into: str) -> None:
    """Move a file that is still what it was below the folder ``into`` of ``root``; its folders are made.

    Where a file of that name lies there, a number is appended. Raises OSError, `ChangedError`.
    """
    with contextlib.suppress(FileNotFoundError), parent(root, entry.path) as (folder, name):
        _check(name, folder, entry)
        with parent(root, f"{into}/{entry.path}", make=True) as (target, _):
            _check_target(folder, target)
            with _claimed(root, folder, name, entry) as mine:
                _move(root, folder, mine, target, lambda number: _fit("", name, f".{number}" if number else ""))


def hidden(entry: Entry) -> bool:
    """Whether it has a name that is given here to a file on its way."""
    return not entry.odd and _HIDDEN.fullmatch(entry.path.rpartition("/")[2]) is not None


def put_back(root: Path, entry: Entry) -> bool:
    """Give a file that was left under a hidden name its own; False where another file has it. Raises OSError."""
    with parent(root, entry.path) as (folder, name):
        found = _HIDDEN.fullmatch(name)
        if found is None:
            return False
        try:
            _rename(root, folder, name, folder, found[1])
        except FileExistsError:
            return False
    return True


@contextlib.contextmanager
def _claimed(root: Path, folder: int, name: str, entry: Entry) -> Iterator[str]:
    """Give a file a hidden name while the body runs; it gets its own back where that fails."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        was = os.fstat(fd)
        if entry_of(entry.path, was) != entry:
            raise ChangedError
        mine = _move(root, folder, name, folder, lambda number: _fit(f".edge{number or ''}~", name, ""))
        try:
            if _same(os.stat(mine, dir_fd=folder, follow_symlinks=False)) != _same(was):
                raise ChangedError
            yield mine
        except BaseException:
            with contextlib.suppress(OSError):  # it is found under the hidden name
                _rename(root, folder, mine, folder, name)
            raise
    finally:
        os.close(fd)


def _same(found: os.stat_result) -> tuple[int, int, int, int]:
    """Say what of a file a new name does not change."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check(name: str, folder: int, entry: Entry) -> None:
    if entry_of(entry.path, os.stat(name, dir_fd=folder, follow_symlinks=False)) != entry:
        raise ChangedError


def _check_target(folder: int, target: int) -> None:
    """Find out what would fail before anything is renamed: a new name is a new time of change. Raises OSError."""
    if os.fstat(folder).st_dev != os.fstat(target).st_dev:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=target, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _move(root: Path, folder: int, name: str, target: int, called: Callable[[int], str]) -> str:
    """Rename to the first of the names ``called`` that seems free; the name. Raises OSError."""
    for _ in range(_TRIES):
        free = called(_free(target, called))
        with contextlib.suppress(FileExistsError):
            _rename(root, folder, name, target, free)
            return free
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _free(folder: int, called: Callable[[int], str]) -> int:
    """Find a free number without a look at each that is not: they were given one after the other."""

    def there(number: int) -> bool:
        try:
            os.stat(called(number), dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    if not there(0):
        return 0
    taken, free = 0, 1
    while there(free):
        taken, free = free, 2 * free
    while free - taken > 1:
        middle = (taken + free) // 2
        taken, free = (middle, free) if there(middle) else (taken, middle)
    return free


def _fit(before: str, name: str, after: str) -> str:
    """Put a name together, shortened at its stem where it would be too long."""
    stem, dot, ending = name.rpartition(".")
    if not stem or len(os.fsencode(ending)) > _ENDING:
        stem, dot, ending = name, "", ""
    while len(os.fsencode(f"{before}{stem}{dot}{ending}{after}")) > _LONGEST:
        stem = stem[:-1]
    return f"{before}{stem}{dot}{ending}{after}"


def _rename(root: Path, folder: int, name: str, target: int, new: str) -> None:
    """Rename, but not onto another file. Raises OSError; FileExistsError where one has that name."""
    for way in (_rename_new, _link):
        try:
            way(folder, name, target, new)
        except OSError as e:
            if e.errno not in _UNABLE:
                raise
        else:
            return
    with _lock(root):
        try:
            os.stat(new, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, new, src_dir_fd=folder, dst_dir_fd=target)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _rename_new(folder: int, name: str, target: int, new: str) -> None:
    call = _renameat2()
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(folder, os.fsencode(name), target, os.fsencode(new), _NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _link(folder: int, name: str, target: int, new: str) -> None:
    if _HIDDEN.fullmatch(name) is None:  # between the two steps, another file may get any name but one of ours
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    os.link(name, new, src_dir_fd=folder, dst_dir_fd=target, follow_symlinks=False)
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        os.unlink(new, dir_fd=target)
        raise


@functools.cache
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    """Find the call of the C library; None where it has none."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        call.restype = ctypes.c_int
    return call


@functools.cache
def _lock(root: Path) -> threading.Lock:
    """Give the lock of one watch: another's share may hang."""
    del root
    return threading.Lock()
