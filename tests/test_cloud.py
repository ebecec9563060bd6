"""DICOMweb through the installed command: Orthanc, and servers that answer as they should not.

One appliance serves many servers, each with a study and a fate of its own. A case has a name: its study comes through a
watched folder of that name and is routed to the destination of that name.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.appliance import Edge
from tests.peers.dicomweb import Reply, Request, WebPacs, keep_and_hang_up, knowing, saying, stored
from tests.peers.objects import DicomObject, ct, mr
from tests.peers.orthanc import Orthanc
from tests.peers.ports import wait_for
from tests.peers.sender import RawSender
from tests.proving import finding, twin_of

pytestmark = pytest.mark.rig

SECRET = "hunter2-correct-horse"
REFUSED = 2
"""Which instance a server refuses."""
BUSY = 4
"""Seconds for which the busy server wants to be left alone."""


def dicomweb(name: str, url: str, **keys: object) -> str:
    """Write a [[destination]] of type dicomweb."""
    lines = [f'name = "{name}"', 'type = "dicomweb"', f'url = "{url}"']
    lines += [f"{key} = {_toml(value)}" for key, value in keys.items()]
    return "\n".join(["[[destination]]", *lines]) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {json.dumps(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


# Orthanc


def test_orthanc_receives_everything_and_a_query_verifies_it(tmp_path: Path) -> None:
    made = [*mr(60), *ct(6)]
    with (
        Orthanc(tmp_path / "orthanc", dicomweb=True) as orthanc,
        Edge(tmp_path / "edge", dicomweb("cloud", orthanc.dicomweb)) as edge,
    ):
        assert "cloud answers" in edge.command("echo", "cloud").stdout
        with RawSender(edge.port, timeout=20) as sender:
            sender.associate([(obj.sop_class_uid, [obj.transfer_syntax_uid]) for obj in (made[0], made[-1])])
            assert [sender.store(obj) for obj in made] == [0] * len(made)
        edge.wait_settled("cloud", {"verified": len(made)})
        assert orthanc.digests() == {obj.sop_instance_uid: obj.digest for obj in made}
        (row,) = edge.json("trace", made[0].sop_instance_uid)
    steps = [(step["event"], step["code"]) for step in row["trail"] if step["event"] != "proof-asked"]
    assert [step for step in steps if step[0] != "received"] == [("accepted", "LISTED"), ("verified", "query")]


def test_orthanc_that_went_away_gets_the_rest_when_it_is_back(tmp_path: Path) -> None:
    first, rest = mr(2), mr(20)
    with (
        Orthanc(tmp_path / "orthanc", dicomweb=True) as orthanc,
        Edge(tmp_path / "edge", dicomweb("cloud", orthanc.dicomweb)) as edge,
        RawSender(edge.port, timeout=20) as sender,
    ):
        sender.associate([(first[0].sop_class_uid, [first[0].transfer_syntax_uid])])
        for obj in first:
            assert sender.store(obj) == 0
        edge.wait_settled("cloud", {"verified": 2})
        orthanc.stop()
        for obj in rest:
            assert sender.store(obj) == 0
        finding(edge, "DESTINATION_DOWN", "destination.cloud")
        orthanc.start()
        edge.command("retry", "--destination", "cloud")
        edge.wait_settled("cloud", {"verified": 22})
        assert orthanc.digests() == {obj.sop_instance_uid: obj.digest for obj in (*first, *rest)}


# servers that answer as they should not


@dataclass
class Case:
    """A server, how it is told to misbehave, and what is sent there."""

    pacs: WebPacs = field(default_factory=WebPacs)
    objects: list[DicomObject] = field(default_factory=lambda: mr(6))
    auth: Mapping[str, str] = field(default_factory=dict)
    verify: str = "query"

    @property
    def uids(self) -> list[str]:
        return [each.sop_instance_uid for each in self.objects]


class Rig:
    """The appliance and its servers, by the names of their cases."""

    def __init__(self, edge: Edge, cases: Mapping[str, Case], elsewhere: WebPacs) -> None:
        self.edge, self.cases, self.elsewhere = edge, cases, elsewhere

    def send(self, name: str) -> None:
        for number, each in enumerate(self.cases[name].objects):
            each.write(self.edge.folder / name / f"{number:05}.dcm")

    def trail(self, uid: str) -> list[dict[str, Any]]:
        (row,) = self.edge.json("trace", uid)
        trail: list[dict[str, Any]] = row["trail"]
        return trail

    def deleted(self, uid: str) -> bool:
        return "deleted" in {step["event"] for step in self.trail(uid)}

    def problem(self, name: str) -> str:
        """Wait until the destination has one; its code."""

        def code() -> str:
            (found,) = (d for d in self.edge.json("status")["destinations"] if d["name"] == name)
            return str((found["problem"] or {}).get("code", ""))

        return wait_for(code, 20, f"a problem of {name}")


def once(uids: list[str], index: int) -> Callable[[Request], Reply]:
    """Leave an instance out of the first answer that should list it."""
    left = {uids[index]}

    def script(request: Request) -> Reply:
        omitted = left & set(request.uids)
        left.difference_update(omitted)
        return stored(request, omitted=omitted)

    return script


def refusing(bad: str, request: Request) -> Reply:
    """Take one for invalid: 409 where it is alone, as nothing is stored then, else 202 (PS3.18 Table 10.5.3-1)."""
    failed = {bad: 0xA900} if bad in request.uids else {}
    return stored(request, failed=failed, status=409 if request.uids == [bad] else 202 if failed else 200)


def cut_short(request: Request) -> Reply:
    """Keep nothing, and say only a part of that all is there."""
    whole = stored(request)
    return Reply(200, whole.body, cut=len(whole.body) // 2, stored=False)


def made(folder: Path, elsewhere: WebPacs) -> dict[str, Case]:
    secret = folder / "secret"
    secret.write_text(SECRET)
    basic = {"type": "basic", "username": "clinic", "password_file": str(secret)}
    (one,) = mr(1)
    cases = {
        "partial": Case(),
        "mixed": Case(),
        "already": Case(verify="none"),
        "twins": Case(objects=[one, twin_of(one)], verify="none"),
        "html": Case(auth=basic),
        "busy": Case(),
        "limited": Case(),
        "invalid": Case(objects=mr(3)),
        "large": Case(objects=[*mr(6), *ct(1)]),
        "cut": Case(),
        "moved": Case(auth=basic, objects=mr(2)),
        "login": Case(
            auth={
                "type": "oauth2",
                "token_url": f"{elsewhere.origin}/token",
                "client_id": "edge",
                "client_secret_file": str(secret),
            }
        ),
    }
    partial, mixed = cases["partial"], cases["mixed"]
    partial.pacs.always = once(partial.uids, 4)
    fates = {mixed.uids[REFUSED]: 0xC000}
    mixed.pacs.always = lambda request: stored(
        request, failed={uid: fates[uid] for uid in request.uids if uid in fates}, status=202
    )
    already, twins = cases["already"].pacs, cases["twins"].pacs
    already.script += [stored, keep_and_hang_up(already), keep_and_hang_up(already)]
    already.always, twins.always = knowing(already), knowing(twins)
    cases["html"].pacs.always = saying(200, b"<html>Log in</html>", "text/html")
    cases["busy"].pacs.script.append(saying(503, Retry_After=str(BUSY)))
    cases["limited"].pacs.script += [stored, saying(429, Retry_After=str(BUSY))]
    invalid = cases["invalid"]
    invalid.pacs.always = lambda request: refusing(invalid.uids[REFUSED], request)
    large = cases["large"]
    most = 2 * large.objects[0].length + 4096
    large.pacs.early = lambda request: Reply(413) if int(request.headers["content-length"]) > most else None
    cases["cut"].pacs.script += [stored, cut_short, cut_short]
    cases["moved"].pacs.always = saying(307, location=f"{elsewhere.url}/studies")
    tokens = iter(f"token-{number}" for number in range(1, 99))
    elsewhere.tokens = lambda _: Reply(200, json.dumps({"access_token": next(tokens)}).encode(), "application/json")
    valid = {"Bearer token-1"}
    login = cases["login"].pacs
    login.authorized = lambda header: header in valid

    def expires(request: Request) -> Reply:
        valid.clear()  # of the tokens that come, the verifier has one too
        valid.update({"Bearer token-2", "Bearer token-3", "Bearer token-4"})
        return stored(request)

    login.script.append(expires)
    return cases


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("cloud")
    with ExitStack() as stack:
        elsewhere = stack.enter_context(WebPacs())
        cases = made(folder, elsewhere)
        sections = []
        for name, case in cases.items():
            stack.enter_context(case.pacs)
            (folder / "edge" / name).mkdir(parents=True)
            watch = f'[[watch]]\nname = "{name}"\npath = "{folder}/edge/{name}"\nsettle = "100ms"\nrescan = "1s"\n'
            route = f'[[route]]\nwhen = {{ watch = "{name}" }}\nto = ["{name}"]\n'
            keys: dict[str, object] = {"verify": case.verify, "associations": 1}
            sections += [
                watch,
                route,
                dicomweb(name, case.pacs.url, **keys, **({"auth": case.auth} if case.auth else {})),
            ]
        edge = stack.enter_context(Edge(folder / "edge", "".join(sections), store='keep_delivered = "0s"'))
        running = Rig(edge, cases, elsewhere)
        for name in cases:
            running.send(name)
        yield running


def sent(case: Case) -> list[str]:
    """The SOP Instance UIDs that came in whole requests, each as often as it came."""
    return [uid for post in case.pacs.posts if post.whole for uid in post.uids]


def test_what_an_answer_leaves_out_is_sent_again_and_nothing_else(rig: Rig) -> None:
    case = rig.cases["partial"]
    rig.edge.wait_settled("partial", {"verified": 6})
    assert sorted(sent(case)) == sorted([*case.uids, case.uids[4]])
    assert [step["code"] for step in rig.trail(case.uids[4]) if step["event"] == "attempted"] == ["UNLISTED"]


def test_what_a_mixed_answer_refuses_is_held_and_the_others_are_proven(rig: Rig) -> None:
    rig.edge.wait_settled("mixed", {"verified": 5, "held": 1})
    case = rig.cases["mixed"]
    assert sorted(sent(case)) == sorted(case.uids)
    for index, uid in enumerate(case.uids):
        if index != REFUSED:
            wait_for(partial(rig.deleted, uid), 20, "what is proven is deleted")
    assert not rig.deleted(case.uids[REFUSED])


def test_what_was_stored_although_the_answer_was_lost_is_accepted_once_a_query_agrees(rig: Rig) -> None:
    case = rig.cases["already"]
    rig.edge.wait_settled("already", {"accepted": 6})
    said = [step for uid in case.uids for step in rig.trail(uid) if step["event"] == "accepted"]
    assert {(step["code"], step["detail"]) for step in said} == {
        ("LISTED", "its answer lists it as stored"),
        ("B00E", "it answered that it has it already, and named it when it was queried"),
    }


def test_of_two_contents_the_second_is_never_accepted_by_its_uid(rig: Rig) -> None:
    rig.edge.wait_settled("twins", {"accepted": 1, "held": 1})
    rows = rig.edge.json("trace", rig.cases["twins"].uids[0])
    codes = {row["sha256"]: row["deliveries"][0]["code"] for row in rows}
    assert sorted(codes.values()) == ["LISTED", "TWIN_UNPROVEN"]
    (kept,) = rig.cases["twins"].pacs.stored.values()
    assert codes[kept.digest.hex()] == "LISTED"


def test_a_web_page_proves_nothing_and_all_waits_for_an_answer(rig: Rig) -> None:
    case = rig.cases["html"]
    assert rig.problem("html") == "NOT_DICOMWEB"
    assert rig.edge.tally("html") == {"queued": 6}
    assert all(step["event"] in ("received", "attempted") for uid in case.uids for step in rig.trail(uid))
    case.pacs.always = stored
    rig.edge.command("retry", "--destination", "html")
    rig.edge.wait_settled("html", {"verified": 6})


def test_a_busy_server_is_left_alone_for_as_long_as_it_wants(rig: Rig) -> None:
    rig.edge.wait_settled("busy", {"verified": 6})
    first, second, *_ = rig.cases["busy"].pacs.posts
    assert second.at - first.at >= BUSY


def test_a_server_that_has_had_too_much_is_left_alone_and_gets_the_rest_once(rig: Rig) -> None:
    case = rig.cases["limited"]
    rig.edge.wait_settled("limited", {"verified": 6})
    _, refused, after, *_ = case.pacs.posts
    assert after.at - refused.at >= BUSY
    assert sorted(sent(case)) == sorted([*case.uids, *refused.uids])


def test_what_is_invalid_is_held_and_its_neighbours_are_not_sent_again(rig: Rig) -> None:
    case = rig.cases["invalid"]
    rig.edge.wait_settled("invalid", {"verified": 2, "held": 1})
    assert sorted(sent(case)) == sorted(case.uids)
    assert [step["code"] for step in rig.trail(case.uids[REFUSED]) if step["event"] == "held"] == ["A900"]


def test_what_is_too_large_for_a_request_goes_in_smaller_ones_and_what_is_alone_is_held(rig: Rig) -> None:
    case = rig.cases["large"]
    rig.edge.wait_settled("large", {"verified": 6, "held": 1})
    assert sorted(sent(case)) == sorted(case.uids[:6])
    assert [step["code"] for step in rig.trail(case.uids[6]) if step["event"] == "held"] == ["TOO_LARGE"]


def test_an_answer_cut_short_proves_nothing_and_all_of_its_request_is_sent_again(rig: Rig) -> None:
    case = rig.cases["cut"]
    rig.edge.wait_settled("cut", {"verified": 6})
    unproven = [uid for post in case.pacs.posts[1:3] for uid in post.uids]
    assert sorted(sent(case)) == sorted([*case.uids, *unproven])


@pytest.mark.parametrize(
    ("name", "held"),
    [
        *(("partial", 0), ("mixed", 1), ("busy", 0), ("limited", 0)),
        *(("invalid", 1), ("large", 1), ("cut", 0), ("login", 0)),
    ],
)
def test_nothing_is_deleted_before_it_is_proven(rig: Rig, name: str, held: int) -> None:
    case = rig.cases[name]
    states = {"verified": len(case.uids) - held} | ({"held": held} if held else {})
    rig.edge.wait_settled(name, states)
    for uid in case.uids:
        events = [step["event"] for step in rig.trail(uid)]
        if "held" not in events:
            wait_for(partial(rig.deleted, uid), 20, "what is proven is deleted")
            events = [step["event"] for step in rig.trail(uid)]
            assert events.index("verified") < events.index("deleted")
            assert uid in case.pacs.stored
        else:
            assert "deleted" not in events


def test_a_login_that_ends_midway_is_made_again(rig: Rig) -> None:
    rig.edge.wait_settled("login", {"verified": 6})
    assert sorted(rig.cases["login"].pacs.stored) == sorted(rig.cases["login"].uids)


def test_no_secret_leaves_its_host_or_is_told(rig: Rig) -> None:
    assert rig.problem("moved") == "REDIRECTED"
    assert {each.path for each in rig.elsewhere.requests} == {"/token"}
    told = rig.edge.output() + rig.edge.command("status", "--json").stdout + rig.edge.command("status").stdout
    for uid in rig.cases["moved"].uids:
        told += rig.edge.command("trace", uid, "--json").stdout
    told += subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout
    for secret in (SECRET, "token-1", "Y2xpbmlj", "aHVudGVyMi"):
        assert secret not in told
