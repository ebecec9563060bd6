"""Fetching a bundle over a line that breaks, with no end of tries: what is here already is never fetched again.

The server's validator (RFC 9110 8.8) stands beside what came, with how much of it is synced: after a power cut the rest
is asked for, and only if it is still the same file. Addresses are https, also after a redirect, or on this machine.
"""

import contextlib
import errno
import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from edge.clock import Clock
from edge.fsync import replace_synced
from edge.updating.wanted import acceptable

if TYPE_CHECKING:
    import httpx

MOST: Final = 4 << 30
"""Bytes of a bundle."""
_CHUNK: Final = 64 << 10
_SYNC: Final = 16 << 20
"""Bytes between two syncs."""
_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 300.0
"""Seconds between two tries."""
_SILENCE: Final = 60.0
"""Seconds of silence after which a connection is given up."""
_PARTIAL, _GONE_PAST = 206, 416
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_LATER: Final = frozenset({408, 425, 429})
_RANGE: Final = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
_TOTAL: Final = re.compile(r"bytes \*/(\d{1,18})")


class FetchError(Exception):
    """It cannot be had; ``code`` is one of `edge.updating.reasons.REASONS`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class _Again(Exception):
    """This try came to nothing; the text says why."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is here of which file."""

    url: str
    validator: str
    """What If-Range takes; empty: the server gives none, so nothing can be resumed."""
    synced: int
    """Bytes that outlast a power cut."""


