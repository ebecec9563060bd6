"""What comes of a preview, and what appliance and worker say to each other.

Both directions are length-prefixed and bounded. The worker read bytes of strangers, so what it says is believed only
where it is one of the two answers, and a picture only where it begins like one.
"""

from enum import StrEnum
from pathlib import Path
from struct import Struct
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

SMALL: Final = 256
LARGE: Final = 512
SIDES: Final = (SMALL, LARGE)
"""Pixels of the longer side: on a list, and on the page of a study."""
MOST_BYTES: Final = 1 << 20
"""Of an answer."""
PREFIX: Final = Struct("!I")
"""Bytes that follow; none: the worker is ready."""
REQUEST: Final = Struct("!HH")
"""Pixels of the longer side, bytes of the path that follows."""


class Reason(StrEnum):
    """Why there is no picture."""

    REPORT = "report"
    """The object is a structured report or a selection of key images."""
    DOCUMENT = "document"
    PRESENTATION = "presentation"
    """It says how other images are shown."""
    WAVEFORM = "waveform"
    RADIOTHERAPY = "radiotherapy"
    """A plan, a set of structures, a record of treatment."""
    VIDEO = "video"
    OTHER = "other"
    """An object of another kind without pixels."""
    COMPRESSION = "compression"
    """Its compression cannot be undone here."""
    TOO_LARGE = "too large"
    UNUSUAL = "unusual"
    """Its pixels are laid out as this program does not know."""
    DAMAGED = "damaged"
    """What the object says of its pixels is not what is there."""
    SLOW = "slow"
    """It took too long."""
    CRASHED = "crashed"
    """Making it ended the worker."""
    GONE = "gone"
    """The file cannot be opened."""
    BUSY = "busy"
    """Newer requests came first: ask again."""
    UNAVAILABLE = "unavailable"
    """There is no worker."""


class Picture(msgspec.Struct, frozen=True, tag="picture"):
    """A picture without metadata."""

    data: Annotated[bytes, Meta(max_length=MOST_BYTES)]
    width: Annotated[int, Meta(ge=1, le=LARGE)]
    """Pixels."""
    height: Annotated[int, Meta(ge=1, le=LARGE)]
    media: Literal["image/webp"] = "image/webp"
    """Content-Type, for who serves it with nosniff."""


class NoPicture(msgspec.Struct, frozen=True, tag="none"):
    """There is none, and why."""

    reason: Reason


Answer = Picture | NoPicture

_DECODER: Final = msgspec.msgpack.Decoder(Answer)


def request(path: Path, side: int) -> bytes:
    """Return the bytes that ask for a picture of the file at ``path``. Raises ValueError for a path beyond 64 KiB."""
    name = bytes(path)
    if len(name) > 0xFFFF:  # noqa: PLR2004 - what the prefix can say
        raise ValueError("A path is longer than a request can be.")
    return REQUEST.pack(side, len(name)) + name


def encode(answer: Answer) -> bytes:
    """Return the bytes of an answer, its length first."""
    body = msgspec.msgpack.encode(answer)
    return PREFIX.pack(len(body)) + body


def decode(body: bytes) -> Answer:
    """Read an answer. Raises ValueError where it is none."""
    answer: Answer = _DECODER.decode(body)
    if isinstance(answer, Picture) and not (answer.data.startswith(b"RIFF") and answer.data[8:12] == b"WEBP"):
        raise ValueError("A picture is no picture.")
    return answer
