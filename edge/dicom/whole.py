"""What a file is: one whole DICOM object, one that is not whole, or something else (PS3.10 7.1, PS3.5 7 and 10).

Whole means that every element's length leads exactly to the end of the file. A copy that was cut just where a top level
element ends cannot be told from a whole one by that; an image that lacks its pixel data is in ``doubt``, and whoever
asks must see that the file does not grow any more. Pixel data and other values are skipped, never
read; memory is flat. Errors of ``read`` pass through, nothing else is raised.
"""

from typing import Final

import msgspec

from edge.dicom import part10
from edge.dicom.elements import SHORT_HEADER, VRS
from edge.dicom.source import CHUNK, Read
from edge.dicom.uids import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, valid_uid
from edge.dicom.walk import CLASS, INSTANCE, LONGEST_UID, RAN_OUT, walk
from edge.model import Kind
from edge.phrase import N_, say

_ZEROS: Final = 1024
_DICOMDIR: Final = "1.2.840.10008.1.3.10"
_PACKED: Final = (b"PK\3\4", b"PK\5\6")
_EMPTY: Final = N_("it is empty")
_ONLY_ZEROS: Final = N_("it begins with zeros: it is still being written")
_NOT_DICOM: Final = N_("it is not DICOM")
_CUT_META: Final = N_("it ends in the File Meta Information")
_NO_PIXELS: Final = N_("it describes an image and has no pixel data")
_LONG_META: Final = say("its File Meta Information is longer than {most} MiB", most=part10.MOST_META >> 20)
_NO_SYNTAX: Final = N_("its File Meta Information names no transfer syntax")
_NO_UIDS: Final = N_("it names no SOP Class or no SOP Instance UID")
_BAD_UIDS: Final = N_("its UIDs are not such as can be sent")
_DIFFER: Final = N_("its File Meta Information names another instance than its dataset, which was believed.")
_OTHER_SYNTAX: Final = N_(
    "its File Meta Information names another transfer syntax than its dataset, which was believed."
)
_UNCOMPRESSED: Final = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG})


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """A whole object. The UIDs are those of the dataset; where it has none, those of the File Meta Information."""

    kind: Kind
    sop_instance_uid: str
    offset: int
    """Where the dataset starts in the file."""
    length: int
    """Bytes of the dataset."""
    private: bytes = b""
    """(0002,0102) where its creator is ours: the seal."""
    oddity: str = ""
    """A sentence; empty where nothing is odd."""
    doubt: str = ""
    """Why it may be a copy that was cut between two elements; empty where that is not likely."""


class Unfinished(msgspec.Struct, frozen=True):
    """DICOM as far as it goes, and not whole."""

    why: str


class Unusable(msgspec.Struct, frozen=True):
    """DICOM that cannot be stored."""

    why: str


class Foreign(msgspec.Struct, frozen=True):
    """Another kind of file."""

    why: str = _NOT_DICOM


class Directory(msgspec.Struct, frozen=True):
    """A DICOMDIR (PS3.10 8.6)."""


class Archive(msgspec.Struct, frozen=True):
    """Begins as a ZIP archive does."""


Found = Whole | Unfinished | Unusable | Foreign | Directory | Archive


def recognise(read: Read, size: int) -> Found:
    """Say what a file of ``size`` bytes is. ``read(offset, count)`` gives up to ``count`` bytes, as ``os.pread``."""
    if not size:
        return Unfinished(_EMPTY)
    head = read(0, min(size, CHUNK))
    # a preamble may hold anything (PS3.10 7.1), also what makes the file an archive to others
    if head[:4] in _PACKED and head[128:134] != b"DICM\2\0":
        return Archive()
    if not head[:_ZEROS].strip(b"\0"):
        return Unfinished(_ONLY_ZEROS)
    for missing in (b"", bytes(128), part10.PREAMBLE):
        if _begins_with_meta(missing + head[: 140 - len(missing)]):
            return _with_meta(read, size, missing)
    if head[128:132] == b"DICM":
        return _without_meta(read, 132, size)
    if head[:128].strip(b"\0") == b"" and size <= len(part10.PREAMBLE):
        return Unfinished(_CUT_META)
    return _without_meta(read, 0, size)


