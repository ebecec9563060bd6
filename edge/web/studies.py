"""Studies in words, for templates: by patient, with what was received, where it is, and what may be deleted."""

from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from edge.clock import iso
from edge.config import Config
from edge.findings import printable
from edge.safety import DestinationView, StudyView
from edge.web.language import Language
from edge.web.studies_name import Writing, plain, writings
from edge.web.studies_safety import Answer, answer
from edge.web.studies_search import day
from edge.web.words import moment

_MOST: Final = 120
"""Characters of one attribute that are shown."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A study at one destination."""

    name: str
    received: int
    delivered: int
    verified: int
    proves: bool
    """Whether it is to be verified there, or was."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One study."""

    id: int
    title: str
    modalities: str
    date: str
    accession: str
    received: int
    state: str
    """A sentence: whether more may come."""
    late: bool
    """Whether something came after it was complete once."""
    complete: bool
    doubt: bool
    """Whether the times may be wrong."""
    answer: Answer
    places: tuple[Place, ...]


class Patient(msgspec.Struct, frozen=True, kw_only=True):
    """Studies of one patient that came one after another, or not."""

    key: str
    """Of the page: an id for its heading."""
    names: tuple[Writing, ...]
    """None: nobody is named."""
    id: str
    rows: tuple[Row, ...]


def by_patient(studies: Sequence[StudyView], language: Language, now: float, proving: Collection[str]) -> list[Patient]:
    """Group ``studies`` by patient, whoever something came for last first.

    ``now`` is wall time; destinations ``proving`` are asked for proof.
    """
    groups: dict[tuple[str, str], list[StudyView]] = {}
    for study in studies:
        # who has neither is nobody in particular, and not the same nobody twice
        nobody = not (study.patient_id or study.patient_name)
        key = (study.patient_id, f"\0{study.id}" if nobody else study.patient_name)
        groups.setdefault(key, []).append(study)
    return [
        Patient(
            key=f"patient-{group[0].id}",
            names=writings(group[0].patient_name),
            id=shown(group[0].patient_id),
            rows=tuple(row(study, language, now, proving) for study in group),
        )
        for group in groups.values()
    ]


def row(study: StudyView, language: Language, now: float, proving: Collection[str]) -> Row:
    """Say how ``study`` stands."""
    modalities = "/".join(shown(modality) for modality in study.modalities)
    return Row(
        id=study.id,
        title=shown(study.description) or language.gettext("Study without a description"),
        modalities=modalities,
        date=shown(day(study.date)),
        accession=shown(study.accession),
        received=study.received,
        state=_state(study, language, now),
        late=study.reopened,
        complete=study.complete,
        doubt=not study.clock_trusted,
        answer=answer(study, language),
        places=tuple(_place(d, proving) for d in study.destinations),
    )


def proving(config: Config) -> frozenset[str]:
    """Return the destinations that are asked for a proof of what they accepted."""
    return frozenset(d.name for d in config.destination if d.verify != "none")


def title(study: StudyView, language: Language) -> str:
    """Name the patient in one line."""
    return plain(study.patient_name) or shown(study.patient_id) or language.gettext("No name")


def shown(text: str) -> str:
    """Write what an object says of itself so that nothing in it controls anything, and not without end."""
    clean = printable(text).strip()
    return clean if len(clean) <= _MOST else f"{clean[:_MOST]}…"


def _place(d: DestinationView, proving: Collection[str]) -> Place:
    return Place(
        name=d.destination,
        received=d.received,
        delivered=d.accepted + d.verified,
        verified=d.verified,
        proves=bool(d.verified or d.unproven or d.destination in proving),
    )


def _state(study: StudyView, language: Language, now: float) -> str:
    at = moment(iso(study.last_received), now)
    match study.complete, study.reopened:
        case True, False:
            return language.gettext("Complete: nothing new since %(time)s.", time=at)
        case True, True:
            return language.gettext("Complete again: images came late, the last at %(time)s.", time=at)
        case False, True:
            return language.gettext("Reopened: an image came late, at %(time)s. More may come.", time=at)
        case _:
            return language.gettext("Images are still coming, the last at %(time)s.", time=at)
