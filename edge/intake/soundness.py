"""Whether a stored file is still what was received, and what is done where it is not.

The row goes first, so that the same bytes sent again are taken as new; then the file is set aside.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec

from edge.dicom import part10
from edge.dicom.header import read_header
from edge.dicom.part10 import NotPart10Error
from edge.findings import Journal
from edge.intake import seal as seals
from edge.intake.seal import BadSealError, UnknownSealError
from edge.model import Header, Instance, Kind, Source
from edge.phrase import say
from edge.routing import Leg
from edge.spool import Spool, Syncer
from edge.store import Store

_CHUNK: Final = 1 << 20


class DamagedError(Exception):
    """The seal is good, and file or dataset are not what it says."""


class Soundness:
    """Reads files and compares them with their seals."""

    def __init__(self, spool: Spool, syncer: Syncer, store: Store, journal: Journal) -> None:
        self._spool = spool
        self._syncer = syncer
        self._store = store
        self._journal = journal

    async def check(self, number: int) -> Instance | None:
        """Return what the file of ``number`` says of itself; None where it is gone or damaged, which is on record then.

        One that another version sealed is left as it is, and told of by None. Raises `StoreError`, OSError.
        """
        path = self._spool.path(number)
        try:
            instance, _ = await self._syncer.run(lambda: examine(path))
        except FileNotFoundError:
            if (await self._store.states([number])).get(number) == "stored":
                await self._store.lose([number])
                self._journal.note("LOST", "storage", say("object {number}", number=number))
            return None
        except UnknownSealError:
            return None
        except (BadSealError, DamagedError, NotPart10Error) as e:
            await self._set_aside(number, str(e))
            return None
        return instance

    async def _set_aside(self, number: int, wrong: str) -> None:
        await self._store.quarantine(number, wrong)
        await self._spool.put_aside(number, msgspec.json.encode({"why": wrong}))
        self._journal.note("DAMAGED_FILE", "storage", say("object {number}: {wrong}", number=number, wrong=wrong))


def describe(path: Path) -> tuple[Header, Source]:
    """Read what a route looks at out of a stored file, without a check of its bytes.

    Raises `NotPart10Error`, `BadSealError`, OSError.
    """
    with path.open("rb") as file:
        meta = part10.read_meta(file.read(_CHUNK))
        seal = seals.decode(meta.private)

        def read(offset: int, count: int) -> bytes:
            return os.pread(file.fileno(), count, meta.offset + offset)

        header = read_header(read, seal.length, meta.transfer_syntax_uid)
    return seals.routable(header, meta.sop_class_uid), seal.source


def examine(path: Path) -> tuple[Instance, tuple[Leg, ...]]:
    """Read a file's seal and check its dataset against it.

    Raises `NotPart10Error`, `BadSealError`, OSError, and `DamagedError` where seal and file differ.
    """
    with path.open("rb") as file:
        meta = part10.read_meta(file.read(_CHUNK))
        seal = seals.decode(meta.private)
        if path.stem != str(seal.id):
            raise DamagedError(say("{file} has the seal of object {other}", file=path.name, other=seal.id))
        size = os.fstat(file.fileno()).st_size
        if size != meta.offset + seal.length:
            raise DamagedError(
                say(
                    "{file} has {found} bytes of dataset where its seal says {wanted}",
                    file=path.name,
                    found=size - meta.offset,
                    wanted=seal.length,
                )
            )
        file.seek(meta.offset)
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        if digest.digest() != seal.digest:
            raise DamagedError(say("{file} is not what its seal says: the digest differs", file=path.name))

        def read(offset: int, count: int) -> bytes:
            return os.pread(file.fileno(), count, meta.offset + offset)

        header = read_header(read, seal.length, meta.transfer_syntax_uid)
    kind = Kind(meta.sop_class_uid, meta.transfer_syntax_uid)
    return seals.instance(seal, kind, meta.sop_instance_uid, meta.offset, header), seal.legs
