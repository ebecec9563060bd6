"""The audit's side: which files to look at next, and what is recorded where file and row differ."""

import sqlite3
from typing import Final

import msgspec

from edge.model import Instance, Kind
from edge.store.trail import Mark, write
from edge.store.turns import Turns


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What the row says of the file of one instance."""

    id: int
    kind: Kind
    sop_instance_uid: str
    digest: bytes
    length: int
    offset: int

    @classmethod
    def of(cls, instance: Instance) -> "Stored":
        """What the row of ``instance`` should say."""
        return cls(
            id=instance.id,
            kind=instance.kind,
            sop_instance_uid=instance.sop_instance_uid,
            digest=instance.digest,
            length=instance.length,
            offset=instance.offset,
        )


_NEXT: Final = """SELECT id, sop_class_uid, transfer_syntax_uid, sop_instance_uid, digest, length, offset FROM instance
    WHERE state = 'stored' AND id > (SELECT last FROM audit) ORDER BY id LIMIT ?"""
_AMEND: Final = """UPDATE instance SET sop_class_uid = ?, transfer_syntax_uid = ?, sop_instance_uid = ?, digest = ?,
    length = ?, offset = ? WHERE id = ?"""
_HOLD: Final = """UPDATE delivery SET state = 'held', not_before = NULL, behind = NULL, code = 'FILE_DAMAGED',
    detail = ?, changed_at = ? WHERE instance = ? AND state = 'queued' RETURNING destination"""


def upcoming(raw: sqlite3.Connection, most: int) -> list[Stored]:
    """Return the next instances whose files are to be looked at."""
    return [
        Stored(
            id=number,
            kind=Kind(sop_class, syntax),
            sop_instance_uid=uid,
            digest=digest,
            length=length,
            offset=offset,
        )
        for number, sop_class, syntax, uid, digest, length, offset in raw.execute(_NEXT, (most,))
    ]


def passed(raw: sqlite3.Connection, last: int) -> None:
    """Go on after instance ``last``; 0 begins a new round."""
    raw.execute("UPDATE audit SET last = ?", (last,))


def quarantine(raw: sqlite3.Connection, number: int, why: str, now: float, *, trusted: bool) -> None:
    """Put an instance whose file is damaged aside: the same bytes sent again are then new."""
    raw.execute("UPDATE instance SET state = 'quarantined' WHERE id = ? AND state = 'stored'", (number,))
    held = raw.execute(_HOLD, (why, now, number)).fetchall()
    marks = [Mark(instance=number, at=now, clock_trusted=trusted, event="quarantined", detail=why)]
    for (destination,) in held:
        marks.append(
            Mark(
                instance=number,
                destination=destination,
                at=now,
                clock_trusted=trusted,
                event="held",
                code="FILE_DAMAGED",
                detail=why,
            )
        )
    write(raw, marks)
    Turns(raw, now, trusted=trusted).pass_over(number)


def amend(raw: sqlite3.Connection, true: Stored, now: float, *, trusted: bool) -> None:
    """Let the seal outvote the row."""
    raw.execute(
        _AMEND,
        (
            true.kind.sop_class_uid,
            true.kind.transfer_syntax_uid,
            true.sop_instance_uid,
            true.digest,
            true.length,
            true.offset,
            true.id,
        ),
    )
    detail = "the row differed from the seal of the file"
    write(raw, [Mark(instance=true.id, at=now, clock_trusted=trusted, event="amended", detail=detail)])
