"""Which VR the standard gives an attribute (PS3.6): what Implicit VR leaves out.

The table is pydicom's, loaded from its file as in `edge.dicom.uids`, and only when it is first asked.
"""

from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


@cache
def _table() -> ModuleType:
    package = find_spec("pydicom")
    if package is None or package.origin is None:
        raise ImportError("pydicom is not installed where this Python looks for it; install dicom-edge again.")
    spec = spec_from_file_location("edge.dicom._dicom_dict", Path(package.origin).with_name("_dicom_dict.py"))
    if spec is None or spec.loader is None:
        raise ImportError("pydicom has no data dictionary; install the pydicom that dicom-edge names.")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _repeating() -> tuple[tuple[int, int, str], ...]:
    """Mask, value and VR of each attribute that stands in several groups or elements, such as (60xx,3000)."""
    found = []
    for pattern, (vr, *_) in _table().RepeatersDictionary.items():
        mask = int("".join("0" if digit == "x" else "F" for digit in pattern), 16)
        found.append((mask, int(pattern.replace("x", "0"), 16), vr))
    return tuple(found)


def vr_of(tag: int) -> str:
    """Return what PS3.6 says of ``tag``: a VR, several joined with "or", or nothing where it does not know it.

    A private creator (PS3.5 7.8.1) is LO; what else is private nobody knows.
    """
    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else ""
    if (row := _table().DicomDictionary.get(tag)) is not None:
        vr = str(row[0])
        return "" if vr == "NONE" else vr
    return next((vr for mask, value, vr in _repeating() if tag & mask == value), "")
