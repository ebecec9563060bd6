import re
from collections.abc import Iterable

import pytest
from pynetdicom import status as reference

from edge.dicom import status
from edge.dicom.status import StatusClass, classify, meaning

WARNINGS = {0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)}


def test_every_code_has_a_class_and_a_sentence() -> None:
    for code in range(0x10000):
        assert isinstance(classify(code), StatusClass)
        assert re.fullmatch(rf"[A-Z][^.]+ \(status {code:04X}\)\.", meaning(code)), meaning(code)


def test_every_class_is_given() -> None:
    assert {classify(code) for code in range(0x10000)} == set(StatusClass)


def test_categories_are_pynetdicoms() -> None:
    """Of the tables for storage, and of PS3.7 annex C."""
    for code, (category, _) in reference.STORAGE_SERVICE_CLASS_STATUS.items():
        given = classify(code)
        expected = {
            "Success": given is StatusClass.SUCCESS,
            "Warning": given is StatusClass.WARNING,
            "Cancel": given is StatusClass.CANCELLED,
        }.get(category, given not in {StatusClass.SUCCESS, StatusClass.WARNING, StatusClass.UNKNOWN})
        assert expected, f"{code:04X}"


@pytest.mark.parametrize(
    ("codes", "given"),
    [
        ([0x0000], StatusClass.SUCCESS),
        (WARNINGS, StatusClass.WARNING),
        (range(0xA700, 0xA800), StatusClass.OUT_OF_RESOURCES),
        (range(0xA900, 0xAA00), StatusClass.MISMATCH),
        (range(0xC000, 0xD000), StatusClass.CANNOT_UNDERSTAND),
        ([0xFE00], StatusClass.CANCELLED),
        ([0xFF00, 0xFF01], StatusClass.PENDING),
        ([0xA000, 0xA6FF, 0xA801, 0xAFFF, 0x0125, 0x02FF], StatusClass.FAILURE),
        ([0x0002, 0x0300, 0x9FFF, 0xD000, 0xFDFF, 0xFE01, 0xFF02, 0xFFFF], StatusClass.UNKNOWN),
    ],
)
def test_ranges(codes: Iterable[int], given: StatusClass) -> None:
    assert {classify(code) for code in codes} == {given}


def test_nothing_else_means_stored() -> None:
    stored = {StatusClass.SUCCESS, StatusClass.WARNING}
    assert {code for code in range(0x10000) if classify(code) in stored} == WARNINGS | {0}
    assert {code for code in range(0x10000) if meaning(code).startswith("Stored")} == WARNINGS | {0}


@pytest.mark.parametrize("member", StatusClass)
def test_a_named_failure_has_its_constant(member: StatusClass) -> None:
    code = getattr(status, member.name, None)
    if code is not None:
        assert classify(code) is member


@pytest.mark.parametrize(
    ("code", "constant"),
    [
        (0x0107, status.ATTRIBUTE_LIST_ERROR),
        (0x0110, status.PROCESSING_FAILURE),
        (0x0111, status.DUPLICATE_SOP_INSTANCE),
        (0x0112, status.NO_SUCH_SOP_INSTANCE),
        (0x0115, status.INVALID_ARGUMENT_VALUE),
        (0x0116, status.ATTRIBUTE_VALUE_OUT_OF_RANGE),
        (0x0117, status.INVALID_SOP_INSTANCE),
        (0x0118, status.NO_SUCH_SOP_CLASS),
        (0x0119, status.CLASS_INSTANCE_CONFLICT),
        (0x0120, status.MISSING_ATTRIBUTE),
        (0x0121, status.MISSING_ATTRIBUTE_VALUE),
        (0x0122, status.SOP_CLASS_NOT_SUPPORTED),
        (0x0123, status.NO_SUCH_ACTION),
        (0x0124, status.NOT_AUTHORIZED),
        (0x0210, status.DUPLICATE_INVOCATION),
        (0x0211, status.UNRECOGNIZED_OPERATION),
        (0x0212, status.MISTYPED_ARGUMENT),
        (0x0213, status.RESOURCE_LIMITATION),
        (0xA700, status.OUT_OF_RESOURCES),
        (0xA900, status.DATASET_MISMATCH),
        (0xC000, status.CANNOT_UNDERSTAND),
    ],
)
def test_constants(code: int, constant: int) -> None:
    assert constant == code
    assert code in reference.STORAGE_SERVICE_CLASS_STATUS


def test_sentences() -> None:
    assert meaning(0xA700) == "The receiver has no room or is short of resources (status A700)."
    assert meaning(0xA7FF) == "The receiver has no room or is short of resources (status A7FF)."
    assert meaning(0x0122) == "The receiver does not take this SOP class (status 0122)."
    assert meaning(0xD123) == ("The DICOM standard does not know this status; ask who runs the receiver (status D123).")
