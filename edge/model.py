"""The words every room shares: what an object is, where it came from, where it goes.

Frozen values without behaviour or I/O. Strings from the network are kept as received, outer padding stripped;
none is ever used as a path.
"""

from typing import Final

import msgspec

PRIORITIES: Final = ("stat", "routine", "background")
"""In the order in which they are served; the store keeps the index."""

STAT: Final = PRIORITIES.index("stat")
ROUTINE: Final = PRIORITIES.index("routine")
BACKGROUND: Final = PRIORITIES.index("background")

WATCH: Final = "watch"
IMPORT: Final = "import"
DIMSE: Final = "dimse"
"""The doors."""


class Kind(msgspec.Struct, frozen=True, order=True):
    """What a destination must be asked whether it takes: a SOP class in a transfer syntax."""

    sop_class_uid: str
    transfer_syntax_uid: str


class Need(msgspec.Struct, frozen=True):
    """What a session must be opened for: a kind of object, and who sent it."""

    kind: Kind
    calling: str


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The file that an object was read from: what makes it the same file when it is met again."""

    place: str
    """The watch, or the import, below which ``path`` is."""
    path: str
    """Relative; a member of an archive follows its archive after an exclamation mark."""
    inode: int
    size: int
    """Bytes of the file."""
    mtime_ns: int
    ctime_ns: int
    """Nanoseconds since 1970, as its file system says."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Who brought an object, and through which door."""

    door: str
    """``dimse``, ``watch`` or ``import``."""
    calling: str = ""
    """Calling AE title (PS3.8 9.3.2), outer spaces stripped; may be empty."""
    called: str = ""
    """Called AE title."""
    address: str = ""
    """IP address of the peer, or the name of the watch or import."""
    file: Origin | None = None
    """Where it was read from; None for what came over the network."""
    priority: int | None = None
    """What its sender asked for (PS3.7 9.3.1.1): index into `PRIORITIES`; None: nothing out of the ordinary."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a dataset: enough to route it, to find it and to show it. Empty where absent."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""
    modality: str = ""
    patient_id: str = ""
    patient_name: str = ""
    accession: str = ""
    study_date: str = ""
    study_description: str = ""
    series_description: str = ""
    series_number: str = ""
    instance_number: str = ""
    station: str = ""
    body_part: str = ""
    problem: str = ""
    """Why it could not be read further; empty where it could."""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One object in the spool, as its seal describes it."""

    id: int
    kind: Kind
    sop_instance_uid: str
    digest: bytes
    """SHA-256 of the dataset as received, 32 bytes."""
    length: int
    """Bytes of the dataset as received, File Meta not counted."""
    offset: int
    """Where the dataset starts in the file: bytes of preamble and File Meta."""
    source: Source
    received_at: float
    """Wall time, seconds since 1970."""
    clock_trusted: bool
    header: Header


class Rendering(msgspec.Struct, frozen=True):
    """What was sent in place of the stored bytes: the same instance in another transfer syntax."""

    stored_as: str
    """Transfer Syntax UID of what is stored."""
    sent_as: str
    """Transfer Syntax UID of what was sent."""
    digest: bytes
    """SHA-256 of the dataset that was sent, 32 bytes."""
    decompressed: bool = False
    """Whether its pixel data was decompressed; else every value was as it is stored."""


class Reference(msgspec.Struct, frozen=True, order=True):
    """What a commitment names an instance by (PS3.4 J.3.2.1.1)."""

    sop_class_uid: str
    sop_instance_uid: str


class Failure(msgspec.Struct, frozen=True):
    """An instance that is not committed to, and the reason (0008,1197)."""

    reference: Reference
    reason: int
