"""`edge doctor [DEST]`: the way to each destination step by step, and this box itself, with advice where it fails."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from edge.cli.main import config_option, destination_named, json_option, print_json, read_config, run_async
from edge.clock import Clock, SystemClock, kernel_synchronised
from edge.config import Config, Destination, DicomwebDestination, DimseDestination, FolderDestination
from edge.doctor import TITLES, Result, Step, examine, examine_box, examine_broker
from edge.forward.reach import OWN_TITLE
from edge.keeping.timekeeper import latest
from edge.local import NotRunningError, Request, ask
from edge.phrase import N_, say
from edge.snapshot import Snapshot
from edge.store import StoreError
from edge.translator import translator

_LOOKS: Final = {
    Result.OK: ("ok", "green"),
    Result.WARNING: ("warning", "bold yellow"),
    Result.FAILED: ("FAILED", "bold red"),
    Result.SKIPPED: ("-", "dim"),
}
_MARGIN, _WORD, _NAME = 2, 9, 18
_WIDE: Final = 140
"""Columns where there is no terminal."""
_SLOW: Final = 0.001
"""Seconds from which it is worth saying how long a step took."""


class Walk(msgspec.Struct, frozen=True, kw_only=True):
    """One walk as JSON has it. ``name`` is empty for the box itself and for the broker."""

    kind: str
    name: str = ""
    ok: bool
    steps: list[Step]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    ok: bool
    walks: list[Walk]


_Start = Callable[[], AsyncGenerator[Step]]


class Screen(Console):
    """A console that speaks ``language``."""

    def __init__(self, language: str) -> None:
        super().__init__(highlight=False)
        self.spoken: Final = translator(language).translate


@click.command()
@click.argument("destination", required=False, metavar="[DESTINATION]")
@config_option
@json_option
def doctor(destination: str | None, config_path: Path | None, *, as_json: bool) -> None:
    """Find out why a destination is not reached: each step from the cable to its answer, and what to do.

    Without DESTINATION: all of them, and this box itself. Works whether or not the appliance runs.
    """
    config = read_config(config_path).config
    chosen = [destination_named(config, destination)] if destination else list(config.destination)
    console = None if as_json else Screen(config.device.language)
    report = run_async(lambda: _examine(config, chosen, console, whole=not destination))
    if as_json:
        print_json(report)
    elif console is not None:
        _conclude(report, console)
    if not report.ok:
        raise SystemExit(1)


async def _examine(config: Config, chosen: list[Destination], console: Screen | None, *, whole: bool) -> Report:
    clock = SystemClock(latest(config.storage.path), kernel_synchronised)
    original = next((modality.ae_title for modality in config.modality), OWN_TITLE)
    walks = [
        await _walk(one.type, one.name, _headline(one), partial(examine, one, clock, original), console)
        for one in chosen
    ]
    if whole:
        walks += await _box(config, clock, console)
    return Report(ok=all(walk.ok for walk in walks), walks=walks)


async def _box(config: Config, clock: Clock, console: Screen | None) -> list[Walk]:
    snapshot = await _snapshot(config)
    title = say("this box: {name}", name=config.device.name)
    walks = [await _walk("box", "", title, partial(examine_box, config, snapshot, clock), console)]
    if (mqtt := config.mqtt) is not None:
        walks.append(await _walk("broker", "", f"broker: {mqtt.url}", partial(examine_broker, mqtt, clock), console))
    return walks


async def _snapshot(config: Config) -> Snapshot | None:
    try:
        return msgspec.convert(await ask(config.storage.path, Request(command="status")), Snapshot)
    except (NotRunningError, StoreError):
        return None


async def _walk(kind: str, name: str, headline: str, start: _Start, console: Screen | None) -> Walk:
    """Walk once, and show each step as it comes."""
    if console is not None:
        console.print(f"\n[bold]{escape(console.spoken(headline))}[/]")
    steps: list[Step] = []
    waiting = (
        nullcontext() if console is None else console.status(f"  {console.spoken(N_('looking …'))}", spinner="line")
    )
    with waiting:
        async with aclosing(start()) as coming:
            async for step in coming:
                steps.append(step)
                if console is not None and not step.untried:
                    show(step, console)
    if console is not None and (untried := [console.spoken(TITLES[step.name]) for step in steps if step.untried]):
        _line("-", "dim", console.spoken(N_("not tried")), ", ".join(untried), console)
    return Walk(kind=kind, name=name, ok=all(s.result is not Result.FAILED for s in steps), steps=steps)


def show(step: Step, console: Screen) -> None:
    """Print a step for a person: never by colour alone."""
    word, style = _LOOKS[step.result]
    _line(word, style, console.spoken(TITLES[step.name]), console.spoken(step.text) + _took(step), console)
    if step.code:
        _line("", "", console.spoken(N_("what to do")), console.spoken(step.advice), console, "bold")
        who = say("{who} (code {code})", who=step.who, code=step.code)
        _line("", "", console.spoken(N_("whom to call")), console.spoken(who), console)


def _took(step: Step) -> str:
    if step.seconds < _SLOW or step.result is Result.SKIPPED:
        return ""
    return f" ({step.seconds:.1f} s)" if step.seconds >= 1 else f" ({step.seconds * 1000:.0f} ms)"


def _line(word: str, style: str, name: str, text: str, console: Screen, how: str = "") -> None:
    """Print ``text`` beside its name, wrapped below itself."""
    indent = _MARGIN + _WORD + _NAME
    width = max(console.width if console.is_terminal else _WIDE, indent + 20) - indent
    how = how or ("dim" if style == "dim" else "")
    for number, part in enumerate(wrap(text, width, break_on_hyphens=False) or [""]):
        line = Text(" " * _MARGIN)
        line.append(f"{word if not number else '':{_WORD}}", style)
        line.append(f"{name if not number else '':{_NAME}}")
        line.append(part, how)
        console.print(line, soft_wrap=True)


def _headline(destination: Destination) -> str:
    match destination:
        case DimseDestination():
            to = {"title": destination.ae_title, "host": destination.host, "port": destination.port}
            where = say("{title} at {host} port {port}", **to)
            if destination.tls is not None:
                where = say("{title} at {host} port {port}, with TLS", **to)
            return f"{destination.name}: {where}"
        case DicomwebDestination():
            return f"{destination.name}: {destination.url}"
        case FolderDestination():
            return say("{name}: folder {path}", name=destination.name, path=destination.path)


def _conclude(report: Report, console: Screen) -> None:
    bad = [
        f"{walk.name or walk.kind} "
        f"({', '.join(console.spoken(TITLES[s.name]) for s in walk.steps if s.result is Result.FAILED)})"
        for walk in report.walks
        if not walk.ok
    ]
    warned = any(step.result is Result.WARNING for walk in report.walks for step in walk.steps)
    console.print()
    if bad:
        console.print(f"[bold red]{console.spoken(N_('FAILED:'))}[/] {escape('; '.join(bad))}", soft_wrap=True)
    elif warned:
        console.print(f"[bold yellow]{console.spoken(N_('Nothing failed, but look at the warnings.'))}[/]")
    else:
        console.print(f"[bold green]{console.spoken(N_('All is well.'))}[/]")
