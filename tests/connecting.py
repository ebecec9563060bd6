"""Connections to show: a box with senders and destinations of every kind, made by hand."""

from pathlib import Path
from typing import Any

import msgspec

from edge.clock import iso
from edge.config import Config, Destination, DicomwebDestination, DimseDestination, Modality, Mqtt, Receive, Timeouts
from edge.model import Kind
from edge.snapshot import ModalityStatus, Problem, Snapshot
from edge.store.capabilities import Capability
from tests.fakes import ManualClock
from tests.peers.ports import LOOPBACK
from tests.snapshots import destination, finding, snapshot
from tests.web import Served

CT = "1.2.840.10008.5.1.4.1.1.2"
US = "1.2.840.10008.5.1.4.1.1.6.1"
EXPLICIT = "1.2.840.10008.1.2.1"
JPEG = "1.2.840.10008.1.2.4.50"
QUICK = Timeouts(connect=1.0, response=1.0)
MODALITIES = (
    Modality(name="CT 1", ae_title="CT1", address="192.168.10.20"),
    Modality(name="US 2", ae_title="US2"),
    Modality(name="MR", ae_title="MR1"),
)


def pacs(port: int, **keys: Any) -> DimseDestination:
    given: dict[str, Any] = {"name": "pacs", "host": LOOPBACK, "port": port, "ae_title": "PACS", "timeouts": QUICK}
    return DimseDestination(**given | keys)


def cloud(url: str) -> DicomwebDestination:
    return DicomwebDestination(name="cloud", url=url, timeouts=QUICK)


def sender(title: str, address: str = "", *, name: str = "", **keys: Any) -> ModalityStatus:
    given: dict[str, Any] = {"last_heard_at": None, "last_object_at": None, "refused": 0, "refused_because": ""}
    return ModalityStatus(name=name, ae_title=title, address=address, **given | keys)


def afternoon() -> Snapshot:
    """Modalities that send and that do not, strangers, and a PACS that does not answer."""
    clock = ManualClock()
    replace, now = msgspec.structs.replace, clock.now()
    down = replace(
        destination("pacs", problem="REFUSED_CONNECTION", queued=41),
        verified=1799,
        held=2,
        last_success_at=iso(now - 3200),
        hours="20:00-06:00",
        hours_open=False,
        rate_limit_bytes_per_second=1_000_000,
        problem=Problem(code="REFUSED_CONNECTION", text="pacs.example.org refuses the connection on port 104."),
    )
    going = replace(
        destination("cloud"),
        sending=2,
        verified=1838,
        rate_bytes_per_second=1_000_000,
        drain_seconds=95,
        last_success_at=iso(now),
    )
    senders = [
        sender("CT1", "192.168.10.20", name="CT 1", last_heard_at=iso(now - 60), last_object_at=iso(now - 61)),
        sender("US2", name="US 2"),
        sender("MR1", "192.168.10.31", name="MR", refused=3, refused_because="it calls this box by another name"),
        sender("CT1", "192.168.10.99", refused=2, refused_because="it is not among the modalities"),
        sender("XA9", "192.168.10.77", refused=1, refused_because="it is not among the modalities"),
    ]
    told = [finding("MODALITY_SILENT", "modality.MR")]
    return replace(snapshot(destinations=[down, going], findings=told), modalities=senders)


def served(
    folder: Path, *destinations: Destination, shown: Snapshot | None = None, mqtt: Mqtt | None = None, **keys: Any
) -> Served:
    """A dashboard whose configuration has these destinations; it shows the afternoon unless told otherwise."""
    return Served(
        folder, shown or afternoon(), configure=lambda plain: configured(plain, *destinations, mqtt=mqtt), **keys
    )


def configured(config: Config, *destinations: Destination, mqtt: Mqtt | None = None) -> Config:
    """``config`` with modalities and these destinations."""
    receive = Receive(ae_titles=("EDGE", "EDGE2"), ports=(104, 11112))
    return msgspec.structs.replace(config, receive=receive, modality=MODALITIES, destination=destinations, mqtt=mqtt)


class Answers:
    """What a store knows of the PACS."""

    async def capabilities(self, destination: str) -> list[Capability]:
        assert destination == "pacs"
        known = ((CT, EXPLICIT, True), (CT, JPEG, False), (US, JPEG, True))
        return [
            Capability(kind=Kind(uid, syntax), taken=taken, at=1_800_000_000, clock_trusted=True, age=1.0)
            for uid, syntax, taken in known
        ]
