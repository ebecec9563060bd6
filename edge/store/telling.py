"""The store's verbs for those outside: events, commands, pauses. What they do is in rooms of its own."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from edge.clock import Clock
from edge.events import Event, Value
from edge.messages import CommandStatus
from edge.store import commands, events, people
from edge.store.commands import CommandRow
from edge.store.committer import Work
from edge.store.events import Dated, LoggedEvent
from edge.store.reading import Reading

T = TypeVar("T")

_MOST_RECENT: Final = 100
"""Commands that are over and are told once more."""


class Telling(ABC):
    """A part of the store. Every verb raises `StoreError` where it was not committed, or the store cannot be read."""

    reading: Reading
    epoch: int
    """The key of an event is (epoch, seq): no log that was begun anew has the epoch of another."""
    events_arrived: asyncio.Event
    """Set after a commit that wrote events; may be missed, and may be set for nothing."""
    _storage: Path
    _clock: Clock
    _most_events: int
    _marked: tuple[int, int] = (0, 0)

    @abstractmethod
    async def _commit(self, work: Work[T]) -> T:
        """Commit what must last."""

    # events

    async def write_events(self, told: Sequence[Event]) -> None:
        """Append events that go with no other act; those of commands are put on the trail as well."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: commands.tell(raw, told, now, trusted=trusted))
        self.events_arrived.set()

    async def write_dated_events(self, told: Sequence[Dated]) -> None:
        """Append events that happened a while ago."""
        await self._commit(lambda raw: events.write_dated(raw, told))
        self.events_arrived.set()

    async def events_after(self, seq: int, most: int) -> list[LoggedEvent]:
        """Return the next ``most`` events above number ``seq``, in order."""
        return await self.reading.run(lambda raw: events.after(raw, seq, most))

    async def event_range(self) -> tuple[int, int]:
        """Return the first number kept and the highest ever given; the first is above it where none is kept."""
        return await self.reading.run(events.range_)

    async def mark_events(self, seq: int) -> None:
        """Put down, synced, that events up to number ``seq`` leave the box, before they do. Raises OSError.

        A database that is found behind it at a start has another epoch then, so that no number is given twice.
        """
        wanted = (self.epoch, seq)
        if wanted > self._marked:
            await asyncio.to_thread(events.mark, self._storage, *wanted)
            self._marked = wanted

    async def drop_events(self, up_to: int) -> int:
        """Delete the events up to number ``up_to``, which somebody has; how many."""
        return await self._commit(lambda raw: events.drop(raw, up_to))

    async def prune_events(self) -> Event | None:
        """Keep the log within its bound; the event that says what is missing now. To be asked now and then."""
        most = self._most_events
        if await self.reading.run(events.kept) <= most:
            return None  # a question does not wear the card
        now, trusted = self._clock.now(), self._clock.trusted()
        told = await self._commit(lambda raw: events.prune(raw, most, now, trusted=trusted))
        self.events_arrived.set()
        return told

    # commands

    async def begin_command(self, number: str, kind: str, issued_by: str, expires_at: float) -> bool:
        """Record a command as accepted; False, and nothing is written, where its id is known: a replay.

        ``expires_at`` is wall time.
        """
        now, trusted = self._clock.now(), self._clock.trusted()
        begun = await self._commit(
            lambda raw: commands.begin(raw, number, kind, issued_by, expires_at, now, trusted=trusted)
        )
        self.events_arrived.set()
        return begun

    async def finish_command(
        self, number: str, status: CommandStatus, reason: str = "", result: Mapping[str, Value] | None = None
    ) -> None:
        """Record what became of a command. Raises `StoreError` also where it never began, or is over already."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: commands.finish(raw, number, status, reason, result or {}, now, trusted=trusted))
        self.events_arrived.set()

    async def command(self, number: str) -> CommandRow | None:
        """Return what is remembered of a command."""
        return await self.reading.run(lambda raw: commands.get(raw, number))

    async def unfinished_commands(self) -> list[tuple[str, str]]:
        """Return id and type of each command that began and is not over: after a start, what the last run left."""
        return await self.reading.run(commands.unfinished)

    async def recent_commands(self) -> list[tuple[str, CommandStatus, str, dict[str, Value]]]:
        """Return id, status, reason and result of the last commands that are over, in order of arrival."""
        rows = await self.reading.run(lambda raw: commands.recent(raw, _MOST_RECENT))
        return [(row.id, row.status, row.reason, row.result) for row in rows]

    async def expired_commands(self, before: float) -> list[str]:
        """Return the ids that `forget_commands` would forget."""
        return await self.reading.run(lambda raw: commands.expired(raw, before))

    async def forget_commands(self, before: float) -> list[str]:
        """Forget commands that are over and expired before the wall time ``before``; their ids."""
        return await self._commit(lambda raw: commands.forget(raw, before))

    # pauses

    async def pause(self, destination: str, who: str) -> bool:
        """Put down that nothing goes to ``destination`` until `resume`; False where it was so already."""
        now, trusted = self._clock.now(), self._clock.trusted()
        changed = await self._commit(lambda raw: people.pause(raw, destination, who, now, trusted=trusted))
        self.events_arrived.set()
        return changed

    async def resume(self, destination: str, who: str) -> bool:
        """Put down that ``destination`` is served again; False where it was so already."""
        now, trusted = self._clock.now(), self._clock.trusted()
        changed = await self._commit(lambda raw: people.resume(raw, destination, who, now, trusted=trusted))
        self.events_arrived.set()
        return changed

    async def paused(self) -> frozenset[str]:
        """Return the destinations to which nothing goes."""
        return await self.reading.run(people.paused)
