"""Verdicts on what was accepted: verified on listed evidence, asked again, sent again, or held for a person.

A report counts for what our request named, however late, partial or repeated it is. Evidence by UID alone settles
nothing where two contents of that UID may be at the destination. Each verdict is one move of one delivery that is
accepted; any other delivery stays as it is.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from edge.events import refused
from edge.evidence import WORDS, Evidence, proves
from edge.model import Failure, Reference
from edge.phrase import N_
from edge.states import DeliveryState, may_move
from edge.store import events
from edge.store.proofs import Verdict
from edge.store.trail import Mark, write
from edge.store.turns import Turns

TWIN_UNPROVEN: Final = "TWIN_UNPROVEN"
"""The code of a delivery that is held because another content of its UID may be what the destination has."""
OTHER_CONTENT: Final = N_("another content of this SOP Instance UID may be what the destination has")
NOT_FOUND: Final = "NOT_FOUND"
"""The code of a delivery that is sent again because no query found it."""
UNQUERIABLE: Final = "UNQUERIABLE"
"""The code of a delivery that is held because no query can name it."""
QUERY: Final = "query"
"""Stands in the trail in place of a transaction UID, for what a query showed."""

_NO_SUCH: Final = 0x0112
_CONFLICT: Final = 0x0119
_UNSUPPORTED: Final = 0x0122
_DUPLICATE: Final = 0x0131
"""Failure Reason (0008,1197), PS3.3 C.14.1.1; any other is a trouble of the destination's own."""
_AGAIN: Final = (60.0, 600.0, 3600.0, 6 * 3600.0, 86_400.0)
"""Seconds before what was not committed is asked about again, by how often it was."""
_AT_ONCE: Final = 3
"""Times that a transaction UID which the destination says it knows already is replaced at once."""
_UNSEEN: Final = (30.0, 120.0, 600.0, 3600.0)
"""Seconds before what a query did not find is looked for again; then it is sent again."""
_RESEND: Final = (0.0, 300.0, 3600.0, 86_400.0)
"""Seconds before what the destination does not have is sent again, by how often it was."""
_MARKS: Final = 4
"""Refusals to commit one instance that the trail tells of since it was accepted."""
_SENT_AGAIN: Final = "sent-again"


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a report or a query, in instances."""

    known: bool = True
    """Whether it answers a request of ours; where not, nothing came of it."""
    destination: str = ""
    verified: int = 0
    held: int = 0
    again: int = 0
    """Asked about again later."""
    resent: int = 0
    foreign: int = 0
    """Named by it and not by our request."""


class CommitmentReport(Protocol):
    """A report as it came (PS3.4 J.3.3.1.2)."""

    @property
    def transaction_uid(self) -> str:
        """Which request it answers."""
        ...

    @property
    def committed(self) -> Sequence[Reference]:
        """What the destination keeps."""
        ...

    @property
    def failed(self) -> Sequence[Failure]:
        """What it does not, with a reason."""
        ...


class _Accepted(msgspec.Struct, frozen=True):
    """A delivery that waits for its proof."""

    delivery: int
    instance: int
    sop_instance_uid: str
    sop_class_uid: str
    asked: int | None
    """The first request that named it since it was accepted."""
    tries: int
    missing: int


_REQUEST: Final = "SELECT id, destination FROM request WHERE uid = ?"
_ACCEPTED: Final = """SELECT d.id, i.id, i.sop_instance_uid, i.sop_class_uid, p.asked, p.tries, p.missing
    FROM instance i JOIN delivery d ON d.instance = i.id AND d.destination = ?1 JOIN proof p ON p.delivery = d.id"""
_REQUESTED: Final = """SELECT r.instance, i.sop_instance_uid FROM requested r JOIN instance i ON i.id = r.instance
    WHERE r.request = ?"""
_MOVE: Final = """UPDATE delivery SET state = ?, code = ?, detail = ?, not_before = ?, strikes = 0, changed_at = ?
    WHERE id = ? AND state = 'accepted' AND needs_proof = 1"""
_ASK_AT: Final = "UPDATE proof SET ask_at = ?, heard = tries WHERE delivery = ?"
_UNSEEN_AT: Final = "UPDATE proof SET ask_at = ?, missing = missing + 1 WHERE delivery = ?"
_TIMES: Final = f"""SELECT count(*) FROM trail WHERE instance = ? AND destination = ? AND event = '{_SENT_AGAIN}'"""
_TWINNED: Final = """SELECT count(DISTINCT transfer_syntax_uid) < count(DISTINCT transfer_syntax_uid || hex(digest))
    FROM instance WHERE sop_instance_uid = (SELECT sop_instance_uid FROM instance WHERE id = ?)"""
# a refusal says that it is not there; anything else that was tried may be
_OTHER_THERE: Final = """SELECT EXISTS (SELECT 1 FROM instance mine JOIN instance other
        ON other.sop_instance_uid = mine.sop_instance_uid AND other.digest <> mine.digest WHERE mine.id = ?1 AND (
            EXISTS (SELECT 1 FROM delivery WHERE instance = other.id AND destination = ?2
                AND state IN ('sending', 'accepted', 'verified'))
            OR EXISTS (SELECT 1 FROM trail WHERE instance = other.id AND destination = ?2
                AND event IN ('accepted', 'verified', 'attempted', 'given-back'))))"""


def ambiguous(raw: sqlite3.Connection, instance: int, destination: str) -> bool:
    """Whether another content of the UID of ``instance`` is or may be what ``destination`` names by that UID."""
    twinned = raw.execute(_TWINNED, (instance,)).fetchone()[0]
    return bool(twinned and raw.execute(_OTHER_THERE, (instance, destination)).fetchone()[0])


class _Judge:
    """Moves deliveries to one destination, within one transaction at one time."""

    def __init__(
        self, raw: sqlite3.Connection, destination: str, by: str, monotonic: float, now: float, *, trusted: bool
    ) -> None:
        self._raw = raw
        self._destination = destination
        self._by = by
        self._monotonic = monotonic
        self._now = now
        self._trusted = trusted
        self._counts: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._marks: list[Mark] = []
        self._left: list[int] = []

    def result(self, foreign: int = 0) -> Reported:
        """Write down what was decided, and return it."""
        write(self._raw, self._marks)
        told = [
            refused(self._destination, code, DeliveryState.HELD, number) for code, number in sorted(self._held.items())
        ]
        events.write(self._raw, told, self._now, trusted=self._trusted)
        Turns(self._raw, self._now, trusted=self._trusted).leave(self._left)
        counts = self._counts
        return Reported(
            destination=self._destination,
            verified=counts["verified"],
            held=counts["held"],
            again=counts["again"],
            resent=counts["resent"],
            foreign=foreign,
        )

    def prove(self, one: _Accepted, evidence: Evidence) -> None:
        """Verify, unless another content may be what was seen."""
        if not proves(evidence, DeliveryState.VERIFIED):
            raise ValueError(f"{evidence} verifies nothing")
        if ambiguous(self._raw, one.instance, self._destination):
            self._hold(one, TWIN_UNPROVEN, OTHER_CONTENT)
            return
        self._move(one, DeliveryState.VERIFIED, self._by, WORDS[evidence])
        self._mark(one, "verified", self._by, WORDS[evidence])
        self._counts["verified"] += 1
        self._left.append(one.delivery)

    def fail(self, one: _Accepted, reason: int) -> None:
        """Act on a reason for which it was not committed."""
        code = f"{reason:04X}"
        if one.tries <= _MARKS or reason in (_NO_SUCH, _CONFLICT, _UNSUPPORTED):
            self._mark(one, "not-committed", code, self._by)
        if reason == _NO_SUCH:
            self._resend(one, code)
        elif reason in (_CONFLICT, _UNSUPPORTED):
            self._hold(one, code, N_("the destination does not commit to it"))
        else:
            at_once = reason == _DUPLICATE and one.tries <= _AT_ONCE
            wait = 0.0 if at_once else _AGAIN[min(max(one.tries, 1), len(_AGAIN)) - 1]
            self._raw.execute(_ASK_AT, (self._monotonic + wait, one.delivery))
            self._counts["again"] += 1

    def pass_by(self, one: _Accepted) -> None:
        """Leave to a person what no query can name."""
        self._hold(one, UNQUERIABLE, N_("it names no study and series by which the destination could be asked for it"))

    def miss(self, one: _Accepted) -> None:
        """Look again later for what a query did not find; after the last time, send it again."""
        if one.missing < len(_UNSEEN):
            self._raw.execute(_UNSEEN_AT, (self._monotonic + _UNSEEN[one.missing], one.delivery))
            self._counts["again"] += 1
        else:
            self._mark(one, "not-found", self._by, N_("it did not name it when it was queried"))
            self._resend(one, NOT_FOUND)

    def _resend(self, one: _Accepted, code: str) -> None:
        times = int(self._ask(_TIMES, one.instance, self._destination))
        wait = _RESEND[min(times, len(_RESEND) - 1)]
        detail = N_("the destination says that it does not have it")
        self._move(one, DeliveryState.QUEUED, code, detail, self._monotonic + wait if wait else None)
        self._mark(one, _SENT_AGAIN, code, detail)
        self._counts["resent"] += 1
        turns = Turns(self._raw, self._now, trusted=self._trusted)
        turns.enter(one.instance, [self._destination], forced=True)

    def _hold(self, one: _Accepted, code: str, detail: str) -> None:
        self._move(one, DeliveryState.HELD, code, detail)
        self._mark(one, "held", code, detail)
        self._counts["held"] += 1
        self._held[code] += 1
        self._left.append(one.delivery)

    def _move(
        self, one: _Accepted, state: DeliveryState, code: str, detail: str, not_before: float | None = None
    ) -> None:
        if not may_move(DeliveryState.ACCEPTED, state):
            raise ValueError(f"nothing goes from accepted to {state}")
        self._raw.execute(_MOVE, (state, code, detail, not_before, self._now, one.delivery))

    def _mark(self, one: _Accepted, event: str, code: str, detail: str) -> None:
        self._marks.append(
            Mark(
                instance=one.instance,
                destination=self._destination,
                at=self._now,
                clock_trusted=self._trusted,
                event=event,
                code=code,
                detail=detail,
            )
        )

    def _ask(self, asked: str, *values: object) -> int:
        return int(self._raw.execute(asked, values).fetchone()[0])


def report(raw: sqlite3.Connection, came: CommitmentReport, monotonic: float, now: float, *, trusted: bool) -> Reported:
    """Act on a report: what is in both lists has failed; what is in neither is asked about again when it is due."""
    known = raw.execute(_REQUEST, (came.transaction_uid,)).fetchone()
    if known is None:
        return Reported(known=False)
    request, destination = known
    judge = _Judge(raw, destination, came.transaction_uid, monotonic, now, trusted=trusted)
    requested = {uid: instance for instance, uid in raw.execute(_REQUESTED, (request,)).fetchall()}
    listed = _listed(came)
    for uid, (sop_class, reason) in listed.items():
        one = _accepted(raw, destination, requested.get(uid))
        if one is None or one.asked is None or one.asked > request:
            continue  # over, or sent again since: then it is asked about anew
        wrong = _CONFLICT if reason is None and sop_class not in ("", one.sop_class_uid) else reason
        if wrong is None:
            judge.prove(one, Evidence.COMMITTED)
        else:
            judge.fail(one, wrong)
    return judge.result(len(listed.keys() - requested.keys()))


def prove(
    raw: sqlite3.Connection,
    destination: str,
    verdicts: Iterable[Verdict],
    monotonic: float,
    now: float,
    *,
    trusted: bool,
) -> Reported:
    """Act on what a query of ``destination`` showed."""
    judge = _Judge(raw, destination, QUERY, monotonic, now, trusted=trusted)
    for verdict in verdicts:
        one = _accepted(raw, destination, verdict.instance)
        if one is not None and verdict.found:
            judge.prove(one, Evidence.FOUND)
        elif one is not None and not verdict.askable:
            judge.pass_by(one)
        elif one is not None:
            judge.miss(one)
    return judge.result()


def _listed(came: CommitmentReport) -> Mapping[str, tuple[str, int | None]]:
    """Give class and reason of each UID; the reason is None where it is committed. A failure outweighs a success."""
    return MappingProxyType({r.sop_instance_uid: (r.sop_class_uid, reason) for r, reason in _all(came)})


def _all(came: CommitmentReport) -> Iterator[tuple[Reference, int | None]]:
    for reference in came.committed:
        yield reference, None
    for failure in came.failed:
        yield failure.reference, failure.reason


def _accepted(raw: sqlite3.Connection, destination: str, instance: int | None) -> _Accepted | None:
    row = raw.execute(f"{_ACCEPTED} WHERE i.id = ?2", (destination, instance)).fetchone()
    return None if row is None else _Accepted(*row)
