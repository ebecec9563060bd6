import contextlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import FileDataset

from edge.dicom.part10 import PRIVATE_CREATOR, Head, Meta, NotPart10Error, begin, read_meta, sealed
from edge.dicom.pdu import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from edge.intake import seal as seals
from edge.intake.seal import BadSealError, Seal
from edge.model import Header, Kind, Source
from edge.routing import Leg
from tests.peers import bundled, objects, wire

ROOM = 1088


def head_for(obj: objects.DicomObject, room: int = ROOM) -> Head:
    return begin(obj.sop_class_uid, obj.sop_instance_uid, obj.transfer_syntax_uid, room)


def opened(data: bytes) -> FileDataset:
    return dcmread(BytesIO(data))


# our files


def test_pydicom_reads_a_sealed_file_element_by_element() -> None:
    (obj,) = objects.tiny(1)
    head = sealed(head_for(obj), source="EDGE", sending="CT 2", receiving="PACS", private=b"the seal")
    read = opened(head + obj.dataset)
    meta = read.file_meta
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.MediaStorageSOPClassUID == read.SOPClassUID == obj.sop_class_uid
    assert meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID == obj.sop_instance_uid
    assert meta.TransferSyntaxUID == obj.transfer_syntax_uid
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION
    assert meta.SourceApplicationEntityTitle == "EDGE"
    assert meta.SendingApplicationEntityTitle == "CT 2"
    assert meta.ReceivingApplicationEntityTitle == "PACS"
    assert meta.PrivateInformationCreatorUID == PRIVATE_CREATOR
    assert meta.PrivateInformation == b"the seal".ljust(ROOM, b"\0")
    assert [element.tag for element in meta] == sorted(element.tag for element in meta)
    assert read.StudyInstanceUID == obj.study_uid


def test_the_group_length_leads_to_the_first_byte_of_the_dataset() -> None:
    (obj,) = objects.tiny(1)
    head = head_for(obj)
    length = opened(head.data + obj.dataset).file_meta.FileMetaInformationGroupLength
    assert 132 + 12 + length == len(head.data) == read_meta(head.data + obj.dataset).offset


def test_a_file_is_part_10_from_its_first_byte_on() -> None:
    (obj,) = objects.tiny(1)
    head = head_for(obj)
    assert opened(head.data + obj.dataset).SOPInstanceUID == obj.sop_instance_uid
    assert read_meta(head.data).private == bytes(ROOM)


@pytest.mark.parametrize("room", [0, 2, 768, 60_000, 100_000])
@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34", "1." + "9" * 62])
def test_the_offset_of_the_dataset_is_known_before_and_kept_by_the_seal(room: int, uid: str) -> None:
    head = begin(objects.CT, uid, wire.EXPLICIT_LITTLE, room)
    full = sealed(head, source="S" * 16, sending="T" * 16, receiving="R" * 16, private=b"x" * room)
    assert len(full) == len(head.data)
    assert len(full) % 2 == 0
    assert read_meta(full) == Meta(
        sop_class_uid=objects.CT,
        sop_instance_uid=uid,
        transfer_syntax_uid=wire.EXPLICIT_LITTLE,
        private=b"x" * room,
        offset=len(head.data),
    )


def test_sealing_changes_nothing_but_titles_and_private_information() -> None:
    head = begin(objects.CT, "1.2.3", wire.EXPLICIT_LITTLE, ROOM)
    full = sealed(head, source="A", sending="B", receiving="C", private=b"p" * 10)
    changed = [at for at, (old, new) in enumerate(zip(head.data, full, strict=True)) if old != new]
    titles = set(range(head.titles_at, head.titles_at + 3 * 24))
    assert set(changed) <= titles | set(range(head.private_at, head.private_at + 10))


def test_titles_too_long_or_outside_latin_1_do_no_harm() -> None:
    (obj,) = objects.tiny(1)
    head = sealed(head_for(obj), source="RÖNTGEN", sending="放射線", receiving="L" * 40, private=b"")
    read = read_meta(head + obj.dataset)
    assert read.offset == len(head)
    assert opened(head + obj.dataset).file_meta.ReceivingApplicationEntityTitle == "L" * 16


def test_a_seal_that_needs_more_than_was_kept_is_never_written() -> None:
    with pytest.raises(ValueError, match="1089 bytes and 1088 were kept"):
        sealed(begin("1", "2", "3", ROOM), source="", sending="", receiving="", private=bytes(ROOM + 1))


# files of others


@pytest.mark.parametrize("name", [name for name, _ in objects.bundled()])
def test_the_meta_of_a_bundled_file_is_read(name: str) -> None:
    path = bundled.FOLDER / name
    by_hand = objects.part10(path)
    assert read_meta(path.read_bytes()) == Meta(
        sop_class_uid=by_hand.sop_class_uid,
        sop_instance_uid=by_hand.sop_instance_uid,
        transfer_syntax_uid=by_hand.transfer_syntax_uid,
        private=b"",
        offset=by_hand.offset,
    )


NO_SYNTAX = {"meta_missing_tsyntax.dcm"}
NO_PREFIX = {
    name for name, path in bundled.files() if name in bundled.NOT_STORAGE and path.read_bytes()[128:132] != b"DICM"
}


@pytest.mark.parametrize("name", sorted(NO_PREFIX))
def test_a_file_without_prefix_is_no_part_10_file(name: str) -> None:
    with pytest.raises(NotPart10Error, match="no DICM prefix"):
        read_meta((bundled.FOLDER / name).read_bytes())


