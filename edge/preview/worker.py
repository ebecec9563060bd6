"""The appliance's end of the worker: started when it is needed, asked one thing at a time, killed when it is late.

Whatever becomes of the process, the answer is a value. The path goes over, and the file is opened there: on a card that
dies it is the worker that waits for it.
"""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from edge.clock import Clock
from edge.preview.answer import MOST_BYTES, PREFIX, Answer, NoPicture, Reason, decode, request

COMMAND: Final = (sys.executable, "-I", "-m", "edge.preview")
_KEPT: Final = ("PATH", "LD_LIBRARY_PATH", "LANG")
_ADDED: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
_STARTING: Final = 30.0
"""Seconds within which it must be ready."""
_PATIENCE: Final = 5.0
"""Seconds for one picture."""
_DYING: Final = 2.0
_PAUSE: Final = 60.0
"""Seconds until another try to start one that does not start."""

log = structlog.get_logger()


class Worker:
    """At most one process. One caller at a time."""

    def __init__(
        self,
        clock: Clock,
        command: Sequence[str] = COMMAND,
        *,
        starting: float = _STARTING,
        patience: float = _PATIENCE,
    ) -> None:
        self._clock = clock
        self._command = command
        self._starting = starting
        self._patience = patience
        self._not_before = float("-inf")
        self._process: Process | None = None
        self._dying: Process | None = None
        """Killed, and not gone yet: what waits for a dead disk cannot go."""

    @property
    def pid(self) -> int | None:
        """The process that works now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def ask(self, path: Path, side: int) -> Answer:
        """Return what the worker makes of the file at ``path``: a picture of at most ``side`` pixels, or a reason."""
        process = await self._ready()
        if process is None:
            return NoPicture(Reason.UNAVAILABLE)
        answer: Answer | None = None
        try:
            async with asyncio.timeout(self._patience):
                _write(process, request(path, side))
                answer = decode(await _read(process))
        except TimeoutError:
            return NoPicture(Reason.SLOW)
        except (OSError, EOFError, ValueError):
            return NoPicture(Reason.CRASHED)
        finally:
            if answer is None:
                await self.close()
        return answer

    async def close(self) -> None:
        """Kill the process; wait for its end, but not for ever."""
        process, self._process = self._process, None
        if process is None:
            return
        self._dying = process
        if process.returncode is None:
            process.kill()
        try:
            async with asyncio.timeout(_DYING):
                await process.wait()
        except TimeoutError:
            log.warning("a preview worker does not end", pid=process.pid)

    async def _ready(self) -> Process | None:
        if self._process is not None and self._process.returncode is None:
            return self._process
        if self._dying is not None and self._dying.returncode is None:
            return None
        if self._clock.monotonic() < self._not_before:
            return None
        try:
            self._process = await self._start()
            async with asyncio.timeout(self._starting):
                ready = await _read(self._process) == b""
        except (OSError, EOFError, ValueError):  # a timeout is an OSError
            ready = False
        except asyncio.CancelledError:
            await self.close()
            raise
        if not ready:
            log.warning("no preview worker: see that dicom-edge is installed whole", command=self._command)
            self._not_before = self._clock.monotonic() + _PAUSE
            await self.close()
        return self._process

    async def _start(self) -> Process:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | _ADDED
        return await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment, cwd="/"
        )


def _write(process: Process, data: bytes) -> None:
    """Send what is so short that it always has room."""
    if process.stdin is None:
        raise EOFError
    process.stdin.write(data)


async def _read(process: Process) -> bytes:
    """Return one answer. Raises EOFError, OSError, ValueError."""
    if process.stdout is None:
        raise EOFError
    (length,) = PREFIX.unpack(await process.stdout.readexactly(PREFIX.size))
    if length > MOST_BYTES:
        raise ValueError("An answer is longer than any may be.")
    return await process.stdout.readexactly(length)
