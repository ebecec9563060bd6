"""Where objects go, as whoever takes files sees it: what may be asked there, and what may be wrong there.

Two things stand behind it: the door of this process (`edge/intake/through.py`), and the appliance at the other end of a
connection (`edge/intake/remote.py`).
"""

from collections.abc import Sequence
from typing import Final, Protocol

from edge.dicom.whole import Whole
from edge.intake.tree import Readable
from edge.model import Origin, Source
from edge.phrase import N_

TOO_LONG: Final = N_("it is longer than receive.max_object")


class RefusedObjectError(Exception):
    """The receiver does not take this object."""


class NoRoomNowError(Exception):
    """The receiver takes nothing at the moment."""


class TooLargeNowError(Exception):
    """The receiver has no room for this object at the moment; for others it may."""


class ReceiverError(Exception):
    """The receiver itself failed: no other file would fare better."""


class Receiver(Protocol):
    """Where objects go. Everything may raise what stands for its failure, which passes through."""

    most: int | None
    """How long an object may be, in bytes; None: as long as there is room."""

    async def known(self, origins: Sequence[Origin]) -> list[bool]:
        """Say for each whether it was taken before, as it is."""

    async def receive(self, whole: Whole, file: Readable, source: Source) -> bool:
        """Take an object; False where the same was there already. When it returns, it is safe and on record.

        Raises `RefusedObjectError`, `NoRoomNowError`, `TooLargeNowError`, `ChangedError`, OSError.
        """

    async def remember(self, origin: Origin) -> None:
        """Remember an archive all of whose members were taken."""
