"""The datasets of storage commitment and queries: byte for byte pydicom's, read as it reads them, and no bytes hurt."""

import struct
import time
from io import BytesIO
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom.dsutils import decode as their_decode

from edge.dicom import commitment, find
from edge.dicom.commitment import (
    ActionInformation,
    Report,
    decode_action,
    decode_report,
    encode_action,
    encode_report,
)
from edge.dicom.dataset import MAX_DEPTH, MAX_ELEMENTS, SYNTAXES, Encoder, InvalidDatasetError
from edge.dicom.find import Match, decode_match, image_query, instance_uid
from edge.dicom.uids import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from edge.model import Failure, Reference

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
ODD, EVEN = Reference(CT, "1.2.3"), Reference(CT, "1.2.34")
LONGEST: Final = "1." + "9" * 62
ACTION: Final = ActionInformation("2.25.7", (ODD, EVEN, Reference(CT, LONGEST)))
REPORTS: Final = {
    "all": Report("2.25.7", (ODD, EVEN), ()),
    "some": Report("2.25.70", (EVEN,), (Failure(ODD, 0x0112), Failure(EVEN, 0x0213))),
    "none": Report("2.25.7", (), (Failure(ODD, 0x0110),)),
    "nothing": Report("2.25.7", (), ()),
}
SYNTAX: Final = pytest.mark.parametrize("syntax", SYNTAXES)
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED: Final = 0xFFFFFFFF


def theirs(dataset: Dataset, syntax: str) -> bytes:
    """As pydicom writes it."""
    target: Any = DicomBytesIO()
    target.is_implicit_VR = syntax == IMPLICIT_LITTLE
    target.is_little_endian = syntax != EXPLICIT_BIG
    write_dataset(target, dataset)
    written: bytes = target.getvalue()
    return written


def read(data: bytes, syntax: str) -> Any:
    """As pynetdicom reads it."""
    return their_decode(BytesIO(data), syntax == IMPLICIT_LITTLE, syntax != EXPLICIT_BIG)


def item(reference: Reference, reason: int | None = None) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID = reference.sop_class_uid
    made.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if reason is not None:
        made.FailureReason = reason
    return made


def action_of(info: ActionInformation) -> Dataset:
    made = Dataset()
    made.TransactionUID = info.transaction_uid
    made.ReferencedSOPSequence = [item(reference) for reference in info.references]
    return made


def report_of(report: Report) -> Dataset:
    made = Dataset()
    made.TransactionUID = report.transaction_uid
    if report.failed:
        made.FailedSOPSequence = [item(failure.reference, failure.reason) for failure in report.failed]
    if report.committed:
        made.ReferencedSOPSequence = [item(reference) for reference in report.committed]
    return made


def undefined(dataset: Dataset) -> Dataset:
    """The same with sequences and items of undefined length."""
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for each in element.value:
                each.is_undefined_length_sequence_item = True
    return dataset


# both ways


@SYNTAX
def test_our_request_is_byte_for_byte_pydicoms_and_read_back(syntax: str) -> None:
    ours = encode_action(ACTION, syntax)
    assert ours == theirs(action_of(ACTION), syntax)
    assert decode_action(ours, syntax) == ACTION
    assert read(ours, syntax).TransactionUID == "2.25.7"


@SYNTAX
@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_our_report_is_byte_for_byte_pydicoms_and_read_back(report: Report, syntax: str) -> None:
    ours = encode_report(report, syntax)
    assert ours == theirs(report_of(report), syntax)
    assert decode_report(ours, syntax) == report
    assert read(ours, syntax) == report_of(report)


@SYNTAX
def test_undefined_lengths_are_read_the_same(syntax: str) -> None:
    data = theirs(undefined(report_of(REPORTS["some"])), syntax)
    assert len(data) > len(encode_report(REPORTS["some"], syntax))
    assert decode_report(data, syntax) == REPORTS["some"]


