"""The dispatcher's side: claim, settle, ripen, give back. Every move is compare-and-set along the state table."""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edge.events import Event, refused
from edge.evidence import BY_UID, WORDS, Evidence, proves
from edge.model import BACKGROUND, ROUTINE, Kind, Need, Rendering
from edge.states import DeliveryState, may_move
from edge.store import events, promises, proofs, renderings, verdicts
from edge.store.connection import NotOursError, StoreError
from edge.store.trail import Mark, write
from edge.store.turns import Turns


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed delivery, with all that a transport needs to send it."""

    delivery: int
    instance: int
    kind: Kind
    sop_instance_uid: str
    length: int
    offset: int
    digest: bytes
    calling: str
    strikes: int
    priority: int = ROUTINE
    """Index into `model.PRIORITIES`."""
    path: Path


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one claimed delivery."""

    delivery: int
    instance: int
    destination: str
    state: DeliveryState
    code: str = ""
    """A word of this program, or a DICOM status in hexadecimal: it leaves the box, as ``detail`` never does."""
    detail: str = ""
    not_before: float | None = None
    """Monotonic time of this process before which it is not claimed again."""
    strikes: int = 0
    attempted: bool = True
    """Whether anything was sent, so that the trail tells of it."""
    evidence: Evidence | None = None
    """What proves ``state``, where that is accepted or verified."""
    rendering: Rendering | None = None
    """What was sent; None: what is stored, or nothing."""


_PROVEN: Final = frozenset({DeliveryState.ACCEPTED, DeliveryState.VERIFIED})
"""States that nothing but evidence leads to."""
REFUSED: Final = frozenset({DeliveryState.HELD, DeliveryState.DECLINED})
"""States in which a destination's refusal for good leaves a delivery."""
_CLAIM: Final = """UPDATE delivery SET state = 'sending', session = ?1, attempts = attempts + 1, changed_at = ?2
    WHERE id IN (SELECT id FROM delivery WHERE destination = ?3 AND state = 'queued'
        AND not_before IS NULL AND behind IS NULL AND priority <= ?5 ORDER BY priority, id LIMIT ?4)
    RETURNING id, instance, strikes, priority"""
_PARCEL: Final = """SELECT sop_class_uid, transfer_syntax_uid, sop_instance_uid, length, offset, digest, calling
    FROM instance WHERE id = ?"""
# by instance and destination, not by the row's own number: in a database that was made anew that is another delivery's
_SETTLE: Final = """UPDATE delivery SET state = ?1, session = NULL, code = ?2, detail = ?3, not_before = ?4,
    strikes = ?5, changed_at = ?6, attempts = attempts - ?7
    WHERE instance = ?8 AND destination = ?9 AND state = 'sending' AND session = ?10 RETURNING id"""
_GIVE_BACK: Final = "UPDATE delivery SET state = 'queued', session = NULL, changed_at = ? WHERE state = 'sending'"
_GIVEN: Final = "RETURNING instance, destination"
_TAKE_BACK: Final = """UPDATE delivery SET state = 'sending', session = ?, changed_at = ?
    WHERE instance = ? AND destination = ? AND state = 'queued'"""


def claim(
    raw: sqlite3.Connection, destination: str, most: int, session: int, now: float, lowest: int = BACKGROUND
) -> list[tuple[int, int, int, Kind, str, int, int, bytes, str, int]]:
    """Claim the next ``most`` deliveries to ``destination``, in order of priority, then arrival.

    Those of less priority than ``lowest`` stay.
    """
    claimed = raw.execute(_CLAIM, (session, now, destination, most, lowest)).fetchall()
    claimed.sort(key=lambda row: (row[3], row[0]))
    rows = []
    for delivery, instance, strikes, priority in claimed:
        sop_class, syntax, uid, length, offset, digest, calling = raw.execute(_PARCEL, (instance,)).fetchone()
        kind = Kind(sop_class, syntax)
        rows.append((delivery, instance, strikes, kind, uid, length, offset, digest, calling, priority))
    return rows


def settle(
    raw: sqlite3.Connection, settlements: Sequence[Settlement], session: int, now: float, *, trusted: bool
) -> set[str]:
    """Record outcomes of what this session claimed; the destinations where something that waited behind may go now.

    What was refused for good is told as events. Raises `NotOursError` where one is not ours to settle; then none is;
    ValueError where the evidence for one does not prove its state, which no outcome of a transport can bring about.
    """
    settlements = [_unambiguous(raw, s) for s in settlements]
    freed = _settle(raw, settlements, session, now, trusted=trusted)
    events.write(raw, _refusals(settlements), now, trusted=trusted)
    return freed


