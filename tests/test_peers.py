"""The peers against each other: an oracle that is itself wrong would agree with anything."""

import hashlib
import re
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

from tests.peers import bundled, dcmtk, objects, wire
from tests.peers.orthanc import Orthanc
from tests.peers.ports import LOOPBACK, free_port, listening, require, wait_for
from tests.peers.program import PeerFailedError
from tests.peers.pynetdicom_peers import PynetdicomScp, pynetdicom_scu
from tests.peers.raw import (
    Aborted,
    Behaviour,
    NoStatusError,
    NotAcceptedError,
    PeerClosedError,
    RawReceiver,
    RawSender,
    Received,
    Rejected,
    Released,
)

LITTLE = [wire.EXPLICIT_LITTLE]


def ledger(made: list[objects.DicomObject]) -> dict[str, bytes]:
    return {obj.sop_instance_uid: obj.digest for obj in made}


def came(received: list[Received]) -> dict[str, bytes]:
    return {each.sop_instance_uid: each.digest for each in received}


def written(made: list[objects.DicomObject], folder: Path) -> list[Path]:
    return [obj.write(folder / f"{number}.dcm") for number, obj in enumerate(made)]


def store_one(port: int, obj: objects.DicomObject, timeout: float = 10) -> int:
    with RawSender(port, timeout=timeout) as sender:
        sender.associate([(obj.sop_class_uid, [obj.transfer_syntax_uid])])
        return sender.store(obj)


# Objects


