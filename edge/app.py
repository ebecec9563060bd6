"""The appliance: puts the rooms together, starts them in order, ends them in order.

Start: lock, spool, store, then the listener; recovery runs beside it. End (SIGTERM): the listener first, so that what
is half received is finished or refused; then the lanes, so that what is on the wire is answered; then index and store.
"""

import asyncio
import contextlib
import fcntl
import os
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from edge.board import Board
from edge.clock import Clock, SystemClock
from edge.config import Config, Destination, DimseDestination, FolderDestination, differences
from edge.control import Control
from edge.dicom.acceptor import Acceptor, Capacity
from edge.dicom.association import Limits
from edge.dicom.command import CommandField
from edge.findings import Journal
from edge.forward.dimse import DimseTransport
from edge.forward.dispatcher import Lane
from edge.forward.folder import FolderTransport
from edge.forward.gate import Gate
from edge.forward.transport import Transport
from edge.intake.admission import DEFAULT_RESERVE, Admission, margin
from edge.intake.door import Door
from edge.intake.folder import FolderWatch
from edge.intake.guard import DiskGuard
from edge.intake.handover import HandoverService
from edge.intake.index import Index
from edge.intake.policy import ReceivePolicy
from edge.intake.recovery import Recovery
from edge.intake.scp import StoreService
from edge.intake.taker import Taker
from edge.intake.through import DoorReceiver
from edge.keeping.audit import Audit
from edge.keeping.retention import Retention
from edge.keeping.timekeeper import Timekeeper, latest
from edge.local import LocalServer
from edge.model import WATCH, Source
from edge.routing import Routing
from edge.sdnotify import Notifier
from edge.snapshot import Snapshot
from edge.spool import Ballast, Identity, Ledger, Spool, StorageError, Syncer, doubts
from edge.spool.files import storage_trouble
from edge.status.certificates import CertificateWatch
from edge.status.collect import Collector
from edge.status.observer import Observer
from edge.store import Mended, Store, StoreError
from edge.supervise import Supervisor
from edge.tls import every

log = structlog.get_logger()

_RIPEN_EVERY: Final = 0.5
_RIPE_WITHIN: Final = 10.0
"""Seconds within which what waited at the last end is tried again, so that not everything goes at once."""
_READERS: Final = 4
"""Threads that read the files of one watched folder."""
_RECEIVE_GRACE: Final = 3.0
_SEND_GRACE: Final = 2.0
_STORE_GRACE: Final = 2.0


class StartError(Exception):
    """The appliance cannot start; the text says what, why and what to do."""


