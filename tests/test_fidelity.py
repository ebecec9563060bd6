"""Every bundled object through the installed command: what comes out is, byte for byte, what went in."""

import json
import sqlite3
import threading
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest
from pydicom import dcmread

from tests.appliance import Edge, dimse
from tests.peers import objects, wire
from tests.peers.raw import RawReceiver, RawSender, Received

pytestmark = pytest.mark.rig

STORED: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
MISMATCH: Final = 0xA900

ODD_ONES: Final[Mapping[str, int]] = MappingProxyType(
    {
        # the dataset names no object: what the command says stands
        "UN_sequence.dcm": STORED,
        "no_meta_group_length.dcm": STORED,
        "priv_SQ.dcm": STORED,
        # the dataset names another object than the command
        "badVR.dcm": MISMATCH,
        "rtdose.dcm": MISMATCH,
        "rtdose_1frame.dcm": MISMATCH,
        "rtdose_expb.dcm": MISMATCH,
        "rtdose_expb_1frame.dcm": MISMATCH,
        "rtplan.dcm": MISMATCH,
        "rtplan_truncated.dcm": MISMATCH,
    }
)
"""What is answered to files whose File Meta, and so the sender's command, is at odds with the dataset."""

SAME_BYTES: Final[Mapping[str, str]] = MappingProxyType(
    {"SC_rgb_jpeg_app14_dcmd.dcm": "SC_jpeg_no_color_transform_2.dcm"}
)
"""The second of two files with the same dataset under the same UID: accepted, and not delivered twice."""

DEFLATED, BIG, RLE = wire.DEFLATED, wire.EXPLICIT_BIG, "1.2.840.10008.1.2.5"
BY_SYNTAX: Final = [
    ("image_dfl.dcm", DEFLATED),
    ("ExplVR_BigEnd.dcm", BIG),
    ("MR_small_bigendian.dcm", BIG),
    ("liver_expb_1frame.dcm", BIG),
    ("MR_small_implicit.dcm", wire.IMPLICIT_LITTLE),
    ("CT_small.dcm", wire.EXPLICIT_LITTLE),
    ("MR_small_RLE.dcm", RLE),
    ("SC_rgb_jpeg.dcm", "1.2.840.10008.1.2.4.50"),
    ("JPEG-lossy.dcm", "1.2.840.10008.1.2.4.51"),
    ("SC_rgb_jpeg_gdcm.dcm", "1.2.840.10008.1.2.4.70"),
    ("MR_small_jpeg_ls_lossless.dcm", "1.2.840.10008.1.2.4.80"),
    ("JPEGLSNearLossless_08.dcm", "1.2.840.10008.1.2.4.81"),
    ("MR_small_jp2klossless.dcm", "1.2.840.10008.1.2.4.90"),
    ("JPEG2000.dcm", "1.2.840.10008.1.2.4.91"),
]
"""A file, at least, for each transfer syntax among them."""

FILES: Final = {name: objects.part10(path) for name, path in objects.bundled()}
DELIVERED: Final = [name for name in FILES if ODD_ONES.get(name, STORED) == STORED and name not in SAME_BYTES]
REFUSED: Final = [name for name, status in ODD_ONES.items() if status == MISMATCH]


def twins() -> dict[str, list[str]]:
    """Files that are to be delivered under one SOP Instance UID, in the order in which they are sent."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in DELIVERED:
        found[FILES[name].sop_instance_uid].append(name)
    return {names[0]: names for names in found.values() if len(names) > 1}


TWINS: Final = twins()
RENDERINGS: Final = [
    name
    for names in TWINS.values()
    if len({FILES[name].transfer_syntax_uid for name in names}) == len(names)
    for name in names[1:]
]
"""Files that are another rendering of one before: sent when a person insists, as that one is accepted."""
PUT_OFF: Final = ("MR_small.dcm", "JPEG-lossy.dcm")
"""Files with twins which are told to come again later when they first come, so that a twin could overtake them."""


@dataclass(frozen=True)
class Passage:
    """What was answered, what was accepted upstream, and what lies in the appliance's storage."""

    statuses: Mapping[str, int]
    received: Sequence[Received]
    storage: Path
    problems: Sequence[str]

    def arrivals(self, name: str) -> list[Received]:
        """The deliveries of exactly this file's bytes under its UIDs."""
        file = FILES[name]
        return [
            r
            for r in self.received
            if (r.sop_class_uid, r.sop_instance_uid, r.transfer_syntax_uid, r.digest)
            == (file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax_uid, file.wire_digest)
        ]

    def spooled(self, name: str) -> Path:
        """The file in spool/ready that holds it."""
        file = FILES[name]
        found = [path for path in self.storage.glob("spool/ready/*/*.dcm") if _same(objects.part10(path), file)]
        assert len(found) == 1
        return found[0]


