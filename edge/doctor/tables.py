"""The steps of each kind of visit, declared once, and the visits themselves.

Each has an end: what takes longer than its deadline has failed. Nothing here needs root, nor the appliance.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from edge.clock import Clock
from edge.config import Config, Destination, DicomwebDestination, DimseDestination, FolderDestination, Mqtt
from edge.doctor import box, dimse, folder, network, secure, web
from edge.doctor.box import BoxVisit
from edge.doctor.dimse import DimseVisit
from edge.doctor.folder import FolderVisit
from edge.doctor.network import RESOLVING, Visit
from edge.doctor.step import Check, Step, walk
from edge.doctor.web import WebVisit
from edge.forward.reach import OWN_TITLE
from edge.snapshot import Snapshot
from edge.tls import broker_credentials

_BROKER_CONNECT: Final = 10.0
_BROKER_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


def _secure(visit: Visit) -> bool:
    return visit.credentials is not None


def _connecting(visit: Visit) -> float:
    return visit.connect + 1


def _answering(visit: DimseVisit) -> float:
    return visit.connect + max(visit.connect, visit.response) + 1


def _asking(visit: WebVisit) -> float:
    return 2 * visit.connect + min(visit.destination.timeouts.response, dimse.LONGEST)


NETWORK: Final[tuple[Check[Visit], ...]] = (
    Check(name="link", work=network.link),
    Check(name="address", work=network.address),
    Check(name="name", work=network.name, deadline=lambda _: RESOLVING + 1, late="NO_ADDRESS"),
    Check(name="route", work=network.route),
    Check(name="connection", work=network.connection, deadline=_connecting, late="FILTERED"),
    Check(name="clock", work=secure.clock, when=_secure),
    Check(name="tls", work=secure.tls, when=_secure, deadline=_connecting),
)
DIMSE: Final[tuple[Check[DimseVisit], ...]] = (
    *NETWORK,
    Check(name="association", work=dimse.association, deadline=_answering),
    Check(name="echo", work=dimse.echo, deadline=_answering),
    Check(name="images", work=dimse.images, alone=True),
    Check(name="commitment", work=dimse.commitment, alone=True, when=lambda v: "commitment" in v.proves),
    Check(name="query", work=dimse.query, deadline=_answering, when=lambda v: "query" in v.proves),
)
WEB: Final[tuple[Check[WebVisit], ...]] = (
    *NETWORK,
    Check(name="login", work=web.login, deadline=_asking, late="NO_CREDENTIALS"),
    Check(name="answer", work=web.answer, deadline=_asking),
    Check(name="query", work=web.query),
)
FOLDER: Final[tuple[Check[FolderVisit], ...]] = (
    Check(name="folder", work=folder.folder, late="FOLDER_MISSING"),
    Check(name="mounted", work=folder.mounted, late="FOLDER_MISSING"),
    Check(name="room", work=folder.room, late="FOLDER_MISSING"),
    Check(name="written", work=folder.written, late="FOLDER_FAILED"),
)
BOX: Final[tuple[Check[BoxVisit], ...]] = (
    Check(name="clock", work=box.clock),
    Check(name="storage", work=box.storage, late="STORAGE_UNUSABLE"),
    Check(name="room", work=box.room, late="STORAGE_UNUSABLE", alone=True),
    Check(name="written", work=box.written, late="STORAGE_UNUSABLE", alone=True),
    Check(name="appliance", work=box.appliance, alone=True),
    Check(name="listener", work=box.listener, deadline=lambda _: box.PATIENCE + 2, late="LISTENER_SILENT", alone=True),
    Check(name="modalities", work=box.modalities),
)


class _Closable(Protocol):
    async def close(self) -> None: ...


async def examine(destination: Destination, clock: Clock, original: str = OWN_TITLE) -> AsyncGenerator[Step]:
    """Walk the steps to ``destination``, each given as it is done. Never raises for its faults.

    ``original`` is the AE title of a modality, for destinations that are called by the modality's own.
    """
    async with aclosing(_steps(destination, clock, original)) as steps:
        async for step in steps:
            yield step


def _steps(destination: Destination, clock: Clock, original: str) -> AsyncGenerator[Step]:
    match destination:
        case DimseDestination():
            return _visit(DIMSE, DimseVisit(destination, clock, original=original))
        case DicomwebDestination():
            return _visit(WEB, WebVisit(destination, clock))
        case FolderDestination():
            return _visit(FOLDER, FolderVisit(destination))


async def examine_box(config: Config, snapshot: Snapshot | None, clock: Clock) -> AsyncGenerator[Step]:
    """Walk the steps at this box; ``snapshot`` is that of the running appliance, None where none runs."""
    async with aclosing(_visit(BOX, BoxVisit(config, snapshot, clock))) as steps:
        async for step in steps:
            yield step


async def examine_broker(mqtt: Mqtt, clock: Clock) -> AsyncGenerator[Step]:
    """Walk the steps to the broker, as far as TLS: who says CONNECT in our name would throw the appliance out."""
    parts = urlsplit(mqtt.url)
    visit = Visit(
        parts.hostname or "",
        parts.port or _BROKER_PORTS[parts.scheme],
        server="broker",
        connect=_BROKER_CONNECT,
        credentials=broker_credentials(mqtt) if parts.scheme == "mqtts" else None,
        clock=clock,
    )
    async with aclosing(_visit(NETWORK, visit)) as steps:
        async for step in steps:
            yield step


async def _visit(checks: Sequence[Check[Any]], visit: _Closable) -> AsyncGenerator[Step]:
    try:
        async with aclosing(walk(checks, visit)) as steps:
            async for step in steps:
                yield step
    finally:
        await visit.close()
