"""What commands do: each a thin step to the room that does it for people at the box too."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from edge.board import Board
from edge.clock import Clock
from edge.control import Control
from edge.forward.probe import Probe
from edge.store import Choice
from edge.telemetry.commands import (
    Act,
    CommandFailed,
    Deliveries,
    Destination,
    Everything,
    Identify,
    Nothing,
    Result,
    Update,
)
from edge.updating.wanted import Asking, RefusedError

_REBOOT: Final = ("systemctl", "reboot")
_LATER: Final = 1.0
"""Seconds after which the box restarts, so that the command's report is out before."""


class Acts:
    """Carries out commands for ``issuer``, the signer's name, which stands on the trail."""

    def __init__(
        self,
        destinations: Collection[str],
        board: Board,
        control: Control,
        clock: Clock,
        *,
        probe: Callable[[str], Awaitable[Probe]],
        rebirth: Callable[[], None],
        restart: Callable[[], None],
        asking: Asking | None = None,
    ) -> None:
        """``restart`` begins the program anew. ``asking``: of root's side; None where this is no image of the box."""
        self._asking = asking
        self._destinations = destinations
        self._board = board
        self._control = control
        self._clock = clock
        self._probe = probe
        self._rebirth = rebirth
        self._restart = restart

    def table(self) -> Mapping[str, Act]:
        """By type of command."""
        update: dict[str, Act] = {} if self._asking is None else {"update": self._update}
        return {
            "identify": self._identify,
            "rebirth": self._be_reborn,
            "retry": self._retry,
            "pause": self._pause,
            "resume": self._resume,
            "hold": self._hold,
            "release": self._release,
            "diagnose": self._diagnose,
            "restart": self._begin_anew,
            "reboot": self._reboot,
            **update,
        }

    def refusal(self, arguments: object) -> str:
        """Why a command is not to be begun now; empty where it may be."""
        if self._asking is None or not isinstance(arguments, Update):
            return ""
        return self._asking.refusal(arguments.version)

    async def _identify(self, arguments: Identify, _issuer: str) -> Result:
        self._board.identify_until = self._clock.monotonic() + arguments.seconds
        return {}

    async def _be_reborn(self, _arguments: Nothing, _issuer: str) -> Result:
        self._rebirth()
        return {}

    async def _retry(self, arguments: Everything, issuer: str) -> Result:
        if arguments.destination:
            self._known(arguments.destination)
        choice = Choice(destination=arguments.destination)
        return {"deliveries": await self._control.act("retry", choice, who=issuer)}

    async def _hold(self, arguments: Deliveries, issuer: str) -> Result:
        return await self._decide("hold", arguments, issuer)

    async def _release(self, arguments: Deliveries, issuer: str) -> Result:
        return await self._decide("release", arguments, issuer)

    async def _decide(self, verb: str, arguments: Deliveries, issuer: str) -> Result:
        self._known(arguments.destination)
        choice = Choice(destination=arguments.destination, delivery=arguments.delivery)
        number = await self._control.act(verb, choice, who=issuer)
        if not number:
            raise CommandFailed("NOTHING_APPLIES")
        return {"deliveries": number}

    async def _pause(self, arguments: Destination, issuer: str) -> Result:
        return await self._stop_or_go("pause", arguments, issuer)

    async def _resume(self, arguments: Destination, issuer: str) -> Result:
        return await self._stop_or_go("resume", arguments, issuer)

    async def _stop_or_go(self, verb: str, arguments: Destination, issuer: str) -> Result:
        choice = Choice(destination=self._known(arguments.destination))
        return {"changed": bool(await self._control.act(verb, choice, who=issuer))}

    async def _diagnose(self, arguments: Destination, _issuer: str) -> Result:
        found = await self._probe(self._known(arguments.destination))
        milliseconds = int(found.seconds * 1000)
        if found.code:
            # the sentence stays here: it may hold what the peer said
            raise CommandFailed("UNREACHABLE", {"code": found.code, "milliseconds": milliseconds})
        return {"milliseconds": milliseconds}

    async def _begin_anew(self, _arguments: Nothing, _issuer: str) -> Result:
        asyncio.get_running_loop().call_later(_LATER, self._restart)
        return {}

    async def _update(self, arguments: Update, _issuer: str) -> Result:
        if self._asking is None:
            raise CommandFailed("UNSUPPORTED")
        try:
            await asyncio.to_thread(self._asking.version, arguments.version)
        except RefusedError as e:
            raise CommandFailed(e.code) from None
        return {"version": arguments.version}

    async def _reboot(self, _arguments: Nothing, _issuer: str) -> Result:
        if self._asking is not None:
            try:
                await asyncio.to_thread(self._asking.reboot)
            except RefusedError as e:
                raise CommandFailed(e.code) from None
            return {}
        try:
            process = await asyncio.create_subprocess_exec(
                *_REBOOT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError:
            raise CommandFailed("NOT_PERMITTED") from None
        if await process.wait():
            raise CommandFailed("NOT_PERMITTED")
        return {}

    def _known(self, name: str) -> str:
        if name not in self._destinations:
            raise CommandFailed("UNKNOWN_DESTINATION")
        return name
