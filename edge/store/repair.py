"""A damaged database: mended from its tables where they are whole, else made anew with what people had decided.

The damaged one is kept beside it, as ``db.damaged``. The new one is made whole in ``db.new`` and takes the name in one
rename, so that a cut at any moment leaves one of the two, and the work is simply done again. What is not in a database
that was made anew comes back from the seals of the files.
"""

import shutil
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from edge.fsync import sync_path
from edge.store.connection import FILE
from edge.store.record import CAME_FROM_IT
from edge.store.schema import FILL_PROOFS, VERSION, migrate
from edge.store.turns import OTHER_RENDERING

_DECISIONS: Final = frozenset({"held", "cancelled"})
_LOG: Final = ("event", "log")
_PROOFS: Final = ("proof", "refused", "request", "requested")
"""What is owed a proof follows from the deliveries, and what was asked can be asked again."""
_ORDERS: Final = {
    "pause": "destination, who, at",
    "command": "id, type, issued_by, received_at, expires_at, status, reason, result",
    "promise": "id, transaction_uid, calling, called, address, at, clock_trusted, since, state, named, times, tries",
    "promised": "promise, position, sop_class_uid, sop_instance_uid, reason",
}
"""What people, signers and modalities said, besides decisions about deliveries: so that a command stays known, and a
modality that waits for its report gets one."""
_PROMISES: Final = (
    "DELETE FROM promised WHERE promise NOT IN (SELECT id FROM promise)",
    "DELETE FROM promise WHERE id NOT IN (SELECT promise FROM promised)",
    # uptime begins anew; what was not all decided is decided anew, as far as it could be read
    "UPDATE promise SET since = 0, ready_since = iif(state = 'ready', 0, NULL)",
    """UPDATE promise SET state = 'waiting', ready_since = NULL WHERE state = 'ready'
        AND EXISTS (SELECT 1 FROM promised WHERE promise = promise.id AND reason IS NULL)""",
)
_HIGHEST: Final = 1 << 62
_ERRORS_SHOWN: Final = 5
_BATCH: Final = 5000
_MOST_FAILURES: Final = 50_000
"""Reads that fail before a table is given up: where its root is gone, every one does."""
_PAGE: Final = 4096
_MODEL, _SPLICED = "model.sqlite", "spliced.sqlite"
_SEQUENCE_STEP: Final = 1 << 20
"""Numbers of the trail left out after the highest that could be read, so that none comes twice."""


_TALLIES: Final = (
    "INSERT INTO tally SELECT destination, state, count(*), sum(bytes) FROM delivery GROUP BY destination, state",
    """INSERT INTO tally SELECT '', 'owed', count(*), sum(length) FROM instance WHERE owed > 0 HAVING count(*) > 0""",
)


class Mended(StrEnum):
    """How a database came back."""

    WHOLE = "whole"
    """Every table could be read, but perhaps not the log of events; indexes and free pages were made again."""
    ANEW = "anew"
    """It is empty but for decisions, commands, promises and trail: the files must be indexed again."""


def complete(storage: Path) -> None:
    """Finish a repair that was cut between its two renames; throw away one that was cut before. Raises OSError."""
    db, new = storage / "db", storage / "db.new"
    if (db / FILE).exists():
        shutil.rmtree(new, ignore_errors=True)
    elif (new / "whole").exists():
        shutil.rmtree(db, ignore_errors=True)
        new.rename(db)
        sync_path(storage)


def repair(storage: Path) -> Mended:
    """Replace the database below ``storage``. No connection to it may be open. Raises OSError, sqlite3.Error."""
    new = storage / "db.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    old = storage / "db" / FILE
    if not _has_schema(old):
        old = _with_first_page(old, new)
    try:
        _copy(old, new / FILE)
        how = Mended.WHOLE
    except sqlite3.DatabaseError:
        (new / FILE).unlink(missing_ok=True)
        _salvage(old, new / FILE)
        how = Mended.ANEW
    for name in (_MODEL, _SPLICED, f"{_SPLICED}-wal", f"{_SPLICED}-shm"):
        (new / name).unlink(missing_ok=True)
    _take_over(storage, new)
    return how


