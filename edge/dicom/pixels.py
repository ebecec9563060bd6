"""Pixel data decompressed, frame by frame: a process of its own, which may die of what it is given.

It is given jobs over a socket, one at a time, each with two descriptors: the stored file, and where the dataset goes
in an uncompressed transfer syntax. Memory, the length of what it writes and the time of each job are bounded. pydicom
decodes, RLE by itself, the rest with the codecs that are installed.
"""

import contextlib
import errno
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from edge.dicom.elements import LONG_HEADER
from edge.dicom.recode import UnfaithfulError, recode
from edge.dicom.stream import File
from edge.phrase import N_, say

MOST_MESSAGE: Final = 4096
_MEMORY: Final = 1 << 30
"""Bytes of address space."""
_MOST_FRAME: Final = 128 << 20
"""Bytes of one frame: a decoder holds it more than once."""
_MOST_PIXELS: Final = 0xFFFFFFFE
"""What the length of an element can say."""
_TAGS: Final = {
    "rows": 0x00280010,
    "columns": 0x00280011,
    "samples_per_pixel": 0x00280002,
    "bits_allocated": 0x00280100,
    "bits_stored": 0x00280101,
    "pixel_representation": 0x00280103,
    "photometric_interpretation": 0x00280004,
}
_NUMBER_OF_FRAMES: Final = 0x00280008
_PLANAR: Final = 0x00280006
_PIXEL_DATA: Final = 0x7FE00010
_RLE: Final = "1.2.840.10008.1.2.5"
_SLACK: Final = 1 << 20
_IDLE: Final = 30.0
"""Seconds without a job after which the process ends, and its memory is free."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done."""

    offset: int
    length: int
    syntax: str
    target: str = ""
    """Empty: say only how long it will be at the most."""
    most: int = 0
    """Bytes that may be written."""
    seconds: int = 60
    """Of processor time."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; ``problem`` is empty where it went well."""

    length: int = 0
    source: str = ""
    """SHA-256 of what was read, in hexadecimal."""
    problem: str = ""
    unsupported: bool = False
    """Whether the problem is that there is no codec."""
    full: bool = False
    """Whether the problem is that the disk is full."""


class NoCodecError(Exception):
    """Nothing that is installed can decode it."""


