"""Studies as people look at them: what was received, where it is, whether it is complete. Only reads.

Copies count once: what was lost and came again is what came again, and a delivery that another rendering of the
instance made needless is none.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

import msgspec

from edge.safety import DestinationView, StudyView
from edge.states import DeliveryState
from edge.store import retain
from edge.store.reading import Reading
from edge.store.turns import OTHER_RENDERING

QUIET: Final = 300.0
"""Seconds without a new image after which a study is taken for complete."""
MOST: Final = 200
"""Studies on one page, at most."""
_REQUESTS: Final = 20
"""Commitment requests looked through for one that names the whole study, the latest first."""


class StudyFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which studies are meant: those to which every given part applies."""

    uid: str = ""
    """Study Instance UID."""
    patient_name: str = ""
    """Words, each somewhere in the name; capitals are the same as small letters from A to Z."""
    patient_id: str = ""
    """How it begins."""
    accession: str = ""
    """How it begins."""
    modality: str = ""
    """As in the objects, such as CT."""
    first_date: str = ""
    """YYYYMMDD, the first and the last Study Date (0008,0020) that is meant."""
    last_date: str = ""
    before: int | None = None
    """Where the last page ended: ``latest`` of its last study."""


_REPLACED: Final = """i.state IN ('lost', 'quarantined') AND EXISTS (SELECT 1 FROM instance o
    WHERE o.sop_instance_uid = i.sop_instance_uid AND o.digest = i.digest
    AND o.transfer_syntax_uid = i.transfer_syntax_uid AND o.state IN ('stored', 'expired'))"""
"""A row of what came again."""
_ELSEWHERE: Final = f"""d.state IN ('held', 'cancelled', 'declined') AND (d.code = '{OTHER_RENDERING}'
    OR EXISTS (SELECT 1 FROM instance o JOIN delivery e ON e.instance = o.id AND e.destination = d.destination
        WHERE o.sop_instance_uid = i.sop_instance_uid AND o.transfer_syntax_uid <> i.transfer_syntax_uid
        AND (e.state = 'verified' OR e.state = 'accepted' AND e.needs_proof = 0)))"""
"""A delivery that another rendering made needless."""
_SAFE: Final = "d.state = 'verified' OR d.state = 'accepted' AND d.needs_proof = 0"

_PAGE: Final = """SELECT s.id, s.latest, coalesce(s.uid, ''), s.patient_id, s.patient_name, s.accession, s.date,
    s.description, max(s.came, coalesce(s.arrived, 0)), s.gap FROM study s"""
_INSTANCES: Final = f"""SELECT count(DISTINCT i.sop_instance_uid), count(*) FILTER (WHERE i.unrouted = 1),
    min(i.received_at), max(i.received_at), min(i.clock_trusted), group_concat(DISTINCT i.modality)
    FROM instance i WHERE i.study = ? AND NOT ({_REPLACED})"""
_GONE: Final = f"""SELECT i.state, count(*) FROM instance i WHERE i.study = ? AND i.state IN ('lost', 'quarantined')
    AND NOT ({_REPLACED}) AND (
        NOT EXISTS (SELECT 1 FROM delivery d WHERE d.instance = i.id)
        OR EXISTS (SELECT 1 FROM delivery d WHERE d.instance = i.id AND NOT ({_SAFE}) AND NOT ({_ELSEWHERE}))
    ) GROUP BY i.state"""
_DELIVERIES: Final = f"""SELECT d.destination, d.state, d.needs_proof, count(*) FROM instance i
    JOIN delivery d ON d.instance = i.id WHERE i.study = ? AND NOT ({_REPLACED}) AND NOT ({_ELSEWHERE})
    GROUP BY d.destination, d.state, d.needs_proof ORDER BY d.destination"""
# a request that names the whole study names its latest image
_REQUEST: Final = """SELECT DISTINCT n.promise FROM promised n JOIN promise p ON p.id = n.promise
    WHERE n.sop_instance_uid = (SELECT sop_instance_uid FROM instance WHERE id = ?) AND p.state <> 'waiting'
    ORDER BY n.promise DESC LIMIT ?"""
_ALL_GOOD: Final = """SELECT NOT EXISTS (SELECT 1 FROM promised WHERE promise = ?1 AND reason IS NOT 0)
    AND NOT EXISTS (SELECT 1 FROM instance i WHERE i.study = ?2 AND NOT EXISTS (
        SELECT 1 FROM promised WHERE sop_instance_uid = i.sop_instance_uid AND promise = ?1))"""

_ARRIVED: Final = """UPDATE study SET gap = max(gap, (SELECT seconds FROM uptime) + ?1 - coalesce(arrived, 1e300)),
    arrived = (SELECT seconds FROM uptime) + ?1 WHERE id = ?2"""


