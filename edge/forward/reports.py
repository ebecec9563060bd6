"""Reports of storage commitment that come in (PS3.4 J.3.3), on whatever association: recorded, then answered.

A report counts for the request that its transaction UID names, whoever brings it: the UID is random and was told to
the destination alone. What it says takes effect in one transaction, before the answer.
"""

import asyncio
import contextlib
from collections.abc import Iterator

import structlog

from edge.dicom import command as dimse
from edge.dicom import status
from edge.dicom.acceptor import Peer, describe
from edge.dicom.association import Association, Message
from edge.dicom.commitment import ALL_COMMITTED, MOST_BYTES, SOME_FAILED, Report, decode_report
from edge.dicom.dataset import InvalidDatasetError
from edge.dicom.uids import STORAGE_COMMITMENT
from edge.findings import Journal
from edge.phrase import say
from edge.store import Store, StoreError

log = structlog.get_logger()


class Reports:
    """Takes N-EVENT-REPORT of the Storage Commitment Push Model; a `Service` of the acceptor too."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        self._expected: dict[str, asyncio.Event] = {}

    async def __call__(self, association: Association, message: Message, peer: Peer, /) -> None:
        """Take one report on an association that a peer made. Raises what `Association` raises."""
        dataset = await association.receive_whole(message, MOST_BYTES)
        code = await self.take(message, dataset, describe(peer))
        association.send_command(message.context.id, dimse.response(message.command, code))

    @contextlib.contextmanager
    def expected(self, transaction_uid: str) -> Iterator[asyncio.Event]:
        """Give an event that is set once a report on this request is on record, for as long as the context lasts."""
        self._expected[transaction_uid] = came = asyncio.Event()
        try:
            yield came
        finally:
            del self._expected[transaction_uid]

    async def take(self, message: Message, dataset: bytes, who: str) -> int:
        """Record what ``dataset`` of an N-EVENT-REPORT says and return the status to answer it with."""
        command, context = message.command, message.context
        if context.abstract_syntax != STORAGE_COMMITMENT:
            return status.UNRECOGNIZED_OPERATION
        if command.event_type not in (ALL_COMMITTED, SOME_FAILED):
            return status.NO_SUCH_EVENT_TYPE
        try:
            # some thousand UIDs take a while
            report = await asyncio.to_thread(decode_report, dataset, context.transfer_syntax)
        except InvalidDatasetError as e:
            self._journal.note(
                "REPORT_UNUSABLE",
                "commitment",
                say("{who} sent a commitment report that is none: {error}.", who=who, error=e),
            )
            return status.INVALID_ARGUMENT_VALUE
        return await self._record(report, who)

    async def _record(self, report: Report, who: str) -> int:
        try:
            came_of_it = await self._store.report_arrived(report)
        except StoreError as e:
            log.warning("a commitment report could not be recorded", error=str(e))
            return status.PROCESSING_FAILURE  # it is sent again, or asked for again
        if not came_of_it.known:
            text = say("{who} reported on a commitment that nobody here asked for.", who=who)
            self._journal.note("REPORT_UNUSABLE", "commitment", text)
            return status.PROCESSING_FAILURE
        if came := self._expected.get(report.transaction_uid):
            came.set()
        return status.SUCCESS
