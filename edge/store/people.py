"""What people decide: hold, release, cancel, retry, stat, pause, resume.

Committed before anybody is told that it is done.
"""

import sqlite3
from typing import Final, Literal

import msgspec

from edge.events import decided
from edge.model import STAT
from edge.states import DeliveryState, sources
from edge.store import events
from edge.store.connection import StoreError
from edge.store.trail import Mark, write
from edge.store.turns import HELD, Turns


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which deliveries are meant: those to which every given part applies."""

    destination: str = ""
    uid: str = ""
    """SOP Instance UID, Series Instance UID, Study Instance UID, accession number, or the id of an instance."""
    delivery: int | None = None
    study: int | None = None
    """`StudyView.id`: unlike a UID, it is nobody else's choice."""
    state: DeliveryState | None = None


INSTANCES: Final = """WITH named (id) AS MATERIALIZED (
        SELECT id FROM instance WHERE sop_instance_uid = ?
        UNION SELECT id FROM instance WHERE id = CAST(? AS INTEGER) AND CAST(id AS TEXT) = ?
        UNION SELECT i.id FROM study s CROSS JOIN instance i ON i.study = s.id WHERE s.uid = ? OR s.accession = ?
    ) SELECT id FROM named UNION ALL
    SELECT i.id FROM (SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM named)) CROSS JOIN instance i WHERE i.series_uid = ?"""
"""Instances by any name a person may have for them: the same value everywhere.

Series have no index: every instance is looked at, but only where nothing else has that name.
"""

_VERBS: Final[dict[str, tuple[DeliveryState, tuple[DeliveryState, ...]]]] = {
    # verb: (state to reach, states it is reached from by this verb)
    "hold": (DeliveryState.HELD, (DeliveryState.QUEUED,)),
    "release": (DeliveryState.QUEUED, (DeliveryState.HELD,)),
    "cancel": (DeliveryState.CANCELLED, (DeliveryState.QUEUED, DeliveryState.HELD)),
    "resend": (
        DeliveryState.QUEUED,
        (DeliveryState.ACCEPTED, DeliveryState.VERIFIED, DeliveryState.CANCELLED, DeliveryState.DECLINED),
    ),
}
_TOO: Final = {"cancel": " OR state = 'accepted' AND needs_proof = 1"}
"""What else a verb may move: what was accepted and waits for a proof that may never come."""
_EVENTS: Final = {
    "hold": HELD.lower(),
    "release": "released",
    "cancel": "cancelled",
    "resend": "resend",
    "stat": "hurried",
    "pause": "paused",
    "resume": "resumed",
}
_QUEUED: Final = "SELECT coalesce(sum(instances), 0) FROM tally WHERE destination = ? AND state = 'queued'"


def decide(
    raw: sqlite3.Connection, verb: str, choice: Choice, *, who: str, reason: str, now: float, trusted: bool
) -> int:
    """Apply ``verb`` to the deliveries chosen; the number moved. Raises `StoreError` for an unknown verb.

    ``who``, unlike ``reason``, leaves the box: it is "command line", or the name of a signer.
    """
    if verb not in _VERBS:
        raise StoreError(f"{verb!r} is nothing that can be done to a delivery.")
    new, olds = _VERBS[verb]
    if not set(olds) <= set(sources(new)):
        raise StoreError(f"{verb!r} is against the state table.")
    where, values = condition(choice)
    if verb == "resend":  # what was deleted cannot be sent again
        where += " AND instance IN (SELECT id FROM instance WHERE state = 'stored')"
    movable = f"(state IN ({', '.join('?' * len(olds))}){_TOO.get(verb, '')})"
    rows = raw.execute(
        f"""UPDATE delivery SET state = ?, not_before = NULL, behind = NULL, strikes = 0, code = ?, detail = ?,
            changed_at = ? WHERE {movable} AND {where} RETURNING id, instance, destination""",
        (new, _EVENTS[verb].upper(), reason, now, *olds, *values),
    ).fetchall()
    write(
        raw,
        [
            Mark(
                instance=instance,
                destination=destination,
                at=now,
                clock_trusted=trusted,
                event=_EVENTS[verb],
                code=who,
                detail=reason,
            )
            for _, instance, destination in rows
        ],
    )
    turns = Turns(raw, now, trusted=trusted)
    if new is DeliveryState.QUEUED:
        for _, instance, destination in sorted(rows, key=lambda row: row[1]):
            turns.enter(instance, [destination], forced=verb == "resend")
    else:
        turns.leave(row[0] for row in rows)
    if rows:
        names = {row[2] for row in rows}
        told = decided(verb, names.pop() if len(names) == 1 else "", len(rows), who)
        events.write(raw, [told], now, trusted=trusted)
    return len(rows)


