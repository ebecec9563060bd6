"""Objects handed from one process to another over a local connection: both ends, and what they say.

One message a line, as JSON. An object's bytes follow its message in chunks, each after its length in four bytes; a
chunk of no length ends them, and `_CUT` says that the rest cannot be read. Each message but `Progress` has one answer.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

import msgspec
import structlog

from edge.board import Board, ImportGauge
from edge.clock import Clock
from edge.dicom.whole import Whole
from edge.findings import Journal
from edge.intake.taker import (
    NoRoomNowError,
    ReceiverError,
    RefusedObjectError,
    Run,
    TooLargeNowError,
    digest_of,
)
from edge.intake.through import TOO_LONG, DoorReceiver
from edge.intake.tree import ChangedError, Readable
from edge.model import Origin, Source
from edge.store import StoreError

_CHUNK: Final = 256 << 10
_CUT: Final = 0xFFFFFFFF

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


class HandoverError(ReceiverError):
    """The other end is gone, or does not speak this."""


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
                self._incomplete(shown.name, f"{shown.name} was not read to its end.")

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
            return Answer(refused=f"it cannot be dealt with: {type(e).__name__}")
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
                objects = "1 file was" if said.refused == 1 else f"{said.refused} files were"
                self._incomplete(said.name, f"{objects} not taken from {said.name}.")
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
            self._over = length in (0, _CUT)
            if length == _CUT:
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


class RemoteReceiver:
    """The end of whoever reads the files: a receiver for `taker.Taker`, one object at a time."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        run: Run,
        *,
        again: bool = False,
        most: int | None = None,
    ) -> None:
        """``most`` is how long an object may be, in bytes: a longer one is not even read."""
        self._reader = reader
        self._writer = writer
        self._run = run
        self._again = again
        self._most = most
        self.sent = 0
        """Bytes of the object that is being handed over."""

    async def known(self, origins: Sequence[Origin]) -> list[bool]:
        """Nothing is known without a look at its bytes: cameras with a dead clock write one file like the other."""
        return [False] * len(origins)

    async def remember(self, origin: Origin) -> None:
        """Archives are looked through again each time, for the same reason."""

    async def receive(self, whole: Whole, file: Readable, source: Source) -> bool:
        """Hand over an object, unless it is there. Raises as `taker.Receiver`, and `HandoverError`."""
        if self._most is not None and whole.length > self._most:
            raise RefusedObjectError(TOO_LONG)
        whole = msgspec.structs.replace(whole, private=b"")
        if self._again:
            source = msgspec.structs.replace(source, file=None)
        else:
            digest = await self._run(partial(digest_of, whole, file))
            if (await self._ask(Has(whole, digest, source.file))).yes[0]:
                return False
        self._say(Object(whole, source))
        at, end = whole.offset, whole.offset + whole.length
        try:
            while at < end and (chunk := await self._run(partial(file.read, at, min(_CHUNK, end - at)))):
                self._writer.write(len(chunk).to_bytes(4, "big") + chunk)
                await self._drain()
                at += len(chunk)
                self.sent = at
            await self._run(file.check)
        except HandoverError:
            raise
        except Exception:  # whatever it was, the next message must be found
            await self._end(_CUT)
            raise
        return _outcome(await self._end(0 if at == end else _CUT))

    async def tell(self, progress: Progress) -> None:
        """Say how far it is. Raises `HandoverError`."""
        self._say(progress)
        await self._drain()

    def close(self) -> None:
        """End the connection."""
        self._writer.close()

    async def _end(self, mark: int) -> Answer:
        self._writer.write(mark.to_bytes(4, "big"))
        return await self._answer()

    async def _ask(self, said: Said) -> Answer:
        self._say(said)
        return await self._answer()

    def _say(self, said: Said) -> None:
        self._writer.write(msgspec.json.encode(said) + b"\n")

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError as e:
            raise HandoverError("The appliance is gone.") from e

    async def _answer(self) -> Answer:
        await self._drain()
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError) as e:
            raise HandoverError("The appliance is gone.") from e
        if not line:
            raise HandoverError("The appliance ended the connection.")
        return msgspec.json.decode(line, type=Answer)


def _outcome(answer: Answer) -> bool:
    """Whether the object is new there; else raises as `taker.Receiver`."""
    if answer.no_room:
        raise NoRoomNowError(answer.no_room)
    if answer.too_large:
        raise TooLargeNowError(answer.too_large)
    if answer.refused:
        raise RefusedObjectError(answer.refused)
    if not answer.yes:
        raise ChangedError
    return answer.yes[0]
