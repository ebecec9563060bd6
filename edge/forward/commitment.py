"""Storage commitment as SCU (PS3.4 annex J): asking a destination whether it keeps what it took.

Its report comes now or hours later, on this association or on one that the destination makes; both end in `Reports`.
A request whose report never comes is no matter of this module: `Verifier` asks again.
"""

import asyncio
from typing import Final, Protocol

import msgspec

from edge.dicom import status
from edge.dicom.association import Message, ReleasedError
from edge.dicom.commitment import ACTION_TYPE, INSTANCE, ActionInformation, encode_action
from edge.dicom.dataset import SYNTAXES
from edge.dicom.requestor import Requestor
from edge.dicom.uids import STORAGE_COMMITMENT
from edge.forward.outcome import Declined, Unreachable, Unsupported
from edge.forward.reach import FAILURES, Caller
from edge.forward.reports import Reports
from edge.phrase import say

_LINGER: Final = 10.0
"""Seconds for which the association is kept for a report that comes on it at once."""
_SHORT: Final = 0.5
"""The same for a destination that reports elsewhere, or later: it has others to be asked about."""
_LOOK: Final = 0.2
"""Seconds between two looks whether the report came elsewhere."""


class Asked(msgspec.Struct, frozen=True):
    """The request was taken: a report comes, or has come."""


class Asking(Protocol):
    """A way to ask one destination for storage commitment."""

    async def ask(self, request: ActionInformation) -> Asked | Unsupported | Declined | Unreachable:
        """Send ``request``, which is on record, and take what is said of it at once. Raises `StoreError`."""
        ...

    async def collect(self) -> Unreachable | None:
        """Fetch what is due of what was asked, where it does not come by itself; what kept it from that.

        To be called often. Raises `StoreError`.
        """
        ...


_NO_SERVICE: Final = frozenset(
    {
        status.NO_SUCH_SOP_INSTANCE,
        status.NO_SUCH_SOP_CLASS,
        status.SOP_CLASS_NOT_SUPPORTED,
        status.NO_SUCH_ACTION,
        status.UNRECOGNIZED_OPERATION,
    }
)


class Commitment:
    """Asks one destination; ``reports`` takes what it reports on our own association."""

    def __init__(self, caller: Caller, reports: Reports) -> None:
        self._caller = caller
        self._reports = reports
        self._linger = _LINGER

    async def ask(self, request: ActionInformation) -> Asked | Unsupported | Declined | Unreachable:
        """Send ``request``, which is on record, and take a report that follows at once. Raises `StoreError`."""

        async def talk(requestor: Requestor) -> Asked | Unsupported | Declined:
            with self._reports.expected(request.transaction_uid) as came:
                answer = await self._request(requestor, request)
                if isinstance(answer, Asked):
                    await self._listen(requestor, came)
            return answer

        return await self._caller.converse(STORAGE_COMMITMENT, SYNTAXES, "storage commitment", talk)

    async def collect(self) -> Unreachable | None:
        """There is nothing to fetch: it reports."""

    async def _request(self, requestor: Requestor, request: ActionInformation) -> Asked | Unsupported | Declined:
        syntax = requestor.syntax_of(STORAGE_COMMITMENT)
        answer = await requestor.action(
            STORAGE_COMMITMENT, INSTANCE, ACTION_TYPE, encode_action(request, syntax), self._take
        )
        if answer.status == status.SUCCESS:
            return Asked()
        code = "no status" if answer.status is None else f"{answer.status:04X}"
        detail = say("it answered {code}", code=code) + (f": {answer.error_comment}" if answer.error_comment else "")
        return Unsupported(detail) if answer.status in _NO_SERVICE else Declined(code, detail)

    async def _listen(self, requestor: Requestor, came: asyncio.Event) -> None:
        """Wait for the report on this association, until it came wherever.

        The request was taken: who ends the association now, in whatever way, reports elsewhere or later.
        """
        loop, heard = asyncio.get_running_loop(), False
        deadline = loop.time() + self._linger
        try:
            while not came.is_set() and (left := deadline - loop.time()) > 0:
                heard |= await requestor.listen(min(left, _LOOK), self._take)
        except ReleasedError:
            pass
        except FAILURES:
            await requestor.abort()
        self._linger = _LINGER if heard or came.is_set() else max(_SHORT, self._linger / 2)

    async def _take(self, message: Message, dataset: bytes) -> int:
        return await self._reports.take(message, dataset, self._caller.destination.name)
