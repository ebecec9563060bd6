"""`edge route`: where files would go, which rules fire, and why the others do not. No appliance is needed."""

import os
import socket
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

import click
import msgspec

from edge.cli.main import BAD_USAGE, FAILED, config_option, fail, json_option, print_json, read_config
from edge.config import Config
from edge.dicom.header import read_header
from edge.dicom.uids import class_names
from edge.dicom.whole import Archive, Directory, Foreign, Unfinished, Unusable, Whole, recognise
from edge.intake import seal as seals
from edge.model import DIMSE, IMPORT, PRIORITIES, WATCH, Header, Source
from edge.routing import Leg, Miss, Routing, Verdict

_NAMES: Final = {"sop_class": "SOP class", "study_description": "study description", "body_part": "body part"}


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """One destination of a file."""

    destination: str
    priority: str
    sent: bool
    """False where the object came from there."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """What became clear about one file."""

    file: str
    error: str = ""
    """Why it is no DICOM object; then there is nothing else."""
    header: Header | None = None
    source: Source | None = None
    rules: tuple[Verdict, ...] = ()
    to: tuple[Goal, ...] = ()


class _NoObjectError(Exception):
    """The file is no DICOM object; the text says what it is."""


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--explain", is_flag=True, help="Also say of each rule whether it fires, and why not.")
@click.option("--calling", metavar="TITLE", help="The AE title of the sender that they would come from.")
@click.option("--called", metavar="TITLE", help="The AE title that it would call; else the first of ours.")
@click.option("--address", metavar="IP", help="The sender's address.")
@click.option("--watch", metavar="NAME", help="The watched folder that they would be read from.")
@config_option
@json_option
def route(
    files: tuple[Path, ...],
    calling: str | None,
    called: str | None,
    address: str | None,
    watch: str | None,
    config_path: Path | None,
    *,
    explain: bool,
    as_json: bool,
) -> None:
    """Say where files would go, by the rules of the configuration. Nothing is sent and nothing is stored.

    A file out of the appliance's own spool tells by itself whom it came from.
    """
    config = read_config(config_path).config
    if watch is not None and address is not None:
        raise click.UsageError("say either --address or --watch: what is read from a folder has no sender's address")
    told = _source(config, calling, called, address, watch)
    routing = Routing(config, class_names, _resolve)
    routes = [_route(routing, path, told) for path in files]
    if as_json:
        print_json(routes)
    else:
        for one in routes:
            _print(one, explain=explain, ruled=bool(config.route))
    broken = [one for one in routes if one.error]
    if broken and not as_json:
        others = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        fail(f"{broken[0].file} {broken[0].error}{others}.")
    sys.exit(FAILED if broken else 0)


def _source(
    config: Config, calling: str | None, called: str | None, address: str | None, watch: str | None
) -> Source | None:
    """Whom the files are taken to come from; None: nothing was said."""
    ours = called or config.receive.titles[0]
    if watch is not None:
        found = next((w for w in config.watch if w.title == watch), None)
        if found is None:
            known = ", ".join(w.title for w in config.watch) or "none"
            fail(f"There is no watch {watch!r}; the configuration has: {known}.", BAD_USAGE)
        title = found.ae_title or "" if calling is None else calling
        return Source(door=WATCH, calling=title, called=called or found.called_ae_title or ours, address=watch)
    if calling is None and called is None and address is None:
        return None
    return Source(door=DIMSE, calling=calling or "", called=ours, address=address or "")


def _route(routing: Routing, path: Path, told: Source | None) -> Route:
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    try:
        header, own = _read(path)
    except OSError as e:
        return Route(file=name, error=f"cannot be read: {e.strerror or e}")
    except _NoObjectError as e:
        return Route(file=name, error=f"is no DICOM object that can be routed: {e}")
    source = told or own
    return Route(
        file=name,
        header=header,
        source=source,
        rules=routing.explain(header, source),
        to=tuple(map(_goal, routing.legs(header, source))),
    )


def _read(path: Path) -> tuple[Header, Source]:
    """Read a file's header, and whom it came from where it is one of ours. Raises OSError, `_NoObjectError`."""
    if path.is_dir():
        raise _NoObjectError("it is a folder; name the files in it")
    with path.open("rb") as file:
        fd = file.fileno()
        found = recognise(lambda offset, count: os.pread(fd, count, offset), os.fstat(fd).st_size)
        match found:
            case Whole():
                pass
            case Unfinished(why=why) | Unusable(why=why) | Foreign(why=why):
                raise _NoObjectError(why)
            case Directory():
                raise _NoObjectError("it is a DICOMDIR; name the files that it lists")
            case Archive():
                raise _NoObjectError("it is an archive; unpack it first")
        header = read_header(
            lambda offset, count: os.pread(fd, count, found.offset + offset),
            found.length,
            found.kind.transfer_syntax_uid,
        )
    header = seals.routable(header, found.kind.sop_class_uid)
    with suppress(seals.BadSealError):
        return header, seals.decode(found.private).source
    return header, Source(door=IMPORT)


@cache
def _resolve(host: str) -> frozenset[str]:
    try:
        return frozenset(str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return frozenset()


def _goal(leg: Leg) -> Goal:
    return Goal(destination=leg.destination, priority=PRIORITIES[leg.priority], sent=not leg.back)


def _print(one: Route, *, explain: bool, ruled: bool) -> None:
    if one.error:
        return
    to = ", ".join(
        f"{goal.destination} ({goal.priority})" if goal.sent else f"not back to {goal.destination}, where it came from"
        for goal in one.to
    )
    if one.to and not any(goal.sent for goal in one.to):
        to += ", and nowhere else: it is held until a person decides"
    click.echo(f"{one.file}  {'->' if one.to else 'goes nowhere: no rule takes it'} {to}".rstrip())
    if not explain:
        return
    if not ruled:
        click.echo("  there is no rule: everything goes to every destination")
    for rule in one.rules:
        head = f"  rule {rule.number} to {', '.join(rule.to)}, {rule.priority}:"
        if rule.fires:
            click.echo(f"{head} fires")
            continue
        click.echo(f"{head} does not fire")
        for miss in rule.misses:
            click.echo(f"    {_why(miss)}")


def _why(miss: Miss) -> str:
    wanted = " or ".join(f'"{glob}"' for glob in miss.wanted)
    name = _NAMES.get(miss.key, miss.key)
    has = " or ".join(f'"{value}"' for value in miss.found) if any(miss.found) else "empty" if miss.found else "none"
    return f"{name} is {has}, and not {wanted}"
