"""What of one study is not through yet, or never will be: counted by reason, and listed piece by piece. Only reads.

What another rendering of the instance made needless is left out, as it is from the counts of the study.
"""

import itertools
import sqlite3
from typing import Any, Final

import msgspec

from edge.model import PRIORITIES
from edge.states import DeliveryState
from edge.store.counting import ELSEWHERE, REPLACED
from edge.store.reading import Reading

MOST: Final = 100
"""Deliveries in one piece of a list, at most."""
MOST_REASONS: Final = 5
"""Reasons that are told of one group: a peer may write the number of the image into each."""

_OPEN: Final = f"""(d.state IN ('queued', 'sending', 'held', 'cancelled', 'declined')
    OR d.state = 'accepted' AND d.needs_proof = 1) AND NOT ({REPLACED}) AND NOT ({ELSEWHERE})"""
_STATE: Final = "iif(d.state = 'sending', 'queued', d.state)"
_GROUPS: Final = f"""WITH reason AS (
        SELECT d.destination AS name, {_STATE} AS shown, d.code AS code, d.detail AS detail, count(*) AS number,
            min(d.changed_at) AS since, max(d.priority = 0) AS stat
        FROM instance i JOIN delivery d ON d.instance = i.id WHERE i.study = ? AND {_OPEN}
        GROUP BY name, shown, d.code, d.detail
    ), ranked AS (
        SELECT name, shown, code, detail, number, sum(number) OVER alike AS every, min(since) OVER alike AS since,
            max(stat) OVER alike AS stat, count(*) OVER alike AS reasons,
            row_number() OVER (PARTITION BY name, shown ORDER BY number DESC, code, detail) AS place
        FROM reason WINDOW alike AS (PARTITION BY name, shown)
    ) SELECT name, shown, every, since, stat, reasons, code, detail, number FROM ranked
    WHERE place <= ? ORDER BY name, shown, place"""
_ROWS: Final = f"""SELECT d.id, i.id, d.destination, {_STATE}, i.modality, i.series_number, i.instance_number,
    i.sop_instance_uid, d.priority, d.attempts, d.code, d.detail, d.changed_at, d.behind IS NOT NULL
    FROM instance i JOIN delivery d ON d.instance = i.id
    WHERE i.study = ?1 AND d.destination = ?2 AND {_STATE} = ?3 AND {_OPEN} AND d.id > ?4 ORDER BY d.id LIMIT ?5"""
_CHOSEN: Final = f"""SELECT {_STATE}, count(DISTINCT i.id), count(*)
    FROM instance i JOIN delivery d ON d.instance = i.id
    WHERE i.study = ?1 AND (?2 = '' OR d.destination = ?2) AND (?3 = '' OR {_STATE} = ?3) AND (?4 IS NULL OR d.id = ?4)
    AND {_OPEN} GROUP BY 1"""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why deliveries are where they are."""

    code: str
    detail: str
    """What the peer said, or a person; empty where nothing was tried yet."""
    count: int


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries of a study that are in one state at one destination."""

    destination: str
    state: DeliveryState
    """What is being sent counts as queued; what is accepted waits for a proof."""
    count: int
    since: float
    """Wall time of the change that is longest ago."""
    stat: bool
    """Whether any goes before all others."""
    different: int
    """How many reasons there are."""
    reasons: tuple[Reason, ...]
    """The most frequent first, at most `MOST_REASONS`."""


class StuckRow(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery that is not through."""

    id: int
    instance: int
    destination: str
    state: DeliveryState
    modality: str
    series_number: str
    instance_number: str
    sop_instance_uid: str
    priority: str
    attempts: int
    code: str
    detail: str
    changed_at: float
    """Wall time."""
    behind: bool
    """Whether it waits for another content of the same UID."""


class Chosen(msgspec.Struct, frozen=True):
    """How much a decision would concern: of one state."""

    state: DeliveryState
    images: int
    deliveries: int


async def groups(reading: Reading, study: int) -> list[Group]:
    """Return what is not through of ``study`` (`StudyView.id`), by destination, and why. Raises `StoreError`."""

    def work(raw: sqlite3.Connection) -> list[Group]:
        found = raw.execute(_GROUPS, (study, MOST_REASONS)).fetchall()
        return [_group(key, list(alike)) for key, alike in itertools.groupby(found, lambda row: row[:6])]

    return await reading.run(work)


async def rows(
    reading: Reading, study: int, destination: str, state: DeliveryState, after: int = 0, most: int = MOST
) -> list[StuckRow]:
    """Return the next ``most`` deliveries above id ``after`` that are in ``state``. Raises `StoreError`."""

    def work(raw: sqlite3.Connection) -> list[StuckRow]:
        found = raw.execute(_ROWS, (study, destination, state, after, min(most, MOST))).fetchall()
        return [_row(row) for row in found]

    return await reading.run(work)


async def chosen(
    reading: Reading, study: int, destination: str = "", state: DeliveryState | None = None, delivery: int | None = None
) -> list[Chosen]:
    """Count what is not through, of all that is chosen. Raises `StoreError`."""

    def work(raw: sqlite3.Connection) -> list[Chosen]:
        found = raw.execute(_CHOSEN, (study, destination, state or "", delivery)).fetchall()
        return [Chosen(DeliveryState(name), images, deliveries) for name, images, deliveries in found]

    return await reading.run(work)


def _group(key: tuple[Any, ...], alike: list[tuple[Any, ...]]) -> Group:
    destination, state, count, since, stat, different = key
    return Group(
        destination=destination,
        state=DeliveryState(state),
        count=count,
        since=since,
        stat=bool(stat),
        different=different,
        reasons=tuple(Reason(code=code, detail=detail, count=number) for *_, code, detail, number in alike),
    )


def _row(row: tuple[object, ...]) -> StuckRow:
    values = dict(zip(StuckRow.__struct_fields__, row, strict=True))
    priority = msgspec.convert(values["priority"], int)
    return msgspec.convert(values | {"priority": PRIORITIES[priority], "behind": bool(values["behind"])}, StuckRow)