def test_objects_are_what_they_say_and_never_the_same() -> None:
    made = [*objects.ct(2), *objects.mr(3), *objects.tiny(2), objects.multiframe(1)]
    assert len({obj.sop_instance_uid for obj in made}) == len({obj.digest for obj in made}) == 8
    assert {len(obj.sop_instance_uid) for obj in made} == {44}
    assert [made[0].length // 1000, made[2].length // 1000, made[5].length // 1000] == [524, 12, 0]


def test_pydicom_reads_what_was_written_by_hand(tmp_path: Path) -> None:
    study = objects.uid()
    for obj in [*objects.ct(1, study), *objects.mr(2, study), *objects.tiny(1, study)]:
        path = obj.write(tmp_path / "object.dcm")
        read = dcmread(path)
        assert read.file_meta.TransferSyntaxUID == obj.transfer_syntax_uid
        assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID == obj.sop_instance_uid
        assert read.SOPClassUID == obj.sop_class_uid
        assert read.StudyInstanceUID == obj.study_uid == study
        assert objects.part10_split(path).dataset == obj.dataset
        assert objects.part10(path).digest == obj.digest


def test_a_multiframe_object_is_streamed_into_its_file(tmp_path: Path) -> None:
    made = objects.write_multiframe(tmp_path / "multiframe.dcm", 3)
    read = dcmread(made.path)
    assert read.NumberOfFrames == 6
    assert read.pixel_array.shape == (6, 512, 512)
    assert made.length == made.path.stat().st_size - made.offset
    assert made.digest == hashlib.sha256(objects.part10_split(made.path).dataset).digest()


def test_a_thousand_mr_objects_are_made_at_once() -> None:
    started = time.monotonic()
    assert len(ledger(objects.mr(1000))) == 1000
    assert time.monotonic() - started < 2


def test_every_bundled_file_is_used_or_named_with_its_reason() -> None:
    names = {name for name, _ in bundled.files()}
    assert set(bundled.NOT_STORAGE) <= names
    assert set(bundled.UIDS_DIFFER) <= names - set(bundled.NOT_STORAGE)
    assert {name for name, _ in objects.bundled()} == names - set(bundled.NOT_STORAGE)
    for name, path in bundled.files():
        try:
            storable = objects.part10_split(path).sop_class_uid != "1.2.840.10008.1.3.10"
        except objects.NotPart10Error:
            storable = False
        assert storable == (name not in bundled.NOT_STORAGE), name


def test_the_table_of_differing_uids_is_true() -> None:
    found: dict[str, str] = {}
    for name, path in objects.bundled():
        meta, read = objects.part10_split(path), dcmread(path, stop_before_pixels=True)
        own = (str(read.get("SOPClassUID", "")), str(read.get("SOPInstanceUID", "")))
        if own == ("", ""):
            found[name] = "neither"
        elif own != meta[:2]:
            found[name] = "Instance UID is another" if own[0] == meta.sop_class_uid else "class"
    assert set(found) == set(bundled.UIDS_DIFFER)
    for name, case in found.items():
        assert case in bundled.UIDS_DIFFER[name]


# PDUs


def test_pynetdicom_reads_our_associate_pdus() -> None:
    user = wire.User(max_pdu=4096, roles=(wire.Role(objects.CT, 0, 1),), others=((0x53, b"\0\5\0\5"),))
    proposed = (wire.Proposed(1, objects.CT, (wire.EXPLICIT_LITTLE, wire.IMPLICIT_LITTLE)),)
    request = wire.AssociateRQ(called="EDGE ONE", calling="CT", contexts=proposed, user=user)
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(request.encode())
    assert theirs.called_ae_title.strip() == "EDGE ONE"
    assert theirs.encode() == request.encode()
    assert wire.AssociateRQ.decode(request.encode()[6:]) == request

    results = (wire.Answered(1, 0, wire.EXPLICIT_LITTLE), wire.Answered(3, 4, wire.IMPLICIT_LITTLE))
    answer = wire.AssociateAC(called="EDGE ONE", calling="CT", contexts=results, user=user)
    accepted = A_ASSOCIATE_AC()
    accepted.decode(answer.encode())
    assert accepted.encode() == answer.encode()
    assert wire.AssociateAC.decode(answer.encode()[6:]) == answer


def test_commands_and_fragments_survive_the_way_there_and_back() -> None:
    command = wire.c_store_rq(7, objects.CT, "2.25.1")
    again = wire.Command.decode(command.encode())
    assert again == command
    assert (again.verb, again.message_id, again.has_dataset, again.status) == (1, 7, True, None)
    values = [wire.Pdv(1, wire.Control.COMMAND, b"ab"), wire.Pdv(3, wire.Control.LAST, b"")]
    assert wire.decode_p_data(wire.p_data(*values)[6:]) == values


@pytest.mark.parametrize("body", [b"\0\0\0\x01\1\0", b"\0\0\0\x09\1\0ab", b"\0\0"])
def test_a_malformed_fragment_is_refused(body: bytes) -> None:
    with pytest.raises(wire.MalformedError):
        wire.decode_p_data(body)


# Our sender, our receiver


@pytest.mark.parametrize("max_pdu", [0, 4096, 65536])
def test_digests_are_the_same_at_both_ends(max_pdu: int) -> None:
    made = [*objects.ct(2), *objects.mr(3), *objects.tiny(1)]
    contexts = [(uid, LITTLE) for uid in (objects.CT, objects.MR, objects.RAW_DATA)]
    with RawReceiver(max_pdu=max_pdu) as receiver:
        with RawSender(receiver.port, calling="SCANNER") as sender:
            assert len(sender.associate([(wire.VERIFICATION, [wire.IMPLICIT_LITTLE]), *contexts])) == 4
            assert sender.echo() == 0
            assert {sender.store(obj) for obj in made} == {0}
        received = receiver.received
        assert came(received) == ledger(made)
        assert [each.length for each in received] == [obj.length for obj in made]
        assert {each.calling for each in received} == {"SCANNER"}
        assert receiver.wait_ending() == ["released"]
        assert receiver.problems == []


def test_every_bundled_file_arrives_verbatim_and_odd_ones_padded() -> None:
    files = [objects.part10(path) for _, path in objects.bundled()]
    kinds = sorted({(each.sop_class_uid, each.transfer_syntax_uid) for each in files})
    with RawReceiver() as receiver:
        with RawSender(receiver.port) as sender:
            sender.associate([(abstract, [syntax]) for abstract, syntax in kinds])
            assert {sender.store(each) for each in files} == {0}
        assert [each.digest for each in receiver.received] == [each.wire_digest for each in files]
        assert [each.length for each in receiver.received] == [each.length + each.length % 2 for each in files]
        assert receiver.problems == []


def test_a_large_file_is_streamed_from_end_to_end(tmp_path: Path) -> None:
    made = objects.write_multiframe(tmp_path / "multiframe.dcm", 24)
    with RawReceiver(max_pdu=0) as receiver, RawSender(receiver.port) as sender:
        sender.associate([(made.sop_class_uid, LITTLE)])
        assert sender.store(made) == 0
        assert sender.store(made, pdu=1 << 20) == 0
        assert [each.digest for each in receiver.received] == [made.digest] * 2


@pytest.mark.parametrize(
    ("behaviour", "raised", "ending"),
    [
        (Behaviour.ABORT, Aborted, "aborted"),
        (Behaviour.RELEASE, Released, "released instead of answering"),
        (Behaviour.SILENT, TimeoutError, "closed by the peer"),
        (Behaviour.CLOSE, PeerClosedError, "dropped"),
        (Behaviour.EMPTY, NoStatusError, "closed by the peer"),
    ],
)
def test_a_receiver_that_does_not_answer(behaviour: Behaviour, raised: type[Exception], ending: str) -> None:
    (obj,) = objects.mr(1)
    with RawReceiver(status_for=lambda _: behaviour) as receiver:
        with pytest.raises(raised):
            store_one(receiver.port, obj, timeout=0.3)
        assert came(receiver.wait(1)) == ledger([obj])
        assert receiver.wait_ending() == [ending]
        assert receiver.accepted == []


def test_a_receiver_that_aborts_in_the_middle_has_nothing() -> None:
    (obj,) = objects.ct(1)
    with RawReceiver(status_for=lambda _: Behaviour.ABORT_MID) as receiver:
        with pytest.raises(Aborted):
            store_one(receiver.port, obj)
        assert receiver.wait_ending() == ["aborted in the middle of a dataset"]
        assert receiver.received == []


def test_statuses_are_answered_as_told_and_kept_with_the_object() -> None:
    made = objects.tiny(3)
    wanted = dict(zip(ledger(made), (0xA700, 0xB000, 0), strict=True))
    with RawReceiver(status_for=lambda each: wanted[each.sop_instance_uid]) as receiver:
        with RawSender(receiver.port) as sender:
            sender.associate([(objects.RAW_DATA, LITTLE)])
            assert [sender.store(obj) for obj in made] == [0xA700, 0xB000, 0]
        assert [each.answer for each in receiver.received] == [0xA700, 0xB000, 0]
        assert came(receiver.accepted) == ledger(made[1:])


def test_rejections_and_refused_contexts() -> None:
    with RawReceiver(reject=(1, 1, 7)) as receiver:
        with pytest.raises(Rejected) as caught, RawSender(receiver.port) as sender:
            sender.associate([(objects.CT, LITTLE)])
        assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, 7)

        receiver.reject = None
        receiver.negotiate = lambda uid, syntaxes: 3 if uid == objects.CT else syntaxes[-1]
        with RawSender(receiver.port) as sender:
            accepted = sender.associate([(objects.CT, LITTLE), (objects.MR, [wire.EXPLICIT_BIG, wire.EXPLICIT_LITTLE])])
            assert accepted == {3: (objects.MR, wire.EXPLICIT_LITTLE)}
            assert sender.answer is not None
            assert sender.answer.contexts[0].result == 3
            with pytest.raises(NotAcceptedError):
                sender.store(objects.ct(1)[0])
        assert [request.contexts[0].abstract for request in receiver.requests] == [objects.CT] * 2


