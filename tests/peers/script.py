"""What a scripted PACS makes of a request for storage commitment.

A script is a function from a request to a reply: the status of the N-ACTION, and the reports that follow, each with
what it says, on which association, and when.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.peers.pushmodel import Reference, Report


class Way(enum.Enum):
    """Where a report goes."""

    NEW = "on a new association, after the answer to the request"
    SAME = "on the association of the request, after the answer"
    BEFORE = "on the association of the request, before the answer"
    AHEAD = "on a new association, before the answer"


@dataclass(frozen=True, kw_only=True)
class Request:
    """An N-ACTION as it came."""

    transaction_uid: str
    references: tuple[Reference, ...]
    calling: str
    called: str

    @property
    def uids(self) -> list[str]:
        return sorted(each.sop_instance_uid for each in self.references)


@dataclass(frozen=True, kw_only=True)
class Sending:
    """A report, and how it is sent. `later`: not before `CommittingPacs.report`. `roles`: with the role item."""

    report: Report
    way: Way = Way.NEW
    later: bool = False
    roles: bool = True


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What is made of a request."""

    status: int = 0
    sendings: tuple[Sending, ...] = ()


Script = Callable[[Request], Reply]


def saying(request: Request, failures: Mapping[str, int] | None = None) -> Report:
    """The report that lists every UID of the request: failed with its reason where that is given, else committed."""
    reasons = failures or {}
    return Report(
        transaction_uid=request.transaction_uid,
        committed=tuple(each for each in request.references if each.sop_instance_uid not in reasons),
        failed=tuple(
            (each, reasons[each.sop_instance_uid]) for each in request.references if each.sop_instance_uid in reasons
        ),
    )


def commits(way: Way = Way.NEW, *, later: bool = False, roles: bool = True) -> Script:
    """The script by which everything is committed."""
    return lambda request: Reply(sendings=(Sending(report=saying(request), way=way, later=later, roles=roles),))


def silent(_request: Request) -> Reply:
    """The script by which a request is taken and never reported on."""
    return Reply()


def refusing(status: int) -> Script:
    """The script by which a request fails."""
    return lambda _request: Reply(status=status)


def then(*scripts: Script) -> Script:
    """The script by which each request has its own, and all after them the last."""
    left = list(scripts)

    def script(request: Request) -> Reply:
        chosen = left.pop(0) if len(left) > 1 else left[0]
        return chosen(request)

    return script


def failing(failures: Mapping[str, int]) -> Script:
    """The script by which these UIDs fail, each for its reason, and the rest is committed."""

    def script(request: Request) -> Reply:
        reasons = {uid: failures[uid] for uid in request.uids if uid in failures}
        return Reply(sendings=(Sending(report=saying(request, reasons)),))

    return script
