"""`edge status`, `edge trace`: what is so, with or without a running appliance."""

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge.cli.main import config_option, fail, json_option, print_json, read_config, run_async
from edge.clock import SystemClock
from edge.config import Config
from edge.findings import printable
from edge.local import NotRunningError, Request, ask
from edge.phrase import N_, say
from edge.snapshot import Destination, ImportStatus, Snapshot, WatchStatus
from edge.status.collect import stopped
from edge.store import ClosedError, Reading, StoreError
from edge.translator import Translator, translator

T = TypeVar("T")
_COLORS: Final = {"green": "green", "yellow": "yellow", "red": "red", "white": "white"}
_COLUMNS: Final = (
    N_("destination"),
    N_("state"),
    N_("queued"),
    N_("sending"),
    N_("accepted"),
    N_("verified"),
    N_("held"),
)
_STATES: Final = {"up": N_("up"), "down": N_("down"), "paused": N_("paused")}
_PAUSES: Final = (0.1, 0.3, 1.0, 2.0)
MOST_ANSWER: Final = 1000
"""Characters that are shown of what a destination answered."""
_UNBROKEN: Final = 1000
"""Characters on a line where no terminal says how many: more than any sentence has."""
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def with_reading(config: Config, work: Callable[[Reading], Coroutine[Any, Any, T]]) -> T:
    """Return what ``work`` reads from the store; exit where that cannot be read."""

    async def main() -> T:
        reading = await Reading.open(config.storage.path)
        try:
            return await work(reading)
        finally:
            await reading.close()

    try:
        return run_async(main)
    except StoreError as e:
        fail(str(e))


@click.command()
@config_option
@json_option
def status(config_path: Path | None, *, as_json: bool) -> None:
    """Show the whole status: light, intake, queue, destinations, findings."""
    config = read_config(config_path).config

    async def running() -> Snapshot | None:
        for pause in (*_PAUSES, None):
            try:
                return msgspec.convert(await ask(config.storage.path, Request(command="status")), Snapshot)
            except NotRunningError:
                return None
            except ClosedError:
                raise
            except StoreError:  # a database that is being opened anew is there in a moment
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError

    try:
        snapshot = run_async(running) or with_reading(config, lambda r: _stopped(config, r))
    except StoreError as e:
        fail(str(e))
    if as_json:
        print_json(snapshot)
    else:
        console = Console(highlight=False)
        console = console if console.is_terminal else Console(width=_UNBROKEN, highlight=False)
        show(snapshot, console, translator(config.device.language))


async def _stopped(config: Config, reading: Reading) -> Snapshot:
    free = (await asyncio.to_thread(shutil.disk_usage, config.storage.path)).free
    return await stopped(config, reading, SystemClock(), free, config.storage.reserve or 0)


def show(snapshot: Snapshot, console: Console, into: Translator) -> None:
    """Print a snapshot for a person, in the language ``into`` which it is translated."""
    light, spoken = snapshot.light, into.translate
    color = _COLORS.get(light.color, "white")
    look = f"{spoken(light.color)}, {spoken(light.pattern)}"
    console.print(f"[bold {color}]{light.code} {look}[/]  {escape(spoken(light.text))}")
    console.print(escape("; ".join(spoken(part) for part in _counts(snapshot))))
    if snapshot.destinations:
        table = Table(*map(spoken, _COLUMNS), box=None)
        for d in snapshot.destinations:
            numbers = (d.queued, d.sending, d.accepted, d.verified, d.held)
            table.add_row(escape(d.name), spoken(_STATES[d.state]), *map(str, numbers))
        console.print(table)
    for d in snapshot.destinations:
        if told := pace(d):
            console.print(f"{escape(d.name)}: {', '.join(map(spoken, told))}")
    for line in (*map(_watched, snapshot.watches), *map(_imported, snapshot.imports)):
        console.print(escape(spoken(line)))
    for finding in snapshot.findings:
        times = f" ({spoken(say('{n} times', n=finding.count))})" if finding.count > 1 else ""
        console.print(f"{spoken(finding.severity)}: {escape(spoken(finding.text))}{times}")
        console.print(f"  {escape(spoken(finding.advice))}", style="dim")


