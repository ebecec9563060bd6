"""The peers of storage commitment, against each other and against Orthanc: what they say is what was scripted."""

import urllib.error
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from tests.peers import wire
from tests.peers.committing import STUDY_ROOT, CommittingPacs
from tests.peers.objects import DicomObject, mr, uid
from tests.peers.orthanc import Orthanc
from tests.peers.ports import listening, wait_for
from tests.peers.pushmodel import INSTANCE, PUSH_MODEL, REQUEST, Reference, Report, action_information
from tests.peers.raw import RawSender
from tests.peers.scanner import Scanner
from tests.peers.script import Reply, Sending, Way, commits, refusing, saying


@pytest.fixture
def pacs() -> Iterator[CommittingPacs]:
    with CommittingPacs() as made:
        yield made


@pytest.fixture
def scanner(pacs: CommittingPacs) -> Iterator[Scanner]:
    with Scanner("CT1", pacs.port, called="PACS") as made:
        pacs.home = (made.port, made.title)
        yield made


def uids(objects: list[DicomObject]) -> list[str]:
    return sorted(each.sop_instance_uid for each in objects)


def test_what_is_stored_is_kept_byte_for_byte_and_found(pacs: CommittingPacs, scanner: Scanner) -> None:
    objects = mr(3)
    pacs.store_status = lambda each: 0xA700 if each == objects[1].sop_instance_uid else 0
    assert scanner.send(objects) == [0, 0xA700, 0]
    assert {each: kept.digest for each, kept in pacs.kept.items()} == {
        each.sop_instance_uid: each.wire_digest for each in (objects[0], objects[2])
    }
    kept = pacs.kept[objects[0].sop_instance_uid]
    assert find(pacs, kept.study_uid, kept.series_uid, uids(objects)) == uids([objects[0], objects[2]])
    assert find(pacs, kept.study_uid, kept.series_uid, [objects[0].sop_instance_uid]) == uids(objects[:1])
    assert find(pacs, kept.study_uid, uid(), uids(objects)) == []
    assert pacs.queries[0].study_uid == objects[0].study_uid
    assert pacs.queries[0].sop_instance_uids == tuple(uids(objects))
    with pytest.raises(AssertionError, match="0xa900"):
        find(pacs, kept.study_uid, "", uids(objects))


def find(pacs: CommittingPacs, study: str, series: str, wanted: list[str]) -> list[str]:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID, identifier.SeriesInstanceUID, identifier.SOPInstanceUID = study, series, wanted
    with pacs.association(pacs.port, pacs.title, STUDY_ROOT) as association:
        assert association is not None
        answers = list(association.send_c_find(identifier, STUDY_ROOT))
    assert answers[-1][0].Status == 0, hex(answers[-1][0].Status)
    return sorted(str(found.SOPInstanceUID) for _, found in answers[:-1] if found is not None)


def test_a_report_comes_as_the_script_says(pacs: CommittingPacs, scanner: Scanner) -> None:
    objects = mr(2)
    references = tuple(Reference(each.sop_class_uid, each.sop_instance_uid) for each in objects)
    for way in Way:
        for roles in (True, False):
            pacs.script = commits(way, roles=roles)
            asked = scanner.ask(objects, stay=5)
            assert asked.status == 0
            heard = scanner.wait_report(asked.transaction_uid)
            assert heard.report.committed_uids == uids(objects)
            assert (heard.report.reasons, heard.report.type) == ({}, 1)
            assert heard.anew == (way in {Way.NEW, Way.AHEAD})
            if heard.anew:
                assert heard.roles == ((False, True) if roles else None)
                assert (heard.calling, heard.called) == ("PACS", "CT1")
    assert pacs.wait_sent(8) == [0] * 8
    assert {(each.calling, each.called, each.references) for each in pacs.requests} == {("CT1", "PACS", references)}


@pytest.mark.parametrize("way", [Way.SAME, Way.BEFORE])
def test_a_report_stands_after_the_answer_or_before_it(pacs: CommittingPacs, way: Way) -> None:
    pacs.script = commits(way)
    information = BytesIO()
    asked = action_information(uid(), [Reference("1.2", "1.2.3")])
    asked.save_as(information, implicit_vr=True, little_endian=True)
    verbs: list[int] = []
    with RawSender(pacs.port, timeout=10) as sender:
        (context,) = sender.associate([(PUSH_MODEL, [wire.IMPLICIT_LITTLE])])
        sender.send_message(context, n_action_rq(sender.next_id()), information.getvalue())
        while len(verbs) < 2:
            command = sender.read_message().command
            verbs.append(command.verb)
            if command.verb == wire.Verb.N_EVENT_REPORT:
                sender.send_message(context, wire.response(command, 0))
    answered = wire.Verb.N_ACTION | wire.RESPONSE
    assert verbs == ([answered, wire.Verb.N_EVENT_REPORT] if way is Way.SAME else [wire.Verb.N_EVENT_REPORT, answered])
    assert pacs.wait_sent(1) == [0]


