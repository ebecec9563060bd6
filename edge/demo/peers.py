"""Both ends of the demonstration: a PACS that can be switched off and commits to what it has, and a modality."""

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from edge.demo.phantom import CT, Image
from edge.dicom import command as dimse
from edge.dicom import status
from edge.dicom.acceptor import Acceptor, Peer, Service
from edge.dicom.association import Association, Message
from edge.dicom.command import CommandField
from edge.dicom.commitment import (
    INSTANCE,
    MOST_BYTES,
    NO_SUCH_INSTANCE,
    ActionInformation,
    Report,
    decode_action,
    encode_report,
)
from edge.dicom.dataset import SYNTAXES
from edge.dicom.pdu import AssociateReject, AssociateRequest, Role
from edge.dicom.requestor import Address, connect
from edge.dicom.uids import STORAGE_COMMITMENT, is_storage
from edge.forward.reach import FAILURES
from edge.model import Failure
from edge.supervise import Supervisor

LOOPBACK: Final = "127.0.0.1"


class _Hashing:
    """A sink that keeps only the digest."""

    pressure = False

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, fragment: memoryview, /) -> None:
        """Hash the fragment."""
        self.hash.update(fragment)

    async def relieve(self) -> None:
        """Nothing to do."""


class Pacs:
    """Counts what it was given, by digest, and commits to keep it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.received: Counter[bytes] = Counter()
        self.port = 0
        self.reports_to = 0
        """The port of the appliance."""
        self._kept: set[str] = set()
        self._supervisor = supervisor
        self._acceptor: Acceptor | None = None

    @property
    def up(self) -> bool:
        """Whether it answers."""
        return self._acceptor is not None

    async def start(self) -> None:
        """Switch on, on the same port as before."""
        services: dict[int, Service] = {CommandField.C_STORE_RQ: self.store, CommandField.N_ACTION_RQ: self.commit}
        self._acceptor = Acceptor(self, services, spawn=self._supervisor.spawn)
        self.port = await self._acceptor.listen(LOOPBACK, self.port)

    async def stop(self) -> None:
        """Switch off, in the middle of whatever there is."""
        if self._acceptor is not None:
            await self._acceptor.close(0)
            self._acceptor = None

    async def store(self, association: Association, message: Message, _peer: Peer, /) -> None:
        """Take one object."""
        sink = _Hashing()
        await association.receive_dataset(message, sink)
        self.received[sink.hash.digest()] += 1
        self._kept.add(message.command.sop_instance_uid)
        association.send_command(message.context.id, dimse.response(message.command, status.SUCCESS))

    async def commit(self, association: Association, message: Message, _peer: Peer, /) -> None:
        """Take a commitment request, and report on it over an association of our own."""
        data = await association.receive_whole(message, MOST_BYTES)
        association.send_command(message.context.id, dimse.response(message.command, status.SUCCESS))
        self._supervisor.spawn(self._report(decode_action(data, message.context.transfer_syntax)), "report")

    async def _report(self, request: ActionInformation) -> None:
        asked = request.references
        report = Report(
            request.transaction_uid,
            tuple(one for one in asked if one.sop_instance_uid in self._kept),
            tuple(Failure(one, NO_SUCH_INSTANCE) for one in asked if one.sop_instance_uid not in self._kept),
        )
        address = Address(host=LOOPBACK, port=self.reports_to, called="EDGE", calling="PACS")
        with contextlib.suppress(*FAILURES):  # then it is asked again
            line = await connect(
                address, [(STORAGE_COMMITMENT, SYNTAXES)], (Role(STORAGE_COMMITMENT, scu=False, scp=True),)
            )
            data = encode_report(report, line.syntax_of(STORAGE_COMMITMENT))
            await line.report(STORAGE_COMMITMENT, INSTANCE, report.event_type, data)
            await line.release()

    def admit(self, request: AssociateRequest, address: str) -> AssociateReject | None:  # noqa: ARG002
        """Let everyone in."""
        return None

    def offers(self, abstract_syntax: str) -> bool:
        """Take every storage SOP class, and commitment."""
        return is_storage(abstract_syntax) or abstract_syntax == STORAGE_COMMITMENT

    def knows(self, transfer_syntax: str, abstract_syntax: str) -> bool:
        """Take every transfer syntax."""
        return abstract_syntax != STORAGE_COMMITMENT or transfer_syntax in SYNTAXES

    def privileged(self, request: AssociateRequest, address: str) -> bool:  # noqa: ARG002
        """Prefer nobody."""
        return False

    def report(self, peer: Peer, text: str) -> None:
        """Nobody asks."""

    def limit(self, peer: Peer, text: str) -> None:
        """Nobody asks."""

    def count(self, associations: int) -> None:
        """Nobody asks."""


async def send_study(port: int, images: Iterable[Image]) -> Counter[int]:
    """Send a study to the appliance on ``port`` as a scanner would; how often each status came back."""
    address = Address(host=LOOPBACK, port=port, called="EDGE", calling="DEMO-CT")
    scanner = await connect(address, [(CT.sop_class_uid, (CT.transfer_syntax_uid,))])
    statuses: Counter[int] = Counter()
    for image in images:
        answer = await scanner.store(CT, image.sop_instance_uid, len(image.dataset), _reader(image.dataset))
        statuses[-1 if answer.status is None else answer.status] += 1
    await scanner.release()
    return statuses


def _reader(data: bytes) -> Callable[[int], Awaitable[bytes]]:
    at = 0

    async def read(count: int) -> bytes:
        nonlocal at
        at += count
        return data[at - count : at]

    return read


async def until(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Poll an asynchronous condition for at most ``seconds``; whether it came true."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        if await condition():
            return True
        await asyncio.sleep(0.1)
    return False