def test_an_answer_can_be_late() -> None:
    with RawReceiver(delay_response=0.2) as receiver, RawSender(receiver.port) as sender:
        sender.associate([(objects.RAW_DATA, LITTLE)])
        started = time.monotonic()
        assert sender.store(objects.tiny(1)[0]) == 0
        assert time.monotonic() - started >= 0.2


def test_a_reserved_port_is_nobody_elses_while_the_receiver_is_stopped() -> None:
    with RawReceiver(reserve=True) as receiver:
        for _ in range(2):
            receiver.stop()
            with pytest.raises(OSError, match="in use"):
                socket.create_server((LOOPBACK, receiver.port))
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((LOOPBACK, receiver.port))
            receiver.start()
            socket.create_connection((LOOPBACK, receiver.port)).close()


def test_a_receiver_comes_and_goes_on_one_port() -> None:
    with RawReceiver() as receiver:
        for _ in range(2):
            with RawSender(receiver.port) as sender:
                sender.associate([(objects.RAW_DATA, LITTLE)])
                assert sender.store(objects.tiny(1)[0]) == 0
                receiver.stop()
                assert not listening(receiver.port)
                with pytest.raises(PeerClosedError):
                    sender.read_pdu()
                sender.close()
            with pytest.raises(ConnectionRefusedError), RawSender(receiver.port):
                pass
            receiver.start()
        assert len(receiver.received) == 2
    assert [thread for thread in threading.enumerate() if thread.name.startswith("receiver")] == []


