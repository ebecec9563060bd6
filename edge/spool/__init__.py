"""The spool: files of received objects, from the first byte to the day they are deleted.

``incoming/<id>.part`` while an object is written and until it is indexed, ``ready/<shard>/<id>.dcm`` from then on,
``quarantine/<id>.dcm`` for what was refused after it was read. Names are our own ids, never a peer's words.
Knows bytes, not DICOM.
"""

from edge.spool.ballast import Ballast
from edge.spool.files import Spool, StorageError
from edge.spool.identity import Identity
from edge.spool.ledger import Free, Ledger, Reservation
from edge.spool.medium import doubts
from edge.spool.part import FolderError, Part
from edge.spool.reader import Reader
from edge.spool.scratch import NoRoomError, Scratch
from edge.spool.sync import Syncer

__all__ = [
    "Ballast",
    "FolderError",
    "Free",
    "Identity",
    "Ledger",
    "NoRoomError",
    "Part",
    "Reader",
    "Reservation",
    "Scratch",
    "Spool",
    "StorageError",
    "Syncer",
    "doubts",
]
