import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

import msgspec
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from edge.dicom import elements, header
from edge.dicom.header import MAX_READ, read_header
from edge.model import Header

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG = "1.2.840.10008.1.2.2"
GE = "1.2.840.113619.5.2"
JPEG = "1.2.840.10008.1.2.4.50"
JPIP_DEFLATE = "1.2.840.10008.1.2.4.95"
JPIP_HTJ2K_DEFLATE = "1.2.840.10008.1.2.4.205"
DEFLATES = (DEFLATED, JPIP_DEFLATE, JPIP_HTJ2K_DEFLATE)
SYNTAXES = (IMPLICIT, EXPLICIT, BIG, GE, JPEG, *DEFLATES)

KEYWORDS = {
    "sop_class_uid": "SOPClassUID",
    "sop_instance_uid": "SOPInstanceUID",
    "study_uid": "StudyInstanceUID",
    "series_uid": "SeriesInstanceUID",
    "modality": "Modality",
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "accession": "AccessionNumber",
    "study_date": "StudyDate",
    "study_description": "StudyDescription",
    "series_description": "SeriesDescription",
    "series_number": "SeriesNumber",
    "instance_number": "InstanceNumber",
    "station": "StationName",
    "body_part": "BodyPartExamined",
}
BUNDLED = Path(pydicom.__file__).parent / "data"
FILES = sorted(
    path
    for path in (*BUNDLED.glob("test_files/**/*"), *BUNDLED.glob("charset_files/*.dcm"))
    if path.is_file() and path.suffix in {".dcm", ""} and path.name != "DICOMDIR"
)


class Reader:
    """Counts what is asked of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked = 0

    def __call__(self, offset: int, n: int) -> bytes:
        assert offset >= 0
        assert n > 0
        self.asked += n
        return self.data[offset : offset + n]


def read(data: bytes, syntax: str = EXPLICIT, first: int = 1 << 16) -> Header:
    reader = Reader(data)
    found = read_header(reader, len(data), syntax, data[:first])
    assert reader.asked <= MAX_READ
    return found


def encode(dataset: Dataset, syntax: str = EXPLICIT) -> bytes:
    buffer = BytesIO()
    implicit = syntax in {IMPLICIT, GE}
    pydicom.dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=syntax != BIG)
    if syntax not in DEFLATES:
        return buffer.getvalue()
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(buffer.getvalue()) + deflater.flush()


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    group, number = divmod(tag, 1 << 16)
    if vr in elements.LONG_VRS:
        return struct.pack("<HH2sHL", group, number, vr, 0, size) + value
    return struct.pack("<HH2sH", group, number, vr, size) + value


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    group, number = divmod(tag, 1 << 16)
    return struct.pack("<HHL", group, number, len(value) if length is None else length) + value


ITEM = implicit(0xFFFEE000, b"", 0xFFFFFFFF)
ITEM_END = implicit(0xFFFEE00D, b"")
SEQUENCE_END = implicit(0xFFFEE0DD, b"")
CLASS = element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0")
NAME = element(0x00100010, b"PN", b"Doe^Jane")
NUMBER = element(0x00200013, b"IS", b"7 ")


@cache
def sample() -> Dataset:
    dataset = Dataset()
    for name, keyword in KEYWORDS.items():
        vr = pydicom.datadict.dictionary_VR(keyword)
        value = {"UI": "1.2.3.", "IS": "", "DA": "202401"}.get(vr, name.upper()[:9] + " ")
        setattr(dataset, keyword, f"{value}{len(name):02}")
    item = Dataset()
    item.ReferencedSOPInstanceUID = "9.9"
    item.StudyDescription = "of the item, not of the object"
    dataset.ReferencedImageSequence = Sequence([item, item])
    dataset["ReferencedImageSequence"].is_undefined_length = True
    for each in dataset.ReferencedImageSequence:
        each.is_undefined_length_sequence_item = True
    dataset.ProcedureCodeSequence = Sequence([item])
    dataset.add_new(0x00090010, "LO", "PRIVATE")
    dataset.add_new(0x00091001, "OB", b"x" * 20000)
    dataset.add_new(0x00091002, "UT", "y" * 5000)
    dataset.Rows = 2
    dataset.add_new(0x7FE00010, "OW", b"\0" * 8)
    return dataset


def expected() -> Header:
    return Header(**{name: str(sample()[keyword].value) for name, keyword in KEYWORDS.items()})


def dataset_of(path: Path) -> tuple[bytes, Dataset, str]:
    """Give the bytes after the File Meta, pydicom's reading of them, and the transfer syntax."""
    raw = path.read_bytes()
    with path.open("rb") as file:
        read_preamble(file, force=True)
        _read_file_meta_info(file)
        data = raw[file.tell() :]
    dataset = pydicom.dcmread(path, force=True)
    little = dataset.original_encoding[1]
    default = (IMPLICIT if dataset.original_encoding[0] else EXPLICIT) if little else BIG
    return data, dataset, str(dataset.file_meta.get("TransferSyntaxUID", default))


