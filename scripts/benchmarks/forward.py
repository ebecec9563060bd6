"""Forwarding: every forwarder to the same receiver, DCMTK's storescp, which keeps nothing.

A run begins with the first association that the receiver sees. It ends, for the appliance, when its store has every
delivery accepted; for Orthanc, when its synchronous request returns; for the programs that only send, with the last
release that the receiver sees, which follows their last answer at once.
"""

import os
import re
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from scripts.benchmarks.appliance import DESTINATION, Edge
from scripts.benchmarks.memory import PeakMemory, end_children
from scripts.benchmarks.plan import Cell, Peer, Run, Work, shares
from scripts.benchmarks.receive import without_nagle
from scripts.benchmarks.sending import TIMEOUT, BrokenRunError, Samples, environment, send, write_copies
from tests.peers.dcmtk import Storescp
from tests.peers.orthanc import Orthanc
from tests.peers.part10 import FileObject
from tests.peers.ports import LOOPBACK, free_port, require, wait_for

T = TypeVar("T")

HOW: Final[Mapping[Peer, str]] = {
    Peer.EDGE: "from its store, every delivery settled there",
    Peer.DCMTK: "dcmsend, from files, Nagle off on its side",
    Peer.ORTHANC: "REST, synchronous, from its store, Nagle off on its side",
    Peer.PYNETDICOM: "an SCU in chunks, from files, as it comes",
}

_SETTLE: Final = 1.0
"""Seconds of rest between filling and forwarding."""
_POLL: Final = 0.01
_INDEXED: Final = 60.0
_CHILDREN: Final = 2.0
_LAST_LINE: Final = 5.0
_FILLING: Final = 4
"""Associations that fill a store."""
_LOG: Final = """\
log4cplus.rootLogger = INFO, console
log4cplus.appender.console = log4cplus::ConsoleAppender
log4cplus.appender.console.ImmediateFlush = true
log4cplus.appender.console.layout = log4cplus::PatternLayout
log4cplus.appender.console.layout.ConversionPattern = %D{%s.%q} %m%n
"""
_BEGUN: Final = re.compile(r"(\d{9,}\.\d{3}) Association Received")
_RELEASED: Final = re.compile(r"(\d{9,}\.\d{3}) Association Release")
_STORED: Final = re.compile(r"Received Store Request")


class Pacs(Storescp):
    """The receiver, which says in its log, to the millisecond, when it was spoken to."""

    def __init__(self, folder: Path, port: int, associations: int, *, nagle: bool) -> None:
        folder.mkdir(parents=True)
        settings = folder / "log.cfg"
        settings.write_text(_LOG, encoding="utf-8")
        fork = ["--fork"] if associations > 1 else []
        super().__init__(
            folder / "received",
            nodelay=not nagle,
            port=port,
            extra=["--ignore", "--log-config", str(settings), *fork],
        )

    def begun(self) -> float:
        """When the first association came, in seconds of the wall clock. Raises BrokenRunError."""
        times = [float(found) for found in _BEGUN.findall(self.output())]
        if not times:
            raise BrokenRunError("the receiver saw no association")
        return min(times)

    def releases(self) -> list[float]:
        """When associations were released."""
        return [float(found) for found in _RELEASED.findall(self.output())]

    def stored(self) -> int:
        """Objects that came."""
        return len(_STORED.findall(self.output()))


class Forwarder(ABC):
    """One that has `count` objects when its context begins, and has not sent any."""

    one_shot = False
    """Whether its processes live for the run alone."""

    def __init__(self, cell: Cell, count: int, sample: FileObject, folder: Path, pacs: int) -> None:
        self.cell, self.count, self.sample, self.folder, self.pacs = cell, count, sample, folder, pacs

    def __enter__(self) -> Self:
        try:
            self.fill()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def fill(self) -> None:
        """Give it the objects."""

    @abstractmethod
    def begin(self) -> Sequence[int]:
        """Make ready to forward at once; the processes whose memory counts."""

    @abstractmethod
    def finish(self, pacs: Pacs | None) -> float:
        """Wait until all is forwarded, and tell when that was, by the wall clock; ``pacs`` where that is the receiver.

        Raises BrokenRunError.
        """

    @abstractmethod
    def stop(self) -> None:
        """End it; does nothing to one that has ended."""


class EdgeForwarder(Forwarder):
    """The appliance, over DIMSE."""

    def __init__(self, cell: Cell, count: int, sample: FileObject, folder: Path, pacs: int) -> None:
        super().__init__(cell, count, sample, folder, pacs)
        self.edge = self.appliance()

    def appliance(self) -> Edge:
        """Configure it."""
        return Edge(self.folder, pacs=self.pacs, associations=self.cell.associations)

    def fill(self) -> None:
        """Fill its store, and start it anew."""
        self.edge.start()
        send(self.edge.port, self.sample, self.count, min(_FILLING, self.count))
        with closing(self.edge.tally()) as tally:
            wait_for(lambda: tally.all() == self.count, _INDEXED, "the appliance to index what it received")
        # what it took to receive is no part of the memory that forwarding takes
        self.edge.stop()
        self.edge.start()

    def begin(self) -> Sequence[int]:
        """Its process; it runs."""
        return [self.edge.pid]

    def finish(self, pacs: Pacs | None) -> float:
        """Have it send all, and wait until it has."""
        del pacs
        deadline = time.monotonic() + TIMEOUT
        with closing(self.edge.tally()) as tally:
            self.edge.retry()
            while (done := tally.accepted()) < self.count:
                if time.monotonic() > deadline:
                    raise BrokenRunError(f"the appliance delivered {done} of {self.count} within {TIMEOUT:g} s")
                time.sleep(_POLL)
            return time.time()

    def stop(self) -> None:
        """End it."""
        self.edge.stop()


