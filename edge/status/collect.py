"""Collecting the snapshot from store, spool and board. Reads only; nothing that observes can hold up the flow."""

from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec

from edge import __version__
from edge.board import Board, DestinationGauge, ModalityGauge
from edge.clock import Clock, iso
from edge.config import Config
from edge.findings import CODES, Finding, Journal
from edge.hours import told, until_open, until_shut
from edge.snapshot import (
    ClockStatus,
    Destination,
    Device,
    FindingStatus,
    ImportStatus,
    Intake,
    Light,
    ModalityStatus,
    Problem,
    Queue,
    Snapshot,
    Storage,
    WatchStatus,
)
from edge.states import WAITING, DeliveryState
from edge.status.lamp import SHOWN_AFTER
from edge.status.lights import Facts, light
from edge.status.pace import Bounds, bounds_of, drain
from edge.store import Reading, Tally

_NONE: Final = Tally()
_GOING: Final = (DeliveryState.QUEUED, DeliveryState.SENDING)


class Collector:
    """Takes snapshots of a running appliance."""

    def __init__(
        self,
        config: Config,
        device_id: str,
        reading: Reading,
        board: Board,
        journal: Journal,
        clock: Clock,
        free: Callable[[], int],
        reserve: int,
        *,
        light: Callable[[], Light],
        autonomy: Callable[[], int | None],
    ) -> None:
        """``light`` gives the one that every face shows, ``autonomy`` the seconds for which the room lasts."""
        self._config = config
        self._device = Device(id=device_id, name=config.device.name, site=config.device.site, version=__version__)
        self._reading = reading
        self._board = board
        self._journal = journal
        self._clock = clock
        self._free = free
        self._reserve = reserve
        self._light = light
        self._autonomy = autonomy

    async def snapshot(self) -> Snapshot:
        """Take the whole status now. Raises `StoreError`."""
        board, clock = self._board, self._clock
        # before the rows: what is indexed in between counts twice for a moment, rather than not at all
        unindexed = Tally(board.unindexed, board.unindexed_bytes)
        tallies = await self._reading.tallies()
        destinations = [
            destination_status(
                name, tallies, board.destinations.get(name), bounds=await self._bounds(name), running=True
            )
            for name in names(self._config, tallies)
        ]
        findings = [finding_status(f) for f in self._journal.open()]
        intake = Intake(
            open=board.intake_open,
            associations=board.associations,
            instances=board.instances,
            bytes=board.bytes,
            refused=board.refused,
            last_at=None if board.last_at is None else iso(board.last_at),
        )
        return Snapshot(
            taken_at=iso(clock.now()),
            device=self._device,
            light=self._light(),
            intake=intake,
            queue=self._owed(await queue_status(self._reading, tallies, clock), unindexed),
            destinations=destinations,
            storage=Storage(free_bytes=self._free(), reserve_bytes=self._reserve, autonomy_seconds=self._autonomy()),
            watches=[
                WatchStatus(name=name, taken=w.taken, waiting=w.waiting, left=w.left)
                for name, w in board.watches.items()
            ],
            imports=self._imports(),
            modalities=[modality_status(one) for one in (*board.modalities.values(), *board.strangers.values())],
            clock=ClockStatus(trusted=clock.trusted()),
            findings=findings,
        )

    async def _bounds(self, name: str) -> Bounds:
        """What the configuration allows ``name``, and how long what waits for its hours has to wait."""
        bounds = bounds_of(self._config, name)
        if bounds.hours is None:
            return bounds
        return msgspec.structs.replace(
            bounds,
            shut=until_open(bounds.hours, self._clock),
            left=until_shut(bounds.hours, self._clock),
            waits=await self._reading.background_waits(name),
        )

    def _imports(self) -> list[ImportStatus]:
        """Imports that go on, and those that ended a moment ago: somebody waits to pull the medium out."""
        now, shown = self._clock.monotonic(), self._board.imports
        for key in [key for key, i in shown.items() if i.over_at is not None and now - i.over_at > SHOWN_AFTER]:
            del shown[key]
        return [
            ImportStatus(
                name=i.name,
                media=i.media,
                over=i.over_at is not None,
                files=i.files,
                files_done=i.files_done,
                bytes=i.bytes,
                bytes_done=i.bytes_done,
                refused=i.refused,
            )
            for i in shown.values()
        ]

    def _owed(self, queue: Queue, unindexed: Tally) -> Queue:
        """What was answered a moment ago is owed too, though its row is not written yet."""
        if not self._config.destination:
            return queue
        return Queue(
            instances=queue.instances + unindexed.instances,
            bytes=queue.bytes + unindexed.bytes,
            oldest_seconds=queue.oldest_seconds,
        )