def check(path: Path) -> list[str]:
    """Return what SQLite finds wrong with the database at ``path``, reading all of it; none where it is sound.

    Raises sqlite3.Error where it cannot even be asked.
    """
    raw = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        rows = raw.execute(f"PRAGMA integrity_check({_ERRORS_SHOWN})").fetchall()
    finally:
        raw.close()
    return [text for (text,) in rows if text != "ok"]


def _has_schema(path: Path) -> bool:
    """Whether the first page, which has the schema, can be read."""
    try:
        raw = sqlite3.connect(path, isolation_level=None)
        try:
            return bool(raw.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])
        finally:
            raw.close()
    except sqlite3.Error:
        return False


def _with_first_page(old: Path, folder: Path) -> Path:
    """Copy a database whose first page is gone, with the first page of an empty one of ours in its place.

    The tables of a database lie where those of an empty one lie, unless it came out of a migration; then what is read
    by this is nonsense that the schema refuses.
    """
    model, spliced = folder / _MODEL, folder / _SPLICED
    raw = sqlite3.connect(model, isolation_level=None)
    try:
        migrate(raw)
    finally:
        raw.close()
    shutil.copyfile(old, spliced)
    wal = old.with_name(f"{old.name}-wal")
    if wal.exists():
        shutil.copyfile(wal, spliced.with_name(f"{spliced.name}-wal"))
    with model.open("rb") as file:
        page = bytearray(file.read(_PAGE))
    page[18:20] = b"\2\2"  # file format: with a write-ahead log
    page[28:32] = (old.stat().st_size // _PAGE).to_bytes(4, "big")  # length in pages
    page[32:40] = bytes(8)  # no list of free pages
    with spliced.open("r+b") as file:
        file.write(page)
    return spliced


def _take_over(storage: Path, new: Path) -> None:
    """Sync ``db.new`` and give it the name."""
    (new / "whole").touch()
    for path in (new / FILE, new / "whole", new):
        sync_path(path)
    damaged = storage / "db.damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    (storage / "db").rename(damaged)
    sync_path(storage)
    new.rename(storage / "db")
    sync_path(storage)


def _copy(old: Path, new: Path) -> None:
    """Copy every table whole; make indexes and tallies again. Raises sqlite3.Error where a table cannot be read.

    A log of events that cannot be read is no reason to give up deliveries that can: it is begun anew. Nor are proofs.
    """
    left_out = {"tally", *(table for group in (_LOG, _PROOFS) if not _has(old, group) for table in group)}
    raw = sqlite3.connect(new, isolation_level=None)
    try:
        raw.execute("ATTACH ? AS damaged", (str(old),))
        (version,) = raw.execute("PRAGMA damaged.user_version").fetchone()
        if not 0 < version <= VERSION:
            raise sqlite3.DatabaseError(f"version {version}")
        raw.execute("PRAGMA cell_size_check = ON")
        migrate(raw, version)
        raw.execute("BEGIN")
        triggers = raw.execute("SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            raw.execute(f"DROP TRIGGER {name}")
        tables = [row[0] for row in raw.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")]
        for table in tables:
            raw.execute(f"DELETE FROM main.{table}")
            if table not in left_out:
                _copy_table(raw, table)
        raw.executemany("DELETE FROM main.sqlite_sequence WHERE name = ?", [(table,) for table in left_out])
        for statement in (*_TALLIES, *(FILL_PROOFS if "proof" in left_out & set(tables) else ())):
            raw.execute(statement)
        for _, sql in triggers:
            raw.execute(sql)
        raw.execute("COMMIT")
        if raw.execute("PRAGMA main.foreign_key_check").fetchone():
            raise sqlite3.DatabaseError("rows refer to rows that are not there")
    finally:
        raw.close()
    if found := check(new):
        raise sqlite3.DatabaseError(found[0])


def _copy_table(raw: sqlite3.Connection, table: str) -> None:
    columns = ", ".join(row[1] for row in raw.execute(f"PRAGMA main.table_info({table})"))
    # ordered, so that it is read by the table's own tree: SQLite else copies the indexes as they are
    source = f"damaged.{table} NOT INDEXED ORDER BY 1"
    raw.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM {source}")


def _has(path: Path, tables: Iterable[str]) -> bool:
    """Whether all of ``tables`` can be read, on a connection of its own: one that met damage is of no more use."""
    raw = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        for table in tables:
            deque(raw.execute(f"SELECT * FROM {table} NOT INDEXED ORDER BY 1"), maxlen=0)
    except (sqlite3.Error, UnicodeDecodeError):
        return False
    else:
        return True
    finally:
        raw.close()


def _salvage(old: Path, new: Path) -> None:
    """Make an empty database with the decisions, commands, promises and trail that can still be read in ``old``.

    Events are not carried over: its log is begun anew.
    """
    fresh = sqlite3.connect(new, isolation_level=None)
    try:
        migrate(fresh)
        fresh.execute("BEGIN")
        try:
            damaged = sqlite3.connect(f"{old.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        except sqlite3.Error:
            damaged = sqlite3.connect(":memory:")
        try:
            _decisions(damaged, fresh)
            for table, columns in _ORDERS.items():
                marks = ", ".join("?" * len(columns.split(",")))
                for row in _rows(damaged, table, columns, "rowid"):
                    _kept(fresh, f"INSERT INTO {table} ({columns}) VALUES ({marks})", row)
        finally:
            damaged.close()
        for statement in _PROMISES:
            fresh.execute(statement)
        (last,) = fresh.execute("SELECT coalesce(max(seq), 0) FROM trail").fetchone()
        fresh.execute("DELETE FROM sqlite_sequence WHERE name = 'trail'")
        fresh.execute("INSERT INTO sqlite_sequence VALUES ('trail', ?)", (last + _SEQUENCE_STEP,))
        fresh.execute("COMMIT")
    finally:
        fresh.close()


def _decisions(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> None:
    """Copy the trail, and what people had decided: as the delivery says, else as the trail says."""
    standing: dict[tuple[int, str], tuple[str, str, str]] = {}
    columns = "seq, instance, destination, at, clock_trusted, event, code, detail"
    for row in _rows(damaged, "trail", columns, "seq"):
        if _kept(fresh, f"INSERT INTO trail ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row):
            _, instance, destination, _, _, event, _, detail = row
            if event in _DECISIONS:
                standing[instance, destination] = (event, event.upper(), detail)
            elif destination:  # released, sent again, accepted: the decision is over
                standing.pop((instance, destination), None)
    for instance, destination, state, code, detail in _rows(
        damaged, "delivery", "instance, destination, state, code, detail", "id"
    ):
        if state in _DECISIONS and code not in (OTHER_RENDERING, CAME_FROM_IT):
            standing[instance, destination] = (state, code, detail)
        else:
            standing.pop((instance, destination), None)
    for (instance, destination), decision in standing.items():
        _kept(fresh, "INSERT INTO salvaged VALUES (?, ?, ?, ?, ?)", (instance, destination, *decision))


def _kept(fresh: sqlite3.Connection, statement: str, row: tuple[Any, ...]) -> bool:
    """Insert a row that may be nonsense: the schema decides."""
    try:
        fresh.execute(statement, row)
    except (sqlite3.IntegrityError, sqlite3.DataError):
        return False
    return True


def _rows(raw: sqlite3.Connection, table: str, columns: str, key: str) -> Iterator[tuple[Any, ...]]:
    """Read every row that can be read, in order of ``key``: a range that fails is halved, down to single rows."""
    asked = f"""SELECT {key}, {columns} FROM {table} NOT INDEXED WHERE {key} >= ? AND {key} < ?
        ORDER BY {key} LIMIT {_BATCH}"""
    ranges, failures = [(0, _HIGHEST)], 0
    while ranges and failures < _MOST_FAILURES:
        low, high = ranges.pop()
        try:
            rows = raw.execute(asked, (low, high)).fetchall()
        except (sqlite3.Error, UnicodeDecodeError):
            failures += 1
            if high - low > 1:
                middle = (low + high) // 2
                ranges += [(middle, high), (low, middle)]
            continue
        if len(rows) == _BATCH:
            ranges.append((rows[-1][0] + 1, high))
        for row in rows:
            yield row[1:]
