"""A box on the bench: its card, a modality that sends to it and a PACS that it sends to, all on this machine."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from box import boot
from box.card import Card
from box.qemu import Hardware, Machine, MachineError
from box.rootfs import Arch
from box.toolbox import Toolbox
from tests.peers import wire
from tests.peers.line import PeerClosedError
from tests.peers.objects import DicomObject, tiny
from tests.peers.ports import free_port, wait_for
from tests.peers.raw import Aborted, NoStatusError, RawReceiver, RawSender, Rejected, Released

BOOT: Final = 600.0
"""Seconds that a start may take: under emulation, beside other load."""
BROKEN: Final = (OSError, PeerClosedError, NoStatusError, Aborted, Rejected, Released)
"""What a modality sees of a box that goes away."""
PROVISION: Final = '[box]\nhostname = "bench-box"\n\n[dashboard]\npassword = "bench-box-1"\n'


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """What was built, for one architecture, in the folder of the build."""

    arch: Arch
    image: Path
    work: Path
    """Where kernel and initial file system of slot A lie by themselves."""
    bundle: Path | None = None


class Stand:
    """One box with its surroundings, in ``folder``."""

    def __init__(self, image: Image, toolbox: Toolbox, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.image = image
        self.toolbox = toolbox
        self.folder = folder
        self.card = Card.flash(image.image, folder / "card.img", toolbox)
        self.dicom, self.dashboard, self.pacs_port = free_port(), free_port(), free_port()
        self.acknowledged: dict[str, bytes] = {}
        """SHA-256 on the wire of every object that the box answered 0000, by SOP Instance UID."""
        self._arrived: set[bytes] = set()

    def provision(self, configuration: str | None = None, *, provision: str = PROVISION, more: str = "") -> None:
        """Put what a clinic puts on the card, before a start; ``more`` stands at the end of the configuration."""
        text = (configuration or boot.configuration(self.pacs_port)) + more
        for name, content in (("provision.toml", provision), ("edge.toml", text)):
            (self.folder / name).write_text(content)
        self.card.put([self.folder / "provision.toml", self.folder / "edge.toml"])

    def hardware(self, **more: Any) -> Hardware:
        """The machine; see `Hardware` for what may be asked of it."""
        ports = {self.dicom: 11112, self.dashboard: 443}
        return boot.slot_a(self.image.arch, self.card.path, self.image.work, ports=ports, **more)

    @contextmanager
    def running(self, *, login: bool = True, seconds: float = BOOT, **more: Any) -> Iterator[Machine]:
        """A start from the card; the plug is pulled at the end. Raises `MachineError`."""
        with Machine(self.hardware(**more), self.toolbox, self.folder) as machine:
            if login:
                machine.login(seconds)
            yield machine

    def receiver(self) -> RawReceiver:
        """The PACS that the box is told of: a context."""
        return RawReceiver(port=self.pacs_port)

    def serving(self, seconds: float = BOOT) -> None:
        """Wait until the box answers a C-ECHO."""
        until(self._echoes, seconds, "the box answers no C-ECHO")

    def _echoes(self) -> bool:
        try:
            with RawSender(self.dicom, timeout=10) as sender:
                sender.associate([(wire.VERIFICATION, [wire.IMPLICIT_LITTLE])])
                return sender.echo() == 0
        except BROKEN:
            return False

    def send(self, objects: Sequence[DicomObject] | None = None, *, number: int = 10) -> int:
        """Send objects over one association; how many were answered 0000 before it broke off, if it did."""
        done = 0
        try:
            with RawSender(self.dicom, timeout=60) as sender:
                wanted = list(objects if objects is not None else tiny(number))
                sender.associate(sorted({(one.sop_class_uid, (one.transfer_syntax_uid,)) for one in wanted}))
                for one in wanted:
                    if sender.store(one) == 0:
                        self.acknowledged[one.sop_instance_uid] = one.wire_digest
                        done += 1
        except BROKEN:
            pass
        return done

    def missing(self, receiver: RawReceiver) -> list[str]:
        """SOP Instance UIDs that were acknowledged and did not arrive as they were sent."""
        self._arrived |= {one.digest for one in receiver.received}
        return [uid for uid, digest in self.acknowledged.items() if digest not in self._arrived]


def status(machine: Machine) -> dict[str, Any]:
    """`edge status --json` inside."""
    code, text = machine.run("edge status --json", seconds=120)
    if code:
        raise MachineError(f"edge status ended with {code}: {text}")
    found: dict[str, Any] = json.loads(text)
    return found


def owes(stand: Stand, machine: Machine) -> list[str]:
    """What is wrong with the queue inside, of a box that has delivered nothing yet."""
    owed, expected = status(machine)["queue"]["instances"], len(stand.acknowledged)
    return [] if owed == expected else [f"the queue has {owed} images, and {expected} were answered 0000"]


def until(check: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something inside. Raises `MachineError`."""
    try:
        wait_for(check, seconds, what)
    except TimeoutError as e:
        raise MachineError(str(e)) from None
