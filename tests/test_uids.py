import subprocess
import sys

import pynetdicom.sop_class as reference
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import AllTransferSyntaxes

from edge.dicom import uids
from edge.dicom.uids import (
    KNOWN_STORAGE,
    KNOWN_TRANSFER_SYNTAXES,
    STANDARD_OTHER,
    UNCOMPRESSED,
    accepts_as_storage,
    is_storage,
    valid_uid,
)

TABLES = {name: table for name, table in vars(reference).items() if name.endswith("_CLASSES")}
STORAGE_TABLES = {"_STORAGE_CLASSES", "_NON_PATIENT_OBJECT_CLASSES"}
PRIVATE = "1.2.826.0.1.3680043.9.1"


@pytest.mark.parametrize("name", sorted(STORAGE_TABLES))
def test_what_pynetdicom_stores_is_storage(name: str) -> None:
    assert set(TABLES[name].values()) <= KNOWN_STORAGE


@pytest.mark.parametrize("name", sorted(set(TABLES) - STORAGE_TABLES))
def test_what_pynetdicom_serves_otherwise_never_is(name: str) -> None:
    for uid in TABLES[name].values() if name != "_SERVICE_CLASSES" else TABLES[name]:
        assert not accepts_as_storage(str(uid), private=True), uid


def test_every_uid_of_the_dictionary_is_one_or_the_other() -> None:
    assert set(UID_dictionary) <= KNOWN_STORAGE | STANDARD_OTHER
    assert not KNOWN_STORAGE & STANDARD_OTHER


def test_what_is_named_storage_is_storage_except_three() -> None:
    named = {uid for uid, row in UID_dictionary.items() if row[1] == "SOP Class" and "Storage" in row[0]}
    assert {UID_dictionary[uid][0] for uid in named - KNOWN_STORAGE} == {
        "Media Storage Directory Storage",
        "Storage Commitment Push Model SOP Class",
        "Storage Commitment Pull Model SOP Class",
    }


@pytest.mark.parametrize(
    "uid",
    [
        "1.2.840.10008.5.1.4.1.1.2",  # CT
        "1.2.840.10008.5.1.4.1.1.5",  # Nuclear Medicine, retired
        "1.2.840.10008.5.1.4.1.1.6",  # Ultrasound, retired
        "1.2.840.10008.5.1.1.27",  # Stored Print, retired
        "1.2.840.10008.5.1.4.1.1.12.77",  # retired, nameless
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
        "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol: not of a patient
        "1.2.840.10008.5.1.4.1.1.501.1",  # DICOS CT
    ],
)
def test_storage(uid: str) -> None:
    assert is_storage(uid)
    assert accepts_as_storage(uid, private=False)


@pytest.mark.parametrize(
    "uid",
    [
        uids.VERIFICATION,
        uids.STORAGE_COMMITMENT,
        "1.2.840.10008.5.1.4.31",  # worklist
        "1.2.840.10008.5.1.4.1.2.2.1",  # study root query
        "1.2.840.10008.3.1.2.3.3",  # MPPS
        "1.2.840.10008.5.1.4.34.6.1",  # unified procedure step
        "1.2.840.10008.5.1.1.1",  # print
        "1.2.840.10008.1.3.10",  # DICOMDIR
        "1.2.840.10008.1.2.1",  # a transfer syntax
        uids.GE_PRIVATE,
        "1.2.840.10008.3.1.1.1",  # the application context
        "",
        "private",
        "1.2.3\0",
        "1." * 32 + "1",
    ],
)
def test_never_storage(uid: str) -> None:
    assert not is_storage(uid)
    assert not accepts_as_storage(uid, private=False)
    assert not accepts_as_storage(uid, private=True)


def test_a_private_class_is_a_matter_of_policy() -> None:
    assert not is_storage(PRIVATE)
    assert accepts_as_storage(PRIVATE, private=True)
    assert not accepts_as_storage(PRIVATE, private=False)


def test_transfer_syntaxes() -> None:
    assert set(map(str, AllTransferSyntaxes)) - KNOWN_TRANSFER_SYNTAXES == {
        "1.2.840.10008.1.2.7.1",
        "1.2.840.10008.1.2.7.2",
        "1.2.840.10008.1.2.7.3",
    }
    assert uids.GE_PRIVATE in KNOWN_TRANSFER_SYNTAXES
    assert UNCOMPRESSED < KNOWN_TRANSFER_SYNTAXES < STANDARD_OTHER


@pytest.mark.parametrize("uid", ["1", "0", "1.2", "1.2.00.04", "1." * 31 + "12", "9" * 64])
def test_valid(uid: str) -> None:
    assert valid_uid(uid)


@pytest.mark.parametrize("uid", ["", ".", "1.", ".1", "1..2", "1.2 ", "1.2\n", "1.a", "٣.1", "9" * 65])
def test_invalid(uid: str) -> None:
    assert not valid_uid(uid)


@given(st.lists(st.integers(0, 10**9).map(str), min_size=1, max_size=6).map(".".join))
def test_what_is_built_of_components_is_valid(uid: str) -> None:
    assert valid_uid(uid)


def test_importing_brings_neither_pydicom_nor_numpy() -> None:
    script = "import sys, edge.dicom.uids; print(sorted({'pydicom', 'pynetdicom', 'numpy'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
