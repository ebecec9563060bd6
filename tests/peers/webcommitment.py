"""A DICOMweb server that commits (PS3.18 chapter 13), and does as it is told.

By itself it commits to what it has, and fails the rest as 0112; what it says to requests and to checks for results is
up to its scripts.
"""

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.peers.dicomweb import JSON, ROOT, Reply, Request, WebPacs

AT: Final = f"{ROOT}/commitment-requests/"
NO_SUCH: Final = 0x0112


@dataclass(frozen=True)
class Wanted:
    """A commitment request as it came: SOP Instance UIDs to SOP Class UIDs."""

    uid: str
    classes: Mapping[str, str]


Say = Callable[[Wanted], Reply]
"""What to answer about a request, to itself or to a check."""


def result(
    wanted: Wanted,
    *,
    failed: Mapping[str, int | None] | None = None,
    committed: Mapping[str, str] | None = None,
    transaction: str = "",
) -> Reply:
    """The payload of PS3.18 Table J.2-1: `failed` with reasons, and `committed` with classes, all others by default.

    A reason None is left out. `transaction` is one that stands in it, as the standard does not have it.
    """
    failed = failed or {}
    if committed is None:
        committed = {uid: kind for uid, kind in wanted.classes.items() if uid not in failed}
    answer: dict[str, Any] = {}
    if committed:
        answer["00081199"] = _sequence([_item(uid, kind) for uid, kind in committed.items()])
    if failed:
        answer["00081198"] = _sequence(
            [
                _item(uid, wanted.classes.get(uid, "1.2"))
                | ({} if reason is None else {"00081197": {"vr": "US", "Value": [reason]}})
                for uid, reason in failed.items()
            ]
        )
    if transaction:
        answer["00081195"] = {"vr": "UI", "Value": [transaction]}
    return Reply(200, json.dumps(answer).encode())


def working(_: Wanted) -> Reply:
    """It takes a while."""
    return Reply(202)


def failing(reason: int | None, *uids: str) -> Say:
    """Commit to all but ``uids``."""
    return lambda wanted: result(wanted, failed=dict.fromkeys(uids, reason))


def saying(status: int, body: bytes = b"", media_type: str = "text/plain", **headers: str) -> Say:
    """Answer with a status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Reply(status, body, media_type, named)


class CommittingWeb(WebPacs):
    """The server; `wanted` and `checked` are for tests to look at, the rest for them to change."""

    def __init__(self, **keys: Any) -> None:
        super().__init__(**keys)
        self.to_requests: deque[Say] = deque()
        """What is answered to the next requests; then: `to_request`."""
        self.to_request: Say | None = None
        """None: the result."""
        self.to_checks: deque[Say] = deque()
        self.to_check: Say | None = None
        self.wanted: list[Wanted] = []
        self.checked: list[str] = []
        """Transaction UIDs."""

    def truth(self, wanted: Wanted) -> Reply:
        return result(wanted, failed={uid: NO_SUCH for uid in wanted.classes if uid not in self.stored})

    def answer(self, request: Request) -> Reply:
        if not request.path.startswith(AT):
            return super().answer(request)
        self.requests.append(request)
        if not self.authorized(request.authorization):
            return Reply(401)
        assert request.headers["accept"] == JSON
        assert not request.query
        uid = request.path.removeprefix(AT)
        if request.method == "POST":
            wanted = Wanted(uid, _read(request))
            self.wanted.append(wanted)
            return (self.to_requests.popleft() if self.to_requests else self.to_request or self.truth)(wanted)
        self.checked.append(uid)
        known = [each for each in self.wanted if each.uid == uid]
        say = self.to_checks.popleft() if self.to_checks else self.to_check or self.truth
        return say(known[0]) if known else Reply(404)


def _read(request: Request) -> dict[str, str]:
    """Read a payload as strictly as PS3.18 Table J.1-1 and annex F have it."""
    assert request.headers["content-type"] == JSON
    (tag, sequence), *more = json.loads(request.body).items()
    assert (tag, sequence["vr"], more) == ("00081199", "SQ", [])
    items = sequence["Value"]
    assert all(each.keys() == {"00081150", "00081155"} for each in items)
    assert all(value["vr"] == "UI" and len(value["Value"]) == 1 for each in items for value in each.values())
    named = {each["00081155"]["Value"][0]: each["00081150"]["Value"][0] for each in items}
    assert len(named) == len(items)
    return named


def _sequence(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"vr": "SQ", "Value": items}


def _item(uid: str, kind: str) -> dict[str, Any]:
    return {"00081150": {"vr": "UI", "Value": [kind]}, "00081155": {"vr": "UI", "Value": [uid]}}
