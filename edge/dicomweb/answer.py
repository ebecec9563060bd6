"""What a server says of each instance of a STOW-RS request (PS3.18 10.5.3, Table I.2.1), as values.

Read from DICOM JSON (PS3.18 annex F) and from the Native DICOM Model in XML (PS3.19 A.1). What cannot be read is an
`UnreadableError`: it proves nothing. What an answer says beside the three lists is passed over, whatever it is.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from edge.dicomweb import native
from edge.phrase import N_, say

UNKNOWN: Final = 0
"""The reason of an instance that failed without one."""
_JSON: Final = frozenset({"application/dicom+json", "application/json"})
_XML: Final = frozenset({"application/dicom+xml", "application/xml", "text/xml"})


class UnreadableError(Exception):
    """It is not an answer of DICOMweb."""


class Stored(msgspec.Struct, frozen=True):
    """What became of the instances of one request, by SOP Instance UID."""

    listed: Mapping[str, int | None]
    """Of ReferencedSOPSequence, with the Warning Reason (0008,1196) if there is one."""
    failed: Mapping[str, int]
    """Of FailedSOPSequence, with the Failure Reason (0008,1197); it outweighs the other list."""
    others: tuple[int, ...] = ()
    """Reasons of OtherFailuresSequence (0008,119A), which name no instance."""


class Item(msgspec.Struct, frozen=True):
    """One item of a list, as it stands in the answer."""

    uid: str = ""
    failure: int | None = None
    warning: int | None = None


def stored(media_type: str, body: bytes) -> Stored:
    """Read the answer to a STOW-RS request. Raises `UnreadableError`."""
    body = body.removeprefix(BOM_UTF8)
    referenced, failed, others = _reader(media_type, body)(body)
    # one that is listed as stored with a reason why it was not is not proven
    failed = (*failed, *(i for i in referenced if i.failure))
    return Stored(
        MappingProxyType({i.uid: i.warning for i in referenced if i.uid and not i.failure}),
        MappingProxyType({i.uid: i.failure or UNKNOWN for i in failed if i.uid}),
        tuple(i.failure or UNKNOWN for i in (*others, *(i for i in failed if not i.uid))),
    )


def instances(media_type: str, body: bytes) -> tuple[str, ...]:
    """Read the SOP Instance UIDs of an answer to a query in JSON. Raises `UnreadableError`."""
    body = body.removeprefix(BOM_UTF8)
    if not body.strip():
        return ()
    if media_type not in _JSON and not body.lstrip().startswith(b"["):
        raise UnreadableError(_instead(media_type, body))
    found = _decoded(body, list[_Instance])
    return tuple(text for instance in found for text in _texts(instance.uid))


_Lists = tuple[Sequence[Item], Sequence[Item], Sequence[Item]]


def _reader(media_type: str, body: bytes) -> Callable[[bytes], _Lists]:
    if not body.strip():
        return lambda _: ((), (), ())
    if media_type in _JSON:
        return _from_json
    if media_type in _XML:
        return _from_xml
    if media_type == "text/html":
        raise UnreadableError(_instead(media_type, body))
    # without a type, or with one that says nothing
    first = body.lstrip()[:1]
    if first in (b"{", b"["):
        return _from_json
    if first == b"<" and b"NativeDicomModel" in body[:500]:
        return _from_xml
    raise UnreadableError(_instead(media_type, body))


def _instead(media_type: str, body: bytes) -> str:
    if media_type == "text/html" or body.lstrip()[:1] == b"<":
        return N_("it answered with a web page")
    if not media_type:
        return N_("it answered with something without a type")
    return say("it answered with {media_type}", media_type=media_type)


class _Values(msgspec.Struct, frozen=True):
    value: list[Any] | None = msgspec.field(name="Value", default=None)


class _Item(msgspec.Struct, frozen=True):
    uid: _Values | None = msgspec.field(name="00081155", default=None)
    failure: _Values | None = msgspec.field(name="00081197", default=None)
    warning: _Values | None = msgspec.field(name="00081196", default=None)


class _Items(msgspec.Struct, frozen=True):
    value: list[_Item | None] | None = msgspec.field(name="Value", default=None)


class _Answer(msgspec.Struct, frozen=True):
    referenced: _Items | None = msgspec.field(name="00081199", default=None)
    failed: _Items | None = msgspec.field(name="00081198", default=None)
    others: _Items | None = msgspec.field(name="0008119A", default=None)


class _Instance(msgspec.Struct, frozen=True):
    uid: _Values | None = msgspec.field(name="00080018", default=None)


def _decoded(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise UnreadableError(N_("its answer is not whole, or no DICOM JSON")) from None


def _from_json(body: bytes) -> _Lists:
    # some give one dataset in a list
    answers = _decoded(body, list[_Answer] if body.lstrip().startswith(b"[") else _Answer)
    every: list[_Answer] = answers if isinstance(answers, list) else [answers]
    return (
        [item for a in every for item in _items(a.referenced)],
        [item for a in every for item in _items(a.failed)],
        [item for a in every for item in _items(a.others)],
    )


def _items(found: _Items | None) -> Iterator[Item]:
    for item in (found.value or ()) if found is not None else ():
        if item is not None:
            uid = next(iter(_texts(item.uid)), "")
            yield Item(uid, _number(item.failure), _number(item.warning))


def _texts(values: _Values | None) -> Iterator[str]:
    for value in (values.value or ()) if values is not None else ():
        if isinstance(value, str):
            yield _uid(value)


def _number(values: _Values | None) -> int | None:
    for value in (values.value or ()) if values is not None else ():
        return _code(str(value)) if isinstance(value, str | int) else UNKNOWN
    return None


def _from_xml(body: bytes) -> _Lists:
    try:
        found = native.items(body, _ATTRIBUTES)
    except native.NotXmlError as e:
        raise UnreadableError(say("its answer is not whole, or no DICOM XML: {error}", error=e)) from None

    def of(sequence: str) -> list[Item]:
        return [
            Item(
                _uid(values.get("00081155", "")),
                _code(values["00081197"]) if "00081197" in values else None,
                _code(values["00081196"]) if "00081196" in values else None,
            )
            for tag, values in found
            if tag == sequence
        ]

    return of("00081199"), of("00081198"), of("0008119A")


_ATTRIBUTES: Final = frozenset({"00081155", "00081196", "00081197"})


def _uid(text: str) -> str:
    return text.strip(" \0\r\n\t")


def _code(text: str) -> int | None:
    """Read an unsigned short; what is none is a reason that we do not know."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len("65535") else UNKNOWN
