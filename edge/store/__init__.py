"""The store: SQLite, the only state that stages share.

What is written goes through one committer, in batches that are synced once; what is read comes from a connection
of its own that cannot write. Only this package speaks SQL.
"""

from edge.store.audits import Stored
from edge.store.capabilities import Capability
from edge.store.commands import CommandRow
from edge.store.connection import ClosedError, NotOursError, StoreError, StoreFailedError
from edge.store.deliver import Parcel, Settlement
from edge.store.events import Dated, LoggedEvent
from edge.store.people import Choice
from edge.store.promises import Answer, TooManyError
from edge.store.proofs import Batch, Provable, Verdict
from edge.store.reading import DeliveryRow, InstanceRow, ProofRow, Reading, Tally, TrailRow
from edge.store.record import Fate, Recorded
from edge.store.repair import Mended
from edge.store.store import Store
from edge.store.studies import StudyFilter, read_studies
from edge.store.verdicts import Reported

__all__ = [
    "Answer",
    "Batch",
    "Capability",
    "Choice",
    "ClosedError",
    "CommandRow",
    "Dated",
    "DeliveryRow",
    "Fate",
    "InstanceRow",
    "LoggedEvent",
    "Mended",
    "NotOursError",
    "Parcel",
    "ProofRow",
    "Provable",
    "Reading",
    "Recorded",
    "Reported",
    "Settlement",
    "Store",
    "StoreError",
    "StoreFailedError",
    "Stored",
    "StudyFilter",
    "Tally",
    "TooManyError",
    "TrailRow",
    "Verdict",
    "read_studies",
]
