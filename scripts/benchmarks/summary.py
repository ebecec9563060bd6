"""Medians of the runs, and what they say of the goals."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from scripts.benchmarks.plan import Cell, Kind, Peer, Run, Work

_SLOWED: Final = 0.7
_GROWN: Final = 20_000_000
_FULL_MULTIFRAME: Final = 250_000_000


@dataclass(frozen=True)
class Goal:
    """One goal; `met` is None where this run did not measure it."""

    text: str
    measured: str
    met: bool | None


class Results:
    """All runs of one benchmark."""

    def __init__(self, work: Work, runs: Sequence[Run]) -> None:
        self.work = work
        self.runs = list(runs)

    def of(self, peer: Peer, cell: Cell) -> list[Run]:
        """Runs of `peer` in `cell`."""
        return [run for run in self.runs if run.peer is peer and run.cell == cell]

    def rate(self, peer: Peer, cell: Cell) -> float | None:
        """Objects a second: the median."""
        rates = [run.rate for run in self.of(peer, cell)]
        return median(rates) if rates else None

    def ratio(self, peer: Peer, cell: Cell, of: Peer = Peer.EDGE) -> float | None:
        """How many times the rate of `peer` there is `of`: the median over the rounds, each compared in itself."""
        ours = {run.round: run.rate for run in self.of(of, cell)}
        ratios = [ours[run.round] / run.rate for run in self.of(peer, cell) if run.round in ours]
        return median(ratios) if ratios else None

    def grown(self, peer: Peer, cell: Cell) -> float | None:
        """Bytes of memory over idle: the median."""
        grown = [run.grown for run in self.of(peer, cell)]
        return median(grown) if grown else None


def goals(results: Results) -> list[Goal]:
    """Judge the goals of this kind of work."""
    return _receive_goals(results) if results.work is Work.RECEIVE else _forward_goals(results)


def _receive_goals(results: Results) -> list[Goal]:
    found = [
        _ratio(results, kind, peer, associations, least)
        for kind, peer, associations, least in (
            (Kind.CT, Peer.ORTHANC, 1, 2.5),
            (Kind.CT, Peer.PYNETDICOM, 1, 2.5),
            (Kind.CT, Peer.ORTHANC, 4, 3.0),
            (Kind.CT, Peer.PYNETDICOM, 4, 3.0),
            (Kind.MR, Peer.ORTHANC, 1, 1.2),
            (Kind.MR, Peer.ORTHANC, 4, 2.0),
        )
    ]
    found += [_slowed(results, kind, associations, "sender") for kind in (Kind.CT, Kind.MR) for associations in (1, 4)]
    return [*found, _memory(results)]


def _forward_goals(results: Results) -> list[Goal]:
    found = [_ratio(results, kind, Peer.ORTHANC, 1, 1.0) for kind in (Kind.CT, Kind.MR)]
    found += [_slowed(results, kind, 1, "receiver") for kind in (Kind.CT, Kind.MR)]
    return [*found, _memory(results)]


def _ratio(results: Results, kind: Kind, peer: Peer, associations: int, least: float) -> Goal:
    text = f"{kind.label}, {over(associations)}: at least {least:g} times {peer}"
    cell = Cell(kind, associations, nagle=False)
    ratio = results.ratio(peer, cell)
    if ratio is None:
        return Goal(text, "", None)
    limit = results.ratio(peer, cell, of=Peer.DISK)
    beside = "" if limit is None else f" (the disk alone {limit:.2f})"
    return Goal(text, f"{ratio:.2f} times{beside}", ratio >= least)


def _slowed(results: Results, kind: Kind, associations: int, who: str) -> Goal:
    text = f"{kind.label}, {over(associations)}, {who} with Nagle: at least {_SLOWED:.0%} of our own rate without"
    without = results.rate(Peer.EDGE, Cell(kind, associations, nagle=False))
    slowed = results.rate(Peer.EDGE, Cell(kind, associations, nagle=True))
    if without is None or slowed is None:
        return Goal(text, "", None)
    return Goal(text, f"{slowed / without:.0%}", slowed / without >= _SLOWED)


def _memory(results: Results) -> Goal:
    text = f"memory within {_GROWN / 1e6:.0f} MB of idle for a 250 MB object"
    cell = Cell(Kind.MULTIFRAME, 1, nagle=False)
    grown = results.grown(Peer.EDGE, cell)
    if grown is None or any(run.bytes < _FULL_MULTIFRAME for run in results.of(Peer.EDGE, cell)):
        return Goal(text, "", None)
    return Goal(text, f"{grown / 1e6:.1f} MB", grown <= _GROWN)


def over(associations: int) -> str:
    """Name a number of associations."""
    return "one association" if associations == 1 else f"{associations} associations"
