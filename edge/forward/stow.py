"""The STOW-RS transport (PS3.18 10.5): several instances a request, and the truth of each one of them.

An instance is accepted where the answer lists it, whatever the status of the answer. One that the answer passes over
is sent again, and it alone. A session begins with one instance and makes its requests larger as they succeed, so that a
server that is down costs one of them; what failed before goes in small company, then alone. What is refused for its
transfer syntax is tried once more in another (`edge.forward.syntaxes`).
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from edge.dicom import status
from edge.dicom.uids import EXPLICIT_LITTLE
from edge.dicomweb.answer import Stored, UnreadableError, stored
from edge.dicomweb.client import Answer, Client
from edge.dicomweb.errors import LostError, WebError
from edge.dicomweb.multipart import Multipart
from edge.evidence import Evidence
from edge.forward.limit import Limiter, Paced
from edge.forward.outcome import ALREADY, Accepted, Outcome, Refused, TryLater, Unreachable, from_reason
from edge.forward.stored import SpoiltError, part
from edge.forward.syntaxes import Syntaxes, untaken
from edge.forward.web import JSON, XML, Web
from edge.forward.webquery import names
from edge.forward.workshop import Rendition
from edge.model import Need
from edge.phrase import N_, say
from edge.spool import Syncer
from edge.store import Parcel

MOST_INSTANCES: Final = 32
MOST_BYTES: Final = 8 << 20
"""Of one request; what is larger goes alone."""
_LEAST_BYTES: Final = 64 << 10
_GROWTH: Final = 4
_COMPANY: Final = (MOST_INSTANCES, 8, 1)
"""Instances of one request, by how often one of them failed before."""
_MOST_BAD: Final = 8
"""Instances in a row that are refused as bad requests, after which it is not them that is bad."""
_STALE: Final = 4 << 20
"""Bytes that may be given to a connection before it shows that nobody is there."""
_HOUR: Final = 3600.0
_PARSED: Final = frozenset({200, 201, 202, 204, 409})
_NOT_ACCEPTABLE: Final = 406
_TOO_LARGE: Final = 413
_UNSUPPORTED: Final = 415
_BAD: Final = frozenset({400, _UNSUPPORTED, 422})

_REFUSED_LATELY: Final = Refused("UNSUPPORTED_MEDIA", N_("it takes no such transfer syntax."), unsupported=True)

Told = list[tuple[Parcel, Outcome]]


class Split(msgspec.Struct, frozen=True):
    """The request is to be made again in two halves."""


class Learnt:
    """What is known of the destination beyond one session."""

    def __init__(self) -> None:
        self.accept = JSON
        self.most_bytes = MOST_BYTES
        self.bad = 0
        """Instances in a row that were refused as bad requests."""


class StowTransport:
    """Reaches one destination by STOW-RS."""

    def __init__(
        self, web: Web, syncer: Syncer, limiter: Limiter | None = None, syntaxes: Syntaxes | None = None
    ) -> None:
        """``limiter`` is asked before each piece of each request; None: there is no limit.

        ``syntaxes`` says what may be sent in which; None: everything as it is stored.
        """
        self._web = web
        self._syncer = syncer
        self._limiter = limiter
        self._syntaxes = Syntaxes() if syntaxes is None else syntaxes
        self._learnt = Learnt()

    async def open(self, needs: Sequence[Need]) -> "StowSession | Unreachable":  # noqa: ARG002 - the seam's
        """See whether there is what a request needs; the first one connects."""
        await self._syntaxes.ready()
        client = await self._web.client()
        if isinstance(client, Unreachable):
            return client
        return StowSession(client, self._web, self._syncer, self._learnt, self._limiter, self._syntaxes)


class StowSession:
    """One connection, and requests on it in turn."""

    def __init__(
        self,
        client: Client,
        web: Web,
        syncer: Syncer,
        learnt: Learnt,
        limiter: Limiter | None = None,
        syntaxes: Syntaxes | None = None,
    ) -> None:
        self._client = client
        self._web = web
        self._syncer = syncer
        self._learnt = learnt
        self._limiter = limiter
        self._syntaxes = Syntaxes() if syntaxes is None else syntaxes
        self._most = 1
        self._failed = False
        self._asking = True
        """Whether it answered queries, as far as there were any about this request."""

    @property
    def usable(self) -> bool:
        """Whether the last request was answered."""
        return not self._failed

    async def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        """Send ``parcels`` in their order, in as many requests as it takes."""
        coming = Coming(parcels)
        try:
            while not self._failed and (batch := coming.together(self._most, self._learnt.most_bytes)):
                known = [p for p in batch if p.kind.transfer_syntax_uid not in self._syntaxes.proposals(p.kind)]
                for parcel in known:
                    yield parcel, await self._otherwise(parcel)
                async for parcel, outcome in self._deliver([p for p in batch if p not in known]):
                    if untaken(outcome):
                        yield parcel, await self._otherwise(parcel, outcome)
                        continue
                    if isinstance(outcome, Accepted):
                        await self._syntaxes.learn({parcel.kind: True})
                    yield parcel, outcome
        except BaseException:
            self._failed = True
            await self._client.close()
            raise

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def _otherwise(self, parcel: Parcel, refused: Outcome = _REFUSED_LATELY) -> Outcome:
        """Try once more, in Explicit VR Little Endian, what was refused as it is stored (PS3.18 8.7.3)."""
        if EXPLICIT_LITTLE not in self._syntaxes.instead(parcel.kind):
            await self._syntaxes.learn({parcel.kind: False})
            return refused
        made = await self._syntaxes.render(parcel, EXPLICIT_LITTLE)
        if not isinstance(made, Rendition):
            return made
        with made:
            said = [made.told(outcome) async for _, outcome in self._deliver([made.parcel])]
        if not said:  # another one found that the connection is lost
            return Unreachable("CONNECTION_LOST", N_("the connection was lost before it could be sent."), echo=True)
        taken = {made.parcel.kind: True} if isinstance(said[0], Accepted) else {}
        await self._syntaxes.learn(taken if refused is _REFUSED_LATELY else {parcel.kind: False, **taken})
        return said[0]

    async def _deliver(self, batch: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        """Send one batch, in parts where it cannot go as a whole."""
        waiting = [batch] if batch else []
        while waiting and not self._failed:
            some = waiting.pop()
            said = await self._request(some)
            if isinstance(said, SpoiltError):
                yield said.parcel, said.outcome
                if rest := [parcel for parcel in some if parcel is not said.parcel]:
                    waiting.append(rest)
            elif isinstance(said, Split):
                half = len(some) // 2
                waiting += [some[half:], some[:half]]
            else:
                for told in self._whole(some, said):
                    yield told

    def _whole(self, batch: Sequence[Parcel], said: Told | Unreachable) -> Iterator[tuple[Parcel, Outcome]]:
        """Give what became of a request, failures of the destination last; one of them is news, the others follow."""
        if isinstance(said, Unreachable):
            said = [(parcel, said) for parcel in (batch if said.midway else batch[:1])]
        yield from (told for told in said if not isinstance(told[1], Unreachable))
        for parcel, outcome in said:
            if isinstance(outcome, Unreachable):
                yield parcel, msgspec.structs.replace(outcome, echo=self._failed)
                self._failed = True

    async def _request(self, batch: Sequence[Parcel]) -> Told | Unreachable | Split | SpoiltError:
        body = Multipart([part(parcel, self._syncer) for parcel in batch])
        try:
            answer = await self._post(body)
            if answer.status == _NOT_ACCEPTABLE and self._learnt.accept == JSON:
                self._learnt.accept = XML
                answer = await self._post(body)
            return await self._judge(batch, answer)
        except SpoiltError as e:
            return e
        except (WebError, UnreadableError) as e:
            return self._web.diagnose(e, midway=body.begun)

    async def _post(self, body: Multipart) -> Answer:
        stood = self._client.answered
        paced = body if self._limiter is None else Paced(body, self._limiter)
        try:
            return await self._client.post("/studies", paced, self._learnt.accept)
        except LostError:
            # a connection that is kept may be closed by the other side at any time; who took more was there
            if not stood or body.given > _STALE:
                raise
            return await self._client.post("/studies", paced, self._learnt.accept)

    async def _judge(self, batch: Sequence[Parcel], answer: Answer) -> Told | Unreachable | Split:
        """Turn an answer into outcomes. Raises `UnreadableError`."""
        if answer.status in _PARSED:
            said = stored(answer.media_type, answer.body)
            self._learnt.bad = 0
            self._asking = True
            self._most = min(self._most * _GROWTH, MOST_INSTANCES)
            return [(parcel, await self._outcome(parcel, said, alone=len(batch) == 1)) for parcel in batch]
        if answer.status == _TOO_LARGE:
            return self._too_large(batch)
        if answer.status in _BAD:
            return self._bad(batch, answer)
        return self._web.answered(answer, midway=True)

    async def _outcome(self, parcel: Parcel, said: Stored, *, alone: bool) -> Outcome:
        uid = parcel.sop_instance_uid
        if (reason := said.failed.get(uid)) is not None:
            return await self._failure(parcel, reason)
        if uid in said.listed:
            warning = said.listed[uid]
            if warning is None:
                return Accepted("LISTED", Evidence.STOW_LISTED)
            return Accepted(f"{warning:04X}", Evidence.STOW_LISTED, status.meaning(warning))
        if alone and said.others:
            return await self._failure(parcel, said.others[0])
        return TryLater("UNLISTED", N_("its answer lists it neither as stored nor as failed, so it is sent again."))

    async def _failure(self, parcel: Parcel, reason: int) -> Outcome:
        if reason not in ALREADY:
            return from_reason(reason)
        code = f"{reason:04X}"
        there = await names(self._client, parcel.sop_instance_uid) if self._asking else None
        if there:
            return Accepted(code, Evidence.STOW_ALREADY)
        self._asking = there is not None
        what = N_("does not name it when it is queried") if self._asking else N_("cannot be asked whether it does")
        detail = say("it says that it has it already, and {what}.", what=what)
        return TryLater(code, detail, after=_HOUR if parcel.strikes else None)

    def _too_large(self, batch: Sequence[Parcel]) -> Told | Split:
        size = sum(parcel.length for parcel in batch)
        if len(batch) == 1:
            return [
                (
                    batch[0],
                    Refused("TOO_LARGE", say("it takes no request of this size, {size} bytes (413).", size=size)),
                )
            ]
        self._learnt.most_bytes = max(min(self._learnt.most_bytes, size // 2), _LEAST_BYTES)
        return Split()

    def _bad(self, batch: Sequence[Parcel], answer: Answer) -> Told | Unreachable | Split:
        """Look for the one for which the whole request was refused; where all are, it is not them."""
        if self._learnt.bad >= _MOST_BAD:
            return self._web.answered(answer, midway=True)
        if len(batch) > 1:
            return Split()
        self._learnt.bad += 1
        if answer.status == _UNSUPPORTED:
            return [(batch[0], Refused("UNSUPPORTED_MEDIA", N_("it takes no such object (415)."), unsupported=True))]
        return [
            (
                batch[0],
                Refused(
                    "BAD_REQUEST", say("it takes the request with this alone for bad ({status}).", status=answer.status)
                ),
            )
        ]


class Coming:
    """Parcels, taken for one request when its turn has come: until then others may overtake them."""

    def __init__(self, parcels: Iterable[Parcel]) -> None:
        self._parcels = iter(parcels)
        self._next: Parcel | None = None

    def together(self, most: int, most_bytes: int) -> list[Parcel]:
        """Take the next that may share a request, at least one, however large it is; none where there is none.

        No UID stands in a request twice, and what failed before not in large company.
        """
        batch = list[Parcel]()
        uids = set[str]()
        size = 0
        while (parcel := self._next or next(self._parcels, None)) is not None:
            self._next = None
            size += parcel.length
            most = min(most, _COMPANY[min(parcel.strikes, len(_COMPANY) - 1)])
            if batch and (len(batch) >= most or size > most_bytes or parcel.sop_instance_uid in uids):
                self._next = parcel
                break
            batch.append(parcel)
            uids.add(parcel.sop_instance_uid)
            if len(batch) >= most:
                break
        return batch
