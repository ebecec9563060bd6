"""The spool: files of received objects, from the first byte to the day they are deleted.

``incoming/<id>.part`` while an object is written and until it is indexed, ``ready/<shard>/<id>.dcm`` from then on,
``quarantine/<id>.dcm`` for what was refused after it was read. Names are our own ids, never a peer's words.
Knows bytes, not DICOM.
"""

from edge.spool.files import Spool, StorageError
from edge.spool.identity import Identity
from edge.spool.part import Part
from edge.spool.reader import Reader
from edge.spool.sync import Syncer, sync_path

__all__ = ["Identity", "Part", "Reader", "Spool", "StorageError", "Syncer", "sync_path"]
