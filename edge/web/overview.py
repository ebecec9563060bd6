"""The snapshot in words: what the page *Now* says of the box, as structs for its templates. Pure.

Every sentence is whole in itself, so that it can be translated; nothing is said that the snapshot does not know.
"""

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from edge.snapshot import Destination, ImportStatus, Light, Snapshot
from edge.web.page import Glance
from edge.web.words import moment, rate, size, span

Tone = Literal["green", "yellow", "red", "blue", "white", "identify"]
_TONES: Final[dict[str, Tone]] = {"G": "green", "Y": "yellow", "R": "red", "B": "blue", "W": "white", "I": "identify"}
_PLENTY: Final = 60 * 86_400
"""Seconds beyond which nobody needs to know for how long there is room."""
_SHORT: Final = 2 * 86_400
_VERY_SHORT: Final = 8 * 3600
_NAMED: Final = 2
"""Destinations named in the sentence; more are on the list below it."""
_SLOW: Final = 1.0
"""Bytes a second below which nothing is on its way."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A destination."""

    name: str
    state: Literal["up", "busy", "down", "paused"]
    word: str
    waiting: int
    held: int
    delivered: int
    pace: str
    """How fast, and until when; empty where nothing moves."""
    last: str
    """When it last took something; empty where that was not since the start."""
    problem: str
    limits: str


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """Room on the disk, as time."""

    headline: str
    detail: str
    short: Literal["no", "soon", "now"]


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is read: a medium, an import, a watched folder."""

    name: str
    text: str
    done: int | None
    """Of a hundred; None: it does not end."""
    icon: str


class Advised(msgspec.Struct, frozen=True, kw_only=True):
    """A finding."""

    code: str
    severity: str
    word: str
    text: str
    advice: str
    since: str
    times: str


def tone(light: Light) -> Tone:
    """The family of a light, by the letter of its code."""
    return _TONES.get(light.code[:1], "white")


def told(glance: Glance) -> list[str]:
    """The sentences below the light's own: what does not answer, what waits, what comes in."""
    return list(_told(glance))


def _told(glance: Glance) -> Iterator[str]:
    snapshot, language = glance.snapshot, glance.language
    down = [d for d in snapshot.destinations if d.state == "down"]
    for destination in down[:_NAMED]:
        since = _down_since(snapshot, destination.name)
        if since:
            when = moment(since, glance.now)
            yield language.gettext("%(name)s unreachable since %(time)s.", name=destination.name, time=when)
        else:
            yield language.gettext("%(name)s unreachable.", name=destination.name)
    if len(down) > _NAMED:
        more = len(down) - _NAMED
        yield language.ngettext("%(n)s more destination unreachable.", "%(n)s more destinations unreachable.", more)
    waiting = snapshot.queue.instances
    if waiting:
        yield _waiting(glance, waiting, back=bool(down))
    elif snapshot.intake.last_at is not None:
        yield language.gettext("Last image received %(time)s.", time=moment(snapshot.intake.last_at, glance.now))


def _waiting(glance: Glance, waiting: int, *, back: bool) -> str:
    snapshot, language = glance.snapshot, glance.language
    spans = [d.drain_seconds for d in snapshot.destinations if d.drain_seconds is not None and d.state == "up"]
    if back:
        estimate = _once_back(glance)
        if estimate is None:
            return language.ngettext("%(n)s image waiting.", "%(n)s images waiting.", waiting)
        return language.ngettext(
            "%(n)s image waiting, about %(span)s once it is back.",
            "%(n)s images waiting, about %(span)s once it is back.",
            waiting,
            span=span(estimate, language),
        )
    if spans:
        return language.ngettext(
            "%(n)s image on its way, about %(span)s.",
            "%(n)s images on their way, about %(span)s.",
            waiting,
            span=span(max(spans), language),
        )
    return language.ngettext("%(n)s image waiting.", "%(n)s images waiting.", waiting)


def _once_back(glance: Glance) -> float | None:
    """Seconds that what waits would take, at the pace at which it went when it last went; None: that was not seen."""
    slowest: float | None = None
    for destination in glance.snapshot.destinations:
        pace = glance.paces.get(destination.name, 0.0)
        if destination.state != "down" or pace < _SLOW:
            continue
        share = min(1.0, destination.queued / max(1, glance.snapshot.queue.instances))
        slowest = max(slowest or 0.0, glance.snapshot.queue.bytes * share / pace)
    return slowest


def _down_since(snapshot: Snapshot, name: str) -> str:
    component = f"destination.{name}"
    return next((f.since for f in snapshot.findings if (f.code, f.component) == ("DESTINATION_DOWN", component)), "")


def places(glance: Glance) -> list[Place]:
    """Every destination."""
    return [_place(glance, destination) for destination in glance.snapshot.destinations]


