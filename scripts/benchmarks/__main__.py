"""`scripts/bench receive`, `forward`, `broker` and `wan`: see docs/benchmarks.md."""

import argparse
import json
import signal
import sys
import tempfile
import urllib.error
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from rich.console import Console

from scripts.benchmarks.broker import bench_broker
from scripts.benchmarks.forward import forward
from scripts.benchmarks.machine import IN_MEMORY, describe, even_start, file_system, missing
from scripts.benchmarks.plan import LIMITS, Cell, Counts, Kind, Peer, Run, Work, cells, rotation
from scripts.benchmarks.receive import receive
from scripts.benchmarks.report import Report, markdown, show
from scripts.benchmarks.sending import BrokenRunError, Samples
from scripts.benchmarks.summary import Results, over
from scripts.benchmarks.wan import bench_wan
from tests.peers.program import PeerFailedError

T = TypeVar("T")

_ALIASES: Final = {"dcmtk": Peer.DCMTK, "dcmsend": Peer.DCMTK}
_PEERS: Final = {**{str(p): p for p in (Peer.EDGE, Peer.DCMTK, Peer.ORTHANC, Peer.PYNETDICOM)}, **_ALIASES}
_KINDS: Final = {str(kind): kind for kind in Kind}
_NAGLE: Final = {"off": False, "on": True}
_BROKEN: Final = (BrokenRunError, PeerFailedError, TimeoutError, urllib.error.URLError)
_WIDTH: Final = 150
_APART: Final[dict[str, Callable[[Sequence[str]], int]]] = {"broker": bench_broker, "wan": bench_wan}
"""Work that has options of its own."""


class _Usage(argparse.Namespace):
    """Arguments, typed."""

    work: Work
    pairs: int | None
    objects: list[Kind]
    peers: list[Peer]
    associations: list[int]
    nagle: list[bool]
    count_ct: int | None
    count_mr: int | None
    multiframe: int | None
    folder: Path | None
    json: Path | None
    markdown: Path | None
    quick: bool

    @property
    def rounds(self) -> int:
        """Rounds to run."""
        return self.pairs or (1 if self.quick else 5)

    @property
    def counts(self) -> Counts:
        """Objects a run."""
        return Counts(
            ct=self.count_ct or (40 if self.quick else 400), mr=self.count_mr or (100 if self.quick else 1000)
        )

    @property
    def megabytes(self) -> int:
        """MiB of the multi-frame object."""
        return self.multiframe or (16 if self.quick else 250)


def _choices(known: dict[str, T]) -> Callable[[str], list[T]]:
    def parse(text: str) -> list[T]:
        names = [name.strip() for name in text.split(",")]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: it takes some of {', '.join(known)}")
        return list(dict.fromkeys(known[name] for name in names))

    return parse


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: at least 1")
    return number


def _numbers(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def _usage(arguments: Sequence[str] | None) -> _Usage:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measures the appliance beside its peers, in interleaved rounds."
    )
    parser.add_argument("work", type=Work, choices=list(Work), metavar="receive|forward|broker|wan")
    parser.add_argument("--pairs", type=_positive, metavar="N", help="rounds; 5, quick: 1")
    parser.add_argument("--objects", type=_choices(_KINDS), default="ct,mr,multiframe", metavar="LIST")
    parser.add_argument("--peers", type=_choices(_PEERS), default="edge,storescp,orthanc,pynetdicom", metavar="LIST")
    parser.add_argument("--associations", type=_numbers, default="1,4", metavar="LIST", help="1,4")
    parser.add_argument("--nagle", type=_choices(_NAGLE), default="off,on", metavar="LIST", help="off,on")
    parser.add_argument("--count-ct", type=_positive, metavar="N", help="CT images a run; 400, quick: 40")
    parser.add_argument("--count-mr", type=_positive, metavar="N", help="MR images a run; 1000, quick: 100")
    parser.add_argument(
        "--multiframe", type=_positive, metavar="MIB", help="size of the multi-frame object; 250, quick: 16"
    )
    parser.add_argument("--folder", type=Path, help="where stores go for the time; the system's temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--quick", action="store_true", help="one small round, to see that it works")
    usage = parser.parse_args(arguments, namespace=_Usage())
    if usage.folder is not None and not usage.folder.is_dir():
        parser.error(f"--folder: {usage.folder} is no folder")
    return usage


