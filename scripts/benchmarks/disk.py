"""The disk alone: the same bytes written and synced by as many threads as there are associations, and nothing else.

What it gives is the limit of a receiver that has one object an association in hand and answers when the file is synced.
"""

import os
import threading
import time
from pathlib import Path
from typing import Final

from scripts.benchmarks.machine import even_start
from scripts.benchmarks.plan import shares

_PIECE: Final = 1 << 20


def write(source: Path, count: int, threads: int, folder: Path) -> float:
    """Write `count` copies of `source` below `folder`, each synced before the next. Returns seconds. Raises OSError."""
    data = source.read_bytes()
    folder.mkdir(parents=True)
    errors: list[OSError] = []
    writers = [
        threading.Thread(target=_write, args=(data, share, folder / f"{number}-", errors))
        for number, share in enumerate(shares(count, threads))
    ]
    even_start()
    begun = time.perf_counter()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    seconds = time.perf_counter() - begun
    if errors:
        raise errors[0]
    return seconds


def _write(data: bytes, count: int, prefix: Path, errors: list[OSError]) -> None:
    view = memoryview(data)
    try:
        for number in range(count):
            fd = os.open(f"{prefix}{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                for at in range(0, len(data), _PIECE):
                    os.write(fd, view[at : at + _PIECE])
                os.fsync(fd)
            finally:
                os.close(fd)
    except OSError as e:
        errors.append(e)
