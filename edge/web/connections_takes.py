"""What a destination takes and refuses, as it answered last, by kind of object. Pure."""

from collections.abc import Iterable

import msgspec

from edge.clock import iso
from edge.dicom.uids import class_names, syntax_name
from edge.store import Capability
from edge.web.words import moment


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A SOP class, with the transfer syntaxes that were proposed for it."""

    name: str
    takes: list[str]
    refuses: list[str]
    asked: str
    """When the last of the answers came."""


def kinds(answers: Iterable[Capability], now: float) -> list[Kind]:
    """Put answers together, by the names of their kinds."""
    by_class: dict[str, list[Capability]] = {}
    for answer in answers:
        by_class.setdefault(answer.kind.sop_class_uid, []).append(answer)
    return sorted((_kind(uid, found, now) for uid, found in by_class.items()), key=lambda kind: kind.name)


def _kind(uid: str, answers: list[Capability], now: float) -> Kind:
    names = class_names(uid) or (uid,)
    return Kind(
        name=names[0],
        takes=[syntax_name(one.kind.transfer_syntax_uid) for one in answers if one.taken],
        refuses=[syntax_name(one.kind.transfer_syntax_uid) for one in answers if not one.taken],
        asked=moment(iso(max(one.at for one in answers)), now),
    )
