"""The main job through the installed command: the PACS is gone, the scanner goes on, everything arrives once."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance import Edge, dimse
from tests.peers.objects import DicomObject, ct, mr
from tests.peers.ports import free_port, wait_for
from tests.peers.raw import Behaviour, RawReceiver, RawSender, Received

pytestmark = pytest.mark.rig


def send(port: int, objects: list[DicomObject]) -> list[int]:
    kinds = {(o.sop_class_uid, o.transfer_syntax_uid) for o in objects}
    with RawSender(port) as sender:
        sender.associate([(sop_class, [syntax]) for sop_class, syntax in kinds])
        statuses = [sender.store(o) for o in objects]
        sender.release()
    return statuses


def destination(name: str, port: int, *, associations: int = 16) -> str:
    text = dimse(name, port, associations=associations)
    return text + 'timeouts = { connect = "2s", response = "2s" }\n'


@pytest.fixture
def pacs() -> Iterator[RawReceiver]:
    with RawReceiver() as receiver:
        yield receiver


def test_a_study_of_400_sent_during_an_outage_arrives_once_when_it_ends(tmp_path: Path, pacs: RawReceiver) -> None:
    pacs.stop()
    study = mr(400)
    with Edge(tmp_path, destination("pacs", pacs.port)) as edge:
        assert send(edge.port, study) == [0] * 400
        told = edge.json("status")
        assert told["queue"]["instances"] == 400
        assert told["queue"]["bytes"] == sum(o.length for o in study)
        wait_for(lambda: edge.json("status")["destinations"][0]["state"] == "down", 10, "the outage is told")
        told = edge.json("status")
        assert told["destinations"][0]["queued"] == 400
        assert told["destinations"][0]["problem"]["code"] == "REFUSED_CONNECTION"
        assert told["light"]["code"] == "Y1"
        assert "DESTINATION_DOWN" in {f["code"] for f in told["findings"]}
        assert len(edge.json("queue")) == 400
        pacs.start()
        edge.command("retry", "--destination", "pacs")
        edge.wait_settled("pacs", {"accepted": 400})
        told = edge.json("status")
        assert told["queue"] == {"instances": 0, "bytes": 0, "oldest_seconds": 0}
        assert told["destinations"][0]["state"] == "up"
        assert told["destinations"][0]["accepted"] == 400
        wait_for(lambda: edge.json("status")["light"]["code"] in {"G1", "G2"}, 10, "the light is green again")
    assert Counter(r.digest for r in pacs.received) == Counter(o.wire_digest for o in study)


def test_the_queue_survives_a_restart_and_an_outage_ends_without_a_hand_on_it(
    tmp_path: Path, pacs: RawReceiver
) -> None:
    pacs.stop()
    study = mr(20)
    edge = Edge(tmp_path, destination("pacs", pacs.port))
    with edge:
        assert send(edge.port, study) == [0] * 20
        edge.stop()
        assert edge.tally("pacs") == {"queued": 20}
        pacs.start()
        edge.start()
        edge.wait_settled("pacs", {"accepted": 20})
    assert Counter(r.digest for r in pacs.received) == Counter(o.wire_digest for o in study)


def test_one_destination_down_costs_another_nothing(tmp_path: Path, pacs: RawReceiver) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    folder = f'[[destination]]\nname = "archive"\ntype = "folder"\npath = "{archive}"\n'
    both = destination("gone", free_port()) + destination("pacs", pacs.port) + folder
    study = ct(6)
    with Edge(tmp_path, both) as edge:
        assert send(edge.port, study) == [0] * 6
        edge.wait_settled("pacs", {"accepted": 6})
        edge.wait_settled("archive", {"accepted": 6})
        assert edge.tally("gone") == {"queued": 6}
    assert {p.stem for p in archive.glob("*/*.dcm")} == {o.digest.hex() for o in study}


@pytest.mark.parametrize("behaviour", list(Behaviour), ids=lambda b: b.name)
def test_whatever_the_pacs_does_to_some_every_image_arrives_in_the_end(
    tmp_path: Path, pacs: RawReceiver, behaviour: Behaviour
) -> None:
    tries: Counter[str] = Counter()

    def unwell(received: Received) -> int | Behaviour:
        tries[received.sop_instance_uid] += 1
        first_time = tries[received.sop_instance_uid] == 1
        return behaviour if first_time and len(tries) % 4 == 2 else 0

    pacs.status_for = unwell
    study = mr(9)
    with Edge(tmp_path, destination("pacs", pacs.port, associations=1)) as edge:
        assert send(edge.port, study) == [0] * 9
        edge.wait_settled("pacs", {"accepted": 9})
    assert {r.digest for r in pacs.accepted} == {o.wire_digest for o in study}


@pytest.mark.parametrize(("status", "state"), [(0xA900, "held"), (0x0122, "held"), (0xB000, "accepted")])
def test_the_answer_for_one_decides_over_that_one_alone(
    tmp_path: Path, pacs: RawReceiver, status: int, state: str
) -> None:
    study = mr(5)
    pacs.status_for = lambda r: status if r.sop_instance_uid == study[2].sop_instance_uid else 0
    expected = Counter({"accepted": 4}) + Counter({state: 1})
    with Edge(tmp_path, destination("pacs", pacs.port)) as edge:
        assert send(edge.port, study) == [0] * 5
        edge.wait_settled("pacs", dict(expected))
        (row,) = edge.json("trace", study[2].sop_instance_uid)
        assert row["deliveries"][0]["state"] == state
        assert row["deliveries"][0]["code"] == f"{status:04X}"
        assert row["sha256"] == study[2].digest.hex()
        assert [step["event"] for step in row["trail"]] == ["received", state]
        if state == "held":
            wait_for(lambda: edge.json("status")["light"]["code"] == "Y2", 10, "what is held is told")
            pacs.status_for = lambda _: 0
            edge.command("release", study[2].sop_instance_uid)
            edge.wait_settled("pacs", {"accepted": 5})


def test_several_associations_share_a_long_queue(tmp_path: Path, pacs: RawReceiver) -> None:
    pacs.stop()
    pacs.delay_response = 0.02
    study = mr(200)
    with Edge(tmp_path, destination("pacs", pacs.port, associations=4)) as edge:
        assert send(edge.port, study) == [0] * 200
        pacs.start()
        edge.command("retry", "--all")
        edge.wait_settled("pacs", {"accepted": 200})
    assert len(pacs.requests) >= 3
    assert Counter(r.digest for r in pacs.received) == Counter(o.wire_digest for o in study)


def test_the_same_study_sent_twice_is_delivered_once(tmp_path: Path, pacs: RawReceiver) -> None:
    study = mr(10)
    with Edge(tmp_path, destination("pacs", pacs.port)) as edge:
        assert send(edge.port, study + study) == [0] * 20
        edge.wait_settled("pacs", {"accepted": 10})
        assert send(edge.port, study) == [0] * 10
        wait_for(
            lambda: len(edge.json("trace", study[0].sop_instance_uid)[0]["trail"]) == 4, 10, "the third arrival is told"
        )
        assert edge.tally("pacs") == {"accepted": 10}
        assert len(edge.spooled()) == 10
        assert edge.parts() == []
    assert len(pacs.received) == 10
