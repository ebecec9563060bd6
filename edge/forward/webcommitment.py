"""Storage commitment by DICOMweb, as user agent (PS3.18 chapter 13): asking, and fetching the result.

A server says at once what it commits to, or that it is working on it: then its result is checked for, in the pace that
it asks for and ever more rarely, for as long as the store waits for it, across restarts. A result counts as a report
does (`Reports`): for what its request named, in the same verdicts. Whatever else is answered proves nothing.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from edge.clock import Clock
from edge.dicom.commitment import DUPLICATE_TRANSACTION, ActionInformation, Report
from edge.dicomweb.answer import UnreadableError
from edge.dicomweb.client import Answer, Client
from edge.dicomweb.commitment import MEDIA_TYPE, Request, result
from edge.dicomweb.errors import LostError, SilentError, WebError
from edge.dicomweb.retry import retry_after
from edge.findings import Journal
from edge.forward.commitment import Asked
from edge.forward.outcome import Declined, Unreachable, Unsupported
from edge.forward.web import Web
from edge.model import Failure
from edge.phrase import say
from edge.store import Store

log = structlog.get_logger()

FIRST: Final = 5.0
"""Seconds before a result is checked for, doubling to `LONGEST`; a little less or more, so that many spread."""
LONGEST: Final = 600.0
_DOUBLINGS: Final = 10
PATIENT: Final = 150
"""Checks, which take a day, after which one is made an hour."""
_HOUR: Final = 3600.0
_MOST_CHECKS: Final = 8
"""Results checked for before something else has its turn."""
_OK: Final = 200
_WORKING: Final = frozenset({201, 202, 204})
"""202 is the standard's; the others say as much. What is answered with them is no result."""
_IN_USE: Final = 409
_NO_SERVICE: Final = frozenset({404, 405, 501})
_FORGOTTEN: Final = frozenset({404, 410})
_DESTINATION: Final = frozenset({401, 403, 429})
_SERVER: Final = 500
_GATEWAY: Final = frozenset({502, 504})
"""What stands before the server lost patience with it, which may go on all the same."""


class _Check(msgspec.Struct, frozen=True):
    """When a result is checked for next, by the monotonic clock, and how often it was."""

    at: float
    times: int = 0


