"""The store as other rooms see it: verbs that commit, and hints that there is work.

A hint is given after a commit and may be missed; the rows are the truth, and whoever waits for a hint also looks by
itself now and then.
"""

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from edge.clock import Clock
from edge.model import Header, Instance, Need, Source
from edge.routing import Leg
from edge.store import deliver, people, record, schema
from edge.store.committer import Committer
from edge.store.connection import Connection, StoreError, open_writer
from edge.store.deliver import Parcel, Settlement
from edge.store.people import Choice
from edge.store.reading import Reading
from edge.store.record import Recorded


class Store:
    """The open store of a running appliance. Every verb raises `StoreError` where it was not committed."""

    def __init__(
        self,
        connection: Connection,
        reading: Reading,
        clock: Clock,
        session: int,
        path: Callable[[int], Path],
    ) -> None:
        self.reading = reading
        self._connection = connection
        self._committer = Committer(connection)
        self._clock = clock
        self._session = session
        self._path = path
        self._hints: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    @classmethod
    async def open(cls, storage: Path, clock: Clock, session: int, path: Callable[[int], Path]) -> "Store":
        """Open or make the database below ``storage``; migrate it. ``path`` tells where an instance's file lies."""
        folder = storage / "db"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = await open_writer(folder)
            try:
                await connection.run(schema.migrate)
                reading = await Reading.open(storage)
            except BaseException:
                await connection.close()
                raise
        except (OSError, sqlite3.Error) as e:
            raise StoreError(f"The database in {folder} cannot be opened: {e}.") from e
        return cls(connection, reading, clock, session, path)

    async def run(self) -> None:
        """Commit what is asked until `close`."""
        await self._committer.run()

    def finish(self) -> None:
        """Take no more; `run` returns when all that was asked is committed."""
        self._committer.close()

    async def close(self) -> None:
        """Close the connections."""
        await self.reading.close()
        await self._connection.close()

    def hint(self, destination: str) -> asyncio.Event:
        """Return the event that is set when there may be work for ``destination``."""
        return self._hints[destination]

    # intake

    async def record(self, batch: Sequence[tuple[Instance, Sequence[Leg]]]) -> list[Recorded]:
        """Record received instances with their deliveries. Idempotent by id."""
        fates = await self._committer.commit(lambda raw: record.record(raw, batch))
        for name in {leg.destination for _, legs in batch for leg in legs}:
            self._hints[name].set()
        return fates

    async def highest_id(self) -> int:
        """Return the highest instance id on record, 0 for none."""
        row = await self.reading.run(lambda raw: raw.execute("SELECT max(id) FROM instance").fetchone())
        return int(row[0] or 0)

    async def known(self, ids: Sequence[int]) -> set[int]:
        """Which of ``ids`` are on record."""

        def work(raw: sqlite3.Connection) -> set[int]:
            return {i for i in ids if raw.execute("SELECT 1 FROM instance WHERE id = ?", (i,)).fetchone()}

        return await self.reading.run(work)

    async def lose(self, ids: Sequence[int]) -> None:
        """Record that the files of ``ids`` are gone: the same bytes sent again are then no duplicate."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._committer.commit(lambda raw: record.lose(raw, ids, now, trusted=trusted))

    async def stored_after(self, last: int, most: int) -> list[int]:
        """Return the next ``most`` ids above ``last`` of instances whose file should be there, or is owed and lost."""

        def work(raw: sqlite3.Connection) -> list[int]:
            rows = raw.execute(
                """SELECT id FROM instance WHERE id > ? AND (state = 'stored' OR state = 'lost' AND owed > 0)
                ORDER BY id LIMIT ?""",
                (last, most),
            )
            return [row[0] for row in rows]

        return await self.reading.run(work)

    async def unrouted(self, most: int) -> list[tuple[int, Header, Source]]:
        """Return up to ``most`` instances that have no delivery at all, with what a route looks at."""
        return await self.reading.run(lambda raw: record.unrouted(raw, most))

    async def route(self, routed: Sequence[tuple[int, Sequence[Leg]]]) -> None:
        """Make deliveries for instances that have none."""
        now = self._clock.now()
        await self._committer.commit(lambda raw: record.route(raw, routed, now))
        for name in {leg.destination for _, legs in routed for leg in legs}:
            self._hints[name].set()

    # dispatcher

    async def recover(self, ripe_in: float) -> int:
        """Take back what an earlier session was sending; what waited may go after ``ripe_in`` seconds."""
        at = self._clock.monotonic() + ripe_in
        now, trusted = self._clock.now(), self._clock.trusted()
        return await self._committer.commit(lambda raw: deliver.recover(raw, self._session, at, now, trusted=trusted))

    async def upcoming(self, destination: str, most: int = 256) -> list[Need]:
        """Return what the next deliveries to ``destination`` need, the most urgent first."""
        return await self.reading.run(lambda raw: deliver.upcoming(raw, destination, most))

    async def claim(self, destination: str, most: int) -> list[Parcel]:
        """Claim the next ``most`` deliveries to ``destination`` for this session."""
        work = partial(deliver.claim, destination=destination, most=most, session=self._session, now=self._clock.now())
        return [
            Parcel(
                delivery=delivery,
                instance=instance,
                strikes=strikes,
                kind=kind,
                sop_instance_uid=uid,
                length=length,
                offset=offset,
                digest=digest,
                calling=calling,
                path=self._path(instance),
            )
            for delivery, instance, strikes, kind, uid, length, offset, digest, calling in (
                await self._committer.commit(work)
            )
        ]

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Record the outcomes of claimed deliveries."""
        now, trusted = self._clock.now(), self._clock.trusted()
        freed = await self._committer.commit(
            lambda raw: deliver.settle(raw, settlements, self._session, now, trusted=trusted)
        )
        for name in freed:
            self._hints[name].set()

    async def ripe(self) -> bool:
        """Whether `ripen` would find anything; asked first, as a commit wears the card and a question does not."""
        now = self._clock.monotonic()
        asked = "SELECT 1 FROM delivery WHERE state = 'queued' AND not_before <= ? LIMIT 1"
        return await self.reading.run(lambda raw: raw.execute(asked, (now,)).fetchone() is not None)

    async def ripen(self) -> None:
        """Let what has waited long enough be claimed."""
        now = self._clock.monotonic()
        for name in await self._committer.commit(lambda raw: deliver.ripen(raw, now)):
            self._hints[name].set()

    # people

    async def decide(self, verb: str, choice: Choice, *, who: str, reason: str = "") -> int:
        """Apply ``verb`` (hold, release, cancel, resend) to the deliveries chosen; the number moved."""
        now, trusted = self._clock.now(), self._clock.trusted()
        moved = await self._committer.commit(
            lambda raw: people.decide(raw, verb, choice, who=who, reason=reason, now=now, trusted=trusted)
        )
        self._hint_all()
        return moved

    async def hasten(self, choice: Choice) -> int:
        """Let the deliveries chosen go without further waiting; the number that are queued."""
        queued = await self._committer.commit(lambda raw: people.hasten(raw, choice))
        self._hint_all()
        return queued

    def _hint_all(self) -> None:
        for event in self._hints.values():
            event.set()