class OrthancForwarder(Forwarder):
    """Orthanc, over DIMSE."""

    def __init__(self, cell: Cell, count: int, sample: FileObject, folder: Path, pacs: int) -> None:
        super().__init__(cell, count, sample, folder, pacs)
        self.orthanc = without_nagle(self.server())
        self.identifiers: list[str] = []

    def server(self) -> Orthanc:
        """Configure it."""
        settings = {"ConcurrentJobs": self.cell.associations}
        return Orthanc(self.folder, modalities={DESTINATION: ("PACS", self.pacs)}, settings=settings)

    def fill(self) -> None:
        """Fill its store, and start it anew."""
        self.orthanc.start()
        send(self.orthanc.dicom_port, self.sample, self.count, min(_FILLING, self.count))
        self.orthanc.kill()  # started anew as the appliance is; its own clean end takes seconds
        self.orthanc.start()
        self.identifiers = self.orthanc.instances()
        if len(self.identifiers) != self.count:
            raise BrokenRunError(f"Orthanc has {len(self.identifiers)} objects of {self.count}")

    def begin(self) -> Sequence[int]:
        """Its process; it runs."""
        return [self.orthanc.pid]

    def finish(self, pacs: Pacs | None) -> float:
        """Have it send all, and wait until it has."""
        del pacs
        with ThreadPoolExecutor(self.cell.associations) as pool:
            for account in pool.map(self.send, _split(self.identifiers, self.cell.associations)):
                if account.get("FailedInstancesCount", 0):
                    raise BrokenRunError(f"Orthanc could not send: {account}")
        return time.time()

    def send(self, identifiers: Sequence[str]) -> dict[str, Any]:
        """Send these; its account of it."""
        return self.orthanc.send(DESTINATION, identifiers)

    def stop(self) -> None:
        """End it."""
        self.orthanc.kill()


class _Command(Forwarder):
    """A program that sends files and ends, one process an association."""

    one_shot = True

    def __init__(self, cell: Cell, count: int, sample: FileObject, folder: Path, pacs: int) -> None:
        super().__init__(cell, count, sample, folder, pacs)
        self.files: list[Path] = []
        self.processes: list[subprocess.Popen[str]] = []

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line, to which the files are added."""

    def fill(self) -> None:
        self.folder.mkdir(parents=True)
        self.files = write_copies(self.sample, self.count, self.folder)

    def begin(self) -> Sequence[int]:
        for files in _split(self.files, self.cell.associations):
            process = subprocess.Popen(
                [*self.command(), *map(str, files)],
                env={**environment(), "TCP_NODELAY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.processes.append(process)
        return [process.pid for process in self.processes]

    def finish(self, pacs: Pacs | None) -> float:
        for process in self.processes:
            try:
                output, _ = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired as e:
                raise BrokenRunError(f"{self.command()[0]} was not done within {TIMEOUT:g} s") from e
            if process.returncode != 0:
                raise BrokenRunError(f"{self.command()[0]} ended with {process.returncode}: {output.strip()}")
        if pacs is None:
            raise TypeError("only the receiver's own log tells when a program was done")
        # the receiver writes its last line beside the sender's end, not before it
        wait_for(lambda: len(pacs.releases()) == len(self.processes), _LAST_LINE, "the receiver's last line")
        return max(pacs.releases())

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


class _Dcmsend(_Command):
    def command(self) -> list[str]:
        return [require("dcmsend"), "--call", "PACS", LOOPBACK, str(self.pacs)]


class _Pynetdicom(_Command):
    def command(self) -> list[str]:
        module = (sys.executable, "-P", "-m", "tests.peers.pynetdicom_peers", "scu")
        return [*module, "--port", str(self.pacs), "--called", "PACS"]


FORWARDERS: Final[Mapping[Peer, type[Forwarder]]] = {
    Peer.EDGE: EdgeForwarder,
    Peer.DCMTK: _Dcmsend,
    Peer.ORTHANC: OrthancForwarder,
    Peer.PYNETDICOM: _Pynetdicom,
}


def forward(peer: Peer, cell: Cell, count: int, samples: Samples, folder: Path, number: int) -> Run:
    """Forward `count` objects, all in `folder`. Raises BrokenRunError, PeerFailedError, TimeoutError."""
    sample = samples.of(cell.kind)
    port = free_port()
    with FORWARDERS[peer](cell, count, sample, folder / "forwarder", port) as forwarder:
        os.sync()
        time.sleep(_SETTLE)
        with Pacs(folder / "pacs", port, cell.associations, nagle=cell.nagle) as pacs:
            with PeakMemory(forwarder.begin(), one_shot=forwarder.one_shot) as memory:
                end = forwarder.finish(pacs)
            begin, stored = pacs.begun(), pacs.stored()
            forwarder.stop()
            end_children(pacs.pid, _CHILDREN)
    if stored != count:
        raise BrokenRunError(f"the receiver got {stored} objects of {count}")
    return Run(
        work=Work.FORWARD,
        cell=cell,
        peer=peer,
        round=number,
        objects=count,
        bytes=count * sample.length,
        seconds=end - begin,
        idle=memory.idle,
        peak=memory.peak,
    )


def _split(items: Sequence[T], parts: int) -> list[Sequence[T]]:
    groups, start = [], 0
    for size in shares(len(items), parts):
        groups.append(items[start : start + size])
        start += size
    return [group for group in groups if group]
