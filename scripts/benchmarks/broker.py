"""Receiving and forwarding beside a broker in every state, each compared with no broker at all in the same round.

In one run the appliance, with a fresh store and its destination's port closed, receives over one association; then the
port opens, and it forwards over one. It is never restarted in between, so the broker does all the time what it does.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console

from scripts.benchmarks.appliance import Edge
from scripts.benchmarks.brokers import Standing, Variant, standing
from scripts.benchmarks.forward import Pacs
from scripts.benchmarks.machine import describe, even_start
from scripts.benchmarks.memory import PeakMemory
from scripts.benchmarks.plan import Kind, Peer, Work, rotation
from scripts.benchmarks.report import Report, Sheet, markdown, show
from scripts.benchmarks.sending import TIMEOUT, BrokenRunError, Samples, Senders
from scripts.benchmarks.summary import Goal, Results
from tests.peers.part10 import FileObject
from tests.peers.ports import free_port, wait_for
from tests.peers.program import PeerFailedError

LEAST: Final = 0.97
"""Of the rate without a broker: the goal."""
_READY: Final = 30.0
_SETTLE: Final = 0.5
_INDEXED: Final = 60.0
_POLL: Final = 0.005
_WIDTH: Final = 150
_COUNTS: Final = {Kind.CT: (40, 200), Kind.MR: (200, 2000), Kind.MULTIFRAME: (1, 1)}
"""Objects a run: quick, and else."""
_MEBIBYTES: Final = 250


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run: seconds that each work took, and bytes of memory over idle."""

    kind: Kind
    variant: Variant
    round: int
    objects: int
    receive: float
    forward: float
    grown: int

    def rate(self, work: Work) -> float:
        """Objects a second."""
        return self.objects / (self.receive if work is Work.RECEIVE else self.forward)


def measure(variant: Variant, kind: Kind, sample: FileObject, count: int, folder: Path, number: int) -> Outcome:
    """Receive and forward ``count`` objects, all in ``folder``.

    Raises BrokenRunError, PeerFailedError, TimeoutError.
    """
    folder.mkdir(parents=True)
    port = free_port()
    with standing(variant, folder) as broker, Edge(folder / "edge", pacs=port, more=broker.config) as edge:
        with Senders(edge.port, sample, count, 1, nagle=False) as senders:
            _settle(broker)
            with PeakMemory([edge.pid]) as memory:
                received = senders.send()
                with closing(edge.tally()) as tally:
                    wait_for(lambda: tally.all() == count, _INDEXED, "the appliance to index what it received")
        _settle(broker)
        with Pacs(folder / "pacs", port, 1, nagle=False) as pacs:
            end = _forward(edge, count)
            begin, stored = pacs.begun(), pacs.stored()
        if not broker.ready():
            raise BrokenRunError(f"the broker, {variant}, was left before the end")
    if stored != count:
        raise BrokenRunError(f"the receiver got {stored} objects of {count}")
    return Outcome(
        kind=kind,
        variant=variant,
        round=number,
        objects=count,
        receive=received,
        forward=end - begin,
        grown=memory.peak - memory.idle,
    )


def _settle(broker: Standing) -> None:
    os.sync()
    time.sleep(_SETTLE)
    wait_for(broker.ready, _READY, "the broker to do what it does")


def _forward(edge: Edge, count: int) -> float:
    """Forward everything; when it was done, by the wall clock."""
    deadline = time.monotonic() + TIMEOUT
    with closing(edge.tally()) as tally:
        edge.retry()
        while (done := tally.accepted()) < count:
            if time.monotonic() > deadline:
                raise BrokenRunError(f"the appliance delivered {done} of {count} within {TIMEOUT:g} s")
            time.sleep(_POLL)
        return time.time()


@dataclass(frozen=True)
class BrokerReport(Report):
    """What came of it; judged in `sheets`."""

    outcomes: Sequence[Outcome] = ()

    def sheets(self) -> Iterator[Sheet]:
        """Rates by work and kind, the goals, the machine."""
        goals = []
        for work, kind in ((work, kind) for kind in Kind for work in Work):
            found = {v: self._of(kind, v) for v in Variant if self._of(kind, v)}
            if not found:
                continue
            rows = [self._beside(variant, runs, work) for variant, runs in found.items()]
            heads = ("broker", "objects", "objects/s", "min..max", "of none", "lowest..highest", "MB over idle")
            yield Sheet(f"{work.capitalize()} {kind.label}, with a broker", heads, rows)
            goals += [_goal(variant, self._ratios(runs, work), kind, work) for variant, runs in found.items()]
        rows = [(goal.text, goal.measured, "met" if goal.met else "NOT MET") for goal in goals if goal is not None]
        yield Sheet("Goals", ("goal", "measured", ""), rows)
        yield Sheet("Measured on", ("", ""), list(self.machine.items()))

    def document(self) -> dict[str, Any]:
        """Give every run, as JSON takes it."""
        runs = [asdict(outcome) for outcome in self.outcomes]
        return {"machine": dict(self.machine), "remarks": list(self.remarks), "runs": runs}

    def _of(self, kind: Kind, variant: Variant) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if (outcome.kind, outcome.variant) == (kind, variant)]

    def _ratios(self, runs: Sequence[Outcome], work: Work) -> list[float]:
        """Compare each run with none in the same round."""
        plain = {run.round: run.rate(work) for run in self._of(runs[0].kind, Variant.NONE)}
        return [run.rate(work) / plain[run.round] for run in runs if run.round in plain]

    def _beside(self, variant: Variant, runs: Sequence[Outcome], work: Work) -> tuple[str, ...]:
        rates = [run.rate(work) for run in runs]
        ratios = self._ratios(runs, work) if variant is not Variant.NONE else []
        return (
            variant,
            str(runs[0].objects),
            f"{median(rates):.0f}",
            f"{min(rates):.0f}..{max(rates):.0f}",
            f"{median(ratios):.1%}" if ratios else "",
            f"{min(ratios):.0%}..{max(ratios):.0%}" if ratios else "",
            f"{median(run.grown for run in runs) / 1e6:.1f}" if work is Work.RECEIVE else "",
        )