@SYNTAX
def test_what_nobody_asked_for_is_passed_over_however_deep(syntax: str) -> None:
    dataset = report_of(REPORTS["some"])
    inner = item(EVEN, 0x0110)
    for _ in range(MAX_DEPTH - 2):
        outer = Dataset()
        outer.ContentSequence = [inner]
        inner = undefined(outer)
    dataset.RetrieveAETitle = "PACS"
    dataset.StorageMediaFileSetID = "TAPE"
    dataset.ReferencedPerformedProcedureStepSequence = [inner]
    dataset.ReferencedSOPSequence[0].RetrieveAETitle = "PACS"
    dataset.ReferencedSOPSequence[0].PurposeOfReferenceCodeSequence = [item(ODD)]
    for made in (dataset, undefined(dataset)):
        assert decode_report(theirs(made, syntax), syntax) == REPORTS["some"]


@pytest.mark.parametrize(("report", "kind"), [("all", 1), ("some", 2), ("none", 2)])
def test_the_event_type_says_whether_anything_failed(report: str, kind: int) -> None:
    assert REPORTS[report].event_type == kind


@SYNTAX
@pytest.mark.parametrize("said", SYNTAXES)
def test_the_first_element_is_believed_more_than_the_transfer_syntax(syntax: str, said: str) -> None:
    assert decode_report(encode_report(REPORTS["some"], syntax), said) == REPORTS["some"]


def test_a_sequence_under_vr_un_is_implicit_little_endian() -> None:
    inner = Encoder(IMPLICIT_LITTLE)
    inner.uid(0x00081150, CT)
    inner.uid(0x00081155, "1.2.3")
    inner.number(0x00081197, 0x0112)
    held = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner.whole())) + inner.whole()
    expected = Report("2.25.7", (), (Failure(ODD, 0x0112),))
    for syntax, order in ((EXPLICIT_LITTLE, "<"), (EXPLICIT_BIG, ">")):
        transaction = encode_report(REPORTS["nothing"], syntax)
        head = struct.pack(order + "HH2sHL", 0x0008, 0x1198, b"UN", 0, len(held))
        assert decode_report(transaction + head + held, syntax) == expected
        head = struct.pack(order + "HH2sHL", 0x0008, 0x1198, b"UN", 0, UNDEFINED)
        end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        assert decode_report(transaction + head + held + end, syntax) == expected


# lenience


@pytest.mark.parametrize("padding", [b"", b"\0", b"\0\0\0", b"  ", b" \0"])
def test_padding_of_uids_and_of_the_dataset_is_no_part_of_them(padding: bytes) -> None:
    value = b"2.25.7" + padding
    transaction = struct.pack("<HHL", 0x0008, 0x1195, len(value)) + value
    assert decode_report(transaction + b"\0" * (len(value) % 2), IMPLICIT_LITTLE) == Report("2.25.7", (), ())


def test_in_a_report_what_lacks_its_instance_says_nothing_and_what_lacks_a_reason_failed() -> None:
    dataset = Dataset()
    dataset.TransactionUID = "2.25.7"
    bare, classless = Dataset(), Dataset()
    bare.ReferencedSOPClassUID = CT
    classless.ReferencedSOPInstanceUID = "1.2.3"
    dataset.ReferencedSOPSequence = [bare, classless, item(Reference(CT, "1." + "9" * 100)), Dataset()]
    dataset.FailedSOPSequence = [item(EVEN), bare]
    assert decode_report(theirs(dataset, EXPLICIT_LITTLE), EXPLICIT_LITTLE) == Report(
        "2.25.7", (Reference("", "1.2.3"),), (Failure(EVEN, commitment.PROCESSING_FAILURE),)
    )


def test_an_instance_in_both_lists_stays_in_both() -> None:
    both = Report("2.25.7", (ODD, ODD), (Failure(ODD, 0x0112),))
    assert decode_report(encode_report(both, EXPLICIT_LITTLE), EXPLICIT_LITTLE) == both


# what is refused


def made(*parts: bytes) -> bytes:
    return encode_report(REPORTS["nothing"], IMPLICIT_LITTLE) + b"".join(parts)


