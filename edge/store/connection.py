"""Connections to the database: one that writes, others that cannot.

Every pragma that durability rests on is set and read back. A transaction is one function that runs whole in the
connection's own thread, so no cancelled task can leave one half done and open.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite

T = TypeVar("T")

FILE: Final = "edge.sqlite"
_BUSY_MS: Final = 10_000
_PRAGMAS: Final[tuple[tuple[str, str, object], ...]] = (
    # (pragma, value to set, value to read back)
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("busy_timeout", str(_BUSY_MS), _BUSY_MS),
    ("foreign_keys", "ON", 1),
    ("trusted_schema", "OFF", 0),
    ("cell_size_check", "ON", 1),
    ("wal_autocheckpoint", "0", 0),
    ("temp_store", "MEMORY", 2),
)
_READ_ONLY: Final = frozenset({"journal_mode", "synchronous", "wal_autocheckpoint", "foreign_keys"})


class StoreError(Exception):
    """The database cannot be used, or refused what was asked; the text says why."""


class ClosedError(StoreError):
    """This user may not enter the storage path, or not talk to the appliance there."""

    def __init__(self, storage: Path) -> None:
        super().__init__(f"{storage} is closed to this user: run it as the user of the appliance (sudo -u edge).")


class NotOursError(StoreError):
    """A delivery is not being sent by this session, so what came of it is not ours to record."""


class StoreFailedError(StoreError):
    """The disk failed under the database, or took away the right to write: it must be opened anew."""


class StoreDamagedError(StoreFailedError):
    """The database is not what was written: it must be mended or made anew."""


_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FAILED: Final = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL}
)


def explain(error: sqlite3.Error, doing: str) -> StoreError:
    """Turn an error of SQLite into ours; ``doing`` completes "The database …"."""
    code = primary(error)
    text = f"The database {doing}: {error}."
    kind = StoreDamagedError if code in _DAMAGED else StoreFailedError if code in _FAILED else StoreError
    explained = kind(text)
    explained.__cause__ = error
    return explained


def primary(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, 0 where the error has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


class Connection(aiosqlite.Connection):
    """A connection on which whole functions run in the connection's thread."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in the thread that owns the connection. Raises what ``work`` raises."""
        result: T = await self._execute(lambda: work(self._conn))  # type: ignore[no-untyped-call]
        return result


async def open_writer(folder: Path) -> Connection:
    """Open the one connection that writes; makes the database. Raises `StoreError`, sqlite3.Error."""
    path = folder / FILE
    connection = Connection(lambda: sqlite3.connect(path, isolation_level=None), 64)
    await connection
    await _prepare(connection, writes=True)
    return connection


async def open_reader(folder: Path) -> Connection:
    """Open a connection that cannot write. Raises `StoreError`, sqlite3.Error."""
    uri = (folder / FILE).absolute().as_uri() + "?mode=ro"
    connection = Connection(lambda: sqlite3.connect(uri, uri=True, isolation_level=None), 64)
    await connection
    await _prepare(connection, writes=False)
    return connection


async def _prepare(connection: Connection, *, writes: bool) -> None:
    def prepare(raw: sqlite3.Connection) -> None:
        for name, value, expected in _PRAGMAS:
            if not writes and name in _READ_ONLY:
                continue
            raw.execute(f"PRAGMA {name} = {value}")
            (actual,) = raw.execute(f"PRAGMA {name}").fetchone()
            if actual != expected:
                raise StoreError(f"SQLite keeps {name} at {actual!r} where {value} was asked")

    try:
        await connection.run(prepare)
    except (StoreError, sqlite3.Error):
        await connection.close()
        raise
