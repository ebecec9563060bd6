"""Makes another rendering of a stored object, for a destination that refuses the stored transfer syntax.

What is stored stays as it is; the rendering lies in a nameless file until it was sent. It is read again before it
goes, and its values must be those of the stored one. Work is done in threads of its own, in flat memory.
"""

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from edge.dicom.recode import UnfaithfulError, fingerprint, recode
from edge.dicom.stream import File
from edge.dicom.uids import DEFLATED, UNCOMPRESSED, syntax_name
from edge.forward.decoder import Decoder, DecoderError, StoppedError
from edge.forward.outcome import Accepted, Outcome, Refused, TryLater, Unreachable, from_file
from edge.model import Kind, Rendering
from edge.phrase import N_, say
from edge.spool import NoRoomError, Scratch
from edge.store import Parcel

_THREADS: Final = 2
_SLACK: Final = 1 << 20
_GROWTH: Final = 2
_INFLATED: Final = 16
"""Times that a dataset may grow when it is re-encoded, and when it is inflated for it."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class Rendition:
    """A rendering that can be sent, while it is entered."""

    def __init__(self, fd: int, stored: Parcel, rendering: Rendering, length: int) -> None:
        self.rendering = rendering
        self.parcel = msgspec.structs.replace(
            stored,
            kind=Kind(stored.kind.sop_class_uid, rendering.sent_as),
            length=length,
            offset=0,
            digest=rendering.digest,
            path=Path(f"/proc/self/fd/{fd}"),
        )
        """To be sent in place of the stored one."""
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Throw it away."""
        os.close(self._fd)

    def told(self, outcome: Outcome) -> Outcome:
        """Say in ``outcome`` that this is what was sent."""
        if isinstance(outcome, Accepted):
            return msgspec.structs.replace(outcome, rendering=self.rendering)
        if isinstance(outcome, Unreachable):
            return outcome
        syntax = syntax_name(self.rendering.sent_as)
        if self.rendering.decompressed:
            words = say("{detail} It was decompressed to {syntax}.", detail=outcome.detail, syntax=syntax)
        else:
            words = say("{detail} It was re-encoded as {syntax}.", detail=outcome.detail, syntax=syntax)
        return msgspec.structs.replace(outcome, detail=words)


class Workshop:
    """Makes renderings in ``scratch``; ``decoder`` is whom compressed pixel data is given to."""

    def __init__(self, scratch: Scratch, decoder: Decoder | None = None) -> None:
        self._scratch = scratch
        self._decoder = Decoder() if decoder is None else decoder
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="render")

    def close(self) -> None:
        """End what runs; what is made now is wanted by nobody."""
        self._decoder.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def render(self, parcel: Parcel, syntax: str) -> Rendition | Refused | TryLater:
        """Make what is to be sent of ``parcel`` in ``syntax``, or say why that cannot be."""
        stop = threading.Event()
        making = self._threads.submit(self._make, parcel, syntax, stop)
        try:
            return await asyncio.wrap_future(making)
        except asyncio.CancelledError:
            stop.set()
            making.add_done_callback(_throw_away)
            raise

    def _make(self, parcel: Parcel, syntax: str, stop: threading.Event) -> Rendition | Refused | TryLater:
        try:
            source = os.open(parcel.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            return from_file(e)
        try:
            return self._rendition(parcel, syntax, source, stop)
        except UnfaithfulError as e:
            detail = say(
                "it would have to go as {syntax}, and cannot be re-encoded without doubt: {error}.",
                syntax=syntax_name(syntax),
                error=e,
            )
            return Refused("NOT_REENCODED", detail)
        except DecoderError as e:
            if (
                not e.unsupported
                and File(partial(_read, source), parcel.offset, parcel.length).digest() != parcel.digest
            ):
                return Refused("FILE_DAMAGED", N_("the stored file is not what was received: its digest differs"))
            detail = say(
                "it would have to go as {syntax}, and cannot be decompressed: {error}.",
                syntax=syntax_name(syntax),
                error=e,
            )
            return Refused("NOT_DECOMPRESSED", detail, unsupported=e.unsupported)
        except EOFError as e:
            return Refused("FILE_DAMAGED", say("the stored file cannot be read: {error}", error=e))
        except NoRoomError as e:
            return TryLater("NO_ROOM_TO_REENCODE", say("it must be re-encoded: {error}.", error=e))
        except OSError as e:
            if e.errno in _FULL:
                return TryLater("NO_ROOM_TO_REENCODE", say("it must be re-encoded: {error}.", error=e.strerror))
            detail = say("it must be re-encoded, which the disk fails now: {error}.", error=e.strerror)
            return TryLater("FILE_UNREADABLE", detail)
        finally:
            os.close(source)

    def _rendition(self, parcel: Parcel, syntax: str, source: int, stop: threading.Event) -> Rendition:
        def pause() -> None:
            if stop.is_set():
                raise StoppedError

        stored_as = parcel.kind.transfer_syntax_uid
        fd = -1
        try:
            if stored_as in UNCOMPRESSED:
                most = (_INFLATED if stored_as == DEFLATED else _GROWTH) * parcel.length + _SLACK
                fd = self._scratch.file(most)
                length, digest = _reencode(parcel, syntax, source, fd, most, pause)
            else:
                most = self._decoder.measure(source, parcel, pause)
                fd = self._scratch.file(most)
                length, digest = self._decoder.decompress(source, fd, parcel, syntax, most, pause)
            rendering = Rendering(stored_as, syntax, digest, decompressed=stored_as not in UNCOMPRESSED)
            return Rendition(fd, parcel, rendering, length)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            raise


def _throw_away(made: "Future[Rendition | Refused | TryLater]") -> None:
    if not made.cancelled() and made.exception() is None and isinstance(rendition := made.result(), Rendition):
        with rendition:
            pass


def _reencode(
    parcel: Parcel, syntax: str, source: int, target: int, most: int, pause: Callable[[], None]
) -> tuple[int, bytes]:
    """Write ``parcel`` in ``syntax``, and read it again; its length and SHA-256."""
    stored_as = parcel.kind.transfer_syntax_uid
    sink = Sink(target, most)
    stored = File(partial(_read, source), parcel.offset, parcel.length, pause)
    try:
        values = recode(stored, stored_as, syntax, sink.write)
    except UnfaithfulError:
        _check(stored, parcel)
        raise
    _check(stored, parcel)
    if fingerprint(File(partial(_read, target), 0, sink.length, pause), syntax) != values:
        raise UnfaithfulError(N_("what came out has other values"))
    return sink.length, sink.digest()


def _check(stored: File, parcel: Parcel) -> None:
    """Raise EOFError where what was read is not what was received: then nothing that is said of it counts."""
    if stored.digest() != parcel.digest:
        raise EOFError(say("{file} is not what was received: its digest differs", file=parcel.path.name))


class Sink:
    """Writes to the descriptor ``fd``, at most ``most`` bytes, hashing them."""

    def __init__(self, fd: int, most: int) -> None:
        self.length = 0
        self._fd = fd
        self._most = most
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Write all of ``data``. Raises `UnfaithfulError` where it is more than may come, OSError."""
        self.length += len(data)
        if self.length > self._most:
            raise UnfaithfulError(say("more than {most} bytes come out", most=self._most))
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def digest(self) -> bytes:
        """SHA-256 of what was written."""
        return self._hash.digest()


def _read(fd: int, at: int, count: int) -> bytes:
    return os.pread(fd, count, at)
