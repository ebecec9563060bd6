"""What of a snapshot everybody may see: never a sentence that a peer, a file or a medium had a part in.

The same line is drawn as for the broker: codes, counts, times and names of the configuration leave; sentences do not.
"""

from typing import Final

import msgspec

from edge.events import public
from edge.findings import CODES
from edge.snapshot import Destination, FindingStatus, ImportStatus, Snapshot
from edge.web.page import N_

_DETAIL: Final = "{detail}"
_GENERAL: Final = {
    "NOT_IN_THIS_VERSION": N_("The configuration uses something on which this version does not act yet."),
    "UNROUTED": N_("Objects match no route: they are stored here and go nowhere."),
    "DESTINATION_DOWN": N_("A destination cannot be reached."),
    "OBJECT_TOO_BIG_FOR_LINK": N_("The line to a destination breaks off before a large object is through."),
    "DELIVERIES_HELD": N_("Objects are held until a person decides."),
    "PROOF_OVERDUE": N_("A destination owes the proof that it stored what it accepted."),
    "PROOF_DECLINED": N_("A destination said that it did not store what it accepted."),
    "COMMITMENT_UNSUPPORTED": N_("A destination does not offer storage commitment."),
    "QUERY_UNSUPPORTED": N_("A destination does not answer queries of this box."),
    "REPORT_UNUSABLE": N_("A report of storage commitment could not be used."),
    "COMMITMENT_UNKNOWN_REQUESTER": N_("A modality asked for storage commitment, and where to answer is not known."),
    "REPORT_UNDELIVERED": N_("A modality does not take our reports of storage commitment."),
    "DESTINATION_REMOVED": N_("Objects wait for a destination that is not configured any more."),
    "MODALITY_SILENT": N_("A modality that usually sends has been silent for long."),
    "PEER_REFUSED": N_("A sender was refused."),
    "PEER_MISBEHAVES": N_("A sender breaks the rules of DICOM."),
}
"""Said instead of a finding's own sentence where that consists of details."""


def public_snapshot(snapshot: Snapshot) -> Snapshot:
    """Return ``snapshot`` without what may name somebody."""
    return msgspec.structs.replace(
        snapshot,
        destinations=[_destination(d) for d in snapshot.destinations],
        imports=[_import(i) for i in snapshot.imports],
        modalities=[],
        findings=[_finding(f) for f in snapshot.findings],
    )


def _destination(destination: Destination) -> Destination:
    if destination.problem is None:
        return destination
    return msgspec.structs.replace(destination, problem=msgspec.structs.replace(destination.problem, text=""))


def _import(shown: ImportStatus) -> ImportStatus:
    return msgspec.structs.replace(shown, name="")


def _finding(finding: FindingStatus) -> FindingStatus:
    return msgspec.structs.replace(
        finding,
        component=public(finding.component),
        text=general(finding.code),
        advice=CODES[finding.code].advice if finding.code in CODES else "",
    )


def general(code: str) -> str:
    """Say what a finding is about, without any detail."""
    if code in _GENERAL:
        return _GENERAL[code]
    text = CODES[code].text if code in CODES else ""
    if _DETAIL not in text:
        return text
    before = text.partition(_DETAIL)[0].rstrip(" :,")
    # "…, although {detail}" breaks off in the middle of a sentence
    return before.removesuffix(", although") + ("" if before.endswith(".") else ".")
