"""Commands that came from outside: each id is remembered until it has expired, so that none is carried out twice.

A command is on record before anything is done, with its event and its line in the trail; what becomes of it likewise.
The trail has those too that were rejected, and of which nothing else is remembered.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from edge.events import Event, Value, command
from edge.messages import CommandStatus
from edge.store import events
from edge.store.connection import StoreError
from edge.store.trail import Mark, write

_OVER: Final = "status NOT IN ('accepted', 'running')"
_BEGIN: Final = """INSERT INTO command (id, type, issued_by, received_at, expires_at, status)
    VALUES (?, ?, ?, ?, ?, 'accepted') ON CONFLICT DO NOTHING"""
_FINISH: Final = f"""UPDATE command SET status = ?, reason = ?, result = ? WHERE id = ? AND NOT ({_OVER})
    RETURNING type, issued_by"""
_COLUMNS: Final = "id, type, issued_by, received_at, expires_at, status, reason, result"
_RECENT: Final = f"SELECT {_COLUMNS} FROM command WHERE {_OVER} ORDER BY rowid DESC LIMIT ?"


class CommandRow(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a command. Times are wall seconds."""

    id: str
    type: str
    issued_by: str
    received_at: float
    expires_at: float
    status: CommandStatus
    reason: str
    result: dict[str, Value]


def begin(
    raw: sqlite3.Connection, number: str, kind: str, issued_by: str, expires_at: float, now: float, *, trusted: bool
) -> bool:
    """Record a command as accepted; False, and nothing is written, where its id is known already."""
    if not raw.execute(_BEGIN, (number, kind, issued_by, now, expires_at)).rowcount:
        return False
    tell(raw, [command(number, kind, issued_by, "accepted")], now, trusted=trusted)
    return True


def finish(
    raw: sqlite3.Connection,
    number: str,
    status: CommandStatus,
    reason: str,
    result: Mapping[str, Value],
    now: float,
    *,
    trusted: bool,
) -> None:
    """Record what became of a command. Raises `StoreError` where it never began, or is over already."""
    values = (status, reason, msgspec.json.encode(result).decode(), number)
    rows = raw.execute(_FINISH, values).fetchall()
    if not rows:
        raise StoreError("That command is not being carried out.")
    kind, issued_by = rows[0]
    tell(raw, [command(number, kind, issued_by, status, reason)], now, trusted=trusted)


def get(raw: sqlite3.Connection, number: str) -> CommandRow | None:
    """Return what is remembered of a command."""
    row = raw.execute(f"SELECT {_COLUMNS} FROM command WHERE id = ?", (number,)).fetchone()
    return _command(row) if row else None


def unfinished(raw: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return id and type of each command that began and is not over, in order of arrival."""
    return raw.execute(f"SELECT id, type FROM command WHERE NOT ({_OVER}) ORDER BY rowid").fetchall()


def recent(raw: sqlite3.Connection, most: int) -> list[CommandRow]:
    """Return the last ``most`` commands that are over, in order of arrival."""
    return [_command(row) for row in reversed(raw.execute(_RECENT, (most,)).fetchall())]


def expired(raw: sqlite3.Connection, before: float) -> list[str]:
    """Return the ids of commands that are over and expired before the wall time ``before``."""
    rows = raw.execute(f"SELECT id FROM command WHERE expires_at < ? AND {_OVER} ORDER BY rowid", (before,))
    return [number for (number,) in rows.fetchall()]


def forget(raw: sqlite3.Connection, before: float) -> list[str]:
    """Forget commands that are over and expired before the wall time ``before``; their ids."""
    rows = raw.execute(f"DELETE FROM command WHERE expires_at < ? AND {_OVER} RETURNING id", (before,))
    return [number for (number,) in rows.fetchall()]


def tell(raw: sqlite3.Connection, told: Iterable[Event], now: float, *, trusted: bool) -> None:
    """Append events; each that tells of a command has a line in the trail, too."""
    told = list(told)
    events.write(raw, told, now, trusted=trusted)
    write(raw, [_mark(event, now, trusted=trusted) for event in told if event.code == "COMMAND"])


def _mark(event: Event, now: float, *, trusted: bool) -> Mark:
    data = event.data
    reason = f": {data['reason']}" if data["reason"] else ""
    return Mark(
        instance=0,
        at=now,
        clock_trusted=trusted,
        event=f"command-{data['status']}",
        code=str(data["issued_by"]),
        detail=f"{data['type']} {data['id']}{reason}".strip(),
    )


def _command(row: tuple[object, ...]) -> CommandRow:
    values = dict(zip(CommandRow.__struct_fields__, row, strict=True))
    values["result"] = events.decode(str(values["result"]))
    return msgspec.convert(values, CommandRow)
