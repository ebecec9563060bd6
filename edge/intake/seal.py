"""The seal: all that a row needs, kept in the file itself as Private Information (0002,0102) of PS3.10 7.1.

It is written after the last byte and before the sync, so a file with a good seal is whole as far as its writer knew,
and the database can be made again from the files alone. Its own checksum tells a torn seal from a good one.
"""

import hashlib
from typing import Final

import msgspec

from edge.model import Header, Instance, Kind, Source
from edge.phrase import N_, say
from edge.routing import Leg

VERSION: Final = 1
_MAGIC: Final = b"dicom-edge seal 1\n"
_SUM: Final = 32
_ROOM: Final = 512
"""Bytes that a seal takes without its destinations and its source, at the most."""
_ROOM_A_LEG: Final = 160


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says of itself."""

    version: int = VERSION
    id: int
    length: int
    digest: bytes
    source: Source
    received_at: float
    clock_trusted: bool
    legs: tuple[Leg, ...]


class BadSealError(Exception):
    """The seal is missing, torn or of an unknown version."""


class UnknownSealError(BadSealError):
    """The seal is whole, but another version of this program made it: the object was answered."""


def room(destinations: int, source: Source) -> int:
    """Bytes to keep for the seal of an object from ``source`` that may name so many destinations; even."""
    told = len(msgspec.json.encode(source))
    return _ROOM + _ROOM_A_LEG * destinations + told + told % 2


def encode(seal: Seal) -> bytes:
    """Write ``seal`` with its checksum."""
    body = msgspec.json.encode(seal)
    return _MAGIC + len(body).to_bytes(4, "big") + hashlib.sha256(body).digest() + body


def decode(value: bytes) -> Seal:
    """Read a seal from the value of (0002,0102). Raises `BadSealError`."""
    start = len(_MAGIC) + 4 + _SUM
    if not value.startswith(_MAGIC) or len(value) < start:
        raise BadSealError(N_("there is no seal"))
    length = int.from_bytes(value[len(_MAGIC) : len(_MAGIC) + 4], "big")
    body = value[start : start + length]
    if hashlib.sha256(body).digest() != value[len(_MAGIC) + 4 : start]:
        raise BadSealError(N_("the seal is torn"))
    try:
        seal = msgspec.json.decode(body, type=Seal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise UnknownSealError(say("the seal is of an unknown make: {error}", error=e)) from e
    if seal.version != VERSION:
        raise UnknownSealError(
            say("the seal is of version {version}, which this program does not know", version=seal.version)
        )
    return seal


def routable(header: Header, sop_class_uid: str) -> Header:
    """Complete what a route looks at: datasets that do not name their SOP class are stored too."""
    return header if header.sop_class_uid else msgspec.structs.replace(header, sop_class_uid=sop_class_uid)


def instance(seal: Seal, kind: Kind, sop_instance_uid: str, offset: int, header: Header) -> Instance:
    """Put together what the row needs from the seal and what stands beside it in the file."""
    return Instance(
        id=seal.id,
        kind=kind,
        sop_instance_uid=sop_instance_uid,
        digest=seal.digest,
        length=seal.length,
        offset=offset,
        source=seal.source,
        received_at=seal.received_at,
        clock_trusted=seal.clock_trusted,
        header=header,
    )
