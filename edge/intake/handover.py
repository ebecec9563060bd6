"""Objects handed from one process to another over a local connection: what is said, and the appliance's end.

One message a line, as JSON. An object's bytes follow its message in chunks, each after its length in four bytes; a
chunk of no length ends them, and `CUT` says that the rest cannot be read. Each message but `Progress` has one answer.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
import structlog

from edge.board import Board, ImportGauge
from edge.clock import Clock
from edge.dicom.whole import Whole
from edge.findings import Journal
from edge.intake.receiver import NoRoomNowError, RefusedObjectError, TooLargeNowError
from edge.intake.through import DoorReceiver
from edge.intake.tree import ChangedError
from edge.model import Origin, Source
from edge.phrase import say, say_n
from edge.store import StoreError

CUT: Final = 0xFFFFFFFF
"""In the place of a length: the rest cannot be read."""

log = structlog.get_logger()


class Known(msgspec.Struct, frozen=True, tag=True):
    """Asks for each file whether it was taken before, as it is."""

    origins: Sequence[Origin]


class Has(msgspec.Struct, frozen=True, tag=True):
    """Asks whether these bytes are there."""

    whole: Whole
    digest: bytes
    origin: Origin | None


class Object(msgspec.Struct, frozen=True, tag=True):
    """An object, whose bytes follow."""

    whole: Whole
    source: Source


class Remember(msgspec.Struct, frozen=True, tag=True):
    """An archive of which nothing is left to take."""

    origin: Origin


class Progress(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """How far an import is."""

    name: str
    media: bool
    files: int
    files_done: int
    bytes: int
    bytes_done: int
    refused: int
    over: bool = False


Said = Known | Has | Object | Remember | Progress


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What is answered."""

    yes: Sequence[bool] = ()
    refused: str = ""
    no_room: str = ""
    too_large: str = ""


class HandoverService:
    """The end of the appliance."""

    def __init__(self, receiver: DoorReceiver, board: Board, journal: Journal, clock: Clock) -> None:
        self._receiver = receiver
        self._board = board
        self._journal = journal
        self._clock = clock

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take what comes until the connection ends. Raises ConnectionError, ValueError, `StoreError`."""
        shown: ImportGauge | None = None
        try:
            while line := await reader.readline():
                said = msgspec.json.decode(line, type=Said)
                if isinstance(said, Progress):
                    shown = self._show(said, shown)
                    continue
                writer.write(msgspec.json.encode(await self._answer(said, reader)) + b"\n")
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass  # whoever read the files was stopped
        finally:
            if shown is not None and shown.over_at is None:
                self._board.imports.pop(id(shown), None)
                self._incomplete(shown.name, say("{name} was not read to its end.", name=shown.name))

    async def _answer(self, said: "Known | Has | Object | Remember", reader: asyncio.StreamReader) -> Answer:
        match said:
            case Known(origins):
                return Answer(yes=await self._receiver.known(origins))
            case Has(whole, digest, origin):
                return Answer(yes=[await self._receiver.has(whole, digest, origin)])
            case Remember(origin):
                await self._receiver.remember(origin)
                return Answer()
            case Object(whole, source):
                return await self._take(whole, source, reader)

    async def _take(self, whole: Whole, source: Source, reader: asyncio.StreamReader) -> Answer:
        chunks = _Chunks(reader)
        try:
            return Answer(yes=[await self._receiver.stream(whole, chunks.read(), source)])
        except NoRoomNowError as e:
            return Answer(no_room=str(e))
        except TooLargeNowError as e:
            return Answer(too_large=str(e))
        except RefusedObjectError as e:
            return Answer(refused=str(e))
        except ChangedError:
            return Answer()
        except (StoreError, OSError, EOFError):
            raise  # the store's failure, or the connection's: not this object's
        except Exception as e:
            log.exception("an object that was handed over cannot be dealt with")
            return Answer(refused=say("it cannot be dealt with: {kind}", kind=type(e).__name__))
        finally:
            await chunks.drain()

    def _show(self, said: Progress, shown: ImportGauge | None) -> ImportGauge:
        if shown is None:
            shown = ImportGauge(name=said.name, media=said.media)
            self._board.imports[id(shown)] = shown
        shown.files, shown.files_done = said.files, said.files_done
        shown.bytes, shown.bytes_done = said.bytes, said.bytes_done
        shown.refused = said.refused
        if said.over:
            shown.over_at = self._clock.monotonic()
            if said.refused:
                text = say_n(
                    "1 file was not taken from {name}.",
                    "{n} files were not taken from {name}.",
                    said.refused,
                    name=said.name,
                )
                self._incomplete(said.name, text)
        return shown

    def _incomplete(self, name: str, why: str) -> None:
        self._journal.note("IMPORT_INCOMPLETE", f"import.{name}", why)


class _Chunks:
    """The bytes of one object on a connection."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._over = False

    async def read(self) -> AsyncIterator[bytes]:
        while True:
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            self._over = length in (0, CUT)
            if length == CUT:
                raise ChangedError
            if self._over:
                return
            yield await self._reader.readexactly(length)

    async def drain(self) -> None:
        """Read what nobody wanted, so that the next message can be found."""
        if self._over:
            return
        try:
            async for _ in self.read():
                pass
        except ChangedError:
            pass
