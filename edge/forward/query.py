"""Proof by query (PS3.4 C.4.1): asking a destination for the instances of a series, and comparing UIDs.

What a query shows is in the destination's index, which is less than a commitment and more than a status: it is for
destinations without commitment, or behind an address to which they cannot report.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from edge.dicom import status
from edge.dicom.dataset import SYNTAXES
from edge.dicom.find import FindError, image_query, instance_uid
from edge.dicom.requestor import Requestor
from edge.dicom.uids import STUDY_ROOT_FIND, valid_uid
from edge.forward.outcome import Declined, Unreachable, Unsupported
from edge.forward.reach import Caller
from edge.store import Provable, Verdict

_MOST_ANSWERS: Final = 100_000
"""Of one query, which is for one series."""
_NO_SERVICE: Final = frozenset({status.SOP_CLASS_NOT_SUPPORTED, status.UNRECOGNIZED_OPERATION})

_ENDLESS: Final = Declined("", "it answers a query for one series without end")


class Seen(msgspec.Struct, frozen=True):
    """What was looked for, in verdicts."""

    verdicts: tuple[Verdict, ...]
    left: tuple[Provable, ...] = ()
    """What it would not tell of, in all that it was asked."""
    why: str = ""
    """What it said instead, to be read after its name; empty where nothing is left."""


class Query:
    """Queries one destination, one query a series."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def look(self, items: Sequence[Provable]) -> Seen | Unsupported | Declined | Unreachable:
        """Look for ``items``, of one study; those that name no study or series cannot be looked for (PS3.4 C.4.1.2)."""
        askable = [item for item in items if valid_uid(item.study_uid) and valid_uid(item.series_uid)]
        beyond = tuple(Verdict(item.instance, found=False, askable=False) for item in items if item not in askable)
        if not askable:
            return Seen(beyond)
        seen = await self._caller.converse(
            STUDY_ROOT_FIND, SYNTAXES, "queries", lambda requestor: self._look(requestor, askable)
        )
        return Seen((*beyond, *seen.verdicts), seen.left, seen.why) if isinstance(seen, Seen) else seen

    async def _look(self, requestor: Requestor, items: Sequence[Provable]) -> Seen | Unsupported | Declined:
        """Look for each series; of one that fails nothing is known, and the others are looked for all the same."""
        series: defaultdict[tuple[str, str], list[Provable]] = defaultdict(list)
        for item in items:
            series[item.study_uid, item.series_uid].append(item)
        verdicts, left = list[Verdict](), list[Provable]()
        failure: Unsupported | Declined | None = None
        for (study_uid, series_uid), wanted in series.items():
            uids = {item.sop_instance_uid for item in wanted}
            try:
                found = await self._find(requestor, study_uid, series_uid, uids) if requestor.usable else None
            except FindError as e:
                failure = Unsupported(str(e)) if e.status in _NO_SERVICE else Declined(f"{e.status:04X}", str(e))
                left += wanted
                continue
            if found is None:
                failure = _ENDLESS
                left += wanted
            else:
                verdicts += [Verdict(item.instance, item.sop_instance_uid in found) for item in wanted]
        if failure is None:
            return Seen(tuple(verdicts))
        return Seen(tuple(verdicts), tuple(left), failure.detail) if verdicts else failure

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
                if answers == _MOST_ANSWERS:
                    return None  # which ends the association
        return found
