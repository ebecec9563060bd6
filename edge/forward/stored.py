"""Stored files as the parts of a request: opened when their turn comes, read as they go, checked before their end.

One that cannot be sent ends the request that it is in by a `SpoiltError`, so that no whole request holds anything but
what was received.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from edge.dicom.part10 import plain
from edge.dicomweb.multipart import Part, Read
from edge.forward.outcome import Refused, TryLater, from_file
from edge.phrase import say
from edge.spool import Reader, Syncer
from edge.store import Parcel


class SpoiltError(Exception):
    """A stored file cannot be sent; ``outcome`` is what becomes of its parcel."""

    def __init__(self, parcel: Parcel, outcome: Refused | TryLater) -> None:
        super().__init__(outcome.detail)
        self.parcel = parcel
        self.outcome = outcome


def part(parcel: Parcel, syncer: Syncer) -> Part:
    """Make the part of a request that holds ``parcel``. Reading it raises `SpoiltError`."""

    @contextmanager
    def opened() -> Iterator[Read]:
        try:
            with Reader(parcel.path, parcel.offset, parcel.length, parcel.digest, syncer) as reader:
                yield reader.read
        except EOFError as e:
            raise SpoiltError(
                parcel, Refused("FILE_DAMAGED", say("the stored file cannot be read: {error}", error=e))
            ) from e
        except OSError as e:
            raise SpoiltError(parcel, from_file(e)) from e

    kind = parcel.kind
    return Part(plain(kind.sop_class_uid, parcel.sop_instance_uid, kind.transfer_syntax_uid), parcel.length, opened)