def head(tag: int, length: int) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, length)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no transaction UID"),
        (head(0x00081195, 0), "no transaction UID"),
        (head(0x00081195, 100) + b"1" * 100, "no transaction UID"),
        (head(0x00081195, 2) + b"\xff\xff", "no transaction UID"),
        (made(head(0x00081195, 2) + b"1 "), "twice"),
        (made(head(0x00081198, 0), head(0x00081198, 0)), "twice"),
        (made(b"\x08\0\x99\x11\0"), "middle of an element"),
        (made(head(0x00081199, 8)), "longer than"),
        (made(head(0x00081150, UNDEFINED - 1)), "longer than"),
        (made(head(0x00081155, UNDEFINED)), "longer than"),
        (made(head(0x00081199, UNDEFINED)), "middle of an element"),
        (made(head(0x00081199, UNDEFINED), head(ITEM, UNDEFINED)), "middle of an element"),
        (made(head(0x00081199, 16), head(ITEM, 16), bytes(16)), "longer than"),
        (made(head(0x00081199, 8), head(0x00081155, 0)), "no item"),
        (made(head(0x00081199, 8), head(SEQUENCE_END, 0)), "no item"),
        (made(head(ITEM, 0)), "where no sequence is"),
        (made(head(ITEM_END, 0)), "where no sequence is"),
        (made(head(0x00090010, UNDEFINED) * (MAX_DEPTH + 1)), "deep"),
        (made(head(0x00081199, UNDEFINED), (head(ITEM, UNDEFINED) + head(0x00081198, UNDEFINED)) * 20), "deep"),
        (made(head(0x00081199, UNDEFINED), head(ITEM, 0) * (commitment.MOST_REFERENCES + 1)), "too many items"),
        (made(head(0x00090010, 0) * MAX_ELEMENTS), "elements"),
        (bytes(commitment.MOST_BYTES + 2), "longer than 4 MiB"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_is_wrong(data: bytes, text: str) -> None:
    with pytest.raises(InvalidDatasetError, match=text):
        decode_report(data, IMPLICIT_LITTLE)


@SYNTAX
def test_a_dataset_cut_anywhere_is_refused_or_says_less(syntax: str) -> None:
    whole = encode_report(REPORTS["some"], syntax)
    read_of_it = set()
    for keep in range(len(whole)):
        try:
            read_of_it.add(decode_report(whole[:keep], syntax))
        except InvalidDatasetError:
            continue
    assert read_of_it == {
        Report("2.25.70", (), ()),
        Report("2.25.70", (), REPORTS["some"].failed),
    }


@pytest.mark.parametrize(
    "info",
    [
        ActionInformation("2.25.7", ()),
        ActionInformation("", (ODD,)),
        ActionInformation("2.25.7", (ODD, Reference("", "1.2.3"))),
        ActionInformation("2.25.7", (ODD, Reference(CT, ""))),
        ActionInformation("2.25.7", (Reference(CT, "1." + "9" * 64),)),
    ],
)
def test_a_request_must_name_what_is_to_be_promised(info: ActionInformation) -> None:
    with pytest.raises(InvalidDatasetError):
        decode_action(encode_action(info, EXPLICIT_LITTLE), EXPLICIT_LITTLE)


@pytest.mark.parametrize("syntax", [DEFLATED, "1.2.840.10008.1.2.4.50", ""])
def test_other_transfer_syntaxes_are_neither_written_nor_read(syntax: str) -> None:
    with pytest.raises(ValueError, match="no small dataset"):
        encode_action(ACTION, syntax)
    with pytest.raises(InvalidDatasetError, match="transfer syntax"):
        decode_action(encode_action(ACTION, EXPLICIT_LITTLE), syntax)


def test_as_many_as_may_be_named_are_read_in_bounded_time() -> None:
    many = tuple(Failure(Reference(CT, f"1.2.{n}"), 0x0112) for n in range(commitment.MOST_REFERENCES))
    report = Report("2.25.7", (), many)
    data = encode_report(report, EXPLICIT_LITTLE)
    assert len(data) < commitment.MOST_BYTES
    began = time.process_time()
    assert decode_report(data, EXPLICIT_LITTLE) == report
    assert time.process_time() - began < 5


def hostile() -> st.SearchStrategy[bytes]:
    """Noise, elements and delimiters in any order, and good datasets with bytes changed."""

    def spoil(syntax: str, changes: list[tuple[int, int]], keep: int) -> bytes:
        spoilt = bytearray(theirs(undefined(report_of(REPORTS["some"])), syntax))
        for at, value in changes:
            spoilt[at % len(spoilt)] = value
        return bytes(spoilt[: keep % (len(spoilt) + 1)])

    tags = st.sampled_from([0x00081195, 0x00081198, 0x00081199, 0x00081155, 0x00090010, ITEM, ITEM_END, SEQUENCE_END])
    lengths = st.sampled_from([0, 2, 8, 16, 64, UNDEFINED, UNDEFINED - 1, 0x80000000])
    element = st.builds(lambda tag, length, value: head(tag, length) + value, tags, lengths, st.binary(max_size=8))
    explicit = st.builds(
        lambda tag, vr, length: struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, length),
        tags,
        st.sampled_from([b"UI", b"SQ", b"UN", b"US", b"OB", b"??"]),
        st.integers(0, 64),
    )
    changes = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6)
    return st.one_of(
        st.binary(max_size=200),
        st.lists(st.one_of(element, explicit), max_size=20).map(b"".join),
        st.builds(spoil, st.sampled_from(SYNTAXES), changes, st.integers(0)),
    )