class _Bench:
    """One benchmark: all its runs, and what was to say on the way."""

    def __init__(self, usage: _Usage, folder: Path) -> None:
        self.usage, self.folder = usage, folder
        self.remarks: list[str] = []
        self.broken = 0
        self._ran = 0
        self._samples = Samples(folder, usage.megabytes)

    def peers(self) -> list[Peer]:
        """Those asked for that are installed."""
        found = []
        for peer in self.usage.peers:
            if package := missing(peer):
                self.remark(f"{peer} is left out: {package} is not installed.")
            else:
                found.append(peer)
        return found

    def remark(self, text: str) -> None:
        """Say it now, and in the report."""
        self.remarks.append(text)
        _say(text)

    def runs(self, peers: Sequence[Peer]) -> list[Run]:
        """Run every cell, a round of all peers after another."""
        runs = []
        for cell in cells(self.usage.objects, self.usage.associations, self.usage.nagle):
            _say(f"{cell.kind.label}, {over(cell.associations)}, Nagle {'on' if cell.nagle else 'off'}")
            limits = LIMITS if self.usage.work is Work.RECEIVE and not cell.nagle else ()
            for number, peer in rotation([*peers, *limits], self.usage.rounds):
                run = self._run(peer, cell, number)
                if run is not None:
                    runs.append(run)
        return runs

    def _run(self, peer: Peer, cell: Cell, number: int) -> Run | None:
        count = self.usage.counts.of(self.usage.work, peer, cell)
        measure = receive if self.usage.work is Work.RECEIVE else forward
        # kept until the end: making files was seen to be slow where earlier runs had deleted theirs
        self._ran += 1
        folder = self.folder / f"run{self._ran}"
        folder.mkdir()
        even_start()
        try:
            run = measure(peer, cell, count, self._samples, folder / "peer", number)
        except _BROKEN as e:
            self.broken += 1
            self.remark(f"A run of {peer} broke ({cell.kind.label}, {over(cell.associations)}): {e}")
            return None
        rate = f"{run.rate:.1f}/s, {run.bandwidth / 1e6:.0f} MB/s, {run.grown / 1e6:+.1f} MB"
        _say(f"  round {number + 1}, {peer}: {run.objects} in {run.seconds:.3f} s, {rate}")
        return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: 0 whatever the numbers are, 1 where a run broke."""
    signal.signal(signal.SIGTERM, _terminated)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and (apart := _APART.get(words[0])) is not None:
        return apart(words[1:])
    usage = _usage(words)
    with tempfile.TemporaryDirectory(prefix="edge-bench-", dir=usage.folder) as folder:
        bench = _Bench(usage, Path(folder))
        system = file_system(Path(folder))
        if system in IN_MEMORY:
            bench.remark(f"The stores are on {system}, where a sync costs nothing: these numbers mean little.")
        else:
            _say(f"stores on {system}")
        if usage.work is Work.FORWARD and (package := missing(Peer.DCMTK)):
            _say(f"Forwarding needs a receiver: {package} is not installed.")
            return 1
        peers = bench.peers()
        machine = describe(Path(folder), peers)
        runs = bench.runs(peers)
    shown = [*peers, *LIMITS]
    report = Report(Results(usage.work, runs), shown, machine, bench.remarks)
    terminal = Console()
    show(report, terminal if terminal.is_terminal else Console(width=_WIDTH))
    if usage.json is not None:
        usage.json.write_text(json.dumps(report.document(), indent=2) + "\n", encoding="utf-8")
    if usage.markdown is not None:
        usage.markdown.write_text(markdown(report), encoding="utf-8")
    return 1 if bench.broken else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
