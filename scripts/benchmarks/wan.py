"""Forwarding over a thin and long line: 20 Mbit/s and 80 ms there and back, by a relay between sender and receiver.

Every sender has the same line, and what counts is the part of it that objects fill: bytes of datasets a second, of the
line's own. A run begins with the first connection and ends as `forward` says. Over DIMSE the receiver is DCMTK's
storescp, over STOW-RS Orthanc with its plug-in.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar

from rich.console import Console

from scripts.benchmarks.appliance import DESTINATION, Edge
from scripts.benchmarks.forward import FORWARDERS, EdgeForwarder, Forwarder, OrthancForwarder, Pacs
from scripts.benchmarks.machine import describe, even_start, missing
from scripts.benchmarks.memory import end_children
from scripts.benchmarks.plan import Cell, Kind, Peer, Work, rotation
from scripts.benchmarks.report import Report, Sheet, markdown, show
from scripts.benchmarks.sending import BrokenRunError, Samples
from scripts.benchmarks.summary import Goal, Results
from tests.peers.orthanc import Orthanc
from tests.peers.ports import LOOPBACK, free_port
from tests.peers.program import PeerFailedError
from tests.peers.relay import Bounds, Line

T = TypeVar("T")

_MBIT: Final = 1e6 / 8
_SETTLE: Final = 1.0
_LAST_CHILD: Final = 2.0
_WIDTH: Final = 150
_MEBIBYTES: Final = 16


class Way(StrEnum):
    """How objects go."""

    DIMSE = "DIMSE"
    STOW = "STOW-RS"


GOALS: Final = {
    (Kind.MR, Way.DIMSE): 0.8,
    (Kind.MR, Way.STOW): 0.9,
    (Kind.CT, Way.DIMSE): 0.9,
    (Kind.CT, Way.STOW): 0.9,
}
"""The part of the line that the appliance is to fill."""
_SENDERS: Final = {
    Way.DIMSE: (Peer.EDGE, Peer.DCMTK, Peer.ORTHANC, Peer.PYNETDICOM),
    Way.STOW: (Peer.EDGE, Peer.ORTHANC),
}
_PEERS: Final = {
    **{str(p): p for p in (Peer.EDGE, Peer.DCMTK, Peer.ORTHANC, Peer.PYNETDICOM)},
    "dcmsend": Peer.DCMTK,
}
_BROKEN: Final = (BrokenRunError, PeerFailedError, TimeoutError, urllib.error.URLError)
_QUICKER: Final = 6
_NAMES: Final = {Peer.DCMTK: "dcmsend"}
_COUNTS: Final = {Kind.MR: (6000, 60), Kind.CT: (120, 20)}
"""Objects a run: of the appliance, and of a peer that waits a round trip for each."""
_AS_IT_COMES: Final = {Way.DIMSE: 16, Way.STOW: 4}
"""Connections of the appliance, at most; a peer has one."""


@dataclass(frozen=True)
class Condition:
    """What is measured: `connections` are the most that the sender may have."""

    kind: Kind
    way: Way
    peer: Peer
    connections: int


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """One run. Seconds; bytes of datasets; `wire`: bytes that went to the receiver in all."""

    condition: Condition
    round: int
    objects: int
    bytes: int
    wire: int
    seconds: float
    rate: float
    """Bytes a second that the line takes."""

    @property
    def filled(self) -> float:
        """The part of the line that objects filled."""
        return self.bytes / self.seconds / self.rate


class _StowEdge(EdgeForwarder):
    def appliance(self) -> Edge:
        destination = (
            f'[[destination]]\nname = "{DESTINATION}"\ntype = "dicomweb"\n'
            f'url = "http://{LOOPBACK}:{self.pacs}/dicom-web"\nassociations = {self.cell.associations}\n'
        )
        return Edge(self.folder, more=destination)


class _StowOrthanc(OrthancForwarder):
    def server(self) -> Orthanc:
        servers = {DESTINATION: [f"http://{LOOPBACK}:{self.pacs}/dicom-web/"]}
        return Orthanc(self.folder, dicomweb=True, settings={"DicomWeb": {"Servers": servers}})

    def send(self, identifiers: Sequence[str]) -> dict[str, Any]:
        return self.orthanc.stow(DESTINATION, identifiers)


_BY_STOW: Final[dict[Peer, type[Forwarder]]] = {Peer.EDGE: _StowEdge, Peer.ORTHANC: _StowOrthanc}


def cross(condition: Condition, count: int, bounds: Bounds, samples: Samples, folder: Path, number: int) -> Crossing:
    """Forward ``count`` objects over the line, all in ``folder``.

    Raises BrokenRunError, PeerFailedError, TimeoutError.
    """
    folder.mkdir(parents=True)
    sample = samples.of(condition.kind)
    cell = Cell(condition.kind, condition.connections, nagle=False)
    sender = (FORWARDERS if condition.way is Way.DIMSE else _BY_STOW)[condition.peer]
    port = free_port()
    with Line(port, bounds) as line:
        line.down()  # who has something to send may not begin before all is ready
        with sender(cell, count, sample, folder / "sender", line.port) as forwarder:
            os.sync()
            time.sleep(_SETTLE)
            with _receiver(condition, folder / "pacs", port) as (pacs, stored):
                line.heal()
                forwarder.begin()
                end = forwarder.finish(pacs)
                begin, there = line.relay.began_at, line.carried[0]
                forwarder.stop()
                came = stored()
    if came != count:
        raise BrokenRunError(f"the receiver got {came} objects of {count}")
    return Crossing(
        condition=condition,
        round=number,
        objects=count,
        bytes=count * sample.length,
        wire=there,
        seconds=end - begin,
        rate=bounds.rate or 0.0,
    )


@contextmanager
def _receiver(condition: Condition, folder: Path, port: int) -> Iterator[tuple[Pacs | None, Callable[[], int]]]:
    """Run who takes everything; and how many objects came."""
    if condition.way is Way.STOW:
        with Orthanc(folder, http_port=port, dicomweb=True) as orthanc:
            yield None, orthanc.count
        return
    with Pacs(folder, port, condition.connections, nagle=False) as pacs:
        yield pacs, pacs.stored
        end_children(pacs.pid, _LAST_CHILD)


@dataclass(frozen=True)
class WanReport(Report):
    """What came of it; judged in `sheets`."""

    crossings: Sequence[Crossing] = ()

    def sheets(self) -> Iterator[Sheet]:
        """The part of the line that each filled, the goals, the machine."""
        found: dict[tuple[Kind, Way], dict[Condition, list[Crossing]]] = {}
        for crossing in self.crossings:
            condition = crossing.condition
            found.setdefault((condition.kind, condition.way), {}).setdefault(condition, []).append(crossing)
        heads = (
            "sender",
            "connections",
            "objects",
            "objects/s",
            "MB/s",
            "of the line",
            "lowest..highest",
            "with overhead",
        )
        for (kind, way), conditions in found.items():
            rows = [_row(condition, runs) for condition, runs in conditions.items()]
            yield Sheet(f"{kind.label} over {way}", heads, rows)
        goals = [goal for key, conditions in found.items() for goal in _goals(*key, conditions)]
        yield Sheet(
            "Goals", ("goal", "measured", ""), [(g.text, g.measured, "met" if g.met else "NOT MET") for g in goals]
        )
        yield Sheet("Measured on", ("", ""), list(self.machine.items()))

    def document(self) -> dict[str, Any]:
        """Give every run, as JSON takes it."""
        runs = [asdict(crossing) | {"filled": crossing.filled} for crossing in self.crossings]
        return {"machine": dict(self.machine), "remarks": list(self.remarks), "runs": runs}


def _row(condition: Condition, runs: Sequence[Crossing]) -> tuple[str, ...]:
    filled = [run.filled for run in runs]
    return (
        _NAMES.get(condition.peer, str(condition.peer)),
        str(condition.connections),
        str(runs[0].objects),
        f"{median(run.objects / run.seconds for run in runs):.1f}",
        f"{median(run.bytes / run.seconds for run in runs) / 1e6:.2f}",
        f"{median(filled):.1%}",
        f"{min(filled):.0%}..{max(filled):.0%}",
        f"{median(run.wire / run.seconds / run.rate for run in runs):.1%}",
    )


def _goals(kind: Kind, way: Way, conditions: dict[Condition, list[Crossing]]) -> list[Goal]:
    least = GOALS[kind, way]
    filled = [
        median(run.filled for run in runs) for condition, runs in conditions.items() if condition.peer is Peer.EDGE
    ]
    if not filled:
        return []
    best = max(filled)
    return [Goal(f"{kind.label} over {way}: at least {least:.0%} of the line", f"{best:.1%}", best >= least)]


def bench_wan(arguments: Sequence[str]) -> int:
    """Run the command: 0 whatever the numbers are, 1 where a run broke."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench wan", description="Measures forwarding over a thin and long line, beside peers."
    )
    parser.add_argument("--pairs", type=int, metavar="N", help="rounds; 3, quick: 1")
    parser.add_argument(
        "--objects", type=_some({str(k): k for k in (Kind.MR, Kind.CT)}), default="mr,ct", metavar="LIST"
    )
    parser.add_argument(
        "--ways", type=_some({"dimse": Way.DIMSE, "stow": Way.STOW}), default="dimse,stow", metavar="LIST"
    )
    parser.add_argument("--peers", type=_some(_PEERS), default="edge,dcmsend,orthanc,pynetdicom", metavar="LIST")
    parser.add_argument(
        "--associations", type=int, metavar="N", help="of the appliance, at most; as it comes: 16, STOW 4"
    )
    parser.add_argument("--mbit", type=float, default=20.0, metavar="N", help="of the line, each way; 20")
    parser.add_argument("--rtt", type=float, default=80.0, metavar="MS", help="there and back; 80")
    parser.add_argument("--count-ct", type=int, metavar="N", help="CT images a run of the appliance; 120, quick: 20")
    parser.add_argument("--count-mr", type=int, metavar="N", help="MR images a run of the appliance; 6000, quick: 1000")
    parser.add_argument("--folder", type=Path, help="where stores go for the time; the system's temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--quick", action="store_true", help="one small round, to see that it works")
    usage = parser.parse_args(arguments)
    remarks: list[str] = []
    peers = []
    for peer in usage.peers:
        if package := missing(peer):
            remarks.append(f"{peer} is left out: {package} is not installed.")
        else:
            peers.append(peer)
    usage.peers = peers
    with tempfile.TemporaryDirectory(prefix="edge-bench-", dir=usage.folder) as folder:
        machine = {"line": f"{usage.mbit:g} Mbit/s, {usage.rtt:g} ms there and back, by a relay"}
        machine |= describe(Path(folder), list(dict.fromkeys([*peers, Peer.DCMTK])))
        crossings = list(_crossings(usage, Path(folder), remarks))
    report = WanReport(Results(Work.FORWARD, []), (), machine, remarks, crossings)
    terminal = Console()
    show(report, terminal if terminal.is_terminal else Console(width=_WIDTH))
    if usage.json is not None:
        usage.json.write_text(json.dumps(report.document(), indent=2) + "\n", encoding="utf-8")
    if usage.markdown is not None:
        usage.markdown.write_text(markdown(report), encoding="utf-8")
    return 1 if remarks else 0


