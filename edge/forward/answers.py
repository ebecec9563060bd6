"""Answers to modalities that asked for storage commitment (PS3.4 J.3.3): one report a request, until it is taken.

Each report goes over an association of its own, on which we propose to be the SCP (PS3.7 D.3.3.4). A modality that
does not listen is called again, less and less often, and for ever; while it is called others are called and decided
for. A report that it refuses as such is over: the trail says so.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal

import msgspec
import structlog

from edge.clock import Clock
from edge.config import Modality
from edge.dicom import status
from edge.dicom.commitment import INSTANCE, Report, encode_report
from edge.dicom.dataset import SYNTAXES
from edge.dicom.pdu import Role
from edge.dicom.requestor import Address, NoContextError, Requestor, connect
from edge.dicom.uids import STORAGE_COMMITMENT
from edge.findings import Journal
from edge.forward.backoff import backoff
from edge.forward.reach import FAILURES, over
from edge.phrase import N_, say
from edge.store import Answer, Store, StoreError

log = structlog.get_logger()

GRACE: Final = 60.0
"""Seconds that an instance may still be on its way here before we say that we do not know it."""
_POLL: Final = 1.0
_CALLS: Final = 8
"""Modalities called at once."""
_DAY: Final = 86_400.0
_HOUR: Final = 3600.0
_OVERDUE: Final = 600.0
"""Seconds after which a report that cannot be delivered is a finding."""
_REFUSED: Final = frozenset({status.NO_SUCH_EVENT_TYPE, status.UNRECOGNIZED_OPERATION, status.NO_SUCH_SOP_CLASS})
"""Answers after which the same report would be refused again."""


class Taken(msgspec.Struct, frozen=True):
    """The report is over; ``note`` says what is odd about it."""

    note: str = ""


class Answers:
    """Decides what can be answered, and delivers it. ``refuse_after`` is in seconds."""

    def __init__(
        self,
        modalities: Sequence[Modality],
        answer: Literal["stored", "delivered"],
        refuse_after: float,
        store: Store,
        journal: Journal,
        clock: Clock,
        random: Callable[[], float],
        on_record: Callable[[], bool],
    ) -> None:
        """``on_record``: whether every file that lies here is on record, so that what is not is unknown."""
        self._modalities = modalities
        self._answer = answer
        self._refuse_after = refuse_after
        self._store = store
        self._journal = journal
        self._clock = clock
        self._random = random
        self._on_record = on_record
        self._calls: dict[str, asyncio.Task[None]] = {}
        """Modalities that are being called."""

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            while True:
                try:
                    busy = await self.turn()
                except StoreError as e:
                    log.warning("no commitment is answered while the store does not serve", error=str(e))
                    busy = False
                if not busy:
                    await asyncio.sleep(_POLL)
        finally:
            await self.close()

    async def close(self) -> None:
        """End every call."""
        calls = list(self._calls.values())
        self._calls.clear()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def turn(self) -> bool:
        """Decide what can be decided, call whom a report is due, and wait for a moment; whether a call has ended.

        Raises `StoreError`, also where what a modality answered could not be recorded: then it is called again.
        """
        if self._on_record():
            await self._store.decide_promises(self._answer, GRACE, self._refuse_after)
        if (free := _CALLS - len(self._calls)) > 0:
            for answer in await self._store.due_answers(free, self._calls.keys()):
                self._calls[answer.calling] = asyncio.create_task(self._deliver(answer))
        if not self._calls:
            return False
        await asyncio.wait(self._calls.values(), timeout=_POLL, return_when=asyncio.FIRST_COMPLETED)
        ended = [calling for calling, call in self._calls.items() if call.done()]
        for call in [self._calls.pop(calling) for calling in ended]:
            call.result()
        return bool(ended)

    async def _deliver(self, answer: Answer) -> None:
        said = await self._call(answer)
        if isinstance(said, Taken):
            self._journal.clear("REPORT_UNDELIVERED", f"title.{answer.calling}")
            await self._store.answered(answer.promise, said.note)
            return
        now = self._clock.monotonic()
        wait = backoff(answer.tries + 1, self._random) if answer.age < _DAY else _HOUR
        await self._store.answer_failed(answer.promise, now + wait, said)
        if answer.age > _OVERDUE:
            text = say(
                "{title} asked whether its images are safe and cannot be told: {why}.", title=answer.calling, why=said
            )
            self._journal.state("REPORT_UNDELIVERED", f"title.{answer.calling}", text)

    async def _call(self, answer: Answer) -> "Taken | str":
        """Report over an association of its own; that it was taken, or what hindered it."""
        where = address_of(self._modalities, answer)
        if where is None:
            return N_("no [[modality]] says where its reports go")
        try:
            requestor = await connect(
                where, [(STORAGE_COMMITMENT, SYNTAXES)], (Role(STORAGE_COMMITMENT, scu=False, scp=True),)
            )
            code = await over(requestor, partial(_report, answer))
        except UnicodeError:
            return say("{host} is no name of a host", host=where.host)
        except NoContextError:
            return say("{host} port {port} takes no reports of storage commitment", host=where.host, port=where.port)
        except FAILURES as e:
            return say("{host} port {port}: {error}", host=where.host, port=where.port, error=e)
        if code == status.SUCCESS:
            return Taken()
        if code in _REFUSED:
            return Taken(say("it answered {code} and takes no such reports", code=f"{code:04X}"))
        if code is None:
            return say("{host} port {port} answered nothing", host=where.host, port=where.port)
        return say("{host} port {port} answered {code}", host=where.host, port=where.port, code=f"{code:04X}")


async def _report(answer: Answer, requestor: Requestor) -> int | None:
    """Report over an association; the status that it is answered with, None where there is none."""
    report = Report(answer.transaction_uid, answer.committed, answer.failed)
    dataset = await asyncio.to_thread(encode_report, report, requestor.syntax_of(STORAGE_COMMITMENT))
    return (await requestor.report(STORAGE_COMMITMENT, INSTANCE, report.event_type, dataset)).status


def address_of(modalities: Sequence[Modality], answer: Answer) -> Address | None:
    """Where the modality wants its report: as the configuration says now."""
    for modality in modalities:
        if modality.ae_title != answer.calling or modality.commitment is None:
            continue
        if modality.address is not None and not _within(answer.address, modality.address):
            continue
        report = modality.commitment
        return Address(
            host=report.host or modality.address or "", port=report.port, called=report.ae_title, calling=answer.called
        )
    return None


def _within(address: str, network: str) -> bool:
    """Whether ``address``, which may be unknown, is in ``network``."""
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
