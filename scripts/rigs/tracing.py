"""An appliance under strace: which calls it makes on the files of its storage, and what is done to it at one of them.

A `Point` is a call, a file, and how often that call was made on that file before. strace counts by the file (-P), so a
point means the same in every run, whichever thread comes first.
"""

import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from scripts.rigs.preflight import tracer
from tests.appliance import Edge

CALLS: Final = (
    "openat",
    "write",
    "pwrite64",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
)
"""What changes a disk; opening counts where it makes a file."""
_LINE: Final = re.compile(r"^(\d+) +(\w+)\((.*)$")
_NAMED: Final = re.compile(r'"(/[^"]*)"|<(/[^>]*)>')
_WITHOUT_EFFECT: Final = re.compile(r"= -1 (EEXIST|ENOENT)\b")
_LOOK: Final = 0.005
_END: Final = 5.0
_STRING: Final = "256"
"""Bytes that strace prints of a path."""


class Point(NamedTuple):
    """Where to strike: the `nth` time that `call` is made on `file`, a path below the storage."""

    call: str
    file: str
    nth: int

    def __str__(self) -> str:
        """As people read it."""
        return f"{self.call} {self.nth} on {self.file or 'the storage folder'}"


class Traced(Edge):
    """An appliance that is the child of an strace. It can only be killed: strace would let go of it otherwise."""

    _alone: psutil.Process | None = None

    def let_go(self) -> None:
        """Take strace away from it: from now on nothing more is done to it."""
        if self._process is not None:
            tracer = psutil.Process(self._process.pid)
            (self._alone,) = tracer.children()
            tracer.kill()

    @property
    def alive(self) -> bool:
        """Whether the appliance runs, with or without strace."""
        if self._alone is not None:
            return self._alone.is_running() and self._alone.status() != psutil.STATUS_ZOMBIE
        return not dead(self.pid)

    def kill(self) -> None:
        """End the appliance, then its tracer."""
        if self._process is not None:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self._process.pid).children(recursive=True):
                    child.kill()
        if self._alone is not None:
            with suppress(psutil.NoSuchProcess):
                self._alone.kill()
                psutil.wait_procs([self._alone], timeout=_END)
        super().kill()

    def stop(self) -> None:
        """As `kill`."""
        self.kill()


@contextmanager
def once(edge: Traced, log: Path) -> Iterator[None]:
    """Take strace away as soon as it has done its thing: it counts calls by thread, and would do it in each."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK):
            if injected(log):
                edge.let_go()
                return

    watcher = threading.Thread(target=watch, name="tracer")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def recording(log: Path) -> list[str]:
    """Arguments before the appliance's own: write every call to ``log``. Raises `MissingError`."""
    calls = ",".join(f"?{call}" for call in CALLS)
    return [*_strace(log), "-s", _STRING, "-e", f"trace={calls}"]


def striking(storage: Path, point: Point, log: Path, what: str = "signal=KILL") -> list[str]:
    """Arguments before the appliance's own: do ``what`` at ``point``. Raises `MissingError`."""
    return injecting([storage / point.file], point.call, f"{what}:when={point.nth}", log)


def injecting(files: Sequence[Path], calls: str, what: str, log: Path) -> list[str]:
    """Arguments before the appliance's own: do ``what`` at ``calls`` on ``files``, everywhere where none is named."""
    paths = [argument for file in files for argument in ("-P", str(file))]
    return [*_strace(log), *paths, "-e", f"trace={calls}", "-e", f"inject={calls}:{what}"]


def injected(log: Path) -> bool:
    """Whether anything was done to the appliance."""
    return log.exists() and re.search(r"\((INJECTED|DELAYED)\)", log.read_text(errors="replace")) is not None


def killed(log: Path) -> bool:
    """Whether the appliance died at its point."""
    return log.exists() and "+++ killed by SIGKILL +++" in log.read_text(errors="replace")


def dead(pid: int) -> bool:
    """Whether the process has ended, be it waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def points(log: Path, storage: Path, *, after: str = "") -> list[Point]:
    """Every call of a recorded run on a file below ``storage``, in order; only those after a line with ``after``."""
    made: Counter[tuple[str, str, str]] = Counter()
    found: dict[Point, None] = {}
    begun = not after
    for line in log.read_text(errors="replace").splitlines():
        begun = begun or after in line
        parsed = _LINE.match(line)
        if parsed is None:
            continue
        thread, call, rest = parsed.groups()
        files = _files(rest, storage)
        for file in files:
            made[thread, call, file] += 1
        if begun and files and _changes(call, rest):
            found[Point(call, files[0], made[thread, call, files[0]])] = None
    return list(found)


def _strace(log: Path) -> list[str]:
    # not --seccomp-bpf, which is faster: strace 6.1 was seen to lose one injected signal in ten with it
    return [tracer(), "-f", "-y", "-qq", "-o", str(log)]


def _files(arguments: str, storage: Path) -> Sequence[str]:
    """The files below ``storage`` that a call names, by path or by descriptor, each once."""
    named = (Path(path or of_descriptor) for path, of_descriptor in _NAMED.findall(arguments))
    below = (path for path in named if path == storage or storage in path.parents)
    return list(dict.fromkeys("" if path == storage else str(path.relative_to(storage)) for path in below))


def _changes(call: str, rest: str) -> bool:
    if _WITHOUT_EFFECT.search(rest):
        return False
    return call != "openat" or "O_CREAT" in rest
