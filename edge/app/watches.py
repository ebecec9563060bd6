"""A watch for each folder of the configuration, each with threads of its own."""

import asyncio
from pathlib import Path
from typing import Final

from edge.board import Board
from edge.clock import Clock
from edge.config import Config
from edge.findings import Journal
from edge.intake.door import Door
from edge.intake.folder import FolderWatch
from edge.intake.taker import Taker
from edge.intake.through import DoorReceiver
from edge.model import WATCH, Source
from edge.spool import Ledger
from edge.store import Store
from edge.supervise import Supervisor
from edge.threads import Threads

_READERS: Final = 4
"""Threads that read the files of one watched folder."""


def start_watches(
    config: Config,
    store: Store,
    door: Door,
    ledger: Ledger,
    incoming: Path,
    supervisor: Supervisor,
    *,
    board: Board,
    journal: Journal,
    clock: Clock,
) -> list[asyncio.Task[None]]:
    """Start a watch for each folder of the configuration; ``incoming`` is where archives are unpacked."""
    services = []
    for watch in config.watch:
        called = watch.called_ae_title or config.receive.titles[0]
        source = Source(door=WATCH, calling=watch.ae_title or "", called=called, address=watch.title)
        # threads of its own: a network share that hangs must hold up nothing but its watch
        threads = Threads(_READERS, f"watch {watch.title}")
        receiver = DoorReceiver(door, store, threads.run, journal, most=config.receive.max_object)
        taker = Taker(receiver, threads.run, source, incoming, lambda size: ledger.room() > size)
        folder = FolderWatch(watch, taker, store, threads.run, board=board, journal=journal, clock=clock)
        service = supervisor.service(f"watch {folder.name}", folder.run)
        service.add_done_callback(threads.end)
        services.append(service)
    return services
