"""The DIMSE transport: C-STORE as SCU (PS3.4 B.2), one association a session.

An object of a kind that was not proposed is no error: it waits for the next association, which proposes it. Each kind
has its own presentation context, and so has each that it may be sent in instead (`edge.forward.syntaxes`).
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Final

from edge.config import DimseDestination
from edge.dicom.requestor import MOST_CONTEXTS, NoContextError, Requestor
from edge.dicom.uids import class_name, syntax_name
from edge.forward.limit import Limiter
from edge.forward.outcome import Outcome, Refused, Unreachable, from_file, from_status
from edge.forward.reach import FAILURES, ORIGINAL, Caller
from edge.forward.syntaxes import ALL, Syntaxes
from edge.forward.workshop import Rendition
from edge.model import Kind, Need
from edge.phrase import say
from edge.spool import Reader, Syncer
from edge.store import Parcel
from edge.tls import Credentials

_MOST_SEEN: Final = 64


class DimseTransport:
    """Reaches one destination by DIMSE."""

    def __init__(
        self,
        destination: DimseDestination,
        syncer: Syncer,
        credentials: Credentials | None = None,
        trusted: Callable[[], bool] = lambda: True,
        limiter: Limiter | None = None,
        syntaxes: Syntaxes | None = None,
    ) -> None:
        """``credentials`` are those of ``destination.tls``; ``trusted`` tells whether our clock is right.

        ``limiter`` is asked before each piece of each dataset; None: there is no limit. ``syntaxes`` says what may be
        sent in which; None: everything as it is stored.
        """
        self._caller = Caller(destination, credentials, trusted)
        self._syncer = syncer
        self._limiter = limiter
        self._syntaxes = Syntaxes() if syntaxes is None else syntaxes
        self._seen: dict[Kind, None] = {}

    async def open(self, needs: Sequence[Need]) -> "DimseSession | Unreachable":
        """Make an association that proposes what is needed now, then what was needed lately."""
        wanted = dict.fromkeys(need.kind for need in needs)
        await self._syntaxes.ready()
        proposals, proposed = propose([*wanted, *self._seen], self._syntaxes.proposals)
        self._seen = dict.fromkeys([*wanted, *self._seen][:_MOST_SEEN])
        by_name = self._caller.destination.calling_ae_title == ORIGINAL and needs
        original = needs[0].calling if by_name else None
        requestor = await self._caller.call(proposals, original or "")
        if isinstance(requestor, Unreachable):
            return requestor
        asked = [Kind(abstract, syntax) for abstract, (syntax,) in proposals]
        await self._syntaxes.learn({kind: requestor.takes(kind) for kind in asked})
        if self._limiter is not None:
            requestor.slice(self._limiter.piece)
        return DimseSession(requestor, self._caller, self._syncer, proposed, original, self._limiter, self._syntaxes)


class DimseSession:
    """One association, for what was proposed on it."""

    def __init__(
        self,
        requestor: Requestor,
        caller: Caller,
        syncer: Syncer,
        proposed: Collection[Kind],
        original: str | None,
        limiter: Limiter | None = None,
        syntaxes: Syntaxes | None = None,
    ) -> None:
        self._requestor = requestor
        self._caller = caller
        self._syncer = syncer
        self._proposed = proposed
        self._original = original
        self._limiter = limiter
        self._syntaxes = Syntaxes() if syntaxes is None else syntaxes
        self._outgrown = False

    @property
    def usable(self) -> bool:
        """Whether the association stands and is the one that the next object needs."""
        return self._requestor.usable and not self._outgrown

    async def send(self, parcels: Sequence[Parcel]) -> AsyncIterator[tuple[Parcel, Outcome]]:
        """Send each parcel in turn, up to the first that needs another association."""
        for parcel in parcels:
            other_sender = self._original is not None and parcel.calling != self._original
            if other_sender or parcel.kind not in self._proposed:
                self._outgrown = True
                return
            outcome = await self._store(parcel)
            yield parcel, outcome
            if not self.usable:
                return

    async def _store(self, parcel: Parcel) -> Outcome:
        kind = parcel.kind
        if self._requestor.takes(kind):
            return await self._put(parcel)
        for syntax in self._syntaxes.instead(kind):
            if self._requestor.takes(Kind(kind.sop_class_uid, syntax)):
                return await self._put_as(parcel, syntax)
        kind_name, syntax_said = class_name(kind.sop_class_uid), syntax_name(kind.transfer_syntax_uid)
        detail = say("it takes no {kind} in {syntax}.", kind=kind_name, syntax=syntax_said)
        return Refused("CONTEXT_REJECTED", detail, unsupported=True)

    async def _put_as(self, parcel: Parcel, syntax: str) -> Outcome:
        """Send what is made of ``parcel`` in ``syntax``."""
        made = await self._syntaxes.render(parcel, syntax)
        if not isinstance(made, Rendition):
            return made
        with made:
            return made.told(await self._put(made.parcel))

    async def _put(self, parcel: Parcel) -> Outcome:
        requestor = self._requestor
        reader = Reader(parcel.path, parcel.offset, parcel.length, parcel.digest, self._syncer)
        try:
            with reader:
                read = reader.read if self._limiter is None else self._limiter.paying(reader.read)
                answer = await requestor.store(parcel.kind, parcel.sop_instance_uid, parcel.length, read)
        except NoContextError as e:
            return Refused("CONTEXT_REJECTED", str(e), unsupported=True)
        except EOFError as e:
            await requestor.abort()
            return Refused("FILE_DAMAGED", say("the stored file cannot be read: {error}", error=e))
        except FAILURES as e:
            if isinstance(e, OSError) and e.filename is not None:  # of our file, not of the connection
                if reader.opened:
                    await requestor.abort()
                return from_file(e)
            await requestor.abort()
            return self._caller.diagnose(e, midway=True)
        outcome = from_status(answer.status, answer.error_comment)
        if isinstance(outcome, Unreachable):
            await requestor.abort()
        return outcome

    async def close(self) -> None:
        """Release the association."""
        await self._requestor.release()


def propose(
    kinds: Iterable[Kind], syntaxes: Callable[[Kind], Iterable[str]] = ALL.proposals
) -> tuple[list[tuple[str, tuple[str, ...]]], dict[Kind, None]]:
    """Lay out presentation contexts for ``kinds``, the first first, and tell which found room."""
    proposals: dict[tuple[str, str], None] = {}
    proposed: dict[Kind, None] = {}
    for kind in dict.fromkeys(kinds):
        wanted = dict.fromkeys((kind.sop_class_uid, syntax) for syntax in syntaxes(kind))
        if len(proposals | wanted) > MOST_CONTEXTS:
            break
        proposals |= wanted
        proposed[kind] = None
    return [(abstract, (syntax,)) for abstract, syntax in proposals], proposed
