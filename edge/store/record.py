"""Recording what was received: instance, deliveries and trail in one transaction; duplicates are decided here.

The key of an object is (SOP Instance UID, transfer syntax, digest of the dataset). The same bytes again make no new
instance; the same UID with another key makes one whose deliveries wait their turn (`edge.store.turns`).
"""

import sqlite3
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from edge.model import Header, Instance, Source
from edge.routing import Leg
from edge.states import DeliveryState
from edge.store import taken
from edge.store.trail import Mark, write
from edge.store.turns import Turns


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
    """Whether another content with this SOP Instance UID in the same transfer syntax is or was here."""


_ANY_SALVAGED: Final = "SELECT EXISTS (SELECT 1 FROM salvaged)"
_SALVAGED: Final = """UPDATE delivery SET (state, code, detail) = (
        SELECT state, code, detail FROM salvaged s WHERE s.instance = delivery.instance
        AND s.destination = delivery.destination
    ) WHERE instance = ?1 AND state = 'queued'
    AND destination IN (SELECT destination FROM salvaged WHERE instance = ?1)"""
_KNOWN: Final = "SELECT 1 FROM instance WHERE id = ?"
_SAME_UID: Final = """SELECT id, digest = ?2, transfer_syntax_uid = ?3, state = 'stored' FROM instance
    WHERE sop_instance_uid = ?1 ORDER BY id DESC"""
_STUDY: Final = """INSERT INTO study (uid, patient_id, patient_name, accession, date, description)
    VALUES (?, ?, ?, ?, ?, ?)"""
