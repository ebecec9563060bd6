"""The store: SQLite, the only state that stages share.

What is written goes through one committer, in batches that are synced once; what is read comes from a connection
of its own that cannot write. Only this package speaks SQL.
"""

from edge.store.audits import Stored
from edge.store.commands import CommandRow
from edge.store.connection import NotOursError, StoreError, StoreFailedError
from edge.store.deliver import Parcel, Settlement
from edge.store.events import Dated, LoggedEvent
from edge.store.people import Choice
from edge.store.reading import DeliveryRow, InstanceRow, Reading, Tally, TrailRow
from edge.store.record import Fate, Recorded
from edge.store.repair import Mended
from edge.store.store import Store

__all__ = [
    "Choice",
    "CommandRow",
    "Dated",
    "DeliveryRow",
    "Fate",
    "InstanceRow",
    "LoggedEvent",
    "Mended",
    "NotOursError",
    "Parcel",
    "Reading",
    "Recorded",
    "Settlement",
    "Store",
    "StoreError",
    "StoreFailedError",
    "Stored",
    "Tally",
    "TrailRow",
]
