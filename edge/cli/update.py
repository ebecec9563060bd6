"""`edge update`: how the box's image is, and another one asked for. Hidden options are root's side, `update_root`."""

import os
from pathlib import Path

import click
import msgspec

from edge import __version__
from edge.cli.main import BAD_USAGE, config_option, fail, json_option, print_json, read_config
from edge.cli.reads import size
from edge.cli.update_root import as_root, kept
from edge.config import Config
from edge.phrase import N_, say
from edge.translator import translator
from edge.updating.image import booted
from edge.updating.reasons import REFUSALS, sentence
from edge.updating.state import FOLDER, NAME, State
from edge.updating.wanted import Asking, RefusedError


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--version", "version", help="Ask for this version from the server of the configuration.")
@click.option("--force", is_flag=True, help="Also a version that was rolled back before, runs already, or is older.")
@click.option("--cancel", "cancelled", is_flag=True, help="Call off an update that is being fetched.")
@click.option("--carry-out", is_flag=True, hidden=True, help="Root's side: do what was asked for.")
@click.option("--settle", is_flag=True, hidden=True, help="Root's side: find what runs, and mark it good.")
@config_option
@json_option
def update(
    bundle: Path | None,
    version: str | None,
    config_path: Path | None,
    *,
    force: bool,
    cancelled: bool,
    carry_out: bool,
    settle: bool,
    as_json: bool,
) -> None:
    """Show version, slot and the last update; or ask for one, from a file (BUNDLE) or by its version."""
    if sum((bundle is not None, version is not None, cancelled, carry_out, settle)) > 1:
        fail("A file, --version and --cancel: one of them.", BAD_USAGE)
    if carry_out or settle:
        as_root(config_path, settle=settle)
        return
    config = read_config(config_path).config
    asking = Asking(config.storage.path, config.update.url, FOLDER / NAME, slot=booted(), running=__version__)
    if bundle is None and version is None and not cancelled:
        _show(config, asking, as_json=as_json)
        return
    _may_write(config.storage.path)
    try:
        if bundle is not None:
            asking.file(bundle, keep=kept(config, config.storage.path), force=force)
        elif version is not None:
            asking.version(version, force=force)
        else:
            asking.cancel()
    except RefusedError as e:
        why = translator(config.device.language).translate(REFUSALS[e.code])
        fail(f"{why} ({e.text})" if e.text else why)
    if as_json:
        print_json({"asked": True})
    else:
        click.echo(translator(config.device.language).translate(N_("asked for; edge update shows how it goes on")))


def _show(config: Config, asking: Asking, *, as_json: bool) -> None:
    state, slot = asking.state, booted()
    if as_json:
        told = msgspec.to_builtins(state)
        told.pop("changes")
        print_json({"running": __version__, "image": bool(slot), "booted": slot, "asked": asking.pending, **told})
        return
    for line in _lines(state, slot, pending=asking.pending):
        click.echo(translator(config.device.language).translate(line))


def _lines(state: State, slot: str, *, pending: bool) -> list[str]:
    if not slot:
        return [say("version {version}; this system is not the image of the box", version=__version__)]
    lines = [say("version {version}, slot {slot}", version=__version__, slot=slot)]
    lines.append(_phase(state))
    if state.phase == "downloading" and state.received:
        whole = size(state.size) if state.size else "?"
        lines.append(say("fetched: {done} of {size}", done=size(state.received), size=whole))
    if state.reason:
        lines.append(sentence(state.reason))
    if state.text:
        lines.append(state.text)
    if pending:
        lines.append(N_("an update is asked for"))
    return lines


def _phase(state: State) -> str:
    version = state.to or "?"
    said = {
        "none": N_("there was no update so far"),
        "downloading": say("the update to {version} is being fetched", version=version),
        "installing": say("the update to {version} is being installed", version=version),
        "waiting": say(
            "{version} is installed; the machine starts anew once nothing comes in for a minute", version=version
        ),
        "trial": say("{version} is on trial", version=version),
        "done": say("the update to {version} is done", version=version),
        "failed": say("the update to {version} failed; the box is as it was", version=version),
        "rolled-back": say("the update to {version} was taken back", version=version),
    }
    return said[state.phase]


def _may_write(storage: Path) -> None:
    """Exit where root would write into the folder of another, who might lead it elsewhere."""
    try:
        owner = storage.stat().st_uid
    except OSError as e:
        fail(f"{storage} cannot be read ({e.strerror or e}): run this as the user of the service.")
    if os.geteuid() == 0 and owner != 0:
        fail("Run this as the user of the service: sudo -u edge edge update …", BAD_USAGE)
