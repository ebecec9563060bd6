"""A card that loses what was not flushed: every write of a run is on record, and the card after a cut is made of them.

QEMU's driver blklogwrites keeps the record, in the format of the kernel's dm-log-writes: a sector that describes the
log, then for each request a sector that describes it and the data. The run itself writes to an overlay that is thrown
away; `replay` brings the card to where a cut after any request may leave it:

- All that was written before the last flush that had ended before the cut is there, and so are writes with FUA.
- Of each later request all, nothing, its beginning, or sectors here and there are there; a sector is old or new.

What is not simulated: a sector that is half written or garbled, a card that loses what it had said was flushed, one
that harms data beside what it writes (as worn flash does), and a write that the card had and QEMU had not yet noted. A
write that was noted while a flush went on counts as flushed; no guest may rely on that, and a card may lose it. The
driver notes a request after it was carried out and before the guest is told, so what a guest knows of is on record.

A log ends where QEMU was killed: at the first sector that describes nothing, which a request in the air may leave in
front of others. What is behind it is lost to the record, and counts as not having happened: compare `Entry.end`.
"""

import os
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

SECTOR: Final = 512
NODE: Final = "disk"
"""Name of the block device that `devices` describes, as a machine refers to it."""

_MAGIC: Final = 0x6A736677736872
_VERSION: Final = 1
_SUPER: Final = struct.Struct("<QQQI")
_ENTRY: Final = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8
_KNOWN: Final = _FLUSH | _FUA | _DISCARD | _MARK
_PIECE: Final = 4 << 20
_CLUSTER: Final = 1 << 16
_QCOW2: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_TABLE: Final = _CLUSTER // 8
"""Entries of a table of a qcow2 file that fills a cluster."""

Fate = Literal["all", "nothing", "beginning", "here and there"]


class LogError(Exception):
    """It is no log, or cannot be read."""


class Entry(msgspec.Struct, frozen=True):
    """One request: ``sectors`` of them from ``sector`` on the card."""

    sector: int
    sectors: int
    flags: int
    data: int
    """Where its data begin in the log, in bytes."""
    end: int
    """Where the log goes on after it, in bytes; whoever had seen a log at least as long had it behind them."""

    @property
    def flush(self) -> bool:
        """Whether all that was written before it is safe."""
        return bool(self.flags & _FLUSH)

    @property
    def fua(self) -> bool:
        """Whether its own data are safe."""
        return bool(self.flags & _FUA)

    @property
    def discard(self) -> bool:
        """Whether it gives sectors up, which read as zeros then."""
        return bool(self.flags & _DISCARD)

    @property
    def writes(self) -> bool:
        """Whether it changes the card."""
        return self.sectors > 0


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """How the card was left: requests that were safe, and those after the last flush by what became of them."""

    safe: int
    whole: int = 0
    torn: int = 0
    lost: int = 0


def devices(card: Path, folder: Path) -> list[str]:
    """Give ``-blockdev`` of QEMU for ``card``, which is only read: overlay and log are made in ``folder``.

    Neither syncs on the host, for it is QEMU that is killed and not the host.
    """
    over, record = overlay(folder), log(folder)
    write_overlay(over, card.stat().st_size)
    record.write_bytes(b"")
    return [
        f"driver=file,node-name=card,filename={card},read-only=on",
        f"driver=file,node-name=over-file,filename={over},cache.no-flush=on",
        "driver=qcow2,node-name=over,file=over-file,backing=card,cache.no-flush=on",
        f"driver=file,node-name=log,filename={record},cache.no-flush=on",
        # its own description is to be there from the first flush on
        f"driver=blklogwrites,node-name={NODE},file=over,log=log,log-sector-size={SECTOR},log-super-update-interval=1",
    ]


def log(folder: Path) -> Path:
    """The log in ``folder``."""
    return folder / "writes.log"


def overlay(folder: Path) -> Path:
    """The overlay in ``folder``."""
    return folder / "overlay.qcow2"


def forget(folder: Path) -> None:
    """Delete log and overlay."""
    log(folder).unlink(missing_ok=True)
    overlay(folder).unlink(missing_ok=True)


