"""Resident memory of processes and of all that they start."""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import psutil

_EVERY: Final = 0.05
_CHILDREN_EVERY: Final = 2
"""Samples: to look for new children takes longer than to measure the known ones."""


class PeakMemory:
    """Samples while its context lasts: what was there at its start (`idle`), and the most that was seen (`peak`).

    `one_shot`: the processes were started for the run, and none of their memory is idle.
    """

    def __init__(self, pids: Sequence[int], *, one_shot: bool = False) -> None:
        self._roots = [psutil.Process(pid) for pid in pids]
        self._processes: list[psutil.Process] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)
        self._find()
        self.idle = 0 if one_shot else self._resident()
        self.peak = self.idle

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        number = 0
        while True:
            if number % _CHILDREN_EVERY == 0:
                self._find()
            number += 1
            self.peak = max(self.peak, self._resident())
            if self._stop.wait(_EVERY):
                self.peak = max(self.peak, self._resident())
                return

    def _find(self) -> None:
        found = []
        for process in self._roots:
            try:
                found += [process, *process.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
        self._processes = found

    def _resident(self) -> int:
        total = 0
        for process in self._processes:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total


def end_children(pid: int, within: float) -> None:
    """See that nothing that `pid` started outlives it: waited for, then killed."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(children, timeout=within)
    for child in alive:
        child.kill()
