"""What may be done about what is not through, where it is offered, and what is said when it is done."""

from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl, urlencode

import msgspec

from edge.findings import printable
from edge.states import DeliveryState
from edge.store import Choice
from edge.web.language import Language
from edge.web.page import N_

_S: Final = DeliveryState
_OFFERED: Final[dict[DeliveryState, tuple[str, ...]]] = {
    _S.QUEUED: ("retry", "stat", "hold", "cancel"),
    _S.HELD: ("release", "cancel"),
    _S.ACCEPTED: ("cancel",),
    _S.CANCELLED: ("resend",),
    _S.DECLINED: ("resend",),
}
_LABELS: Final = {
    "retry": N_("Send now"),
    "stat": N_("Before all others (STAT)"),
    "hold": N_("Hold back…"),
    "release": N_("Release…"),
    "cancel": N_("Give up…"),
    "resend": N_("Send again"),
}
ASKED: Final = frozenset({"hold", "release", "cancel"})
"""What is asked about before it is done."""
REASONED: Final = frozenset({"release", "cancel"})
"""What wants a reason."""
_MOST_REASON: Final = 300
"""Characters of a reason."""
_HIGHEST: Final = (1 << 63) - 1
"""Number of a delivery."""
_FIELDS: Final = ("verb", "destination", "state", "delivery")


class UnknownActError(ValueError):
    """What a form says is nothing that can be done."""


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do about some deliveries of a study."""

    verb: str
    destination: str = ""
    """Empty: every one."""
    state: DeliveryState | None = None
    delivery: int | None = None

    @property
    def asked(self) -> bool:
        """Whether it is asked about before it is done."""
        return self.verb in ASKED

    @property
    def reasoned(self) -> bool:
        """Whether it wants a reason."""
        return self.verb in REASONED

    @property
    def label(self) -> str:
        """What stands on its button, to be said in the reader's language."""
        return _LABELS[self.verb]

    def __str__(self) -> str:
        """Write it for an address or a form, for `act` to read."""
        said = {name: "" if (value := getattr(self, name)) is None else str(value) for name in _FIELDS}
        return urlencode({name: value for name, value in said.items() if value})

    def choice(self, study: int) -> Choice:
        """Say it to the store."""
        return Choice(study=study, destination=self.destination, state=self.state, delivery=self.delivery)


def act(text: str) -> Act:
    """Read what `Act` writes. Raises `UnknownActError`."""
    try:
        fields = dict(parse_qsl(text, max_num_fields=len(_FIELDS)))
        state = DeliveryState(fields["state"]) if fields.get("state") else None
        delivery = int(fields["delivery"]) if fields.get("delivery") else None
    except ValueError as e:
        raise UnknownActError(text) from e
    verb = fields.get("verb", "")
    # what was delivered long ago is not sent again by a form that was made up
    if verb not in _LABELS or fields.keys() - set(_FIELDS) or (state and verb not in _OFFERED.get(state, ())):
        raise UnknownActError(text)
    if (verb == "resend" and state is None) or not 0 <= (delivery or 0) <= _HIGHEST:
        raise UnknownActError(text)
    return Act(verb=verb, destination=fields.get("destination", ""), state=state, delivery=delivery)


def offered(state: DeliveryState, destination: str = "", delivery: int | None = None) -> tuple[Act, ...]:
    """Return what may be done about deliveries in ``state``."""
    return tuple(
        Act(verb=verb, destination=destination, state=state, delivery=delivery) for verb in _OFFERED.get(state, ())
    )


def for_all(states: Iterable[DeliveryState]) -> tuple[Act, ...]:
    """Return what may be done about a whole study some of which is in ``states``, and goes to several destinations."""
    return offered(DeliveryState.QUEUED) if DeliveryState.QUEUED in set(states) else ()


def reason(text: str) -> str:
    """Return a reason as it goes on the trail; empty where none was given."""
    return printable(" ".join(text.split()), _MOST_REASON)


def done(what: Act, number: int, language: Language) -> str:
    """Say what became of it; ``number`` deliveries were concerned."""
    if not number:
        return language.gettext("Nothing was changed: there is nothing left to which this applies.")
    said = _done(what.verb, number, language)
    if what.destination:
        return f"{what.destination}: {said}"
    return said if what.delivery is not None else f"{said} {_each(language)}"


def _each(language: Language) -> str:
    return language.gettext("Each image counts once for each destination.")


def _done(verb: str, n: int, language: Language) -> str:
    say = language.ngettext
    match verb:
        case "retry":
            return say("%(n)s image is sent as soon as possible.", "%(n)s images are sent as soon as possible.", n)
        case "stat":
            return say("%(n)s image goes before all others.", "%(n)s images go before all others.", n)
        case "hold":
            return say("%(n)s image is held back.", "%(n)s images are held back.", n)
        case "release":
            return say("%(n)s image is released and will be sent.", "%(n)s images are released and will be sent.", n)
        case "cancel":
            return say("%(n)s image is given up.", "%(n)s images are given up.", n)
        case _:
            return say("%(n)s image is sent again.", "%(n)s images are sent again.", n)
