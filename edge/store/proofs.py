"""Proofs: what was accepted and must be proven before it is over; what to ask about next, and what was asked.

A row stands for each accepted delivery that needs proof, and triggers keep it so, whoever moves the delivery. Whether a
study is quiet is seen by looking again: a monotonic clock decides, and it begins anew with every start.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from edge.store.trail import Mark, write

PATIENCE: Final = 600.0
"""Seconds after a start before anything is asked again that an earlier run had asked: its report may be on its way."""
REQUESTS_KEPT: Final = 30 * 86_400.0
"""Seconds of uptime for which a report may still come."""
_ASKS_ON_TRAIL: Final = 4
"""Askings about one instance that the trail tells of: one that is asked daily for ever would fill the disk."""


class Provable(msgspec.Struct, frozen=True, kw_only=True):
    """An instance whose delivery may be asked about."""

    instance: int
    delivery: int
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    tries: int
    """How often it was asked about since it was accepted."""
    unheard: int
    """How often since a report last spoke of it."""
    missing: int
    """How often a query did not find it since."""


class Batch(msgspec.Struct, frozen=True):
    """What to ask one destination about: instances of one study, each SOP Instance UID once."""

    destination: str
    study: str
    """Study Instance UID; empty where its one object names none."""
    items: tuple[Provable, ...]


class Verdict(msgspec.Struct, frozen=True):
    """What a query says of one instance."""

    instance: int
    found: bool
    askable: bool = True
    """Whether it names what a query must name."""


_STUDIES: Final = """WITH RECURSIVE one(study) AS (
        SELECT min(study) FROM proof INDEXED BY proof_unasked WHERE destination = ?1 AND ask_at IS NULL
        UNION ALL
        SELECT (SELECT min(study) FROM proof INDEXED BY proof_unasked
            WHERE destination = ?1 AND ask_at IS NULL AND study > one.study)
        FROM one WHERE one.study IS NOT NULL
    ) SELECT study FROM one WHERE study IS NOT NULL LIMIT 500"""
"""Studies of which something was never asked about, a step in the index for each; the next when these are done."""
_MARKER: Final = """SELECT count(*), sum(delivery) FROM proof INDEXED BY proof_unasked
    WHERE destination = ? AND study = ? AND ask_at IS NULL"""
_COMING: Final = """SELECT EXISTS (SELECT 1 FROM instance i JOIN delivery d ON d.instance = i.id AND d.destination = ?1
    WHERE i.study = ?2 AND (d.state = 'sending' OR d.state = 'queued' AND d.not_before IS NULL AND d.behind IS NULL))"""
_DUE: Final = """SELECT study, ask_at FROM proof INDEXED BY proof_due
    WHERE destination = ? AND ask_at <= ? ORDER BY ask_at, study LIMIT 1"""
_ITEM: Final = """SELECT i.id, p.delivery, i.sop_class_uid, i.sop_instance_uid, coalesce(s.uid, ''), i.series_uid,
    p.tries, p.tries - p.heard, p.missing
    FROM proof p JOIN delivery d ON d.id = p.delivery JOIN instance i ON i.id = d.instance
    JOIN study s ON s.id = i.study"""
_UNASKED_OF: Final = f"""{_ITEM} WHERE p.destination = ? AND p.study = ? AND p.ask_at IS NULL
    ORDER BY p.delivery LIMIT ?"""
_DUE_OF: Final = f"{_ITEM} WHERE p.destination = ? AND p.study = ? AND p.ask_at = ? ORDER BY p.delivery LIMIT ?"
_REQUEST: Final = """INSERT INTO request (uid, destination, at, clock_trusted, since)
    VALUES (?, ?, ?, ?, (SELECT seconds FROM uptime)) RETURNING id"""
_ASKED: Final = """UPDATE proof SET ask_at = ?, tries = tries + 1, asked = coalesce(asked, ?)
    WHERE delivery = ? AND destination = ?"""
_POSTPONE: Final = """UPDATE proof SET ask_at = ?, missing = missing + ?, tries = max(heard, tries - ?)
    WHERE delivery = ? AND destination = ?"""
_OLD_REQUESTS: Final = "SELECT id FROM request WHERE since <= (SELECT seconds FROM uptime) - ?"


class Calm:
    """How long what is to be asked about a study has stayed as it is."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], tuple[object, float, float]] = {}
        self._left: dict[tuple[str, int], object] = {}
        self._due_next: set[str] = set()

    def look(self, destination: str, study: int, marker: object, now: float) -> tuple[float, float]:
        """Seconds since ``marker`` was last another, and since the study was first seen or last asked about."""
        key = (destination, study)
        before, since, first = self._seen.get(key, (marker, now, now))
        if before != marker and self._left.pop(key, None) != marker:
            since = now
        self._seen[key] = (marker, since, first)
        return now - since, now - first

    def pass_on(self, destination: str, study: int, left: object, now: float) -> None:
        """Let others go first: part of the study is to be asked about, after which ``left`` is its marker."""
        marker, since, _ = self._seen[destination, study]
        self._seen[destination, study] = (marker, since, now)
        self._left[destination, study] = left

    def alternate(self, destination: str) -> bool:
        """Whether it is the turn of what was asked about before; every other time."""
        if destination in self._due_next:
            self._due_next.remove(destination)
            return True
        self._due_next.add(destination)
        return False

    def keep(self, destination: str, studies: set[int]) -> None:
        """Forget the studies of ``destination`` that are not among ``studies``."""
        for key in [key for key in self._seen if key[0] == destination and key[1] not in studies]:
            del self._seen[key]
            self._left.pop(key, None)


