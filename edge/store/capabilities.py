"""What destinations take and refuse, kept over restarts: the last answer for each SOP class and transfer syntax."""

import sqlite3
from collections.abc import Mapping
from typing import Final

import msgspec

from edge.model import Kind

MOST: Final = 512
"""Answers kept of one destination; of more, the latest."""
_KEEP: Final = """INSERT INTO capability
    SELECT ?1, ?2, ?3, ?4, ?5, ?6, seconds FROM uptime WHERE true
    ON CONFLICT DO UPDATE SET taken = excluded.taken, at = excluded.at, clock_trusted = excluded.clock_trusted,
        since = excluded.since"""
_TRIM: Final = """DELETE FROM capability WHERE destination = ?1 AND (sop_class_uid, transfer_syntax_uid) IN (
    SELECT sop_class_uid, transfer_syntax_uid FROM capability WHERE destination = ?1
    ORDER BY since DESC, at DESC LIMIT -1 OFFSET ?2)"""


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a destination."""

    kind: Kind
    taken: bool
    at: float
    """Wall time, seconds since 1970."""
    clock_trusted: bool
    age: float
    """Seconds that the appliance has run since."""


def keep(raw: sqlite3.Connection, destination: str, answers: Mapping[Kind, bool], now: float, *, trusted: bool) -> None:
    """Keep ``answers`` of ``destination``."""
    raw.executemany(
        _KEEP,
        [
            (destination, kind.sop_class_uid, kind.transfer_syntax_uid, taken, now, trusted)
            for kind, taken in answers.items()
        ],
    )
    raw.execute(_TRIM, (destination, MOST))


def of(raw: sqlite3.Connection, destination: str) -> list[Capability]:
    """Return what is kept of ``destination``, by SOP class and transfer syntax."""
    rows = raw.execute(
        """SELECT sop_class_uid, transfer_syntax_uid, taken, at, clock_trusted, max(0.0, seconds - since)
            FROM capability, uptime WHERE destination = ? ORDER BY sop_class_uid, transfer_syntax_uid""",
        (destination,),
    )
    return [
        Capability(kind=Kind(sop_class, syntax), taken=bool(taken), at=at, clock_trusted=bool(trusted), age=age)
        for sop_class, syntax, taken, at, trusted, age in rows
    ]
