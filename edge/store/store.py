"""The store as other rooms see it: verbs that commit, and hints that there is work.

A hint is given after a commit and may be missed; the rows are the truth, and whoever waits for a hint also looks by
itself now and then.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from edge.model import BACKGROUND, PRIORITIES, STAT, Header, Instance, Kind, Need, Origin, Source
from edge.routing import Leg
from edge.states import DeliveryState
from edge.store import audits, capabilities, deliver, people, record, retain, studies, taken
from edge.store.audits import Stored
from edge.store.capabilities import Capability
from edge.store.deliver import Parcel, Settlement
from edge.store.opened import Opened
from edge.store.people import Choice
from edge.store.proving import Proving
from edge.store.record import Fate, Recorded
from edge.store.telling import Telling

_MOST_REMEMBERED: Final = 100_000


class Store(Opened, Telling, Proving):
    """The open store of a running appliance. Every verb raises `StoreError` where it was not committed."""

    # intake

    async def record(self, batch: Sequence[tuple[Instance, Sequence[Leg]]]) -> list[Recorded]:
        """Record received instances with their deliveries. Idempotent by id."""
        lag = self._lag()

        def work(raw: sqlite3.Connection) -> list[Recorded]:
            fates = record.record(raw, batch)
            studies.arrived(raw, [fate.id for fate in fates if fate.fate is Fate.NEW], lag)
            return fates

        fates = await self._commit(work)
        for name, priority in {(leg.destination, leg.priority) for _, legs in batch for leg in legs}:
            self.press(name, priority)
        return fates

    async def highest_id(self) -> int:
        """Return the highest instance id on record, 0 for none."""
        row = await self.reading.run(lambda raw: raw.execute("SELECT max(id) FROM instance").fetchone())
        return int(row[0] or 0)

    async def states(self, ids: Sequence[int]) -> dict[int, str]:
        """Return the state of each of ``ids`` that is on record: stored, lost, quarantined or expired."""
        asked = "SELECT state FROM instance WHERE id = ?"

        def work(raw: sqlite3.Connection) -> dict[int, str]:
            rows = ((number, raw.execute(asked, (number,)).fetchone()) for number in ids)
            return {number: row[0] for number, row in rows if row}

        return await self.reading.run(work)

    async def lose(self, ids: Sequence[int]) -> None:
        """Record that the files of ``ids`` are gone: the same bytes sent again are then no duplicate."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: record.lose(raw, ids, now, trusted=trusted))
        self._hint_all()

    async def stored_after(self, last: int, most: int) -> list[int]:
        """Return the next ``most`` ids above ``last`` of instances whose file should be there.

        So it should be of those that are lost and owed, unless the same bytes came again.
        """

        def work(raw: sqlite3.Connection) -> list[int]:
            rows = raw.execute(
                f"""SELECT id FROM instance WHERE id > ?
                AND (state = 'stored' OR state = 'lost' AND owed > 0 AND NOT {record.CURED}) ORDER BY id LIMIT ?""",
                (last, most),
            )
            return [row[0] for row in rows]

        return await self.reading.run(work)

    async def unrouted(self, last: int, most: int) -> list[tuple[int, Header, Source]]:
        """Return the next ``most`` instances above ``last`` that have no delivery, with what a route looks at."""
        return await self.reading.run(lambda raw: record.unrouted(raw, last, most))

    async def route(self, routed: Sequence[tuple[int, Sequence[Leg]]]) -> None:
        """Make deliveries for instances that have none."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: record.route(raw, routed, now, trusted=trusted))
        for name, priority in {(leg.destination, leg.priority) for _, legs in routed for leg in legs}:
            self.press(name, priority)

    # files that were read

    async def taken(self, origins: Sequence[Origin]) -> list[bool]:
        """Return for each whether this very file was taken, and what was in it is not lost."""
        return await self.reading.run(lambda raw: taken.known(raw, origins))

    async def has(self, sop_instance_uid: str, transfer_syntax_uid: str, digest: bytes, origin: Origin | None) -> bool:
        """Return whether this very object is stored, or was delivered after it was read from this very file.

        For an import: after it was imported from any file.
        """
        key = taken.Key(sop_instance_uid, transfer_syntax_uid, digest)
        return await self.reading.run(
            lambda raw: (
                record.stored(raw, sop_instance_uid, transfer_syntax_uid, digest)
                or (origin is not None and taken.delivered(raw, origin, key) is not None)
            )
        )

    async def remember(self, origin: Origin) -> None:
        """Record that an archive was taken with all its members."""
        await self._commit(lambda raw: taken.remember(raw, origin))

    async def taken_after(self, place: str, path: str, most: int) -> list[Origin]:
        """Return the next ``most`` files of ``place`` that were taken, by path, above ``path``."""
        return await self.reading.run(lambda raw: taken.after(raw, place, path, most))

    async def forget_taken(self, origins: Sequence[Origin]) -> None:
        """Forget files that are not there any more."""
        await self._commit(lambda raw: taken.forget(raw, origins))

    # dispatcher

    async def upcoming(self, destination: str, most: int = 256, lowest: int = BACKGROUND) -> list[Need]:
        """Return what the next deliveries to ``destination`` need, the most urgent first; none below ``lowest``."""
        return await self.reading.run(lambda raw: deliver.upcoming(raw, destination, most, lowest))

    async def claim(self, destination: str, most: int, lowest: int = BACKGROUND) -> list[Parcel]:
        """Claim the next ``most`` deliveries to ``destination`` for this session; none below ``lowest``."""
        # what comes from now on may come too late for this claim
        pressing, claiming = self._pressing.pop(destination, len(PRIORITIES)), self._claiming[destination]
        now = self._clock.now()
        work = partial(deliver.claim, destination=destination, most=most, session=self._session, now=now, lowest=lowest)
        claiming.append(pressing)
        try:
            claimed = await self._committer.commit(work)
        finally:
            claiming.remove(pressing)
        if len(claimed) == most:  # there may be more such
            self._pressing[destination] = min(claimed[-1][-1], self._pressing.get(destination, len(PRIORITIES)))
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
                priority=priority,
                path=self._path(instance),
            )
            for delivery, instance, strikes, kind, uid, length, offset, digest, calling, priority in claimed
        ]

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Record the outcomes of claimed deliveries."""
        now, trusted = self._clock.now(), self._clock.trusted()
        freed = await self._committer.commit(
            lambda raw: deliver.settle(raw, settlements, self._session, now, trusted=trusted)
        )
        self._remember(settlements)
        if any(s.state in deliver.REFUSED for s in settlements):
            self.events_arrived.set()
        for name in freed:
            self.press(name, STAT)  # nobody says how urgent it is

    async def settle_late(self, settlements: Sequence[Settlement]) -> None:
        """Record outcomes whose deliveries may have been given back meanwhile: what is known need not be sent again."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._committer.commit(
            lambda raw: deliver.settle_late(raw, settlements, self._session, now, trusted=trusted)
        )
        self._remember(settlements)
        self._hint_all()

    async def give_back(self, destination: str) -> int:
        """Let what is claimed for ``destination`` be claimed anew, as nobody sends it any more; the number."""
        now, trusted = self._clock.now(), self._clock.trusted()
        given = await self._committer.commit(
            lambda raw: deliver.give_back(raw, destination, self._session, now, trusted=trusted)
        )
        self.press(destination, STAT)  # nobody says how urgent it is
        return given

    def _remember(self, settlements: Sequence[Settlement]) -> None:
        """Keep outcomes that only the copy in memory knows, for the database when it is back."""
        if self._copy is not None:
            self._outcomes += [s for s in settlements if s.state is not DeliveryState.QUEUED][-_MOST_REMEMBERED:]

    async def ripe(self) -> bool:
        """Whether `ripen` would find anything; asked first, as a commit wears the card and a question does not."""
        now = self._clock.monotonic()
        asked = "SELECT 1 FROM delivery WHERE state = 'queued' AND not_before <= ? LIMIT 1"
        return await self.reading.run(lambda raw: raw.execute(asked, (now,)).fetchone() is not None)

    async def ripen(self) -> None:
        """Let what has waited long enough be claimed."""
        now = self._clock.monotonic()
        for name, priority in await self._committer.commit(lambda raw: deliver.ripen(raw, now)):
            self.press(name, priority)

    async def capabilities(self, destination: str) -> list[Capability]:
        """Return what ``destination`` is known to take and to refuse."""
        return await self.reading.capabilities(destination)

    async def keep_capabilities(self, destination: str, answers: Mapping[Kind, bool]) -> None:
        """Keep what ``destination`` took, and what it did not."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: capabilities.keep(raw, destination, answers, now, trusted=trusted))

    # retention

    async def settled(self, age: float, most: int) -> list[int]:
        """Return the ids of what every destination has had for ``age`` seconds of uptime, the oldest first."""
        return await self.reading.run(lambda raw: retain.settled(raw, age, most))

    async def expire(self, ids: Sequence[int], why: str) -> list[int]:
        """Write the tombstones of those of ``ids`` that may still go; afterwards their files may be deleted."""
        now, trusted = self._clock.now(), self._clock.trusted()
        gone = await self._commit(lambda raw: retain.expire(raw, ids, why, now, trusted=trusted))
        self.events_arrived.set()
        return gone

    async def forget(self, age: float, most: int) -> int:
        """Delete trail and row of what expired ``age`` seconds of uptime ago; the number."""
        return await self._commit(lambda raw: retain.forget(raw, age, most))

    # audit

    async def next_to_audit(self, most: int) -> list[Stored]:
        """Return the next instances whose files are to be looked at."""
        return await self.reading.run(lambda raw: audits.upcoming(raw, most))

    async def audited(self, last: int) -> None:
        """Remember that files were looked at up to instance ``last``; 0 begins anew."""
        await self._commit(lambda raw: audits.passed(raw, last))

    async def quarantine(self, number: int, why: str) -> None:
        """Record that the file of an instance is damaged, and hold what was to be sent of it."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: audits.quarantine(raw, number, why, now, trusted=trusted))
        self._hint_all()

    async def amend(self, true: Stored) -> None:
        """Correct a row after the seal of its file."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: audits.amend(raw, true, now, trusted=trusted))

    async def find(self, ids: Sequence[int]) -> None:
        """Record that the files of ``ids``, which were lost, are there again."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: record.find(raw, ids, now, trusted=trusted))

    # people

    async def decide(self, verb: str, choice: Choice, *, who: str, reason: str = "") -> int:
        """Apply ``verb`` (hold, release, cancel, resend) to the deliveries chosen; the number moved."""
        now, trusted = self._clock.now(), self._clock.trusted()
        moved = await self._commit(
            lambda raw: people.decide(raw, verb, choice, who=who, reason=reason, now=now, trusted=trusted)
        )
        self._hint_all()
        return moved

    async def hasten(self, choice: Choice) -> int:
        """Let the deliveries chosen go without further waiting; the number that are queued."""
        queued = await self._commit(lambda raw: people.hasten(raw, choice))
        self._hint_all()
        return queued

    async def hurry(self, choice: Choice, *, who: str, reason: str = "") -> int:
        """Let the deliveries chosen that are queued go before all others, and at once; their number."""
        now, trusted = self._clock.now(), self._clock.trusted()
        queued = await self._commit(
            lambda raw: people.hurry(raw, choice, who=who, reason=reason, now=now, trusted=trusted)
        )
        self._hint_all()
        return queued
