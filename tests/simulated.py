"""A world in which time, disk, database and network do only what a test says, one step after the other.

Nothing here has threads: file work and SQL run on the loop, whose time is a clock that stands still. So a run depends
on its inputs alone, and a moment in the middle of anything can be stopped at, copied, and started from again.
"""

import asyncio
import errno
import os
import random
import sqlite3
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from unittest import mock

from edge.spool import Syncer
from tests.fakes import ManualClock

T = TypeVar("T")

_MOST_TURNS: Final = 20_000
"""Turns of the loop at one moment, after which something spins."""
_TICK: Final = 1024.0


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock that stands still unless it is told to pass."""

    _ready: "Sequence[asyncio.Handle]"
    _scheduled: "Sequence[asyncio.TimerHandle]"

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        super().__init__()

    def time(self) -> float:
        return self.clock.monotonic()

    def settle(self) -> None:
        """Run until nothing more happens at this moment."""
        for _ in range(_MOST_TURNS):
            self.call_soon(self.stop)
            self.run_forever()
            due = self._next()
            if not self._ready and (due is None or due > self.time()):
                return
        raise AssertionError("something spins: time stands still and the loop does not come to rest")

    def leap(self, seconds: float) -> None:
        """Let all of ``seconds`` pass at once, as for a machine that slept."""
        self.clock.pass_time(seconds)
        self.settle()

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, and everything happen at its time."""
        end = self.time() + seconds
        self.settle()
        while (due := self._next()) is not None and due < end:
            # a little late, as every timer is, and on a number that adds up exactly
            self.clock.pass_time(max(1.0, -((self.time() - due) * _TICK // 1)) / _TICK)
            self.settle()
        self.leap(max(0.0, end - self.time()))

    def finish(self, task: "asyncio.Future[T]", longest: float = 3600.0) -> T:
        """Let time pass until ``task`` is done; its result."""
        end = self.time() + longest
        self.settle()
        while not task.done():
            due = self._next()
            assert due is not None, "nothing will ever happen again"
            assert due < end, "it takes too long"
            self.advance(max(due - self.time(), 0.0) + 1 / _TICK)
        return task.result()

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override]
        """Run ``func`` on the loop: there are no threads."""
        del executor
        done: asyncio.Future[T] = self.create_future()
        self.call_soon(_fulfil, done, lambda: func(*args))
        return done

    def _next(self) -> float | None:
        return min((timer.when() for timer in self._scheduled if not timer.cancelled()), default=None)


def _fulfil(done: "asyncio.Future[T]", work: Callable[[], T]) -> None:
    try:
        result = work()
    except Exception as e:  # noqa: BLE001 - it is for whoever asked for the work
        if not done.done():
            done.set_exception(e)
            done.exception()  # seen here, in case whoever asked is gone
    else:
        if not done.done():
            done.set_result(result)


class SimulatedSyncer(Syncer):
    """File work on the loop itself, each job as late as ``disk`` is slow."""

    def __init__(self, disk: "SimulatedDisk") -> None:
        super().__init__()
        self._disk = disk
        self._jobs_left: dict[int, Callable[[], None]] = {}
        self._number = 0

    def submit(self, work: Callable[[], None]) -> "asyncio.Future[None]":
        return self._later(work)

    async def run(self, work: Callable[[], T]) -> T:
        return await self._later(work)

    def flush(self) -> None:
        """Do at once what a slow disk has put off."""
        while self._jobs_left:
            self._jobs_left.pop(min(self._jobs_left))()

    def _later(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        number = self._number = self._number + 1

        def due() -> None:
            if job := self._jobs_left.pop(number, None):
                job()

        self._jobs_left[number] = partial(_fulfil, done, work)
        if self._disk.slow:
            loop.call_later(self._disk.slow, due)
        else:
            loop.call_soon(due)
        return done


@dataclass
class Fault:
    """What goes wrong: the call of this name, after so many that succeed, so many times."""

    call: str
    number: int
    skip: int = 0
    times: int = 1


@dataclass
class _Made:
    path: str


@dataclass
class _Renamed:
    source: str
    target: str


@dataclass
class _Unlinked:
    path: str
    content: bytes


_Step = _Made | _Renamed | _Unlinked
_REAL: Final[dict[str, Callable[..., Any]]] = {
    name: getattr(os, name) for name in ("open", "pwrite", "fsync", "fdatasync", "rename", "unlink", "link")
}
"""The calls themselves, below what a test puts in their place."""


@dataclass
class SimulatedDisk:
    """The calls by which files below ``root``/spool are written: they fail on order, and know what is not synced.

    What a power cut may take: the content of a file since its last fsync, and the latest of the names made, moved
    and removed in folders that were not synced since. A file whose fsync failed is never whole again.
    """

    root: Path
    tick: Callable[[str], None]
    faults: list[Fault] = field(default_factory=list)
    database_faults: list[bool] = field(default_factory=list)
    """For each of the next transactions, whether it fails; True: after it was committed."""
    slow: float = 0.0
    free: int = 1 << 40
    _unsynced: set[int] = field(default_factory=set)
    _poisoned: set[int] = field(default_factory=set)
    _steps: list[_Step] = field(default_factory=list)

    def heal(self) -> None:
        self.faults.clear()
        self.database_faults.clear()
        self.slow = 0.0
        self.free = 1 << 40

    def install(self, stack: ExitStack) -> None:
        for name in ("open", "pwrite", "fsync", "fdatasync", "rename", "unlink"):
            stack.enter_context(mock.patch.object(os, name, getattr(self, f"_{name}")))

    def move_to(self, root: Path) -> None:
        """Go on below another folder, on a disk that was switched off and on."""
        self.root = root
        self._unsynced, self._poisoned, self._steps = set(), set(), []

    def copy(self, target: Path, power: random.Random | None) -> None:
        """Copy everything as a kill would leave it; with ``power``, as a power cut might."""
        damaged: list[Path] = []
        for folder, _, names in os.walk(self.root):
            here = target / Path(folder).relative_to(self.root)
            if names or here.name in {"incoming", "db"}:
                here.mkdir(parents=True, exist_ok=True)
            for name in names:
                path = Path(folder, name)
                if name.endswith("-shm"):
                    continue  # shared memory does not outlive the process
                (here / name).write_bytes(path.read_bytes())
                if path.stat().st_ino in self._unsynced | self._poisoned:
                    damaged.append(here / name)
        if power is None:
            return
        for path in damaged:
            size = path.stat().st_size
            keep = power.choice((size, 0, size // 2))
            path.write_bytes(path.read_bytes()[:keep] + bytes(size - keep) * power.randint(0, 1))
        kept = power.choice((0, power.randint(0, len(self._steps))))
        for step in reversed(self._steps[kept:]):
            _undo(step, self.root, target)

    # the calls

    def _open(self, path: Any, flags: int, mode: int = 0o777, **keys: Any) -> int:
        if flags & os.O_CREAT and self._ours(path):
            self._call("open")
            new = not os.path.lexists(path)
            fd: int = _REAL["open"](path, flags, mode, **keys)
            if new:
                self._unsynced.add(os.fstat(fd).st_ino)
                self._steps.append(_Made(str(path)))
            return fd
        return int(_REAL["open"](path, flags, mode, **keys))

    def _pwrite(self, fd: int, data: Any, at: int) -> int:
        if self._ours(_name(fd)):
            self._call("pwrite")
            self._unsynced.add(os.fstat(fd).st_ino)
        return int(_REAL["pwrite"](fd, data, at))

    def _fsync(self, fd: int) -> None:
        name = _name(fd)
        if not self._ours(name):
            return  # nothing that is looked at after a power cut
        inode = os.fstat(fd)
        try:
            self._call("fsync")
        except OSError:
            self._poisoned.add(inode.st_ino)
            raise
        if stat.S_ISDIR(inode.st_mode):
            self._steps = [step for step in self._steps if name not in _folders(step)]
        else:
            self._unsynced.discard(inode.st_ino)

    def _fdatasync(self, fd: int) -> None:
        self._fsync(fd)

    def _rename(self, source: Any, target: Any, **keys: Any) -> None:
        if self._ours(source):
            self._call("rename")
        _REAL["rename"](source, target, **keys)
        if self._ours(source):
            self._steps.append(_Renamed(str(source), str(target)))

    def _unlink(self, path: Any, **keys: Any) -> None:
        if self._ours(path) and os.path.lexists(path):
            self._call("unlink")
            content, inode = Path(path).read_bytes(), Path(path).stat().st_ino
            _REAL["unlink"](path, **keys)
            self._steps.append(_Unlinked(str(path), content))
            self._unsynced.discard(inode)
            self._poisoned.discard(inode)
        else:
            _REAL["unlink"](path, **keys)

    def _ours(self, path: Any) -> bool:
        return isinstance(path, str | Path) and str(path).startswith(f"{self.root}/spool/")

    def _call(self, call: str) -> None:
        self.tick(call)
        for fault in self.faults:
            if fault.call != call:
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            if not fault.times:
                self.faults.remove(fault)
            raise OSError(fault.number, os.strerror(fault.number))

    # the database

    def order(self) -> None:
        """Keep every name changed so far: the file systems we run on put names and a later sync in one journal."""
        self._steps.clear()

    def connection(self, connector: Callable[[], sqlite3.Connection], _size: int) -> "SimulatedConnection":
        """Stand in for the connection that has a thread of its own."""
        return SimulatedConnection(self, connector)


class SimulatedConnection:
    """Runs on the loop what the real one runs in its thread."""

    def __init__(self, disk: SimulatedDisk, connector: Callable[[], sqlite3.Connection]) -> None:
        self._disk = disk
        self.raw = connector()
        self._writes = self.raw.execute("PRAGMA query_only").fetchone() == (0,) and not _read_only(self.raw)

    def __await__(self) -> Generator[Any, None, "SimulatedConnection"]:
        yield
        return self

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        await asyncio.sleep(0)
        if not self._writes:
            return work(self.raw)
        self._disk.tick("transaction")
        fails = self._disk.database_faults.pop(0) if self._disk.database_faults else None
        if fails is False:
            raise _disk_error()
        result = work(self.raw)
        self._disk.order()
        self._disk.tick("committed")
        if fails:
            raise _disk_error()
        return result

    async def close(self) -> None:
        self.raw.close()


def _disk_error() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return error


def _read_only(raw: sqlite3.Connection) -> bool:
    try:
        raw.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    raw.execute("ROLLBACK")
    return False


def _name(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - thousands of times


def _folders(step: _Step) -> set[str]:
    paths = (step.source, step.target) if isinstance(step, _Renamed) else (step.path,)
    return {str(Path(path).parent) for path in paths}


def _undo(step: _Step, old: Path, new: Path) -> None:
    def here(path: str) -> Path:
        moved = new / Path(path).relative_to(old)
        moved.parent.mkdir(parents=True, exist_ok=True)
        return moved

    match step:
        case _Made():
            here(step.path).unlink(missing_ok=True)
        case _Renamed() if here(step.target).exists():
            here(step.target).replace(here(step.source))
        case _Unlinked():
            here(step.path).write_bytes(step.content)
        case _:
            pass


ERRORS: Final = (errno.ENOSPC, errno.EIO)
