"""Proof by query (PS3.4 C.4.1): asking a destination for the instances of a series, and comparing UIDs.

What a query shows is in the destination's index, which is less than a commitment and more than a status: it is for
destinations without commitment, or behind an address to which they cannot report.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, Protocol

import msgspec

from edge.dicom import status
from edge.dicom.dataset import SYNTAXES
from edge.dicom.find import FindError, image_query, instance_uid
from edge.dicom.requestor import Requestor
from edge.dicom.uids import STUDY_ROOT_FIND, valid_uid
from edge.forward.outcome import Declined, Unreachable, Unsupported
from edge.forward.reach import Caller
from edge.phrase import N_
from edge.store import Provable, Verdict

MOST_ANSWERS: Final = 100_000
"""Of one query, which is for one series."""
_NO_SERVICE: Final = frozenset({status.SOP_CLASS_NOT_SUPPORTED, status.UNRECOGNIZED_OPERATION})

ENDLESS: Final = Declined("", N_("it answers a query for one series without end"))


class Seen(msgspec.Struct, frozen=True):
    """What was looked for, in verdicts."""

    verdicts: tuple[Verdict, ...]
    left: tuple[Provable, ...] = ()
    """What it would not tell of, in all that it was asked."""
    why: str = ""
    """What it said instead, to be read after its name; empty where nothing is left."""


Failed = Unsupported | Declined
Find = Callable[[str, str, Collection[str]], Awaitable[Collection[str] | Failed]]
"""Gives those of the UIDs that the destination names, of a study and series."""


class Looking(Protocol):
    """A way to look for instances at one destination."""

    async def look(self, items: Sequence[Provable]) -> Seen | Failed | Unreachable:
        """Look for ``items``, of one study; those that name no study or series cannot be looked for."""
        ...


def divided(items: Sequence[Provable]) -> tuple[list[Provable], tuple[Verdict, ...]]:
    """Divide ``items`` into those that can be looked for (PS3.4 C.4.1.2), and verdicts on the others."""
    askable = [item for item in items if valid_uid(item.study_uid) and valid_uid(item.series_uid)]
    return askable, tuple(Verdict(item.instance, found=False, askable=False) for item in items if item not in askable)


async def by_series(items: Sequence[Provable], find: Find) -> Seen | Failed:
    """Look for each series; of one that fails nothing is known, and the others are looked for all the same."""
    series: defaultdict[tuple[str, str], list[Provable]] = defaultdict(list)
    for item in items:
        series[item.study_uid, item.series_uid].append(item)
    verdicts, left = list[Verdict](), list[Provable]()
    failure: Failed | None = None
    for (study_uid, series_uid), wanted in series.items():
        found = await find(study_uid, series_uid, {item.sop_instance_uid for item in wanted})
        if isinstance(found, Unsupported | Declined):
            failure = found
            left += wanted
        else:
            verdicts += [Verdict(item.instance, item.sop_instance_uid in found) for item in wanted]
    if failure is None:
        return Seen(tuple(verdicts))
    return Seen(tuple(verdicts), tuple(left), failure.detail) if verdicts else failure


class Query:
    """Queries one destination, one query a series."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def look(self, items: Sequence[Provable]) -> Seen | Failed | Unreachable:
        """Look for ``items``, of one study; those that name no study or series cannot be looked for (PS3.4 C.4.1.2)."""
        askable, beyond = divided(items)
        if not askable:
            return Seen(beyond)
        seen = await self._caller.converse(
            STUDY_ROOT_FIND,
            SYNTAXES,
            "queries",
            lambda requestor: by_series(askable, partial(self._ask, requestor)),
        )
        return Seen((*beyond, *seen.verdicts), seen.left, seen.why) if isinstance(seen, Seen) else seen

    async def _ask(
        self, requestor: Requestor, study_uid: str, series_uid: str, wanted: Collection[str]
    ) -> Collection[str] | Failed:
        try:
            found = await self._find(requestor, study_uid, series_uid, wanted) if requestor.usable else None
        except FindError as e:
            return Unsupported(str(e)) if e.status in _NO_SERVICE else Declined(f"{e.status:04X}", str(e))
        return ENDLESS if found is None else found

    async def _find(
        self, requestor: Requestor, study_uid: str, series_uid: str, wanted: Collection[str]
    ) -> set[str] | None:
        """Give those of ``wanted`` that it names of a series; None where it does not come to an end.

        Raises `FindError` and what `Requestor` raises.
        """
        syntax = requestor.syntax_of(STUDY_ROOT_FIND)
        found: set[str] = set()
        identifier, answers = image_query(study_uid, series_uid, syntax), 0
        async with aclosing(requestor.find(STUDY_ROOT_FIND, identifier)) as matches:
            async for answer in matches:
                if (uid := instance_uid(answer, syntax)) in wanted:
                    found.add(uid)
                answers += 1
                if answers == MOST_ANSWERS:
                    return None  # which ends the association
        return found