@pytest.mark.parametrize("name", sorted(NO_SYNTAX))
def test_a_file_that_names_no_transfer_syntax_cannot_be_taken(name: str) -> None:
    with pytest.raises(NotPart10Error, match="names no Transfer Syntax"):
        read_meta((bundled.FOLDER / name).read_bytes())


def test_private_information_of_others_is_not_taken_for_ours() -> None:
    head = begin(objects.CT, "1.2.3", wire.EXPLICIT_LITTLE, ROOM)
    other = head.data.replace(PRIVATE_CREATOR.encode(), PRIVATE_CREATOR.encode()[:-1] + b"0")
    assert read_meta(other).private == b""


def test_a_file_of_ours_cut_anywhere_in_its_meta_is_found_out() -> None:
    data = sealed(
        begin(objects.CT, "1.2.3", wire.EXPLICIT_LITTLE, 64), source="A", sending="B", receiving="C", private=b"x"
    )
    for keep in range(len(data)):
        with pytest.raises(NotPart10Error):
            read_meta(data[:keep])
    assert read_meta(data).offset == len(data)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "693_J2KI.dcm"])
def test_a_bundled_file_cut_anywhere_in_its_meta_is_found_out(name: str) -> None:
    path = bundled.FOLDER / name
    data, offset = path.read_bytes(), objects.part10(path).offset
    for keep in range(offset):
        with pytest.raises(NotPart10Error):
            read_meta(data[:keep])


@given(noise=st.binary(max_size=300), at=st.integers(0, 400))
def test_whatever_the_bytes_are_reading_fails_with_not_part_10_or_not_at_all(noise: bytes, at: int) -> None:
    good = begin(objects.CT, "1.2.3", wire.EXPLICIT_LITTLE, 64).data
    for data in (noise, bytes(128) + b"DICM" + noise, good[: 132 + at] + noise):
        with contextlib.suppress(NotPart10Error):
            assert 132 <= read_meta(data).offset <= len(data)


# the seal

SEAL = Seal(
    id=1 << 20,
    length=12345,
    digest=bytes(range(32)),
    source=Source(door="dimse", calling="CT 2", called="EDGE", address="192.168.1.7"),
    received_at=1750000000.125,
    clock_trusted=True,
    legs=(Leg("pacs", 1, needs_proof=True), Leg("cloud", 0, needs_proof=False)),
)


def test_a_seal_comes_back_with_the_zeros_that_stand_behind_it() -> None:
    value = seals.encode(SEAL)
    assert seals.decode(value) == SEAL
    assert seals.decode(value.ljust(seals.room(2, SEAL.source), b"\0")) == SEAL


def test_a_seal_goes_through_a_file() -> None:
    (obj,) = objects.tiny(1)
    head = sealed(
        head_for(obj, seals.room(2, SEAL.source)),
        source="EDGE",
        sending="CT 2",
        receiving="EDGE",
        private=seals.encode(SEAL),
    )
    assert seals.decode(read_meta(head + obj.dataset).private) == SEAL


def test_a_seal_torn_at_any_byte_is_no_seal() -> None:
    value = seals.encode(SEAL)
    for keep in range(len(value)):
        for torn in (value[:keep], value[:keep].ljust(seals.room(2, SEAL.source), b"\0")):
            with pytest.raises(BadSealError):
                seals.decode(torn)


def test_a_seal_with_any_byte_changed_is_no_seal() -> None:
    value = seals.encode(SEAL)
    for at in range(len(value)):
        wrong = bytearray(value.ljust(seals.room(2, SEAL.source), b"\0"))
        wrong[at] ^= 0x20
        with pytest.raises(BadSealError):
            seals.decode(bytes(wrong))


def test_a_place_that_was_kept_and_never_filled_is_no_seal() -> None:
    with pytest.raises(BadSealError, match="there is no seal"):
        seals.decode(bytes(seals.room(2, SEAL.source)))


@pytest.mark.parametrize("destinations", [0, 1, 16])
def test_the_place_kept_is_enough_for_the_longest_seal(destinations: int) -> None:
    longest = Seal(
        id=2**62,
        length=2**62,
        digest=b"\xff" * 32,
        source=Source(door="dimse", calling="\x01" * 16, called="\x7f" * 16, address="f" * 45),
        received_at=1234567890.1234567,
        clock_trusted=False,
        legs=tuple(Leg("d" * 64, 2, needs_proof=False) for _ in range(destinations)),
    )
    assert len(seals.encode(longest)) <= seals.room(destinations, longest.source)
    assert seals.room(destinations, longest.source) % 2 == 0


@given(
    calling=st.text(st.characters(max_codepoint=255), max_size=16),
    length=st.integers(0, 2**62),
    digest=st.binary(min_size=32, max_size=32),
    names=st.lists(st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True), max_size=4),
)
def test_whatever_is_sealed_is_read_again(calling: str, length: int, digest: bytes, names: list[str]) -> None:
    made = Seal(
        id=1,
        length=length,
        digest=digest,
        source=Source(door="dimse", calling=calling, called="EDGE", address="::1"),
        received_at=0.5,
        clock_trusted=False,
        legs=tuple(Leg(name, 1, needs_proof=False) for name in names),
    )
    assert seals.decode(seals.encode(made).ljust(seals.room(len(names), made.source), b"\0")) == made


def test_a_row_is_made_from_seal_and_meta_alone() -> None:
    kind, header = Kind(objects.CT, wire.EXPLICIT_LITTLE), Header(study_uid="1.2")
    row = seals.instance(SEAL, kind, "1.2.3", 1000, header)
    assert (row.id, row.length, row.digest, row.source) == (SEAL.id, SEAL.length, SEAL.digest, SEAL.source)
    assert (row.kind, row.sop_instance_uid, row.offset, row.header) == (kind, "1.2.3", 1000, header)
