"""The test files that pydicom ships in its wheel: which of them can be stored, and which are odd and how.

Read from the installed package; nothing is ever downloaded. `test_peers.py` fails where a later pydicom adds
or drops a file, so that none is skipped in silence.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pydicom.data

FOLDER: Final = Path(pydicom.data.__file__).parent / "test_files"

_DIRECTORY: Final = "a DICOMDIR: Media Storage Directory is no storage SOP class"
_NO_META: Final = "no preamble and no File Meta: the dataset starts at byte 0"
_NO_UIDS: Final = "File Meta with a transfer syntax but no SOP UIDs; the dataset has none either"
_TEXT: Final = "text, not DICOM"
_JSON: Final = "DICOM JSON, not Part 10"

NOT_STORAGE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ExplVR_BigEndNoMeta.dcm": _NO_META,
        "ExplVR_LitEndNoMeta.dcm": _NO_META,
        "README.txt": _TEXT,
        "crayons.icc": "an ICC profile, not DICOM",
        "dicomdirtests/DICOMDIR": _DIRECTORY,
        "dicomdirtests/DICOMDIR-bigEnd": _DIRECTORY,
        "dicomdirtests/DICOMDIR-empty.dcm": _DIRECTORY,
        "dicomdirtests/DICOMDIR-implicit": _DIRECTORY,
        "dicomdirtests/DICOMDIR-nooffset": _DIRECTORY,
        "dicomdirtests/DICOMDIR-nopatient": _DIRECTORY,
        "dicomdirtests/DICOMDIR-reordered": _DIRECTORY,
        "dicomdirtests/TINY_ALPHA/DICOMDIR": _DIRECTORY,
        "dicomdirtests/TINY_ALPHA/README": _TEXT,
        "dicomdirtests/README.txt": _TEXT,
        "empty_charset_LEI.dcm": _NO_UIDS,
        "meta_missing_tsyntax.dcm": "File Meta without SOP UIDs and without a transfer syntax",
        "nested_priv_SQ.dcm": _NO_UIDS,
        "no_meta.dcm": _NO_META,
        "rtplan.dump": _TEXT,
        "rtstruct.dcm": _NO_META,
        "rtstruct.dump": _TEXT,
        "test1.json": _JSON,
        "test_PN.json": _JSON,
        "zipMR.gz": "a gzip file",
    }
)
"""Files that no sender could store as they are, each with the reason."""

_ABSENT: Final = "the dataset has neither SOP Class UID nor SOP Instance UID"
_INSTANCE: Final = "the dataset's SOP Instance UID is another; the SOP Class UIDs agree"

UIDS_DIFFER: Final[Mapping[str, str]] = MappingProxyType(
    {
        "UN_sequence.dcm": _ABSENT,
        "badVR.dcm": _INSTANCE,
        "no_meta_group_length.dcm": _ABSENT,
        "priv_SQ.dcm": _ABSENT,
        "rtdose.dcm": _INSTANCE,
        "rtdose_1frame.dcm": _INSTANCE,
        "rtdose_expb.dcm": _INSTANCE,
        "rtdose_expb_1frame.dcm": _INSTANCE,
        "rtplan.dcm": _INSTANCE,
        "rtplan_truncated.dcm": _INSTANCE,
    }
)
"""Files whose File Meta, and so a sender's command, differs from the dataset, each with the case."""


def files() -> list[tuple[str, Path]]:
    """Every bundled file by its name below `FOLDER`, code and caches left out."""
    found = (path for path in FOLDER.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"})
    return sorted((path.relative_to(FOLDER).as_posix(), path) for path in found)


def bundled() -> list[tuple[str, Path]]:
    """Those that are storage objects, with File Meta that names them."""
    return [(name, path) for name, path in files() if name not in NOT_STORAGE]
