"""Whose turn it is among the deliveries of one SOP Instance UID to one destination.

Another content goes in order of arrival: not before the one ahead of it is over or held. Another rendering, which is
the same instance in another transfer syntax, goes only where the earlier ones were refused, given up or lost: once one
of them is accepted, it ends unsent. Ids say what came first, so that a database made anew from the files decides alike.
Only what is queued waits behind anything, and that has at least its priority.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

import msgspec

from edge.phrase import say
from edge.states import WAITING, DeliveryState
from edge.store.trail import Mark, write

OTHER_RENDERING: Final = "OTHER_RENDERING"
"""The code of a delivery that ended because the destination has another rendering of the instance."""
HELD: Final = "HELD"
"""The code of a delivery that a person holds: unlike a refusal, it says nothing of what the destination takes."""

_UNSENT: Final = ", ".join(f"'{state}'" for state in sorted(WAITING - {DeliveryState.HELD}))
# the first of its transfer syntax beside others; not where one syntax has two contents: nobody knows which it renders
_RENDERING: Final = """SELECT count(DISTINCT transfer_syntax_uid) FILTER (WHERE id <= ?2) > 1
    AND count(DISTINCT transfer_syntax_uid) = count(DISTINCT transfer_syntax_uid || hex(digest))
    FROM instance WHERE sop_instance_uid = ?1"""
_EARLIER: Final = """FROM delivery d JOIN instance i ON i.id = d.instance
    WHERE i.sop_instance_uid = ?1 AND i.id < ?2 AND d.destination = ?3"""
_ACCEPTED: Final = f"SELECT i.id {_EARLIER} AND d.state IN ('accepted', 'verified') ORDER BY i.id LIMIT 1"
_AHEAD: Final = f"""SELECT d.id {_EARLIER} AND i.state NOT IN ('lost', 'quarantined')
    AND (d.state IN ({_UNSENT}) OR NOT ?4 AND d.state = 'accepted' AND d.needs_proof = 1
        OR ?4 AND d.state = 'held' AND d.code = '{HELD}') ORDER BY i.id DESC LIMIT 1"""
_LATER: Final = """SELECT d.id, d.instance, d.destination FROM delivery d JOIN instance i ON i.id = d.instance
    WHERE i.sop_instance_uid = ? AND i.id > ? AND d.destination = ? AND d.state = 'queued' ORDER BY i.id"""
_BEHIND: Final = """SELECT d.id, d.instance, d.destination, i.sop_instance_uid, d.state = 'queued'
    FROM delivery d JOIN instance i ON i.id = d.instance WHERE d.behind = ? ORDER BY d.instance"""
_END: Final = f"""UPDATE delivery SET state = 'cancelled', code = '{OTHER_RENDERING}', detail = ?, not_before = NULL,
    behind = NULL, strikes = 0, changed_at = ? WHERE id = ? AND state = 'queued'"""
_HURRY: Final = """WITH RECURSIVE ahead (id, priority) AS (
        SELECT behind, priority FROM delivery WHERE id = ?
        UNION SELECT d.behind, a.priority FROM delivery d JOIN ahead a ON d.id = a.id
    ) UPDATE delivery SET priority = ahead.priority FROM ahead
    WHERE delivery.id = ahead.id AND state = 'queued' AND delivery.priority > ahead.priority"""
_OF: Final = "SELECT id, destination FROM delivery WHERE instance = ? AND state <> 'sending'"
_RELATIVES: Final = """SELECT EXISTS (SELECT 1 FROM instance WHERE sop_instance_uid =
    (SELECT sop_instance_uid FROM instance WHERE id = ?1) AND id <> ?1)"""


class _Waiting(msgspec.Struct, frozen=True):
    """A delivery that is queued."""

    id: int
    instance: int
    destination: str
    uid: str


class Turns:
    """Gives turns, within one transaction at the time ``now``."""

    def __init__(self, raw: sqlite3.Connection, now: float, *, trusted: bool) -> None:
        self._raw = raw
        self._now = now
        self._trusted = trusted

    def enter(self, instance: int, destinations: Iterable[str], *, forced: bool = False) -> None:
        """Give deliveries of ``instance`` that enter the queue their place, and those that came later theirs.

        A rendering that is not needed ends here, unless it is ``forced``.
        """
        if not self._one(_RELATIVES, instance):
            return
        uid = str(self._one("SELECT sop_instance_uid FROM instance WHERE id = ?", instance))
        asked = "SELECT id FROM delivery WHERE instance = ? AND destination = ? AND state = 'queued'"
        for destination in destinations:
            for (number,) in self._raw.execute(asked, (instance, destination)).fetchall():
                self._place(_Waiting(number, instance, destination, uid), forced=forced)
            for row in self._raw.execute(_LATER, (uid, instance, destination)).fetchall():
                later = _Waiting(row[0], row[1], row[2], uid)
                self._stand(later, rendering=self._is_rendering(later))

    def leave(self, deliveries: Iterable[int]) -> set[str]:
        """Let go on who waits behind ``deliveries``, which left the queue; the destinations concerned."""
        concerned, left = set(), list(deliveries)
        while left:
            for number, instance, destination, uid, queued in self._raw.execute(_BEHIND, (left.pop(),)).fetchall():
                concerned.add(destination)
                if not queued:
                    self._raw.execute("UPDATE delivery SET behind = NULL WHERE id = ?", (number,))
                elif self._place(_Waiting(number, instance, destination, uid)):
                    left.append(number)
        return concerned

    def pass_over(self, instance: int) -> None:
        """Let go on who waits for ``instance``, whose file is gone or damaged."""
        self.leave([number for number, _ in self._raw.execute(_OF, (instance,)).fetchall()])

    def come_back(self, instance: int) -> None:
        """Give ``instance``, whose file is there again, its place."""
        self.enter(instance, [destination for _, destination in self._raw.execute(_OF, (instance,)).fetchall()])

    def _place(self, one: _Waiting, *, forced: bool = False) -> bool:
        """Let ``one`` wait its turn; True where it ends instead, because the destination has another rendering."""
        rendering = self._is_rendering(one)
        if rendering and not forced:
            accepted = self._one(_ACCEPTED, one.uid, one.instance, one.destination)
            if accepted is not None:
                self._end(
                    one, say("object {number}, the same in another transfer syntax, was accepted", number=accepted)
                )
                return True
        self._stand(one, rendering=rendering)
        return False

    def _stand(self, one: _Waiting, *, rendering: bool) -> None:
        ahead = self._one(_AHEAD, one.uid, one.instance, one.destination, rendering)
        self._raw.execute("UPDATE delivery SET behind = ?1 WHERE id = ?2 AND behind IS NOT ?1", (ahead, one.id))
        if ahead is not None:  # what is urgent would wait as long as what is not
            self._raw.execute(_HURRY, (one.id,))

    def _end(self, one: _Waiting, why: str) -> None:
        self._raw.execute(_END, (why, self._now, one.id))
        mark = Mark(
            instance=one.instance,
            destination=one.destination,
            at=self._now,
            clock_trusted=self._trusted,
            event="not-needed",
            code=OTHER_RENDERING,
            detail=why,
        )
        write(self._raw, [mark])

    def _is_rendering(self, one: _Waiting) -> bool:
        return bool(self._one(_RENDERING, one.uid, one.instance))

    def _one(self, asked: str, *values: object) -> object:
        row = self._raw.execute(asked, values).fetchone()
        return row[0] if row is not None else None
