"""The event log: rows that leave the box in order, and the bound that keeps them from filling it.

An event is written in the transaction of what it tells. The numbers of a log grow and are never given twice; a log that
was begun anew has another epoch. So has one that was set back behind what had left the box, by a backup or by damage:
``identity/events``, beside the database, has the highest number that was sent. A log without an epoch takes no events:
that of a copy which stands in for a moment, where their numbers would come twice.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edge.events import Event, Value, gap
from edge.findings import Severity
from edge.fsync import replace_synced

MOST: Final = 200_000
"""Events kept where nothing else is said."""
_PRUNED: Final = 10
"""One of so many goes when there are too many, so that it is not done for every event."""
_GAP: Final = "GAP"
_MOST_MARK: Final = 64
"""Bytes of the file with the highest number sent."""
_LEAST_FIRST: Final = (Severity.INFO, Severity.WARNING, Severity.ERROR)

_INSERT: Final = """INSERT INTO event (at, clock_trusted, severity, component, code, data) VALUES (?, ?, ?, ?, ?, ?)"""
_COUNT: Final = "UPDATE log SET kept = kept + ?"
_AFTER: Final = """SELECT seq, at, clock_trusted, severity, component, code, data FROM event
    WHERE seq > ? ORDER BY seq LIMIT ?"""
_LAST: Final = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0)"
_OLDEST: Final = """SELECT min(seq), max(seq) FROM (SELECT seq FROM event WHERE severity = ? ORDER BY seq LIMIT ?)"""
_EARLIER_GAPS: Final = "SELECT data FROM event WHERE severity = ? AND seq <= ? AND code = ?"
_PRUNE: Final = "DELETE FROM event WHERE severity = ? AND seq <= ?"


class Dated(msgspec.Struct, frozen=True):
    """An event, and the wall time at which it happened."""

    at: float
    clock_trusted: bool
    event: Event


class LoggedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it stands in the log."""

    seq: int
    at: float
    clock_trusted: bool
    severity: Severity
    component: str
    code: str
    data: dict[str, Value]


def begin(raw: sqlite3.Connection, new_epoch: Callable[[], int]) -> int:
    """Return the log's epoch; one that has none yet, or was set back, takes that of ``new_epoch``.

    Raises what that raises.
    """
    row = raw.execute("SELECT epoch FROM log").fetchone()
    if row is None:
        epoch = new_epoch()
        raw.execute("INSERT INTO log VALUES (1, ?, (SELECT count(*) FROM event))", (epoch,))
        return epoch
    (last,) = raw.execute(_LAST).fetchone()
    (path,) = raw.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
    if _sent(Path(path).parents[1]) <= (row[0], last):
        return int(row[0])
    epoch = new_epoch()
    raw.execute("UPDATE log SET epoch = ?", (epoch,))
    return epoch


def mark(storage: Path, epoch: int, seq: int) -> None:
    """Put down, before it leaves the box, that number ``seq`` of ``epoch`` was sent. Raises OSError."""
    if (epoch, seq) > _sent(storage):
        replace_synced(_mark_of(storage), f"{epoch} {seq}\n".encode("ascii"), 0o600)


def _sent(storage: Path) -> tuple[int, int]:
    """Return the epoch and the number that were put down last; (0, 0) where there are none."""
    try:
        with _mark_of(storage).open("rb") as file:
            text = file.read(_MOST_MARK + 1)
        epoch, seq = (int(word) for word in text.split())
    except (OSError, ValueError):
        return 0, 0
    return (epoch, seq) if len(text) <= _MOST_MARK else (0, 0)


def _mark_of(storage: Path) -> Path:
    return storage / "identity" / "events"


def mute(raw: sqlite3.Connection) -> None:
    """Let the log take no more events."""
    raw.execute("DELETE FROM log")


def write(raw: sqlite3.Connection, events: Iterable[Event], now: float, *, trusted: bool) -> None:
    """Append ``events``, which happened now."""
    write_dated(raw, [Dated(now, trusted, event) for event in events])


def write_dated(raw: sqlite3.Connection, dated: Sequence[Dated]) -> None:
    """Append events of earlier times too; their numbers are in the order given."""
    if dated and raw.execute(_COUNT, (len(dated),)).rowcount:
        raw.executemany(_INSERT, [_row(d) for d in dated])


def after(raw: sqlite3.Connection, seq: int, most: int) -> list[LoggedEvent]:
    """Return the next ``most`` events above ``seq``, in order."""
    return [
        LoggedEvent(
            seq=number,
            at=at,
            clock_trusted=bool(trusted),
            severity=Severity(severity),
            component=component,
            code=code,
            data=decode(data),
        )
        for number, at, trusted, severity, component, code, data in raw.execute(_AFTER, (seq, most))
    ]


def range_(raw: sqlite3.Connection) -> tuple[int, int]:
    """Return the first number kept and the highest ever given; the first is above it where none is kept."""
    (last,) = raw.execute(_LAST).fetchone()
    (first,) = raw.execute("SELECT min(seq) FROM event").fetchone()
    return (last + 1 if first is None else first, last)


def kept(raw: sqlite3.Connection) -> int:
    """Return how many events are kept, without counting them."""
    row = raw.execute("SELECT kept FROM log").fetchone()
    return int(row[0]) if row else 0


def drop(raw: sqlite3.Connection, up_to: int) -> int:
    """Delete the events up to number ``up_to``, which somebody has; how many."""
    dropped = raw.execute("DELETE FROM event WHERE seq <= ?", (up_to,)).rowcount
    raw.execute(_COUNT, (-dropped,))
    return dropped


def prune(raw: sqlite3.Connection, most: int, now: float, *, trusted: bool) -> Event | None:
    """Where more than ``most`` are kept, delete the least severe, of these the oldest, and write a GAP event.

    A tenth below ``most`` is left. A GAP event that goes too is part of the new one, which so tells of every number
    that is missing. None where there are not too many.
    """
    have = kept(raw)
    if have <= most:
        return None
    excess = have + 1 - (most - most // _PRUNED)
    numbers: list[int] = []
    count = 0
    for severity in _LEAST_FIRST:
        if excess <= 0:
            break
        first, last = raw.execute(_OLDEST, (severity, excess)).fetchone()
        if last is None:
            continue
        numbers += (first, last)
        for (data,) in raw.execute(_EARLIER_GAPS, (severity, last, _GAP)):
            earlier = decode(data)
            numbers += (int(earlier.get("from", first)), int(earlier.get("to", last)))
            count += int(earlier.get("count", 0))
        gone = raw.execute(_PRUNE, (severity, last)).rowcount
        excess -= gone
        count += gone
        raw.execute(_COUNT, (-gone,))
    told = gap(min(numbers), max(numbers), count)
    write(raw, [told], now, trusted=trusted)
    return told


def decode(data: str) -> dict[str, Value]:
    """Read what was written as JSON; nothing where the disk has made nonsense of it, which must not stop the rest."""
    try:
        return msgspec.json.decode(data, type=dict[str, Value])
    except ValueError:  # also msgspec's own
        return {}


def _row(dated: Dated) -> tuple[object, ...]:
    event = dated.event
    data = msgspec.json.encode(event.data).decode()
    return (dated.at, dated.clock_trusted, event.severity, event.component, event.code, data)