class _Image:
    """The frames of one dataset, as pydicom gives them."""

    def __init__(self, fd: int, job: Job) -> None:
        """Read what describes them. Raises `UnfaithfulError`, `NoCodecError`."""
        from pydicom.filereader import read_dataset  # noqa: PLC0415 - the limits are set before it is loaded
        from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415 - likewise

        self._one_each = job.syntax == _RLE
        self._decoder = get_decoder(job.syntax)
        if not self._decoder.is_available:
            raise NoCodecError
        # a descriptor of its own; its position is shared with nobody who uses it
        self._file = os.fdopen(os.dup(fd), "rb")
        self._file.seek(job.offset)
        wanted = [*_TAGS.values(), _NUMBER_OF_FRAMES, _PLANAR]
        dataset = read_dataset(
            self._file,
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=lambda tag, _vr, _length: tag >= _PIXEL_DATA,
            specific_tags=wanted,
        )
        self._options: dict[str, Any] = {name: dataset[tag].value for name, tag in _TAGS.items() if tag in dataset}
        frames = dataset[_NUMBER_OF_FRAMES].value if _NUMBER_OF_FRAMES in dataset else None
        planar = dataset[_PLANAR].value if _PLANAR in dataset else None
        self._options |= {"number_of_frames": int(frames or 1), "planar_configuration": planar or 0}
        if missing := [name for name in _TAGS if self._options.get(name) is None]:
            raise UnfaithfulError(say("it does not say its {attribute}", attribute=missing[0].replace("_", " ")))
        bits, frames = self._options["bits_allocated"], self._options["number_of_frames"]
        if bits not in (8, 16, 32) or frames < 1:
            raise UnfaithfulError(say("it is of {frames} frames and {bits} bits a sample", frames=frames, bits=bits))
        samples = self._options["samples_per_pixel"]
        self._frame = self._options["rows"] * self._options["columns"] * samples * bits // 8
        self.length = self._frame * frames
        if not 0 < self._frame <= _MOST_FRAME or self.length > _MOST_PIXELS:
            raise UnfaithfulError(
                say("its pixels would be {length} bytes, {frame} a frame", length=self.length, frame=self._frame)
            )
        self._frames: Iterator[bytes] = iter(())
        self.photometric = ""

    def open(self) -> None:
        """Decode the first frame, which shows what the others are."""
        head = self._file.read(LONG_HEADER)
        if head[:4] != b"\xe0\x7f\x10\0" or head[8:] != b"\xff" * 4:
            raise UnfaithfulError(N_("it has no compressed pixel data"))
        decoded = self._decoder.iter_array(self._file, raw=True, pixel_keyword="PixelData", **self._options)
        array, properties = next(decoded)
        said = self._options["photometric_interpretation"]
        came = str(properties["photometric_interpretation"])
        self.photometric = "" if came == said else came
        self._frames = chain([self._checked(array)], (self._checked(array) for array, _ in decoded))

    def _checked(self, array: Any) -> bytes:
        data = bytes(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        if len(data) != self._frame:
            raise UnfaithfulError(
                say("a frame of {length} bytes came out where it says {frame}", length=len(data), frame=self._frame)
            )
        return data

    def __iter__(self) -> Iterator[bytes]:
        given = 0
        for frame in self._frames:
            given += len(frame)
            yield frame
        if given != self.length:
            raise UnfaithfulError(N_("it has other frames than it says"))

    def check(self, fragments: int) -> None:
        """See that no frame is left over: of RLE each is one fragment (PS3.5 A.4.2), of others one or more."""
        frames = self._options["number_of_frames"]
        if fragments < frames or (self._one_each and fragments > frames):
            raise UnfaithfulError(
                say(
                    "it has {fragments} fragments and says that it is of {frames} frames",
                    fragments=fragments,
                    frames=frames,
                )
            )

    def close(self) -> None:
        self._file.close()


def work(job: Job, source: int, target: int) -> Done:
    """Do ``job``. Raises nothing that what it is given can bring about, short of death."""
    try:
        return _work(job, source, target)
    except NoCodecError:
        return Done(problem=N_("no codec for its transfer syntax is installed"), unsupported=True)
    except UnfaithfulError as e:
        return Done(problem=str(e))
    except MemoryError:
        return Done(problem=N_("it needs more memory than a decoder is given"))
    except OSError as e:
        return Done(problem=e.strerror or str(e), full=e.errno in (errno.ENOSPC, errno.EDQUOT))
    except Exception as e:  # noqa: BLE001 - decoders raise what they like at what they are given
        said = say("its pixels cannot be decoded ({kind}: {said})", kind=type(e).__name__, said=e)
        return Done(problem=said[:500])


def _work(job: Job, source: int, target: int) -> Done:
    image = _Image(source, job)
    try:
        if not job.target:
            # every header grows by 4 bytes at the most, and no element is shorter than 8
            return Done(length=image.length + 2 * job.length + _SLACK)
        image.open()
        stored = File(partial(_pread, source), job.offset, job.length)
        written = 0

        def write(data: bytes) -> None:
            nonlocal written
            written += len(data)
            if written > job.most:
                raise UnfaithfulError(say("more than {most} bytes come out", most=job.most))
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]

        recode(stored, job.syntax, job.target, write, image)
        return Done(length=written, source=stored.digest().hex())
    finally:
        image.close()


def _pread(fd: int, at: int, count: int) -> bytes:
    return os.pread(fd, count, at)


def serve(link: socket.socket, limit: Callable[[Job], None]) -> None:
    """Do what is asked over ``link``, until whoever asks is gone, or has asked nothing for a while."""
    link.settimeout(_IDLE)
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(link, MOST_MESSAGE, 2)
        except TimeoutError:
            return
        if not data:
            return
        try:
            job = msgspec.json.decode(data, type=Job)
            limit(job)
            link.send(msgspec.json.encode(work(job, descriptors[0], descriptors[-1])))
        finally:
            for fd in descriptors:
                os.close(fd)


def _limit(job: Job) -> None:
    """Bound the next job."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + job.seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))


def main() -> None:
    """Serve the socket whose descriptor is the argument."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # where memory runs out all the same, this is what goes
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with socket.socket(fileno=int(sys.argv[1])) as link:
        serve(link, _limit)


if __name__ == "__main__":
    main()
