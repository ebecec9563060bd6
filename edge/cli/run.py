"""`edge run`, the appliance in the foreground, and `edge check`, which validates its configuration."""

import asyncio
import contextlib
import ctypes
import logging
import signal
import sys
from pathlib import Path
from typing import Final

import click
import structlog

from edge.app import Appliance, StartError
from edge.cli.main import (
    BAD_USAGE,
    chosen_config,
    config_option,
    fail,
    json_option,
    print_json,
    read_own_config,
    run_async,
)
from edge.clock import SystemClock
from edge.config import Config, DicomwebDestination
from edge.configfile import ConfigError, Loaded, load
from edge.dicomweb.secret import doubt
from edge.spool import doubts
from edge.status.logbook import Logbook
from edge.supervise import CrashLoopError
from edge.telemetry.twin import Twin
from edge.tls import date, every

_M_ARENA_MAX: Final = -8
"""Of mallopt(3)."""


@click.command()
@config_option
def run(config_path: Path | None) -> None:
    """Run the appliance until SIGTERM or Ctrl-C."""
    loaded = read_own_config(config_path)
    logbook = _set_up_logging()
    _save_memory()
    try:
        run_async(lambda: _run(loaded, chosen_config(config_path), logbook))
    except (StartError, CrashLoopError) as e:
        fail(str(e))


async def _run(own: Loaded, path: Path, logbook: Logbook) -> None:
    """Run the appliance, and again as often as it ends to begin anew: with the configuration then in force."""
    while True:
        twin = Twin(own.config.storage.path, path)
        with contextlib.suppress(OSError):  # a disk that cannot be written is told by the appliance itself
            if not twin.count_start():
                twin.roll_back("START_FAILED")
        try:
            if not await _serve(twin.load(own), path, twin, logbook):
                return
        except (StartError, CrashLoopError) as e:
            if twin.record.status != "trial":
                raise
            structlog.get_logger().warning("the configuration on trial does not start", error=str(e))
            twin.roll_back("START_FAILED")
        with contextlib.suppress(ConfigError):  # as it was: what is wrong now waits for somebody to run edge check
            own = load(path)


async def _serve(loaded: Loaded, path: Path, twin: Twin, logbook: Logbook) -> bool:
    appliance = Appliance(loaded.config, loaded.notices, twin=twin, lines=logbook.lines)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, appliance.stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: _reload(appliance, path, twin))
    await appliance.run(_announce)
    return appliance.again


def _reload(appliance: Appliance, path: Path, twin: Twin) -> None:
    try:
        appliance.reload(twin.load(load(path)).config)
    except ConfigError as e:
        appliance.reload(None, "; ".join(map(str, e.problems)))


def _announce(appliance: Appliance) -> None:
    receive = appliance.config.receive
    for port in appliance.ports:
        click.echo(f"receiving as {', '.join(receive.titles)} on {receive.address} port {port}")
    for port in appliance.tls_ports:
        click.echo(f"receiving as {', '.join(receive.titles)} on {receive.address} port {port}, with TLS")
    sys.stdout.flush()


def _save_memory() -> None:
    """Have glibc keep two arenas and not one for each thread, none of which gives back what it had at its most."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _set_up_logging() -> Logbook:
    """Log to stderr, one line an event, and return what keeps the last of them."""
    logbook = Logbook()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
            logbook,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    return logbook


@click.command()
@config_option
@json_option
def check(config_path: Path | None, *, as_json: bool) -> None:
    """Validate the configuration: every error at once, with line and key."""
    loaded = read_own_config(config_path)
    _check_certificates(loaded.config, chosen_config(config_path))
    found = [*doubts(loaded.config.storage.path), *_doubts_of_secrets(loaded.config)]
    if as_json:
        print_json({"ok": True, "not_in_this_version": list(loaded.notices), "doubts": found})
        return
    for notice in loaded.notices:
        click.echo(f"note: {notice} is understood, but this version does not act on it yet")
    for one in found:
        click.echo(f"note: {one}")
    names = ", ".join(d.name for d in loaded.config.destination) or "none: images will be stored here only"
    click.echo(f"ok; destinations: {names}")


def _doubts_of_secrets(config: Config) -> list[str]:
    """Say what is wrong with files of secrets: no error, since some are there for the service alone."""
    files = [
        (f"destination.{destination.name}.auth.{key}", getattr(destination.auth, key))
        for destination in config.destination
        if isinstance(destination, DicomwebDestination)
        for key in destination.auth.__struct_fields__
        if key.endswith("_file")
    ]
    if config.mqtt is not None:
        files.append(("mqtt.password_file", config.mqtt.password_file))
    return [f"{key}: {wrong}" for key, path in files if path is not None and (wrong := doubt(path))]


def _check_certificates(config: Config, path: Path) -> None:
    """Exit 2 with each certificate or key that cannot be used."""
    clock = SystemClock()
    bad = False
    for one in every(config):
        trouble, valid = one.trouble, one.validity
        if not trouble and valid is not None and clock.trusted() and not valid.begins <= clock.now() <= valid.ends:
            days = f"{date(valid.begins)} to {date(valid.ends)}"
            trouble = f"{one.where}.certificate_file: {valid.name} is valid only from {days}: have a new one made"
        if trouble:
            bad = True
            click.echo(f"edge: {path}: {trouble}", err=True)
    if bad:
        sys.exit(BAD_USAGE)
