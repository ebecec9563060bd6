"""Objects handed to the appliance over a local connection: the end of whoever reads the files.

What is said is in `edge/intake/handover.py`.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec

from edge.dicom.whole import Whole
from edge.intake.handover import CUT, Answer, Has, Object, Progress, Said
from edge.intake.receiver import TOO_LONG, NoRoomNowError, ReceiverError, RefusedObjectError, TooLargeNowError
from edge.intake.taker import digest_of
from edge.intake.tree import ChangedError, Readable
from edge.model import Origin, Source
from edge.threads import Run

_CHUNK: Final = 256 << 10


class HandoverError(ReceiverError):
    """The other end is gone, or does not speak this."""


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
        self.most = most
        self.sent = 0
        """Bytes of the object that is being handed over."""

    async def known(self, origins: Sequence[Origin]) -> list[bool]:
        """Nothing is known without a look at its bytes: cameras with a dead clock write one file like the other."""
        return [False] * len(origins)

    async def remember(self, origin: Origin) -> None:
        """Archives are looked through again each time, for the same reason."""

    async def receive(self, whole: Whole, file: Readable, source: Source) -> bool:
        """Hand over an object, unless it is there. Raises as `receiver.Receiver`, and `HandoverError`."""
        if self.most is not None and whole.length > self.most:
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
            await self._end(CUT)
            raise
        return _outcome(await self._end(0 if at == end else CUT))

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
    """Whether the object is new there; else raises as `receiver.Receiver`."""
    if answer.no_room:
        raise NoRoomNowError(answer.no_room)
    if answer.too_large:
        raise TooLargeNowError(answer.too_large)
    if answer.refused:
        raise RefusedObjectError(answer.refused)
    if not answer.yes:
        raise ChangedError
    return answer.yes[0]
