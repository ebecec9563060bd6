"""Storage commitment as SCP, through the installed command: whoever asked is told, once it is true, and for certain.

What takes minutes or days by the clock is tested where the clock is a test's own. The other role: `test_commitment.py`.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.appliance import Edge, dimse
from tests.peers.committing import CommittingPacs
from tests.peers.objects import mr, uid
from tests.peers.orthanc import Orthanc
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.scanner import Scanner
from tests.peers.script import commits
from tests.proving import finding, reference, send, uids

pytestmark = pytest.mark.rig

PROCESSING_FAILURE: Final = 0x0110


@contextmanager
def hearing(edge: Edge, *scanners: Scanner) -> Iterator[None]:
    """The appliance runs, and these listen for its reports."""
    with ExitStack() as stack:
        stack.enter_context(edge)
        for each in scanners:
            each.edge_port = edge.port
            stack.enter_context(each)
        yield


def test_answered_for_the_spool_a_modality_has_its_report_whatever_the_pacs_does(tmp_path: Path) -> None:
    first, deaf, picky, old, stranger = scanners = [Scanner(f"CT{number}") for number in range(5)]
    old.grants_roles = False
    picky.answer = PROCESSING_FAILURE
    more = "".join(each.toml() for each in scanners[:-1]) + '[[modality]]\nname = "CT4"\nae_title = "CT4"\n'
    more += '[commitment]\nanswer = "stored"\n'
    edge = Edge(tmp_path, dimse("pacs", free_port()), receive='accept = "known"', more=more)
    with hearing(edge, *scanners):
        deaf.stop()
        made = {each: mr(3) for each in scanners}
        for each in scanners:
            assert each.send(made[each]) == [0] * 3
        begun = time.monotonic()
        asked = {each: each.ask(made[each]) for each in scanners}
        assert time.monotonic() - begun < 5
        assert [asked[each].status for each in scanners] == [0, 0, 0, 0, PROCESSING_FAILURE]

        heard = first.wait_report(asked[first].transaction_uid)
        assert (heard.anew, heard.roles, heard.calling, heard.called) == (True, (False, True), "EDGE", "CT0")
        assert (heard.report.type, heard.report.committed_uids, heard.report.reasons) == (1, uids(made[first]), {})
        assert edge.tally("pacs") == {"queued": 15}
        assert old.wait_report(asked[old].transaction_uid).report.committed_uids == uids(made[old])
        assert "CT4" in finding(edge, "COMMITMENT_UNKNOWN_REQUESTER", "title.CT4")

        wait_for(lambda: len(picky.heard) > 1, 20, "a report that was not taken is sent again")
        picky.answer = 0
        wait_for(lambda: picky.heard[-1].answer == 0, 20, "it is taken")
        assert {each.report.transaction_uid for each in picky.heard} == {asked[picky].transaction_uid}

        assert deaf.heard == []
        deaf.start()
        assert deaf.wait_report(asked[deaf].transaction_uid).report.committed_uids == uids(made[deaf])

        assert first.ask(made[first], asked[first].transaction_uid).status == 0
        twice = first.ask([*made[first], *made[first]])
        assert twice.status == 0
        assert set(first.wait_report(twice.transaction_uid).report.uids) == set(uids(made[first]))
        events = [step["event"] for step in edge.json("trace", uids(made[first])[0])[0]["trail"]]
        assert events[0] == "received"
        assert {"promised", "answered"} <= set(events)
        assert stranger.heard == []


def test_answered_for_the_pacs_the_report_waits_for_its_proof_over_an_outage_and_a_kill(tmp_path: Path) -> None:
    patient, refused = Scanner("CT1"), Scanner("CT2")
    pacs = CommittingPacs(script=commits(later=True))
    more = patient.toml() + refused.toml() + '[commitment]\nanswer = "delivered"\nrefuse_after = "1s"\n'
    study = uid()
    all_good, mixed = mr(3, study), mr(2, study)
    good, bad = (each.sop_instance_uid for each in mixed)
    pacs.store_status = lambda each: 0xA900 if each == bad else 0
    edge = Edge(tmp_path, dimse("pacs", pacs.port, verify="commitment"), more=more)
    with hearing(edge, patient, refused):
        pacs.home = (edge.port, "EDGE")
        assert patient.send(all_good) == [0] * 3
        assert refused.send(mixed) == [0] * 2
        asked, doubtful = patient.ask(all_good), refused.ask(mixed)
        assert (asked.status, doubtful.status) == (0, 0)
        edge.kill()
        edge.start()
        assert edge.tally("pacs") == {"queued": 5}
        with pacs:
            edge.command("retry", "--all")
            wait_for(lambda: {*uids(all_good), good} <= asked_about(pacs), 30, "all is asked about")
            assert edge.tally("pacs") == {"accepted": 4, "held": 1}
            assert (patient.heard, refused.heard) == ([], []), "accepted is not delivered"
            assert set(pacs.report()) == {0}
            heard = patient.wait_report(asked.transaction_uid).report
            assert (heard.type, heard.committed_uids, heard.reasons) == (1, uids(all_good), {})
            heard = refused.wait_report(doubtful.transaction_uid).report
            assert (heard.type, heard.committed_uids, heard.reasons) == (2, [good], {bad: PROCESSING_FAILURE})
        assert edge.tally("pacs") == {"verified": 4, "held": 1}
    assert len(patient.heard) == len(refused.heard) == 1


def asked_about(pacs: CommittingPacs) -> set[str]:
    """What a request named."""
    return {uid for request in pacs.requests for uid in request.uids}


# Orthanc


def test_orthanc_proves_by_report_and_by_query_and_is_answered_when_it_asks(tmp_path: Path) -> None:
    port = free_port()
    to = dimse("report", port, title="ORTHANC", verify="commitment") + dimse(
        "query", port, title="ORTHANC", verify="query"
    )
    more = f'commitment = {{ host = "{LOOPBACK}", port = {port}, ae_title = "ORTHANC" }}\n'
    more = f'[[modality]]\nname = "orthanc"\nae_title = "ORTHANC"\n{more}'
    edge = Edge(tmp_path / "edge", to, more=more, receive='accept = "any"')
    made = mr(3)
    references = [reference(each) for each in made]
    with Orthanc(tmp_path / "orthanc", dicom_port=port, modalities={"edge": ("EDGE", edge.port)}) as orthanc, edge:
        assert send(edge.port, made, "CT1") == [0] * 3
        edge.wait_settled("report", {"verified": 3}, 30)
        edge.wait_settled("query", {"verified": 3}, 30)
        assert sorted(orthanc.digests().values()) == sorted(each.digest for each in made)
        transaction = orthanc.commit("edge", references)
        wait_for(lambda: orthanc.commitment(transaction)[0] != "Pending", 20, "Orthanc has its report")
        assert orthanc.commitment(transaction) == ("Success", uids(made), {})
