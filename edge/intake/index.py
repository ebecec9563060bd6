"""The index step: what is sealed and synced becomes a row, in batches, behind the answers.

Rename to ``ready/``, then one transaction. If the power goes between, the seal brings the row back. When the index is
more than a second or 256 objects behind, answers wait for it; when the store cannot be written, intake closes, and
what was answered stays in the queue (and on disk) until it can.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Final

from edge.board import Board
from edge.clock import Clock
from edge.findings import Journal
from edge.intake.admission import Admission
from edge.intake.soundness import Soundness
from edge.model import Instance
from edge.phrase import say
from edge.routing import Leg
from edge.spool import Spool, Syncer
from edge.store import Fate, Recorded, Store, StoreError

_MOST_BEHIND: Final = 256
_LONGEST_BEHIND: Final = 1.0
_PACE: Final = 0.03
"""Seconds from one batch to the next under load: a commit syncs the same disk as the answers do."""
_SPARES: Final = 4096
"""Spares deleted last, so that one is not taken for lost."""
_RETRY: Final = 1.0
"""Seconds between two attempts while the store cannot be written."""


class Index:
    """The queue between the door and the store."""

    def __init__(
        self,
        spool: Spool,
        syncer: Syncer,
        store: Store,
        admission: Admission,
        board: Board,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._spool = spool
        self._syncer = syncer
        self._store = store
        self._admission = admission
        self._board = board
        self._journal = journal
        self._clock = clock
        self._soundness = Soundness(spool, syncer, store, journal)
        self._waiting: deque[tuple[float, Instance, Sequence[Leg]]] = deque()
        self._fates: dict[int, asyncio.Future[Recorded | None]] = {}
        self._spares: deque[int] = deque(maxlen=_SPARES)
        self._arrived = asyncio.Event()
        self._progress = asyncio.Condition()
        self._closing = False

    def take(self, instance: Instance, legs: Sequence[Leg]) -> "asyncio.Future[Recorded | None]":
        """Queue a sealed and synced object. It will be indexed, now or after a restart; one that waits, once.

        The future gives its fate once that is committed; None where its file was gone.
        """
        if instance.id in self._fates:
            return self._fates[instance.id]
        fate = self._fates[instance.id] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._clock.monotonic(), instance, legs))
        self._show(instance, 1)
        self._arrived.set()
        return fate

    async def caught_up(self) -> None:
        """Wait while the index is too far behind."""
        if self.behind:
            async with self._progress:
                await self._progress.wait_for(lambda: not self.behind)

    @property
    def behind(self) -> bool:
        """Whether answers must wait."""
        if len(self._waiting) > _MOST_BEHIND:
            return True
        return bool(self._waiting) and self._clock.monotonic() - self._waiting[0][0] > _LONGEST_BEHIND

    async def run(self) -> None:
        """Index until `close` was called and nothing waits."""
        while True:
            if not self._waiting:  # something may, after a crash
                await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                begun = self._clock.monotonic()
                batch = [(i, legs) for _, i, legs in list(self._waiting)[:_MOST_BEHIND]]
                fates = await self._index(batch)
                for instance, _ in batch:
                    self._waiting.popleft()
                    fate = self._fates.pop(instance.id)
                    if not fate.done():  # whoever waited may have given up
                        fate.set_result(fates.get(instance.id))
                    self._show(instance, -1)
                async with self._progress:
                    self._progress.notify_all()
                if not self._closing:
                    await asyncio.sleep(begun + _PACE - self._clock.monotonic())
            if self._closing:
                return

    def close(self) -> None:
        """Let `run` finish what waits and return."""
        self._closing = True
        self._arrived.set()

    def _show(self, instance: Instance, change: int) -> None:
        self._board.unindexed += change
        self._board.unindexed_bytes += change * instance.length

    async def _index(self, batch: list[tuple[Instance, Sequence[Leg]]]) -> dict[int, Recorded]:
        recorded = await self._surely(batch)
        self._admission.open("index")
        for number, recording in recorded:
            if recording.twin:
                self._journal.note("TWIN", "receive", say("The second is object {number}.", number=number))
        recorded = await self._doubt(batch, recorded)
        spares = [number for number, recording in recorded if recording.fate is Fate.DUPLICATE]
        if spares:
            self._spares.extend(spares)
            try:
                await self._syncer.run(lambda: self._unpublish(spares))
            except OSError as e:  # a spare that stays is found again at the next start
                self._journal.note("STORAGE_ERROR", "index", e.strerror or str(e))
        return dict(recorded)

    async def _doubt(
        self, batch: list[tuple[Instance, Sequence[Leg]]], recorded: list[tuple[int, Recorded]]
    ) -> list[tuple[int, Recorded]]:
        """Look at the files for which others are spares: where one is gone or damaged, the spare is the cure."""
        stand_for = {recording.id for _, recording in recorded if recording.fate is Fate.DUPLICATE}
        unsound = {number for number in stand_for if not await self._sound(number)}
        again = {number for number, r in recorded if r.fate is Fate.DUPLICATE and r.id in unsound}
        if not again:
            return recorded
        fresh = await self._surely([(i, legs) for i, legs in batch if i.id in again])
        return [one for one in recorded if one[0] not in again] + fresh

    async def _sound(self, number: int) -> bool:
        """Whether an object's file is what was received; one that cannot be read is lost, until a start can."""
        while True:
            try:
                return await self._soundness.check(number) is not None
            except OSError as e:
                self._journal.note(
                    "STORAGE_ERROR", "index", say("object {number}: {error}", number=number, error=e.strerror or e)
                )
                with contextlib.suppress(StoreError):
                    await self._store.lose([number])
                    return False
            except StoreError:
                pass  # nothing can be recorded now: the store's keeper says it
            await asyncio.sleep(_RETRY)

    async def _surely(self, batch: list[tuple[Instance, Sequence[Leg]]]) -> list[tuple[int, Recorded]]:
        """Publish and record, as often as that must be tried."""
        while True:
            recorded = await self._record(batch)
            if recorded is not None:
                return recorded
            await asyncio.sleep(_RETRY)

    async def _record(self, batch: list[tuple[Instance, Sequence[Leg]]]) -> list[tuple[int, Recorded]] | None:
        """Publish and record; None where that must be tried again."""
        ids = [instance.id for instance, _ in batch]
        try:
            gone = await self._syncer.run(lambda: self._publish(ids))
            there = [(instance, legs) for instance, legs in batch if instance.id not in gone]
            recorded = await self._store.record(there)
        except (OSError, StoreError) as e:
            self._admission.close("index", say("{error} Objects already acknowledged are safe on disk.", error=e))
            return None
        for number in gone - set(self._spares):
            # another component than where there is a row: nothing tells when this one is over
            self._journal.note("LOST", "index", say("object {number}", number=number))
        return list(zip([instance.id for instance, _ in there], recorded, strict=True))

    def _publish(self, ids: list[int]) -> set[int]:
        """Publish every object; those without a file: spares that recovery found while they were deleted, or lost."""
        gone = set()
        for number in ids:
            try:
                self._spool.publish(number)
            except FileNotFoundError:
                gone.add(number)
        return gone

    def _unpublish(self, ids: list[int]) -> None:
        for number in ids:
            self._spool.unpublish(number)