def _some(known: dict[str, T]) -> Callable[[str], list[T]]:
    def parse(text: str) -> list[T]:
        names = [name.strip() for name in text.split(",")]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: it takes some of {', '.join(known)}")
        return list(dict.fromkeys(known[name] for name in names))

    return parse


def _conditions(usage: argparse.Namespace, kind: Kind, way: Way) -> list[Condition]:
    return [
        Condition(kind, way, peer, _connections(usage, way) if peer is Peer.EDGE else 1)
        for peer in usage.peers
        if peer in _SENDERS[way]
    ]


def _connections(usage: argparse.Namespace, way: Way) -> int:
    asked: int | None = usage.associations
    return asked or _AS_IT_COMES[way]


def _count(usage: argparse.Namespace, condition: Condition) -> int:
    """As many as can go in reasonable time."""
    most, few = _COUNTS[condition.kind]
    if condition.peer is not Peer.EDGE:
        return few
    asked = usage.count_mr if condition.kind is Kind.MR else usage.count_ct
    return int(asked or (most // _QUICKER if usage.quick else most))


def _crossings(usage: argparse.Namespace, folder: Path, remarks: list[str]) -> Iterator[Crossing]:
    """Run everything; what broke is a remark."""
    samples = Samples(folder, _MEBIBYTES)
    bounds = Bounds(rate=usage.mbit * _MBIT, delay=usage.rtt / 2000)
    for kind, way in ((kind, way) for kind in usage.objects for way in usage.ways):
        print(f"{kind.label} over {way}", file=sys.stderr, flush=True)
        rounds = usage.pairs or (1 if usage.quick else 3)
        for number, condition in rotation(_conditions(usage, kind, way), rounds):
            even_start()
            place = folder / f"{kind}-{way.name}-{number}-{condition.peer.name}"
            try:
                crossing = cross(condition, _count(usage, condition), bounds, samples, place, number)
            except _BROKEN as e:
                remarks.append(f"A run of {condition.peer} broke ({kind.label} over {way}): {e}")
                print(remarks[-1], file=sys.stderr, flush=True)
                continue
            told = f"{crossing.objects} in {crossing.seconds:.2f} s, {crossing.filled:.1%} of the line"
            print(f"  round {number + 1}, {condition.peer}: {told}", file=sys.stderr, flush=True)
            yield crossing
