"""The appliance: puts the rooms together, starts them in order, ends them in order.

Start: lock, spool, store, then the listener; recovery runs beside it. End (SIGTERM): the listener first, so that what
is half received is finished or refused; then the lanes, so that what is on the wire is answered; then index and store.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from edge import __version__, events
from edge.app.dashboard import dashboard
from edge.app.lanes import Lanes
from edge.app.listener import Listener
from edge.app.opening import Opening
from edge.app.proving import Proving
from edge.app.watches import start_watches
from edge.board import Board
from edge.clock import Clock, SystemClock, kernel_synchronised
from edge.config import Config, DimseDestination, differences
from edge.control import Control
from edge.dicom.command import CommandField
from edge.dicom.uids import class_names
from edge.events import Event
from edge.findings import Journal
from edge.forward.whereabouts import Whereabouts
from edge.forward.workshop import Workshop
from edge.intake.admission import Admission, margin, reserve
from edge.intake.door import Door
from edge.intake.guard import DiskGuard
from edge.intake.handover import HandoverService
from edge.intake.index import Index
from edge.intake.policy import ReceivePolicy
from edge.intake.recovery import Recovery
from edge.intake.scp import StoreService
from edge.intake.soundness import Soundness
from edge.intake.through import DoorReceiver
from edge.keeping.audit import Audit
from edge.keeping.chronicle import Chronicle
from edge.keeping.retention import Retention
from edge.keeping.timekeeper import Timekeeper, latest
from edge.lights.driver import driver_of
from edge.lights.service import LightService
from edge.local import LocalServer
from edge.preview import Previews
from edge.routing import Routing
from edge.sdnotify import Notifier
from edge.snapshot import Snapshot
from edge.spool import Ballast, Identity, Ledger, Scratch, Spool, Syncer, doubts
from edge.status.backlog import BacklogWatch
from edge.status.certificates import CertificateWatch
from edge.status.collect import Collector
from edge.status.lamp import Lamp
from edge.status.lights import LIGHTS
from edge.status.observer import Observer
from edge.status.overdue import ProofWatch
from edge.status.room import Room
from edge.status.silence import SilenceWatch
from edge.store import Mended, Store, StoreError
from edge.supervise import Supervisor
from edge.telemetry.assembly import Assembly
from edge.telemetry.twin import Twin
from edge.tls import every
from edge.updating.image import booted
from edge.updating.state import FOLDER, NAME
from edge.updating.wanted import Asking
from edge.updating.watch import UpdateWatch
from edge.web.server import Dashboard

log = structlog.get_logger()

_RIPEN_EVERY: Final = 0.5
_READERS: Final = 4
"""Threads that read the files of one watched folder."""
_EVENTS: Final = 10_000
"""Events kept where nobody is configured to take them."""
_LOCAL_EVERY: Final = 5.0
"""Seconds between two attempts to make the socket of the command line."""
_RECEIVE_GRACE: Final = 3.0
_SEND_GRACE: Final = 2.0
_STORE_GRACE: Final = 2.0


class _Rooms(msgspec.Struct, frozen=True, kw_only=True):
    """What a running appliance is made of, put together and not started."""

    ledger: Ledger
    admission: Admission
    guard: DiskGuard
    room: Room
    index: Index
    door: Door
    lanes: Lanes
    proving: Proving
    listener: Listener
    local: LocalServer
    remote: Assembly | None
    updates: UpdateWatch | None
    dashboard: Dashboard | None


class _Tasks(msgspec.Struct, frozen=True):
    """Services that are told to end and given time, and those that are simply cut."""

    finishing: list[asyncio.Task[None]]
    background: list[asyncio.Task[None]]


class Appliance:
    """One appliance on one storage path."""

    def __init__(
        self,
        config: Config,
        notices: tuple[str, ...] = (),
        clock: Clock | None = None,
        *,
        offline: bool = False,
        twin: Twin | None = None,
        lines: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """``offline``: it takes only what is handed over on the local socket, and delivers nothing.

        ``twin`` keeps the configuration that may be wanted over MQTT; None: none is taken. ``lines`` gives the last
        lines of the log.
        """
        self.config = config
        self._offline = offline
        self.clock = clock or SystemClock(latest(config.storage.path), kernel_synchronised)
        self.board = Board(self.clock)
        self.journal = Journal(self.clock)
        self.lamp = Lamp(self.board, self.journal, self.clock)
        self.supervisor = Supervisor(self.journal, self.clock)
        self.ports: list[int] = []
        self.tls_ports: list[int] = []
        self.dashboard: Dashboard | None = None
        self._notices = notices
        self._notifier = Notifier()
        self._syncer = Syncer()
        self._workshop: Workshop | None = None
        self._spool = Spool(config.storage.path, self._syncer)
        self._previews = Previews(self._spool.path, self.clock)
        self._identity = Identity(config.storage.path)
        self._ballast = Ballast(config.storage.path)
        self._stop = asyncio.Event()
        self.again = False
        """Whether it ended to begin anew, perhaps with another configuration."""
        self._twin = twin
        self._lines = lines
        self._collector: Collector | None = None
        self._lanes: Lanes | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._whereabouts = Whereabouts(d.host for d in config.destination if isinstance(d, DimseDestination))
        self._routing = Routing(config, class_names, self._whereabouts.of)
        self._credentials = {one.where: one for one in every(config)}
        self._certificates = CertificateWatch(tuple(self._credentials.values()), self.journal, self.clock, self._hasten)

    def reload(self, config: Config | None, trouble: str = "") -> None:
        """Read certificates and keys again, and say what else of ``config`` needs a restart; None: it has ``trouble``.

        New connections use what was read; whatever cannot be used leaves the old in force.
        """
        self._certificates.reload()
        for one in self._credentials.values():
            log.info("certificates read again", where=one.where, trouble=one.trouble or "none")
        if config is None:
            log.warning("the configuration was not read again", trouble=trouble)
            self.journal.state("RELOAD_FAILED", "config", trouble)
            return
        self.journal.clear("RELOAD_FAILED", "config")
        changed = sorted(differences(self.config, config))
        if changed:
            log.warning("changed, but in force only after a restart", keys=", ".join(changed))
            self.journal.state("RESTART_NEEDED", "config", f"{', '.join(changed)}.")
        else:
            log.info("configuration read again", changed="nothing")
            self.journal.clear("RESTART_NEEDED", "config")

    def stop(self) -> None:
        """Ask for a clean end."""
        self._stop.set()

    def restart(self) -> None:
        """Ask for a clean end, and to be begun anew."""
        self.again = True
        self._stop.set()

    async def snapshot(self) -> Snapshot:
        """Take the whole status now."""
        if self._collector is None:
            raise StoreError("The appliance is starting.")
        return await self._collector.snapshot()

    async def run(self, ready: Callable[["Appliance"], None] | None = None) -> None:
        """Run until `stop`. Calls ``ready`` once images can be sent. Raises `StartError`, `CrashLoopError`."""
        mqtt = self.config.mqtt
        opening = Opening(
            self.config.storage.path,
            self._spool,
            self._identity,
            self._ballast,
            self.clock,
            self._notifier,
            mqtt.events if mqtt is not None else _EVENTS,
            self.board.cannot_start,
        )
        beating = [self.supervisor.service("heartbeat", self._notifier.heartbeat, vital=True), *self._light_up()]
        try:
            # whoever hands over objects wants an answer, not a wait
            store = await (opening.open() if self._offline else opening.wait(self._stop))
            if store is None:
                return
            try:
                await self._serve(store, ready, beating)
            finally:
                await store.close()
        finally:
            if self._workshop is not None:
                self._workshop.close()
            self.supervisor.cancel(beating)
            opening.close()
            self._syncer.close()

    async def _serve(
        self, store: Store, ready: Callable[["Appliance"], None] | None, beating: list[asyncio.Task[None]]
    ) -> None:
        self._say_notices()
        committing = self.supervisor.service("store", store.run, vital=True)
        rooms = await self._build(store)
        indexing = self.supervisor.service("index", rooms.index.run, vital=True)
        try:
            tasks = await self._start(store, rooms)
            ports = [*self.ports, *self.tls_ports]
            self._notifier.tell(f"READY=1\nSTATUS=receiving on {ports}")
            log.info("ready", ports=ports, storage=str(self.config.storage.path), session=self._identity.session)
            if ready is not None:
                ready(self)
            if rooms.dashboard is not None:
                self.dashboard = rooms.dashboard
                tasks.background.append(self.supervisor.service("dashboard", rooms.dashboard.run))
                tasks.background.append(self.supervisor.service("previews", self._previews.run))
            await self._until_stopped()
        finally:
            self._notifier.tell("STOPPING=1")
            log.info("stopping")
            rooms.local.close()
            if rooms.remote is not None:
                rooms.remote.telemetry.stop()
            rooms.lanes.stop()
            await rooms.listener.close(_RECEIVE_GRACE)
        await self.supervisor.finish(tasks.finishing, _SEND_GRACE)
        await self._previews.close()
        self.supervisor.cancel([*tasks.background, *beating])
        rooms.index.close()
        await self.supervisor.finish([indexing], _STORE_GRACE)
        await _note(store, events.stopped())
        store.finish()
        await self.supervisor.finish([committing], _STORE_GRACE)
        await self.supervisor.settle(0)
        log.info("stopped")

    async def _build(self, store: Store) -> _Rooms:
        """Put together what `_start` starts."""
        config, board, journal, clock = self.config, self.board, self.journal, self.clock
        ledger = self._ledger()
        admission = Admission(board, journal, clock, ledger)
        guard = DiskGuard(self._spool, self._syncer, admission, journal, clock)
        free, kept = self._spool.free_bytes, ledger.reserve
        room = Room(store.reading, board, journal, clock, free, kept)
        self._collector = Collector(
            config,
            self._identity.device,
            store.reading,
            board,
            journal,
            clock,
            free,
            kept,
            light=self.lamp.look,
            autonomy=room.seconds,
        )
        policy = ReceivePolicy(config, admission, board, journal)
        index = Index(self._spool, self._syncer, store, admission, board, journal, clock)
        door = self._door(index, admission, guard)
        self._workshop = Workshop(Scratch(self._spool.incoming.parent, kept // 2))
        lanes = self._lanes = Lanes(
            () if self._offline else config.destination,
            self._credentials,
            store,
            self._syncer,
            self.supervisor,
            board=board,
            journal=journal,
            clock=clock,
            workshop=self._workshop,
        )
        for name in await store.paused():
            lanes.pause(name)
        store.on_record = lambda: self._recovering is not None and self._recovering.done()
        control = Control(store, lanes)
        proving = Proving(
            config,
            self._credentials,
            store,
            lanes,
            board=board,
            journal=journal,
            clock=clock,
            on_record=store.on_record,
        )
        updates = self._updates(store)
        handover = HandoverService(DoorReceiver(door, store, self._syncer.run, journal), board, journal, clock)
        return _Rooms(
            ledger=ledger,
            admission=admission,
            guard=guard,
            room=room,
            index=index,
            door=door,
            lanes=lanes,
            proving=proving,
            listener=Listener(
                config,
                policy,
                {CommandField.C_STORE_RQ: StoreService(door, policy.received), **proving.services},
                self.supervisor.spawn,
            ),
            local=LocalServer(
                config.storage.path,
                self.snapshot,
                store.studies,
                control,
                self.supervisor.spawn,
                handover.serve,
                self._lines,
            ),
            remote=self._remote(store, control, updates),
            updates=updates,
            dashboard=self._dashboard(store, control),
        )

    async def _start(self, store: Store, rooms: _Rooms) -> _Tasks:
        """Start everything, intake first. Raises `StartError`."""
        first_id = self._identity.first_id
        if not self._offline:
            await rooms.listener.open(self._credentials, self.clock.trusted)
            self.ports, self.tls_ports = rooms.listener.ports, rooms.listener.tls_ports
        self.supervisor.spawn(_note(store, events.started(self._identity.session, __version__)), "start")
        opened = await self._open_local(rooms.local)
        recover = self._recovery(store, rooms.index, first_id)
        finishing = rooms.lanes.start(recover(store.mended))
        background = [*self._background(store, rooms, recover), *opened]
        rooms.admission.open("starting")
        if not self._offline:
            background += rooms.proving.start(self.supervisor)
            background += start_watches(
                self.config,
                store,
                rooms.door,
                rooms.ledger,
                self._spool.incoming,
                self.supervisor,
                board=self.board,
                journal=self.journal,
                clock=self.clock,
            )
        if rooms.updates is not None:
            background.append(self.supervisor.service("updates", rooms.updates.run))
        if rooms.remote is not None:
            finishing.append(self.supervisor.service("telemetry", rooms.remote.telemetry.run))
            background.append(self.supervisor.service("trial", rooms.remote.configurator.watch))
        return _Tasks(finishing, background)

    async def _open_local(self, local: LocalServer) -> list[asyncio.Task[None]]:
        """Open the socket of the command line; on a disk that has no room for it, later: images do not wait for it."""

        async def keep_trying() -> None:
            while True:
                await asyncio.sleep(_LOCAL_EVERY)
                with contextlib.suppress(OSError):
                    await local.open()
                    return

        try:
            await local.open()
        except OSError as e:
            log.warning("the command line finds nobody yet: the socket cannot be made", error=e.strerror or str(e))
            return [self.supervisor.service("local", keep_trying)]
        return []

    def _light_up(self) -> list[asyncio.Task[None]]:
        """Keep the hardware at the light, from the first moment to the last."""
        if self._offline or self.config.lights.driver == "none":
            return []
        driver = driver_of(self.config.lights, self.clock)
        lights = LightService(
            self.lamp.look, lambda: LIGHTS["W1" if self.again else "R2"], driver, self.journal, self.clock
        )
        return [self.supervisor.service("lights", lights.run)]

    async def _until_stopped(self) -> None:
        failure = asyncio.ensure_future(self.supervisor.failure())
        stop = asyncio.ensure_future(self._stop.wait())
        done, pending = await asyncio.wait((failure, stop), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()

    def _hasten(self) -> None:
        """New certificates may be what a destination waits for."""
        if self._lanes is not None:
            self._lanes.hasten()

    def _say_notices(self) -> None:
        config, journal = self.config, self.journal
        for notice in self._notices:
            journal.note("NOT_IN_THIS_VERSION", f"config.{notice}", notice)
        for doubt in doubts(config.storage.path):
            journal.note("NOT_DURABLE", "storage.path", doubt)
        if not config.destination:
            journal.note("NO_DESTINATION", "config.destination")
        if config.receive.accept == "known" and not config.modality:
            journal.note("ACCEPTS_ANYONE", "config.modality")
        self._certificates.say_troubles()

    def _ledger(self) -> Ledger:
        total = self._spool.total_bytes()
        return Ledger(self._spool.free, reserve(self.config.storage.reserve, total), margin(total))

    def _recovery(self, store: Store, index: Index, first_id: int) -> Callable[[Mended | None], asyncio.Event]:
        """Return what starts a recovery: at start, and whenever the database was opened anew.

        It gives the event that is set when nothing is left in incoming/.
        """

        def recover(mended: Mended | None) -> asyncio.Event:
            self._say_mended(mended)
            recovery = Recovery(
                self._spool,
                self._syncer,
                store,
                index,
                self._routing,
                self.journal,
                first_id,
                everything=mended is Mended.ANEW,
            )
            self._recovering = self.supervisor.spawn(recovery.run(), "recovery")
            return recovery.parts_done

        return recover

    def _background(
        self, store: Store, rooms: _Rooms, recover: Callable[[Mended | None], asyncio.Event]
    ) -> list[asyncio.Task[None]]:
        """Start what nobody waits for."""

        def broken(why: str) -> None:
            rooms.admission.close("store", why)

        def back(mended: Mended | None) -> None:
            rooms.admission.open("store")
            recover(mended)

        service, journal, clock = self.supervisor.service, self.journal, self.clock
        return [
            service("observer", Observer(self.config, store.reading, journal, rooms.admission.refusal).run),
            service("overdue", ProofWatch(self.config, store.reading, store.oldest_proof, journal).run),
            service("room", rooms.room.run),
            service("backlog", BacklogWatch(store.reading, self.board, journal, clock).run),
            service("silence", SilenceWatch(self.config, store.reading, self.board, journal, clock).run),
            service("ripen", lambda: self._ripen(store), vital=True),
            service("keeper", lambda: store.keep(broken, back), vital=True),
            service("disk", rooms.guard.run, vital=True),
            service("retention", self._retention(store, rooms.ledger).run),
            service("audit", self._audit(store).run),
            service("certificates", self._certificates.run),
            service("clock", Timekeeper(clock, journal, self._keep_time).run),
            service("chronicle", Chronicle(store, journal, clock).run),
            service("whereabouts", self._whereabouts.run),
        ]

    def _updates(self, store: Store) -> UpdateWatch | None:
        slot = booted()
        if not slot or self._offline:
            return None
        return UpdateWatch(
            self.config.storage.path,
            FOLDER / NAME,
            slot,
            self.journal,
            self.clock,
            tell=store.write_events,
            run=self._syncer.run,
        )

    def _remote(self, store: Store, control: Control, updates: UpdateWatch | None) -> Assembly | None:
        if self.config.mqtt is None or self._twin is None or self._offline:
            return None
        return Assembly(
            self.config,
            self.config.mqtt,
            self._twin,
            self._identity.device,
            store,
            self.board,
            control,
            self.journal,
            self.clock,
            snapshot=self.snapshot,
            restart=self.restart,
            next_session=lambda: self._identity.next_number("mqtt-session"),
            run=self._syncer.run,
            asking=None if updates is None else self._asking(updates.slot),
            updates=updates,
        )

    def _asking(self, slot: str) -> Asking:
        url = self.config.update.url
        return Asking(self.config.storage.path, url, FOLDER / NAME, slot=slot, running=__version__)

    def _dashboard(self, store: Store, control: Control) -> Dashboard | None:
        if self._offline:
            return None
        return dashboard(
            self.config,
            self._identity.device,
            store,
            control,
            self._credentials,
            snapshot=self.snapshot,
            spawn=self.supervisor.spawn,
            board=self.board,
            journal=self.journal,
            clock=self.clock,
            restart=self.restart,
            lines=self._lines,
            previews=self._previews,
        )

    async def _keep_time(self, text: str) -> None:
        await self._syncer.run(lambda: self._identity.keep_time(text))

    def _say_mended(self, mended: Mended | None) -> None:
        match mended:
            case Mended.WHOLE:
                self.journal.note("DATABASE_MENDED", "store")
            case Mended.ANEW:
                self.journal.note("DATABASE_REBUILT", "store")
            case None:
                pass

    def _retention(self, store: Store, ledger: Ledger) -> Retention:
        storage = self.config.storage
        return Retention(
            self._spool,
            self._syncer,
            store,
            self._ballast,
            self.journal,
            self.clock,
            keep=storage.keep_delivered,
            keep_trail=storage.keep_trail,
            short=ledger.short,
        )

    def _audit(self, store: Store) -> Audit:
        def used() -> int:
            return self._spool.total_bytes() - self._spool.free_bytes()

        return Audit(Soundness(self._spool, self._syncer, store, self.journal), store, self.journal, used)

    def _door(self, index: Index, admission: Admission, guard: DiskGuard) -> Door:
        receive = self.config.receive
        return Door(
            self._spool,
            self._identity,
            index,
            admission,
            guard,
            self._routing,
            board=self.board,
            journal=self.journal,
            clock=self.clock,
            title=receive.titles[0],
            most=receive.max_object,
            destinations=len(self.config.destination),
        )

    async def _ripen(self, store: Store) -> None:
        while True:
            await asyncio.sleep(_RIPEN_EVERY)
            with contextlib.suppress(StoreError):  # said by the store's keeper; what is ripe stays ripe
                if await store.ripe():
                    await store.ripen()


async def _note(store: Store, event: Event) -> None:
    """Write an event that is worth no wait and no failure."""
    with contextlib.suppress(StoreError, TimeoutError):
        async with asyncio.timeout(_STORE_GRACE):
            await store.write_events([event])
