"""Questions to the store, on a connection that cannot write: what status, queue and trace tell."""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from edge.evidence import told
from edge.model import BACKGROUND, PRIORITIES
from edge.states import DeliveryState
from edge.store import capabilities, renderings
from edge.store.capabilities import Capability
from edge.store.connection import FILE, ClosedError, Connection, StoreError, StoreFailedError, explain, open_reader
from edge.store.people import INSTANCES, Choice, condition
from edge.store.record import CURED

T = TypeVar("T")
_MOST_ROWS: Final = 10_000


class Tally(msgspec.Struct, frozen=True):
    """How many instances, and how many bytes."""

    instances: int = 0
    bytes: int = 0


class DeliveryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the queue."""

    id: int
    instance: int
    destination: str
    state: str
    sop_instance_uid: str
    study_uid: str
    modality: str
    bytes: int
    priority: str
    attempts: int
    code: str
    detail: str
    changed_at: float


class TrailRow(msgspec.Struct, frozen=True, kw_only=True):
    """One step of an instance."""

    at: float
    clock_trusted: bool
    event: str
    destination: str
    code: str
    detail: str


class ProofRow(msgspec.Struct, frozen=True, kw_only=True):
    """Why a delivery counts as accepted or verified."""

    destination: str
    evidence: str
    """One of `edge.evidence.Evidence`; empty where it was settled before the trail told it."""
    by: str
    """Transaction UID of the commitment, ``query``, or the status that was answered."""
    at: float
    """Wall time, seconds since 1970."""
    clock_trusted: bool
    sent_transfer_syntax_uid: str = ""
    """In what it was sent; empty: as it is stored."""
    sent_sha256: str = ""
    """Of the dataset that was sent; empty: as it is stored."""


class InstanceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One instance, with its deliveries and its trail: the receipt."""

    id: int
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    accession: str
    modality: str
    sha256: str
    bytes: int
    state: str
    received_at: float
    calling: str
    address: str
    deliveries: list[DeliveryRow]
    trail: list[TrailRow]
    proofs: list[ProofRow] = []
    """Of each delivery that is accepted or verified."""


_DELIVERIES: Final = """SELECT d.id, d.instance, d.destination, d.state, i.sop_instance_uid, coalesce(s.uid, ''),
    i.modality, d.bytes, d.priority, d.attempts, d.code, d.detail, d.changed_at
    FROM delivery d JOIN instance i ON i.id = d.instance JOIN study s ON s.id = i.study"""
_RECEIPT: Final = """SELECT i.id, i.sop_instance_uid, i.sop_class_uid, i.transfer_syntax_uid,
    coalesce(s.uid, ''), i.series_uid,
    s.accession, i.modality, i.digest, i.length, i.state, i.received_at, i.calling, i.address
    FROM instance i JOIN study s ON s.id = i.study"""
_INSTANCES: Final = f"{_RECEIPT} WHERE i.id IN ({INSTANCES}) ORDER BY i.id LIMIT {_MOST_ROWS}"
_OF_STUDY: Final = f"{_RECEIPT} WHERE i.study = ? AND i.id > ? ORDER BY i.id LIMIT ?"


