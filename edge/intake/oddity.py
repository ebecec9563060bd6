"""What is odd about an object's UIDs: vendors do it, so the object is stored as it came, and it is said once."""

import re
from typing import Final

from edge.model import Header
from edge.phrase import say

_MOST: Final = 64
_FORM: Final = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*")
_ZERO: Final = re.compile(r"(?:^|\.)0[0-9]")


def odd_uids(header: Header, sop_instance_uid: str) -> str:
    """Say in a few words what PS3.5 9.1 or PS3.3 C.7 would not have; empty where nothing is.

    That a UID is absent is not said where the header could not be read to its end. No word is a peer's.
    """
    named = (
        ("SOP Instance UID (0008,0018)", sop_instance_uid),
        ("Study Instance UID (0020,000D)", header.study_uid),
        ("Series Instance UID (0020,000E)", header.series_uid),
    )
    return "; ".join(wrong for name, uid in named if (wrong := _wrong(name, uid, absent=not header.problem)))


def _wrong(name: str, uid: str, *, absent: bool) -> str:
    if not uid:
        return say("{name} is absent", name=name) if absent else ""
    if _ZERO.search(uid):
        return say("{name} has a component that begins with 0", name=name)
    if len(uid) > _MOST or _FORM.fullmatch(uid) is None:
        return say("{name} is no UID of at most 64 digits and dots", name=name)
    return ""