async def stopped(config: Config, reading: Reading, clock: Clock, free: int, reserve: int) -> Snapshot:
    """Tell what the store of an appliance that does not run says."""
    tallies = await reading.tallies()
    destinations = [
        destination_status(n, tallies, None, bounds=bounds_of(config, n), running=False) for n in names(config, tallies)
    ]
    code = CODES["NOT_RUNNING"]
    finding = FindingStatus(
        code=code.name,
        severity=code.severity,
        component="service",
        since=iso(clock.now()),
        count=1,
        text=code.text,
        advice=code.advice,
    )
    intake = Intake(open=False, associations=0, instances=0, bytes=0, refused=0, last_at=None)
    return Snapshot(
        taken_at=iso(clock.now()),
        device=Device(id="", name=config.device.name, site=config.device.site, version=__version__),
        light=light(Facts(closed=True)),
        intake=intake,
        queue=await queue_status(reading, tallies, clock),
        destinations=destinations,
        storage=Storage(free_bytes=free, reserve_bytes=reserve, autonomy_seconds=None),
        clock=ClockStatus(trusted=clock.trusted()),
        findings=[finding],
    )


def names(config: Config, tallies: Mapping[tuple[str, str], Tally]) -> list[str]:
    """Every destination of the configuration, then those that are not in it any more but are still owed something."""
    configured = [d.name for d in config.destination]
    owed = {name for (name, state), tally in tallies.items() if name and tally.instances and state in WAITING}
    return configured + sorted(owed - set(configured))


async def queue_status(reading: Reading, tallies: Mapping[tuple[str, str], Tally], clock: Clock) -> Queue:
    """What is owed in all."""
    owed = tallies.get(("", "owed"), _NONE)
    oldest = await reading.oldest_owed() if owed.instances else None
    age = 0 if oldest is None else max(0, int(clock.now() - oldest))
    return Queue(instances=owed.instances, bytes=owed.bytes, oldest_seconds=age)


def destination_status(
    name: str,
    tallies: Mapping[tuple[str, str], Tally],
    gauge: DestinationGauge | None,
    *,
    running: bool,
    bounds: Bounds = Bounds(),  # noqa: B008 - frozen
) -> Destination:
    """One destination from its tallies and its gauge; one that nobody serves is paused, or down with the appliance."""
    counts = {str(s): tallies.get((name, s), _NONE).instances for s in DeliveryState}
    rate = gauge.rate.per_second() if gauge else 0.0
    waiting = sum(tallies.get((name, s), _NONE).bytes for s in _GOING)
    problem = Problem(code=gauge.problem_code, text=gauge.problem_text) if gauge and gauge.problem_code else None
    state: Literal["up", "down", "paused"] = "up"
    if problem is not None or not running:
        state = "down"
    elif gauge is None or gauge.paused:
        state = "paused"
    last = gauge.last_success_at if gauge else None
    return Destination(
        name=name,
        state=state,
        **counts,
        rate_bytes_per_second=int(rate),
        drain_seconds=drain(waiting, rate, bounds, up=state == "up"),
        rate_limit_bytes_per_second=bounds.rate,
        hours=None if bounds.hours is None else told(bounds.hours),
        hours_open=not bounds.shut,
        paused=gauge is not None and gauge.paused,
        last_success_at=None if last is None else iso(last),
        problem=problem,
    )


def modality_status(gauge: ModalityGauge) -> ModalityStatus:
    """Show a sender."""
    return ModalityStatus(
        name=gauge.name,
        ae_title=gauge.ae_title,
        address=gauge.address,
        last_heard_at=None if gauge.heard_at is None else iso(gauge.heard_at),
        last_object_at=None if gauge.object_at is None else iso(gauge.object_at),
        refused=gauge.refused,
        refused_because=gauge.refused_because,
    )


def finding_status(finding: Finding) -> FindingStatus:
    """Show a finding."""
    return FindingStatus(
        code=finding.code,
        severity=finding.severity,
        component=finding.component,
        since=iso(finding.since),
        count=finding.count,
        text=finding.text,
        advice=finding.advice,
    )