def _counts(snapshot: Snapshot) -> Iterator[str]:
    intake, queue = snapshot.intake, snapshot.queue
    received = {"name": snapshot.device.name, "n": intake.instances, "size": size(intake.bytes)}
    yield say("{name}: received {n} ({size}) since start", **received)
    waiting = {"n": queue.instances, "size": size(queue.bytes)}
    if queue.instances:
        yield say("waiting {n} ({size}), the oldest for {age}", **waiting, age=age(queue.oldest_seconds))
    else:
        yield say("waiting {n} ({size})", **waiting)
    yield say("disk: {size} free", size=size(snapshot.storage.free_bytes))


def _watched(watch: WatchStatus) -> str:
    numbers = {"name": watch.name, "taken": watch.taken, "waiting": watch.waiting}
    if watch.left:
        return say(
            "watch {name}: {taken} taken since start, {waiting} waiting, {left} left alone", **numbers, left=watch.left
        )
    return say("watch {name}: {taken} taken since start, {waiting} waiting", **numbers)


def _imported(one: ImportStatus) -> str:
    done = say(
        "{done} of {files} files, {read} of {size}",
        done=one.files_done,
        files=one.files,
        read=size(one.bytes_done),
        size=size(one.bytes),
    )
    if one.refused:
        done = say("{what}, {n} not taken", what=done, n=one.refused)
    if one.over:
        return say("import {name} ended: {what}", name=one.name, what=done)
    return say("import {name} reads: {what}", name=one.name, what=done)


def pace(destination: Destination) -> list[str]:
    """Say how fast and when a destination is sent to, as far as there is anything to say."""
    told = []
    if destination.rate_limit_bytes_per_second is not None:
        told.append(say("at most {rate}/s", rate=size(destination.rate_limit_bytes_per_second)))
    if destination.hours is not None and destination.hours_open:
        told.append(say("background {hours}", hours=destination.hours))
    elif destination.hours is not None:
        told.append(say("background {hours}, not now", hours=destination.hours))
    if told and destination.drain_seconds is not None:
        told.append(say("empty in about {age}", age=age(destination.drain_seconds)))
    return told


@click.command()
@click.argument("uid")
@config_option
@json_option
def trace(uid: str, config_path: Path | None, *, as_json: bool) -> None:
    """Print the trail of an instance, series or study: UID, accession number, or the id of an instance."""
    config = read_config(config_path).config
    rows = with_reading(config, lambda r: r.trace(uid))
    if not rows:
        fail(f"Nothing is known of {uid!r}: check the number, or whether it was sent to this box.")
    if as_json:
        print_json([msgspec.to_builtins(row) for row in rows])
        return
    for row in rows:
        states = ", ".join(f"{d.destination}: {d.state}" for d in row.deliveries) or "no destination"
        click.echo(f"{printable(row.sop_instance_uid)}  {printable(row.modality)}  {size(row.bytes)}  {states}")
        click.echo(f"  sha256 {row.sha256}")
        for step in row.trail:
            mark = "" if step.clock_trusted else " (clock not trusted)"
            code = "" if step.code == row.sha256 else step.code
            words = " ".join(filter(None, (step.destination, code, step.detail)))
            click.echo(f"  {utc(step.at)}{mark}  {step.event}  {printable(words, MOST_ANSWER)}")


def size(number: float) -> str:
    """Write a number of bytes for a person."""
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:  # noqa: PLR2004 - binary units
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    raise AssertionError


def age(seconds: int) -> str:
    """Write a duration for a person."""
    for name, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds} s"


def utc(at: float) -> str:
    """Write a wall time."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