def hopeless(head: bytes, size: int) -> Found | None:
    """Say what a file of ``size`` bytes is that begins with ``head``, where that shows that it can be no object.

    It should be long enough for the UIDs of a bare dataset to lie in it.
    """
    found = recognise(lambda offset, count: head[offset : offset + count], size)
    return found if isinstance(found, Foreign | Archive) or found == Unfinished(_ONLY_ZEROS) else None


def _begins_with_meta(head: bytes) -> bool:
    """Whether a File Meta group follows the prefix, as far as there is one."""
    return head[128:132] == b"DICM" and (head[132:134] == b"\2\0" or len(head) < 134)


def _with_meta(read: Read, size: int, missing: bytes) -> Found:
    """Judge a file with File Meta Information, of whose preamble and prefix ``missing`` is not there."""
    meta = _read_meta(read, size, missing)
    if not isinstance(meta, part10.Meta):
        return meta
    offset = meta.offset - len(missing)
    if offset == size:
        return Unfinished(_CUT_META)
    walked = walk(read, offset, size, meta.transfer_syntax_uid)
    if _DICOMDIR in (meta.sop_class_uid, walked.uid(CLASS)):
        return Directory()
    if walked.problem:
        return Unusable(walked.problem) if walked.endless else Unfinished(walked.problem)
    classes, instances = walked.uid(CLASS), walked.uid(INSTANCE)
    differ = any(
        own and named and own != named
        for own, named in ((classes, meta.sop_class_uid), (instances, meta.sop_instance_uid))
    )
    syntax = walked.syntax if meta.transfer_syntax_uid in _UNCOMPRESSED else meta.transfer_syntax_uid
    return _named(
        classes or meta.sop_class_uid,
        instances or meta.sop_instance_uid,
        syntax,
        Whole(
            kind=Kind("", ""),
            sop_instance_uid="",
            offset=offset,
            length=size - offset,
            private=meta.private,
            oddity=_DIFFER if differ else _OTHER_SYNTAX if syntax != meta.transfer_syntax_uid else "",
            doubt=_NO_PIXELS if walked.lacks_pixels() else "",
        ),
    )


def _read_meta(read: Read, size: int, missing: bytes) -> part10.Meta | Unfinished | Unusable:
    most = CHUNK
    while True:
        head = missing + read(0, min(size, most))
        try:
            return part10.read_meta(head)
        except part10.CutMetaError:
            if most >= size:
                return Unfinished(_CUT_META)
            if most == part10.MOST_META:
                return Unusable(_LONG_META)
            most = part10.MOST_META
        except part10.NotPart10Error:
            return Unusable(_NO_SYNTAX)


def _without_meta(read: Read, offset: int, size: int) -> Found:
    """Judge a file that is a bare dataset, or none: it must begin with group 0008."""
    head = read(offset, min(SHORT_HEADER, size - offset))
    if head[:2] not in (b"\x08\0", b"\0\x08")[: 2 if len(head) > 1 else 0]:
        return Foreign()
    explicit, big = head[4:6] in VRS, head[:1] == b"\0"
    if big and not explicit:
        return Foreign()
    syntax = (EXPLICIT_BIG if big else EXPLICIT_LITTLE) if explicit else IMPLICIT_LITTLE
    walked = walk(read, offset, size, syntax)
    known = walked.uid(CLASS) or walked.uid(INSTANCE)
    if walked.uid(CLASS) == _DICOMDIR:
        return Directory()
    if walked.problem:
        return Unfinished(walked.problem) if known or (walked.problem in RAN_OUT and size < CHUNK) else Foreign()
    if not known:
        return Foreign()
    whole = Whole(
        kind=Kind("", ""),
        sop_instance_uid="",
        offset=offset,
        length=size - offset,
        doubt=_NO_PIXELS if walked.lacks_pixels() else "",
    )
    return _named(walked.uid(CLASS), walked.uid(INSTANCE), syntax, whole)


def _named(sop_class: str, instance: str, syntax: str, whole: Whole) -> Found:
    if not (sop_class and instance):
        return Unusable(_NO_UIDS)
    fine = len(instance) <= LONGEST_UID and instance.isascii() and instance.isprintable()
    if not (fine and valid_uid(sop_class) and valid_uid(syntax)):
        return Unusable(_BAD_UIDS)
    return msgspec.structs.replace(whole, kind=Kind(sop_class, syntax), sop_instance_uid=instance)
