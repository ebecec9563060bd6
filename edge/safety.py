"""Whether a study may be deleted from the scanner: one answer for every face of the box.

Pure. *Yes* only where the scanner itself named the whole set in a commitment request, nothing has come for a while and
every destination has it on evidence; else this box cannot know what never left the scanner, and says so.
"""

from typing import Final, Literal

import msgspec


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


_ASK: Final = "Keep the study on the scanner."


def safe_to_delete(study: StudyView) -> Safety:
    """Answer for ``study``; where the answer is no, with the most important reason."""
    no = _hindrance(study)
    if no is not None:
        return no
    where = _places(study)
    if not study.complete:
        # also where the scanner named them all: many ask series by series
        text = f"Images are still coming: {study.received} so far, all {where}."
        return Safety("no", "RECEIVING", text, f"{_ASK} Look again when nothing has come for a while.")
    if study.named:
        text = f"All {_images(study.received)} that the scanner named are {where}."
        return Safety("yes", "NAMED", text, "The study may be deleted from the scanner.")
    text = f"All {study.received} received are safe: compare the number with the scanner. They are {where}."
    advice = f"If the scanner shows {study.received} too, it may be deleted there; if it shows more, send it again."
    return Safety("received", "RECEIVED", text, advice)


def _hindrance(study: StudyView) -> Safety | None:
    """The most important reason for which not everything is safe."""
    gone = study.lost + study.quarantined
    if gone:
        text = f"Lost or damaged on this box before they were delivered: {gone} of {study.received}."
        return Safety("no", "LOST", text, f"{_ASK} Send it again now, and tell IT.")
    if held := _listed(study, "held"):
        return Safety("no", "HELD", f"Put aside until a person decides: {held}.", f"{_ASK} Tell IT.")
    if refused := _refused(study):
        text = f"Given up, or not taken by the destination: {refused}."
        return Safety("no", "REFUSED", text, f"{_ASK} Ask IT whether these images are needed there.")
    if study.unrouted or not study.destinations:
        text = f"Kept here and sent nowhere: {study.unrouted or study.received} of {study.received}."
        return Safety("no", "NO_DESTINATION", text, f"{_ASK} Tell IT: no destination is configured for them.")
    if queued := _listed(study, "queued"):
        return Safety("no", "WAITING", f"Not delivered yet: {queued}.", f"{_ASK} Nothing is to be done but wait.")
    if unproven := _listed(study, "unproven"):
        text = f"Accepted but not verified yet: {unproven}."
        return Safety("no", "UNPROVEN", text, f"{_ASK} Nothing is to be done but wait.")
    if not all(d.safe for d in study.destinations):
        raise AssertionError("a delivery is in a state that is not counted")
    return None


def _listed(study: StudyView, what: Literal["held", "queued", "unproven"]) -> str:
    counts = [(d.destination, int(getattr(d, what)), d.received) for d in study.destinations]
    return ", ".join(f"{count} of {of} for {name}" for name, count, of in counts if count)


def _refused(study: StudyView) -> str:
    counts = [(d.destination, d.cancelled + d.declined, d.received) for d in study.destinations]
    return ", ".join(f"{count} of {of} for {name}" for name, count, of in counts if count)


def _places(study: StudyView) -> str:
    """Say where everything is, and on which evidence: accepted is less than verified."""
    verified = [d.destination for d in study.destinations if not d.accepted]
    accepted = [d.destination for d in study.destinations if d.accepted]
    said = [f"{word} by {_joined(names)}" for word, names in (("verified", verified), ("accepted", accepted)) if names]
    return " and ".join(said)


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
