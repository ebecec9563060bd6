"""ZIP archives: their members one by one, within bounds, into files that have no name.

What an archive may cost is bounded before it is paid: members, length of its directory, bytes in all, and how much more
comes out than goes in. A member gives no more than the directory says, and is read from no more than that, so time is
bounded with it. Raises `ArchiveError` with a sentence for a technician.

Only what is stored or deflated is opened, as modalities and systems pack it: an LZMA member may ask for a dictionary of
4 GiB before its first byte, and some KB of bzip2 become gigabytes in one step of its decoder.
"""

import contextlib
import errno
import io
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from edge.intake.tree import FIRST, Readable
from edge.phrase import N_, say

MOST_DIRECTORY: Final = 16 << 20
"""Bytes of an archive's directory."""
MOST_MEMBERS: Final = 50_000
MOST_TOTAL: Final = 256 << 30
"""Bytes of all members."""
MOST_RATIO: Final = 200
"""Times more bytes out than in, where more than `ALWAYS` come out."""
ALWAYS: Final = 1 << 30
_IN_MEMORY: Final = 8 << 20
_END: Final = b"PK\5\6"
_END_SIZE: Final = 22
_LONGEST_END: Final = _END_SIZE + 0xFFFF
_END_64, _END_64_SIZE = b"PK\6\6", 56
_LOCATOR, _LOCATOR_SIZE = b"PK\6\7", 20
_MEMBER: Final = b"PK\1\2"
_PIECE: Final = 1 << 20
_ENCRYPTED: Final = 1
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED: Final = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    ArithmeticError,
    LookupError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What zipfile raises where bytes are not what they should be."""


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
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        if at < 0:
            raise io.UnsupportedOperation("a place before the beginning")  # to zipfile an OSError, to us damage
        self._at = at
        return at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._source.size - self._at)
        if not left:
            return b""  # its place may be more than a system call takes
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
        """Long members are unpacked into ``folder``; ``room`` says whether so many bytes may be written there.

        Raises `ArchiveError`, OSError.
        """
        _bound_directory(source)
        try:
            self._zip = zipfile.ZipFile(_Stream(source))
        except _DAMAGED as e:
            raise ArchiveError(say("the archive cannot be read: {error}", error=str(e) or type(e).__name__)) from e
        # not is_dir(), which fails for a name of no length
        self.members: list[zipfile.ZipInfo] = [i for i in self._zip.infolist() if not i.filename.endswith("/")]
        self._folder = folder
        self._room = room
        _bound_sizes(self.members, source.size)

    def begin(self, info: zipfile.ZipInfo) -> Member:
        """Unpack the beginning of one member, up to `FIRST` bytes. Raises `ArchiveError`, OSError."""
        _openable(info)
        try:
            with self._zip.open(info) as packed:
                head = packed.read(FIRST)
        except _DAMAGED as e:
            raise ArchiveError(_damaged(e)) from e
        return Member(io.BytesIO(head), len(head))

    def unpack(self, info: zipfile.ZipInfo) -> Member:
        """Unpack one member. Raises `ArchiveError`, OSError."""
        _openable(info)
        if info.file_size > _IN_MEMORY and not self._room(info.file_size):
            raise NoRoomToUnpackError(N_("there is no room to unpack it"))
        file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(self._folder))  # noqa: SIM115 - the member's
        try:
            with self._zip.open(info) as packed:
                # at most what the directory says comes out, and its checksum is checked at the end
                while chunk := packed.read(FIRST):
                    file.write(chunk)
            if file.tell() != info.file_size:
                raise ArchiveError(N_("it cannot be unpacked: it is shorter than the archive says"))
            return Member(file, info.file_size)
        except _DAMAGED as e:
            _throw_away(file)
            raise ArchiveError(_damaged(e)) from e
        except OSError as e:
            _throw_away(file)
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomToUnpackError(N_("there is no room to unpack it")) from e
            raise
        except BaseException:
            _throw_away(file)
            raise

    def close(self) -> None:
        """Forget its directory."""
        self._zip.close()


def _bound_directory(source: Readable) -> None:
    """Look at the end record (PKWARE APPNOTE 4.3.16) before anything is read into memory."""
    tail = source.read(max(0, source.size - _LONGEST_END), _LONGEST_END)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise UnfinishedArchiveError(N_("the archive has no end"))
    end, length = source.size - len(tail) + at, int.from_bytes(tail[at + 12 : at + 16], "little")
    if end >= _LOCATOR_SIZE and source.read(end - _LOCATOR_SIZE, len(_LOCATOR)) == _LOCATOR:
        end, length = _end_64(source, end - _LOCATOR_SIZE)
    if length > MOST_DIRECTORY:
        raise ArchiveError(
            say("its directory is longer than {most} MiB; unpack it, or split it", most=MOST_DIRECTORY >> 20)
        )
    if length > end:
        raise ArchiveError(N_("its directory is longer than the archive"))
    if _count(source, end - length, end) > MOST_MEMBERS:
        raise ArchiveError(say("it has more than {most} members; unpack it, or split it", most=MOST_MEMBERS))


def _end_64(source: Readable, locator: int) -> tuple[int, int]:
    """Where the directory ends and how long it is, by the ZIP64 end record (APPNOTE 4.3.14), which overrides the other.

    It must stand right before its ``locator`` and be what that points to, so that nobody can read another one.
    """
    at = locator - _END_64_SIZE
    record = source.read(at, _END_64_SIZE) if at >= 0 else b""
    pointed = int.from_bytes(source.read(locator + 8, 8), "little")
    if record[: len(_END_64)] != _END_64 or pointed != at:
        raise ArchiveError(N_("its ZIP64 end record is not where it should be"))
    return at, int.from_bytes(record[40:48], "little")


def _count(source: Readable, at: int, end: int) -> int:
    """Say how many members the directory has at the most; what the end record says is not believed."""
    count, rest = 0, b""
    while at < end and (piece := source.read(at, min(_PIECE, end - at))):
        count += (rest + piece).count(_MEMBER)
        rest = piece[1 - len(_MEMBER) :]
        at += len(piece)
    return count


def _openable(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise ArchiveError(N_("it is protected by a password"))
    if info.compress_type not in _METHODS:
        raise ArchiveError(
            say("it is packed by method {method}, and only Deflate is opened: unpack it", method=info.compress_type)
        )


def _damaged(error: Exception) -> str:
    return say("it cannot be unpacked: {error}", error=str(error) or type(error).__name__)


def _throw_away(file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # what it still held cannot be written, and need not be
        file.close()


def _bound_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    total, packed = sum(info.file_size for info in members), sum(info.compress_size for info in members)
    if total > MOST_TOTAL:
        raise ArchiveError(say("it holds more than {most} GiB; unpack it, or split it", most=MOST_TOTAL >> 30))
    if packed > size:
        raise ArchiveError(N_("its members overlap"))
    if total > ALWAYS and total > MOST_RATIO * packed:
        raise ArchiveError(say("more than {most} times its size would come out of it", most=MOST_RATIO))
