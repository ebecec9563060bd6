"""The command line's way to the running appliance: a socket in the storage path, mode 0600, one JSON line each way."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from edge.control import VERBS, Control
from edge.safety import StudyView
from edge.store import Choice, ClosedError, StoreError, StudyFilter

SOCKET: Final = "control.sock"
_MOST: Final = 1 << 20
_PATIENCE: Final = 30.0
_WHO: Final = "command line"
"""Who decided, on the trail and in events: never what a program at the socket says of itself."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked."""

    command: str
    choice: Choice = Choice()
    reason: str = ""
    force: bool = False
    which: StudyFilter = StudyFilter()
    most: int = 0


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What is answered: ``result`` of any shape, or ``error``, a sentence."""

    result: Any = None
    error: str = ""


HANDOVER: Final = "handover"
STUDIES: Final = "studies"
LINES: Final = "lines"
_HANDOVER: Final = msgspec.json.encode(Request(command=HANDOVER)) + b"\n"


class NotRunningError(Exception):
    """No appliance serves this storage path."""


class LocalServer:
    """Serves the socket."""

    def __init__(
        self,
        storage: Path,
        snapshot: Callable[[], Awaitable[object]],
        studies: Callable[[StudyFilter, int], Awaitable[Sequence[StudyView]]],
        control: Control,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
        handover: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        lines: Callable[[], Sequence[str]] = lambda: (),
    ) -> None:
        """``handover`` serves a connection that asked to hand over objects; ``lines`` gives the last of the log."""
        self._path = storage / SOCKET
        self._snapshot = snapshot
        self._studies = studies
        self._control = control
        self._spawn = spawn
        self._handover = handover
        self._lines = lines
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Start listening. Raises OSError."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, socket_address(self._path), limit=_MOST)
        self._path.chmod(0o600)

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._spawn(self._serve(reader, writer), "local request")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                line = await reader.readline()
                writer.write(msgspec.json.encode(await self._answer(line)) + b"\n")
                await writer.drain()
            if line == _HANDOVER:
                await self._handover(reader, writer)
        except (TimeoutError, ConnectionError, ValueError, StoreError):
            pass  # the asker is gone, or sent no line; what it was handing over it still has
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> Reply:
        try:
            request = msgspec.json.decode(line, type=Request)
            if request.command == "status":
                return Reply(result=await self._snapshot())
            if request.command == STUDIES:
                return Reply(result=await self._studies(request.which, request.most))
            if request.command == LINES:
                return Reply(result=list(self._lines()))
            if request.command == HANDOVER:
                return Reply(result=True)
            if request.command in VERBS:
                number = await self._control.act(
                    request.command,
                    request.choice,
                    who=_WHO,
                    reason=request.reason,
                    force=request.force,
                )
                return Reply(result=number)
        except (ValueError, RecursionError, StoreError) as e:  # msgspec: bytes that are no UTF-8, lists without end
            return Reply(error=str(e))
        return Reply(error=f"{request.command!r} is no command of this version.")


def socket_address(path: Path) -> str:
    """Name the socket for the system, which takes no more than 107 bytes: by its folder's descriptor where longer."""
    if len(os.fsencode(path)) <= 107:  # noqa: PLR2004 - sun_path of unix(7)
        return str(path)
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    return f"/proc/self/fd/{fd}/{path.name}"


async def ask(storage: Path, request: Request) -> Any:
    """Ask the appliance on ``storage``. Raises `NotRunningError`, `StoreError` where it says no."""
    _, writer, result = await _ask(storage, request)
    writer.close()
    return result


async def hand_over(storage: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to hand over objects. Raises `NotRunningError`, `StoreError`."""
    reader, writer, _ = await _ask(storage, Request(command=HANDOVER))
    return reader, writer


async def _ask(storage: Path, request: Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Any]:
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_unix_connection(socket_address(storage / SOCKET), limit=_MOST * 16)
            try:
                writer.write(msgspec.json.encode(request) + b"\n")
                line = await reader.readline()
            except BaseException:
                writer.close()
                raise
    except PermissionError as e:
        raise ClosedError(storage) from e
    except (OSError, TimeoutError) as e:
        raise NotRunningError(f"No appliance answers on {storage}.") from e
    if not line:
        writer.close()
        raise NotRunningError(f"The appliance on {storage} is stopping.")
    reply = json.loads(line)
    if reply["error"]:
        writer.close()
        raise StoreError(reply["error"])
    return reader, writer, reply["result"]
