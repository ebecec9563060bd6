"""Files that were taken, by where they were read: one that is still there, as it was, is not taken again.

A row is written in the transaction that records the object, so a kill between that and the file's removal leaves the
answer here. What was lost or damaged since does not count: the file is then the cure.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

from edge.model import Origin

_KNOWN: Final = """SELECT 1 FROM taken t LEFT JOIN instance i ON i.id = t.instance
    WHERE place = ? AND path = ? AND inode = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ?
    AND coalesce(i.state, '') NOT IN ('lost', 'quarantined')"""
_SAME: Final = """SELECT i.id FROM taken t JOIN instance i ON i.id = t.instance
    WHERE place = ? AND path = ? AND inode = ? AND mtime_ns = ? AND t.digest = ? AND i.state = 'expired'"""
_REMEMBER: Final = """INSERT INTO taken (place, path, inode, size, mtime_ns, ctime_ns, digest, instance, at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, (SELECT seconds FROM uptime))
    ON CONFLICT DO UPDATE SET inode = excluded.inode, size = excluded.size, mtime_ns = excluded.mtime_ns,
    ctime_ns = excluded.ctime_ns, digest = excluded.digest, instance = excluded.instance, at = excluded.at"""


def known(raw: sqlite3.Connection, origins: Sequence[Origin]) -> list[bool]:
    """Say for each whether it was taken as it is now."""
    return [raw.execute(_KNOWN, _identity(origin)).fetchone() is not None for origin in origins]


def delivered(raw: sqlite3.Connection, file: Origin, digest: bytes) -> int | None:
    """Find the instance, delivered and deleted since, that was read from the same file with the same bytes."""
    asked = (file.place, file.path, file.inode, file.mtime_ns, digest)
    return next(iter(raw.execute(_SAME, asked).fetchone() or ()), None)


def remember(raw: sqlite3.Connection, origin: Origin, instance: int = 0, digest: bytes = b"") -> None:
    """Write that ``origin`` was taken: an object, or an archive with all its members."""
    raw.execute(_REMEMBER, (*_identity(origin), digest, instance))


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


def _identity(origin: Origin) -> tuple[str, str, int, int, int, int]:
    return (origin.place, origin.path, origin.inode, origin.size, origin.mtime_ns, origin.ctime_ns)