class Download:
    """Fetches one bundle to ``path``; beside it lies how far it came."""

    def __init__(
        self,
        url: str,
        path: Path,
        clock: Clock,
        *,
        room: Callable[[], int],
        pause: Callable[[float], None],
        tell: Callable[[int, int, str], None],
        look: Callable[[], None],
        silence: float = _SILENCE,
    ) -> None:
        """``room``: bytes that may still be written. ``tell``: bytes here, bytes in all or 0, and what is in the way.

        ``look`` is called again and again, and ends the download by raising.
        """
        self._url = url
        self._path = path
        self._about = path.with_suffix(".json")
        self._clock = clock
        self._room = room
        self._pause = pause
        self._tell = tell
        self._look = look
        self._silence = silence
        self._looked = clock.monotonic()
        self._size = 0

    def run(self) -> None:
        """Fetch it, however long it takes. Raises `FetchError`, OSError, and what ``look`` raises."""
        import httpx  # noqa: PLC0415 - large, and only for who fetches

        wait = _FIRST_PAUSE
        with httpx.Client(
            verify=ssl.create_default_context(),
            timeout=self._silence,
            follow_redirects=True,
            max_redirects=5,
            trust_env=False,
            headers={"User-Agent": "dicom-edge", "Accept-Encoding": "identity"},
            event_hooks={"request": [_refuse_strangers]},
        ) as http:
            while True:
                before = self._here().synced
                try:
                    self._try(http)
                except _Again as e:
                    here = self._here().synced
                    wait = _FIRST_PAUSE if here > before else wait
                    self._tell(here, self._size, str(e))
                    self._pause(wait)
                    wait = min(2 * wait, _LONGEST_PAUSE)
                else:
                    return

    def _try(self, http: "httpx.Client") -> None:
        import httpx  # noqa: PLC0415 - as above

        kept = self._here()
        headers = {"Range": f"bytes={kept.synced}-", "If-Range": kept.validator} if kept.synced else {}
        try:
            with http.stream("GET", self._url, headers=headers) as answer:
                offset = self._judge(answer, kept)
                if offset is not None:
                    self._write(answer, offset)
        except OSError as e:
            # of this machine's disk; what fails on the line is the library's
            if e.errno in _FULL:
                raise FetchError("NO_ROOM", "the disk is full") from None
            raise
        except httpx.TooManyRedirects:
            raise FetchError("DOWNLOAD", "the server sends from one address to the next") from None
        except (httpx.TransportError, ssl.SSLError) as e:
            raise _Again(str(e) or type(e).__name__) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as e:
            raise FetchError("DOWNLOAD", f"the server cannot be asked ({type(e).__name__})") from None

    def _judge(self, answer: "httpx.Response", kept: Kept) -> int | None:
        """Return where the body begins; None where all of it is here already."""
        status, said = answer.status_code, answer.headers
        if status == _GONE_PAST:
            total = _TOTAL.fullmatch(said.get("content-range", ""))
            if total and int(total[1]) == kept.synced:
                return None
            self._forget()
            raise _Again("what is here is longer than the file of the server")
        if status >= 500 or status in _LATER:  # noqa: PLR2004 - the server's own errors
            raise _Again(f"the server answers {status}")
        if status == _PARTIAL:
            part = _RANGE.fullmatch(said.get("content-range", ""))
            if not kept.synced or part is None or int(part[1]) != kept.synced:
                self._forget()
                raise _Again("the server answers with another part than was asked for")
            self._size = int(part[2]) if part[2] != "*" else 0
            self._fits(self._size - kept.synced)
            return kept.synced
        if status != 200:  # noqa: PLR2004 - it has it
            raise FetchError("DOWNLOAD", f"the server answers {status}")
        length = said.get("content-length", "")
        self._size = int(length) if length.isdecimal() and len(length) < 19 else 0  # noqa: PLR2004 - as above
        self._forget()
        self._fits(self._size)
        self._keep(Kept(url=self._url, validator=_validator(answer), synced=0))
        return 0

    def _write(self, answer: "httpx.Response", offset: int) -> None:
        """Write what comes. However it ends, what came is kept. Raises OSError, `FetchError`."""
        fd = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        kept = self._here()
        synced, have = offset, offset
        with os.fdopen(fd, "wb") as file:
            # nothing beyond what outlasted the last power cut is believed
            file.truncate(offset)
            file.seek(offset)
            try:
                for piece in answer.iter_raw(_CHUNK):
                    self._look_sometimes()
                    file.write(piece)
                    have += len(piece)
                    if have - synced >= _SYNC:
                        self._fits(0)
                        synced = self._sync(file, kept, have)
                        self._tell(have, self._size, "")
                    if have > MOST:
                        raise FetchError("DOWNLOAD", "the file is too long")
            except BaseException:
                with contextlib.suppress(OSError):
                    self._sync(file, kept, have)
                raise
            self._sync(file, kept, have)
        if self._size and have != self._size:
            raise _Again("the server ended before all of it was sent")
        self._tell(have, have, "")

    def _sync(self, file: BinaryIO, kept: Kept, have: int) -> int:
        file.flush()
        os.fsync(file.fileno())
        if kept.validator:
            self._keep(msgspec.structs.replace(kept, synced=have))
        return have

    def _look_sometimes(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked >= 1:
            self._looked = now
            self._look()

    def _fits(self, more: int) -> None:
        if more > MOST:
            raise FetchError("DOWNLOAD", "the file is too long")
        if more > self._room() or self._room() <= 0:
            raise FetchError("NO_ROOM", f"it needs {more} bytes" if more else "the disk is full")

    def _here(self) -> Kept:
        nothing = Kept(url=self._url, validator="", synced=0)
        try:
            kept = msgspec.json.decode(self._about.read_bytes(), type=Kept)
            size = self._path.stat().st_size
        except FileNotFoundError:
            return nothing
        except (msgspec.DecodeError, ValueError):
            return nothing
        return kept if kept.url == self._url and 0 <= kept.synced <= size else nothing

    def _keep(self, kept: Kept) -> None:
        self._path.touch(0o600)
        replace_synced(self._about, msgspec.json.encode(kept), 0o600)

    def _forget(self) -> None:
        self._path.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)


def _validator(answer: "httpx.Response") -> str:
    """Return what If-Range takes: a strong ETag, else the time of the last change."""
    tag = str(answer.headers.get("etag", ""))
    return tag if tag and not tag.startswith("W/") else str(answer.headers.get("last-modified", ""))


def _refuse_strangers(request: "httpx.Request") -> None:
    if not acceptable(str(request.url)):
        raise FetchError("DOWNLOAD", "the server sends to an address without encryption")