def _same(ours: objects.FileObject, sent: objects.FileObject) -> bool:
    return (ours.sop_instance_uid, ours.transfer_syntax_uid, ours.wire_digest) == (
        sent.sop_instance_uid,
        sent.transfer_syntax_uid,
        sent.wire_digest,
    )


@pytest.fixture(scope="module")
def passage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passage]:
    """All of them through one appliance. Nothing is answered upstream before the last has been sent, so that
    objects which share a UID are all waiting at once; and the first of some is put off.
    """
    sent = threading.Event()
    put_off = {FILES[name].sop_instance_uid for name in PUT_OFF}

    def status_for(received: Received) -> int:
        sent.wait(60)
        if received.sop_instance_uid in put_off:
            put_off.remove(received.sop_instance_uid)
            return OUT_OF_RESOURCES
        return STORED

    folder = tmp_path_factory.mktemp("fidelity")
    with RawReceiver(status_for=status_for) as receiver, Edge(folder, dimse("pacs", receiver.port)) as edge:
        try:
            statuses = {}
            for name, file in FILES.items():
                with RawSender(edge.port, timeout=20) as sender:
                    sender.associate([(file.sop_class_uid, [file.transfer_syntax_uid])])
                    statuses[name] = sender.store(file)
        finally:
            sent.set()
        edge.wait_settled("pacs", {"accepted": len(DELIVERED) - len(RENDERINGS), "cancelled": len(RENDERINGS)})
        passed_over = edge.json("queue", "--state", "cancelled")
        assert {row["code"] for row in passed_over} == {"OTHER_RENDERING"}
        for row in passed_over:
            edge.command("retry", "--force", "--delivery", str(row["id"]))
        edge.wait_settled("pacs", {"accepted": len(DELIVERED)})
        yield Passage(statuses, receiver.accepted, edge.storage, list(receiver.problems))


def test_the_table_of_odd_ones_is_complete() -> None:
    assert set(ODD_ONES) == set(objects.UIDS_DIFFER)
    assert {FILES[name].transfer_syntax_uid for name, _ in BY_SYNTAX} == {
        file.transfer_syntax_uid for file in FILES.values()
    }
    assert set(PUT_OFF) <= set(TWINS)
    assert len(RENDERINGS) == 4
    for second, first in SAME_BYTES.items():
        assert _same(FILES[first], FILES[second])


@pytest.mark.parametrize("name", FILES)
def test_each_bundled_file_is_answered_as_expected(passage: Passage, name: str) -> None:
    assert passage.statuses[name] == ODD_ONES.get(name, STORED)


@pytest.mark.parametrize("name", DELIVERED)
def test_each_bundled_file_comes_out_once_and_byte_for_byte(passage: Passage, name: str) -> None:
    assert len(passage.arrivals(name)) == 1


@pytest.mark.parametrize(("name", "syntax"), BY_SYNTAX)
def test_each_transfer_syntax_comes_out_as_it_went_in(passage: Passage, name: str, syntax: str) -> None:
    assert FILES[name].transfer_syntax_uid == syntax
    (arrival,) = passage.arrivals(name)
    assert (arrival.transfer_syntax_uid, arrival.digest) == (syntax, FILES[name].wire_digest)


def test_nothing_else_comes_out(passage: Passage) -> None:
    assert len(passage.received) == len(DELIVERED)
    assert {r.sop_instance_uid for r in passage.received} == {FILES[name].sop_instance_uid for name in DELIVERED}
    assert passage.problems == []


@pytest.mark.parametrize("name", SAME_BYTES)
def test_the_same_bytes_again_are_accepted_and_delivered_once(passage: Passage, name: str) -> None:
    assert passage.statuses[name] == STORED
    assert len(passage.arrivals(name)) == 1


