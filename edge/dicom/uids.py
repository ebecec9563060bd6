"""Which UIDs are storage, which are transfer syntaxes, which are something else (PS3.6 annex A, PS3.4 B.5).

The tables are pydicom's. Its dictionary is a module of data; it is loaded from its file because importing it
by name brings the whole package with it, numpy included, and takes ten times as long.
"""

import re
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Final

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
GE_PRIVATE: Final = "1.2.840.113619.5.2"
"""Implicit VR Little Endian with big-endian pixel data."""
VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model (PS3.4 annex J)."""
PATIENT_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
"""Query/Retrieve Information Models (PS3.4 C.6)."""


def _dictionary() -> dict[str, tuple[str, str, str, str, str]]:
    """Load pydicom's table: UID to name, type, remark, "Retired" or empty, keyword."""
    package = find_spec("pydicom")
    if package is None or package.origin is None:
        raise ImportError("pydicom is not installed where this Python looks for it; install dicom-edge again.")
    spec = spec_from_file_location("edge.dicom._uid_dict", Path(package.origin).with_name("_uid_dict.py"))
    if spec is None or spec.loader is None:
        raise ImportError("pydicom has no UID dictionary; install the pydicom that dicom-edge names.")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    table: dict[str, tuple[str, str, str, str, str]] = module.UID_dictionary
    return table


_DICTIONARY: Final = _dictionary()

_STORAGE_NEWER_THAN_PYDICOM: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.9.100.1",  # Waveform Presentation State
        "1.2.840.10008.5.1.4.1.1.9.100.2",  # Waveform Acquisition Presentation State
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
        "1.2.840.10008.5.1.4.1.1.66.8",  # Height Map Segmentation
    }
)
# retired; pydicom's table has lost their names
_STORAGE_WITHOUT_A_NAME: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.12.77",
        "1.2.840.10008.5.1.4.1.1.40",
    }
)
_NOT_STORAGE: Final = frozenset(
    {
        "1.2.840.10008.1.3.10",  # Media Storage Directory: a DICOMDIR, never sent
        STORAGE_COMMITMENT,
        "1.2.840.10008.1.20.2",  # Storage Commitment Pull Model
    }
)
_NO_DATASET: Final = frozenset(
    {
        "1.2.840.10008.1.2.6.1",  # RFC 2557 MIME encapsulation
        "1.2.840.10008.1.2.6.2",  # XML Encoding
        "1.2.840.10008.1.2.7.1",  # SMPTE ST 2110: streams, PS3.22
        "1.2.840.10008.1.2.7.2",
        "1.2.840.10008.1.2.7.3",
    }
)
_SYNTAXES_NEWER_THAN_PYDICOM: Final = frozenset(
    {
        "1.2.840.10008.1.2.4.110",  # JPEG XL Lossless
        "1.2.840.10008.1.2.4.111",  # JPEG XL JPEG Recompression
        "1.2.840.10008.1.2.4.112",  # JPEG XL
        "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
    }
)

KNOWN_STORAGE: Final[frozenset[str]] = (
    frozenset(uid for uid, row in _DICTIONARY.items() if row[1] == "SOP Class" and "Storage" in row[0])
    | _STORAGE_NEWER_THAN_PYDICOM
    | _STORAGE_WITHOUT_A_NAME
) - _NOT_STORAGE
"""SOP classes of the storage services (PS3.4 annexes B and GG): current, on trial, retired, DICOS."""

KNOWN_TRANSFER_SYNTAXES: Final[frozenset[str]] = (
    frozenset(uid for uid, row in _DICTIONARY.items() if row[1] == "Transfer Syntax") - _NO_DATASET
) | (_SYNTAXES_NEWER_THAN_PYDICOM | {GE_PRIVATE})
"""Transfer syntaxes in which a dataset can be stored (PS3.5 section 10, annex A), retired ones included."""

UNCOMPRESSED: Final[frozenset[str]] = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED})
"""Among these a dataset is re-encoded without touching a value (PS3.5 A.1 to A.3, A.5)."""

LOSSLESS: Final[frozenset[str]] = frozenset(
    {
        "1.2.840.10008.1.2.5",  # RLE
        "1.2.840.10008.1.2.4.57",  # JPEG Lossless
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",  # JPEG-LS
        "1.2.840.10008.1.2.4.90",  # JPEG 2000
    }
)
"""What these hold is what it was before: they cannot lose anything."""

STANDARD_OTHER: Final[frozenset[str]] = (
    frozenset(_DICTIONARY) | KNOWN_TRANSFER_SYNTAXES | {"1.2.840.10008.5.1.4.34.6"}
) - KNOWN_STORAGE
"""Every UID of PS3.6 that is not a storage SOP class: services, syntaxes, well-known instances and so on."""

_UID: Final = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_LONGEST: Final = 64


def valid_uid(text: str) -> bool:
    """Whether ``text`` is a UID as in PS3.5 9.1, except that components may have leading zeros."""
    return len(text) <= _LONGEST and _UID.fullmatch(text) is not None


def is_storage(uid: str) -> bool:
    """Whether ``uid`` is a storage SOP class that the standard knows or knew."""
    return uid in KNOWN_STORAGE


def accepts_as_storage(uid: str, *, private: bool) -> bool:
    """Whether a context for ``uid`` may be accepted as storage.

    With ``private`` any well-formed UID is, unless the standard uses it for something else.
    """
    return uid in KNOWN_STORAGE or (private and uid not in STANDARD_OTHER and valid_uid(uid))


def class_names(uid: str) -> tuple[str, ...]:
    """Return what the standard calls ``uid``: its name and its keyword (PS3.6 annex A); nothing where it has none."""
    name, *_, keyword = _DICTIONARY.get(uid, ("", ""))
    return tuple(filter(None, (name, keyword)))


def class_name(uid: str) -> str:
    """Return what people call a SOP class; its UID where the standard has no name for it."""
    return _DICTIONARY.get(uid, (uid,))[0]


def syntax_name(uid: str) -> str:
    """Return what people call a transfer syntax; its UID where the standard has no name for it."""
    return _DICTIONARY.get(uid, (uid,))[0].partition(":")[0]


def is_image(sop_class_uid: str) -> bool:
    """Whether the SOP class is one of images, all of which have pixel data (PS3.4 B.5)."""
    return "Image Storage" in _DICTIONARY.get(sop_class_uid, ("",))[0]
