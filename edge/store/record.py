"""Recording what was received: instance, deliveries and trail in one transaction; duplicates are decided here.

The key of an object is (SOP Instance UID, transfer syntax, digest of the dataset). The same bytes again make no new
instance; the same UID with other content makes one whose deliveries wait behind those of the first.
"""

import sqlite3
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from edge.model import Instance
from edge.routing import Leg
from edge.states import WAITING, DeliveryState
from edge.store.trail import Mark, write


class Fate(StrEnum):
    """What became of an object that was to be recorded."""

    NEW = "new"
    DUPLICATE = "duplicate"
    """The same bytes are here already: the file is a spare."""
    KNOWN = "known"
    """Recorded before, under this very id."""


class Recorded(msgspec.Struct, frozen=True):
    """The fate of one object; ``id`` is the instance that stands for it."""

    id: int
    fate: Fate
    twin: bool = False
    """Whether another content with this SOP Instance UID is here too."""


_KNOWN: Final = "SELECT 1 FROM instance WHERE id = ?"
_SAME_UID: Final = """SELECT id, digest = ?2 AND transfer_syntax_uid = ?3 FROM instance
    WHERE sop_instance_uid = ?1 AND state = 'stored' ORDER BY id DESC"""
_STUDY: Final = """INSERT INTO study (uid, patient_id, patient_name, accession, date, description)
    VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
_INSTANCE: Final = """INSERT INTO instance (id, study, sop_instance_uid, sop_class_uid, transfer_syntax_uid, digest,
    length, offset, series_uid, modality, series_number, series_description, instance_number, door, calling, called,
    address, received_at, clock_trusted, owed)
    VALUES (?, (SELECT id FROM study WHERE uid = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_DELIVERY: Final = """INSERT INTO delivery
    (instance, destination, state, priority, needs_proof, bytes, behind, changed_at)
    VALUES (?, ?, 'queued', ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
_PREDECESSOR: Final = f"""SELECT max(id) FROM delivery WHERE instance IN (SELECT id FROM instance
    WHERE sop_instance_uid = ?) AND instance <> ? AND destination = ?
    AND state IN ({", ".join(f"'{state}'" for state in sorted(WAITING - {DeliveryState.HELD}))})"""


def record(raw: sqlite3.Connection, batch: Sequence[tuple[Instance, Sequence[Leg]]]) -> list[Recorded]:
    """Insert what is new; idempotent by id. The trail of a duplicate goes to the instance that is here."""
    return [_record(raw, instance, legs) for instance, legs in batch]


def _record(raw: sqlite3.Connection, instance: Instance, legs: Sequence[Leg]) -> Recorded:
    if raw.execute(_KNOWN, (instance.id,)).fetchone():
        return Recorded(instance.id, Fate.KNOWN)
    kind, source = instance.kind, instance.source
    found = raw.execute(_SAME_UID, (instance.sop_instance_uid, instance.digest, kind.transfer_syntax_uid)).fetchall()
    same = next((row[0] for row in found if row[1]), None)
    detail = f"{source.calling or source.door} at {source.address}"
    if same is not None:
        missing = [leg for leg in legs if _deliver(raw, same, instance, [leg], behind=False)]
        if missing:
            raw.execute("UPDATE instance SET owed = owed + ? WHERE id = ?", (len(missing), same))
        write(raw, [_mark(instance, same, "received-again", detail)])
        return Recorded(same, Fate.DUPLICATE)
    header = instance.header
    raw.execute(
        _STUDY,
        (
            header.study_uid,
            header.patient_id,
            header.patient_name,
            header.accession,
            header.study_date,
            header.study_description,
        ),
    )
    raw.execute(
        _INSTANCE,
        (
            instance.id,
            header.study_uid,
            instance.sop_instance_uid,
            kind.sop_class_uid,
            kind.transfer_syntax_uid,
            instance.digest,
            instance.length,
            instance.offset,
            header.series_uid,
            header.modality,
            header.series_number,
            header.series_description,
            header.instance_number,
            source.door,
            source.calling,
            source.called,
            source.address,
            instance.received_at,
            instance.clock_trusted,
            len(legs),
        ),
    )
    _deliver(raw, instance.id, instance, legs, behind=bool(found))
    write(raw, [_mark(instance, instance.id, "received", detail)])
    return Recorded(instance.id, Fate.NEW, twin=bool(found))


def _deliver(raw: sqlite3.Connection, number: int, instance: Instance, legs: Sequence[Leg], *, behind: bool) -> int:
    made = 0
    for leg in legs:
        predecessor = None
        if behind:
            asked = (instance.sop_instance_uid, number, leg.destination)
            (predecessor,) = raw.execute(_PREDECESSOR, asked).fetchone()
        made += raw.execute(
            _DELIVERY,
            (
                number,
                leg.destination,
                leg.priority,
                leg.needs_proof,
                instance.length,
                predecessor,
                instance.received_at,
            ),
        ).rowcount
    return made


def _mark(instance: Instance, number: int, event: str, detail: str) -> Mark:
    return Mark(
        instance=number,
        at=instance.received_at,
        clock_trusted=instance.clock_trusted,
        event=event,
        code=instance.digest.hex(),
        detail=detail,
    )


_LOSE: Final = "UPDATE instance SET state = 'lost' WHERE id = ? AND state = 'stored'"


def lose(raw: sqlite3.Connection, ids: Sequence[int], now: float, *, trusted: bool) -> None:
    """Mark instances whose file is gone, so that the same bytes sent again are a new instance and not a duplicate."""
    lost = [number for number in ids if raw.execute(_LOSE, (number,)).rowcount]
    write(raw, [Mark(instance=number, at=now, clock_trusted=trusted, event="lost") for number in lost])
