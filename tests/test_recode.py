"""Re-encoding among the uncompressed syntaxes: pydicom reads the same before and after, or nothing is sent."""

import tracemalloc
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from random import Random
from struct import pack
from typing import Any, Final

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from edge.dicom import part10
from edge.dicom.recode import UnfaithfulError, fingerprint, recode
from edge.dicom.stream import File
from edge.dicom.uids import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, UNCOMPRESSED
from tests.peers.bundled import FOLDER, bundled

TARGETS: Final = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
HELD: Final = {
    "MR_truncated.dcm": "ends in the middle",
    "rtplan_truncated.dcm": "ends in the middle",
    "rtdose_expb.dcm": "more than 16 bits in OW",
    "rtdose_expb_1frame.dcm": "more than 16 bits in OW",
}
"""Bundled files of which no other rendering is made, and why."""


def source(data: bytes) -> File:
    return File(lambda at, count: data[at : at + count], 0, len(data))


def recoded(data: bytes, syntax: str, target: str) -> bytes:
    """``data`` in ``target``; what comes out has the fingerprint of what went in."""
    out: list[bytes] = []
    values = recode(source(data), syntax, target, out.append)
    made = b"".join(out)
    assert fingerprint(source(made), target) == values
    return made


def read(data: bytes, syntax: str) -> Dataset:
    return dcmread(BytesIO(part10.plain("1.2", "1.3", syntax) + data))


def uncompressed() -> list[tuple[str, Path, part10.Meta]]:
    found = []
    for name, path in bundled():
        meta = part10.read_meta(path.read_bytes())
        if meta.transfer_syntax_uid in UNCOMPRESSED:
            found.append((name, path, meta))
    return found


FILES: Final = uncompressed()


def same(before: Dataset, after: Dataset) -> None:
    """Compare element by element; a VR may differ only where it was never said, or says the same."""
    lengths = [tag for tag in before.keys() if tag.element == 0 or tag == 0x00080001]  # noqa: SIM118 - a Dataset's are tags
    assert [tag for tag in before.keys() if tag not in lengths] == list(after.keys())  # noqa: SIM118
    for tag in after.keys():  # noqa: SIM118
        one, other = before[tag], after[tag]
        if "SQ" in (one.VR, other.VR):
            assert one.VR == other.VR, tag
            assert len(one.value) == len(other.value)
            for item, twin in zip(one.value, other.value, strict=True):
                same(item, twin)
            continue
        if not tag.is_private and {one.VR, other.VR} != {"OB", "OW"}:
            assert one.VR == other.VR, tag
        if one.VR == other.VR and tag != 0x7FE00010:
            assert one.value == other.value, tag


@pytest.mark.parametrize("target", TARGETS, ids=["explicit", "implicit"])
@pytest.mark.parametrize(("name", "path", "meta"), FILES, ids=[name for name, *_ in FILES])
def test_every_bundled_file_has_the_same_elements_and_pixels(
    name: str, path: Path, meta: part10.Meta, target: str
) -> None:
    data = path.read_bytes()[meta.offset :]
    if name in HELD and meta.transfer_syntax_uid != target:
        with pytest.raises(UnfaithfulError, match=HELD[name]):
            recoded(data, meta.transfer_syntax_uid, target)
        return
    if name in HELD:
        return
    before, after = dcmread(path), read(recoded(data, meta.transfer_syntax_uid, target), target)
    same(before, after)
    if "PixelData" in before and before.get("Rows"):
        try:
            pixels = before.pixel_array
        except (AttributeError, ValueError, NotImplementedError):
            return  # odd on purpose
        assert np.array_equal(pixels, after.pixel_array)


def test_the_bundled_files_are_of_all_uncompressed_syntaxes() -> None:
    assert {meta.transfer_syntax_uid for *_, meta in FILES} == set(UNCOMPRESSED)


def test_there_and_back_gives_the_bytes_of_explicit_vr() -> None:
    path = FOLDER / "CT_small.dcm"
    meta = part10.read_meta(path.read_bytes())
    explicit = recoded(path.read_bytes()[meta.offset :], EXPLICIT_LITTLE, EXPLICIT_LITTLE)
    public = Dataset({tag: element for tag, element in dcmread(path).items() if not tag.is_private})
    back = read(
        recoded(recoded(explicit, EXPLICIT_LITTLE, IMPLICIT_LITTLE), IMPLICIT_LITTLE, EXPLICIT_LITTLE), EXPLICIT_LITTLE
    )
    same(public, Dataset({tag: element for tag, element in back.items() if not tag.is_private}))


# elements one by one