def plain(dataset: Dataset, keyword: str) -> str:
    if keyword not in dataset:
        return ""
    value = dataset[keyword].value
    text = "\\".join(map(str, value)) if dataset[keyword].VM > 1 else "" if value is None else str(value)
    return text.strip(" \0").rstrip("=")


@pytest.mark.parametrize("first", [0, 100, 1 << 16])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_bundled_files_read_as_pydicom_reads_them(path: Path, first: int) -> None:
    data, dataset, syntax = dataset_of(path)
    found = read(data, syntax, first)
    theirs = {name: plain(dataset, keyword) for name, keyword in KEYWORDS.items()}
    ours = msgspec.structs.asdict(found)
    problem = ours.pop("problem")
    ours = {name: text.rstrip("=") for name, text in ours.items()}
    assert ours == theirs
    assert bool(problem) is not any(ours.values())


def test_there_are_bundled_files() -> None:
    assert len(FILES) > 60


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("first", [0, 1, 11, 200, 1 << 16])
def test_each_syntax(syntax: str, first: int) -> None:
    assert read(encode(sample(), syntax), syntax, first) == expected()


@pytest.mark.parametrize(
    ("said", "meant"),
    [(said, meant) for said in (*SYNTAXES, "1.2.3.4", "") for meant in (EXPLICIT, BIG)]
    # nothing shows that an implicit one is not deflated
    + [(said, IMPLICIT) for said in (*SYNTAXES, "1.2.3.4", "") if said not in DEFLATES],
)
def test_the_wrong_syntax_is_seen_through(said: str, meant: str) -> None:
    assert read(encode(sample(), meant), said) == expected()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_cut_anywhere(syntax: str) -> None:
    small = Dataset()
    for name, keyword in KEYWORDS.items():
        small.add_new(Tag(keyword), sample()[keyword].VR, getattr(expected(), name))
    small.ReferencedImageSequence = sample().ReferencedImageSequence
    small["ReferencedImageSequence"].is_undefined_length = True
    data = encode(small, syntax)
    whole = msgspec.structs.asdict(expected())
    assert read(data, syntax) == expected()
    for end in range(len(data)):
        for lost in (read_header(Reader(data[:end]), end, syntax), read(data[:end], syntax)):
            known = msgspec.structs.asdict(lost)
            known.pop("problem")
            assert all(text in {"", whole[name]} for name, text in known.items())
        # fewer bytes than announced
        short = read_header(Reader(data[:end]), len(data), syntax)
        assert short.problem or short == expected()


def test_the_pixel_data_is_never_asked_for() -> None:
    data = CLASS + NUMBER + element(0x7FE00010, b"OW", bytes(1 << 20))
    reader = Reader(data)
    read_header(reader, len(data), EXPLICIT)
    assert reader.asked <= 8192
    reader = Reader(data)
    assert read_header(reader, len(data), EXPLICIT, data[:100]).instance_number == "7"
    assert reader.asked == 0


def test_long_values_are_skipped_by_offset() -> None:
    length = 3 << 30
    start = CLASS + element(0x00091001, b"OB", b"", length)
    total = len(start) + length + len(NUMBER)

    def read_at(offset: int, n: int) -> bytes:
        assert offset in {0, len(start) + length}
        return (start if not offset else NUMBER)[:n]

    found = read_header(read_at, total, EXPLICIT)
    assert (found.instance_number, found.problem) == ("7", "")


