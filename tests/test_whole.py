"""What a file is: every shape that media and shares have, cut at every byte, and whatever else may lie there."""

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.filereader import data_element_generator

from edge.dicom import part10, source, walk
from edge.dicom.uids import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from edge.dicom.whole import Archive, Directory, Foreign, Found, Unfinished, Unusable, Whole, hopeless, recognise
from tests.peers import bundled, objects

JPEG: Final = "1.2.840.10008.1.2.4.50"
CT: Final = objects.CT
UID: Final = "1.2.826.0.1.3680043.2.1125.1"
NO_PIXELS: Final = "it describes an image and has no pixel data"


def of(data: bytes) -> Found:
    def read(offset: int, count: int) -> bytes:
        assert count >= 0
        assert 0 <= offset <= len(data)
        return data[offset : offset + count]

    return recognise(read, len(data))


def ui(element: int, uid: str, group: int = 8, order: str = "<", *, explicit: bool = True) -> bytes:
    raw = uid.encode() + b"\0" * (len(uid) % 2)
    head = struct.pack(order + "HH2sH", group, element, b"UI", len(raw))
    return (head if explicit else struct.pack(order + "HHL", group, element, len(raw))) + raw


def element(tag: int, vr: bytes, value: bytes, order: str = "<", *, explicit: bool = True, length: int = -1) -> bytes:
    size = len(value) if length < 0 else length
    group, number = tag >> 16, tag & 0xFFFF
    if not explicit:
        return struct.pack(order + "HHL", group, number, size) + value
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack(order + "HH2sxxL", group, number, vr, size) + value
    return struct.pack(order + "HH2sH", group, number, vr, size) + value


