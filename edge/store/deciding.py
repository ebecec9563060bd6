"""Deciding promises: whether each image that a modality named is safe, refused, or not to be said yet.

Only reads. A promise may name 20 000 images and wait for days, so the first image that cannot be decided stops it and
is looked at first the next time, after a pause that doubles; a look has a bound, and goes on where the last one ended.
"""

import sqlite3
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from edge.states import DeliveryState, is_settled
from edge.store.turns import OTHER_RENDERING

Basis = Literal["stored", "delivered"]

_NO_SUCH: Final = 0x0112
_CONFLICT: Final = 0x0119
_FAILURE: Final = 0x0110
"""Failure Reason (0008,1197), PS3.3 C.14.1.1."""
_LEAST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
"""Seconds between two looks at an image that cannot be decided."""
_MOST_LOOKS: Final = 2000
"""Images looked at in one go: others want to read too."""
_REFUSALS: Final = frozenset({DeliveryState.HELD, DeliveryState.CANCELLED, DeliveryState.DECLINED})

_WAITING: Final = "SELECT id, times FROM promise WHERE state = 'waiting' ORDER BY id"
_NEXT: Final = """SELECT position, sop_class_uid, sop_instance_uid FROM promised
    WHERE promise = ? AND position >= ? ORDER BY position LIMIT ?"""
_ONE: Final = "SELECT position, sop_class_uid, sop_instance_uid FROM promised WHERE promise = ? AND position = ?"
_CONTENTS: Final = """SELECT id, state IN ('stored', 'expired'), sop_class_uid, transfer_syntax_uid, digest, unrouted
    FROM instance WHERE sop_instance_uid = ?"""
_DELIVERIES: Final = """SELECT d.destination, d.state, d.needs_proof, d.code, r.at FROM delivery d
    LEFT JOIN refused r ON r.delivery = d.id WHERE d.instance = ?"""


class Rule(msgspec.Struct, frozen=True):
    """When an image counts as safe."""

    basis: Basis
    grace: float
    """Seconds that an image may be unknown here before it is refused."""
    refuse_after: float
    """Seconds of uptime that a delivery may be held or given up before the image is refused."""


class Decision(msgspec.Struct, frozen=True):
    """All images of a promise are decided; ``failures`` are (position, reason)."""

    promise: int
    times: int
    """How often it had been asked for."""
    failures: tuple[tuple[int, int], ...]


class _Look(msgspec.Struct):
    """How far one promise was looked through."""

    first: float
    position: int = 0
    failed: list[int] = []
    pause: float = _LEAST_PAUSE
    next: float = 0.0


class _Content(msgspec.Struct, frozen=True):
    """One content of a UID, with its deliveries."""

    there: bool
    """Whether its file is here, or was deleted after every destination had it."""
    sop_class_uid: str
    transfer_syntax_uid: str
    digest: bytes
    unrouted: bool
    deliveries: tuple[tuple[str, DeliveryState, bool, str, float | None], ...]
    """Destination, state, whether it needs proof, code, and the uptime since when it is refused."""

    @property
    def shown(self) -> frozenset[str]:
        """Destinations that have it on evidence that is enough."""
        return frozenset(
            destination
            for destination, state, needs_proof, _, _ in self.deliveries
            if state not in _REFUSALS and is_settled(state, needs_proof=needs_proof)
        )