def test_a_long_text_is_left_out() -> None:
    data = CLASS + element(0x00081030, b"UT", b"x" * 4097) + NUMBER
    for first in (0, 1 << 16):
        found = read(data, EXPLICIT, first)
        assert (found.study_description, found.instance_number, found.problem) == ("", "7", "")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", header._EMPTY),
        (b"\x08", header._CUT),
        (CLASS[:-1], header._TOO_LONG),
        (CLASS + b"\0", header._CUT),
        (CLASS + NUMBER[:-1], header._TOO_LONG),
        (element(0x00080016, b"UN", b"1.2", 0xFFFFFFFE), header._TOO_LONG),
        (implicit(0x00080016, b"1.2", 0xFFFFFFFE), header._TOO_LONG),
        (CLASS + SEQUENCE_END, header._STRAY),
        (CLASS + element(0x00081140, b"SQ", b"", 0xFFFFFFFF), header._OPEN),
        (CLASS + element(0x00081140, b"SQ", ITEM, 0xFFFFFFFF), header._OPEN),
        (
            CLASS + element(0x00081140, b"SQ", implicit(0xFFFEE000, b"", 0xFFFFFFFE), 0xFFFFFFFF),
            header._TOO_LONG,
        ),
        (element(0x00080064, b"CS", b"WSD "), header._NOTHING),
        (bytes(64), header._NOTHING),
        (b"\xff" * 64, header._NOTHING),
        (CLASS + element(0x00090001, b"LO", b"") * 10_001, header._TOO_MANY),
        (
            CLASS + element(0x00081140, b"SQ", element(0x00090001, b"LO", b"") * 10_001, 0xFFFFFFFF),
            header._TOO_MANY,
        ),
        (CLASS, ""),
    ],
)
@pytest.mark.parametrize("first", [0, 1 << 20])
def test_problems(data: bytes, problem: str, first: int) -> None:
    assert read(data, EXPLICIT, first).problem == problem


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED])
@pytest.mark.parametrize(("depth", "problem"), [(64, ""), (65, header._TOO_DEEP), (10_000, header._TOO_DEEP)])
def test_deep_sequences(syntax: str, depth: int, problem: str) -> None:
    if syntax == IMPLICIT:
        opening = implicit(0x00081140, ITEM, 0xFFFFFFFF)
        begin, end = implicit(0x00080016, b"1.2"), implicit(0x00200013, b"7 ")
    else:
        opening = element(0x00081140, b"SQ", ITEM, 0xFFFFFFFF)
        begin, end = CLASS, NUMBER
    data = begin + opening * depth + (ITEM_END + SEQUENCE_END) * depth + end
    if syntax == DEFLATED:
        data = zlib.compress(data)[2:-4]
    found = read(data, syntax)
    assert found.problem == problem
    assert found.sop_class_uid
    assert bool(found.instance_number) is not bool(problem)


def test_an_unknown_sequence_of_undefined_length_is_implicit_inside() -> None:
    inner = ITEM + implicit(0x00081140, ITEM + implicit(0x00081150, b"1.2\0") + ITEM_END, 0xFFFFFFFF)
    inner += SEQUENCE_END + ITEM_END + SEQUENCE_END
    found = read(CLASS + element(0x00091001, b"UN", inner, 0xFFFFFFFF) + NAME + NUMBER)
    assert (found.patient_name, found.instance_number, found.problem) == ("Doe^Jane", "7", "")


@pytest.mark.parametrize(
    "odd",
    [
        struct.pack("<HH2sHL", 0x0009, 0x1001, b"ZZ", 0, 4) + b"abcd",
        struct.pack("<HH2sH", 0x0009, 0x1001, b"ZZ", 4) + b"abcd",
        struct.pack("<HH2sH", 0x0009, 0x1001, b"??", 4) + b"abcd",
        struct.pack("<HH2sH", 0x0009, 0x1001, b"  ", 4) + b"abcd",
        struct.pack("<HHL", 0x0009, 0x1001, 4) + b"abcd",
        struct.pack("<HHL", 0x0009, 0x1001, 0),
    ],
)
def test_an_unknown_vr_is_passed_over(odd: bytes) -> None:
    found = read(CLASS + odd + NAME + NUMBER)
    assert (found.patient_name, found.instance_number, found.problem) == ("Doe^Jane", "7", "")


def test_uids_and_texts_are_stripped() -> None:
    data = element(0x00080018, b"UI", b"1.2.3 \0\0") + element(0x00080060, b"CS", b"\0 CT \0")
    data += element(0x00100020, b"LO", b"  A 1  ")
    found = read(data)
    assert (found.sop_instance_uid, found.modality, found.patient_id) == ("1.2.3", "CT", "A 1")


def deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def test_a_deflate_bomb_is_left_after_a_mebibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = deflate(CLASS + element(0x00091001, b"OB", bytes(64 << 20)) + NUMBER)
    made: list[int] = []
    inflate = header._inflate

    def watched(read: Callable[[int, int], bytes], length: int, head: bytes) -> Iterator[tuple[bytes, str]]:
        for out, end in inflate(read, length, head):
            made.append(len(out))
            yield out, end

    monkeypatch.setattr(header, "_inflate", watched)
    found = read(bomb, DEFLATED)
    assert found.problem == header._TOO_FAR
    assert found.sop_class_uid
    assert made == [1 << 16, 1 << 20]


def test_deflated_beyond_the_first_piece() -> None:
    data = deflate(CLASS + element(0x00091001, b"OB", bytes(500_000)) + NUMBER)
    for first in (0, 10, 1 << 16):
        found = read(data, DEFLATED, first)
        assert (found.instance_number, found.problem) == ("7", "")


