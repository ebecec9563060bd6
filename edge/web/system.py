"""The machine in words: what the page *System* says of clock, power, heat, memory and disks. Pure.

What the machine does not tell is said to be not told: nobody shall take silence for health.
"""

import time
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from edge.status.machine import Machine
from edge.status.medium import Medium
from edge.web.overview import advised, room
from edge.web.page import Glance
from edge.web.words import size, span

State = Literal["", "good", "care", "bad"]

_WARM: Final = 70.0
_HOT: Final = 80.0
"""Degrees Celsius from which a Raspberry Pi slows down."""
_TIGHT: Final = 0.1
_WORN: Final = 80
_WORN_OUT: Final = 100
_MOST_SENSORS: Final = 4


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is so. Its state is never told by its colour alone: ``value`` says it."""

    word: str
    value: str
    note: str = ""
    state: State = ""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Facts that belong together."""

    name: str
    title: str
    icon: str
    facts: list[Fact]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A finding with all that is known of it."""

    code: str
    component: str
    severity: str
    word: str
    text: str
    advice: str
    since: str
    times: str


def found(glance: Glance) -> list[Finding]:
    """Every open finding."""
    return [
        Finding(
            code=told.code,
            component=finding.component,
            severity=told.severity,
            word=told.word,
            text=told.text,
            advice=told.advice,
            since=told.since,
            times=told.times,
        )
        for told, finding in zip(advised(glance), glance.snapshot.findings, strict=True)
    ]


def groups(glance: Glance, machine: Machine, *, power: bool | None) -> list[Group]:
    """Everything about the machine; ``power``: whether there was no under-voltage lately, None: not told."""
    _ = glance.language.gettext
    return [
        Group(name="clock", title=_("Clock"), icon="clock", facts=list(_clock(glance, machine))),
        Group(name="power", title=_("Power and heat"), icon="pulse", facts=list(_power(glance, machine, good=power))),
        Group(name="storage", title=_("Storage"), icon="disk", facts=list(_storage(glance, machine))),
        Group(name="machine", title=_("Machine"), icon="system", facts=list(_machine(glance, machine))),
    ]


def _clock(glance: Glance, machine: Machine) -> Iterator[Fact]:
    _ = glance.language.gettext
    local, kept = time.localtime(glance.now), machine.time
    now = time.strftime("%Y-%m-%d %H:%M", local)
    yield Fact(word=_("Time"), value=now, note=kept.zone or time.strftime("%Z", local))
    if glance.snapshot.clock.trusted:
        yield Fact(word=_("Trusted"), value=_("Yes"), state="good")
    else:
        yield Fact(word=_("Trusted"), value=_("No: it shows a time that cannot be"), state="bad")
    if kept.synchronised:
        by = kept.keeper or _("a time server")
        yield Fact(word=_("Kept right by"), value=by, state="good")
    elif kept.keeper:
        yield Fact(word=_("Kept right by"), value=_("%(name)s, which has no time yet", name=kept.keeper), state="care")
    else:
        yield Fact(word=_("Kept right by"), value=_("Nobody: no time server is known to answer"), state="care")
    without = _("None: after a power cut the time is unknown until a time server answers")
    yield Fact(word=_("Battery clock"), value=kept.battery or without)


def _power(glance: Glance, machine: Machine, *, good: bool | None) -> Iterator[Fact]:
    _, held = glance.language.gettext, machine.throttling
    weak = _("Too low: use the power supply of the maker")
    if good is None and held is None:
        yield Fact(word=_("Voltage"), value=_("Not told by this machine"))
    elif good is False or (held is not None and held.low_voltage):
        yield Fact(word=_("Voltage"), value=weak, note=_("now or within the last day"), state="bad")
    elif held is not None and held.was_low_voltage:
        yield Fact(word=_("Voltage"), value=_("Enough"), note=_("it was too low since the start"), state="care")
    else:
        yield Fact(word=_("Voltage"), value=_("Enough"), state="good")
    if held is not None and (held.slowed or held.was_slowed):
        since = _("Slowed down now") if held.slowed else _("Slowed down since the start")
        yield Fact(word=_("Processor"), value=since, note=_("by heat or by the supply"), state="care")
    if not machine.temperatures:
        yield Fact(word=_("Temperature"), value=_("Not told by this machine"))
    for one in machine.temperatures[:_MOST_SENSORS]:
        state: State = "bad" if one.celsius >= _HOT else "care" if one.celsius >= _WARM else "good"
        note = _("too hot: give it air") if state == "bad" else _("warm") if state == "care" else ""
        yield Fact(word=one.name, value=f"{one.celsius:.0f} °C", note=note, state=state)


def _storage(glance: Glance, machine: Machine) -> Iterator[Fact]:
    _, storage, left = glance.language.gettext, glance.snapshot.storage, room(glance)
    short: dict[str, State] = {"no": "good", "soon": "care", "now": "bad"}
    yield Fact(word=_("Room for images"), value=left.headline, note=left.detail, state=short[left.short])
    yield Fact(word=_("Free"), value=size(storage.free_bytes), note=_("of which the reserve is never used for images"))
    yield Fact(word=_("Reserve"), value=size(storage.reserve_bytes))
    if not any(one.holds for one in machine.media):
        yield Fact(word=_("Disk"), value=_("Not told by this machine"))
    for one in machine.media:
        yield from _disk(glance, one)


def _disk(glance: Glance, one: Medium) -> Iterator[Fact]:
    _ = glance.language.gettext
    kinds = {
        "card": _("SD card"),
        "emmc": _("Built-in memory (eMMC)"),
        "nvme": _("SSD (NVMe)"),
        "ssd": _("SSD"),
        "disk": _("Disk"),
    }
    made = _("made %(date)s", date=one.made) if one.made else ""
    about = " · ".join(filter(None, (one.model, size(one.bytes), made, _("holds the images") if one.holds else "")))
    if one.read_only:
        value, state = _("Takes no more writes"), "bad"
    else:
        value, state = one.device, ""
    yield Fact(word=kinds[one.kind], value=value, note=about, state="bad" if state else "")
    yield _wear(glance, one)
    if one.written_ever is not None:
        since = "" if one.written is None else _("%(size)s since the start", size=size(one.written))
        yield Fact(word=_("Written to it"), value=size(one.written_ever), note=since)
    if one.errors:
        value = glance.language.ngettext("%(n)s error", "%(n)s errors", one.errors)
        yield Fact(word=_("File system"), value=value, note=_("have the disk checked"), state="bad")


def _wear(glance: Glance, one: Medium) -> Fact:
    _ = glance.language.gettext
    spares = {
        "": "",
        "normal": _("enough spare blocks"),
        "low": _("few spare blocks: have it replaced"),
        "used up": _("hardly any spare blocks: have it replaced now"),
    }
    spare, word = spares[one.spare], _("Wear")
    worse: State = "bad" if one.spare == "used up" else "care" if one.spare == "low" else ""
    if one.life_used is None:
        untold = {
            "card": _("Not told by this card, as by none"),
            "emmc": _("Not told by this memory"),
            "nvme": _("Told only to the administrator: smartctl"),
            "ssd": _("Told only to the administrator: smartctl"),
            "disk": _("Not told by this disk"),
        }
        return Fact(word=word, value=untold[one.kind], note=spare, state=worse)
    low, high = one.life_used
    if low >= _WORN_OUT:
        return Fact(word=word, value=_("More than it was made for: have it replaced"), note=spare, state="bad")
    value = _("%(low)s to %(high)s %% of its life used", low=low, high=high)
    return Fact(word=word, value=value, note=spare, state=worse or ("care" if high > _WORN else "good"))


def _machine(glance: Glance, machine: Machine) -> Iterator[Fact]:
    _, memory = glance.language.gettext, machine.memory
    unknown = _("Not told by this machine")
    if machine.model:
        yield Fact(word=_("Model"), value=machine.model)
    if machine.uptime is None:
        yield Fact(word=_("Running for"), value=unknown)
    else:
        yield Fact(word=_("Running for"), value=span(machine.uptime, glance.language))
    if memory is None:
        yield Fact(word=_("Memory"), value=unknown)
    else:
        tight = memory.available < _TIGHT * memory.total
        free = _("%(free)s of %(total)s free", free=size(memory.available), total=size(memory.total))
        own = "" if memory.own is None else _("dicom-edge holds %(size)s", size=size(memory.own))
        yield Fact(word=_("Memory"), value=free, note=own, state="care" if tight else "good")
    if machine.load is not None:
        yield Fact(word=_("Load"), value=f"{machine.load:.1f}", note=_("programs wanting a processor, in a minute"))