def test_a_receiver_notices_bad_manners() -> None:
    odd = objects.DicomObject(objects.CT, "2.25.1", wire.EXPLICIT_LITTLE, "2.25.2", b"odd")
    with RawReceiver(max_pdu=4096) as receiver:
        with RawSender(receiver.port) as sender:
            sender.associate([(objects.CT, LITTLE)])
            assert sender.store(odd, pad=False) == 0
            assert sender.store(objects.ct(1)[0], pdu=8192) == 0
        assert "an odd number" in receiver.problems[0]
        assert "8192 bytes where 4096" in receiver.problems[1]


def test_raw_bytes_and_what_comes_back() -> None:
    with RawReceiver() as receiver:
        with RawSender(receiver.port) as sender:
            sender.send_bytes(wire.Pdu(0x2A, b"garbage").encode())
            assert sender.read_pdu() == (wire.Type.ABORT, b"\0\0\2\0")
            sender.close()
        receiver.wait_ending()
        with RawSender(receiver.port) as sender:
            sender.associate([(objects.CT, LITTLE)])
            sender.abort(2, 6)
        assert receiver.wait_ending(2)[1] == "aborted by the peer: (2, 6)"


def test_messages_of_other_services_go_through_too() -> None:
    push = "1.2.840.10008.1.20.1"
    action = wire.Command.of(
        {
            wire.Field.REQUESTED_CLASS: push,
            wire.Field.COMMAND: wire.Verb.N_ACTION,
            wire.Field.MESSAGE_ID: 9,
            wire.Field.DATASET_TYPE: 1,
            wire.Field.REQUESTED_INSTANCE: f"{push}.1",
            wire.Field.ACTION_TYPE: 1,
        }
    )
    with RawReceiver(max_pdu=4096) as receiver:
        with RawSender(receiver.port) as sender:
            (context,) = sender.associate([(push, LITTLE)], roles=[wire.Role(push, 0, 1)])
            sender.send_message(context, action, bytes(9000))
            answer = sender.read_message()
        assert (answer.command.status, answer.command.number(wire.Field.RESPONDED_TO)) == (0x0211, 9)
        assert receiver.requests[0].user.roles == (wire.Role(push, 0, 1),)


