"""The answer to "safe to delete from the scanner?" in the reader's language; `edge.safety` alone decides and says it.

Here it only gets a tone, in which a page shows it, and that tone's word.
"""

from typing import Final, Literal

import msgspec

from edge.safety import Code, StudyView, safe_to_delete
from edge.web.language import Language
from edge.web.page import N_

Tone = Literal["yes", "compare", "wait", "no"]

_TONES: Final[dict[Code, Tone]] = {
    "NAMED": "yes",
    "RECEIVED": "compare",
    "RECEIVING": "wait",
    "WAITING": "wait",
    "UNPROVEN": "wait",
    "LOST": "no",
    "HELD": "no",
    "REFUSED": "no",
    "NO_DESTINATION": "no",
}
_WORDS: Final[dict[Tone, str]] = {
    "yes": N_("Safe to delete: yes"),
    "compare": N_("Safe to delete: compare first"),
    "wait": N_("Safe to delete: not yet"),
    "no": N_("Safe to delete: no"),
}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown."""

    tone: Tone
    """Also the name of its picture."""
    word: str
    text: str
    advice: str


def answer(study: StudyView, language: Language) -> Answer:
    """Say whether ``study`` may be deleted from the scanner."""
    safety = safe_to_delete(study)
    tone = _TONES[safety.code]
    return Answer(
        tone=tone,
        word=language.say(_WORDS[tone]),
        text=language.say(safety.text),
        advice=language.say(safety.advice),
    )
