"""The store: SQLite, the only state that stages share.

What is written goes through one committer, in batches that are synced once; what is read comes from a connection
of its own that cannot write. Only this package speaks SQL.
"""

from edge.store.audits import Stored
from edge.store.connection import NotOursError, StoreError
from edge.store.deliver import Parcel, Settlement
from edge.store.people import Choice
from edge.store.reading import DeliveryRow, InstanceRow, Reading, Tally, TrailRow
from edge.store.record import Fate, Recorded
from edge.store.repair import Mended
from edge.store.store import Store

__all__ = [
    "Choice",
    "DeliveryRow",
    "Fate",
    "InstanceRow",
    "Mended",
    "NotOursError",
    "Parcel",
    "Reading",
    "Recorded",
    "Settlement",
    "Store",
    "StoreError",
    "Stored",
    "Tally",
    "TrailRow",
]
