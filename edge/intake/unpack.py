"""ZIP archives: their members one by one, within bounds, into files that have no name.

What an archive may cost is bounded before it is paid: members, length of its directory, bytes in all, and how much more
comes out than goes in. Raises `ArchiveError` with a sentence for a technician.
"""

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from edge.intake.tree import FIRST, Readable

MOST_DIRECTORY: Final = 16 << 20
"""Bytes of an archive's directory."""
MOST_TOTAL: Final = 256 << 30
"""Bytes of all members."""
MOST_RATIO: Final = 200
"""Times more bytes out than in, where more than `ALWAYS` come out."""
ALWAYS: Final = 1 << 30
_IN_MEMORY: Final = 8 << 20
_END: Final = b"PK\5\6"
_END_SIZE: Final = 22
_LONGEST_END: Final = _END_SIZE + 0xFFFF
_ENCRYPTED: Final = 1


class ArchiveError(Exception):
    """The archive, or a member, cannot be taken."""


class UnfinishedArchiveError(ArchiveError):
    """The archive has no end: it may still be written."""


class NoRoomToUnpackError(ArchiveError):
    """There is no room for a member at this moment."""


class _Stream:
    """A file object over `Readable`, for zipfile."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._at = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._source.size - self._at)
        data = self._source.read(self._at, left if count < 0 else min(count, left))
        self._at += len(data)
        return data


class Member:
    """An unpacked member, readable like a file that nobody else has."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.size = size
        self._file = file
        self.first = self.read(0, min(FIRST, size))

    def read(self, offset: int, count: int, /) -> bytes:
        """Give up to ``count`` bytes from ``offset``. Raises OSError."""
        self._file.seek(offset)
        return self._file.read(count)

    def check(self) -> None:
        """Nobody else can change it."""

    def close(self) -> None:
        """Throw it away."""
        self._file.close()


class Archive:
    """An open archive."""

    def __init__(self, source: Readable, folder: Path, room: Callable[[int], bool]) -> None:
        """Long members are unpacked into ``folder``; ``room`` says whether so many bytes may be written there."""
        _bound_directory(source)
        try:
            self._zip = zipfile.ZipFile(_Stream(source))
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as e:
            raise ArchiveError(f"the archive cannot be read: {e}") from e
        self.members: list[zipfile.ZipInfo] = [info for info in self._zip.infolist() if not info.is_dir()]
        self._folder = folder
        self._room = room
        _bound_sizes(self.members)

    def unpack(self, info: zipfile.ZipInfo) -> Member:
        """Unpack one member. Raises `ArchiveError`, OSError."""
        if info.flag_bits & _ENCRYPTED:
            raise ArchiveError("it is protected by a password")
        if info.file_size > _IN_MEMORY and not self._room(info.file_size):
            raise NoRoomToUnpackError("there is no room to unpack it")
        file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(self._folder))  # noqa: SIM115 - the member's
        try:
            with self._zip.open(info) as packed:
                # at most what the directory says comes out, and its checksum is checked at the end
                while chunk := packed.read(FIRST):
                    file.write(chunk)
            return Member(file, info.file_size)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError, ValueError) as e:
            file.close()
            raise ArchiveError(f"it cannot be unpacked: {e}") from e
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Forget its directory."""
        self._zip.close()


def _bound_directory(source: Readable) -> None:
    """Look at the end record (PKWARE APPNOTE 4.3.16) before anything is read into memory."""
    tail = source.read(max(0, source.size - _LONGEST_END), _LONGEST_END)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise UnfinishedArchiveError("the archive has no end")
    if int.from_bytes(tail[at + 12 : at + 16], "little") > MOST_DIRECTORY:
        raise ArchiveError(f"its directory is longer than {MOST_DIRECTORY >> 20} MiB; unpack it, or split it")


def _bound_sizes(members: list[zipfile.ZipInfo]) -> None:
    total, packed = sum(info.file_size for info in members), sum(info.compress_size for info in members)
    if total > MOST_TOTAL:
        raise ArchiveError(f"it holds more than {MOST_TOTAL >> 30} GiB; unpack it, or split it")
    if total > ALWAYS and total > MOST_RATIO * packed:
        raise ArchiveError(f"more than {MOST_RATIO} times its size would come out of it")