def n_action_rq(message_id: int) -> wire.Command:
    return wire.Command.of(
        {
            wire.Field.REQUESTED_CLASS: PUSH_MODEL,
            wire.Field.COMMAND: wire.Verb.N_ACTION,
            wire.Field.MESSAGE_ID: message_id,
            wire.Field.DATASET_TYPE: 1,
            wire.Field.REQUESTED_INSTANCE: INSTANCE,
            wire.Field.ACTION_TYPE: REQUEST,
        }
    )


def test_reports_wait_for_the_test_and_may_say_anything(pacs: CommittingPacs, scanner: Scanner) -> None:
    one, two = mr(2)
    pacs.script = lambda request: Reply(
        sendings=(
            Sending(report=saying(request, {one.sop_instance_uid: 0x0112}), later=True),
            Sending(report=saying(request), later=True),
        )
    )
    asked = scanner.ask([one, two])
    assert (asked.status, scanner.heard) == (0, [])
    scanner.stop()
    assert pacs.report() == [None, None]
    scanner.start()
    both = Reference(two.sop_class_uid, two.sop_instance_uid)
    odd = Report(transaction_uid=asked.transaction_uid, committed=(both,), failed=((both, 0x0110),))
    scanner.answer = 0x0110
    assert pacs.report(odd, roles=False) == [0x0110]
    assert scanner.heard[0].report.uids == [two.sop_instance_uid] * 2
    assert scanner.heard[0].report.type == 2


def test_it_refuses_and_goes_down_and_comes_back(pacs: CommittingPacs, scanner: Scanner) -> None:
    objects = mr(1)
    pacs.script = refusing(0x0131)
    assert scanner.ask(objects).status == 0x0131
    pacs.without = {PUSH_MODEL}
    assert scanner.ask(objects).status is None
    assert scanner.send(objects) == [0]
    pacs.without = set()
    pacs.refuses = True
    assert scanner.ask(objects).status is None
    pacs.refuses = False
    pacs.stop()
    assert not listening(pacs.port)
    assert scanner.ask(objects).status is None
    pacs.start()
    assert scanner.ask(objects).status == 0x0131
    assert len(pacs.requests) == 2


@pytest.mark.rig
def test_orthanc_takes_the_reports_of_the_pacs(pacs: CommittingPacs, tmp_path: Path) -> None:
    one, two = mr(2)
    references = [Reference(each.sop_class_uid, each.sop_instance_uid) for each in (one, two)]
    with Orthanc(tmp_path, modalities={"pacs": ("PACS", pacs.port)}) as orthanc:
        pacs.home = (orthanc.dicom_port, "ORTHANC")
        transaction = orthanc.commit("pacs", references)
        wait_for(lambda: orthanc.commitment(transaction)[0] == "Success", 10, "Orthanc knows of the commitment")
        assert orthanc.commitment(transaction) == ("Success", uids([one, two]), {})
        pacs.script = lambda request: Reply(
            sendings=(Sending(report=saying(request, {one.sop_instance_uid: 0x0112}), roles=False),)
        )
        transaction = orthanc.commit("pacs", references)
        wait_for(lambda: orthanc.commitment(transaction)[0] == "Failure", 10, "Orthanc knows of the failure")
        assert orthanc.commitment(transaction)[1] == [two.sop_instance_uid]
        assert list(orthanc.commitment(transaction)[2]) == [one.sop_instance_uid]
        pacs.script = refusing(0x0110)
        with pytest.raises(urllib.error.HTTPError):
            orthanc.commit("pacs", references)


@pytest.mark.rig
def test_orthanc_commits_to_the_scanner(tmp_path: Path) -> None:
    one, two = mr(2)
    scanner = Scanner("CT1", called="ORTHANC")
    with Orthanc(tmp_path, modalities={"ct": ("CT1", scanner.port)}) as orthanc, scanner:
        scanner.edge_port = orthanc.dicom_port
        with RawSender(orthanc.dicom_port) as sender:
            sender.associate([(one.sop_class_uid, [one.transfer_syntax_uid])])
            assert sender.store(one) == 0
        asked = scanner.ask([one, two])
        assert asked.status == 0
        heard = scanner.wait_report(asked.transaction_uid)
        assert heard.report.committed_uids == [one.sop_instance_uid]
        assert heard.report.reasons == {two.sop_instance_uid: 0x0112}
        assert heard.roles == (False, True)
