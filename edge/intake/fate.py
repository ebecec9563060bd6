"""What became of one file; and that whatever goes wrong with it is its own fate, and nobody else's."""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import structlog

from edge.intake.receiver import ReceiverError
from edge.phrase import say
from edge.store import StoreError

log = structlog.get_logger()


class Fate(StrEnum):
    """What became of one file."""

    TAKEN = "taken"
    ALREADY = "already there"
    NOT_DICOM = "not DICOM"
    """Another kind of file: it is nobody's loss if it stays where it is."""
    UNFINISHED = "not whole"
    """DICOM that is cut, or still written: not now, perhaps later."""
    REFUSED = "refused"
    """It cannot be taken as it is."""
    NO_ROOM = "no room"
    """Not now: the box takes nothing."""
    TOO_LARGE = "too large"
    """Not now: there is no room for this one, but there may be for others."""


LEFT: Final = (Fate.TOO_LARGE, Fate.REFUSED, Fate.UNFINISHED)
"""An object should have been taken and was not; what is tried again soonest comes first."""


@dataclass(slots=True)
class Result:
    """The fate of one file; of an archive, with those of its members."""

    fate: Fate
    why: str = ""
    objects: dict[Fate, int] = field(default_factory=dict)
    """How many objects of each fate, where they are not just this one."""
    reasons: list[tuple[str, str]] = field(default_factory=list)
    """Members that were not taken, and why; the first few."""

    def counts(self) -> dict[Fate, int]:
        """How many objects of each fate."""
        return self.objects or {self.fate: 1}


async def contained(taking: Awaitable[Result]) -> Result:
    """Wait for what becomes of one file. Whatever it makes go wrong here is its own fate, and the next one's turn."""
    try:
        return await taking
    except (StoreError, ReceiverError):
        raise
    except Exception as e:
        # without the name, which may be a patient's
        log.exception("a file cannot be dealt with")
        return Result(Fate.REFUSED, say("it cannot be dealt with: {kind}", kind=type(e).__name__))


def unreadable(error: OSError) -> Result:
    """Give the fate of a file that cannot be read."""
    return Result(Fate.REFUSED, say("it cannot be read: {error}", error=error.strerror or error))