class WebCommitment:
    """Asks one destination, and fetches its results."""

    def __init__(
        self,
        name: str,
        web: Web,
        store: Store,
        *,
        journal: Journal,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        """``random`` returns numbers from 0 to 1."""
        self._name = name
        self._web = web
        self._store = store
        self._journal = journal
        self._clock = clock
        self._random = random
        self._checks: dict[str, _Check] = {}
        """By transaction UID: the requests that were taken and are not answered yet."""
        self._loaded = False

    async def ask(self, request: ActionInformation) -> Asked | Unsupported | Declined | Unreachable:
        """Send ``request``, which is on record, and take a result that is given at once. Raises `StoreError`."""
        client = await self._web.client()
        if isinstance(client, Unreachable):
            return client
        try:
            return await self._ask(client, request)
        finally:
            await client.close()

    async def collect(self) -> Unreachable | None:
        """Check for the results that are due. Raises `StoreError`."""
        await self._load()
        now = self._clock.monotonic()
        due = sorted((check.at, uid) for uid, check in self._checks.items() if check.at <= now)[:_MOST_CHECKS]
        if not due:
            return None
        client = await self._web.client()
        if isinstance(client, Unreachable):
            return client
        try:
            for _, uid in due:
                if (failed := await self._check(client, uid)) is not None:
                    return failed
        finally:
            await client.close()
        return None

    async def _load(self) -> None:
        """Take up what an earlier run had asked and not been answered."""
        if not self._loaded:
            for uid in await self._store.waited_for(self._name):
                self._checks.setdefault(uid, _Check(self._clock.monotonic() + self._wait(0)))
            self._loaded = True

    async def _ask(self, client: Client, request: ActionInformation) -> Asked | Unsupported | Declined | Unreachable:
        try:
            answer = await client.post(_path(request.transaction_uid), Request(request.references), MEDIA_TYPE)
        except (LostError, SilentError) as e:
            return await self._perhaps(client, request, self._web.diagnose(e, midway=True))
        except WebError as e:
            return self._web.diagnose(e, midway=True)
        if answer.status in _GATEWAY:
            return await self._perhaps(client, request, self._web.answered(answer, midway=True))
        if answer.status == _IN_USE:
            # as if it had said so of each in a report: another UID is taken
            failed = tuple(Failure(reference, DUPLICATE_TRANSACTION) for reference in request.references)
            await self._store.report_arrived(Report(request.transaction_uid, (), failed))
            return Asked()
        if answer.status == _OK or answer.status in _WORKING:
            return await self._taken(request, answer)
        return self._refused(answer)

    async def _perhaps(self, client: Client, request: ActionInformation, lost: Unreachable) -> Asked | Unreachable:
        """Look whether a request whose answer was lost was taken all the same."""
        try:
            answer = await client.get(_path(request.transaction_uid), MEDIA_TYPE)
        except WebError:
            return lost
        if answer.status not in (_OK, 202):
            return lost
        return Asked() if isinstance(await self._taken(request, answer), Asked) else lost

    async def _taken(self, request: ActionInformation, answer: Answer) -> Asked | Unreachable:
        """Act on the result, if there is one already; else it is checked for."""
        uid = request.transaction_uid
        if answer.status != _OK or not answer.body.strip():
            self._checks[uid] = _Check(self._clock.monotonic() + self._wait(0, answer))
            return Asked()
        try:
            report = await _report(uid, answer)
        except UnreadableError as e:
            self._unusable(str(e))
            return self._web.diagnose(e, midway=True)
        self._checks[uid] = _Check(self._clock.monotonic() + self._wait(0))  # until it is on record
        await self._store.report_arrived(report)
        del self._checks[uid]
        return Asked()

    def _refused(self, answer: Answer) -> Unsupported | Declined | Unreachable:
        detail = say("it answered {status} to a request for storage commitment", status=answer.status)
        if answer.status in _NO_SERVICE:
            return Unsupported(detail)
        if answer.status in _DESTINATION or answer.status >= _SERVER:
            return self._web.answered(answer, midway=True)
        return Declined(str(answer.status), detail)

    async def _check(self, client: Client, uid: str) -> Unreachable | None:
        """Check for one result; what fails on it alone is checked for again, and holds up no other."""
        if not await self._store.waits(uid):
            del self._checks[uid]
            return None
        # whatever comes of it, others are next
        self._put_off(uid)
        try:
            answer = await client.get(_path(uid), MEDIA_TYPE)
            return await self._judge(uid, answer)
        except UnreadableError as e:
            self._unusable(str(e))
            return None
        except WebError as e:
            return self._web.diagnose(e, midway=True)

    async def _judge(self, uid: str, answer: Answer) -> Unreachable | None:
        """Act on what is said of one result. Raises `UnreadableError`, `StoreError`."""
        if answer.status == _OK and answer.body.strip():
            await self._store.report_arrived(await _report(uid, answer))
            del self._checks[uid]
        elif answer.status == _OK or answer.status in _WORKING:
            self._put_off(uid, answer, more=0)
        elif answer.status in _FORGOTTEN:
            await self._store.vanished(uid, [other for other in self._checks if other != uid])
            del self._checks[uid]
        elif answer.status in _DESTINATION or (answer.status >= _SERVER and answer.status not in _NO_SERVICE):
            return self._web.answered(answer, midway=True)
        else:
            self._unusable(say("it answered {status}", status=answer.status))
        return None

    def _put_off(self, uid: str, answer: Answer | None = None, *, more: int = 1) -> None:
        times = self._checks[uid].times + more
        self._checks[uid] = _Check(self._clock.monotonic() + self._wait(times, answer), times)

    def _wait(self, times: int, answer: Answer | None = None) -> float:
        """Give the seconds until the next check, not less than the server asks for."""
        pace = min(FIRST * float(1 << min(times, _DOUBLINGS)), LONGEST) if times < PATIENT else _HOUR
        pace *= 0.75 + self._random() / 4
        said = None if answer is None else retry_after(answer.headers, self._clock.now())
        return max(pace, said or 0.0)

    def _unusable(self, why: str) -> None:
        text = say(
            "{name} gave no result of a commitment request that it was asked for: {why}.", name=self._name, why=why
        )
        self._journal.note("REPORT_UNUSABLE", "commitment", text)


async def _report(transaction_uid: str, answer: Answer) -> Report:
    """Read a result as a report. Raises `UnreadableError`."""
    # some thousand UIDs take a while
    found = await asyncio.to_thread(result, answer.media_type, answer.body, transaction_uid)
    return Report(transaction_uid, found.committed, found.failed)


def _path(transaction_uid: str) -> str:
    return f"/commitment-requests/{transaction_uid}"
