"""The box as the page System sees it: a machine in a warm cupboard, and a dashboard that may look at it."""

import asyncio
from pathlib import Path

import msgspec

from edge.clock import iso
from edge.config import Config, Dashboard, Device, DimseDestination
from edge.findings import CODES
from edge.snapshot import Snapshot, Storage
from edge.status.machine import Machine, Memory, Temperature, Throttling, Timekeeping
from edge.status.medium import Medium
from edge.web.server import Dashboard as Service
from tests.fakes import ManualClock
from tests.snapshots import destination, finding, snapshot
from tests.web import Served

PLACES = tuple(
    DimseDestination(name=name, host=f"{name}.example.org", ae_title=name.upper())
    for name in ("pacs", "cloud", "archive")
)


def worn() -> Machine:
    """A Raspberry Pi in a warm cupboard, with an eMMC that has seen much and a card."""
    emmc = Medium(
        device="mmcblk0",
        kind="emmc",
        model="BJTD4R",
        made="03/2021",
        bytes=31_268_536_320,
        holds=True,
        life_used=(80, 90),
        spare="low",
        read_only=False,
        written=84_000_000_000,
        written_ever=61_000_000_000_000,
        errors=0,
    )
    card = msgspec.structs.replace(
        emmc,
        device="mmcblk1",
        kind="card",
        model="SN64G",
        holds=False,
        life_used=None,
        spare="",
        written_ever=None,
        errors=None,
    )
    return Machine(
        model="Raspberry Pi Compute Module 4 Rev 1.1",
        system="Debian GNU/Linux 13 (trixie)",
        kernel="6.12.48+deb13-arm64",
        uptime=11 * 86_400.0,
        load=0.4,
        memory=Memory(total=1_900_000_000, available=1_100_000_000, own=210_000_000),
        temperatures=(Temperature("cpu-thermal", 74.5), Temperature("rp1-adc", 51.0)),
        throttling=Throttling(low_voltage=False, was_low_voltage=True, slowed=False, was_slowed=True),
        media=(emmc, card),
        time=Timekeeping(zone="America/Santiago", synchronised=True, keeper="chrony", battery="rtc-ds1307"),
    )


def uneasy() -> Snapshot:
    """A box with three things to say."""
    clock = ManualClock()
    told = [
        msgspec.structs.replace(
            finding(code, component, str(CODES[code].severity), count=count, since=iso(clock.now() - 4000)),
            text=text,
            advice=CODES[code].advice,
        )
        for code, component, count, text in (
            ("DESTINATION_DOWN", "destination.pacs", 3, "pacs.example.org refuses the connection on port 104."),
            ("CERTIFICATE_EXPIRES", "receive.tls", 1, "receive.tls: CN=ct-room ends on 2027-02-01, in 17 days."),
            ("ACCEPTS_ANYONE", "config.modality", 1, CODES["ACCEPTS_ANYONE"].text),
        )
    ]
    return msgspec.structs.replace(
        snapshot(
            destinations=[destination("pacs", problem="REFUSED"), destination("cloud", paused=True), "archive"],
            findings=told,
        ),
        storage=Storage(free_bytes=54_000_000_000, reserve_bytes=2_000_000_000, autonomy_seconds=9 * 86_400),
    )


class Housed(Served):
    """A dashboard whose box has a machine, three destinations, a light and a way to begin anew."""

    def __init__(
        self,
        folder: Path,
        shown: Snapshot | None = None,
        *,
        config: Config | None = None,
        machine: Machine | None = None,
        address: str = "127.0.0.1",
        power: bool | None = True,
        able: bool = True,
    ) -> None:
        super().__init__(folder, shown or uneasy())
        self.identified: list[float] = []
        self.restarted = asyncio.Event()
        self.log: list[str] = []
        self.machine = machine or worn()
        self.box = msgspec.structs.replace(
            self.box,
            config=msgspec.structs.replace(
                config or Config(device=Device(name="CT room", site="Posta San Juan"), destination=PLACES),
                storage=self.config.storage,
                dashboard=Dashboard(port=0, address=address),
            ),
            identify=self.identified.append if able else None,
            restart=self.restarted.set if able else None,
            lines=lambda: tuple(self.log),
            machine=lambda: self.machine,
            power=lambda: power,
            addresses=lambda: ("192.168.10.7", "fd00::7"),
            open_ports=lambda: frozenset({11112}),
        )
        self.service = Service(self.box)