def explicit(tag: int, vr: str, value: bytes, order: str = "<") -> bytes:
    group, element = tag >> 16, tag & 0xFFFF
    if vr in ("OB", "OW", "OF", "OD", "SQ", "UN", "UT", "OV", "UV", "SV", "OL"):
        return pack(order + "HH2sHL", group, element, vr.encode(), 0, len(value)) + value
    return pack(order + "HH2sH", group, element, vr.encode(), len(value)) + value


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    return pack("<HHL", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


SIGNED: Final = implicit(0x00280103, b"\1\0")
UNSIGNED: Final = implicit(0x00280103, b"\0\0")


@pytest.mark.parametrize(
    ("before", "tag", "value", "vr"),
    [
        (b"", 0x00280106, b"\1\0", "US"),
        (b"", 0x00280106, b"\1\x80", "UN"),
        (SIGNED, 0x00280106, b"\1\x80", "SS"),
        (SIGNED, 0x00280106, b"\1\0", "SS"),
        (UNSIGNED, 0x00280106, b"\1\x80", "US"),
        (b"", 0x00283006, bytes(4), "OW"),
        (b"", 0x60003000, bytes(4), "OW"),
        (b"", 0x60020010, b"\1\0", "US"),
        (b"", 0x00280010, b"\1\0\2", "UN"),
        (b"", 0x00091001, b"abcd", "UN"),
        (b"", 0x00090010, b"MAKER ", "LO"),
        (b"", 0x00082000, b"x", "UN"),
        (b"", 0x00080060, b"C" * 70000, "UN"),
    ],
)
def test_a_vr_that_was_never_said_is_that_of_the_standard_or_unknown(
    before: bytes, tag: int, value: bytes, vr: str
) -> None:
    made = recoded(before + implicit(tag, value), IMPLICIT_LITTLE, EXPLICIT_LITTLE)
    assert made.endswith(explicit(tag, vr, value))


@pytest.mark.parametrize(
    ("vr", "value", "swapped"),
    [
        ("US", b"\1\2\3\4", b"\2\1\4\3"),
        ("AT", b"\1\2\3\4", b"\2\1\4\3"),
        ("UL", b"\1\2\3\4", b"\4\3\2\1"),
        ("FD", b"\1\2\3\4\5\6\7\10", b"\10\7\6\5\4\3\2\1"),
        ("OW", b"\1\2\3\4", b"\2\1\4\3"),
        ("OF", b"\1\2\3\4", b"\4\3\2\1"),
        ("OB", b"\1\2\3\4", b"\1\2\3\4"),
        ("UN", b"\1\2\3\4", b"\1\2\3\4"),
        ("LO", b"abcd", b"abcd"),
    ],
)
def test_big_endian_values_are_swapped_by_their_vr(vr: str, value: bytes, swapped: bytes) -> None:
    made = recoded(explicit(0x00091001, vr, value, ">"), EXPLICIT_BIG, EXPLICIT_LITTLE)
    assert made == explicit(0x00091001, vr, swapped)


def test_long_big_endian_pixels_are_swapped_piece_by_piece() -> None:
    value = bytes(range(256)) * 3000
    made = recoded(explicit(0x7FE00010, "OW", value, ">"), EXPLICIT_BIG, IMPLICIT_LITTLE)
    assert np.array_equal(np.frombuffer(made[8:], "<u2"), np.frombuffer(value, ">u2"))


def test_lengths_that_would_be_untrue_are_left_out() -> None:
    data = (
        explicit(0x00080000, "UL", pack("<L", 99))
        + explicit(0x00080001, "UL", pack("<L", 99))
        + explicit(0x00080060, "CS", b"CT")
    )
    assert recoded(data, EXPLICIT_LITTLE, IMPLICIT_LITTLE) == implicit(0x00080060, b"CT")


def test_sequences_of_any_length_keep_their_items() -> None:
    item = implicit(0x00080060, b"CT")
    for length in (len(item), 0xFFFFFFFF):
        end = implicit(0xFFFEE00D, b"") if length == 0xFFFFFFFF else b""
        one = implicit(0xFFFEE000, item, length) + end
        for whole in (implicit(0x00081115, one), implicit(0x00081115, one + implicit(0xFFFEE0DD, b""), 0xFFFFFFFF)):
            found = read(recoded(whole, IMPLICIT_LITTLE, EXPLICIT_LITTLE), EXPLICIT_LITTLE)
            assert [item.Modality for item in found.ReferencedSeriesSequence] == ["CT"]


def test_a_private_sequence_is_still_one_where_no_vr_is_said() -> None:
    item = explicit(0x00080060, "CS", b"CT")
    data = explicit(0x00091001, "SQ", implicit(0xFFFEE000, item))
    found = read(recoded(data, EXPLICIT_LITTLE, IMPLICIT_LITTLE), IMPLICIT_LITTLE)
    assert found[0x00091001].VR == "SQ"
    assert found[0x00091001].value[0].Modality == "CT"


@pytest.mark.parametrize(
    ("data", "syntax", "target", "why"),
    [
        (explicit(0x00280010, "FD", bytes(8)), EXPLICIT_LITTLE, IMPLICIT_LITTLE, "would make it US"),
        (explicit(0x00280106, "SS", b"\1\x80"), EXPLICIT_LITTLE, IMPLICIT_LITTLE, "would make it US or SS"),
        (implicit(0x00080060, b"CT"), EXPLICIT_LITTLE, IMPLICIT_LITTLE, "none of the standard"),
        (explicit(0x00080060, "CS", b"CT") + b"\1", EXPLICIT_LITTLE, IMPLICIT_LITTLE, "in the middle"),
        (implicit(0x00081115, implicit(0xFFFEE000, b"", 99)), IMPLICIT_LITTLE, EXPLICIT_LITTLE, "whole items"),
        (implicit(0x00081115, b"no sequence."), IMPLICIT_LITTLE, EXPLICIT_LITTLE, "whole items"),
        (implicit(0x00081115, b"", 0xFFFFFFFF) * 100, IMPLICIT_LITTLE, EXPLICIT_LITTLE, "whole items"),
        (explicit(0x00280010, "US", b"\1\2\3", ">"), EXPLICIT_BIG, EXPLICIT_LITTLE, "no US can be"),
        (b"not deflated at all", DEFLATED, EXPLICIT_LITTLE, "inflated"),
        (bytes(64), IMPLICIT_LITTLE, EXPLICIT_LITTLE, "should begin"),
        (
            implicit(0x00081115, implicit(0xFFFEE000, b"", 0xFFFFFFFF), 0xFFFFFFFF) * 70,
            IMPLICIT_LITTLE,
            EXPLICIT_LITTLE,
            "nested",
        ),
    ],
)
def test_what_would_mean_something_else_or_is_not_what_it_says_is_never_written(
    data: bytes, syntax: str, target: str, why: str
) -> None:
    with pytest.raises(UnfaithfulError, match=why):
        recoded(data, syntax, target)


@pytest.mark.parametrize("tail", [b"", b"\0", bytes(8)])
def test_a_deflated_dataset_may_have_a_short_trailer(tail: bytes) -> None:
    plain = explicit(0x00080060, "CS", b"CT") + explicit(0x00091001, "OB", bytes(1_000_000))
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = deflater.compress(plain) + deflater.flush() + tail
    assert recoded(data, DEFLATED, EXPLICIT_LITTLE) == plain


def test_a_deflated_dataset_that_is_cut_is_not_taken_for_a_shorter_one() -> None:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = deflater.compress(explicit(0x00080060, "CS", b"CT") * 9) + deflater.flush(zlib.Z_FULL_FLUSH)
    with pytest.raises(UnfaithfulError, match="to its end"):
        recoded(data, DEFLATED, EXPLICIT_LITTLE)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_wrong_with_it_is_said_or_makes_no_difference(seed: int) -> None:
    random = Random(seed)
    for name, path, meta in FILES:
        whole = path.read_bytes()[meta.offset :][:20_000]
        if name in HELD or meta.transfer_syntax_uid == DEFLATED:
            continue
        spoilt = bytearray(whole)
        for _ in range(random.randrange(1, 4)):
            spoilt[random.randrange(len(spoilt))] = random.randrange(256)
        for target in TARGETS:
            with suppress(UnfaithfulError):
                recoded(bytes(spoilt), meta.transfer_syntax_uid, target)


def test_memory_is_flat_however_long_the_pixels_are() -> None:
    head, length = pack("<HHL", 0x7FE0, 0x10, 256 << 20), 256 << 20
    zeros = bytes(256 << 10)

    def at(offset: int, count: int) -> bytes:
        return head[offset:] if offset < len(head) else zeros[:count]

    written = 0

    def write(data: bytes) -> None:
        nonlocal written
        written += len(data)

    tracemalloc.start()
    try:
        recode(File(at, 0, len(head) + length), IMPLICIT_LITTLE, EXPLICIT_LITTLE, write)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert written == 12 + length
    assert peak < 8 << 20


def test_whoever_has_no_more_use_for_it_ends_it() -> None:
    class EnoughError(Exception):
        pass

    def pause() -> None:
        raise EnoughError

    out: list[Any] = []
    with pytest.raises(EnoughError):
        recode(File(lambda _at, count: bytes(count), 0, 99, pause), IMPLICIT_LITTLE, EXPLICIT_LITTLE, out.append)
