"""Many files at once, and a large one that grows, in a watched folder: each arrives once, in flat memory.

The small files come in a folder that is renamed into the watched one, so that all are there in one instant. The large
file is written in pieces; it must not be taken before its last byte.
"""

import argparse
import random
import struct
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final

import psutil

from scripts.rigs.report import add_seed, conclude, dice, folder, positive, say
from scripts.rigs.volume import Workshop
from tests.appliance import Edge, dimse
from tests.peers.objects import FileObject, part10, tiny, write_multiframe
from tests.peers.ports import wait_for
from tests.peers.raw import RawReceiver

HELP: Final = "tens of thousands of files at once and a large one that grows, in a watched folder"
_MIB: Final = 1 << 20
_MOST_PIXELS: Final = 4000
"""Megabytes of pixel data that fit into one element."""
_GROWTH: Final = 48 * _MIB
"""Bytes of memory that it may come to hold above what it held when idle, however many and large the files are."""
_PACE: Final = 0.25
"""Seconds between two pieces of the large file."""
_EVERY: Final = 0.5
_SMALL: Final = 1000
"""Small files made at a time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the rig's own arguments."""
    parser.add_argument("--files", type=positive, default=50_000, metavar="N", help="small files; 50000")
    parser.add_argument("--megabytes", type=positive, default=5000, metavar="M", help="size of the large file; 5000")
    parser.add_argument("--seconds", type=positive, default=60, metavar="S", help="how long it grows; 60")
    parser.add_argument("--folder", type=folder, metavar="FOLDER", help="where everything goes; the temporary folder")
    add_seed(parser)


def run(options: argparse.Namespace) -> int:
    """Run it; 0 where everything arrived once and memory was flat."""
    seed, _ = dice(options)
    with Workshop(options.folder) as workshop:
        did, problems = drop(workshop, options.files, options.megabytes, options.seconds)
    return conclude("files", seed, did, problems)


def drop(place: Path, files: int, megabytes: int, seconds: float) -> tuple[list[str], list[str]]:
    """Do it below ``place``. Returns what was done, and what was wrong."""
    watched, staging = place / "export", place / "staging"
    watched.mkdir()
    (staging / "small").mkdir(parents=True)
    wanted = Counter[bytes]()
    for first in range(0, files, _SMALL):
        for number, obj in enumerate(tiny(min(_SMALL, files - first)), first):
            obj.write(staging / "small" / f"IM{number}")
            wanted[obj.wire_digest] += 1
    large = _large(staging / "large", megabytes)
    wanted[large.wire_digest] += 1
    say(f"{files} small files and one of {megabytes} MB are made")
    more = f'[[watch]]\nname = "export"\npath = "{watched}"\nsettle = "2s"\n'
    with (
        RawReceiver(reserve=True) as pacs,
        Edge(place / "box", dimse("pacs", pacs.port, associations=2), more=more) as edge,
    ):
        memory = _Memory(edge.pid)
        begun = time.monotonic()
        (staging / "small").rename(watched / "small")
        _grow(staging / "large", watched / "large.dcm", seconds)
        grown = time.monotonic()
        early = sum(1 for received in pacs.received if received.length > _MIB)
        problems = ["the large file was taken before it was whole"] * early
        try:
            wait_for(lambda: len(pacs.received) >= files + 1, 60 + files / 20 + megabytes / 5, "everything arrives")
            wait_for(lambda: _released(watched) == files + 1, 60, "everything is moved")
            edge.wait_settled("pacs", {"accepted": files + 1})
        except TimeoutError as late:
            problems.append(str(late))
        took = time.monotonic() - begun
        peak = memory.stop()
        told = edge.json("status")
    problems += _compare(Counter(received.digest for received in pacs.received), wanted)
    counted = (told["intake"]["instances"], told["watches"][0]["taken"])
    if counted != (files + 1, files + 1):
        problems.append(f"edge status counts {counted[0]} received and {counted[1]} taken, not {files + 1}")
    if peak - memory.idle > _GROWTH:
        problems.append(f"memory grew by {(peak - memory.idle) / _MIB:.0f} MiB, more than {_GROWTH / _MIB:.0f}")
    did = [
        f"{files} files at once and one of {megabytes} MB that grew for {grown - begun:.0f} s: all in {took:.0f} s.",
        f"Memory {memory.idle / _MIB:.0f} MiB when idle, {peak / _MIB:.0f} MiB at the most.",
    ]
    return did, problems


def _large(path: Path, megabytes: int) -> FileObject:
    """Write a multi-frame image; what does not fit into one element goes into padding behind it (PS3.10 7.2)."""
    write_multiframe(path, min(megabytes, _MOST_PIXELS))
    if left := max(0, megabytes - _MOST_PIXELS) * _MIB:
        with path.open("ab") as file:
            file.write(struct.pack("<HH2sxxL", 0xFFFC, 0xFFFC, b"OB", left))
            for _ in range(left // _MIB):
                file.write(random.randbytes(_MIB))
    return part10(path)


def _grow(source: Path, target: Path, seconds: float) -> None:
    """Copy a file in pieces, over so many seconds."""
    size, begun = source.stat().st_size, time.monotonic()
    with source.open("rb") as reading, target.open("wb") as writing:
        while left := size - reading.tell():
            passed = time.monotonic() - begun
            due = int(size * min(1.0, passed / seconds)) - reading.tell() if seconds else left
            writing.write(reading.read(max(_MIB, min(due, left))))
            writing.flush()
            time.sleep(_PACE)  # it is to be slow


def _released(watched: Path) -> int:
    done = watched / "done"
    return sum(1 for path in done.rglob("*") if path.is_file()) if done.exists() else 0


def _compare(arrived: Counter[bytes], wanted: Counter[bytes]) -> list[str]:
    missing, more = wanted - arrived, arrived - wanted
    return [f"{missing.total()} objects were not delivered byte for byte"] * bool(missing) + [
        f"{more.total()} objects were delivered more than once, or are in no file"
    ] * bool(more)


class _Memory:
    """Looks now and then at what a process holds."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.idle = self._peak = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory")
        self._thread.start()

    def stop(self) -> int:
        """Give the most that was seen."""
        self._over.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._over.wait(_EVERY):
            self._peak = max(self._peak, self._process.memory_info().rss)
