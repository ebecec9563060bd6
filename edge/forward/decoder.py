"""Has compressed pixel data decompressed by a process of its own (`edge.dicom.pixels`), which may die of it.

The process is begun with a job, serves one at a time, is ended when it takes too long, and goes when nothing comes. One
that died has harmed nobody; the next job begins another.
"""

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from edge.dicom.pixels import MOST_MESSAGE, Done, Job
from edge.phrase import N_, say
from edge.spool import NoRoomError
from edge.store import Parcel

_LEAST_SECONDS: Final = 60
_BYTES_A_SECOND: Final = 1 << 20
"""Of what comes out: a slow box decodes more than that."""
_TURN: Final = 0.5
_CHUNK: Final = 256 << 10


class StoppedError(Exception):
    """Nobody wants it any more."""


class DecoderError(Exception):
    """It cannot be decompressed; the text says why."""

    def __init__(self, why: str, *, unsupported: bool = False) -> None:
        super().__init__(why)
        self.unsupported = unsupported
        """Whether that is for want of a codec, and not for what it is."""


class Decoder:
    """The process, while there is one. For threads."""

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-m", "edge.dicom.pixels")) -> None:
        """``command`` gets the descriptor of its socket as one more argument."""
        self._command = command
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None

    def close(self) -> None:
        """End the process, at work or not."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()  # whoever waits for it hears that
        with self._lock:
            self._end()

    def measure(self, source: int, parcel: Parcel, pause: Callable[[], None]) -> int:
        """Return how many bytes may come out of ``parcel``, whose file is ``source``.

        ``pause`` is called while it waits, and may raise. Raises `DecoderError`, `NoRoomError`.
        """
        job = Job(offset=parcel.offset, length=parcel.length, syntax=parcel.kind.transfer_syntax_uid)
        return self._ask(job, (source,), pause).length

    def decompress(
        self, source: int, target: int, parcel: Parcel, syntax: str, most: int, pause: Callable[[], None]
    ) -> tuple[int, bytes]:
        """Write ``parcel``, whose file is ``source``, to ``target`` in ``syntax``; its length and SHA-256.

        ``pause`` is called while it waits, and may raise. Raises `DecoderError`, `NoRoomError`, EOFError where the
        file is not what was received.
        """
        job = Job(
            offset=parcel.offset,
            length=parcel.length,
            syntax=parcel.kind.transfer_syntax_uid,
            target=syntax,
            most=most,
            seconds=_LEAST_SECONDS + most // _BYTES_A_SECOND,
        )
        done = self._ask(job, (source, target), pause)
        if done.source != parcel.digest.hex():
            raise EOFError(say("{file} is not what was received: its digest differs", file=parcel.path.name))
        return done.length, _digest(target, done.length)

    def _ask(self, job: Job, descriptors: tuple[int, ...], pause: Callable[[], None]) -> Done:
        with self._lock:
            done = self._try(job, descriptors, pause) if self._process is not None else None
            if done is None:  # none was there, or it went, perhaps for want of work
                done = self._try(job, descriptors, pause)
        if done is None:
            raise DecoderError(N_("the decoder died of it"))
        if done.full:
            raise NoRoomError(done.problem)
        if done.problem:
            raise DecoderError(done.problem, unsupported=done.unsupported)
        return done

    def _try(self, job: Job, descriptors: tuple[int, ...], pause: Callable[[], None]) -> Done | None:
        """Have ``job`` done; None where the process dies."""
        try:
            done = self._exchange(job, descriptors, pause)
        except BaseException:
            self._end()
            raise
        if done is None:
            self._end()
        return done

    def _exchange(self, job: Job, descriptors: tuple[int, ...], pause: Callable[[], None]) -> Done | None:
        link = self._begun()
        deadline = time.monotonic() + 2 * job.seconds
        try:
            socket.send_fds(link, [msgspec.json.encode(job)], descriptors)
            while True:
                pause()
                with contextlib.suppress(TimeoutError):
                    data = link.recv(MOST_MESSAGE)
                    break
                if time.monotonic() > deadline:
                    raise DecoderError(say("the decoder did not end within {seconds} s", seconds=2 * job.seconds))
        except OSError:
            return None
        return msgspec.json.decode(data, type=Done) if data else None

    def _begun(self) -> socket.socket:
        if self._link is not None and self._process is not None and self._process.poll() is None:
            return self._link
        self._end()
        if self._closed:
            raise StoppedError
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [*self._command, str(theirs.fileno())]
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    command,
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # who ends us from a terminal need not hear of it
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each would take of its memory
                )
            except OSError as e:
                ours.close()
                raise NoRoomError(say("no decoder can be begun: {error}", error=e.strerror)) from e
        ours.settimeout(_TURN)
        self._link = ours
        return ours

    def _end(self) -> None:
        process, self._process = self._process, None
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if process is not None:
            process.kill()
            process.wait()


def _digest(fd: int, length: int) -> bytes:
    found, at = hashlib.sha256(), 0
    while at < length and (data := os.pread(fd, min(_CHUNK, length - at), at)):
        found.update(data)
        at += len(data)
    return found.digest()
