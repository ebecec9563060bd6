"""Connection tests in words: each step with what it found, what to do where it failed, and whom to call. Pure."""

from typing import Final, Literal

import msgspec

from edge.clock import iso
from edge.doctor import TITLES, Result, Step
from edge.web.language import Language
from edge.web.page import N_
from edge.web.trials import LONGEST, Trial
from edge.web.words import moment, span

BOX: Final = "box"
BROKER: Final = "broker"
_SLOW: Final = 0.001
"""Seconds from which it is worth saying how long a step took."""

Sign = Literal["good", "care", "bad", "none"]
_SIGNS: Final[dict[Result, Sign]] = {
    Result.OK: "good",
    Result.WARNING: "care",
    Result.FAILED: "bad",
    Result.SKIPPED: "none",
}
_WORDS: Final = {
    Result.OK: N_("Passed"),
    Result.WARNING: N_("Look at this"),
    Result.FAILED: N_("Failed"),
    Result.SKIPPED: N_("Passed over"),
}


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A step that was done."""

    sign: Sign
    word: str
    title: str
    text: str
    took: str
    advice: str
    who: str
    code: str


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """A test: how it stands, and its steps so far."""

    running: bool
    sign: Sign
    headline: str
    when: str
    steps: list[Seen]
    untried: list[str]
    """Names of the steps that had to be left out, because of the one that failed."""


def of_destination(name: str) -> str:
    """What the test of a destination is called: as components of findings are."""
    return f"destination.{name}"


def course(trial: Trial | None, language: Language, now: float) -> Course | None:
    """Say how a test stands; None where there was none."""
    if trial is None:
        return None
    sign, headline = _headline(trial, language)
    return Course(
        running=trial.ended is None,
        sign=sign,
        headline=headline,
        when=moment(iso(trial.began if trial.ended is None else trial.ended), now),
        steps=[_seen(step, language) for step in trial.steps if not step.untried],
        untried=[_title(step, language) for step in trial.steps if step.untried],
    )


def news(name: str, trial: Trial, language: Language) -> str:
    """Say in a sentence how the test of ``name`` stands, for who hears the page."""
    if trial.ended is None:
        return language.gettext("%(name)s is being tested.", name=name)
    return language.gettext("Test of %(name)s: %(result)s", name=name, result=_headline(trial, language)[1])


def _headline(trial: Trial, language: Language) -> tuple[Sign, str]:
    failed = trial.failed
    match trial.state:
        case "running":
            return "none", language.gettext("The test goes on …")
        case "left":
            return "care", language.gettext("The test was ended, because nobody looked any more.")
        case "late":
            longest = span(LONGEST, language)
            return "care", language.gettext("The test was ended, because it took more than %(span)s.", span=longest)
        case "broken":
            return "bad", language.gettext("The test broke off by a fault of this box: send its log to IT.")
        case "done" if failed is not None:
            return "bad", language.gettext("It failed at this step: %(step)s.", step=_title(failed, language))
    doubtful = sum(step.result is Result.WARNING for step in trial.steps)
    if doubtful:
        return "care", language.ngettext(
            "Nothing failed, but look at %(n)s step.", "Nothing failed, but look at %(n)s steps.", doubtful
        )
    return "good", language.gettext("All is well.")


def _seen(step: Step, language: Language) -> Seen:
    return Seen(
        sign=_SIGNS[step.result],
        word=language.say(_WORDS[step.result]),
        title=_title(step, language),
        text=language.say(step.text),
        took=_took(step),
        advice=language.say(step.advice),
        who="" if step.who is None else language.say(step.who.value),
        code=step.code,
    )


def _title(step: Step, language: Language) -> str:
    return language.say(TITLES[step.name])


def _took(step: Step) -> str:
    if step.seconds < _SLOW or step.result is Result.SKIPPED:
        return ""
    return f"{step.seconds:.1f} s" if step.seconds >= 1 else f"{step.seconds * 1000:.0f} ms"
