"""Objects to send, and the sender processes that send them."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from scripts.benchmarks.modality import fresh_uid
from scripts.benchmarks.plan import Kind, shares
from tests.peers import objects
from tests.peers.part10 import FileObject, part10

ROOT: Final = Path(__file__).parents[2]
TIMEOUT: Final = 300.0
"""Seconds within which one run must be over."""


class BrokenRunError(Exception):
    """A run could not be carried out; the text says why."""


@dataclass(frozen=True)
class Samples:
    """One Part 10 file of each kind, made when it is asked for."""

    folder: Path
    megabytes: int
    """MiB of the multi-frame object."""

    def of(self, kind: Kind) -> FileObject:
        """Name the file of this kind."""
        path = self.folder / f"{kind}.dcm"
        if not path.exists():
            match kind:
                case Kind.CT:
                    objects.ct(1)[0].write(path)
                case Kind.MR:
                    objects.mr(1)[0].write(path)
                case Kind.MULTIFRAME:
                    objects.write_multiframe(path, self.megabytes)
        return part10(path)


def environment() -> dict[str, str]:
    """Give child processes the repository's modules, and no proxy a chance."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


class Senders:
    """`associations` sender processes that share `count` objects, ready to begin together.

    Inside the context they are loaded and wait; leaving it ends them for certain.
    """

    def __init__(self, port: int, sample: FileObject, count: int, associations: int, *, nagle: bool) -> None:
        common = [
            *(sys.executable, "-P", "-m", "scripts.benchmarks.modality"),
            *("--port", str(port), "--file", str(sample.path), "--offset", str(sample.offset)),
            *("--sop-class", sample.sop_class_uid, "--uid", sample.sop_instance_uid),
            *(["--nagle"] if nagle else []),
        ]
        self._arguments = [[*common, "--count", str(share)] for share in shares(count, associations) if share]
        self._processes: list[subprocess.Popen[str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for arguments in self._arguments:
                process = subprocess.Popen(
                    arguments,
                    env=environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                stack.callback(_end, process)
                self._processes.append(process)
            for process in self._processes:
                if process.stdout is None or process.stdout.readline() != "ready\n":
                    raise BrokenRunError(f"the sender did not start: {_complaint(process)}")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def send(self) -> float:
        """Let them go; the seconds from the first connection to the last answer. Raises BrokenRunError."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.write("go\n")
                process.stdin.flush()
        begins, ends = [], []
        for process in self._processes:
            try:
                output, complaint = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired as e:
                raise BrokenRunError(f"the sender was not done within {TIMEOUT:g} s") from e
            if process.returncode != 0:
                raise BrokenRunError(complaint.strip() or f"the sender ended with {process.returncode}")
            times = json.loads(output)
            begins.append(times["begin"])
            ends.append(times["end"])
        return float(max(ends) - min(begins))


def send(port: int, sample: FileObject, count: int, associations: int) -> None:
    """Fill a store as fast as it goes. Raises BrokenRunError."""
    with Senders(port, sample, count, associations, nagle=False) as senders:
        senders.send()


def write_copies(sample: FileObject, count: int, folder: Path) -> list[Path]:
    """Write `count` Part 10 files that differ in their SOP Instance UID, which is as long in each."""
    data = sample.path.read_bytes()
    old = sample.sop_instance_uid.encode()
    end = data.rindex(old, 0, sample.offset + (1 << 12)) + len(old)
    head, tail = data[:end], memoryview(data)[end:]
    paths = []
    for number in range(count):
        path = folder / f"{number:05d}.dcm"
        with path.open("wb") as out:
            out.write(head.replace(old, fresh_uid(len(old)).encode()))
            out.write(tail)
        paths.append(path)
    return paths


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _complaint(process: subprocess.Popen[str]) -> str:
    process.kill()
    return process.stderr.read().strip() if process.stderr is not None else ""
