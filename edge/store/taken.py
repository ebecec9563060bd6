"""Files that were taken: those of a watch by where they were read, those of an import by what was in them.

A row is written in the transaction that records the object, so a kill between that and the file's removal leaves the
answer here. What was lost or damaged since does not count: the file is then the cure.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from edge.model import IMPORT, WATCH, Origin

_IMPORTED: Final = f"{IMPORT} by digest"
"""The place of what was imported: media get other names and other inodes each time they are put in."""
_KNOWN: Final = """SELECT 1 FROM taken t LEFT JOIN instance i ON i.id = t.instance
    WHERE place = ? AND path = ? AND inode = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ?
    AND coalesce(i.state, '') NOT IN ('lost', 'quarantined')"""
_SAME: Final = """SELECT i.id FROM taken t JOIN instance i ON i.id = t.instance
    WHERE place = ? AND path = ? AND inode = ? AND mtime_ns = ? AND t.digest = ? AND i.state = 'expired'"""
_SAME_OBJECT: Final = """SELECT i.id FROM taken t JOIN instance i ON i.id = t.instance
    WHERE place = ? AND path = ? AND i.state = 'expired'"""
_REMEMBER: Final = """INSERT INTO taken (place, path, inode, size, mtime_ns, ctime_ns, digest, instance, at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, (SELECT seconds FROM uptime))
    ON CONFLICT DO UPDATE SET inode = excluded.inode, size = excluded.size, mtime_ns = excluded.mtime_ns,
    ctime_ns = excluded.ctime_ns, digest = excluded.digest, instance = excluded.instance, at = excluded.at"""

_ROOT: Final = "root of "
_UNWATCHED: Final = f"""SELECT place FROM taken WHERE place >= '{_ROOT}{WATCH} ' AND place < '{_ROOT}{WATCH}!'
    AND at <= (SELECT seconds FROM uptime) - ?"""
_FORGET: Final = """DELETE FROM taken
    WHERE place = ?1 AND path IN (SELECT path FROM taken WHERE place = ?1 ORDER BY path LIMIT ?2)"""
_LEAST_AGE: Final = 30 * 86400.0
"""Seconds for which a watch may be out of the configuration, and yet knows what it took when it comes back."""
_AT_ONCE: Final = 2000


class Key(msgspec.Struct, frozen=True):
    """What an object is, whatever file it is read from."""

    sop_instance_uid: str
    transfer_syntax_uid: str
    digest: bytes

    def path(self) -> str:
        """Give what stands for the path of an imported file."""
        return f"{self.digest.hex()} {self.transfer_syntax_uid} {self.sop_instance_uid}"


def known(raw: sqlite3.Connection, origins: Sequence[Origin]) -> list[bool]:
    """Say for each whether it was taken as it is now."""
    return [raw.execute(_KNOWN, _identity(origin)).fetchone() is not None for origin in origins]


def delivered(raw: sqlite3.Connection, file: Origin, key: Key) -> int | None:
    """Find the instance, delivered and deleted since, that was read from the same file with the same bytes.

    For an import: from any file that was imported, on whatever medium.
    """
    if imported(file):
        return next(iter(raw.execute(_SAME_OBJECT, (_IMPORTED, key.path())).fetchone() or ()), None)
    asked = (file.place, file.path, file.inode, file.mtime_ns, key.digest)
    return next(iter(raw.execute(_SAME, asked).fetchone() or ()), None)


def imported(file: Origin) -> bool:
    """Whether it was read by an import, not by a watch."""
    return file.place.startswith(f"{IMPORT} ")


def remember(raw: sqlite3.Connection, origin: Origin, instance: int = 0, key: Key | None = None) -> None:
    """Write that ``origin`` was taken: an object with its ``key``, or an archive with all its members."""
    if key is not None and imported(origin):
        origin = msgspec.structs.replace(origin, place=_IMPORTED, path=key.path())
    raw.execute(_REMEMBER, (*_identity(origin), key.digest if key is not None else b"", instance))


def after(raw: sqlite3.Connection, place: str, path: str, most: int) -> list[Origin]:
    """Return rows in the order of their paths."""
    rows = raw.execute(
        """SELECT place, path, inode, size, mtime_ns, ctime_ns FROM taken
        WHERE place = ? AND path > ? ORDER BY path LIMIT ?""",
        (place, path, most),
    )
    return [
        Origin(place=place, path=path, inode=inode, size=size, mtime_ns=mtime, ctime_ns=ctime)
        for place, path, inode, size, mtime, ctime in rows
    ]


def forget(raw: sqlite3.Connection, origins: Sequence[Origin]) -> None:
    """Delete rows, unless the same path was taken anew meanwhile."""
    raw.executemany(
        """DELETE FROM taken WHERE place = ? AND path = ? AND inode = ? AND size = ? AND mtime_ns = ?
        AND ctime_ns = ?""",
        [_identity(origin) for origin in origins],
    )


def mark(place: str) -> str:
    """Name the place of the one row that a watch keeps of itself, and writes anew as long as it is configured."""
    return f"{_ROOT}{place}"


def forget_unwatched(raw: sqlite3.Connection, age: float) -> int:
    """Forget what watches took that were not configured for ``age`` seconds of uptime, some at a time; how many."""
    count = 0
    for (marked,) in raw.execute(_UNWATCHED, (max(age, _LEAST_AGE),)).fetchall():
        gone = raw.execute(_FORGET, (marked.removeprefix(_ROOT), _AT_ONCE)).rowcount
        if gone < _AT_ONCE:
            raw.execute("DELETE FROM taken WHERE place = ?", (marked,))
        count += gone
    return count


def _identity(origin: Origin) -> tuple[str, str, int, int, int, int]:
    return (origin.place, origin.path, origin.inode, origin.size, origin.mtime_ns, origin.ctime_ns)