class Reading:
    """The read-only connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._failed: Callable[[StoreFailedError], None] = lambda _: None

    @classmethod
    async def open(cls, storage: Path) -> "Reading":
        """Open the store below ``storage``, whether or not an appliance runs on it. Raises `StoreError`."""
        return cls(await cls._connect(storage))

    @staticmethod
    async def _connect(storage: Path) -> Connection:
        folder = storage / "db"
        try:
            there = (folder / FILE).exists()
        except PermissionError as e:
            raise ClosedError(storage) from e
        if not there:
            raise StoreError(
                f"There is no store in {folder}: no appliance has run on this storage path yet. "
                "Start it: systemctl start edge, or edge run."
            )
        try:
            return await open_reader(folder)
        except sqlite3.Error as e:
            raise explain(e, f"in {folder} cannot be read") from e

    def on_failure(self, failed: Callable[[StoreFailedError], None]) -> None:
        """Let ``failed`` hear of a disk that fails and a database that is damaged."""
        self._failed = failed

    async def reopen(self, storage: Path) -> None:
        """Read from the database that has the name now; after `close`."""
        self._connection = await self._connect(storage)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def tallies(self) -> dict[tuple[str, str], Tally]:
        """Return deliveries by (destination, state); ('', 'owed') is what is still owed, by instance."""

        def work(raw: sqlite3.Connection) -> dict[tuple[str, str], Tally]:
            rows = raw.execute("SELECT destination, state, instances, bytes FROM tally")
            return {(d, s): Tally(n, b) for d, s, n, b in rows}

        return await self.run(work)

    async def oldest_owed(self) -> float | None:
        """Wall time at which the oldest instance was received that some destination still lacks."""

        def work(raw: sqlite3.Connection) -> float | None:
            row = raw.execute("SELECT received_at FROM instance WHERE owed > 0 ORDER BY id LIMIT 1").fetchone()
            return float(row[0]) if row else None

        return await self.run(work)

    async def unrouted(self) -> int:
        """Return how many stored instances have no delivery at all."""
        asked = "SELECT count(*) FROM instance WHERE unrouted = 1 AND state = 'stored'"
        return await self.run(lambda raw: int(raw.execute(asked).fetchone()[0]))

    async def background_waits(self, destination: str) -> bool:
        """Whether anything of background priority waits for ``destination`` and nothing but its hours."""
        asked = """SELECT EXISTS (SELECT 1 FROM delivery WHERE destination = ? AND state = 'queued'
            AND not_before IS NULL AND behind IS NULL AND priority = ?)"""
        return await self.run(lambda raw: bool(raw.execute(asked, (destination, BACKGROUND)).fetchone()[0]))

    async def lost_and_over(self) -> frozenset[int]:
        """Return the instances whose file is gone and which nobody lacks."""
        asked = "SELECT id FROM instance WHERE state = 'lost' AND owed = 0"
        return await self.run(lambda raw: frozenset(number for (number,) in raw.execute(asked)))

    async def lost(self, but: frozenset[int]) -> bool:
        """Whether the file of any instance other than ``but`` is gone, did not come again, and was not given up."""
        given_up = "owed = 0 AND EXISTS (SELECT 1 FROM delivery WHERE instance = instance.id AND state = 'cancelled')"
        asked = f"SELECT id FROM instance WHERE state = 'lost' AND NOT {CURED} AND NOT ({given_up})"
        return await self.run(lambda raw: any(number not in but for (number,) in raw.execute(asked)))

    async def last_held(self, destination: str) -> str:
        """Why the delivery to ``destination`` that was held last is held."""

        def work(raw: sqlite3.Connection) -> str:
            row = raw.execute(
                """SELECT code, detail FROM delivery WHERE state = 'held' AND destination = ?
                    ORDER BY changed_at DESC LIMIT 1""",
                (destination,),
            ).fetchone()
            return (row[1] or row[0]) if row else ""

        return await self.run(work)

    async def owed(self, destination: str, instances: Collection[int]) -> frozenset[int]:
        """Tell which of ``instances`` still go to ``destination``."""

        def work(raw: sqlite3.Connection) -> frozenset[int]:
            marks = ", ".join("?" * len(instances))
            rows = raw.execute(
                f"""SELECT instance FROM delivery WHERE destination = ? AND instance IN ({marks})
                    AND state IN ('queued', 'sending')""",
                (destination, *instances),
            )
            return frozenset(instance for (instance,) in rows)

        return await self.run(work)

    async def queue(
        self, *, destination: str = "", state: DeliveryState | None = None, most: int = _MOST_ROWS
    ) -> list[DeliveryRow]:
        """List deliveries, oldest first. Without ``state``: those that the destination does not have yet."""
        states = [state] if state else [DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.HELD]
        where, values = condition(Choice(destination=destination))
        where = where.replace("destination", "d.destination")
        marks = ", ".join("?" * len(states))

        def work(raw: sqlite3.Connection) -> list[DeliveryRow]:
            return list(
                _delivery_rows(
                    raw.execute(
                        f"{_DELIVERIES} WHERE d.state IN ({marks}) AND {where} ORDER BY d.id LIMIT ?",
                        (*states, *values, most),
                    )
                )
            )

        return await self.run(work)

    async def capabilities(self, destination: str) -> list[Capability]:
        """Return what ``destination`` is known to take and to refuse."""
        return await self.run(lambda raw: capabilities.of(raw, destination))

    async def trace(self, uid: str) -> list[InstanceRow]:
        """Return every instance that ``uid`` may mean, each with its deliveries and trail, in order of arrival."""

        def work(raw: sqlite3.Connection) -> list[InstanceRow]:
            found = raw.execute(_INSTANCES, (uid,) * INSTANCES.count("?")).fetchall()
            return [_instance_row(raw, row) for row in found]

        return await self.run(work)

    async def trace_study(self, study: int, after: int, most: int) -> list[InstanceRow]:
        """Return the next ``most`` instances of a study (`StudyView.id`) above id ``after``, as `trace` does."""

        def work(raw: sqlite3.Connection) -> list[InstanceRow]:
            found = raw.execute(_OF_STUDY, (study, after, most)).fetchall()
            return [_instance_row(raw, row) for row in found]

        return await self.run(work)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` on the connection. Raises `StoreError`."""
        try:
            return await self._connection.run(work)
        except sqlite3.Error as e:
            failure = explain(e, "could not be read")
            if isinstance(failure, StoreFailedError):
                self._failed(failure)
            raise failure from e
        except ValueError as e:  # aiosqlite's word for a connection that is closed: it is being opened anew
            raise StoreError(f"The database could not be read: {e}.") from e


