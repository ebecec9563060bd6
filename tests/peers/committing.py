"""A PACS of pynetdicom that stores, is asked (C-FIND), and is asked for storage commitment, by a script.

Whatever was asked and sent is recorded.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import Any, Final, NamedTuple

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_ACTION_RSP
from pynetdicom.events import Event
from pynetdicom.presentation import AllStoragePresentationContexts, PresentationContext, build_context

from tests.peers import wire
from tests.peers.entity import Entity, titles
from tests.peers.ports import wait_for
from tests.peers.pushmodel import PUSH_MODEL, Report, read_action, send_report
from tests.peers.script import Request, Script, Sending, Way, commits

STUDY_ROOT: Final = "1.2.840.10008.5.1.4.1.2.2.1"
_PENDING: Final = 0xFF00
_NO_MATCH_OF_KEYS: Final = 0xA900


class Kept(NamedTuple):
    """What came by C-STORE; `digest` is the SHA-256 of the dataset on the wire."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    digest: bytes


@dataclass(frozen=True, kw_only=True)
class Query:
    """An identifier as it was asked; `keys` are its keywords."""

    level: str
    study_uid: str
    series_uid: str
    sop_instance_uids: tuple[str, ...]
    keys: tuple[str, ...]
    calling: str


@dataclass(frozen=True)
class Sent:
    """A report that was sent; status None: there was no association for it, or no answer on it."""

    sending: Sending
    status: int | None


@dataclass
class _Open:
    """Of an association: what goes on it, or elsewhere, once the answer to its request is out."""

    after: list[Sending] = field(default_factory=list)
    answering: bool = False


