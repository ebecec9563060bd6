"""What of a study is not through, in words: how much, why, and what may be done about it."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from edge.clock import iso
from edge.model import PRIORITIES, STAT
from edge.snapshot import Destination
from edge.states import DeliveryState
from edge.store import Reading
from edge.store.stuck import Group, StuckRow, groups, rows
from edge.web.language import Language
from edge.web.page import N_
from edge.web.studies import shown
from edge.web.studies_acts import Act, offered
from edge.web.words import moment

FEW: Final = 5
"""Images of a group that are shown with it."""
_S: Final = DeliveryState
_WORDS: Final[dict[DeliveryState, str]] = {
    _S.HELD: N_("Held: a person decides"),
    _S.QUEUED: N_("Waiting to be sent"),
    _S.ACCEPTED: N_("Accepted, waiting for the proof"),
    _S.DECLINED: N_("Not taken by the destination"),
    _S.CANCELLED: N_("Given up"),
}
_TONES: Final[dict[DeliveryState, str]] = {
    _S.HELD: "no",
    _S.QUEUED: "wait",
    _S.ACCEPTED: "wait",
    _S.DECLINED: "no",
    _S.CANCELLED: "no",
}

_DECIDED: Final = {
    "HELD": N_("Held back by a person: %(why)s"),
    "RELEASED": N_("Released by a person: %(why)s"),
    "CANCELLED": N_("Given up by a person: %(why)s"),
    "RESEND": N_("To be sent again, as a person decided: %(why)s"),
}
"""Codes of what people decided; the detail is why."""


class Why(msgspec.Struct, frozen=True):
    """One reason, and of how many."""

    text: str
    code: str
    count: int


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One image at one destination."""

    id: int
    """Of the delivery."""
    name: str
    uid: str
    why: str
    code: str
    attempts: str
    changed: str
    stat: bool
    acts: tuple[Act, ...]


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """Images of a study that are in one state at one destination."""

    key: str
    """An id for the page."""
    destination: str
    state: DeliveryState
    word: str
    tone: str
    count: int
    since: str
    stat: bool
    whys: tuple[Why, ...]
    more: int
    """Reasons that are not shown."""
    acts: tuple[Act, ...]
    items: tuple[Item, ...]


class Open(msgspec.Struct, frozen=True):
    """What the store says of it: groups, each with its first deliveries."""

    groups: tuple[tuple[Group, tuple[StuckRow, ...]], ...]


async def look(reading: Reading, study: int) -> Open:
    """Ask what is not through of ``study``. Raises `StoreError`."""
    found = await groups(reading, study)
    return Open(
        tuple([(group, tuple(await rows(reading, study, group.destination, group.state, most=FEW))) for group in found])
    )


def told(found: Open, destinations: Iterable[Destination], language: Language, now: float) -> list[Stuck]:
    """Say it, what a person must decide first."""
    troubles = {d.name: trouble(d, language) for d in destinations}
    order = list(_WORDS)
    sorted_ = sorted(found.groups, key=lambda one: (order.index(one[0].state), one[0].destination))
    return [_stuck(group, first, troubles, language, now) for group, first in sorted_]


def word(state: DeliveryState, language: Language) -> str:
    """Say ``state``."""
    return language.say(_WORDS[state])


def items(found: Sequence[StuckRow], troubles: dict[str, str], language: Language, now: float) -> tuple[Item, ...]:
    """Say single deliveries."""
    return tuple(_item(one, troubles, language, now) for one in found)


def trouble(destination: Destination, language: Language) -> str:
    """Say why nothing goes to ``destination`` at all; empty where it does."""
    if destination.state == "paused":
        return language.gettext("Somebody has paused this destination.")
    if destination.problem is not None:
        return language.say(destination.problem.text)
    return ""


def _stuck(group: Group, first: Sequence[StuckRow], troubles: dict[str, str], language: Language, now: float) -> Stuck:
    state, problem = group.state, troubles.get(group.destination, "")
    whys = [
        Why(_why(state, one.code, one.detail, problem, language), _code(one.code), one.count) for one in group.reasons
    ]
    return Stuck(
        key=f"{state}-{hashlib.sha256(group.destination.encode()).hexdigest()[:12]}",
        destination=group.destination,
        state=state,
        word=word(state, language),
        tone=_TONES[state],
        count=group.count,
        since=moment(iso(group.since), now),
        stat=group.stat and state is _S.QUEUED,
        whys=tuple(whys),
        more=group.different - len(whys),
        acts=offered(state, group.destination),
        items=items(first, troubles, language, now),
    )


def _item(one: StuckRow, troubles: dict[str, str], language: Language, now: float) -> Item:
    why = _why(one.state, one.code, one.detail, troubles.get(one.destination, ""), language)
    if one.behind:
        why = language.gettext("Waits until another version of the same image is through.")
    return Item(
        id=one.id,
        name=_name(one, language),
        uid=shown(one.sop_instance_uid),
        why=why,
        code=_code(one.code),
        attempts=language.ngettext("%(n)s attempt", "%(n)s attempts", one.attempts) if one.attempts else "",
        changed=moment(iso(one.changed_at), now),
        stat=one.state is _S.QUEUED and one.priority == PRIORITIES[STAT],
        acts=offered(one.state, one.destination, one.id),
    )


def _name(one: StuckRow, language: Language) -> str:
    image, series = shown(one.instance_number), shown(one.series_number)
    if image and series:
        return language.gettext("Series %(series)s, image %(image)s", series=series, image=image)
    if image:
        return language.gettext("Image %(image)s", image=image)
    return language.gettext("Object %(n)s of this box", n=one.instance)


def _code(code: str) -> str:
    """The code of an answer, for IT; what a person decided is said in words."""
    return "" if code in _DECIDED else shown(code)


def _why(state: DeliveryState, code: str, detail: str, problem: str, language: Language) -> str:
    """What stands in the way: what the peer or a person said, else what is known of the destination."""
    if state is _S.QUEUED and problem and (code in _DECIDED or not detail):
        return problem
    if code in _DECIDED:
        return language.say(_DECIDED[code]) % {"why": shown(detail) or language.gettext("no reason given")}
    if detail:
        return shown(language.say(detail))
    if state is _S.QUEUED:
        return language.gettext("Waits for its turn.")
    if state is _S.ACCEPTED:
        return language.gettext("The destination is still to prove that it has it.")
    return language.gettext("The destination answered %(code)s.", code=shown(code))