_INSTANCE: Final = """INSERT INTO instance (id, study, sop_instance_uid, sop_class_uid, transfer_syntax_uid, digest,
    length, offset, series_uid, modality, series_number, series_description, instance_number, door, calling, called,
    address, received_at, clock_trusted, owed, unrouted)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
CAME_FROM_IT: Final = "CAME_FROM_IT"
"""The code of a delivery that does not go because its destination sent the object."""
_NOT_BACK: Final = f"""UPDATE delivery SET state = ?, code = '{CAME_FROM_IT}', detail = ?, changed_at = ?
    WHERE instance = ? AND destination = ? AND state = 'queued'"""
_AFTER_ALL: Final = f"""UPDATE delivery SET state = 'queued', code = '', detail = '', priority = min(priority, ?),
    changed_at = ? WHERE instance = ? AND destination = ? AND code = '{CAME_FROM_IT}'
    AND state IN ('cancelled', 'held')"""
_DELIVERY: Final = """INSERT INTO delivery (instance, destination, state, priority, needs_proof, bytes, changed_at)
    VALUES (?, ?, 'queued', ?, ?, ?, ?) ON CONFLICT DO NOTHING"""


def record(raw: sqlite3.Connection, batch: Sequence[tuple[Instance, Sequence[Leg]]]) -> list[Recorded]:
    """Insert what is new; idempotent by id. The trail of a duplicate goes to the instance that is here."""
    return [_record(raw, instance, legs) for instance, legs in batch]


def _record(raw: sqlite3.Connection, instance: Instance, legs: Sequence[Leg]) -> Recorded:
    if raw.execute(_KNOWN, (instance.id,)).fetchone():
        return Recorded(instance.id, Fate.KNOWN)
    kind, source = instance.kind, instance.source
    found = raw.execute(_SAME_UID, (instance.sop_instance_uid, instance.digest, kind.transfer_syntax_uid)).fetchall()
    same = next((number for number, bytes_, syntax, stored in found if bytes_ and syntax and stored), None)
    detail = f"{source.calling or source.door} at {source.address}"
    if source.file is not None:
        key = taken.Key(instance.sop_instance_uid, kind.transfer_syntax_uid, instance.digest)
        if same is None and (same := taken.delivered(raw, source.file, key)) is not None:
            legs = ()
        taken.remember(raw, source.file, instance.id if same is None else same, key)
    if same is not None:
        # what came from a destination too goes there all the same where others have sent it
        sent = [leg for leg in legs if not leg.back]
        missing = [leg for leg in sent if _deliver(raw, same, [leg], instance.length, instance.received_at)]
        if missing:
            values = (len(missing), same)
            raw.execute("UPDATE instance SET owed = owed + ?, unrouted = 0 WHERE id = ?", values)
        entering = missing + [leg for leg in sent if _send_after_all(raw, same, leg, instance.received_at)]
        if entering:
            _take_turns(raw, same, instance, entering)
        write(raw, [_mark(instance, same, "received-again", detail)])
        return Recorded(same, Fate.DUPLICATE)
    header = instance.header
    study = _study(raw, header)
    raw.execute(
        _INSTANCE,
        (
            instance.id,
            study,
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
            not legs,
        ),
    )
    _deliver(raw, instance.id, legs, instance.length, instance.received_at)
    _keep_decisions(raw, instance.id)
    write(raw, [_mark(instance, instance.id, "received", detail)])
    _spare(raw, instance.id, legs, instance.received_at, trusted=instance.clock_trusted)
    if found:
        _take_turns(raw, instance.id, instance, legs)
    twin = any(syntax and not bytes_ for _, bytes_, syntax, _ in found)
    return Recorded(instance.id, Fate.NEW, twin=twin)


def _study(raw: sqlite3.Connection, header: Header) -> int:
    """The row of the study; an object that names none is a study of its own."""
    uid = header.study_uid or None
    found = raw.execute("SELECT id FROM study WHERE uid = ?", (uid,)).fetchone()
    if found:
        return int(found[0])
    values = (
        uid,
        header.patient_id,
        header.patient_name,
        header.accession,
        header.study_date,
        header.study_description,
    )
    return raw.execute(_STUDY, values).lastrowid or 0


def stored(raw: sqlite3.Connection, sop_instance_uid: str, transfer_syntax_uid: str, digest: bytes) -> bool:
    """Whether an object of this key is here."""
    asked = (sop_instance_uid, digest, transfer_syntax_uid)
    return any(all(same) for _, *same in raw.execute(_SAME_UID, asked))


def unrouted(raw: sqlite3.Connection, last: int, most: int) -> list[tuple[int, Header, Source]]:
    """Instances above ``last`` without any delivery, oldest first, with what a route looks at."""
    rows = raw.execute(
        """SELECT i.id, i.sop_class_uid, i.modality, s.description, i.door, i.calling, i.called, i.address
            FROM instance i JOIN study s ON s.id = i.study
            WHERE i.unrouted = 1 AND i.state = 'stored' AND i.id > ? ORDER BY i.id LIMIT ?""",
        (last, most),
    )
    return [
        (
            number,
            Header(sop_class_uid=sop_class, modality=modality, study_description=description),
            Source(door=door, calling=calling, called=called, address=address),
        )
        for number, sop_class, modality, description, door, calling, called, address in rows
    ]


def route(raw: sqlite3.Connection, routed: Sequence[tuple[int, Sequence[Leg]]], now: float, *, trusted: bool) -> None:
    """Make deliveries for instances that have none; one that no route wants is asked about again at the next start."""
    turns = Turns(raw, now, trusted=trusted)
    asked = "SELECT length FROM instance WHERE id = ? AND unrouted = 1"
    for number, legs in routed:
        found = raw.execute(asked, (number,)).fetchone()
        if found is None or not legs:  # it came again meanwhile, and was routed then
            continue
        (length,) = found
        _deliver(raw, number, legs, length, now)
        raw.execute("UPDATE instance SET owed = ?, unrouted = 0 WHERE id = ?", (len(legs), number))
        _keep_decisions(raw, number)
        _spare(raw, number, legs, now, trusted=trusted)
        turns.enter(number, [leg.destination for leg in legs])


def _deliver(raw: sqlite3.Connection, number: int, legs: Sequence[Leg], length: int, now: float) -> int:
    """Queue ``legs`` for instance ``number``; how many there were not yet."""
    made = 0
    for leg in legs:
        values = (number, leg.destination, leg.priority, leg.needs_proof, length, now)
        made += raw.execute(_DELIVERY, values).rowcount
    return made


def _spare(raw: sqlite3.Connection, number: int, legs: Sequence[Leg], now: float, *, trusted: bool) -> None:
    """Send nothing back to whoever sent the object, with a word on the trail.

    Where it goes nowhere else a person decides: that it came from there does not prove that it is kept there.
    """
    alone = all(leg.back for leg in legs)
    state = DeliveryState.HELD if alone else DeliveryState.CANCELLED
    why = "it came from there" + ", and no rule sends it anywhere else" * alone
    for name in (leg.destination for leg in legs if leg.back):
        if raw.execute(_NOT_BACK, (state, why, now, number, name)).rowcount:
            mark = Mark(
                instance=number,
                destination=name,
                at=now,
                clock_trusted=trusted,
                event="not-sent-back",
                code=CAME_FROM_IT,
                detail=why,
            )
            write(raw, [mark])


def _send_after_all(raw: sqlite3.Connection, number: int, leg: Leg, now: float) -> bool:
    """Queue what was not to be sent back, now that another has sent it; whether there was such a delivery."""
    return raw.execute(_AFTER_ALL, (leg.priority, now, number, leg.destination)).rowcount > 0


def _take_turns(raw: sqlite3.Connection, number: int, instance: Instance, legs: Sequence[Leg]) -> None:
    turns = Turns(raw, instance.received_at, trusted=instance.clock_trusted)
    turns.enter(number, [leg.destination for leg in legs])


def _keep_decisions(raw: sqlite3.Connection, number: int) -> None:
    """Put aside what people had put aside in a database that was lost, before any lane can see it."""
    if raw.execute(_ANY_SALVAGED).fetchone()[0]:
        raw.execute(_SALVAGED, (number,))


def _mark(instance: Instance, number: int, event: str, detail: str) -> Mark:
    return Mark(
        instance=number,
        at=instance.received_at,
        clock_trusted=instance.clock_trusted,
        event=event,
        code=instance.digest.hex(),
        detail=detail,
    )


CURED: Final = """EXISTS (SELECT 1 FROM instance c WHERE c.sop_instance_uid = instance.sop_instance_uid
    AND c.id > instance.id AND c.digest = instance.digest AND c.transfer_syntax_uid = instance.transfer_syntax_uid
    AND c.state IN ('stored', 'expired'))"""
"""Of an instance that is lost: whether the same bytes came again since."""
_RESTATE: Final = "UPDATE instance SET state = ? WHERE id = ? AND state = ?"


def lose(raw: sqlite3.Connection, ids: Sequence[int], now: float, *, trusted: bool) -> None:
    """Mark instances whose file is gone, so that the same bytes sent again are a new instance and not a duplicate."""
    turns = Turns(raw, now, trusted=trusted)
    for number in _restate(raw, ids, "stored", "lost", Mark(instance=0, at=now, clock_trusted=trusted, event="lost")):
        turns.pass_over(number)


def find(raw: sqlite3.Connection, ids: Sequence[int], now: float, *, trusted: bool) -> None:
    """Mark instances as stored whose file was lost and is there again."""
    turns = Turns(raw, now, trusted=trusted)
    for number in _restate(raw, ids, "lost", "stored", Mark(instance=0, at=now, clock_trusted=trusted, event="found")):
        turns.come_back(number)


def _restate(raw: sqlite3.Connection, ids: Sequence[int], old: str, new: str, mark: Mark) -> list[int]:
    """Move instances from state ``old`` to ``new``; those that moved get ``mark`` and are returned."""
    moved = [number for number in ids if raw.execute(_RESTATE, (new, number, old)).rowcount]
    write(raw, [msgspec.structs.replace(mark, instance=number) for number in moved])
    return moved