def test_a_deadline_holds_against_a_peer_that_drips() -> None:
    stop = threading.Event()

    def drip(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            while not stop.wait(0.05):
                peer.sendall(b"\2")

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        try:
            with pytest.raises(TimeoutError), RawSender(listener.getsockname()[1], timeout=0.3) as sender:
                sender.associate([(objects.CT, LITTLE)])
        finally:
            stop.set()
            thread.join()


# DCMTK


@pytest.mark.rig
@pytest.mark.parametrize("nodelay", [True, False])
def test_raw_sender_to_storescp(tmp_path: Path, nodelay: bool) -> None:  # noqa: FBT001 (a parameter)
    made = [*objects.ct(1), *objects.mr(2)]
    with dcmtk.Storescp(tmp_path / "scp", nodelay=nodelay) as scp:
        with RawSender(scp.port) as sender:
            sender.associate([(objects.CT, LITTLE), (objects.MR, LITTLE)])
            assert {sender.store(obj) for obj in made} == {0}
        files = [objects.part10(path) for path in scp.received()]
        assert {file.sop_instance_uid: file.digest for file in files} == ledger(made)


@pytest.mark.rig
@pytest.mark.parametrize("send", [dcmtk.storescu, dcmtk.dcmsend, pynetdicom_scu])
def test_the_tools_to_raw_receiver(tmp_path: Path, send: dcmtk.Send) -> None:
    made = [*objects.ct(1), *objects.mr(2)]
    with RawReceiver() as receiver:
        send(receiver.port, written(made, tmp_path), called="ARCHIVE")
        assert came(receiver.received) == ledger(made)
        assert receiver.requests[0].called == "ARCHIVE"
        assert receiver.problems == []

        receiver.status_for = lambda _: 0xA700
        with pytest.raises(PeerFailedError):
            send(receiver.port, written(made[:1], tmp_path))


@pytest.mark.rig
def test_echoscu_to_raw_receiver() -> None:
    with RawReceiver() as receiver:
        dcmtk.echoscu(receiver.port, calling="PROBE")
        assert receiver.echoes == 1
        assert receiver.requests[0].calling == "PROBE"
    with pytest.raises(PeerFailedError, match="echoscu: exit status"):
        dcmtk.echoscu(receiver.port)


@pytest.mark.rig
@pytest.mark.parametrize("nodelay", [True, False])
def test_what_the_environment_variable_does_to_dcmtk(tmp_path: Path, nodelay: bool) -> None:  # noqa: FBT001
    trace = tmp_path / "trace"
    # -D: the process that we start, and end, is the server itself
    tool = [require("strace"), "-D", "-e", "trace=setsockopt,exit_group", "-o", str(trace)]
    files = written(objects.tiny(1), tmp_path)
    scp = dcmtk.Storescp(tmp_path / "scp", nodelay=nodelay)
    scp.arguments = [*tool, *scp.arguments]
    with scp:
        dcmtk.dcmsend(scp.port, files)
    wait_for(lambda: "+++" in trace.read_text(), 10, "the end of the trace")
    assert bool(re.search(r"TCP_NODELAY, \[1\]", trace.read_text())) == nodelay


# pynetdicom


@pytest.mark.rig
def test_pynetdicom_receives(tmp_path: Path) -> None:
    made = objects.mr(2)
    folder = tmp_path / "scp"
    with PynetdicomScp(folder, log=tmp_path / "log", fsync=True, nodelay=True) as scp:
        with RawSender(scp.port) as sender:
            sender.associate([(wire.VERIFICATION, LITTLE), (objects.MR, LITTLE)])
            assert sender.echo() == 0
            assert {sender.store(obj) for obj in made} == {0}
        files = [objects.part10(path) for path in scp.received()]
        assert {file.sop_instance_uid: file.digest for file in files} == ledger(made)


# Orthanc


@pytest.mark.rig
def test_orthanc_both_ways_and_over_a_restart(tmp_path: Path) -> None:
    made = [*objects.ct(1), *objects.mr(2)]
    with RawReceiver() as receiver, Orthanc(tmp_path, modalities={"raw": ("RAW", receiver.port)}) as orthanc:
        with RawSender(orthanc.dicom_port) as sender:
            sender.associate([(objects.CT, LITTLE), (objects.MR, LITTLE)])
            assert {sender.store(obj) for obj in made} == {0}
        assert orthanc.count() == 3
        assert orthanc.digests() == ledger(made)

        orthanc.stop()
        orthanc.start()
        assert orthanc.digests() == ledger(made)

        orthanc.send("raw", orthanc.instances())
        assert came(receiver.received) == ledger(made)
        (more,) = objects.tiny(1)
        identifier = orthanc.upload(more.write(tmp_path / "more.dcm").read_bytes())
        orthanc.modality("later", "LATER", receiver.port)
        orthanc.send("later", [identifier])
        assert came(receiver.received)[more.sop_instance_uid] == more.digest


# Ports and programs


def test_a_wait_says_what_did_not_happen() -> None:
    assert wait_for(lambda: "now", 1, "nothing") == "now"
    with pytest.raises(TimeoutError, match="the moon: not within"):
        wait_for(lambda: None, 0.05, "the moon")


def test_listening_is_seen_without_connecting() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        assert listening(listener.getsockname()[1])
    assert not listening(free_port())


def test_a_missing_tool_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    assert require(sys.executable) == sys.executable
    monkeypatch.delenv("EDGE_TEST_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool is not installed"):
        require("no-such-tool")
    monkeypatch.setenv("EDGE_TEST_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="asks for every tool"):
        require("no-such-tool")


@pytest.mark.rig
def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with dcmtk.Storescp(tmp_path / "one", nodelay=True) as scp:
        second = dcmtk.Storescp(tmp_path / "two", nodelay=True, extra=["--no-such-option"])
        with pytest.raises(PeerFailedError, match="no-such-option"):
            second.start()
        assert scp.pid > 0
    with pytest.raises(PeerFailedError, match="is not running"):
        _ = scp.pid
