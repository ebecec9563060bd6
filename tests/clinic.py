"""A clinic for an hour: the real appliance with its dashboard, a scanner and a PACS; nobody was ever imaged for it."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from edge.app.appliance import Appliance
from edge.clock import SystemClock
from edge.configfile import parse
from tests.peers.committing import CommittingPacs
from tests.peers.objects import CT, MR, DicomObject, uid
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.scanner import Scanner

_EXPLICIT: Final = "1.2.840.10008.1.2.1"
_SIDE: Final = 256
_ORGANS: Final = (
    # x, y, half axes, brightness: an ellipse each, in a field from -1 to 1
    (0.0, 0.0, 0.72, 0.92, 1000.0),
    (0.0, 0.0, 0.66, 0.86, -760.0),
    (-0.24, 0.05, 0.17, 0.36, -160.0),
    (0.24, 0.05, 0.13, 0.3, -160.0),
    (0.0, 0.42, 0.24, 0.2, 220.0),
    (0.02, -0.55, 0.11, 0.08, 320.0),
)


class Ahead(SystemClock):
    """The machine's clock, but minutes pass at a word."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Clinic:
    """Open inside its context. `pacs` comes and goes by its `stop` and `start`."""

    def __init__(self, folder: Path) -> None:
        self.storage = folder / "storage"
        self.web = free_port()
        self.clock = Ahead()
        self.pacs = CommittingPacs(title="PACS")
        self.scanner = Scanner("CT1")
        self.appliance: Appliance
        self._ready = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._config = parse(
            f'[device]\nname = "CT room"\nsite = "Posta San Juan"\n'
            f'[storage]\npath = "{self.storage}"\nreserve = "1MiB"\n'
            f'[receive]\naddress = "{LOOPBACK}"\nport = {free_port()}\n[dashboard]\nport = {self.web}\n'
            f'{self.scanner.toml(LOOPBACK)}[[destination]]\nname = "pacs"\ntype = "dimse"\nhost = "{LOOPBACK}"\n'
            f'port = {self.pacs.port}\nae_title = "PACS"\nverify = "commitment"\n'
        ).config

    def __enter__(self) -> Self:
        self._done = self._pool.submit(lambda: asyncio.run(self._run()))
        wait_for(lambda: self._ready.is_set() or self._done.done(), 20, "the appliance")
        if self._done.done():
            self._done.result()
        self.scanner.edge_port = self.appliance.ports[0]
        self.pacs.home = (self.scanner.edge_port, "EDGE")
        self.scanner.start()
        self.pacs.start()
        wait_for(lambda: self.appliance.dashboard and self.appliance.dashboard.url, 20, "the dashboard")
        return self

    def __exit__(self, *exc: object) -> None:
        self.pacs.stop()
        self.scanner.stop()
        self._loop.call_soon_threadsafe(self.appliance.stop)
        self._done.result(30)
        self._pool.shutdown()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.web}"

    @property
    def first_code(self) -> str:
        """What stands on the label."""
        return wait_for(self._code, 10, "the first-start code")

    def send(self, objects: list[DicomObject]) -> None:
        """Scan: every image is answered with success."""
        assert self.scanner.send(objects) == [0] * len(objects)

    def wait_recorded(self, count: int) -> None:
        """Until so many images are on record."""
        path = self.storage / "db" / "edge.sqlite"
        asked = "SELECT count(*) FROM instance"

        def recorded() -> bool:
            with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as raw:
                return bool(raw.execute(asked).fetchone()[0] == count)

        wait_for(recorded, 20, f"{count} images on record")

    def pass_time(self, seconds: float) -> None:
        """Have that much time pass for everything that decides by it."""
        self.clock.ahead += seconds

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """The PACS is away."""
        self.pacs.stop()
        yield
        self.pacs.start()

    def _code(self) -> str:
        path = self.storage / "identity" / "first-code"
        return path.read_text("ascii").strip() if path.exists() else ""

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.appliance = Appliance(self._config, clock=self.clock)
        await self.appliance.run(lambda _: self._ready.set())


def scan(
    count: int, name: str, number: int, description: str = "CT Abdomen", modality: str = "CT", date: str = "20261127"
) -> list[DicomObject]:
    """Make the images of one study: slices through a body of ellipses."""
    study, series = uid(), uid()
    return [_slice(study, series, at, count, name, number, description, modality, date) for at in range(count)]


def _slice(
    study: str, series: str, at: int, count: int, name: str, number: int, description: str, modality: str, date: str
) -> DicomObject:
    sop_class, made = (MR if modality == "MR" else CT), Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID = sop_class, uid()
    made.StudyDate, made.AccessionNumber, made.Modality = date, f"A-{number:05}", modality
    made.StudyDescription, made.PatientName, made.PatientID = description, name, f"P-{number:05}"
    made.StudyInstanceUID, made.SeriesInstanceUID = study, series
    made.SeriesNumber, made.InstanceNumber = 2, at + 1
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows = made.Columns = _SIDE
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.WindowCenter, made.WindowWidth = "350", "900"
    made.add_new(0x7FE00010, "OW", _pixels(at / max(1, count - 1), number))
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, made)
    return DicomObject(sop_class, str(made.SOPInstanceUID), _EXPLICIT, study, buffer.getvalue())


def _pixels(height: float, number: int) -> bytes:
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    body = np.random.default_rng(number).normal(60, 18, (_SIDE, _SIDE))
    size = 0.8 + 0.2 * np.sin(np.pi * height)
    for middle_x, middle_y, half_x, half_y, bright in _ORGANS:
        body += bright * ((((x - middle_x) / half_x) ** 2 + ((y - middle_y) / half_y) ** 2) < size)
    return body.clip(0, 4095).astype("<u2").tobytes()