def pause(raw: sqlite3.Connection, destination: str, who: str, now: float, *, trusted: bool) -> bool:
    """Put down that nothing goes to ``destination``; False where it was so already."""
    asked = "INSERT INTO pause VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    changed = raw.execute(asked, (destination, who, now)).rowcount > 0
    return changed and _stop_or_go(raw, "pause", destination, who, now, trusted=trusted)


def resume(raw: sqlite3.Connection, destination: str, who: str, now: float, *, trusted: bool) -> bool:
    """Put down that ``destination`` is served again; False where it was so already."""
    changed = raw.execute("DELETE FROM pause WHERE destination = ?", (destination,)).rowcount > 0
    return changed and _stop_or_go(raw, "resume", destination, who, now, trusted=trusted)


def paused(raw: sqlite3.Connection) -> frozenset[str]:
    """Return the destinations to which nothing goes."""
    return frozenset(name for (name,) in raw.execute("SELECT destination FROM pause"))


def _stop_or_go(
    raw: sqlite3.Connection, verb: str, destination: str, who: str, now: float, *, trusted: bool
) -> Literal[True]:
    (queued,) = raw.execute(_QUEUED, (destination,)).fetchone()
    events.write(raw, [decided(verb, destination, queued, who)], now, trusted=trusted)
    mark = Mark(instance=0, destination=destination, at=now, clock_trusted=trusted, event=_EVENTS[verb], code=who)
    write(raw, [mark])
    return True


def hasten(raw: sqlite3.Connection, choice: Choice) -> int:
    """Let what waits for its time be claimed now; the number of deliveries chosen that are queued."""
    where, values = condition(choice)
    raw.execute(
        f"""UPDATE delivery SET not_before = NULL, strikes = 0
            WHERE state = 'queued' AND not_before IS NOT NULL AND {where}""",
        values,
    )
    return int(raw.execute(f"SELECT count(*) FROM delivery WHERE state = 'queued' AND {where}", values).fetchone()[0])


def hurry(raw: sqlite3.Connection, choice: Choice, *, who: str, reason: str, now: float, trusted: bool) -> int:
    """Make the deliveries chosen that are queued stat, and let them go now; their number.

    What one of them waits for, because it came before with the same UID, is made so too.
    """
    where, values = condition(choice)
    rows = raw.execute(
        f"""WITH RECURSIVE chosen (id) AS (
                SELECT id FROM delivery WHERE state = 'queued' AND {where}
                UNION SELECT d.behind FROM delivery d JOIN chosen c ON d.id = c.id WHERE d.behind IS NOT NULL
            ) UPDATE delivery SET priority = ?, changed_at = ?
            WHERE id IN chosen AND state = 'queued' AND priority > ? RETURNING instance, destination""",
        (*values, STAT, now, STAT),
    ).fetchall()
    write(
        raw,
        [
            Mark(
                instance=instance,
                destination=destination,
                at=now,
                clock_trusted=trusted,
                event=_EVENTS["stat"],
                code=who,
                detail=reason,
            )
            for instance, destination in rows
        ],
    )
    if rows:
        names = {destination for _, destination in rows}
        told = decided("stat", names.pop() if len(names) == 1 else "", len(rows), who)
        events.write(raw, [told], now, trusted=trusted)
    return hasten(raw, choice)


def condition(choice: Choice) -> tuple[str, tuple[object, ...]]:
    """Write ``choice`` as an SQL condition on delivery, with its values."""
    parts: list[str] = []
    values: list[object] = []
    if choice.destination:
        parts.append("destination = ?")
        values.append(choice.destination)
    if choice.delivery is not None:
        parts.append("id = ?")
        values.append(choice.delivery)
    if choice.study is not None:
        parts.append("instance IN (SELECT id FROM instance WHERE study = ?)")
        values.append(choice.study)
    if choice.state is not None:
        parts.append("state = ?")
        values.append(choice.state)
    if choice.uid:
        parts.append(f"instance IN ({INSTANCES})")
        values += [choice.uid] * INSTANCES.count("?")
    return " AND ".join(parts) or "1", tuple(values)
