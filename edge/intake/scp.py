"""C-STORE as SCP (PS3.4 B.2, PS3.7 9.1.1): a message in, a status out, nothing decided here.

The answer is 0000 or a failure, never a warning: many modalities take a warning for a failure.
"""

from collections.abc import Callable

from edge.dicom import command as dimse
from edge.dicom import status
from edge.dicom.acceptor import Peer
from edge.dicom.association import Association, Discard, Message
from edge.dicom.uids import accepts_as_storage, valid_uid
from edge.intake.door import Door, MismatchError, NoRoomError, RefusedError
from edge.model import BACKGROUND, DIMSE, STAT, Kind, Source

_LONGEST_UID = 64
_ASKED = {1: STAT, 2: BACKGROUND}
"""Priority (0000,0700), PS3.7 9.3.1.1: high and low."""


class StoreService:
    """Serves C-STORE-RQ."""

    def __init__(self, door: Door, received: Callable[[Peer], None] = lambda _: None) -> None:
        """``received`` hears whose object was answered with success."""
        self._door = door
        self._received = received

    async def __call__(self, association: Association, message: Message, peer: Peer, /) -> None:
        """Receive one object and answer. Raises what `Association` raises when the peer goes away."""
        code, comment = await self._receive(association, message, peer)
        association.send_command(message.context.id, dimse.response(message.command, code, comment))

    async def _receive(self, association: Association, message: Message, peer: Peer) -> tuple[int, str]:
        command = message.command
        if not command.has_dataset:
            return status.CANNOT_UNDERSTAND, "C-STORE without a dataset"
        if not (_storage(message.context.abstract_syntax) and _storage(command.sop_class_uid)):
            # what is no storage is not stored, whatever the context
            await association.receive_dataset(message, Discard())
            return status.SOP_CLASS_NOT_SUPPORTED, "Not a storage SOP class"
        if not (valid_uid(command.sop_class_uid) and _storable(command.sop_instance_uid)):
            await association.receive_dataset(message, Discard())
            return status.CANNOT_UNDERSTAND, "Affected SOP UIDs missing or malformed"
        source = Source(
            door=DIMSE,
            calling=peer.calling,
            called=peer.called,
            address=peer.address,
            priority=_ASKED.get(command.priority),
        )
        kind = Kind(command.sop_class_uid, message.context.transfer_syntax)
        try:
            incoming = self._door.begin(kind, command.sop_instance_uid, source)
        except NoRoomError as e:
            await association.receive_dataset(message, Discard())
            return status.OUT_OF_RESOURCES, str(e)
        try:
            await association.receive_dataset(message, incoming)
        except BaseException:
            self._door.discard(incoming)
            raise
        try:
            await self._door.finish(incoming)
        except NoRoomError as e:
            return status.OUT_OF_RESOURCES, str(e)
        except MismatchError as e:
            return status.DATASET_MISMATCH, str(e)
        except RefusedError as e:
            return status.CANNOT_UNDERSTAND, str(e)
        self._received(peer)
        return status.SUCCESS, ""


def _storable(uid: str) -> bool:
    """Whether a SOP Instance UID can be kept as a value: vendors make odd ones, so only nonsense is refused."""
    return 0 < len(uid) <= _LONGEST_UID and uid.isascii() and uid.isprintable()


def _storage(uid: str) -> bool:
    """Whether ``uid`` may be a storage SOP class; what is no UID at all is answered elsewhere."""
    return not valid_uid(uid) or accepts_as_storage(uid, private=True)
