"""Proof by QIDO-RS (PS3.18 10.6): asking a destination for the instances of a series, and comparing UIDs."""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

from edge.dicomweb.answer import UnreadableError, instances
from edge.dicomweb.client import Answer, Client
from edge.dicomweb.errors import WebError
from edge.forward.outcome import Declined, Unreachable, Unsupported
from edge.forward.query import ENDLESS, MOST_ANSWERS, Failed, Seen, by_series, divided
from edge.forward.web import JSON, Web
from edge.phrase import N_, say
from edge.store import Provable

_PAGE: Final = 200
"""Instances asked for at once; some servers refuse more."""
_OK: Final = frozenset({200, 204})
_NOT_THERE: Final = 404
_NO_SERVICE: Final = frozenset({405, 501})
_DESTINATION: Final = frozenset({401, 403, 429})
_SERVER: Final = 500


class DownError(Exception):
    """The destination answers no query now."""

    def __init__(self, why: Unreachable) -> None:
        super().__init__(why.detail)
        self.why = why


class WebQuery:
    """Queries one destination, one query a series, in pages."""

    def __init__(self, web: Web) -> None:
        self._web = web

    async def look(self, items: Sequence[Provable]) -> Seen | Failed | Unreachable:
        """Look for ``items``, of one study; those that name no study or series cannot be looked for."""
        askable, beyond = divided(items)
        if not askable:
            return Seen(beyond)
        client = await self._web.client()
        if isinstance(client, Unreachable):
            return client
        try:
            seen = await by_series(askable, partial(self._find, client))
        except DownError as e:
            return e.why
        except (WebError, UnreadableError) as e:
            return self._web.diagnose(e, midway=True)
        finally:
            await client.close()
        return Seen((*beyond, *seen.verdicts), seen.left, seen.why) if isinstance(seen, Seen) else seen

    async def _find(
        self, client: Client, study_uid: str, series_uid: str, wanted: Collection[str]
    ) -> Collection[str] | Failed:
        """Give those of ``wanted`` that it names. Raises `DownError`, `WebError`, `UnreadableError`."""
        seen, given = set[str](), 0
        while given < MOST_ANSWERS:
            page = f"limit={_PAGE}&offset={given}&includefield=00080018"
            answer = await client.get(f"/studies/{study_uid}/series/{series_uid}/instances?{page}", JSON)
            if answer.status == _NOT_THERE and given:
                return seen.intersection(wanted)
            if answer.status == _NOT_THERE:
                return await self._absent(client, study_uid)
            if answer.status not in _OK:
                return self._refused(answer)
            uids = instances(answer.media_type, answer.body)
            # one that knows no pages gives the same again
            if seen.issuperset(uids):
                return seen.intersection(wanted)
            seen.update(uids)
            given += len(uids)
            if seen.issuperset(wanted):
                return wanted
        return ENDLESS

    async def _absent(self, client: Client, study_uid: str) -> Collection[str] | Failed:
        """Tell a server that has no such series from one that has no queries."""
        answer = await client.get(f"/studies?StudyInstanceUID={study_uid}&limit=1", JSON)
        if answer.status in _OK:
            return frozenset()
        return Unsupported(N_("it takes no queries (404)")) if answer.status == _NOT_THERE else self._refused(answer)

    def _refused(self, answer: Answer) -> Failed:
        if answer.status in _DESTINATION or (answer.status >= _SERVER and answer.status not in _NO_SERVICE):
            raise DownError(self._web.answered(answer, midway=True))
        detail = say("it answered {status} to a query", status=answer.status)
        return Unsupported(detail) if answer.status in _NO_SERVICE else Declined(str(answer.status), detail)


async def names(client: Client, sop_instance_uid: str) -> bool | None:
    """Whether the server names an instance; None where it cannot be asked."""
    try:
        answer = await client.get(f"/instances?SOPInstanceUID={sop_instance_uid}&limit=1", JSON)
        return sop_instance_uid in instances(answer.media_type, answer.body) if answer.status in _OK else None
    except (WebError, UnreadableError):
        return None


async def ask(web: Web) -> Unreachable | None:
    """Ask for one study, whichever it is; None where that is answered."""
    client = await web.client()
    if isinstance(client, Unreachable):
        return client
    try:
        answer = await client.get("/studies?limit=1", JSON)
        if answer.status not in _OK:
            return web.answered(answer)
        instances(answer.media_type, answer.body)
    except (WebError, UnreadableError) as e:
        return web.diagnose(e)
    finally:
        await client.close()
    return None
