"""The datasets of the Storage Commitment Push Model (PS3.4 J.3.2, J.3.3) as values, read and written with pydicom.

Writing does not judge: a report may list a UID twice, name another transaction, or none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pydicom.dataset import Dataset
from pynetdicom.association import Association

PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""The well-known SOP Instance that every request and report names."""
REQUEST: Final = 1
"""The one action type: Request Storage Commitment."""
SUCCESS: Final = 1
FAILURES_EXIST: Final = 2

Roles = tuple[bool, bool]
"""What was asked in SCP/SCU role selection: SCU, SCP."""


class Reference(NamedTuple):
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an N-EVENT-REPORT says. `failed`: each with its failure reason (0008,1197)."""

    transaction_uid: str
    committed: tuple[Reference, ...] = ()
    failed: tuple[tuple[Reference, int], ...] = ()
    event_type: int = field(default=0)
    """0: as the standard asks, 2 where anything failed, else 1."""

    @property
    def type(self) -> int:
        return self.event_type or (FAILURES_EXIST if self.failed else SUCCESS)

    @property
    def committed_uids(self) -> list[str]:
        return sorted(each.sop_instance_uid for each in self.committed)

    @property
    def reasons(self) -> dict[str, int]:
        """Failed SOP Instance UIDs, each with its reason."""
        return {each.sop_instance_uid: reason for each, reason in self.failed}

    @property
    def uids(self) -> list[str]:
        """Every UID it lists."""
        return sorted([*self.committed_uids, *self.reasons])


def action_information(transaction: str, references: Iterable[Reference]) -> Dataset:
    dataset = Dataset()
    dataset.TransactionUID = transaction
    dataset.ReferencedSOPSequence = [_item(each) for each in references]
    return dataset


def read_action(dataset: Dataset) -> tuple[str, tuple[Reference, ...]]:
    """The transaction UID, and what is asked for."""
    return str(dataset.TransactionUID), tuple(_reference(item) for item in dataset.ReferencedSOPSequence)


def event_information(report: Report) -> Dataset:
    dataset = Dataset()
    if report.transaction_uid:
        dataset.TransactionUID = report.transaction_uid
    if report.committed:
        dataset.ReferencedSOPSequence = [_item(each) for each in report.committed]
    if report.failed:
        dataset.FailedSOPSequence = [_item(each, reason) for each, reason in report.failed]
    return dataset


def read_event(dataset: Dataset, event_type: int) -> Report:
    committed = dataset.get("ReferencedSOPSequence", [])
    failed = dataset.get("FailedSOPSequence", [])
    return Report(
        transaction_uid=str(dataset.TransactionUID),
        committed=tuple(_reference(item) for item in committed),
        failed=tuple((_reference(item), int(item.FailureReason)) for item in failed),
        event_type=event_type,
    )


def send_report(association: Association, report: Report) -> int | None:
    """N-EVENT-REPORT on an association that there is; the status, None where no answer came."""
    answer, _ = association.send_n_event_report(event_information(report), report.type, PUSH_MODEL, INSTANCE)
    status: int | None = answer.get("Status")
    return status


def asked_roles(association: Association) -> Roles | None:
    """Of the requestor, for commitment; None: it sent no role item."""
    items: Mapping[Any, Any] = association.requestor.role_selection
    for uid, item in items.items():
        if str(uid) == PUSH_MODEL:
            return bool(item.scu_role), bool(item.scp_role)
    return None


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    if reason is not None:
        item.FailureReason = reason
    return item


def _reference(item: Dataset) -> Reference:
    return Reference(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
