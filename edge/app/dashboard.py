"""Puts the dashboard together for one appliance."""

import functools
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from edge.board import Board
from edge.clock import Clock
from edge.config import Config
from edge.control import Control
from edge.findings import Journal
from edge.preview import Previews
from edge.snapshot import Snapshot
from edge.status.machine import look
from edge.status.power import Power
from edge.store import Store
from edge.tls import Credentials
from edge.updating.image import booted
from edge.updating.state import FOLDER, NAME, read_state
from edge.web.box import Box
from edge.web.server import Dashboard


def dashboard(
    config: Config,
    device: str,
    store: Store,
    control: Control,
    credentials: Mapping[str, Credentials],
    *,
    snapshot: Callable[[], Awaitable[Snapshot]],
    spawn: Callable[[Coroutine[Any, Any, None], str], object],
    board: Board,
    journal: Journal,
    clock: Clock,
    restart: Callable[[], None],
    lines: Callable[[], Sequence[str]],
    previews: Previews,
) -> Dashboard | None:
    """Return the service; None where none is wanted. ``credentials`` by the key of the configuration that has them.

    ``restart`` has the appliance begin anew; ``lines`` gives the last of the log.
    """
    if not config.dashboard.enabled:
        return None

    def identify(seconds: float) -> None:
        board.identify_until = clock.monotonic() + seconds

    box = Box(
        config=config,
        device=device,
        identity=config.storage.path / "identity",
        snapshot=snapshot,
        studies=store.studies,
        reading=store.reading,
        control=control,
        journal=journal,
        clock=clock,
        spawn=spawn,
        identify=identify,
        restart=restart,
        lines=lines,
        previews=previews,
        machine=functools.partial(look, storage=config.storage.path),
        power=Power(clock).good,
        slot=booted(),
        update=lambda: read_state(FOLDER / NAME),
    )
    return Dashboard(box, credentials.get("dashboard"))