def provable(
    raw: sqlite3.Connection, calm: Calm, destination: str, now: float, quiet: float, longest: float, most: int
) -> Batch | None:
    """Return one study's worth of what may be asked about at the monotonic time ``now``.

    Of what was never asked about: of the study that has waited longest, among those of which nothing more comes for
    ``quiet`` seconds, or which have waited ``longest`` seconds. Of what was asked long enough ago: what is due longest.
    Where there is both, each has its turn.
    """
    due = raw.execute(_DUE, (destination, now)).fetchone()
    ready = _ready(raw, calm, destination, now, quiet, longest)
    if ready is not None and (due is None or not calm.alternate(destination)):
        study, (count, total) = ready
        batch = _batch(destination, raw.execute(_UNASKED_OF, (destination, study, most)).fetchall())
        if batch is not None:
            left = (count - len(batch.items), total - sum(item.delivery for item in batch.items))
            calm.pass_on(destination, study, left, now)
        return batch
    if due is None:
        return None
    return _batch(destination, raw.execute(_DUE_OF, (destination, *due, most)).fetchall())


def _ready(
    raw: sqlite3.Connection, calm: Calm, destination: str, now: float, quiet: float, longest: float
) -> tuple[int, tuple[int, int]] | None:
    """Return the study to ask about for the first time, with the marker of what is to be asked."""
    studies = [study for (study,) in raw.execute(_STUDIES, (destination,))]
    calm.keep(destination, set(studies))
    best, longest_wait = None, -1.0
    for study in studies:
        marker = raw.execute(_MARKER, (destination, study)).fetchone()
        still, waited = calm.look(destination, study, marker, now)
        if waited <= longest_wait or (waited < longest and still < quiet):
            continue
        if waited >= longest or not raw.execute(_COMING, (destination, study)).fetchone()[0]:
            best, longest_wait = (study, marker), waited
    return best


def _batch(destination: str, rows: Sequence[tuple[object, ...]]) -> Batch | None:
    names, items = Provable.__struct_fields__, dict[str, Provable]()
    for row in rows:
        item = msgspec.convert(dict(zip(names, row, strict=True)), Provable)
        items.setdefault(item.sop_instance_uid, item)
    if not items:
        return None
    found = tuple(items.values())
    return Batch(destination, found[0].study_uid, found)


def begin_request(
    raw: sqlite3.Connection,
    destination: str,
    uid: str,
    items: Sequence[Provable],
    ask_again_at: float,
    now: float,
    *,
    trusted: bool,
) -> None:
    """Record a request that is about to be made; without a report, ``items`` are due again at ``ask_again_at``."""
    (number,) = raw.execute(_REQUEST, (uid, destination, now, trusted)).fetchone()
    raw.executemany("INSERT INTO requested VALUES (?, ?)", [(number, item.instance) for item in items])
    raw.executemany(_ASKED, [(ask_again_at, number, item.delivery, destination) for item in items])
    write(
        raw,
        [
            Mark(
                instance=item.instance,
                destination=destination,
                at=now,
                clock_trusted=trusted,
                event="proof-asked",
                code=uid,
                detail="storage commitment",
            )
            for item in items
            if item.tries < _ASKS_ON_TRAIL
        ],
    )


def postpone(
    raw: sqlite3.Connection, destination: str, items: Sequence[Provable], ask_at: float, *, missing: bool, untaken: bool
) -> None:
    """Ask about ``items`` at ``ask_at``; ``missing``: a query did not find them; ``untaken``: nobody was asked."""
    raw.executemany(_POSTPONE, [(ask_at, missing, untaken, item.delivery, destination) for item in items])


def recover(raw: sqlite3.Connection, ripe_at: float) -> None:
    """Give what an earlier run had asked, or put off, a time of this run's clock."""
    raw.execute(
        "UPDATE proof SET ask_at = ?1 + iif(asked IS NULL, 0.0, ?2) WHERE ask_at IS NOT NULL", (ripe_at, PATIENCE)
    )


def prune(raw: sqlite3.Connection) -> None:
    """Forget requests for which no report is expected any more."""
    for row in raw.execute(_OLD_REQUESTS, (REQUESTS_KEPT,)).fetchall():
        raw.execute("DELETE FROM requested WHERE request = ?", row)
        raw.execute("DELETE FROM request WHERE id = ?", row)


def oldest(raw: sqlite3.Connection, destination: str, lag: float) -> float | None:
    """Return for how many seconds of uptime the oldest proof of ``destination`` has been waited for.

    ``lag`` is how many seconds the uptime on record is behind.
    """
    asked = "SELECT (SELECT seconds FROM uptime) + ? - min(since) FROM proof WHERE destination = ?"
    (age,) = raw.execute(asked, (lag, destination)).fetchone()
    return None if age is None else float(age)
