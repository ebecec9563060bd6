"""What is run and what came of it: pure values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

T = TypeVar("T")

FEW: Final = 40
"""Objects a run where Nagle's algorithm holds the peer down to some twenty a second."""


class Work(StrEnum):
    """What is measured."""

    RECEIVE = "receive"
    FORWARD = "forward"


class Peer(StrEnum):
    """Who is measured. The last three are no peers but limits: the disk, the sender with long PDUs and with short."""

    EDGE = "edge"
    DCMTK = "storescp"
    ORTHANC = "orthanc"
    PYNETDICOM = "pynetdicom"
    DISK = "(disk alone)"
    NULL = "(nothing)"
    NULL_SHORT = "(nothing, 16 KiB PDUs)"


LIMITS: Final = (Peer.DISK, Peer.NULL, Peer.NULL_SHORT)
"""What stands beside the peers when receiving."""


class Kind(StrEnum):
    """Of object."""

    CT = "ct"
    MR = "mr"
    MULTIFRAME = "multiframe"

    @property
    def label(self) -> str:
        """What people call it."""
        return "multi-frame" if self is Kind.MULTIFRAME else self.upper()


@dataclass(frozen=True)
class Cell:
    """One line of conditions, in which every peer is compared with the others."""

    kind: Kind
    associations: int
    nagle: bool
    """Whether the other side, which is ours, leaves Nagle's algorithm on."""


@dataclass(frozen=True)
class Counts:
    """Objects in one run."""

    ct: int
    mr: int

    def of(self, work: Work, peer: Peer, cell: Cell) -> int:
        """As many for `peer` as it can move in reasonable time; of multi-frame objects one an association."""
        if cell.kind is Kind.MULTIFRAME:
            return cell.associations
        count = self.ct if cell.kind is Kind.CT else self.mr
        return min(count, FEW) if _crawls(work, peer, cell) else count


def _crawls(work: Work, peer: Peer, cell: Cell) -> bool:
    if cell.nagle:
        return peer is not Peer.EDGE
    return work is Work.FORWARD and peer is Peer.PYNETDICOM and cell.kind is Kind.MR


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measurement. Seconds and bytes; memory is resident, of the whole tree of processes."""

    work: Work
    cell: Cell
    peer: Peer
    round: int
    objects: int
    bytes: int
    seconds: float
    idle: int
    peak: int

    @property
    def rate(self) -> float:
        """Objects a second."""
        return self.objects / self.seconds

    @property
    def bandwidth(self) -> float:
        """Bytes of datasets a second."""
        return self.bytes / self.seconds

    @property
    def grown(self) -> int:
        """Bytes of memory over idle."""
        return self.peak - self.idle


def cells(kinds: Sequence[Kind], associations: Sequence[int], nagle: Sequence[bool]) -> list[Cell]:
    """Every combination, in the order given."""
    return [Cell(kind, number, on) for kind in kinds for number in associations for on in nagle]


def rotation(items: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Every item once a round, each round beginning with the next one: drift of the machine favours nobody."""
    for number in range(rounds):
        start = number % len(items) if items else 0
        for item in (*items[start:], *items[:start]):
            yield number, item


def shares(total: int, parts: int) -> list[int]:
    """`total` split as evenly as it goes."""
    return [total // parts + (part < total % parts) for part in range(parts)]
