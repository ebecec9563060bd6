"""Promises: modalities asked whether their images are safe, and each is owed one report that names every image.

A promise waits until every image of it is decided, is then ready, and is reported when the modality has taken the
report. All of it is on record before the modality is answered; how far the waiting ones were looked through is not,
and costs one more look after a start.
"""

import sqlite3
from collections.abc import Collection, Sequence
from typing import Final, Protocol

import msgspec

from edge.model import Failure, Reference
from edge.store.connection import StoreError
from edge.store.deciding import Decision

_MOST_OPEN: Final = 1000
_MOST_NAMED: Final = 500_000
"""Requests of one modality, and images in them, that may wait for their reports at once."""


class TooManyError(StoreError):
    """A modality asks for more than is kept for it; what it asked before is untouched."""


class CommitmentRequest(Protocol):
    """A request as it came (PS3.4 J.3.2.1.1)."""

    @property
    def transaction_uid(self) -> str:
        """What the modality calls it."""
        ...

    @property
    def references(self) -> Sequence[Reference]:
        """What it asks about."""
        ...


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A report that is owed, and to whom."""

    promise: int
    transaction_uid: str
    calling: str
    """AE title of the modality that asked, and by which name it called us, from which address."""
    called: str
    address: str
    committed: tuple[Reference, ...]
    failed: tuple[Failure, ...]
    tries: int
    """Attempts to deliver it that failed."""
    age: float
    """Seconds of uptime since it was ready."""


_KNOWN: Final = "SELECT id, state FROM promise WHERE transaction_uid = ? AND calling = ?"
_OPEN: Final = "SELECT count(*), total(named) FROM promise WHERE calling = ? AND state <> 'reported' AND id IS NOT ?"
_MAKE: Final = """INSERT INTO promise
    (transaction_uid, calling, called, address, at, clock_trusted, since, state, named)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, (SELECT seconds FROM uptime), 'waiting', ?7)
    ON CONFLICT (transaction_uid, calling) DO UPDATE SET called = ?3, address = ?4, at = ?5, clock_trusted = ?6,
    since = excluded.since, state = 'waiting', named = ?7, times = times + 1, tries = 0, not_before = NULL,
    ready_since = NULL, note = '' RETURNING id"""
_HURRY: Final = "UPDATE promise SET called = ?, address = ?, not_before = NULL WHERE id = ?"
_NAMED: Final = """SELECT sop_class_uid, sop_instance_uid, reason FROM promised WHERE promise = ? ORDER BY position"""
_NAME: Final = "INSERT INTO promised (promise, position, sop_class_uid, sop_instance_uid) VALUES (?, ?, ?, ?)"
_READY: Final = """UPDATE promise SET state = 'ready', ready_since = (SELECT seconds FROM uptime) + ?
    WHERE id = ? AND times = ? AND state = 'waiting'"""
_TRAIL: Final = """INSERT INTO trail (instance, destination, at, clock_trusted, event, code, detail)
    SELECT DISTINCT i.id, '', ?2, ?3, ?4, iif(?4 = 'answered', printf('%04X', n.reason), p.transaction_uid),
        p.calling || iif(?4 = 'answered', ', ' || p.transaction_uid, '') || iif(?5 = '', '', ': ' || ?5)
    FROM promise p JOIN promised n ON n.promise = p.id JOIN instance i ON i.sop_instance_uid = n.sop_instance_uid
    WHERE p.id = ?1"""
# one of each modality at a time: many take one association only
_DUE: Final = """SELECT min(id), transaction_uid, calling, called, address, tries,
        (SELECT seconds FROM uptime) + ?1 - ready_since
    FROM promise WHERE state = 'ready' AND (not_before IS NULL OR not_before <= ?2) GROUP BY calling
    ORDER BY tries, id LIMIT ?3"""
_REPORTED: Final = "UPDATE promise SET state = 'reported', note = ? WHERE id = ? AND state = 'ready'"
_FAILED: Final = "UPDATE promise SET tries = tries + 1, not_before = ?, note = ? WHERE id = ? AND state = 'ready'"
_OLD: Final = "SELECT id FROM promise WHERE state = 'reported' AND since <= (SELECT seconds FROM uptime) - ?"


def promise(
    raw: sqlite3.Connection,
    calling: str,
    called: str,
    address: str,
    request: CommitmentRequest,
    now: float,
    *,
    trusted: bool,
) -> bool:
    """Record a request; False where the same one waits for its report already, which is then hurried.

    One whose report was taken, or that names other images than before, begins anew. Raises `TooManyError`.
    """
    known = raw.execute(_KNOWN, (request.transaction_uid, calling)).fetchone()
    wanted = [(r.sop_class_uid, r.sop_instance_uid) for r in request.references]
    if known is not None:
        number, state = known
        if state != "reported" and [row[:2] for row in raw.execute(_NAMED, (number,))] == wanted:
            raw.execute(_HURRY, (called, address, number))
            return False
        raw.execute("DELETE FROM promised WHERE promise = ?", (number,))
    requests, named = raw.execute(_OPEN, (calling, known[0] if known else None)).fetchone()
    if requests >= _MOST_OPEN or named + len(wanted) > _MOST_NAMED:
        raise TooManyError("Too many requests wait for their reports")
    values = (request.transaction_uid, calling, called, address, now, trusted, len(wanted))
    (number,) = raw.execute(_MAKE, values).fetchone()
    raw.executemany(_NAME, [(number, position, *names) for position, names in enumerate(wanted)])
    raw.execute(_TRAIL, (number, now, trusted, "promised", ""))
    return True


def decide(raw: sqlite3.Connection, decision: Decision, lag: float, now: float, *, trusted: bool) -> bool:
    """Make a promise ready; False where it was asked anew since it was decided.

    ``lag`` is how many seconds the uptime on record is behind.
    """
    number = decision.promise
    if not raw.execute(_READY, (lag, number, decision.times)).rowcount:
        return False
    raw.execute("UPDATE promised SET reason = 0 WHERE promise = ?", (number,))
    raw.executemany(
        "UPDATE promised SET reason = ? WHERE promise = ? AND position = ?",
        [(reason, number, position) for position, reason in decision.failures],
    )
    raw.execute(_TRAIL, (number, now, trusted, "answered", ""))
    return True


def due(raw: sqlite3.Connection, most: int, monotonic: float, lag: float, beside: Collection[str] = ()) -> list[Answer]:
    """Return reports whose time has come, one for each modality, the least often tried first.

    Modalities ``beside`` are passed over.
    """
    rows = raw.execute(_DUE, (lag, monotonic, most + len(beside))).fetchall()
    return [_answer(raw, *row) for row in rows if row[2] not in beside][:most]


def _answer(
    raw: sqlite3.Connection,
    number: int,
    transaction_uid: str,
    calling: str,
    called: str,
    address: str,
    tries: int,
    age: float,
) -> Answer:
    rows = [(Reference(*names), reason) for *names, reason in raw.execute(_NAMED, (number,))]
    return Answer(
        promise=number,
        transaction_uid=transaction_uid,
        calling=calling,
        called=called,
        address=address,
        committed=tuple(reference for reference, reason in rows if reason == 0),
        failed=tuple(Failure(reference, reason) for reference, reason in rows if reason),
        tries=tries,
        age=max(0.0, age),
    )


def answered(raw: sqlite3.Connection, number: int, note: str, now: float, *, trusted: bool) -> None:
    """Record that the modality has taken its report."""
    if raw.execute(_REPORTED, (note, number)).rowcount:
        raw.execute(_TRAIL, (number, now, trusted, "report-taken", note))


def failed(raw: sqlite3.Connection, number: int, not_before: float, note: str) -> None:
    """Record that the report could not be delivered, and is tried again at ``not_before``."""
    raw.execute(_FAILED, (not_before, note, number))


def recover(raw: sqlite3.Connection, ripe_at: float) -> None:
    """Give what an earlier run had put off a time of this run's clock."""
    raw.execute("UPDATE promise SET not_before = ? WHERE state = 'ready' AND not_before IS NOT NULL", (ripe_at,))


def prune(raw: sqlite3.Connection, age: float) -> None:
    """Forget promises whose report was taken, ``age`` seconds of uptime after they were made."""
    for row in raw.execute(_OLD, (age,)).fetchall():
        raw.execute("DELETE FROM promised WHERE promise = ?", row)
        raw.execute("DELETE FROM promise WHERE id = ?", row)