def _place(glance: Glance, d: Destination) -> Place:
    language = glance.language
    moving = d.state == "up" and (d.sending > 0 or d.rate_bytes_per_second >= _SLOW)
    words = {
        "up": language.gettext("Ready"),
        "busy": language.gettext("Sending"),
        "down": language.gettext("Unreachable"),
        "paused": language.gettext("Paused"),
    }
    state: Literal["up", "busy", "down", "paused"] = "busy" if moving else d.state
    return Place(
        name=d.name,
        state=state,
        word=words[state],
        waiting=d.queued + d.sending,
        held=d.held,
        delivered=d.accepted + d.verified,
        pace=_pace(glance, d),
        last="" if d.last_success_at is None else moment(d.last_success_at, glance.now),
        problem=_problem(glance, d),
        limits=_limits(glance, d),
    )


def _pace(glance: Glance, d: Destination) -> str:
    if d.state != "up" or d.rate_bytes_per_second < _SLOW:
        return ""
    if d.drain_seconds is None:
        return rate(d.rate_bytes_per_second)
    left = span(d.drain_seconds, glance.language)
    return glance.language.gettext("%(rate)s, about %(span)s left", rate=rate(d.rate_bytes_per_second), span=left)


def _problem(glance: Glance, d: Destination) -> str:
    if d.problem is None:
        return ""
    if d.problem.text:
        return glance.language.say(d.problem.text)
    return glance.language.gettext("It does not take images now. Log in to see why.")


def _limits(glance: Glance, d: Destination) -> str:
    if d.hours is not None and not d.hours_open:
        return glance.language.gettext("Background images wait for the hours %(hours)s.", hours=d.hours)
    if d.rate_limit_bytes_per_second is not None:
        return glance.language.gettext("At most %(rate)s, as configured.", rate=rate(d.rate_limit_bytes_per_second))
    return ""


def room(glance: Glance) -> Room:
    """How long the disk lasts."""
    storage, language = glance.snapshot.storage, glance.language
    usable = max(0, storage.free_bytes - storage.reserve_bytes)
    detail = language.gettext("%(size)s free for images", size=size(usable))
    seconds = storage.autonomy_seconds
    if not usable:
        return Room(headline=language.gettext("No room"), detail=detail, short="now")
    if seconds is None:
        return Room(headline=size(usable), detail=language.gettext("free for images"), short="no")
    if seconds >= _PLENTY:
        return Room(headline=language.gettext("More than 60 days"), detail=detail, short="no")
    short: Literal["no", "soon", "now"] = "now" if seconds < _VERY_SHORT else "soon" if seconds < _SHORT else "no"
    return Room(headline=span(seconds, language), detail=detail, short=short)


def work(glance: Glance) -> list[Work]:
    """What is read now, and the folders that are watched."""
    language = glance.language
    found = [_import(glance, one) for one in glance.snapshot.imports]
    for watch in glance.snapshot.watches:
        text = language.ngettext("%(n)s image taken", "%(n)s images taken", watch.taken)
        if watch.waiting:
            text = language.ngettext("%(n)s file not finished yet", "%(n)s files not finished yet", watch.waiting)
        if watch.left:
            text = language.ngettext("%(n)s file left alone", "%(n)s files left alone", watch.left)
        found.append(Work(name=watch.name, text=text, done=None, icon="folder"))
    return found


def _import(glance: Glance, one: ImportStatus) -> Work:
    language = glance.language
    total, done = (one.bytes, one.bytes_done) if one.bytes else (one.files, one.files_done)
    percent = 100 if one.over else min(99, done * 100 // total) if total else 0
    if one.over and one.media:
        text = language.gettext("Read: it is safe to remove.")
    elif one.over:
        text = language.gettext("Read.")
    else:
        text = language.gettext("%(done)s of %(files)s files read", done=one.files_done, files=one.files)
    if one.over and one.refused:
        text = language.ngettext("Read; %(n)s file not taken.", "Read; %(n)s files not taken.", one.refused)
    name = one.name or (language.gettext("Medium") if one.media else language.gettext("Import"))
    return Work(name=name, text=text, done=percent, icon="disc" if one.media else "import")


def advised(glance: Glance) -> list[Advised]:
    """Every finding, the worst first."""
    language = glance.language
    words = {
        "error": language.gettext("Fault"),
        "warning": language.gettext("Attention"),
        "info": language.gettext("Note"),
    }
    return [
        Advised(
            code=f.code,
            severity=f.severity,
            word=words.get(f.severity, f.severity),
            text=language.say(f.text),
            advice=language.say(f.advice),
            since=moment(f.since, glance.now),
            times=language.ngettext("%(n)s time", "%(n)s times", f.count) if f.count > 1 else "",
        )
        for f in glance.snapshot.findings
    ]
