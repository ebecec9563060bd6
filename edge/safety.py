"""Whether a study may be deleted from the scanner: one answer for every face of the box.

Pure. *Yes* only where the scanner itself named the whole set in a commitment request, nothing has come for a while and
every destination has it on evidence; else this box cannot know what never left the scanner, and says so.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from edge.phrase import N_, say, say_n


class DestinationView(msgspec.Struct, frozen=True, kw_only=True):
    """A study at one destination, in deliveries; what another delivery made needless is left out."""

    destination: str
    received: int
    """All that are to go there, whatever their state."""
    queued: int = 0
    """Waiting or on the wire."""
    accepted: int = 0
    """The destination said yes."""
    unproven: int = 0
    """Of the accepted, those that wait for a proof."""
    verified: int = 0
    held: int = 0
    cancelled: int = 0
    declined: int = 0

    @property
    def safe(self) -> bool:
        """Whether all of it is there, on evidence that is enough."""
        return self.accepted + self.verified == self.received and not self.unproven


class StudyView(msgspec.Struct, frozen=True, kw_only=True):
    """A study as it stands here. Strings are as received."""

    id: int
    """Of this box; grows with the order in which studies began."""
    latest: int
    """Id of its instance that came last: what pages of studies are ordered by."""
    uid: str
    """Empty where its one object names no study."""
    patient_id: str
    patient_name: str
    accession: str
    date: str
    """As in the object: YYYYMMDD, or whatever stands there."""
    description: str
    modalities: tuple[str, ...]
    received: int
    """SOP Instance UIDs: what the scanner counts as images."""
    lost: int
    """Instances whose file is gone before every destination had it."""
    quarantined: int
    """Instances whose file was damaged before every destination had it."""
    unrouted: int
    """Instances that no route sends anywhere."""
    first_received: float
    last_received: float
    """Wall time, seconds since 1970."""
    clock_trusted: bool
    """Whether both times may be believed."""
    complete: bool
    """Whether nothing has come for a while."""
    reopened: bool
    """Whether something came after it was complete once."""
    named: bool
    """Whether a commitment request of the scanner named all that is here, and was answered with success."""
    destinations: tuple[DestinationView, ...]
    """By name."""


Code = Literal[
    "NAMED",
    "RECEIVED",
    "LOST",
    "HELD",
    "REFUSED",
    "NO_DESTINATION",
    "WAITING",
    "UNPROVEN",
    "RECEIVING",
]


class Safety(msgspec.Struct, frozen=True):
    """The answer to "safe to delete from the scanner?", for technicians."""

    answer: Literal["yes", "received", "no"]
    """``received``: all that came here is safe, but only a look at the scanner tells whether all of it came."""
    code: Code
    text: str
    advice: str


_WAIT: Final = N_("Keep the study on the scanner. Nothing is to be done but wait.")


def safe_to_delete(study: StudyView) -> Safety:
    """Answer for ``study``; where the answer is no, with the most important reason."""
    no = _hindrance(study)
    if no is not None:
        return no
    count, places = study.received, _places(study)
    if not study.complete:
        # also where the scanner named them all: many ask series by series
        text = say("Images are still coming: {count} so far, all {places}.", count=count, places=places)
        advice = N_("Keep the study on the scanner. Look again when nothing has come for a while.")
        return Safety("no", "RECEIVING", text, advice)
    if study.named:
        text = say_n(
            "All 1 image that the scanner named are {places}.",
            "All {n} images that the scanner named are {places}.",
            count,
            places=places,
        )
        return Safety("yes", "NAMED", text, N_("The study may be deleted from the scanner."))
    text = say(
        "All {count} received are safe: compare the number with the scanner. They are {places}.",
        count=count,
        places=places,
    )
    advice = say(
        "If the scanner shows {count} too, it may be deleted there; if it shows more, send it again.", count=count
    )
    return Safety("received", "RECEIVED", text, advice)


def _hindrance(study: StudyView) -> Safety | None:
    """The most important reason for which not everything is safe."""
    gone, received = study.lost + study.quarantined, study.received
    if gone:
        text = say(
            "Lost or damaged on this box before they were delivered: {gone} of {count}.", gone=gone, count=received
        )
        return Safety("no", "LOST", text, N_("Keep the study on the scanner. Send it again now, and tell IT."))
    if held := _listed(study, "held"):
        text = say("Put aside until a person decides: {counts}.", counts=held)
        return Safety("no", "HELD", text, N_("Keep the study on the scanner. Tell IT."))
    if refused := _refused(study):
        text = say("Given up, or not taken by the destination: {counts}.", counts=refused)
        advice = N_("Keep the study on the scanner. Ask IT whether these images are needed there.")
        return Safety("no", "REFUSED", text, advice)
    if study.unrouted or not study.destinations:
        gone = study.unrouted or received
        text = say("Kept here and sent nowhere: {gone} of {count}.", gone=gone, count=received)
        advice = N_("Keep the study on the scanner. Tell IT: no destination is configured for them.")
        return Safety("no", "NO_DESTINATION", text, advice)
    if queued := _listed(study, "queued"):
        return Safety("no", "WAITING", say("Not delivered yet: {counts}.", counts=queued), _WAIT)
    if unproven := _listed(study, "unproven"):
        return Safety("no", "UNPROVEN", say("Accepted but not verified yet: {counts}.", counts=unproven), _WAIT)
    if not all(d.safe for d in study.destinations):
        raise AssertionError("a delivery is in a state that is not counted")
    return None


def _listed(study: StudyView, what: Literal["held", "queued", "unproven"]) -> str:
    return _counted((d.destination, int(getattr(d, what)), d.received) for d in study.destinations)


def _refused(study: StudyView) -> str:
    return _counted((d.destination, d.cancelled + d.declined, d.received) for d in study.destinations)


def _counted(counts: Iterable[tuple[str, int, int]]) -> str:
    return ", ".join(
        say("{count} of {total} for {name}", count=count, total=total, name=name)
        for name, count, total in counts
        if count
    )


def _places(study: StudyView) -> str:
    """Say where everything is, and on which evidence: accepted is less than verified."""
    verified = _joined([d.destination for d in study.destinations if not d.accepted])
    accepted = _joined([d.destination for d in study.destinations if d.accepted])
    if not accepted:
        return say("verified by {verified}", verified=verified)
    if not verified:
        return say("accepted by {accepted}", accepted=accepted)
    return say("verified by {verified} and accepted by {accepted}", verified=verified, accepted=accepted)


def _joined(names: Sequence[str]) -> str:
    if len(names) < 2:  # noqa: PLR2004 - two are joined
        return "".join(names)
    return say("{names} and {name}", names=", ".join(names[:-1]), name=names[-1])