class Appliance:
    """One appliance on one storage path."""

    def __init__(
        self, config: Config, notices: tuple[str, ...] = (), clock: Clock | None = None, *, offline: bool = False
    ) -> None:
        """``offline``: it takes only what is handed over on the local socket, and delivers nothing."""
        self.config = config
        self._offline = offline
        self.clock = clock or SystemClock(latest(config.storage.path))
        self.board = Board(self.clock)
        self.journal = Journal(self.clock)
        self.supervisor = Supervisor(self.journal, self.clock)
        self.ports: list[int] = []
        self.tls_ports: list[int] = []
        self._notices = notices
        self._notifier = Notifier()
        self._syncer = Syncer()
        self._spool = Spool(config.storage.path, self._syncer)
        self._identity = Identity(config.storage.path)
        self._ballast = Ballast(config.storage.path)
        self._stop = asyncio.Event()
        self._collector: Collector | None = None
        self._lanes: dict[str, Lane] = {}
        self._credentials = {one.where: one for one in every(config)}
        self._certificates = CertificateWatch(
            tuple(self._credentials.values()), self.journal, self.clock, lambda: _hasten(self._lanes, "")
        )

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

    async def snapshot(self) -> Snapshot:
        """Take the whole status now."""
        if self._collector is None:
            raise StoreError("The appliance is starting.")
        return await self._collector.snapshot()

    async def run(self, ready: Callable[["Appliance"], None] | None = None) -> None:
        """Run until `stop`. Calls ``ready`` once images can be sent. Raises `StartError`, `CrashLoopError`."""
        lock = _lock(self.config.storage.path)
        try:
            store = await self._open_store()
            try:
                await self._serve(store, ready)
            finally:
                await store.close()
        finally:
            self._spool.close()
            self._syncer.close()
            os.close(lock)

    async def _open_store(self) -> Store:
        try:
            self._spool.open()
            self._identity.open(self._spool.highest)
        except StorageError as e:
            raise StartError(str(e)) from e
        except OSError as e:
            raise StartError(storage_trouble(self.config.storage.path, e)) from e
        try:
            return await Store.open(
                self.config.storage.path,
                self.clock,
                self._identity.session,
                self._spool.path,
                self._ballast.drop,
                ripe_in=_RIPE_WITHIN * random.random(),  # noqa: S311 - jitter
            )
        except StoreError as e:
            raise StartError(str(e)) from e

    async def _serve(self, store: Store, ready: Callable[["Appliance"], None] | None) -> None:
        config, journal = self.config, self.journal
        try:
            self._identity.rise_above(await store.highest_id())
        except OSError as e:
            raise StartError(storage_trouble(config.storage.path, e)) from e
        self._say_notices()
        committing = self.supervisor.service("store", store.run)
        ledger = self._ledger()
        admission = Admission(self.board, journal, self.clock, ledger)
        guard = DiskGuard(self._spool, self._syncer, admission, journal, self.clock)
        self._collector = Collector(
            config,
            self._identity.device,
            store.reading,
            self.board,
            journal,
            self.clock,
            self._spool.free_bytes,
            ledger.reserve,
        )
        index = Index(self._spool, self._syncer, store, admission, self.board, journal, self.clock)
        indexing = self.supervisor.service("index", index.run)
        first_id = self._identity.first_id
        door = self._door(index, admission, guard)
        receiver = DoorReceiver(door, store, self._syncer.run, journal)
        acceptor = self._acceptor(door, admission)
        lanes = self._lanes = {d.name: self._lane(d, store) for d in config.destination if not self._offline}
        local = LocalServer(
            config.storage.path,
            self.snapshot,
            Control(store, lambda name: _hasten(lanes, name)),
            self.supervisor.spawn,
            HandoverService(receiver, self.board, journal, self.clock).serve,
        )
        try:
            if not self._offline:
                await self._listen(acceptor)
            await local.open()
            recover = self._recovery(store, index, first_id)
            parts_done = recover(store.mended)
            sending = [
                self.supervisor.service(f"lane {lane.name}", partial(_after, parts_done, lane.run))
                for lane in lanes.values()
            ]
            background = self._background(store, admission, ledger, guard, recover)
            admission.open("starting")
            background += self._watches(store, door, ledger)
            ports = [*self.ports, *self.tls_ports]
            self._notifier.tell(f"READY=1\nSTATUS=receiving on {ports}")
            log.info("ready", ports=ports, storage=str(config.storage.path), session=self._identity.session)
            if ready is not None:
                ready(self)
            await self._until_stopped()
        finally:
            self._notifier.tell("STOPPING=1")
            log.info("stopping")
            local.close()
            for lane in lanes.values():
                lane.stop()
            await acceptor.close(_RECEIVE_GRACE)
        await self.supervisor.finish(sending, _SEND_GRACE)
        self.supervisor.cancel(background)
        index.close()
        await self.supervisor.finish([indexing], _STORE_GRACE)
        store.finish()
        await self.supervisor.finish([committing], _STORE_GRACE)
        await self.supervisor.settle(0)
        log.info("stopped")

    async def _until_stopped(self) -> None:
        failure = asyncio.ensure_future(self.supervisor.failure())
        stop = asyncio.ensure_future(self._stop.wait())
        done, pending = await asyncio.wait((failure, stop), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()

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
        total, reserve = self._spool.total_bytes(), self.config.storage.reserve
        if reserve is None:
            reserve = min(DEFAULT_RESERVE, total // 10)
        return Ledger(self._spool.free, reserve, margin(total))

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
                Routing(self.config),
                self.journal,
                first_id,
                everything=mended is Mended.ANEW,
            )
            self.supervisor.spawn(recovery.run(), "recovery")
            return recovery.parts_done

        return recover

    def _background(
        self,
        store: Store,
        admission: Admission,
        ledger: Ledger,
        guard: DiskGuard,
        recover: Callable[[Mended | None], asyncio.Event],
    ) -> list[asyncio.Task[None]]:
        """Start what nobody waits for."""

        def broken(why: str) -> None:
            admission.close("store", why)

        def back(mended: Mended | None) -> None:
            admission.open("store")
            recover(mended)

        service, journal, clock = self.supervisor.service, self.journal, self.clock
        return [
            service("observer", Observer(self.config, store.reading, journal, admission.refusal).run),
            service("ripen", lambda: self._ripen(store)),
            service("heartbeat", self._notifier.heartbeat),
            service("keeper", lambda: store.keep(broken, back)),
            service("disk", guard.run),
            service("retention", self._retention(store, ledger).run),
            service("audit", self._audit(store).run),
            service("certificates", self._certificates.run),
            service("clock", Timekeeper(clock, journal, self._identity.keep_time).run),
        ]

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

        return Audit(self._spool, self._syncer, store, self.journal, used)

    def _watches(self, store: Store, door: Door, ledger: Ledger) -> list[asyncio.Task[None]]:
        """Start a watch for each folder of the configuration."""
        if self._offline:
            return []
        services = []
        for watch in self.config.watch:
            called = watch.called_ae_title or self.config.receive.titles[0]
            source = Source(door=WATCH, calling=watch.ae_title or "", called=called, address=watch.title)
            # threads of its own: a network share that hangs must hold up nothing but its watch
            threads = ThreadPoolExecutor(_READERS, thread_name_prefix=f"watch {watch.title}")
            run = partial(asyncio.get_running_loop().run_in_executor, threads)
            receiver = DoorReceiver(door, store, run, self.journal)
            taker = Taker(receiver, run, source, self._spool.incoming, lambda size: ledger.room() > size)
            folder = FolderWatch(watch, taker, store, run, board=self.board, journal=self.journal, clock=self.clock)
            service = self.supervisor.service(f"watch {folder.name}", folder.run)
            service.add_done_callback(partial(_end, threads))
            services.append(service)
        return services

    def _door(self, index: Index, admission: Admission, guard: DiskGuard) -> Door:
        receive = self.config.receive
        return Door(
            self._spool,
            self._identity,
            index,
            admission,
            guard,
            Routing(self.config),
            board=self.board,
            journal=self.journal,
            clock=self.clock,
            title=receive.titles[0],
            most=receive.max_object,
            destinations=len(self.config.destination),
        )

    def _acceptor(self, door: Door, admission: Admission) -> Acceptor:
        receive = self.config.receive
        return Acceptor(
            ReceivePolicy(self.config, admission, self.board, self.journal),
            {CommandField.C_STORE_RQ: StoreService(door)},
            spawn=self.supervisor.spawn,
            limits=Limits(
                handshake=receive.timeouts.handshake,
                request=receive.timeouts.request,
                idle=receive.timeouts.idle,
                least_rate=receive.least_rate,
                control=receive.max_control,
            ),
            capacity=Capacity(
                associations=receive.max_associations,
                per_address=receive.max_associations_per_address,
                max_pdu=receive.max_pdu,
                waiting=4 * receive.max_associations,
                waiting_per_address=2 * receive.max_associations_per_address,
            ),
        )

    async def _listen(self, acceptor: Acceptor) -> None:
        receive = self.config.receive
        for port in receive.all_ports:
            try:
                self.ports.append(await acceptor.listen(receive.address, port))
            except OSError as e:
                raise _cannot_listen(receive.address, port, "receive.port", e) from e
        if receive.tls is None:
            return
        credentials = self._credentials["receive.tls"]
        try:
            port = await acceptor.listen(
                receive.address,
                receive.tls.port,
                lambda: credentials.judging_dates(trusted=self.clock.trusted()),
            )
        except OSError as e:
            raise _cannot_listen(receive.address, receive.tls.port, "receive.tls.port", e) from e
        self.tls_ports.append(port)

    def _lane(self, destination: Destination, store: Store) -> Lane:
        gauge = self.board.destination(destination.name)
        transport: Transport
        match destination:
            case DimseDestination():
                credentials = self._credentials.get(f"destination.{destination.name}.tls")
                transport = DimseTransport(destination, self._syncer, credentials, self.clock.trusted)
                associations, skip = destination.associations, destination.unsupported == "skip"
            case FolderDestination():
                transport, associations, skip = FolderTransport(destination, self._syncer), 1, False
            case _:
                raise StartError(f"destination {destination.name}: its type is not in this version yet")
        return Lane(
            destination.name,
            transport,
            store,
            Gate(destination.name, gauge, self.journal, self.clock, random.random),
            associations=associations,
            skip_unsupported=skip,
            gauge=gauge,
            journal=self.journal,
            clock=self.clock,
            random=random.random,
            spawn=self.supervisor.spawn,
        )

    async def _ripen(self, store: Store) -> None:
        while True:
            await asyncio.sleep(_RIPEN_EVERY)
            with contextlib.suppress(StoreError):  # said by the store's keeper; what is ripe stays ripe
                if await store.ripe():
                    await store.ripen()


def _cannot_listen(address: str, port: int, key: str, error: OSError) -> StartError:
    return StartError(
        f"Cannot listen on {address} port {port}: {error.strerror or error}; "
        f"stop the program that uses it, or set {key} to another."
    )


async def _after(event: asyncio.Event, run: Callable[[], Awaitable[None]]) -> None:
    await event.wait()
    await run()


def _end(threads: ThreadPoolExecutor, _: object) -> None:
    threads.shutdown(wait=False, cancel_futures=True)


def _hasten(lanes: dict[str, Lane], name: str) -> None:
    for lane in lanes.values():
        if name in ("", lane.name):
            lane.gate.hasten()


def _lock(storage: Path) -> int:
    """Take the storage path for this process. Raises `StartError`."""
    try:
        storage.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(storage / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise StartError(storage_trouble(storage, e)) from e
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(lock)
        raise StartError(
            f"Another appliance is running on {storage}: stop it, or set storage.path to another folder."
        ) from e
    return lock