@settings(max_examples=300, deadline=2000)
@given(data=hostile(), syntax=st.sampled_from([*SYNTAXES, DEFLATED]))
def test_whatever_the_bytes_are_decoding_fails_with_invalid_dataset_or_not_at_all(data: bytes, syntax: str) -> None:
    for decode in (decode_action, decode_report, decode_match):
        try:
            found = decode(data, syntax)
        except InvalidDatasetError:
            continue
        assert isinstance(found, ActionInformation | Report | Match)
    assert isinstance(instance_uid(data, syntax), str)


uids = st.from_regex(r"[0-9]{1,5}(\.[0-9]{1,8}){0,6}", fullmatch=True)
references = st.builds(Reference, uids, uids)


@given(
    report=st.builds(
        Report,
        uids,
        st.lists(references, max_size=5).map(tuple),
        st.lists(st.builds(Failure, references, st.integers(0, 0xFFFF)), max_size=5).map(tuple),
    ),
    syntax=st.sampled_from(SYNTAXES),
)
def test_what_we_report_is_read_as_it_was_meant(report: Report, syntax: str) -> None:
    assert decode_report(encode_report(report, syntax), syntax) == report


def test_every_reason_is_explained_with_its_code() -> None:
    assert {*commitment.REASONS} == {0x0110, 0x0112, 0x0119, 0x0122, 0x0131, 0x0213}
    assert commitment.explain(0x0112) == "the receiver does not have the object (0112)"
    assert commitment.explain(0xC001).endswith("does not know (C001)")


# queries


@SYNTAX
def test_our_query_is_byte_for_byte_pydicoms(syntax: str) -> None:
    dataset = Dataset()
    dataset.SOPClassUID = ""
    dataset.SOPInstanceUID = ""
    dataset.QueryRetrieveLevel = "IMAGE"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.34"
    assert image_query("1.2.3", "1.2.34", syntax) == theirs(dataset, syntax)


@SYNTAX
def test_an_answer_is_read_for_its_uids_and_nothing_else(syntax: str) -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CT
    dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName = "Müller^Jürgen"
    dataset.StudyInstanceUID = "1.2.30"
    dataset.SeriesInstanceUID = "1.2.300"
    dataset.ReferencedSOPSequence = [item(EVEN)]
    data = theirs(undefined(dataset), syntax)
    assert decode_match(data, syntax) == Match(
        sop_class_uid=CT, sop_instance_uid="1.2.3", study_uid="1.2.30", series_uid="1.2.300"
    )
    assert instance_uid(data, syntax) == "1.2.3"


def test_an_answer_that_says_nothing_or_is_nonsense_names_no_instance() -> None:
    assert decode_match(b"", EXPLICIT_LITTLE) == Match()
    for data in (b"", b"\x08\0", b"nonsense" * 10):
        assert instance_uid(data, EXPLICIT_LITTLE) == ""
    with pytest.raises(InvalidDatasetError):
        decode_match(b"\x08\0", EXPLICIT_LITTLE)


def test_the_end_of_a_query_is_told_with_its_status() -> None:
    assert str(find.FindError(0xA700)) == "it answered the query with A700"
    assert str(find.FindError(0xA900, "no such level")) == "it answered the query with A900: no such level"
