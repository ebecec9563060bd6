"""Questions about what comes and what waits, asked now and then by who looks ahead. Only reads, each within bounds.

Rows are walked from the latest arrival back, for identifiers only grow; what the clock said while it was wrong counts
for nothing.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from edge.model import PRIORITIES
from edge.store.reading import Reading

_MOST_ARRIVALS: Final = 500_000
_MOST_TO_GO: Final = 50_000
_MOST_RIPENING: Final = 10_000
CHUNK: Final = 20_000
"""Rows that are looked through at once."""


class Arrivals(msgspec.Struct, frozen=True):
    """What came within one hour. ``at`` is the wall time of its latest object, seconds since 1970."""

    at: float
    bytes: int


class Heard(msgspec.Struct, frozen=True):
    """When the latest object of a sender came, by the wall clock."""

    calling: str
    address: str
    at: float


async def arrivals(reading: Reading, since: float, until: float) -> list[Arrivals]:
    """Return what came between two wall times, by the hour, the latest first. Raises `StoreError`."""

    def work(raw: sqlite3.Connection) -> list[Arrivals]:
        hours: dict[int, Arrivals] = {}
        rows = raw.execute(
            "SELECT received_at, length FROM instance WHERE clock_trusted = 1 ORDER BY id DESC LIMIT ?",
            (_MOST_ARRIVALS,),
        )
        for at, length in rows:
            if at < since:
                break
            if at >= until:
                continue
            hour = hours.get(int(at // 3600))
            hours[int(at // 3600)] = Arrivals(hour.at if hour else at, length + (hour.bytes if hour else 0))
        return list(hours.values())

    return await reading.run(work)


async def may_go(reading: Reading, enough: int) -> int:
    """Bytes of stored objects that every destination has, counted up to ``enough``. Raises `StoreError`."""

    def work(raw: sqlite3.Connection) -> int:
        found = 0
        rows = raw.execute(
            """SELECT length FROM instance WHERE settled_at IS NOT NULL AND state = 'stored'
                ORDER BY settled_at, id LIMIT ?""",
            (_MOST_TO_GO,),
        )
        for (length,) in rows:
            found += length
            if found >= enough:
                break
        return found

    return await reading.run(work)


async def oldest_waiting(reading: Reading, destination: str) -> float | None:
    """Wall time at which the oldest object came that waits for ``destination``, and that nobody holds.

    None where nothing waits, or where the clock was wrong when it came. Raises `StoreError`.
    """
    ready = """SELECT min(id) FROM delivery WHERE destination = ?1 AND state = 'queued'
        AND not_before IS NULL AND behind IS NULL AND priority = """
    ripening = f"""SELECT min(id) FROM (SELECT id, destination FROM delivery
        WHERE state = 'queued' AND not_before IS NOT NULL LIMIT {_MOST_RIPENING}) WHERE destination = ?1"""
    # by the index of what is being sent: the planner would walk all rows for the least
    sending = "SELECT min(+id) FROM delivery WHERE state = 'sending' AND destination = ?1"
    asked = [*(ready + str(number) for number in range(len(PRIORITIES))), ripening, sending]

    def work(raw: sqlite3.Connection) -> float | None:
        ids = [raw.execute(one, (destination,)).fetchone()[0] for one in asked]
        oldest = min((number for number in ids if number is not None), default=None)
        row = raw.execute(
            """SELECT i.received_at FROM delivery d JOIN instance i ON i.id = d.instance
                WHERE d.id = ? AND i.clock_trusted = 1""",
            (oldest,),
        ).fetchone()
        return None if row is None else float(row[0])

    return await reading.run(work)


async def latest_id(reading: Reading) -> int:
    """Return the number of the latest instance; 0 where there is none. Raises `StoreError`."""
    return await reading.run(lambda raw: int(raw.execute("SELECT coalesce(max(id), 0) FROM instance").fetchone()[0]))


async def heard(reading: Reading, titles: Sequence[str], upto: int) -> tuple[list[Heard], int]:
    """Tell who of ``titles`` sent anything among so many instances up to the number ``upto``.

    Returns what was found, and the number from which to go on; 0: there is no more. Raises `StoreError`.
    """
    marks = ", ".join("?" * len(titles))

    def work(raw: sqlite3.Connection) -> tuple[list[Heard], int]:
        least = raw.execute(
            "SELECT id FROM instance WHERE id <= ? ORDER BY id DESC LIMIT 1 OFFSET ?", (upto, CHUNK - 1)
        ).fetchone()
        first = int(least[0]) if least else 0
        rows = raw.execute(
            f"""SELECT calling, address, max(received_at) FROM instance WHERE id BETWEEN ? AND ?
                AND clock_trusted = 1 AND calling IN ({marks}) GROUP BY calling, address""",
            (first, upto, *titles),
        )
        return [Heard(calling, address, at) for calling, address, at in rows], max(0, first - 1)

    return await reading.run(work)
