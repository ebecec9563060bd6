"""What the worker may use: what others leave of the processor and the card, some memory, no new file, no process.

Where the system does not let it step behind others it works all the same; where it cannot bound its memory and its
time it must not work (OSError).
"""

import contextlib
import os
import resource
import time
from pathlib import Path
from typing import Final

_MEMORY: Final = 256 << 20
"""Bytes of address space beyond what the program itself takes."""
_CPU_SECONDS: Final = 6
_NICEST: Final = 19
_FIRST_TO_GO: Final = "1000"


def step_back() -> None:
    """Let everybody else go first: on the processor, on the card, and in staying alive when memory is short."""
    with contextlib.suppress(OSError):
        os.nice(_NICEST)
    with contextlib.suppress(OSError):
        # the kernel takes the class of input and output from it: idle
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, encoding="ascii")


def confine() -> None:
    """Bound what a file can make this process do, from now on. Raises OSError."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + _MEMORY)
    _lower(resource.RLIMIT_CORE, 0)  # it would be written to the card, with the image in it
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NPROC, 0)


def begin_request() -> None:
    """Grant the seconds of one picture; who uses them up is killed by the kernel (SIGXCPU)."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.process_time()) + 1 + _CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _lower(limit: int, most: int) -> None:
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    try:
        resource.setrlimit(limit, (most, most))
    except ValueError as e:  # Python's word for a limit that the system does not grant
        raise OSError(f"a limit of this process cannot be set: {e}") from e
