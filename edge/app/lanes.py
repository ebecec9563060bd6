"""A lane for each destination of the configuration, and what is done to all of them at once."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from edge.board import Board
from edge.clock import Clock
from edge.config import Destination, DimseDestination, FolderDestination
from edge.findings import Journal
from edge.forward.capabilities import Book
from edge.forward.claims import Ahead
from edge.forward.dimse import DimseTransport
from edge.forward.dispatcher import Lane
from edge.forward.folder import FolderTransport
from edge.forward.gate import Gate
from edge.forward.limit import Limiter
from edge.forward.stow import MOST_INSTANCES, StowTransport
from edge.forward.syntaxes import Syntaxes
from edge.forward.transport import Transport
from edge.forward.web import Web
from edge.forward.workshop import Workshop
from edge.hours import until_open
from edge.model import BACKGROUND, ROUTINE, Kind
from edge.spool import Syncer
from edge.store import Capability, Store
from edge.supervise import Supervisor
from edge.tls import Credentials


class Lanes:
    """The lanes of ``destinations``."""

    def __init__(
        self,
        destinations: tuple[Destination, ...],
        credentials: Mapping[str, Credentials],
        store: Store,
        syncer: Syncer,
        supervisor: Supervisor,
        *,
        board: Board,
        journal: Journal,
        clock: Clock,
        workshop: Workshop | None = None,
    ) -> None:
        """``credentials`` by the key of the configuration that has them; ``workshop`` makes other renderings."""
        self._credentials = credentials
        self._store = store
        self._syncer = syncer
        self._supervisor = supervisor
        self._board = board
        self._journal = journal
        self._clock = clock
        self._workshop = workshop
        self._lanes = {destination.name: self._lane(destination) for destination in destinations}

    def start(self, after: asyncio.Event) -> list[asyncio.Task[None]]:
        """Start every lane, once ``after`` is set."""
        service = self._supervisor.service
        return [service(f"lane {name}", partial(_wait_and_run, after, lane.run)) for name, lane in self._lanes.items()]

    def stop(self) -> None:
        """Let what is on the wire be answered and settled, then let every lane end."""
        for lane in self._lanes.values():
            lane.stop()

    def has(self, name: str) -> bool:
        """Whether there is a lane to ``name``."""
        return name in self._lanes

    def gate(self, name: str) -> Gate:
        """Return the gate of the destination ``name``, which must be there."""
        return self._lanes[name].gate

    def hasten(self, name: str = "") -> None:
        """Open the gate of one destination, or of all."""
        for lane in self._lanes.values():
            if name in ("", lane.name):
                lane.gate.hasten()

    def pause(self, name: str) -> None:
        """Stop a lane; one that is not there any more has nothing to stop."""
        if name in self._lanes:
            self._lanes[name].pause()

    def resume(self, name: str) -> None:
        """Let a lane go on."""
        if name in self._lanes:
            self._lanes[name].resume()

    def _lane(self, destination: Destination) -> Lane:
        gauge = self._board.destination(destination.name)
        transport: Transport
        ahead = Ahead()
        if isinstance(destination, FolderDestination):
            transport, associations, skip = FolderTransport(destination), 1, False
        else:
            credentials = self._credentials.get(f"destination.{destination.name}.tls")
            associations, skip = destination.associations, destination.unsupported == "skip"
            limiter = None if destination.rate_limit is None else Limiter(destination.rate_limit, self._clock)
            book = Book(_Memory(self._store, destination.name), self._clock)
            syntaxes = Syntaxes(self._workshop, book, decompress=destination.decompress)
            if isinstance(destination, DimseDestination):
                transport = DimseTransport(
                    destination, self._syncer, credentials, self._clock.trusted, limiter, syntaxes
                )
            else:
                transport = StowTransport(Web(destination, credentials, self._clock), self._syncer, limiter, syntaxes)
                ahead = Ahead(1.0, MOST_INSTANCES, max(1, MOST_INSTANCES // associations))
        return Lane(
            destination.name,
            transport,
            self._store,
            Gate(destination.name, gauge, self._journal, self._clock, random.random),
            associations=associations,
            skip_unsupported=skip,
            gauge=gauge,
            journal=self._journal,
            clock=self._clock,
            random=random.random,
            spawn=self._supervisor.spawn,
            ahead=ahead,
            lowest=partial(self._lowest, None if isinstance(destination, FolderDestination) else destination.hours),
        )

    def _lowest(self, hours: tuple[int, int] | None) -> int:
        """Return the least urgent priority that may go now."""
        return ROUTINE if until_open(hours, self._clock) else BACKGROUND


class _Memory:
    """What one destination takes, kept in the store."""

    def __init__(self, store: Store, destination: str) -> None:
        self._store = store
        self._destination = destination

    async def recall(self) -> Sequence[Capability]:
        return await self._store.capabilities(self._destination)

    async def keep(self, answers: Mapping[Kind, bool]) -> None:
        await self._store.keep_capabilities(self._destination, answers)


async def _wait_and_run(event: asyncio.Event, run: Callable[[], Awaitable[None]]) -> None:
    await event.wait()
    await run()