def _goal(variant: Variant, ratios: Sequence[float], kind: Kind, work: Work) -> Goal | None:
    if variant in (Variant.NONE, Variant.AGAIN) or not ratios:
        return None
    text = f"{work} {kind.label}, broker {variant}: at least {LEAST:.0%} of the rate without"
    return Goal(text, f"{median(ratios):.1%}", median(ratios) >= LEAST)


def _told(outcome: Outcome) -> str:
    received, forwarded = outcome.rate(Work.RECEIVE), outcome.rate(Work.FORWARD)
    return f"  round {outcome.round + 1}, {outcome.variant}: received {received:.0f}/s, forwarded {forwarded:.0f}/s"


def bench_broker(arguments: Sequence[str]) -> int:
    """Run the command: 0 whatever the numbers are, 1 where a run broke."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench broker", description="Measures what a broker costs receiving and forwarding."
    )
    parser.add_argument("--pairs", type=int, metavar="N", help="rounds; 10, quick: 1")
    parser.add_argument("--objects", type=_kinds, default="mr,ct", metavar="LIST")
    parser.add_argument("--brokers", type=_variants, default=list(Variant), metavar="LIST", help="beside none; all")
    parser.add_argument("--count", type=int, metavar="N", help="objects a run; MR 2000, CT 200, quick: 200 and 40")
    parser.add_argument("--folder", type=Path, help="where stores go for the time; the system's temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--quick", action="store_true", help="one small round, to see that it works")
    usage = parser.parse_args(arguments)
    remarks: list[str] = []
    with tempfile.TemporaryDirectory(prefix="edge-bench-", dir=usage.folder) as folder:
        machine = describe(Path(folder), [Peer.EDGE, Peer.DCMTK])
        outcomes = list(_outcomes(usage, Path(folder), remarks))
    report = BrokerReport(Results(Work.RECEIVE, []), (), machine, remarks, outcomes)
    terminal = Console()
    show(report, terminal if terminal.is_terminal else Console(width=_WIDTH))
    if usage.json is not None:
        usage.json.write_text(json.dumps(report.document(), indent=2) + "\n", encoding="utf-8")
    if usage.markdown is not None:
        usage.markdown.write_text(markdown(report), encoding="utf-8")
    return 1 if remarks else 0


def _kinds(text: str) -> list[Kind]:
    try:
        return [Kind(name.strip()) for name in text.split(",")]
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{e}: it takes some of {', '.join(Kind)}") from None


def _variants(text: str) -> list[Variant]:
    try:
        return list(dict.fromkeys([Variant.NONE, *(Variant(name.strip()) for name in text.split(","))]))
    except ValueError as e:
        names = ", ".join(variant for variant in Variant if variant is not Variant.AGAIN)
        raise argparse.ArgumentTypeError(f"{e}: it takes some of {names}") from None


def _outcomes(usage: argparse.Namespace, folder: Path, remarks: list[str]) -> Iterator[Outcome]:
    """Run everything; what broke is a remark."""
    samples = Samples(folder, _MEBIBYTES)
    for kind in usage.objects:
        count = usage.count or _COUNTS[kind][0 if usage.quick else 1]
        for number, variant in rotation(usage.brokers, usage.pairs or (1 if usage.quick else 10)):
            even_start()
            try:
                # kept until the end, as docs/decisions/0007 says
                place = folder / f"{kind}-{number}-{variant.name}"
                outcome = measure(variant, kind, samples.of(kind), count, place, number)
            except (BrokenRunError, PeerFailedError, TimeoutError) as e:
                remarks.append(f"A run with the broker {variant} broke ({kind.label}): {e}")
                print(remarks[-1], file=sys.stderr, flush=True)
                continue
            print(_told(outcome), file=sys.stderr, flush=True)
            yield outcome