def _instance_row(raw: sqlite3.Connection, row: tuple[object, ...]) -> InstanceRow:
    names = InstanceRow.__struct_fields__
    values = dict(zip(names, row, strict=False))
    digest = values["sha256"]
    deliveries = raw.execute(f"{_DELIVERIES} WHERE d.instance = ? ORDER BY d.id", (values["id"],))
    trail = raw.execute(
        "SELECT at, clock_trusted, event, destination, code, detail FROM trail WHERE instance = ? ORDER BY seq",
        (values["id"],),
    )
    of = list(_delivery_rows(deliveries))
    steps = [
        TrailRow(at=at, clock_trusted=bool(trusted), event=event, destination=dest, code=code, detail=detail)
        for at, trusted, event, dest, code, detail in trail
    ]
    values |= {
        "sha256": digest.hex() if isinstance(digest, bytes) else "",
        "deliveries": of,
        "trail": steps,
        "proofs": list(_proofs(of, steps)),
    }
    return msgspec.convert(values, InstanceRow)


def _proofs(deliveries: Iterable[DeliveryRow], trail: Iterable[TrailRow]) -> Iterator[ProofRow]:
    """What the trail tells of the state that each delivery is in."""
    steps = list(trail)
    last = {(step.destination, step.event): step for step in steps}
    sent = renderings.accepted((step.destination, step.event, step.code, step.detail) for step in steps)
    for delivery in deliveries:
        step = last.get((delivery.destination, delivery.state))
        if step is not None and delivery.state in (DeliveryState.ACCEPTED, DeliveryState.VERIFIED):
            yield ProofRow(
                destination=step.destination,
                evidence=told(step.detail) or "",
                by=step.code,
                at=step.at,
                clock_trusted=step.clock_trusted,
                sent_transfer_syntax_uid=sent.get(step.destination, ("", ""))[0],
                sent_sha256=sent.get(step.destination, ("", ""))[1],
            )


def _delivery_rows(rows: sqlite3.Cursor) -> Iterator[DeliveryRow]:
    names = DeliveryRow.__struct_fields__
    for row in rows:
        values = dict(zip(names, row, strict=True))
        yield msgspec.convert(values | {"priority": PRIORITIES[values["priority"]]}, DeliveryRow)