def _settle(
    raw: sqlite3.Connection, settlements: Sequence[Settlement], session: int, now: float, *, trusted: bool
) -> set[str]:
    over = []
    for s in settlements:
        if not may_move(DeliveryState.SENDING, s.state):
            raise StoreError(f"A delivery cannot go from sending to {s.state}.")
        if s.state in _PROVEN and not proves(s.evidence, s.state):
            raise ValueError(f"{s.evidence} does not prove that object {s.instance} is {s.state}")
        outcome = (s.state, s.code, s.detail, s.not_before, s.strikes, now, not s.attempted)
        changed = raw.execute(_SETTLE, (*outcome, s.instance, s.destination, session)).fetchall()
        if len(changed) != 1:
            raise NotOursError(f"Object {s.instance} is not being sent to {s.destination} by this session.")
        if s.state is not DeliveryState.QUEUED:
            over.append(changed[0][0])
    write(
        raw,
        [
            renderings.mark(s.instance, s.destination, r, now, trusted=trusted)
            for s in settlements
            if (r := s.rendering)
        ],
    )
    write(
        raw,
        [
            Mark(
                instance=s.instance,
                destination=s.destination,
                at=now,
                clock_trusted=trusted,
                event="attempted" if s.state is DeliveryState.QUEUED else str(s.state),
                code=s.code,
                detail=_told(s),
            )
            for s in settlements
            if s.attempted
        ],
    )
    return Turns(raw, now, trusted=trusted).leave(over)


def _unambiguous(raw: sqlite3.Connection, s: Settlement) -> Settlement:
    """``s``, or that it is held where its evidence is a UID which another content may have there."""
    if s.evidence not in BY_UID or not verdicts.ambiguous(raw, s.instance, s.destination):
        return s
    return msgspec.structs.replace(
        s, state=DeliveryState.HELD, code=verdicts.TWIN_UNPROVEN, detail=verdicts.OTHER_CONTENT, evidence=None
    )


def _told(s: Settlement) -> str:
    """What the trail says: of what was accepted also the evidence."""
    words = "" if s.evidence is None else WORDS.get(s.evidence, "")
    return ": ".join(filter(None, (words, s.detail)))


def _refusals(settlements: Iterable[Settlement]) -> list[Event]:
    """Tell what was refused for good, once for each destination, reason and state."""
    refusals = Counter((s.destination, s.code, s.state) for s in settlements if s.state in REFUSED)
    return [refused(*key, number) for key, number in refusals.items()]


def settle_late(
    raw: sqlite3.Connection, settlements: Sequence[Settlement], session: int, now: float, *, trusted: bool
) -> None:
    """Record outcomes whose deliveries may have been given back meanwhile; those that went on stay as they are."""
    settled = []
    for settlement in [_unambiguous(raw, s) for s in settlements]:
        raw.execute(_TAKE_BACK, (session, now, settlement.instance, settlement.destination))
        with contextlib.suppress(NotOursError):
            _settle(raw, [settlement], session, now, trusted=trusted)
            settled.append(settlement)
    events.write(raw, _refusals(settled), now, trusted=trusted)


def ripen(raw: sqlite3.Connection, monotonic: float) -> list[tuple[str, int]]:
    """Let what has waited long enough be claimed; the destinations and priorities concerned."""
    rows = raw.execute(
        """UPDATE delivery SET not_before = NULL WHERE state = 'queued' AND not_before <= ?
            RETURNING destination, priority""",
        (monotonic,),
    ).fetchall()
    return sorted(set(rows))


def recover(raw: sqlite3.Connection, session: int | None, ripe_at: float, now: float, *, trusted: bool) -> int:
    """Give back what was being sent, by other sessions than ``session``, and let what waits ripen at ``ripe_at``.

    The number given back.
    """
    raw.execute("UPDATE delivery SET not_before = ? WHERE state = 'queued' AND not_before IS NOT NULL", (ripe_at,))
    proofs.recover(raw, ripe_at)
    promises.recover(raw, ripe_at)
    rows = raw.execute(f"{_GIVE_BACK} AND session IS NOT ? {_GIVEN}", (now, session)).fetchall()
    _mark_given_back(raw, rows, "the program ended while it was being sent", now, trusted=trusted)
    return len(rows)


def give_back(raw: sqlite3.Connection, destination: str, session: int, now: float, *, trusted: bool) -> int:
    """Give back what ``session`` itself has claimed for ``destination`` and nobody sends any more; the number."""
    asked = f"{_GIVE_BACK} AND session = ? AND destination = ? {_GIVEN}"
    rows = raw.execute(asked, (now, session, destination)).fetchall()
    _mark_given_back(raw, rows, "sending failed", now, trusted=trusted)
    return len(rows)


def _mark_given_back(
    raw: sqlite3.Connection, rows: Sequence[tuple[int, str]], why: str, now: float, *, trusted: bool
) -> None:
    write(
        raw,
        [
            Mark(
                instance=instance,
                destination=destination,
                at=now,
                clock_trusted=trusted,
                event="given-back",
                detail=why,
            )
            for instance, destination in rows
        ],
    )


def upcoming(raw: sqlite3.Connection, destination: str, most: int, lowest: int = BACKGROUND) -> list[Need]:
    """Return what the next ``most`` deliveries that can be claimed need, each once, the most urgent first."""
    rows = raw.execute(
        """SELECT i.sop_class_uid, i.transfer_syntax_uid, i.calling FROM
            (SELECT instance FROM delivery WHERE destination = ? AND state = 'queued' AND not_before IS NULL
             AND behind IS NULL AND priority <= ? ORDER BY priority, id LIMIT ?) d
            JOIN instance i ON i.id = d.instance""",
        (destination, lowest, most),
    )
    return list(dict.fromkeys(Need(Kind(sop_class, syntax), calling) for sop_class, syntax, calling in rows))
