"""Proof, for one destination: what it accepted is asked about, study by study, until it is proven or put aside.

Waits for a study to be quiet, so that one request names many instances. Never gives up, never asks in a hurry, and
settles nothing itself: a verdict comes from a report (`Reports`), from a result that is fetched (`WebCommitment`), or
from the answer to a query.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Literal

import structlog

from edge.board import DestinationGauge
from edge.clock import Clock
from edge.dicom.commitment import ActionInformation
from edge.findings import Journal
from edge.forward.backoff import backoff
from edge.forward.commitment import Asked, Asking
from edge.forward.gate import Gate
from edge.forward.outcome import Declined, Unreachable, Unsupported
from edge.forward.query import Looking, Seen
from edge.model import Reference
from edge.phrase import say
from edge.store import Batch, Provable, Store, StoreError

log = structlog.get_logger()

QUIET: Final = 5.0
"""Seconds after the last acceptance before a study is asked about."""
LONGEST_WAIT: Final = 60.0
"""Seconds after which it is asked about although more is still coming."""
MOST: Final = 500
"""Instances of one request."""
PATIENCE: Final = 600.0
"""Seconds without a report after which a query is made, where both are configured."""
_AGAIN: Final = (3600.0, 6 * 3600.0, 86_400.0)
"""Seconds without a report after which commitment is asked for anew: the first time, the second, and from then on."""
_LEFT: Final = 600.0
"""Seconds before a series is looked for again of which the destination answered the query with a failure."""
_DAY: Final = 86_400.0
_HOUR: Final = 3600.0
_DESPITE: Final = 300.0
"""Seconds after which a destination is asked although the last image could not be sent: none may be left to send."""
_SERVICE: Final = "ASSOCIATION_REJECTED"
"""The code of a destination that may take images all the same."""
_POLL: Final = 1.0

Verify = Literal["commitment", "query", "commitment-or-query"]


class Verifier:
    """Has what ``name`` accepted proven, by commitment, by query, or by whichever it has."""

    def __init__(
        self,
        name: str,
        store: Store,
        gate: Gate,
        *,
        commitment: Asking | None,
        query: Looking | None,
        new_uid: Callable[[], str],
        gauge: DestinationGauge,
        journal: Journal,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        """At least one of ``commitment`` and ``query`` is given; ``new_uid`` makes transaction UIDs."""
        self._name = name
        self._component = f"destination.{name}"
        self._store = store
        self._gate = gate
        self._commitment = commitment
        self._query = query
        self._new_uid = new_uid
        self._gauge = gauge
        self._journal = journal
        self._clock = clock
        self._random = random
        self._failures = 0
        self._rests_until = 0.0
        self._despite_at = clock.monotonic() + _DESPITE
        self._vain_since: float | None = None
        self._commits_from = self._queries_from = 0.0

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            try:
                busy = await self.turn()
            except StoreError as e:
                log.warning("nothing can be proven while the store does not serve", error=str(e))
                busy = False
            if not busy:
                await asyncio.sleep(_POLL)

    async def turn(self) -> bool:
        """Ask about one study, if one is due. Raises `StoreError`."""
        now = self._clock.monotonic()
        if not self._may_ask(now):
            return False
        if self._commitment is not None and (failed := await self._commitment.collect()) is not None:
            await self._failed((), failed)
            return False
        batch = await self._store.provable(self._name, QUIET, LONGEST_WAIT, MOST)
        if batch is None:
            return False
        unheard = any(item.unheard for item in batch.items)
        if self._commitment is None:
            await self._look(self._query, batch.items)
        elif self._queries(now) and (unheard or now < self._commits_from):
            if unheard:
                self._commits_from = now + _DAY  # it takes requests and never reports
            await self._look(self._query, batch.items)
        else:
            await self._ask(self._commitment, batch)
        return True

    def _may_ask(self, now: float) -> bool:
        if not self._gate.failing:
            self._despite_at = now + _DESPITE
        elif now < self._despite_at:
            return False
        return not self._gauge.paused and now >= self._rests_until

    def _queries(self, now: float) -> bool:
        """Whether it can be queried, as far as we know."""
        return self._query is not None and now >= self._queries_from

    async def _ask(self, commitment: Asking, batch: Batch) -> None:
        uid, now = self._new_uid(), self._clock.monotonic()
        tries = max(item.unheard for item in batch.items)
        patience = PATIENCE if self._queries(now) else _AGAIN[min(tries, len(_AGAIN) - 1)]
        await self._store.begin_request(self._name, uid, batch.items, now + patience)
        references = tuple(Reference(item.sop_class_uid, item.sop_instance_uid) for item in batch.items)
        answer = await commitment.ask(ActionInformation(uid, references))
        if isinstance(answer, Asked):
            self._vain_since = None
            self._succeeded("COMMITMENT_UNSUPPORTED", "PROOF_DECLINED")
        elif isinstance(answer, Unsupported):
            self._journal.state("COMMITMENT_UNSUPPORTED", self._component, self._sentence(answer.detail))
            self._commits_from = now + _DAY
            await self._later(batch.items, 0.0 if self._queries(now) else _HOUR, untaken=True)
        else:
            self._count_in_vain(answer)
            await self._failed(batch.items, answer, untaken=True)

    async def _look(self, query: Looking | None, items: Sequence[Provable]) -> None:
        if query is None:
            raise AssertionError("a verifier has one way or the other")
        answer = await query.look(items)
        if isinstance(answer, Seen):
            self._succeeded("QUERY_UNSUPPORTED", "PROOF_DECLINED")
            await self._store.prove(self._name, answer.verdicts)
            if answer.left:
                self._journal.state("PROOF_DECLINED", self._component, self._sentence(answer.why))
                await self._later(answer.left, _LEFT)
        elif isinstance(answer, Unsupported):
            self._journal.state("QUERY_UNSUPPORTED", self._component, self._sentence(answer.detail))
            await self._without_queries(items)
        else:
            await self._failed(items, answer)

    async def _without_queries(self, items: Sequence[Provable]) -> None:
        """Ask by commitment instead, however late it reports, where that is configured."""
        if self._commitment is not None:
            self._queries_from = self._clock.monotonic() + _DAY
            self._commits_from = 0.0
        fresh = [item for item in items if not item.unheard and self._commitment is not None]
        await self._later(fresh, 0.0)
        await self._later([item for item in items if item not in fresh], _HOUR)

    def _count_in_vain(self, why: Declined | Unreachable) -> None:
        """Take what fails for as long as a report is waited for as not there for an hour: a query may prove it."""
        if isinstance(why, Unreachable) and not (why.midway or why.code == _SERVICE):
            return  # a query would not reach it either
        now = self._clock.monotonic()
        if self._vain_since is None:
            self._vain_since = now
        elif now - self._vain_since >= PATIENCE:
            self._vain_since, self._commits_from = None, now + _HOUR

    def _succeeded(self, *codes: str) -> None:
        self._failures = 0
        self._despite_at = self._clock.monotonic()
        for code in codes:
            self._journal.clear(code, self._component)

    async def _failed(self, items: Sequence[Provable], why: Declined | Unreachable, *, untaken: bool = False) -> None:
        """Rest as a destination that cannot be reached is let rest; what it said is a finding if it said something."""
        self._failures += 1
        if isinstance(why, Declined):
            self._journal.state("PROOF_DECLINED", self._component, self._sentence(why.detail))
        wait = backoff(self._failures, self._random)
        if isinstance(why, Unreachable):
            wait = max(wait, why.after or 0.0)
        self._rests_until = self._clock.monotonic() + wait
        self._despite_at = self._clock.monotonic() + _DESPITE
        await self._later(items, wait, untaken=untaken)

    async def _later(self, items: Sequence[Provable], seconds: float, *, untaken: bool = False) -> None:
        if not items:
            return
        await self._store.postpone(self._name, items, self._clock.monotonic() + seconds, untaken=untaken)

    def _sentence(self, detail: str) -> str:
        return say("{name}: {detail}.", name=self._name, detail=detail)
