"""Storage commitment as SCU, through the installed command: what is proven, by what, and what never is.

What takes minutes or days by the clock is tested where the clock is a test's own. The other role: `test_promised.py`.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.peers.objects import CT, mr, uid
from tests.peers.ports import wait_for
from tests.peers.pushmodel import PUSH_MODEL, Reference, Report
from tests.peers.raw import Rejected
from tests.peers.script import Way, commits, failing, refusing, saying, silent, then
from tests.proving import Case, Rig, finding, findings, reference, running, send, twin_of, uids

pytestmark = pytest.mark.rig

PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
NO_SUCH_EVENT_TYPE: Final = 0x0113
CLASS_CONFLICT: Final = 0x0119
CLASS_NOT_SUPPORTED: Final = 0x0122
DUPLICATE_TRANSACTION: Final = 0x0131
RESOURCE_LIMITATION: Final = 0x0213
UNRECOGNIZED_OPERATION: Final = 0x0211


REASONS: Final = (
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    NO_SUCH_INSTANCE,
    DUPLICATE_TRANSACTION,
    CLASS_CONFLICT,
    CLASS_NOT_SUPPORTED,
)
WAYS: Final = {"new": Way.NEW, "same": Way.SAME, "before": Way.BEFORE, "ahead": Way.AHEAD}


def cases() -> dict[str, Case]:
    reasons = mr(len(REASONS) + 1)
    given = {each.sop_instance_uid: reason for each, reason in zip(reasons, REASONS, strict=False)}
    (one,) = mr(1)
    known = mr(2)
    again = failing(dict.fromkeys(uids(known), DUPLICATE_TRANSACTION))
    return {
        **{name: Case("commitment", commits(way, roles=way is not Way.AHEAD)) for name, way in WAYS.items()},
        "reasons": Case("commitment", then(failing(given), commits()), reasons),
        "never": Case("commitment", silent, mr(5)),
        "without": Case("commitment"),
        "instead": Case("commitment-or-query"),
        "unknown": Case("commitment-or-query", refusing(UNRECOGNIZED_OPERATION)),
        "known": Case("commitment-or-query", then(again, commits()), known),
        "declines": Case("commitment", then(refusing(PROCESSING_FAILURE), commits())),
        "down": Case("commitment"),
        "twins": Case("commitment", objects=[one, twin_of(one)]),
        "unproven": Case("none"),
    }


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running(tmp_path_factory.mktemp("commitment"), cases()) as made:
        made.pacs["without"].without = made.pacs["instead"].without = {PUSH_MODEL}
        first, second = made.cases["twins"].objects
        made.put("twins", first)
        for name in made.cases.keys() - {"twins"}:
            made.send(name)
        made.settled("twins", accepted=1)
        made.put("twins", second)
        made.sicken("down")
        yield made


@pytest.mark.parametrize("name", WAYS)
def test_a_report_proves_on_whatever_association_it_comes(rig: Rig, name: str) -> None:
    pacs, case = rig.pacs[name], rig.cases[name]
    assert pacs.wait_sent(1) == [0]
    rig.settled(name, verified=2)
    (request,) = pacs.requests
    assert sorted(request.references) == sorted(reference(each) for each in case.objects)
    assert (request.calling, request.called) == ("EDGE", pacs.title)
    assert sorted(pacs.stored) == case.uids
    trail = rig.trail(case.uids[0])
    assert [step["event"] for step in trail] == ["received", "accepted", "proof-asked", "verified"]
    assert [step["code"] for step in trail[2:]] == [request.transaction_uid] * 2
    assert rig.codes(name) == set()


def test_what_a_report_refuses_is_asked_again_sent_again_or_held_by_its_reason(rig: Rig) -> None:
    pacs, case = rig.pacs["reasons"], rig.cases["reasons"]
    busy, limited, missing, duplicate, conflict, unsupported, committed = (o.sop_instance_uid for o in case.objects)
    wait_for(lambda: rig.tally("reasons").get("verified", 0) >= 3, 40, "what can be proven now is proven")
    states = {each: state for each, (state, _) in rig.states("reasons").items()}
    asked = {each: pacs.asked_for(each) for each in case.uids}
    assert {each for each, state in states.items() if state == "held"} == {conflict, unsupported}
    for each in (busy, limited):
        assert (states[each], asked[each]) in {("accepted", 1), ("verified", 2)}, "they are asked about after a minute"
    assert {each: pacs.stored.count(each) for each in case.uids} == {each: 1 + (each == missing) for each in case.uids}
    assert [asked[each] for each in (missing, duplicate, conflict, unsupported, committed)] == [2, 2, 1, 1, 1]
    transactions = [request.transaction_uid for request in pacs.requests]
    assert len(set(transactions)) == len(transactions)
    refused = {each: [s["code"] for s in rig.trail(each) if s["event"] == "not-committed"] for each in case.uids}
    given = zip(case.objects, REASONS, strict=False)
    assert refused == {each.sop_instance_uid: [f"{reason:04X}"] for each, reason in given} | {committed: []}
    assert "DELIVERIES_HELD" in rig.codes("reasons")


def test_a_report_proves_what_it_lists_of_its_own_request_and_nothing_else(rig: Rig) -> None:
    pacs, case = rig.pacs["never"], rig.cases["never"]
    (request,) = pacs.wait_requests(1)
    one, both, other_class, odd, last = case.objects
    foreign = Reference(case.objects[0].sop_class_uid, uid())
    everything = saying(request)

    (answer,) = pacs.report(replace(everything, transaction_uid=uid()))
    assert answer, "nobody asked for that"
    assert "nobody here asked for" in finding(rig.edge, "REPORT_UNUSABLE", "commitment")
    assert pacs.report(replace(everything, event_type=3)) == [NO_SUCH_EVENT_TYPE]
    assert rig.tally("never") == {"accepted": 5}

    assert pacs.report(Report(transaction_uid=request.transaction_uid, committed=(foreign,))) == [0]
    assert pacs.report(Report(transaction_uid=request.transaction_uid)) == [0]
    assert rig.tally("never") == {"accepted": 5}

    partial = Report(transaction_uid=request.transaction_uid, committed=(reference(one), foreign))
    for roles in (True, False, True):
        assert pacs.report(partial, roles=roles) == [0]
        assert rig.tally("never") == {"verified": 1, "accepted": 4}

    twice = replace(
        partial, committed=(reference(both),), failed=((reference(both), CLASS_NOT_SUPPORTED), (reference(one), 0x0110))
    )
    assert pacs.report(twice) == [0]
    assert rig.tally("never") == {"verified": 1, "held": 1, "accepted": 3}, "what is in both lists is not committed"

    wrong = replace(partial, committed=(Reference(CT, other_class.sop_instance_uid),))
    assert pacs.report(wrong) == [0]
    assert rig.tally("never") == {"verified": 1, "held": 2, "accepted": 2}, "it has something else of that UID"

    assert pacs.report(replace(partial, committed=(reference(odd), reference(last)))) == [0]
    assert rig.tally("never") == {"verified": 3, "held": 2}
    assert len(pacs.requests) == 1
    assert sorted(pacs.stored) == case.uids


def test_a_pacs_without_storage_commitment_is_a_finding_and_proves_nothing(rig: Rig) -> None:
    rig.finding("COMMITMENT_UNSUPPORTED", "without")
    assert rig.tally("without") == {"accepted": 2}
    assert rig.pacs["without"].queries == []


@pytest.mark.parametrize("name", ["instead", "unknown"])
def test_where_commitment_is_not_known_a_query_proves_at_once_if_it_may(rig: Rig, name: str) -> None:
    pacs, case = rig.pacs[name], rig.cases[name]
    rig.settled(name, verified=2)
    (query,) = pacs.queries
    kept = pacs.kept[case.uids[0]]
    assert (query.level, query.study_uid, query.series_uid) == ("IMAGE", kept.study_uid, kept.series_uid)
    trail = rig.trail(case.uids[0])
    assert (trail[-1]["event"], trail[-1]["code"]) == ("verified", "query")
    rig.finding("COMMITMENT_UNSUPPORTED", name)


def test_a_pacs_that_reports_is_not_queried_instead_though_it_could_not_commit_yet(rig: Rig) -> None:
    pacs = rig.pacs["known"]
    rig.settled("known", verified=2)
    assert (len(pacs.requests), pacs.queries) == (2, [])


def test_a_request_that_fails_is_made_again(rig: Rig) -> None:
    pacs = rig.pacs["declines"]
    rig.settled("declines", verified=2)
    first, second = pacs.requests
    assert first.references == second.references
    assert first.transaction_uid != second.transaction_uid
    wait_for(lambda: "PROOF_DECLINED" not in rig.codes("declines"), 10, "the finding is closed")


def test_a_pacs_that_went_down_after_it_accepted_is_asked_when_it_is_back(rig: Rig) -> None:
    pacs = rig.pacs["down"]
    rig.settled("down", verified=2)
    assert len(pacs.requests) == 1
    assert sorted(pacs.stored) == rig.cases["down"].uids


def test_of_two_contents_under_one_uid_the_second_is_never_proven_by_that_uid(rig: Rig) -> None:
    pacs, case = rig.pacs["twins"], rig.cases["twins"]
    rig.settled("twins", verified=1, held=1)
    first, second = sorted(rig.edge.json("trace", case.uids[0]), key=lambda row: row["id"])
    assert (first["sha256"], first["deliveries"][0]["state"]) == (case.objects[0].digest.hex(), "verified")
    assert (second["sha256"], second["deliveries"][0]["state"]) == (case.objects[1].digest.hex(), "held")
    assert second["deliveries"][0]["code"] == "TWIN_UNPROVEN"
    assert pacs.kept[case.uids[0]].digest == case.objects[1].wire_digest, "both were delivered, in order"


def test_who_needs_no_proof_is_never_asked(rig: Rig) -> None:
    rig.settled("same", verified=2)
    pacs = rig.pacs["unproven"]
    assert rig.tally("unproven") == {"accepted": 2}
    assert (pacs.requests, pacs.queries) == ([], [])


def test_a_late_report_counts_after_a_kill_and_on_a_full_disk_and_only_then_is_anything_deleted(
    tmp_path: Path,
) -> None:
    case = Case("commitment", commits(later=True), mr(3))
    with running(tmp_path, {"late": case}, store='keep_delivered = "0s"') as rig:
        edge, pacs = rig.edge, rig.pacs["late"]
        rig.send("late")
        (request,) = pacs.wait_requests(1)
        assert rig.tally("late") == {"accepted": 3}
        edge.kill()
        free = shutil.disk_usage(tmp_path).free
        edge.config.write_text(edge.config.read_text().replace('reserve = "1MiB"', f'reserve = "{2 * free}B"'))
        edge.start()
        wait_for(lambda: "INTAKE_CLOSED" in {each["code"] for each in findings(edge)}, 20, "the disk is full")
        with pytest.raises(Rejected):
            send(edge.port, case.objects, "CT1")
        assert len(edge.spooled()) == 3, "accepted is not proven"
        assert pacs.report() == [0]
        rig.settled("late", verified=3)
        wait_for(lambda: edge.spooled() == [], 10, "what is proven is deleted")
        events = [step["event"] for step in rig.trail(case.uids[0])]
        assert events[:2] == ["received", "accepted"]
        assert events[-2:] == ["verified", "deleted"]
        assert [request.uids for request in pacs.requests[:1]] == [case.uids]
        assert request.transaction_uid in [step["code"] for step in rig.trail(case.uids[0])]