def item(value: bytes, order: str = "<", *, open_end: bool = False) -> bytes:
    if open_end:
        return (
            struct.pack(order + "HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
            + value
            + struct.pack(order + "HHL", 0xFFFE, 0xE00D, 0)
        )
    return struct.pack(order + "HHL", 0xFFFE, 0xE000, len(value)) + value


def sequence_end(order: str = "<") -> bytes:
    return struct.pack(order + "HHL", 0xFFFE, 0xE0DD, 0)


def dataset(order: str = "<", *, explicit: bool = True, encapsulated: bool = False) -> bytes:
    """A dataset with every way of nesting, an image's size, and pixel data."""

    def one(tag: int, vr: bytes, value: bytes, length: int = -1) -> bytes:
        return element(tag, vr, value, order, explicit=explicit, length=length)

    inner = one(0x00081155, b"UI", b"1.2\0") + one(
        0x00081140, b"SQ", item(one(0x00081155, b"UI", b"1.3\0"), order) + sequence_end(order), 0xFFFFFFFF
    )
    pixels = (
        element(0x7FE00010, b"OB", item(b"") + item(b"\xff\xd8data\xff\xd9") + sequence_end(), length=0xFFFFFFFF)
        if encapsulated
        else one(0x7FE00010, b"OW", bytes(range(64)))
    )
    return (
        ui(0x16, CT, order=order, explicit=explicit)
        + ui(0x18, UID, order=order, explicit=explicit)
        + one(0x00080060, b"CS", b"CT")
        + one(
            0x00081140, b"SQ", item(inner, order, open_end=True) + item(inner, order) + sequence_end(order), 0xFFFFFFFF
        )
        + one(0x00082112, b"SQ", item(one(0x00081155, b"UI", b"1.4\0"), order))
        + one(0x00091001, b"UN", item(ui(0x1155, "1.5", explicit=False)) + sequence_end(), 0xFFFFFFFF) * (order == "<")
        + one(0x00280010, b"US", struct.pack(order + "H", 8))
        + pixels
        + one(0xFFFCFFFC, b"OB", bytes(6))
    )


def meta(syntax: str, sop_class: str = CT, uid: str = UID) -> bytes:
    group = ui(2, sop_class, 2) + ui(3, uid, 2) + ui(0x10, syntax, 2)
    return part10.PREAMBLE + element(0x00020000, b"UL", struct.pack("<L", len(group))) + group


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


EXPLICIT_SET: Final = dataset()
SHAPES: Final = {
    "explicit": (EXPLICIT_LITTLE, EXPLICIT_SET),
    "implicit": (IMPLICIT_LITTLE, dataset(explicit=False)),
    "big": (EXPLICIT_BIG, dataset(">")),
    "encapsulated": (JPEG, dataset(encapsulated=True)),
    "deflated": (DEFLATED, deflated(EXPLICIT_SET)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_whole_file_is_found_where_it_lies(shape: str) -> None:
    syntax, data = SHAPES[shape]
    head = meta(syntax)
    for front in (head, head[128:], head[132:]):
        found = of(front + data)
        assert isinstance(found, Whole), found
        assert (found.kind.sop_class_uid, found.kind.transfer_syntax_uid) == (CT, syntax)
        assert (found.sop_instance_uid, found.offset, found.length) == (UID, len(front), len(data))
        assert (found.oddity, found.private) == ("", b"")


@pytest.mark.parametrize("shape", ["explicit", "implicit", "big"])
def test_a_bare_dataset_is_taken_by_its_first_element(shape: str) -> None:
    syntax, data = SHAPES[shape]
    for front in (b"", part10.PREAMBLE):
        found = of(front + data)
        assert isinstance(found, Whole), found
        assert (found.kind.transfer_syntax_uid, found.offset, found.length) == (syntax, len(front), len(data))


def settled(data: bytes) -> bool:
    """Whether a file would be taken when it rests for a while."""
    found = of(data)
    return isinstance(found, Whole) and not found.doubt


@pytest.mark.parametrize("shape", SHAPES)
def test_cut_at_any_byte_it_is_not_whole(shape: str) -> None:
    """Where it is cut between two elements after its pixel data, nothing in the file tells: here one place."""
    syntax, data = SHAPES[shape]
    file = meta(syntax) + data
    padding = len(file) - len(element(0xFFFCFFFC, b"OB", bytes(6), explicit=shape != "implicit"))
    for length in range(len(file)):
        assert isinstance(of(file[:length]), Unfinished | Whole), length
        assert settled(file[:length]) == (length == padding and shape != "deflated"), length


@pytest.mark.parametrize("shape", ["explicit", "implicit", "big"])
def test_a_bare_dataset_cut_at_any_byte_is_never_whole(shape: str) -> None:
    data = SHAPES[shape][1]
    padding = len(data) - len(element(0xFFFCFFFC, b"OB", bytes(6), explicit=shape != "implicit"))
    for length in range(1, len(data)):
        assert settled(data[:length]) == (length == padding), length


@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_in_the_place_of_what_is_still_to_come_are_not_taken(shape: str) -> None:
    """A copy over SMB may set the length first: what was not written yet reads as zeros."""
    syntax, data = SHAPES[shape]
    file = meta(syntax) + data
    pixels = (
        file.rindex(struct.pack(">HH" if shape == "big" else "<HH", 0x7FE0, 0x0010))
        if shape != "deflated"
        else len(file)
    )
    for length in range(1, min(pixels, len(file) - 1)):
        assert not settled(file[:length] + bytes(len(file) - length)), length


@pytest.mark.parametrize("shape", ["explicit", "implicit", "big", "encapsulated"])
def test_whole_when_cut_means_cut_between_two_top_level_elements(shape: str) -> None:
    """There alone it cannot be known: the caller waits until the size stands still, longer where there is ``doubt``."""
    syntax, data = SHAPES[shape]
    head = meta(syntax)
    lengths = {length for length in range(1, len(data)) if isinstance(of(head + data[:length]), Whole)}
    buffer, ends = BytesIO(data), set[int]()
    for each in data_element_generator(buffer, shape == "implicit", shape != "big"):
        assert each is not None
        ends.add(buffer.tell())
    assert lengths == ends - {len(data)}


def test_a_sequence_under_un_is_implicit_inside() -> None:
    """Also where a length there would pass for a VR: 8224 is two spaces (PS3.5 6.2.2)."""
    inner = item(element(0x00091002, b"", bytes(0x2020), explicit=False), open_end=True) + sequence_end()
    data = ui(0x16, objects.RAW_DATA) + ui(0x18, UID) + element(0x00091001, b"UN", inner, length=0xFFFFFFFF)
    assert isinstance(of(meta(EXPLICIT_LITTLE) + data), Whole)


def test_fragments_of_pixel_data_are_passed_over_and_not_read() -> None:
    count, each = 300, 50_000
    fragments = item(b"") + item(bytes(each)) * count + sequence_end()
    data = meta(JPEG) + ui(0x16, CT) + ui(0x18, UID) + element(0x7FE00010, b"OB", fragments, length=0xFFFFFFFF)
    asked = 0

    def read(offset: int, n: int) -> bytes:
        nonlocal asked
        asked += n
        return data[offset : offset + n]

    assert isinstance(recognise(read, len(data)), Whole)
    assert asked < 1 << 20


def test_a_uid_too_long_to_be_one_is_not_taken_for_absent() -> None:
    for length in (65, 128, 129, 5000):
        long = ui(0x16, CT) + element(0x00080018, b"UI", b"1" * length)
        assert of(meta(EXPLICIT_LITTLE) + long) == Unusable("its UIDs are not such as can be sent")


NOT_STORAGE: Final = {
    "ExplVR_BigEndNoMeta.dcm": Whole,
    "ExplVR_LitEndNoMeta.dcm": Whole,
    "rtstruct.dcm": Whole,
    "empty_charset_LEI.dcm": Unusable,
    "meta_missing_tsyntax.dcm": Unusable,
    "nested_priv_SQ.dcm": Unusable,
}
"""Bundled files that no sender could store; any other is foreign, or a DICOMDIR by its name."""


@pytest.mark.parametrize("name", bundled.NOT_STORAGE)
def test_the_other_bundled_files_are_what_they_are(name: str) -> None:
    kind = Directory if "/DICOMDIR" in name else NOT_STORAGE.get(name, Foreign)
    assert type(of((bundled.FOLDER / name).read_bytes())) is kind


def test_an_image_without_its_pixels_is_in_doubt() -> None:
    data = EXPLICIT_SET[: EXPLICIT_SET.rindex(struct.pack("<HH", 0x7FE0, 0x0010))]
    assert doubt(meta(EXPLICIT_LITTLE) + data) == NO_PIXELS
    assert doubt(meta(EXPLICIT_LITTLE) + ui(0x16, CT) + ui(0x18, UID)) == NO_PIXELS
    assert doubt(meta(EXPLICIT_LITTLE) + ui(0x16, objects.RAW_DATA) + ui(0x18, UID)) == ""
    assert doubt(meta(EXPLICIT_LITTLE) + data + element(0x7FE00009, b"OB", bytes(8))) == ""
    url = ui(0x16, CT) + ui(0x18, UID) + element(0x00280010, b"US", b"\1\0") + element(0x00287FE0, b"UT", b"http")
    assert doubt(meta(EXPLICIT_LITTLE) + url) == ""


def doubt(data: bytes) -> str:
    found = of(data)
    assert isinstance(found, Whole)
    return found.doubt


def test_the_dataset_is_believed_more_than_the_meta() -> None:
    found = of(meta(EXPLICIT_LITTLE, uid="1.2.3") + EXPLICIT_SET)
    assert isinstance(found, Whole)
    assert found.sop_instance_uid == UID
    assert found.oddity == "its File Meta Information names another instance than its dataset, which was believed."
    only_meta = of(meta(EXPLICIT_LITTLE, objects.RAW_DATA) + element(0x00080060, b"CS", b"CT"))
    assert isinstance(only_meta, Whole)
    assert (only_meta.sop_instance_uid, only_meta.oddity) == (UID, "")


@pytest.mark.parametrize("said", ["explicit", "implicit", "big"])
@pytest.mark.parametrize("shape", ["explicit", "implicit", "big"])
def test_the_dataset_is_believed_more_than_the_named_transfer_syntax(shape: str, said: str) -> None:
    found = of(meta(SHAPES[said][0]) + SHAPES[shape][1])
    assert isinstance(found, Whole)
    assert found.kind.transfer_syntax_uid == SHAPES[shape][0]
    assert bool(found.oddity) == (shape != said)


def test_what_cannot_be_stored_says_why() -> None:
    nothing = element(0x00080060, b"CS", b"CT")
    assert of(meta(EXPLICIT_LITTLE, "", "") + nothing) == Unusable("it names no SOP Class or no SOP Instance UID")
    assert of(meta(EXPLICIT_LITTLE, uid="1" * 65) + nothing) == Unusable("its UIDs are not such as can be sent")
    assert of(meta(EXPLICIT_LITTLE, uid="a\nb") + nothing) == Unusable("its UIDs are not such as can be sent")
    assert of(meta("") + nothing) == Unusable("its File Meta Information names no transfer syntax")
    assert of(meta("no UID") + nothing) == Unusable("its UIDs are not such as can be sent")


def test_our_own_seal_is_handed_on() -> None:
    head = part10.begin(CT, UID, EXPLICIT_LITTLE, 20)
    sealed = part10.sealed(head, source="A", sending="B", receiving="C", private=b"the seal")
    found = of(sealed + EXPLICIT_SET)
    assert isinstance(found, Whole)
    assert found.private == b"the seal".ljust(20, b"\0")


@pytest.mark.parametrize("begins", [b"PK\3\4", b"PK\5\6"])
def test_a_preamble_that_begins_as_an_archive_does_makes_it_none(begins: bytes) -> None:
    plain = meta(EXPLICIT_LITTLE) + EXPLICIT_SET
    found = of(begins + plain[len(begins) :])
    assert isinstance(found, Whole)
    assert found == of(plain)
    assert of(begins + bytes(200)) == Archive()


@pytest.mark.parametrize(
    "data",
    [
        b"not an image",
        b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8,
        b"%PDF-1.7\n" + b"x" * 999,
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        b"MZ" + bytes(126) + b"\x0e\x1f" * 300,
        b"\x08\x00words that only begin like a dataset" * 3000,
        b"\x08\x00",
        bytes(127) + b"x" * 500,
        b"DIC" * 100,
    ],
)
def test_other_files_are_not_dicom(data: bytes) -> None:
    assert isinstance(of(data), Foreign | Unfinished)
    assert isinstance(of(data), Foreign) or len(data) < 10


def test_archives_directories_and_files_that_are_only_begun() -> None:
    assert of(b"PK\3\4words") == Archive()
    assert of(b"PK\5\6" + bytes(18)) == Archive()
    for name in ("DICOMDIR", "DICOMDIR-implicit", "DICOMDIR-bigEnd"):
        assert of(Path(str(get_testdata_file(name))).read_bytes()) == Directory()
    assert of(b"") == Unfinished("it is empty")
    for length in (1, 100, 128, 4096, 100_000):
        assert of(bytes(length)) == Unfinished("it begins with zeros: it is still being written")


NOT_WHOLE: Final = {
    "MR_truncated.dcm": "an element is longer than the rest of the file",
    "rtplan_truncated.dcm": "an element is longer than the rest of the file",
}
"""Bundled storage objects that are not whole, or say so."""


@pytest.mark.parametrize(
    ("name", "path"), bundled.bundled(), ids=lambda value: str(value) if isinstance(value, str) else ""
)
def test_the_bundled_objects_are_whole(name: str, path: Path) -> None:
    data = path.read_bytes()
    found = of(data)
    if name in NOT_WHOLE:
        assert found == Unfinished(NOT_WHOLE[name])
        return
    assert isinstance(found, Whole), found
    theirs = objects.part10(path)
    assert (found.offset, found.length) == (theirs.offset, len(data) - theirs.offset)
    assert found.kind.transfer_syntax_uid == theirs.transfer_syntax_uid
    assert bool(found.oddity) == (name in bundled.UIDS_DIFFER and "another" in bundled.UIDS_DIFFER[name])


def test_five_gigabytes_are_judged_by_their_ends() -> None:
    length = 5 << 30
    front = meta(EXPLICIT_LITTLE) + ui(0x16, CT) + ui(0x18, UID)
    front += struct.pack("<HH2sxxL", 0x7FE0, 0x10, b"OW", 0xFFFFFFF0)
    end = len(front) + 0xFFFFFFF0
    tail = struct.pack("<HH2sxxL", 0xFFFC, 0xFFFC, b"OB", length - end - 12)
    asked = 0

    def read(offset: int, count: int) -> bytes:
        nonlocal asked
        data = (
            front[offset : offset + count]
            if offset < len(front)
            else tail[offset - end : offset - end + count]
            if offset >= end
            else b""
        )
        data = data.ljust(min(count, length - offset), b"\0")
        asked += len(data)
        return data

    assert isinstance(recognise(read, length), Whole)
    assert asked < 1 << 20
    assert isinstance(recognise(read, length - 1), Unfinished)


def test_nesting_without_end_and_elements_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = (element(0x00081140, b"SQ", b"", length=0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)) * 100
    assert of(meta(EXPLICIT_LITTLE) + deep) == Unfinished("sequences are nested more than 64 deep")
    monkeypatch.setattr(walk, "MAX_ELEMENTS", 100)
    many = of(meta(EXPLICIT_LITTLE) + ui(0x16, CT) + ui(0x18, UID) + element(0x00091010, b"CS", b"A ") * 200)
    assert isinstance(many, Unfinished)


def test_a_deflate_bomb_costs_no_memory() -> None:
    bomb = deflated(ui(0x16, CT) + ui(0x18, UID) + element(0x7FE00010, b"OW", bytes(200 << 20)))
    file = meta(DEFLATED) + bomb
    tracemalloc.start()
    try:
        assert isinstance(of(file), Whole)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert isinstance(of(file + b"\0"), Whole)  # padded to an even length
    assert isinstance(of(file + bytes(9)), Unfinished)


def test_a_deflate_bomb_costs_no_more_time_than_an_object_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MOST_INFLATED", 8 << 20)
    data = ui(0x16, CT) + ui(0x18, UID)
    fine = meta(DEFLATED) + deflated(data + element(0x7FE00010, b"OW", bytes(7 << 20)))
    assert isinstance(of(fine), Whole)
    inflated = Counted(meta(DEFLATED) + deflated(data + element(0x7FE00010, b"OW", bytes(400 << 20))))
    assert recognise(inflated.read, len(inflated.data)) == Unusable("more than 16 GiB come out when it is inflated")
    assert inflated.reads < 10


class Counted:
    """A file, and how often it was read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0

    def read(self, offset: int, count: int) -> bytes:
        self.reads += 1
        return self.data[offset : offset + min(count, 4096)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_beginning_of_an_object_is_never_without_hope(shape: str) -> None:
    syntax, data = SHAPES[shape]
    for file in (meta(syntax) + data, data):
        for length in (300, 1000, len(file)):
            if isinstance(of(file), Whole):
                assert hopeless(file[:length], 1 << 30) is None


@pytest.mark.parametrize("data", [b"words " * 100, b"PK\3\4" + b"x" * 600, bytes(2000), b"\x89PNG\r\n" * 100])
def test_the_beginning_of_another_file_is_enough(data: bytes) -> None:
    assert hopeless(data, 1 << 30) == of(data)


@given(st.binary(max_size=600))
def test_whatever_the_bytes_are_there_is_an_answer(data: bytes) -> None:
    of(data)
    for head in (meta(EXPLICIT_LITTLE), meta(IMPLICIT_LITTLE), meta(EXPLICIT_BIG), meta(DEFLATED), b"\x08\0"):
        of(head + data)


@given(st.integers(0, 1023), st.integers(0, 255), st.sampled_from(sorted(SHAPES)))
def test_a_byte_that_is_wrong_anywhere_raises_nothing(at: int, value: int, shape: str) -> None:
    syntax, data = SHAPES[shape]
    file = bytearray(meta(syntax) + data)
    file[at % len(file)] = value
    of(bytes(file))


READ: Final[Callable[[int, int], bytes]] = lambda _offset, _count: b""  # noqa: E731


def test_a_file_that_gives_nothing_is_not_whole() -> None:
    assert not isinstance(recognise(READ, 1000), Whole)
