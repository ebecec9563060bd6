"""In which transfer syntaxes an object may go to a destination, what of these it takes, and in which order to try.

As it is stored, if at all; else re-encoded among the uncompressed syntaxes, values untouched; decompressed only where
the configuration says so, and only from what was compressed without loss.
"""

from collections.abc import Mapping
from typing import Final

from edge.dicom.uids import EXPLICIT_LITTLE, IMPLICIT_LITTLE, LOSSLESS, UNCOMPRESSED
from edge.forward.capabilities import Book
from edge.forward.outcome import Outcome, Refused, TryLater
from edge.forward.workshop import Rendition, Workshop
from edge.model import Kind
from edge.phrase import N_
from edge.store import Parcel

_TARGETS: Final = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
"""Explicit VR first: it says more."""


def others(syntax: str, *, decompress: bool = False) -> tuple[str, ...]:
    """Return what an object that is stored in ``syntax`` may be sent in instead, best first (PS3.5 10.1)."""
    if syntax in UNCOMPRESSED or (decompress and syntax in LOSSLESS):
        return tuple(target for target in _TARGETS if target != syntax)
    return ()


class Syntaxes:
    """Those of one destination."""

    def __init__(self, workshop: Workshop | None = None, book: Book | None = None, *, decompress: bool = False) -> None:
        """Without ``workshop`` everything goes as it is stored, or not; without ``book`` nothing is remembered."""
        self._workshop = workshop
        self._book = Book() if book is None else book
        self._decompress = decompress

    def proposals(self, kind: Kind) -> tuple[str, ...]:
        """Return what to propose for ``kind``, as it is stored first.

        That is left out where it was refused lately, and another was taken.
        """
        instead = others(kind.transfer_syntax_uid, decompress=self._decompress)
        taken = any(self._book.takes(Kind(kind.sop_class_uid, syntax)) for syntax in instead)
        known = taken and self._workshop is not None
        return instead if known and self._book.refuses(kind) else (kind.transfer_syntax_uid, *instead)

    def instead(self, kind: Kind) -> tuple[str, ...]:
        """Return what ``kind`` may be sent in where it is not taken as it is stored."""
        if self._workshop is None:
            return ()
        return others(kind.transfer_syntax_uid, decompress=self._decompress)

    async def ready(self) -> None:
        """Have at hand what is remembered."""
        await self._book.load()

    async def learn(self, answers: Mapping[Kind, bool]) -> None:
        """Remember what was taken, and what was not."""
        await self._book.learn(answers)

    def refuses(self, kind: Kind) -> bool:
        """Whether ``kind`` was refused lately."""
        return self._book.refuses(kind)

    async def render(self, parcel: Parcel, syntax: str) -> Rendition | Refused | TryLater:
        """Make what is to be sent of ``parcel`` in ``syntax``, or say why that cannot be."""
        if self._workshop is None:
            return Refused("CONTEXT_REJECTED", N_("it takes no such transfer syntax."), unsupported=True)
        return await self._workshop.render(parcel, syntax)


ALL: Final = Syntaxes()
"""Those of a destination of which nothing is known."""


def untaken(outcome: Outcome) -> bool:
    """Whether the destination takes no such object as it was sent."""
    return isinstance(outcome, Refused) and outcome.unsupported
