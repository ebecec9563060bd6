"""The store's verbs for proof: what destinations are asked, what modalities are promised, how studies stand.

What they do is in rooms of its own; every change is committed before its verb returns.
"""

import asyncio
import math
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from edge.clock import Clock
from edge.safety import StudyView
from edge.store import deciding, promises, proofs, requests, retain, studies, verdicts
from edge.store.committer import Work
from edge.store.counting import Counted
from edge.store.deciding import Basis, Rule
from edge.store.promises import Answer, CommitmentRequest
from edge.store.proofs import Batch, Provable, Verdict
from edge.store.reading import Reading
from edge.store.studies import QUIET, StudyFilter
from edge.store.verdicts import CommitmentReport, Reported

T = TypeVar("T")


class Proving(ABC):
    """A part of the store. Every verb raises `StoreError` where it was not committed, or the store cannot be read."""

    reading: Reading
    events_arrived: asyncio.Event
    on_record: Callable[[], bool]
    """Whether every file that lies here is on record: until it is, no study is taken for complete."""
    _clock: Clock
    _calm: proofs.Calm
    _deciding: deciding.Deciding
    _counted: Counted
    _ticked: float
    """Monotonic time at which the uptime on record was right."""

    @abstractmethod
    async def _commit(self, work: Work[T]) -> T:
        """Commit what must last."""

    @abstractmethod
    def hint(self, destination: str) -> asyncio.Event:
        """Return the event that is set when there may be work for ``destination``."""

    async def tick(self, seconds: float) -> None:
        """Add ``seconds`` to the uptime by which age is measured."""
        await self._commit(lambda raw: retain.tick(raw, seconds))
        self._ticked = self._clock.monotonic()

    def _lag(self) -> float:
        """Seconds by which the uptime on record is behind."""
        return max(0.0, self._clock.monotonic() - self._ticked)

    # what destinations are asked

    async def provable(self, destination: str, quiet: float, longest_wait: float, most: int) -> Batch | None:
        """Return one study's worth, ``most`` instances, of what ``destination`` may be asked about now.

        A study must have been quiet for ``quiet`` seconds, or have waited for ``longest_wait``: to be asked often.
        """
        now = self._clock.monotonic()
        return await self.reading.run(
            lambda raw: proofs.provable(raw, self._calm, destination, now, quiet, longest_wait, most)
        )

    async def begin_request(
        self, destination: str, transaction_uid: str, items: Sequence[Provable], ask_again_at: float
    ) -> None:
        """Record a commitment request before it leaves; without a report it is made anew at ``ask_again_at``."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(
            lambda raw: proofs.begin_request(
                raw, destination, transaction_uid, items, ask_again_at, now, trusted=trusted
            )
        )

    async def postpone(
        self,
        destination: str,
        items: Sequence[Provable],
        ask_at: float,
        *,
        missing: bool = False,
        untaken: bool = False,
    ) -> None:
        """Ask about ``items`` at the monotonic time ``ask_at``.

        ``missing``: a query did not find them; ``untaken``: the request that was begun for them was taken by nobody.
        """
        await self._commit(
            lambda raw: proofs.postpone(raw, destination, items, ask_at, missing=missing, untaken=untaken)
        )

    async def report_arrived(self, report: CommitmentReport) -> Reported:
        """Act on a report, however late, partial or repeated; nothing comes of one that nobody asked for."""
        monotonic, now, trusted = self._clock.monotonic(), self._clock.now(), self._clock.trusted()
        return self._heard(
            await self._commit(lambda raw: verdicts.report(raw, report, monotonic, now, trusted=trusted))
        )

    async def waited_for(self, destination: str) -> list[str]:
        """Return the transaction UIDs of requests to ``destination`` whose results are waited for, the oldest first."""
        return await self.reading.run(lambda raw: requests.waited_for(raw, destination))

    async def waits(self, transaction_uid: str) -> bool:
        """Whether the result of a request of ours is still waited for."""
        return await self.reading.run(lambda raw: requests.waits(raw, transaction_uid))

    async def vanished(self, transaction_uid: str, others: Sequence[str]) -> int:
        """Have asked about anew what was in a request that the destination knows no more; how many instances.

        Not what is in one of ``others``, which are waited for too.
        """
        monotonic = self._clock.monotonic()
        return await self._commit(lambda raw: requests.vanished(raw, transaction_uid, others, monotonic))

    async def prove(self, destination: str, seen: Sequence[Verdict]) -> Reported:
        """Act on what a query showed: what it did not find is looked for again, and in the end sent again."""
        monotonic, now, trusted = self._clock.monotonic(), self._clock.now(), self._clock.trusted()
        return self._heard(
            await self._commit(lambda raw: verdicts.prove(raw, destination, seen, monotonic, now, trusted=trusted))
        )

    def _heard(self, came_of_it: Reported) -> Reported:
        if came_of_it.verified or came_of_it.held or came_of_it.resent:
            self.hint(came_of_it.destination).set()
        if came_of_it.held:
            self.events_arrived.set()
        return came_of_it

    async def oldest_proof(self, destination: str) -> float | None:
        """Return for how many seconds of uptime ``destination`` has owed the oldest proof; None: it owes none."""
        lag = self._lag()
        return await self.reading.run(lambda raw: proofs.oldest(raw, destination, lag))

    # what modalities are promised

    async def promise(self, calling: str, called: str, address: str, request: CommitmentRequest) -> bool:
        """Record a commitment request of a modality before it is answered; False where it waits for its report already.

        Raises `TooManyError` where too many of its requests wait.
        """
        now, trusted = self._clock.now(), self._clock.trusted()
        return await self._commit(
            lambda raw: promises.promise(raw, calling, called, address, request, now, trusted=trusted)
        )

    async def decide_promises(self, basis: Basis, grace: float, refuse_after: float) -> list[int]:
        """Decide what can be decided; the promises whose reports are ready by it.

        To be asked often; not before recovery has put every file on record, for what is unknown after ``grace``
        seconds is refused. What is held or given up is, after ``refuse_after`` seconds of uptime.
        """
        rule, monotonic, lag = Rule(basis, grace, refuse_after), self._clock.monotonic(), self._lag()
        decided = await self.reading.run(
            lambda raw: self._deciding.look(raw, rule, monotonic, retain.uptime(raw) + lag)
        )
        now, trusted = self._clock.now(), self._clock.trusted()

        def work(raw: sqlite3.Connection) -> list[int]:
            return [d.promise for d in decided if promises.decide(raw, d, lag, now, trusted=trusted)]

        return await self._commit(work) if decided else []

    async def due_answers(self, most: int, beside: Collection[str] = ()) -> list[Answer]:
        """Return reports to modalities whose time has come, one for each modality that is not among ``beside``."""
        now, lag = self._clock.monotonic(), self._lag()
        return await self.reading.run(lambda raw: promises.due(raw, most, now, lag, beside))

    async def answered(self, promise: int, note: str = "") -> None:
        """Record that a modality has taken its report; ``note`` says what is odd about it."""
        now, trusted = self._clock.now(), self._clock.trusted()
        await self._commit(lambda raw: promises.answered(raw, promise, note, now, trusted=trusted))

    async def answer_failed(self, promise: int, not_before: float, note: str) -> None:
        """Record why a report could not be delivered; it is due again at the monotonic time ``not_before``."""
        await self._commit(lambda raw: promises.failed(raw, promise, not_before, note))

    # studies

    async def studies(self, which: StudyFilter, most: int = 50, *, quiet: float = QUIET) -> list[StudyView]:
        """Return studies, the one that something came for last first, at most `studies.MOST`."""
        # an image that was answered just before the power went may not be among them yet
        lag, quiet = self._lag(), quiet if self.on_record() else math.inf

        def work(raw: sqlite3.Connection) -> list[StudyView]:
            raw.execute("BEGIN")  # one view of the database for all that is remembered and read
            try:
                self._counted.learn(raw)
                return studies.page(raw, which, quiet, retain.uptime(raw) + lag, most, self._counted.count)
            finally:
                if raw.in_transaction:
                    raw.execute("ROLLBACK")

        return await self.reading.run(work)

    async def study(self, uid: str, *, quiet: float = QUIET) -> StudyView | None:
        """Return the study of this Study Instance UID."""
        lag, quiet = self._lag(), quiet if self.on_record() else math.inf
        return await self.reading.run(lambda raw: studies.one(raw, uid, quiet, retain.uptime(raw) + lag))
