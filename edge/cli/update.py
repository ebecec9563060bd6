"""`edge update`: how the box's image is, and another one asked for. Two hidden options are root's side, for systemd."""

import asyncio
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from edge import __version__
from edge.cli.main import BAD_USAGE, chosen_config, config_option, fail, json_option, print_json, read_config, run_async
from edge.cli.reads import size
from edge.clock import SystemClock
from edge.config import Config
from edge.configfile import ConfigError, load
from edge.intake.admission import reserve
from edge.local import NotRunningError, Request, ask
from edge.phrase import N_, say
from edge.snapshot import Snapshot
from edge.store import ClosedError, StoreError
from edge.translator import translator
from edge.updating.carrying import Carrier, Traffic
from edge.updating.good import Answer, Judge, Settler, disk_takes, receives
from edge.updating.image import boot_id, booted
from edge.updating.reasons import REFUSALS, sentence
from edge.updating.state import FOLDER, NAME, Record, State
from edge.updating.system import System, ToolError
from edge.updating.taking import Counter, NotPlainError
from edge.updating.wanted import Asking, RefusedError

_PATIENCE = 10.0
"""Seconds for the appliance to answer."""


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--version", "version", help="Ask for this version from the server of the configuration.")
@click.option("--force", is_flag=True, help="Also a version that was rolled back before, or runs already.")
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
        _as_root(config_path, settle=settle)
        return
    config = read_config(config_path).config
    asking = Asking(config.storage.path, config.update.url, FOLDER / NAME, slot=booted(), running=__version__)
    if bundle is None and version is None and not cancelled:
        _show(config, asking, as_json=as_json)
        return
    _may_write(config.storage.path)
    try:
        if bundle is not None:
            asking.file(bundle, keep=_kept(config, config.storage.path), force=force)
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


def _kept(config: Config, folder: Path) -> int:
    """Bytes that stay free of the disk of ``folder``. Raises OSError."""
    return reserve(config.storage.reserve, shutil.disk_usage(folder).total)


def _as_root(config_path: Path | None, *, settle: bool) -> None:
    """Root's side. Exits with 1 where it is to be tried again."""
    slot, clock = booted(), SystemClock()
    if not slot:
        fail(REFUSALS["UNSUPPORTED"])
    config, system = _own_config(config_path), System()
    try:
        FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        record = Record(FOLDER, clock, boot_id())
        settler = Settler(record, system, clock, slot=slot, pause=time.sleep)
        if settle:
            judged = _config_in_force(config_path, config)
            settler.settle(_judge(judged, system, clock))
            return
        settler.compare()
        Carrier(
            Counter(config.storage.path),
            record,
            system,
            clock,
            slot=slot,
            running=__version__,
            keep=_kept(config, FOLDER),
            traffic=lambda: _traffic(config),
            pause=time.sleep,
        ).run()
    except ToolError as e:
        fail(f"{sentence(e.code)}: {e.text}")
    except NotPlainError as e:
        fail(f"{config.storage.path / 'update'} is not as it should be: {e}")
    except OSError as e:
        fail(f"{FOLDER} cannot be used: {e.strerror or e}")


def _own_config(path: Path | None) -> Config:
    """Read the box's own file; one with errors must not keep an update away that may mend it."""
    try:
        return load(chosen_config(path)).config
    except ConfigError:
        return Config()


def _config_in_force(path: Path | None, own: Config) -> Config:
    try:
        return read_config(path).config
    except SystemExit:  # with its errors said
        return own


def _judge(config: Config, system: System, clock: SystemClock) -> Judge:
    def answers(ports: Sequence[int]) -> bool:
        return run_async(lambda: receives(config.receive, ports))

    return Judge(system.unit, lambda: _answer(config), answers, lambda: disk_takes(config.storage.path), clock)


def _answer(config: Config) -> Answer:
    try:
        _status(config)
    except NotRunningError:
        return "none"
    except StoreError:
        return "no database"
    return "good"


def _traffic(config: Config) -> Traffic | None:
    try:
        snapshot = _status(config)
    except (NotRunningError, StoreError):
        return None
    going = snapshot.intake.associations > 0 or any(not one.over for one in snapshot.imports)
    return Traffic(going, snapshot.intake.instances)


def _status(config: Config) -> Snapshot:
    """Ask the appliance. Raises `NotRunningError`, `StoreError`."""

    async def status() -> Snapshot:
        try:
            async with asyncio.timeout(_PATIENCE):
                return msgspec.convert(await ask(config.storage.path, Request(command="status")), Snapshot)
        except (ClosedError, TimeoutError, msgspec.ValidationError, ValueError) as e:
            raise NotRunningError(str(e)) from e

    return run_async(status)
