"""Proof by query through the installed command: what the PACS says it has is proven, and nothing else is."""

from collections.abc import Iterator

import pytest

from tests.peers import objects
from tests.peers.committing import STUDY_ROOT
from tests.peers.objects import DicomObject, ct, mr
from tests.peers.ports import wait_for
from tests.proving import Case, Rig, running, twin_of

pytestmark = pytest.mark.rig


def two_series() -> list[DicomObject]:
    study = objects.uid()
    return [*mr(2, study), *ct(1, study)]


def cases() -> dict[str, Case]:
    (one,) = mr(1)
    return {
        "found": Case("query", objects=two_series()),
        "part": Case("query", objects=mr(3)),
        "without": Case("query"),
        "fails": Case("query"),
        "down": Case("query"),
        "twins": Case("query", objects=[one, twin_of(one)]),
    }


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running(tmp_path_factory.mktemp("query"), cases()) as made:
        made.pacs["without"].without = {STUDY_ROOT}
        made.pacs["fails"].find_statuses = [0xA700]
        first, second = made.cases["twins"].objects
        made.put("twins", first)
        for name in made.cases.keys() - {"twins"}:
            made.send(name)
        made.settled("twins", accepted=1)
        made.put("twins", second)
        made.settled("part", accepted=3)
        del made.pacs["part"].kept[made.cases["part"].uids[1]]
        made.sicken("down")
        yield made


def test_one_query_a_series_proves_what_it_finds(rig: Rig) -> None:
    pacs, case = rig.pacs["found"], rig.cases["found"]
    rig.settled("found", verified=3)
    assert {(query.level, query.study_uid, query.series_uid) for query in pacs.queries} == {
        ("IMAGE", kept.study_uid, kept.series_uid) for kept in pacs.kept.values()
    }
    assert len(pacs.queries) == 2
    assert {query.calling for query in pacs.queries} == {"EDGE"}
    assert pacs.requests == []
    trail = rig.trail(case.uids[0])
    assert [step["event"] for step in trail if step["event"] != "proof-asked"] == ["received", "accepted", "verified"]
    assert trail[-1]["code"] == "query"


def test_what_a_query_does_not_find_is_not_proven(rig: Rig) -> None:
    case = rig.cases["part"]
    rig.settled("part", verified=2, accepted=1)
    states = rig.states("part")
    assert [states[each][0] for each in case.uids] == ["verified", "accepted", "verified"]


def test_a_pacs_without_queries_is_a_finding_and_proves_nothing(rig: Rig) -> None:
    rig.finding("QUERY_UNSUPPORTED", "without")
    assert rig.tally("without") == {"accepted": 2}
    assert rig.pacs["without"].requests == []


def test_a_query_that_fails_is_made_again(rig: Rig) -> None:
    rig.settled("fails", verified=2)
    assert len(rig.pacs["fails"].queries) == 2
    wait_for(lambda: "PROOF_DECLINED" not in rig.codes("fails"), 10, "the finding is closed")


def test_a_pacs_that_went_down_after_it_accepted_is_asked_when_it_is_back(rig: Rig) -> None:
    pacs = rig.pacs["down"]
    rig.settled("down", verified=2)
    assert len(pacs.queries) == 1
    assert sorted(pacs.stored) == rig.cases["down"].uids


def test_of_two_contents_under_one_uid_the_second_is_never_proven_by_that_uid(rig: Rig) -> None:
    case = rig.cases["twins"]
    rig.settled("twins", verified=1, held=1)
    first, second = sorted(rig.edge.json("trace", case.uids[0]), key=lambda row: row["id"])
    assert (first["sha256"], first["deliveries"][0]["state"]) == (case.objects[0].digest.hex(), "verified")
    assert (second["sha256"], second["deliveries"][0]["code"]) == (case.objects[1].digest.hex(), "TWIN_UNPROVEN")