def test_a_deflated_stream_padded_to_even_and_one_that_is_none() -> None:
    assert read(deflate(CLASS + NUMBER) + b"\0", DEFLATED).instance_number == "7"
    assert read(b"\xff" * 100, DEFLATED).problem == header._NOT_DEFLATED
    assert read(deflate(CLASS + NUMBER)[:10], DEFLATED).problem == header._CUT
    assert read(b"", DEFLATED).problem == header._EMPTY
    # what is wrong with the dataset is said, not that there was more of it
    stray = deflate(CLASS + SEQUENCE_END + bytes(1 << 20))
    assert read(stray, DEFLATED).problem == header._STRAY
    # empty stored blocks without end: input without output
    assert read(b"\0\0\0\xff\xff" * (1 << 19), DEFLATED, 0).problem == header._TOO_FAR


def test_what_read_raises_passes_through() -> None:
    def broken(_offset: int, _n: int) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        read_header(broken, 100, EXPLICIT)


def named(charset: bytes, name: bytes) -> str:
    data = element(0x00080005, b"CS", charset) + CLASS + element(0x00100010, b"PN", name) + NUMBER
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(data)
    assert (found.instance_number, found.problem) == ("7", "")
    return found.patient_name


YAMADA = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"


@pytest.mark.parametrize(
    ("charset", "name", "shown"),
    [
        # the examples of PS3.5 annexes H, I, J and K
        (b"\\ISO 2022 IR 87", YAMADA, "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (
            b"ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
        ),
        (
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
        (b"ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
        (b"GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
        (
            b"\\ISO 2022 IR 58",
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",
            "Zhang^XiaoDong=张^小东",
        ),
        # 0x3D within a double-byte character is no "="
        (b"\\ISO 2022 IR 87", b"Aki=\x1b$B=)\x1b(B", "Aki=秋"),
        # 0x5C within one is no backslash
        (b"GB18030", "誠".encode("gb18030"), "誠"),
        (b"ISO_IR 144", b"\xbb\xee\xda", "\u041b\u044e\u043a"),
        (b"ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        # nothing is said, or nothing that is known
        (b"", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        (b"rot13", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        (b"zlib", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        (b"\0\xff\x1b", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        # misspelt
        (b"ISO-IR 192", "Jérôme".encode(), "Jérôme"),
        (b"utf-8", "Jérôme".encode(), "Jérôme"),
        (b"ISO_IR192\\ISO 2022 IR 87", "Jérôme".encode(), "Jérôme"),
        # mislabelled
        (b"ISO_IR 192", b"Buc^J\xe9r\xf4me", "Buc^J\ufffdr\ufffdme"),
        (b"ISO_IR 192", b"\x1b$BBuc^J\xe9r", "Buc^J\ufffdr"),
    ],
)
def test_character_sets(charset: bytes, name: bytes, shown: str) -> None:
    assert named(charset, name) == shown


TERMS = (
    b"",
    b"ISO 2022 IR 58",
    b"ISO 2022 IR 87",
    b"ISO 2022 IR 149",
    b"ISO 2022 IR 159",
    b"ISO 2022 IR 166",
    b"ISO_IR 13",
    b"ISO_IR 127",
    b"ISO_IR 192",
    b"GB18030",
    b"GBK",
    b"UNDEFINED",
    b"idna",
)
CHARSETS = st.lists(st.sampled_from(TERMS), max_size=3).map(b"\\".join)
ESCAPED = st.lists(
    st.one_of(st.binary(max_size=6), st.sampled_from([b"\x1b$B", b"\x1b(B", b"\x1b$)C", b"\x1b$)A", b"\x1b", b"^"]))
).map(b"".join)


@given(CHARSETS, ESCAPED)
def test_any_text_is_shown_somehow(charset: bytes, name: bytes) -> None:
    shown = named(charset, name)
    assert "\x1b" not in shown
    shown.encode()


@settings(max_examples=300)
@given(st.binary(max_size=300), st.sampled_from(SYNTAXES), st.integers(0, 300), st.integers(0, 400))
def test_garbage_never_raises(data: bytes, syntax: str, first: int, length: int) -> None:
    found = read_header(Reader(data), length, syntax, data[:first])
    assert found.problem or any(msgspec.structs.astuple(found))


@settings(max_examples=300)
@given(
    st.sampled_from([IMPLICIT, EXPLICIT, BIG, DEFLATED]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    st.sampled_from([0, 50, 1 << 16]),
)
def test_flipped_bytes_never_raise(syntax: str, flips: list[tuple[int, int]], first: int) -> None:
    data = bytearray(encode(sample(), syntax))
    for place, value in flips:
        data[place % len(data)] = value
    found = read(bytes(data), syntax, first)
    assert all(isinstance(text, str) for text in msgspec.structs.astuple(found))


def test_a_problem_never_quotes_the_dataset() -> None:
    data = encode(sample(), EXPLICIT)
    problems = {read(data[:end], EXPLICIT).problem for end in range(0, 3000, 7)}
    known = {text for name, text in vars(header).items() if name.startswith("_") and isinstance(text, str)}
    assert problems <= known | {""}
