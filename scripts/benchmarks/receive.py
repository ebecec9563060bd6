"""Receiving: the same sender to every receiver, each with a fresh store."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from scripts.benchmarks.appliance import Edge
from scripts.benchmarks.disk import write
from scripts.benchmarks.memory import PeakMemory, end_children
from scripts.benchmarks.modality import LARGEST_PDU
from scripts.benchmarks.plan import Cell, Peer, Run, Work
from scripts.benchmarks.sending import Samples, Senders, environment
from tests.peers.dcmtk import Storescp
from tests.peers.orthanc import Orthanc
from tests.peers.part10 import FileObject
from tests.peers.ports import free_port
from tests.peers.program import Program
from tests.peers.pynetdicom_peers import PynetdicomScp

SYNCS: Final[Mapping[Peer, str]] = {
    Peer.EDGE: "file + directory before the answer, index in batches",
    Peer.DCMTK: "nothing",
    Peer.ORTHANC: "files, index not",
    Peer.PYNETDICOM: "files",
    Peer.DISK: "files, and no DICOM at all: the disk's limit",
    Peer.NULL: "keeps nothing: the sender's limit",
    Peer.NULL_SHORT: "keeps nothing: the sender's limit",
}
"""What each has on stable storage when it answers, as started here."""

_SHORT_PDU: Final = 16384
_SETTLE: Final = 0.5
"""Seconds of rest after a start, before memory counts as idle."""
_CHILDREN: Final = 2.0


class _Null(Program):
    def __init__(self, folder: Path, max_pdu: int) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        command = (sys.executable, "-P", "-m", "scripts.benchmarks.null")
        super().__init__(
            [*command, "--port", str(self.port), "--max-pdu", str(max_pdu)],
            ports=[self.port],
            log=folder / "null.log",
            environment=environment(),
        )


def without_nagle(orthanc: Orthanc) -> Orthanc:
    """Have Orthanc, which speaks DICOM through DCMTK, turn Nagle's algorithm off on its side."""
    orthanc.environment["TCP_NODELAY"] = "1"
    return orthanc


def _edge(folder: Path, associations: int) -> tuple[Program, int]:
    del associations
    edge = Edge(folder)
    return edge, edge.port


def _storescp(folder: Path, associations: int) -> tuple[Program, int]:
    storescp = Storescp(folder / "received", nodelay=True, extra=["--fork"] if associations > 1 else [])
    return storescp, storescp.port


def _orthanc(folder: Path, associations: int) -> tuple[Program, int]:
    del associations
    orthanc = without_nagle(Orthanc(folder))
    return orthanc, orthanc.dicom_port


def _pynetdicom(folder: Path, associations: int) -> tuple[Program, int]:
    del associations
    scp = PynetdicomScp(folder / "received", log=folder / "pynetdicom.log", fsync=True)
    scp.environment["TMPDIR"] = str(folder)  # its chunks go through temporary files: on the same file system
    return scp, scp.port


def _null(folder: Path, associations: int, max_pdu: int) -> tuple[Program, int]:
    del associations
    null = _Null(folder, max_pdu)
    return null, null.port


_RECEIVERS: Final[Mapping[Peer, Callable[[Path, int], tuple[Program, int]]]] = {
    Peer.EDGE: _edge,
    Peer.DCMTK: _storescp,
    Peer.ORTHANC: _orthanc,
    Peer.PYNETDICOM: _pynetdicom,
    Peer.NULL: lambda folder, associations: _null(folder, associations, LARGEST_PDU),
    Peer.NULL_SHORT: lambda folder, associations: _null(folder, associations, _SHORT_PDU),
}


def receive(peer: Peer, cell: Cell, count: int, samples: Samples, folder: Path, number: int) -> Run:
    """Send `count` objects to a fresh receiver in `folder`. Raises BrokenRunError, PeerFailedError, TimeoutError."""
    sample = samples.of(cell.kind)
    if peer is Peer.DISK:
        seconds, idle, peak = write(sample.path, count, cell.associations, folder), 0, 0
    else:
        seconds, idle, peak = _send(peer, cell, count, sample, folder)
    return Run(
        work=Work.RECEIVE,
        cell=cell,
        peer=peer,
        round=number,
        objects=count,
        bytes=count * sample.length,
        seconds=seconds,
        idle=idle,
        peak=peak,
    )


def _send(peer: Peer, cell: Cell, count: int, sample: FileObject, folder: Path) -> tuple[float, int, int]:
    program, port = _RECEIVERS[peer](folder, cell.associations)
    with program, Senders(port, sample, count, cell.associations, nagle=cell.nagle) as senders:
        os.sync()  # what earlier runs left to be written is no part of this one
        time.sleep(_SETTLE)
        with PeakMemory([program.pid]) as memory:
            seconds = senders.send()
        end_children(program.pid, _CHILDREN)
    return seconds, memory.idle, memory.peak