@pytest.mark.parametrize("names", TWINS.values(), ids=TWINS)
def test_objects_that_share_a_uid_all_come_out_in_the_order_in_which_they_came(
    passage: Passage, names: list[str]
) -> None:
    arrived = [passage.arrivals(name)[0] for name in names]
    assert [passage.received.index(each) for each in arrived] == sorted(passage.received.index(e) for e in arrived)
    assert len({each.digest for each in arrived}) == len(names)


@pytest.mark.parametrize("name", REFUSED)
def test_an_object_at_odds_with_its_command_lies_in_quarantine_with_the_reason(passage: Passage, name: str) -> None:
    file = FILES[name]
    folder = passage.storage / "quarantine"
    found = [path for path in folder.glob("*.dcm") if _same(objects.part10(path), file)]
    assert len(found) == 1
    note = json.loads(found[0].with_suffix(".json").read_bytes())
    assert "SOP Instance UID (0008,0018) is not the command's" in note["why"]
    assert (note["sop_class_uid"], note["sop_instance_uid"]) == (file.sop_class_uid, file.sop_instance_uid)
    assert note["source"]["calling"] == "RAW"


def test_quarantine_holds_nothing_else(passage: Passage) -> None:
    names = sorted(path.name for path in (passage.storage / "quarantine").iterdir())
    assert len(names) == 2 * len(REFUSED)
    assert {name.partition(".")[2] for name in names} == {"dcm", "json"}


@pytest.mark.parametrize("name", DELIVERED)
def test_the_file_in_the_spool_is_part_10_and_holds_the_same_bytes(passage: Passage, name: str) -> None:
    file, path = FILES[name], passage.spooled(name)
    dataset = objects.part10_split(path).dataset
    assert dataset[: file.length] == objects.part10_split(file.path).dataset
    assert dataset[file.length :] == b"\0" * (file.length % 2)
    ours, theirs = dcmread(path, stop_before_pixels=True), dcmread(file.path, stop_before_pixels=True)
    assert ours.file_meta.MediaStorageSOPClassUID == file.sop_class_uid
    assert ours.file_meta.MediaStorageSOPInstanceUID == file.sop_instance_uid
    assert ours.file_meta.TransferSyntaxUID == file.transfer_syntax_uid
    assert ours.file_meta.SendingApplicationEntityTitle == "RAW"
    assert [element.tag for element in ours] == [element.tag for element in theirs]


def test_the_spool_holds_what_was_stored_and_nothing_else(passage: Passage) -> None:
    assert len(list(passage.storage.glob("spool/ready/*/*.dcm"))) == len(DELIVERED)
    assert list(passage.storage.glob("spool/incoming/*")) == []


def test_each_stored_object_has_its_row_with_the_digest_of_the_wire(passage: Passage) -> None:
    database = passage.storage / "db" / "edge.sqlite"
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT sop_instance_uid, transfer_syntax_uid, digest FROM instance").fetchall()
    finally:
        connection.close()
    expected = [FILES[name] for name in DELIVERED]
    assert sorted(rows) == sorted((f.sop_instance_uid, f.transfer_syntax_uid, f.wire_digest) for f in expected)


def test_a_dataset_of_odd_length_is_padded_on_the_way_out_and_kept_as_it_came(tmp_path: Path) -> None:
    made = next(deflated for deflated in map(_deflate, objects.tiny(64)) if deflated.length % 2)
    with RawReceiver() as receiver, Edge(tmp_path, dimse("pacs", receiver.port)) as edge:
        with RawSender(edge.port, timeout=20) as sender:
            sender.associate([(made.sop_class_uid, [made.transfer_syntax_uid])])
            assert sender.store(made, pad=False) == STORED
        edge.wait_settled("pacs", {"accepted": 1})
        (received,) = receiver.received
        assert (received.digest, received.length) == (made.wire_digest, made.length + 1)
        assert receiver.problems == []
        (path,) = edge.spooled()
        assert objects.part10(path).digest == made.digest
        assert dcmread(path).SOPInstanceUID == made.sop_instance_uid


def _deflate(obj: objects.DicomObject) -> objects.DicomObject:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(obj.dataset) + packer.flush()
    return objects.DicomObject(obj.sop_class_uid, obj.sop_instance_uid, DEFLATED, obj.study_uid, packed)
