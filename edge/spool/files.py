"""Where the files lie and how they move: create, publish, set aside, scan.

Renames within one file system are atomic, so a name in ``ready/`` always stands for a whole object.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from edge.fsync import sync_path
from edge.phrase import N_
from edge.spool.ledger import Free, Reservation
from edge.spool.part import Part
from edge.spool.sync import Syncer

_SHARD_BITS: Final = 12
_SHARDS: Final = 256
_PROBE: Final = 64 << 10


class StorageError(Exception):
    """The storage path cannot be used; the text says why and what to do."""


class Spool:
    """The files below ``root``."""

    def __init__(self, root: Path, syncer: Syncer) -> None:
        self.root = root
        self.incoming = root / "spool" / "incoming"
        self.ready = root / "spool" / "ready"
        self.quarantine = root / "quarantine"
        self._incoming = str(self.incoming)
        self._ready = str(self.ready)
        self._syncer = syncer
        self._incoming_fd = -1

    def open(self) -> None:
        """Make the folders (0700). Raises `StorageError`."""
        try:
            for folder in (self.root, self.incoming, self.ready, self.quarantine):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for shard in range(_SHARDS):
                (self.ready / f"{shard:02x}").mkdir(mode=0o700, exist_ok=True)
            probe = self.incoming / ".probe"
            probe.touch()
            probe.unlink()
            for folder in (self.ready, self.incoming, self.incoming.parent, self.root):
                sync_path(folder)
            self._incoming_fd = os.open(self.incoming, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            raise StorageError(storage_trouble(self.root, e)) from e

    def close(self) -> None:
        """Let go of the folders."""
        if self._incoming_fd >= 0:
            os.close(self._incoming_fd)
            self._incoming_fd = -1

    def create(self, number: int, head: int, most: int, room: Reservation) -> Part:
        """Begin the object ``number``: a head of ``head`` bytes, then at most ``most`` bytes. Raises OSError."""
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        fd = os.open(f"{self._incoming}/{number}.part", flags, 0o600)
        return Part(fd, number, head, self._syncer, self._incoming_fd, most, room)

    def discard(self, number: int) -> None:
        """Unlink a part that was never answered, or is a spare."""
        self._part(number).unlink(missing_ok=True)

    def publish(self, number: int) -> None:
        """Rename a sealed part to its place in ``ready/``; done already is fine. Raises OSError."""
        try:
            os.rename(  # noqa: PTH104 - twice for every object; a Path costs more than the call
                f"{self._incoming}/{number}.part",
                f"{self._ready}/{(number >> _SHARD_BITS) % _SHARDS:02x}/{number}.dcm",
            )
        except FileNotFoundError:
            if not self.path(number).exists():
                raise

    def unpublish(self, number: int) -> None:
        """Unlink a published file; done already is fine."""
        self.path(number).unlink(missing_ok=True)

    def set_aside(self, number: int, why: bytes) -> None:
        """Move a part, or a published file, into ``quarantine/`` with ``why`` (JSON) beside it. Raises OSError."""
        (self.quarantine / f"{number}.json").write_bytes(why)
        part = self._part(number)
        (part if part.exists() else self.path(number)).rename(self.quarantine / f"{number}.dcm")

    async def put_aside(self, number: int, why: bytes) -> None:
        """Do as `set_aside` does, in a thread. Raises OSError."""
        await self._syncer.run(lambda: self.set_aside(number, why))

    def drop_refused(self, most: int) -> int:
        """Delete the oldest in ``quarantine/`` whose senders know that they were refused; how many. Raises OSError."""
        found = 0
        for note in sorted(self.quarantine.glob("*.json"), key=lambda path: (len(path.name), path.name)):
            if found == most:
                break
            if b'"answered"' in note.read_bytes():
                note.with_suffix(".dcm").unlink(missing_ok=True)
                note.unlink()
                found += 1
        return found

    def path(self, number: int) -> Path:
        """Where the published object ``number`` lies."""
        return self.ready / f"{(number >> _SHARD_BITS) % _SHARDS:02x}" / f"{number}.dcm"

    def waiting(self) -> list[int]:
        """Ids of every part in ``incoming/``, oldest first."""
        return sorted(int(p.stem) for p in self.incoming.glob("*.part") if p.stem.isdecimal())

    def part_path(self, number: int) -> Path:
        """Where the part ``number`` lies."""
        return self._part(number)

    def published(self) -> Iterator[int]:
        """Ids of every file in ``ready/``, shard by shard. Raises OSError once all that can be read were given."""
        trouble: OSError | None = None
        for shard in range(_SHARDS):
            try:
                entries = os.scandir(self.ready / f"{shard:02x}")
            except OSError as e:
                trouble = e
                continue
            with entries:
                for entry in entries:
                    stem, _, suffix = entry.name.partition(".")
                    if suffix == "dcm" and stem.isdecimal():
                        yield int(stem)
        if trouble is not None:
            raise trouble

    def highest(self) -> int:
        """The highest id of any file, 0 for none: for an identity that was lost."""
        aside = (int(p.stem) for p in self.quarantine.glob("*.dcm") if p.stem.isdecimal())
        return max([*self.published(), *self.waiting(), *aside], default=0)

    def free_bytes(self) -> int:
        """Bytes free to us. Raises OSError."""
        return self.free().bytes

    def free(self) -> Free:
        """Bytes and files that are free to us. Raises OSError."""
        at = os.statvfs(self._incoming)
        # file systems that make inodes as they need them count none
        return Free(at.f_bavail * at.f_frsize, at.f_favail if at.f_files else 1 << 32)

    def delete(self, ids: Sequence[int]) -> None:
        """Unlink published files and sync their folders; one that is gone already is fine. Raises OSError."""
        paths = [self.path(number) for number in ids]
        for path in paths:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in paths}:
            sync_path(folder)

    def probe(self) -> None:
        """Write, sync and read back a little, as an object would be. Raises OSError."""
        path, data = self.incoming / ".probe", os.urandom(_PROBE)
        try:
            fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(fd, data, 0)
                os.fsync(fd)
            finally:
                os.close(fd)
            sync_path(self.incoming)
            if path.read_bytes() != data:
                raise OSError(errno.EIO, N_("what was written reads back differently"))
        finally:
            path.unlink(missing_ok=True)

    def reopen(self) -> None:
        """Open the folder of parts anew, after a sync of it failed. Raises OSError."""
        fd = os.open(self.incoming, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.dup2(fd, self._incoming_fd, inheritable=False)  # parts that are being written know the number
        finally:
            os.close(fd)

    def total_bytes(self) -> int:
        """Bytes of the whole file system."""
        at = os.statvfs(self.incoming)
        return at.f_blocks * at.f_frsize

    def _part(self, number: int) -> Path:
        return self.incoming / f"{number}.part"


def storage_trouble(path: Path, error: OSError) -> str:
    """Say in a sentence why ``path`` cannot be used and what to do."""
    advice = {
        errno.EACCES: "give this user the right to write there, or set storage.path elsewhere",
        errno.EPERM: "give this user the right to write there, or set storage.path elsewhere",
        errno.EROFS: "the file system is read-only: check the card, then mount it read-write",
        errno.ENOSPC: "the disk is full: make room, or set storage.path to a larger disk",
        errno.ENOTDIR: "a part of the path is a file: set storage.path to a folder",
        errno.EEXIST: "a part of the path is a file: set storage.path to a folder",
    }.get(error.errno or 0, "check the disk and storage.path")
    return f"The storage path {path} cannot be used: {error.strerror or error}; {advice}."
