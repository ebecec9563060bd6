"""Who sends, in words: each modality of the configuration, and strangers with what would let them in. Pure."""

import hashlib
from typing import Final

import msgspec

from edge.config import Modality
from edge.snapshot import ModalityStatus
from edge.web.language import Language
from edge.web.page import Glance
from edge.web.words import moment

MOST: Final = 16
"""Strangers that are shown."""
_LONGEST_TITLE: Final = 16
_OTHER_NAME: Final = "it calls this box by another name"
_NO_ROOM: Final = "this box takes no images now"
"""Reasons as the listener words them; any other has the general advice."""


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """A modality, or a stranger, whose name is empty."""

    id: str
    """The same as long as it is the same sender; for ids in the page."""
    name: str
    title: str
    address: str
    state: str
    """As in the class ``state-…``; with its icon and word."""
    icon: str
    word: str
    heard: str
    """When it was heard last; empty: never."""
    image: str
    refused: str
    because: str
    advice: str
    entry: str
    """What would make a stranger known, for the configuration; empty where nothing would."""


def senders(glance: Glance) -> list[Sender]:
    """Every modality of the configuration."""
    silent = {f.component for f in glance.snapshot.findings if f.code == "MODALITY_SILENT"}
    return [
        _known(one, glance, silent=f"modality.{one.name}" in silent) for one in glance.snapshot.modalities if one.name
    ]


def strangers(glance: Glance) -> tuple[list[Sender], int]:
    """Return who else called, the last first, and how many more there are than are shown."""
    found = [one for one in reversed(glance.snapshot.modalities) if not one.name]
    return [_stranger(one, glance) for one in found[:MOST]], max(0, len(found) - MOST)


def _known(one: ModalityStatus, glance: Glance, *, silent: bool) -> Sender:
    language = glance.language
    if one.last_heard_at is None and one.refused:
        look = ("no", "down", language.gettext("Refused"))
    elif one.last_heard_at is None:
        look = ("wait", "clock", language.gettext("Never heard of"))
    elif silent:
        look = ("wait", "warning", language.gettext("Silent for long"))
    else:
        look = ("yes", "up", language.gettext("Heard"))
    advice = ""
    if one.refused:
        advice = _advice(one, glance) or language.gettext("Check the AE titles on the modality.")
    elif one.last_heard_at is None:
        advice = language.gettext("Switch it on, and look there for the AE title, address and port of this box.")
    return _sender(one, glance, look, advice, "")


def _stranger(one: ModalityStatus, glance: Glance) -> Sender:
    language = glance.language
    legal, advice = _legal(one.ae_title), ""
    if one.refused:
        look, advice = ("no", "down", language.gettext("Refused")), _advice(one, glance)
    else:
        look = ("wait", "info", language.gettext("Let in, though unknown"))
    if not advice and not legal:
        advice = language.gettext("Its AE title is none that may be configured: have it corrected at the sender.")
    elif not advice and one.refused:
        advice = language.gettext("If it is one of yours, IT makes it known to this box.")
    elif not advice:
        advice = language.gettext("This box takes images from anyone. If it is one of yours, IT gives it a name here.")
    # who calls us wrongly is refused however well it is known
    wanted = legal and one.refused_because not in {_OTHER_NAME, _NO_ROOM} and _namesake(one, glance) is None
    return _sender(one, glance, look, advice, entry(one) if wanted else "")


def _sender(one: ModalityStatus, glance: Glance, look: tuple[str, str, str], advice: str, configured: str) -> Sender:
    language, (state, icon, word) = glance.language, look
    refused = ""
    if one.refused:
        refused = language.ngettext(
            "Refused %(n)s time since the start.", "Refused %(n)s times since the start.", one.refused
        )
    return Sender(
        id=hashlib.sha256(f"{one.name}\n{one.ae_title}\n{one.address}".encode()).hexdigest()[:12],
        name=one.name,
        title=one.ae_title,
        address=one.address,
        state=state,
        icon=icon,
        word=word,
        heard="" if one.last_heard_at is None else moment(one.last_heard_at, glance.now),
        image="" if one.last_object_at is None else moment(one.last_object_at, glance.now),
        refused=refused,
        because=_because(one, language),
        advice=advice,
        entry=configured,
    )


def _because(one: ModalityStatus, language: Language) -> str:
    if not one.refused_because:
        return ""
    return language.gettext("Last reason: %(why)s.", why=language.say(one.refused_because))


def _advice(one: ModalityStatus, glance: Glance) -> str:
    """What to do for who was refused; empty: nothing special."""
    language, titles = glance.language, ", ".join(glance.box.config.receive.titles)
    if one.refused_because == _OTHER_NAME:
        return language.gettext("At the sender, write as the called AE title: %(titles)s.", titles=titles)
    if one.refused_because == _NO_ROOM:
        return language.gettext("Keep the images on the modality; the page Now says why.")
    namesake = _namesake(one, glance)
    if namesake is not None and not one.name:
        return language.gettext(
            "%(name)s has this AE title and is to call from %(address)s. If it has moved, IT corrects its address.",
            name=namesake.name,
            address=namesake.address,
        )
    return ""


def _namesake(one: ModalityStatus, glance: Glance) -> Modality | None:
    """Return the modality that has its title and another address."""
    found = (m for m in glance.box.config.modality if m.ae_title == one.ae_title and m.address is not None)
    return next(found, None)


def _legal(title: str) -> bool:
    """Whether ``title`` may stand in the configuration."""
    plain = title.isascii() and title.isprintable() and "\\" not in title
    return plain and 0 < len(title.strip(" ")) <= _LONGEST_TITLE


def entry(one: ModalityStatus) -> str:
    """Write what makes ``one`` known, as the configuration wants it (TOML)."""
    lines = (("name", one.ae_title), ("ae_title", one.ae_title), ("address", one.address))
    return "\n".join(("[[modality]]", *(f"{key} = {_quoted(value.strip())}" for key, value in lines if value)))


def _quoted(text: str) -> str:
    """Write a basic string of TOML; ``text`` has no control character and no backslash."""
    return '"' + text.replace('"', '\\"') + '"'
