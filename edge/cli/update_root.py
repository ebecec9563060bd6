"""Root's side of `edge update`, for systemd: carries out what was asked for, or judges what runs.

It does its work without a configuration that can be read, since an update may be what mends that. Where it comes to
nothing it ends with 1, and systemd starts it again.
"""

import asyncio
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from edge import __version__
from edge.cli.main import chosen_config, fail, read_config, run_async
from edge.clock import SystemClock
from edge.config import Config
from edge.configfile import ConfigError, load
from edge.intake.admission import reserve
from edge.local import NotRunningError, Request, ask
from edge.snapshot import Snapshot
from edge.store import ClosedError, StoreError
from edge.updating.carrying import Carrier
from edge.updating.good import Answer, Judge, Settler, disk_takes, receives
from edge.updating.image import boot_id, booted
from edge.updating.installing import Traffic
from edge.updating.reasons import REFUSALS, sentence
from edge.updating.state import FOLDER, Record
from edge.updating.system import System, ToolError
from edge.updating.taking import Counter, NotPlainError

_PATIENCE: Final = 10.0
"""Seconds for the appliance to answer."""


def kept(config: Config, folder: Path) -> int:
    """Bytes that stay free of the disk of ``folder``. Raises OSError."""
    return reserve(config.storage.reserve, shutil.disk_usage(folder).total)


def as_root(config_path: Path | None, *, settle: bool) -> None:
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
            keep=kept(config, FOLDER),
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

    # the same disk, and not the storage path, which the unit of the judge may only read
    return Judge(system.unit, lambda: _answer(config), answers, lambda: disk_takes(FOLDER), clock)


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