def write_overlay(path: Path, size: int) -> None:
    """Write an empty qcow2 file for a card of ``size`` bytes; what is under it is said where it is opened."""
    level1 = -(-size // (_CLUSTER * _TABLE))
    if level1 > _TABLE:
        raise ValueError(f"{size} bytes: more than one cluster of its table describes")
    # clusters: header, table of reference counts, the counts, first table of the mapping
    header = _QCOW2.pack(b"QFI\xfb", 2, 0, 0, 16, size, 0, level1, 3 * _CLUSTER, _CLUSTER, 1, 0, 0)
    parts = (header, struct.pack(">Q", 2 * _CLUSTER), struct.pack(">4H", 1, 1, 1, 1), b"")
    path.write_bytes(b"".join(part.ljust(_CLUSTER, b"\0") for part in parts))


def entries(path: Path) -> Iterator[Entry]:
    """Read the requests in a log, up to where it ends. Raises `LogError`."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            step = _sector_size(file.read(_SUPER.size), path)
            at = step
            while (found := _entry(os.pread(file.fileno(), step, at), at, step, size)) is not None:
                yield found
                at = found.end
    except OSError as e:
        raise LogError(f"{path} cannot be read: {e.strerror}") from e


def _sector_size(head: bytes, path: Path) -> int:
    if len(head) < _SUPER.size:
        raise LogError(f"{path} is no log: {len(head)} bytes")
    magic, version, _, size = _SUPER.unpack(head)  # the count is of the last flush and not of the end
    if magic != _MAGIC or version != _VERSION:
        raise LogError(f"{path} is no log of version {_VERSION}: it begins with {head[:16].hex()}")
    if size != SECTOR:
        raise LogError(f"{path} has sectors of {size} bytes, not {SECTOR}")
    return int(size)


def _entry(head: bytes, at: int, step: int, size: int) -> Entry | None:
    if len(head) < step:
        return None
    sector, sectors, flags, length = _ENTRY.unpack_from(head)
    if flags & ~_KNOWN or not (sectors or flags):
        return None
    within = length if flags & _MARK else 0
    carried = 0 if flags & _DISCARD else sectors * step
    # the rest of a sector that describes a request is empty, but for the name of a mark
    if within > step - _ENTRY.size or any(head[_ENTRY.size + within :]) or at + step + carried > size:
        return None
    return Entry(sector, sectors, flags, at + step, at + step + carried)


def safe(found: Sequence[Entry], cut: int) -> int:
    """How many of the requests before ``cut`` a flush before ``cut`` made safe, counted from the first."""
    return next((index for index in range(cut - 1, -1, -1) if found[index].flush), 0)


def replay(
    path: Path, card: Path, found: Sequence[Entry], cut: int, dice: random.Random, *, likely: float, heed: bool = True
) -> Cut:
    """Bring ``card``, as it was before the run, to after a cut behind the first ``cut`` requests of the log.

    ``likely``: how probable it is that a request that was not flushed is there whole, 0 to 1. ``heed``: without it
    flushes count for nothing, for whoever wants to see what that costs. Raises `LogError`.
    """
    bound = safe(found, cut) if heed else 0
    fates: list[Fate] = []
    try:
        with path.open("rb") as source, card.open("r+b") as target:
            for index, one in enumerate(found[:cut]):
                if not one.writes:
                    continue
                if index < bound or one.fua:
                    _apply(source.fileno(), target.fileno(), one, 0, one.sectors)
                else:
                    fates.append(_perhaps(source.fileno(), target.fileno(), one, dice, likely))
    except OSError as e:
        raise LogError(f"{path} could not be replayed to {card}: {e.strerror}") from e
    whole, lost = fates.count("all"), fates.count("nothing")
    return Cut(safe=bound, whole=whole, torn=len(fates) - whole - lost, lost=lost)


def _perhaps(source: int, target: int, one: Entry, dice: random.Random, likely: float) -> Fate:
    """Apply of a request what the dice leave."""
    if dice.random() < likely:
        _apply(source, target, one, 0, one.sectors)
        return "all"
    ways: list[Fate] = ["nothing", "beginning", "here and there"]
    fate = dice.choice(ways) if one.sectors > 1 else "nothing"
    if fate == "beginning":
        _apply(source, target, one, 0, dice.randrange(1, one.sectors))
    elif fate == "here and there":
        for start in sorted(dice.sample(range(one.sectors), dice.randrange(1, one.sectors))):
            _apply(source, target, one, start, 1)
    return fate


def _apply(source: int, target: int, one: Entry, start: int, count: int) -> None:
    """Write ``count`` sectors of a request from its ``start`` on."""
    at, end = start * SECTOR, (start + count) * SECTOR
    while at < end:
        length = min(_PIECE, end - at)
        data = bytes(length) if one.discard else os.pread(source, length, one.data + at)
        if os.pwrite(target, data, one.sector * SECTOR + at) != length:
            raise LogError(f"a request for sector {one.sector} is cut short")
        at += length
