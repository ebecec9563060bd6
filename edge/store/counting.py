"""How many images of a study are where: counted from its rows, and remembered while nothing happens to it.

Whatever changes a count leaves a mark on the trail in its own transaction, so the trail tells which studies to count
anew. Counting reads every instance of a study; screens ask every second. Only reads.
"""

import sqlite3
from collections.abc import Callable
from typing import Final

import msgspec

from edge.safety import DestinationView
from edge.states import DeliveryState
from edge.store.turns import OTHER_RENDERING

_REQUESTS: Final = 20
"""Commitment requests looked through for one that names the whole study, the latest first."""
_MOST_MARKS: Final = 5_000
"""Marks that are looked through for the studies they concern; after more everything is counted anew."""
_MOST_KEPT: Final = 1_000
"""Studies whose counts are remembered."""

REPLACED: Final = """i.state IN ('lost', 'quarantined') AND EXISTS (SELECT 1 FROM instance o
    WHERE o.sop_instance_uid = i.sop_instance_uid AND o.digest = i.digest
    AND o.transfer_syntax_uid = i.transfer_syntax_uid AND o.state IN ('stored', 'expired'))"""
"""A row of what came again."""
ELSEWHERE: Final = f"""d.state IN ('held', 'cancelled', 'declined') AND (d.code = '{OTHER_RENDERING}'
    OR EXISTS (SELECT 1 FROM instance o JOIN delivery e ON e.instance = o.id AND e.destination = d.destination
        WHERE o.sop_instance_uid = i.sop_instance_uid AND o.transfer_syntax_uid <> i.transfer_syntax_uid
        AND (e.state = 'verified' OR e.state = 'accepted' AND e.needs_proof = 0)))"""
"""A delivery that another rendering made needless."""
_SAFE: Final = "d.state = 'verified' OR d.state = 'accepted' AND d.needs_proof = 0"

_INSTANCES: Final = f"""SELECT count(DISTINCT i.sop_instance_uid), count(*) FILTER (WHERE i.unrouted = 1),
    min(i.received_at), max(i.received_at), min(i.clock_trusted), group_concat(DISTINCT i.modality)
    FROM instance i WHERE i.study = ? AND NOT ({REPLACED})"""
_GONE: Final = f"""SELECT i.state, count(*) FROM instance i WHERE i.study = ? AND i.state IN ('lost', 'quarantined')
    AND NOT ({REPLACED}) AND (
        NOT EXISTS (SELECT 1 FROM delivery d WHERE d.instance = i.id)
        OR EXISTS (SELECT 1 FROM delivery d WHERE d.instance = i.id AND NOT ({_SAFE}) AND NOT ({ELSEWHERE}))
    ) GROUP BY i.state"""
_DELIVERIES: Final = f"""SELECT d.destination, d.state, d.needs_proof, count(*) FROM instance i
    JOIN delivery d ON d.instance = i.id WHERE i.study = ? AND NOT ({REPLACED}) AND NOT ({ELSEWHERE})
    GROUP BY d.destination, d.state, d.needs_proof ORDER BY d.destination"""
# a request that names the whole study names its latest image
_REQUEST: Final = """SELECT DISTINCT n.promise FROM promised n JOIN promise p ON p.id = n.promise
    WHERE n.sop_instance_uid = (SELECT sop_instance_uid FROM instance WHERE id = ?) AND p.state <> 'waiting'
    ORDER BY n.promise DESC LIMIT ?"""
_ALL_GOOD: Final = """SELECT NOT EXISTS (SELECT 1 FROM promised WHERE promise = ?1 AND reason IS NOT 0)
    AND NOT EXISTS (SELECT 1 FROM instance i WHERE i.study = ?2 AND NOT EXISTS (
        SELECT 1 FROM promised WHERE sop_instance_uid = i.sop_instance_uid AND promise = ?1))"""

_LAST: Final = "SELECT coalesce(max(seq), 0) FROM trail"
# what became of one instance counts for all of the same UID, be they of another study
_CONCERNED: Final = """SELECT DISTINCT o.study FROM trail t JOIN instance i ON i.id = t.instance
    JOIN instance o ON o.sop_instance_uid = i.sop_instance_uid WHERE t.seq > ?"""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What of `StudyView` is counted; there is what each means."""

    modalities: tuple[str, ...]
    received: int
    lost: int
    quarantined: int
    unrouted: int
    first_received: float
    last_received: float
    clock_trusted: bool
    named: bool
    destinations: tuple[DestinationView, ...]


Count = Callable[[sqlite3.Connection, int, int], Counts]
"""Counts a study, by its id and that of its latest instance."""


def count(raw: sqlite3.Connection, study: int, latest: int) -> Counts:
    """Count ``study`` now."""
    received, unrouted, first, last, trusted, modalities = raw.execute(_INSTANCES, (study,)).fetchone()
    gone = dict(raw.execute(_GONE, (study,)).fetchall())
    return Counts(
        modalities=tuple(sorted(filter(None, (modalities or "").split(",")))),
        received=received,
        lost=gone.get("lost", 0),
        quarantined=gone.get("quarantined", 0),
        unrouted=unrouted,
        first_received=first or 0.0,
        last_received=last or 0.0,
        clock_trusted=bool(trusted),
        named=_named(raw, study, latest),
        destinations=_destinations(raw, study),
    )


class Counted:
    """Counts of studies that somebody looked at. Not for two threads at once."""

    def __init__(self) -> None:
        self._raw: sqlite3.Connection | None = None
        self._seq = 0
        self._kept: dict[int, tuple[int, Counts]] = {}

    def learn(self, raw: sqlite3.Connection) -> None:
        """Forget what may have changed. Once before studies are counted, in the same view of the database."""
        (last,) = raw.execute(_LAST).fetchone()
        if raw is not self._raw or not 0 <= last - self._seq <= _MOST_MARKS:
            self._kept.clear()  # another database perhaps, or so much happened that looking is not worth it
        elif last > self._seq:
            for (study,) in raw.execute(_CONCERNED, (self._seq,)).fetchall():
                self._kept.pop(study, None)
        self._raw, self._seq = raw, last

    def count(self, raw: sqlite3.Connection, study: int, latest: int) -> Counts:
        """Return the counts of ``study``, counted now unless nothing happened to it since."""
        kept = self._kept.pop(study, None)
        if kept is None or kept[0] != latest:
            kept = (latest, count(raw, study, latest))
        while len(self._kept) >= _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[study] = kept
        return kept[1]


def _named(raw: sqlite3.Connection, study: int, latest: int) -> bool:
    """Whether one request, all of which was answered with success, names everything that is here."""
    requests = raw.execute(_REQUEST, (latest, _REQUESTS)).fetchall()
    return any(raw.execute(_ALL_GOOD, (promise, study)).fetchone()[0] for (promise,) in requests)


def _destinations(raw: sqlite3.Connection, study: int) -> tuple[DestinationView, ...]:
    counts: dict[str, dict[str, int]] = {}
    for destination, state, needs_proof, number in raw.execute(_DELIVERIES, (study,)):
        of = counts.setdefault(destination, dict.fromkeys(DestinationView.__struct_fields__[1:], 0))
        of["received"] += number
        of["queued" if state == DeliveryState.SENDING else state] += number
        if state == DeliveryState.ACCEPTED and needs_proof:
            of["unproven"] += number
    return tuple(DestinationView(destination=name, **of) for name, of in counts.items())