class Deciding:
    """Looks at the promises that wait, now and then."""

    def __init__(self) -> None:
        self._looks: dict[tuple[int, int], _Look] = {}

    def look(self, raw: sqlite3.Connection, rule: Rule, monotonic: float, uptime: float) -> list[Decision]:
        """Return what can be decided now; ``uptime`` is in seconds."""
        waiting = [(number, times) for number, times in raw.execute(_WAITING)]
        self._looks = {key: self._looks.get(key) or _Look(monotonic) for key in waiting}
        decided, left = [], _MOST_LOOKS
        for (number, times), look in self._looks.items():
            if left <= 0:
                break
            if monotonic < look.next:
                continue
            judge = _Judge(raw, rule, uptime, patient=monotonic - look.first < rule.grace)
            left -= self._go_on(raw, number, look, judge, monotonic, left)
            if look.position == _END:
                failures = self._failures(raw, number, look, judge)
                if failures is None:
                    self._looks[number, times] = _Look(look.first, pause=look.pause, next=monotonic + look.pause)
                else:
                    decided.append(Decision(number, times, failures))
        return decided

    def _go_on(self, raw: sqlite3.Connection, number: int, look: _Look, judge: "_Judge", now: float, most: int) -> int:
        """Look at up to ``most`` images from where the last look ended; at how many."""
        rows, began = raw.execute(_NEXT, (number, look.position, most)).fetchall(), look.position
        for count, (position, sop_class, uid) in enumerate(rows, start=1):
            reason = judge.reason(sop_class, uid)
            if reason is None:
                look.pause = _LEAST_PAUSE if position > began else min(2 * look.pause, _LONGEST_PAUSE)
                look.position, look.next = position, now + look.pause
                return count
            if reason:
                look.failed.append(position)
            look.position = position + 1
        if len(rows) < most:
            look.position = _END
        return len(rows)

    def _failures(
        self, raw: sqlite3.Connection, number: int, look: _Look, judge: "_Judge"
    ) -> tuple[tuple[int, int], ...] | None:
        """Judge once more what had failed, for that may have changed meanwhile; None where one is open again."""
        failures = []
        for position in look.failed:
            for _, sop_class, uid in raw.execute(_ONE, (number, position)):
                reason = judge.reason(sop_class, uid)
                if reason is None:
                    return None
                if reason:
                    failures.append((position, reason))
        return tuple(failures)


_END: Final = 1 << 62


class _Judge:
    """Judges single images by one rule, at one time."""

    def __init__(self, raw: sqlite3.Connection, rule: Rule, uptime: float, *, patient: bool) -> None:
        self._raw = raw
        self._rule = rule
        self._uptime = uptime
        self._patient = patient

    def reason(self, sop_class: str, uid: str) -> int | None:
        """Return 0 for what is safe, a failure reason, or None for what cannot be said yet."""
        found = list(self._contents(uid))
        if not found:
            return None if self._patient else _NO_SUCH
        contents = [one for one in found if one.sop_class_uid == sop_class]
        if not contents:
            return _CONFLICT
        if self._rule.basis == "stored":
            return 0 if any(one.there for one in contents) else _NO_SUCH
        return self._delivered(contents)

    def _contents(self, uid: str) -> Iterator[_Content]:
        for number, there, sop_class, syntax, digest, unrouted in self._raw.execute(_CONTENTS, (uid,)).fetchall():
            deliveries = tuple(
                (destination, DeliveryState(state), bool(needs_proof), code, at)
                for destination, state, needs_proof, code, at in self._raw.execute(_DELIVERIES, (number,))
            )
            yield _Content(bool(there), sop_class, syntax, digest, bool(unrouted), deliveries)

    def _delivered(self, contents: list[_Content]) -> int | None:
        """Judge by the deliveries of every content; what was lost and came again counts as it came again."""
        here = {(one.transfer_syntax_uid, one.digest) for one in contents if one.there}
        counted = [one for one in contents if one.there or (one.transfer_syntax_uid, one.digest) not in here]
        verdicts = [self._content(one, [other for other in counted if other is not one]) for one in counted]
        if failures := [verdict for verdict in verdicts if verdict]:
            return failures[0]
        return None if None in verdicts else 0

    def _content(self, one: _Content, others: list[_Content]) -> int | None:
        renderings = [other for other in others if other.transfer_syntax_uid != one.transfer_syntax_uid]
        elsewhere = frozenset[str]().union(*(other.shown for other in renderings))
        if not one.deliveries:
            if elsewhere and not one.unrouted:
                return 0
            return None if one.there else _NO_SUCH
        waits = False
        for destination, state, needs_proof, code, at in one.deliveries:
            if state in _REFUSALS:
                if code == OTHER_RENDERING or destination in elsewhere:
                    continue
                if self._uptime - (self._uptime if at is None else at) >= self._rule.refuse_after:
                    return _FAILURE if one.there else _NO_SUCH
                waits = True
            elif not is_settled(state, needs_proof=needs_proof):
                waits = True
        if waits and not one.there:
            return _NO_SUCH
        return None if waits else 0