def page(raw: sqlite3.Connection, which: StudyFilter, quiet: float, uptime: float, most: int) -> list[StudyView]:
    """Return studies, the one that something came for last first; complete is what is quiet for ``quiet`` seconds."""
    where, values = _condition(which)
    asked = f"{_PAGE} WHERE {where} ORDER BY s.latest DESC LIMIT ?"
    return [_view(raw, row, quiet, uptime) for row in raw.execute(asked, (*values, min(most, MOST))).fetchall()]


async def read_studies(reading: Reading, which: StudyFilter, most: int, quiet: float = QUIET) -> list[StudyView]:
    """Return studies from a store on which no appliance need run. Raises `StoreError`."""
    return await reading.run(lambda raw: page(raw, which, quiet, retain.uptime(raw), most))


def one(raw: sqlite3.Connection, uid: str, quiet: float, uptime: float) -> StudyView | None:
    """Return the study of this Study Instance UID."""
    row = raw.execute(f"{_PAGE} WHERE s.uid = ? AND s.latest IS NOT NULL", (uid,)).fetchone()
    return None if row is None else _view(raw, row, quiet, uptime)


def arrived(raw: sqlite3.Connection, ids: Iterable[int], lag: float) -> None:
    """Put down more exactly when instances ``ids`` came: the uptime on record is ``lag`` seconds behind."""
    asked = "SELECT study FROM instance WHERE id = ?"
    studies = {raw.execute(asked, (number,)).fetchone() for number in ids}
    raw.executemany(_ARRIVED, [(lag, *study) for study in studies])


def _condition(which: StudyFilter) -> tuple[str, tuple[object, ...]]:
    parts, values = ["s.latest IS NOT NULL"], list[object]()
    for word in which.patient_name.replace("^", " ").split():
        parts.append("s.patient_name LIKE ? ESCAPE '\\'")
        values.append(f"%{_literal(word)}%")
    for column, begin in (("patient_id", which.patient_id), ("accession", which.accession)):
        if begin:
            parts.append(f"s.{column} LIKE ? ESCAPE '\\'")
            values.append(f"{_literal(begin)}%")
    if which.uid:
        parts.append("s.uid = ?")
        values.append(which.uid)
    if which.modality:
        parts.append("EXISTS (SELECT 1 FROM instance i WHERE i.study = s.id AND i.modality = ?)")
        values.append(which.modality)
    for sign, date in ((">=", which.first_date), ("<=", which.last_date)):
        if date:
            parts.append(f"s.date {sign} ?")
            values.append(date)
    if which.before is not None:
        parts.append("s.latest < ?")
        values.append(which.before)
    return " AND ".join(parts), tuple(values)


def _literal(text: str) -> str:
    """Escape what LIKE would take for a pattern."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _view(raw: sqlite3.Connection, row: tuple[object, ...], quiet: float, uptime: float) -> StudyView:
    number, latest, *texts, arrived_at, gap = row
    received, unrouted, first, last, trusted, modalities = raw.execute(_INSTANCES, (number,)).fetchone()
    gone = dict(raw.execute(_GONE, (number,)).fetchall())
    values = {
        **dict(zip(("uid", "patient_id", "patient_name", "accession", "date", "description"), texts, strict=True)),
        "id": number,
        "latest": latest,
        "modalities": tuple(sorted(filter(None, (modalities or "").split(",")))),
        "received": received,
        "lost": gone.get("lost", 0),
        "quarantined": gone.get("quarantined", 0),
        "unrouted": unrouted,
        "first_received": first or 0.0,
        "last_received": last or 0.0,
        "clock_trusted": bool(trusted),
        "complete": uptime - msgspec.convert(arrived_at, float) >= quiet,
        "reopened": msgspec.convert(gap, float) >= quiet,
        "named": _named(raw, number, latest),
        "destinations": _destinations(raw, number),
    }
    return msgspec.convert(values, StudyView)


def _named(raw: sqlite3.Connection, study: object, latest: object) -> bool:
    """Whether one request, all of which was answered with success, names everything that is here."""
    requests = raw.execute(_REQUEST, (latest, _REQUESTS)).fetchall()
    return any(raw.execute(_ALL_GOOD, (promise, study)).fetchone()[0] for (promise,) in requests)


def _destinations(raw: sqlite3.Connection, study: object) -> tuple[DestinationView, ...]:
    counts: dict[str, dict[str, int]] = {}
    for destination, state, needs_proof, number in raw.execute(_DELIVERIES, (study,)):
        count = counts.setdefault(destination, dict.fromkeys(DestinationView.__struct_fields__[1:], 0))
        count["received"] += number
        count["queued" if state == DeliveryState.SENDING else state] += number
        if state == DeliveryState.ACCEPTED and needs_proof:
            count["unproven"] += number
    return tuple(DestinationView(destination=name, **count) for name, count in counts.items())