class CommittingPacs(Entity):
    """Takes Storage, Verification, Study Root C-FIND and Storage Commitment on the loopback, inside its context.

    `home`: port and title to which new associations go. `script`: see `tests/peers/script`. `store_status(uid)`: the
    answer to a C-STORE. `find_statuses`: with which the next C-FINDs fail. `without`: abstract syntaxes whose
    contexts are refused. All of these may be changed while it runs.

    `kept` is by SOP Instance UID, and what a test removes from it is lost; `stored` counts every C-STORE that was
    answered 0000, in order.
    """

    def __init__(self, title: str = "PACS", port: int | None = None, *, script: Script | None = None) -> None:
        super().__init__(title, port)
        self.home: tuple[int, str] = (0, "EDGE")
        self.script: Script = script or commits()
        self.store_status: Callable[[str], int] = lambda _uid: 0
        self.find_statuses: list[int] = []
        self.without: set[str] = set()
        self.kept: dict[str, Kept] = {}
        self.stored: list[str] = []
        self.requests: list[Request] = []
        self.queries: list[Query] = []
        self.sent: list[Sent] = []
        self.waiting: list[Sending] = []
        self.echoes = 0
        self._lock = threading.Lock()
        self._open: dict[Association, _Open] = {}

    # what a test does

    def report(self, *reports: Report, roles: bool = True) -> list[int | None]:
        """Send these, else all that wait, each on a new association; the statuses that came back."""
        given = [Sending(report=each, roles=roles) for each in reports]
        if not given:
            given, self.waiting = self.waiting, []
        return [self._send(sending) for sending in given]

    def wait_requests(self, count: int, timeout: float = 30.0) -> list[Request]:
        """Until so many N-ACTIONs have come."""
        wait_for(lambda: len(self.requests) >= count, timeout, f"{count} commitment requests at {self.title}")
        return list(self.requests)

    def wait_sent(self, count: int, timeout: float = 30.0) -> list[int | None]:
        """Until so many reports were sent and answered; the statuses."""
        wait_for(lambda: len(self.sent) >= count, timeout, f"{count} reports of {self.title}")
        return [each.status for each in self.sent]

    def asked_for(self, uid: str) -> int:
        """How many requests named the instance."""
        return sum(uid in request.uids for request in self.requests)

    # what pynetdicom calls

    def contexts(self) -> list[PresentationContext]:
        storage = [
            build_context(str(each.abstract_syntax), ALL_TRANSFER_SYNTAXES) for each in AllStoragePresentationContexts
        ]
        return [*storage, *map(build_context, (wire.VERIFICATION, STUDY_ROOT, PUSH_MODEL))]

    def handlers(self) -> list[Any]:
        return [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_DIMSE_SENT, self._on_message),
            (evt.EVT_PDU_SENT, self._on_pdu),
        ]

    def _on_requested(self, event: Event) -> None:
        offered = event.assoc.acceptor
        offered.supported_contexts = [
            context for context in offered.supported_contexts if str(context.abstract_syntax) not in self.without
        ]

    def _on_echo(self, _event: Event) -> int:
        self.echoes += 1
        return 0

    def _on_store(self, event: Event) -> int:
        request: Any = event.request
        uid = str(request.AffectedSOPInstanceUID)
        status = self.store_status(uid)
        if status == 0:
            header = dcmread(BytesIO(event.encoded_dataset()), stop_before_pixels=True)
            self.kept[uid] = Kept(
                str(request.AffectedSOPClassUID),
                uid,
                str(header.get("StudyInstanceUID", "")),
                str(header.get("SeriesInstanceUID", "")),
                hashlib.sha256(request.DataSet.getvalue()).digest(),
            )
            self.stored.append(uid)
        return status

    def _on_find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        identifier = event.identifier
        query = _query(identifier, event.assoc)
        self.queries.append(query)
        if self.find_statuses:
            yield self.find_statuses.pop(0), None
            return
        if query.level != "IMAGE" or not query.study_uid or not query.series_uid:
            # without relational queries the unique keys of the levels above are asked for (PS3.4 C.4.1.2.1)
            yield _NO_MATCH_OF_KEYS, None
            return
        for each in list(self.kept.values()):
            if _matches(query, each):
                yield _PENDING, _match(identifier, each)

    def _on_action(self, event: Event) -> tuple[int, None]:
        transaction, references = read_action(event.action_information)
        calling, called = titles(event.assoc)
        request = Request(
            transaction_uid=transaction,
            references=references,
            calling=calling,
            called=called,
        )
        reply = self.script(request)
        self.requests.append(request)
        self.waiting += [each for each in reply.sendings if each.later]
        due = [each for each in reply.sendings if not each.later]
        for sending in due:
            if sending.way in {Way.BEFORE, Way.AHEAD}:
                self._send(sending, event.assoc)
        with self._lock:
            self._open[event.assoc] = _Open([each for each in due if each.way in {Way.NEW, Way.SAME}])
        return reply.status, None

    def _on_message(self, event: Event) -> None:
        if isinstance(event.message, N_ACTION_RSP) and (state := self._open.get(event.assoc)) is not None:
            state.answering = True

    def _on_pdu(self, event: Event) -> None:
        state = self._open.get(event.assoc)
        if state is None or not state.answering:
            return
        with self._lock:
            self._open.pop(event.assoc, None)
        for sending in state.after:
            self.aside(partial(self._send, sending, event.assoc))

    def _send(self, sending: Sending, association: Association | None = None) -> int | None:
        status: int | None = None
        if association is not None and sending.way in {Way.SAME, Way.BEFORE}:
            if association.is_established:
                status = send_report(association, sending.report)
        else:
            status = self._send_anew(sending)
        self.sent.append(Sent(sending, status))
        return status

    def _send_anew(self, sending: Sending) -> int | None:
        with self.association(*self.home, PUSH_MODEL, scp=sending.roles) as association:
            return None if association is None else send_report(association, sending.report)


def _query(identifier: Dataset, association: Association) -> Query:
    wanted = identifier.get("SOPInstanceUID") or ()
    return Query(
        level=str(identifier.get("QueryRetrieveLevel", "")),
        study_uid=str(identifier.get("StudyInstanceUID", "") or ""),
        series_uid=str(identifier.get("SeriesInstanceUID", "") or ""),
        sop_instance_uids=(wanted,) if isinstance(wanted, str) else tuple(map(str, wanted)),
        keys=tuple(element.keyword for element in identifier),
        calling=titles(association)[0],
    )


def _matches(query: Query, kept: Kept) -> bool:
    return (
        kept.study_uid == query.study_uid
        and kept.series_uid == query.series_uid
        and (not query.sop_instance_uids or kept.sop_instance_uid in query.sop_instance_uids)
    )


def _match(identifier: Dataset, kept: Kept) -> Dataset:
    """The requested keys with what the PACS has of them (PS3.4 C.4.1.1.3)."""
    values = {
        "QueryRetrieveLevel": "IMAGE",
        "StudyInstanceUID": kept.study_uid,
        "SeriesInstanceUID": kept.series_uid,
        "SOPInstanceUID": kept.sop_instance_uid,
        "SOPClassUID": kept.sop_class_uid,
    }
    answer = Dataset()
    for element in identifier:
        setattr(answer, element.keyword, values.get(element.keyword))
    return answer
