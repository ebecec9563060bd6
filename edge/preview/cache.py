"""Pictures that were made, kept in memory within a bound: nothing of them is written to the card."""

from collections import OrderedDict
from typing import Final

from edge.clock import Clock
from edge.preview.answer import Answer, Picture, Reason

_ENTRY: Final = 512
"""Bytes counted for an entry beside its picture."""
_NEVER: Final = frozenset({Reason.BUSY, Reason.GONE, Reason.UNAVAILABLE})
"""What the object is not to blame for."""
_FOR_NOW: Final = frozenset({Reason.SLOW, Reason.CRASHED})
_AGAIN: Final = 300.0
"""Seconds after which what was slow or fatal may be tried again."""

Key = tuple[int, int]
"""The object's id and the longer side in pixels."""


class Cache:
    """Answers, the one used last longest: at most ``most`` bytes."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._entries: OrderedDict[Key, tuple[Answer, float]] = OrderedDict()
        self.bytes = 0
        """Counted for what is kept."""

    def get(self, key: Key) -> Answer | None:
        """Return the answer that is kept for ``key``."""
        found = self._entries.get(key)
        if found is None:
            return None
        answer, until = found
        if self._clock.monotonic() >= until:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return answer

    def put(self, key: Key, answer: Answer) -> None:
        """Keep ``answer`` where it will be the same next time."""
        reason = None if isinstance(answer, Picture) else answer.reason
        if reason in _NEVER:
            return
        self._drop(key)
        until = self._clock.monotonic() + _AGAIN if reason in _FOR_NOW else float("inf")
        self._entries[key] = (answer, until)
        self.bytes += _cost(answer)
        while self.bytes > self._most:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Key) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self.bytes -= _cost(found[0])


def _cost(answer: Answer) -> int:
    return _ENTRY + (len(answer.data) if isinstance(answer, Picture) else 0)
