"""An appliance, its senders and its PACS, as the rigs use them.

The appliance is the installed command in a process of its own; the PACS keeps digests and outlives every crash.
"""

import random
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from scripts.rigs.ledger import Ledger
from tests.appliance import Edge, dimse
from tests.peers import wire
from tests.peers.objects import CT, MR, DicomObject, ct, mr, part10
from tests.peers.ports import wait_for
from tests.peers.raw import NoStatusError, RawReceiver, RawSender, Rejected

GONE: Final = (OSError, NoStatusError, wire.MalformedError)
"""What a sender meets when the appliance dies under it."""
_CONTEXTS: Final = [(CT, [wire.EXPLICIT_LITTLE]), (MR, [wire.EXPLICIT_LITTLE])]
STORAGE: Final = "storage"
"""The storage path in the folder of an appliance."""
EXPORT: Final = "export"
"""The watched folder; in the storage path, so that calls on it are calls on the storage."""
HALF: Final = "half"
"""A file in it that is never taken."""
_WATCH: Final = '[[watch]]\npath = "{}"\nsettle = "200ms"\nrescan = "1s"\n'
_LARGE: Final = 0.2
"""The share of CT among what `mixture` makes."""
_SERIES: Final = 8


def destination(pacs: RawReceiver) -> str:
    """Write the [[destination]] that leads to ``pacs``."""
    return dimse("pacs", pacs.port) + 'timeouts = { connect = "2s", response = "5s" }\n'


def mixture(dice: random.Random) -> Iterator[DicomObject]:
    """Make CT images of 525 KB and MR images of 12 KB without end, in short series."""
    while True:
        yield from ct(1) if dice.random() < _LARGE else mr(_SERIES)


class Site:
    """One appliance below ``folder``, with the ledger of what it promised."""

    def __init__(
        self,
        folder: Path,
        pacs: RawReceiver,
        *,
        store: str = "",
        ledger: Ledger | None = None,
        kind: type[Edge] = Edge,
        wrapper: Sequence[str] = (),
        watched: bool = False,
    ) -> None:
        """``watched``: the appliance also takes files from `export`."""
        self.pacs = pacs
        self.ledger = ledger or Ledger()
        more = _WATCH.format(folder / STORAGE / EXPORT) if watched else ""
        self.edge = kind(folder, destination(pacs), more=more, store=store, wrapper=wrapper)
        self.export = self.edge.storage / EXPORT

    def drop(self, objects: Iterable[DicomObject]) -> None:
        """Put objects into the watched folder, as files."""
        self.export.mkdir(parents=True, exist_ok=True)
        for number, obj in enumerate(objects):
            obj.write(self.export / f"IM{number}")
            self.ledger.begin(obj)

    def released(self) -> None:
        """Note as promised what the appliance has let go of: the files that it moved."""
        done = self.export / "done"
        for path in list(done.iterdir()) if done.exists() else []:
            if path.suffix == ".zip":
                with zipfile.ZipFile(path) as archive:
                    (member,) = archive.namelist()
                    path = Path(archive.extract(member, self.edge.folder))  # noqa: PLW2901 - what lies in it
            self.ledger.answered(self.ledger.begin(part10(path)), 0)

    def configure(self, store: str) -> None:
        """Write the configuration for the next start, with ``store`` as further lines of [storage]."""
        self.edge.configure(destination(self.pacs), store=store)

    def send(self, objects: Iterable[DicomObject], *, calling: str = "RAW", timeout: float = 30.0) -> None:
        """Send on one association until ``objects`` end or the appliance is gone; the ledger knows the rest."""
        try:
            with RawSender(self.edge.port, calling=calling, timeout=timeout) as sender:
                sender.associate(_CONTEXTS)
                for obj in objects:
                    item = self.ledger.begin(obj)
                    self.ledger.answered(item, sender.store(obj))
        except Rejected as e:
            self.ledger.failed(f"RJ {e.result}/{e.source}/{e.reason}")
        except TimeoutError:
            self.ledger.failed("timeout")
        except GONE:
            self.ledger.failed("gone")

    def start(self) -> float:
        """Start the appliance; the seconds from then until it answered an object with 0000."""
        begun = time.monotonic()
        self.edge.start()
        self.probe()
        return time.monotonic() - begun

    def probe(self, timeout: float = 30.0) -> None:
        """Send one small object until it is answered 0000. Raises TimeoutError."""

        def answered() -> bool:
            before = len(self.ledger.promised)
            self.send(mr(1), calling="PROBE")
            return len(self.ledger.promised) > before

        wait_for(answered, timeout, "a probe is answered 0000")


class Senders:
    """Modalities that send at once, each on one association, until they are stopped or the appliance is gone."""

    def __init__(self, site: Site, dice: random.Random, count: int, most: int) -> None:
        self._stop = threading.Event()
        streams = [mixture(random.Random(dice.random())) for _ in range(count)]
        self._threads = [
            threading.Thread(
                target=site.send,
                args=(self._until_stopped(islice(stream, most)),),
                kwargs={"calling": f"CT{number}"},
                name=f"sender {number}",
            )
            for number, stream in enumerate(streams)
        ]

    def start(self) -> None:
        """Start them all."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each finish the object it sends; return when all have ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _until_stopped(self, objects: Iterable[DicomObject]) -> Iterator[DicomObject]:
        for obj in objects:
            if self._stop.is_set():
                return
            yield obj
