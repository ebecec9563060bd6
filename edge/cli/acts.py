"""`edge retry`, `stat`, `hold`, `release`, `cancel`, `pause`, `resume`: what people decide, done by the appliance."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edge.cli.main import (
    FAILED,
    NOT_RUNNING,
    config_option,
    destination_named,
    fail,
    json_option,
    print_json,
    read_config,
    run_async,
)
from edge.local import NotRunningError, Request, ask
from edge.store import Choice, StoreError

_DONE = {
    "retry": "to be sent now",
    "stat": "to be sent before all others",
    "hold": "held",
    "release": "released",
    "cancel": "cancelled",
}


def _choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options by which deliveries are chosen."""
    for option in (
        click.option("--all", "everything", is_flag=True, help="Every delivery."),
        click.option("--destination", default="", help="Deliveries to this destination."),
        click.option("--delivery", type=int, help="One delivery, by the id that `edge queue` shows."),
        click.argument("uid", default=""),
        config_option,
        json_option,
    ):
        command = option(command)
    return command


def _act(
    verb: str, config_path: Path | None, options: dict[str, Any], *, reason: str = "", force: bool = False
) -> None:
    config = read_config(config_path).config
    destination, uid, delivery = options["destination"], options["uid"], options["delivery"]
    names = {d.name for d in config.destination}
    if not (destination or uid or delivery is not None or options["everything"]):
        raise click.UsageError("say which: a UID, --delivery, --destination or --all")
    request = Request(
        command=verb,
        choice=Choice(destination=destination, uid=uid, delivery=delivery),
        reason=reason,
        force=force,
    )
    number = _asked(config.storage.path, request)
    # everything was sent meanwhile, by the box itself: what was asked for is so
    content = verb == "retry" and not (uid or delivery is not None) and (not destination or destination in names)
    if options["as_json"]:
        print_json({"deliveries": number})
        sys.exit(0 if number or content else FAILED)
    if not number and content:
        click.echo("nothing was waiting")
        return
    if not number:
        known = f"; destinations are: {', '.join(sorted(names))}" if destination and destination not in names else ""
        fail(f"No delivery was found that this applies to{known}. See: edge queue")
    click.echo(f"{number} {'delivery' if number == 1 else 'deliveries'} {_DONE[verb]}")


def _asked(storage: Path, request: Request) -> Any:
    """Have the running appliance do it; exit where it does not."""
    try:
        return run_async(lambda: ask(storage, request))
    except NotRunningError as e:
        fail(f"{e} Start it with systemctl start edge, or edge run.", NOT_RUNNING)
    except StoreError as e:
        fail(str(e))


@click.command()
@_choosing
@click.option("--force", is_flag=True, help="Send again also what was delivered or cancelled.")
def retry(config_path: Path | None, *, force: bool, **options: Any) -> None:
    """Skip every wait: send now, and try again what is held."""
    _act("retry", config_path, options, force=force)


@click.command()
@_choosing
@click.option("--reason", default="", help="For the trail.")
def stat(config_path: Path | None, *, reason: str, **options: Any) -> None:
    """Send what is queued before everything else, and without waiting."""
    _act("stat", config_path, options, reason=reason)


@click.command()
@_choosing
@click.option("--reason", default="", help="For the trail.")
def hold(config_path: Path | None, *, reason: str, **options: Any) -> None:
    """Keep deliveries back until they are released."""
    _act("hold", config_path, options, reason=reason)


@click.command()
@_choosing
@click.option("--reason", default="", help="For the trail.")
def release(config_path: Path | None, *, reason: str, **options: Any) -> None:
    """Let held deliveries go."""
    _act("release", config_path, options, reason=reason)


@click.command()
@click.argument("destination")
@config_option
@json_option
def pause(destination: str, config_path: Path | None, *, as_json: bool) -> None:
    """Send nothing to a destination until it is resumed; its queue grows meanwhile."""
    _stop_or_go("pause", destination, config_path, as_json=as_json)


@click.command()
@click.argument("destination")
@config_option
@json_option
def resume(destination: str, config_path: Path | None, *, as_json: bool) -> None:
    """Send to a destination again."""
    _stop_or_go("resume", destination, config_path, as_json=as_json)


def _stop_or_go(verb: str, destination: str, config_path: Path | None, *, as_json: bool) -> None:
    config = read_config(config_path).config
    destination_named(config, destination)
    changed = _asked(config.storage.path, Request(command=verb, choice=Choice(destination=destination)))
    if as_json:
        print_json({"destination": destination, "changed": bool(changed)})
    else:
        click.echo(f"{destination} {'is' if changed else 'was already'} {verb}d")


@click.command()
@_choosing
@click.option("--reason", required=True, help="Why they are given up, for the trail.")
def cancel(config_path: Path | None, *, reason: str, **options: Any) -> None:
    """Give deliveries up for good."""
    if not reason.strip():
        raise click.UsageError("say why: --reason cannot be empty")
    _act("cancel", config_path, options, reason=reason)
