"""Storage commitment as SCP (PS3.4 J.3.2): a modality asks whether its images are safe, and is answered later.

The request is on record before it is answered 0000; from then on the modality is owed a report, which
`edge/forward/answers.py` delivers. Who could not be reached with one is told so at once, with 0110.
"""

import asyncio
import ipaddress
from collections.abc import Sequence

import structlog

from edge.config import Modality
from edge.dicom import command as dimse
from edge.dicom import status
from edge.dicom.acceptor import Peer, describe
from edge.dicom.association import Association, Message
from edge.dicom.commitment import ACTION_TYPE, INSTANCE, MOST_BYTES, decode_action
from edge.dicom.dataset import InvalidDatasetError
from edge.dicom.uids import STORAGE_COMMITMENT
from edge.findings import Journal
from edge.phrase import say
from edge.store import Store, StoreError, TooManyError

log = structlog.get_logger()


class PromiseService:
    """Serves N-ACTION-RQ."""

    def __init__(self, modalities: Sequence[Modality], store: Store, journal: Journal) -> None:
        self._modalities = [
            (m.ae_title, None if m.address is None else ipaddress.ip_network(m.address, strict=False))
            for m in modalities
            if m.commitment is not None
        ]
        self._store = store
        self._journal = journal

    async def __call__(self, association: Association, message: Message, peer: Peer, /) -> None:
        """Take one request and answer. Raises what `Association` raises when the peer goes away."""
        dataset = await association.receive_whole(message, MOST_BYTES)
        code, comment = await self._take(message, dataset, peer)
        association.send_command(message.context.id, dimse.response(message.command, code, comment))

    async def _take(self, message: Message, dataset: bytes, peer: Peer) -> tuple[int, str]:
        command = message.command
        if message.context.abstract_syntax != STORAGE_COMMITMENT:
            return status.UNRECOGNIZED_OPERATION, ""
        if command.sop_instance_uid != INSTANCE:
            return status.NO_SUCH_SOP_INSTANCE, "Only the well-known instance is here"
        if command.action_type != ACTION_TYPE:
            return status.NO_SUCH_ACTION, ""
        if not self._reachable(peer):
            text = say(
                "{who} asked for storage commitment, and nothing says where its report would go.", who=describe(peer)
            )
            self._journal.note("COMMITMENT_UNKNOWN_REQUESTER", f"title.{peer.calling}", text)
            return status.PROCESSING_FAILURE, "No way back for the report is configured"
        try:
            request = await asyncio.to_thread(decode_action, dataset, message.context.transfer_syntax)
        except InvalidDatasetError as e:
            return status.INVALID_ARGUMENT_VALUE, str(e)
        try:
            await self._store.promise(peer.calling, peer.called, peer.address, request)
        except TooManyError as e:
            return status.RESOURCE_LIMITATION, str(e)
        except StoreError as e:
            log.warning("a commitment request could not be recorded", error=str(e))
            return status.PROCESSING_FAILURE, "It could not be recorded; ask again"
        return status.SUCCESS, ""

    def _reachable(self, peer: Peer) -> bool:
        try:
            at = ipaddress.ip_address(peer.address)
        except ValueError:  # it has gone already
            return False
        return any(peer.calling == title and (network is None or at in network) for title, network in self._modalities)
