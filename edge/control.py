"""What a person may do to the queue: retry, hold, release, cancel. Each is committed before it is confirmed."""

from collections.abc import Callable
from typing import Final

from edge.store import Choice, Store, StoreError

VERBS: Final = ("retry", "hold", "release", "cancel")


class Control:
    """Carries out decisions. ``hasten`` opens the gate of one destination, or of all for ''."""

    def __init__(self, store: Store, hasten: Callable[[str], None]) -> None:
        self._store = store
        self._hasten = hasten

    async def act(self, verb: str, choice: Choice, *, who: str, reason: str = "", force: bool = False) -> int:
        """Apply ``verb``; the number of deliveries it concerned. Raises `StoreError`.

        ``retry`` skips every wait and tries what is held again; with ``force``, what was delivered as well.
        """
        if verb == "cancel" and not reason.strip():
            raise StoreError("cancel wants a reason, for the trail.")
        if verb != "retry":
            return await self._store.decide(verb, choice, who=who, reason=reason)
        moved = await self._store.decide("release", choice, who=who, reason=reason)
        if force:
            moved += await self._store.decide("resend", choice, who=who, reason=reason)
        queued = await self._store.hasten(choice)
        self._hasten(choice.destination)
        return max(moved, queued)
