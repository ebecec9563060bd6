"""Retention's side: age, tombstones, and the end of the trail.

Age is measured in seconds of uptime, which never jump; time spent switched off does not count. Which instances may go
is decided by the rows alone: at least one delivery, and every one of them over.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

from edge.events import deleted
from edge.store import events, promises, proofs, taken
from edge.store.trail import Mark, write

_SETTLED: Final = """SELECT id FROM instance WHERE settled_at IS NOT NULL AND state = 'stored'
    AND settled_at <= (SELECT seconds FROM uptime) - ? ORDER BY settled_at, id LIMIT ?"""
_EXPIRE: Final = """UPDATE instance SET state = 'expired', expired_at = (SELECT seconds FROM uptime)
    WHERE id = ? AND state = 'stored' AND settled_at IS NOT NULL RETURNING id, length"""
_FORGOTTEN: Final = """SELECT id, study FROM instance WHERE expired_at IS NOT NULL
    AND expired_at <= (SELECT seconds FROM uptime) - ? ORDER BY expired_at LIMIT ?"""

_IMPORTED: Final = """DELETE FROM taken WHERE place >= 'import ' AND place < 'import!'
    AND at <= (SELECT seconds FROM uptime) - ?"""
_REJECTED: Final = "instance = 0 AND event IN ('command-rejected', 'command-expired')"
_FORGET_REJECTED: Final = f"""DELETE FROM trail WHERE {_REJECTED}
    AND seq <= (SELECT seq FROM trail WHERE {_REJECTED} ORDER BY seq DESC LIMIT 1 OFFSET ?)"""
_MOST_REJECTED: Final = 20_000
"""Commands that were not carried out, in the trail: anybody who may publish can make them."""


def tick(raw: sqlite3.Connection, seconds: float) -> None:
    """Add ``seconds`` to the time this store has been in use."""
    raw.execute("UPDATE uptime SET seconds = seconds + ?", (seconds,))


def uptime(raw: sqlite3.Connection) -> float:
    """Return the seconds this store has been in use, as far as they are on record."""
    return float(raw.execute("SELECT seconds FROM uptime").fetchone()[0])


def settled(raw: sqlite3.Connection, age: float, most: int) -> list[int]:
    """Return the ids of instances whose deliveries have all been over for ``age`` seconds, the oldest first."""
    return [number for (number,) in raw.execute(_SETTLED, (age, most))]


def expire(raw: sqlite3.Connection, ids: Sequence[int], why: str, now: float, *, trusted: bool) -> list[int]:
    """Write tombstones for those of ``ids`` that may still go; their files may be deleted once this is committed."""
    rows = [row for number in ids for row in raw.execute(_EXPIRE, (number,)).fetchall()]
    gone = [number for number, _ in rows]
    if gone:
        events.write(raw, [deleted(len(gone), sum(length for _, length in rows))], now, trusted=trusted)
    write(raw, [Mark(instance=number, at=now, clock_trusted=trusted, event="deleted", detail=why) for number in gone])
    return gone


def forget(raw: sqlite3.Connection, age: float, most: int) -> int:
    """Delete all that is known of instances whose files went ``age`` seconds ago; the number.

    So is it with files that were imported then; those in watched folders are forgotten when they are gone from there.
    Of commands that were rejected only so many stay in the trail. What was asked for and what was promised goes too.
    """
    proofs.prune(raw)
    promises.prune(raw, age)
    taken.forget_unwatched(raw, age)
    raw.execute(_IMPORTED, (age,))
    raw.execute(_FORGET_REJECTED, (_MOST_REJECTED,))
    rows = raw.execute(_FORGOTTEN, (age, most)).fetchall()
    ids = [(number,) for number, _ in rows]
    for statement in (
        "UPDATE delivery SET behind = NULL WHERE behind IN (SELECT id FROM delivery WHERE instance = ?)",
        "DELETE FROM trail WHERE instance = ?",
        "DELETE FROM delivery WHERE instance = ?",
        "DELETE FROM instance WHERE id = ?",
    ):
        raw.executemany(statement, ids)
    raw.executemany(
        "DELETE FROM study WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM instance WHERE study = ?1)",
        [(study,) for study in {study for _, study in rows}],
    )
    return len(rows)
