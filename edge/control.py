"""What a person may do to the queue, or central IT from afar. Each is committed before it is confirmed."""

from typing import Final, Protocol

from edge.store import Choice, Store, StoreError

VERBS: Final = ("retry", "stat", "hold", "release", "cancel", "pause", "resume")


class Lanes(Protocol):
    """The lanes to the destinations, by name."""

    def has(self, name: str) -> bool:
        """Whether there is a lane to ``name``."""

    def hasten(self, name: str) -> None:
        """Try the destination now, or all of them for ''."""

    def pause(self, name: str) -> None:
        """Send it nothing until `resume`."""

    def resume(self, name: str) -> None:
        """Go on."""


class Control:
    """Carries out decisions."""

    def __init__(self, store: Store, lanes: Lanes) -> None:
        self._store = store
        self._lanes = lanes

    async def act(self, verb: str, choice: Choice, *, who: str, reason: str = "", force: bool = False) -> int:
        """Apply ``verb``; the number of deliveries it concerned. Raises `StoreError`.

        ``retry`` skips every wait and tries what is held again; with ``force``, what was delivered as well. ``stat``
        lets what is queued go before everything else, without any wait. ``pause`` and ``resume`` concern one
        destination as a whole: 1 where that changed something.
        """
        match verb:
            case "pause" | "resume" if not self._lanes.has(choice.destination):
                # what it is called goes into an event, so it must be a name from the configuration
                raise StoreError("There is no such destination.")
            case "pause":
                changed = await self._store.pause(choice.destination, who)
                self._lanes.pause(choice.destination)
                return int(changed)
            case "resume":
                changed = await self._store.resume(choice.destination, who)
                self._lanes.resume(choice.destination)
                return int(changed)
            case "retry":
                return await self._retry(choice, who=who, reason=reason, force=force)
            case "stat":
                queued = await self._store.hurry(choice, who=who, reason=reason)
                self._lanes.hasten(choice.destination)
                return queued
            case "cancel" if not reason.strip():
                raise StoreError("cancel wants a reason, for the trail.")
            case _:
                return await self._store.decide(verb, choice, who=who, reason=reason)

    async def _retry(self, choice: Choice, *, who: str, reason: str, force: bool) -> int:
        moved = await self._store.decide("release", choice, who=who, reason=reason)
        if force:
            moved += await self._store.decide("resend", choice, who=who, reason=reason)
        queued = await self._store.hasten(choice)
        self._lanes.hasten(choice.destination)
        return max(moved, queued)
