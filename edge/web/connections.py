"""Where images go, in words: each destination with how it is, what is wrong, whom to call, and its test. Pure."""

from typing import Final

import msgspec

from edge.config import Destination as Configured
from edge.config import DicomwebDestination, DimseDestination, FolderDestination
from edge.doctor import problem
from edge.snapshot import Destination
from edge.web.connections_trials import BOX, BROKER, Course, course, news, of_destination
from edge.web.language import Language
from edge.web.overview import Place, places
from edge.web.page import Glance
from edge.web.words import rate

_JUST: Final = 120.0
"""Seconds for which what a test found is news."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A destination."""

    number: int
    """From 1; for ids in the page."""
    place: Place
    target: str
    """What its test is called."""
    known: bool
    """Whether it is in the configuration: else nothing goes there and nothing can be tested."""
    paused: bool
    """Whether a person paused it, whatever else is wrong."""
    where: str
    proof: str
    advice: str
    who: str
    code: str
    """Of its problem; empty, as the two before it, where there is none."""
    limits: list[str]
    takes: bool
    """Whether what it takes is kept: a PACS is asked, others are not."""
    course: Course | None
    back: str
    """What to do now that a test has just found that it answers again; empty where that is not so."""


def links(glance: Glance) -> list[Link]:
    """Every destination, with its test."""
    configured = {one.name: one for one in glance.box.config.destination}
    shown = zip(glance.snapshot.destinations, places(glance), strict=True)
    return [_link(number, glance, d, place, configured.get(d.name)) for number, (d, place) in enumerate(shown, 1)]


def _link(number: int, glance: Glance, d: Destination, place: Place, configured: Configured | None) -> Link:
    language = glance.language
    trouble = None if d.problem is None else problem(d.problem.code)
    target = of_destination(d.name)
    shown = course(glance.box.trials.of(target), language, glance.now)
    return Link(
        number=number,
        place=place,
        target=target,
        known=configured is not None,
        paused=d.paused or d.state == "paused",
        where="" if configured is None else where(configured, language),
        proof="" if configured is None else _proof(configured, language),
        advice="" if trouble is None else language.say(trouble.advice),
        who="" if trouble is None else language.say(trouble.who.value),
        code="" if d.problem is None else d.problem.code,
        limits=_limits(d, language),
        takes=isinstance(configured, DimseDestination),
        course=shown,
        back=_back(glance, d, target, shown),
    )


def _back(glance: Glance, d: Destination, target: str, shown: Course | None) -> str:
    trial = glance.box.trials.of(target)
    if d.state != "down" or shown is None or shown.sign != "good" or trial is None or trial.ended is None:
        return ""
    if not 0 <= glance.now - trial.ended < _JUST:
        return ""
    if d.paused:
        return glance.language.gettext("It answers, but it is paused: resume it, and images go there again.")
    return glance.language.gettext(
        "It answers again. This box tries it by itself within minutes, or now if you say so."
    )


def where(configured: Configured, language: Language) -> str:
    """Say where a destination is."""
    match configured:
        case DimseDestination(ae_title=title, host=host, port=port, tls=None):
            return language.gettext("%(title)s at %(host)s port %(port)s", title=title, host=host, port=port)
        case DimseDestination(ae_title=title, host=host, port=port):
            return language.gettext("%(title)s at %(host)s port %(port)s, with TLS", title=title, host=host, port=port)
        case DicomwebDestination():
            return configured.url
        case FolderDestination():
            return language.gettext("Folder %(path)s", path=configured.path)


def _proof(configured: Configured, language: Language) -> str:
    if isinstance(configured, FolderDestination):
        return language.gettext("Every file is synced there before it counts as delivered.")
    match configured.verify:
        case "commitment":
            return language.gettext("It proves by storage commitment what it has stored.")
        case "query":
            return language.gettext("A query proves what it has stored.")
        case "commitment-or-query":
            return language.gettext("It proves by storage commitment, or else by a query, what it has stored.")
        case "none":
            return language.gettext("No proof is asked of it: its answer to each image has to do.")


def _limits(d: Destination, language: Language) -> list[str]:
    found = []
    if d.hours is not None and d.hours_open:
        found.append(language.gettext("Background images go within the hours %(hours)s only.", hours=d.hours))
    elif d.hours is not None:
        found.append(language.gettext("Background images wait for the hours %(hours)s.", hours=d.hours))
    if d.rate_limit_bytes_per_second is not None:
        limit = rate(d.rate_limit_bytes_per_second)
        found.append(language.gettext("At most %(rate)s, as configured.", rate=limit))
    return found


def own_tests(glance: Glance) -> tuple[Course | None, Course | None]:
    """Return the tests of the box itself and of the broker."""
    trials = glance.box.trials
    box, broker = (course(trials.of(target), glance.language, glance.now) for target in (BOX, BROKER))
    return box, broker


def latest_news(glance: Glance) -> str:
    """Say how the test that was begun last stands; empty where there was none."""
    every = glance.box.trials.all
    if not every:
        return ""
    target = next(reversed(every))
    return news(name_of(target, glance.language), every[target], glance.language)


def name_of(target: str, language: Language) -> str:
    """What people call what is tested."""
    names = {BOX: language.gettext("this box"), BROKER: language.gettext("the broker")}
    return names.get(target) or target.partition(".")[2]
