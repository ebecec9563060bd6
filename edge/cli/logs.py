"""`edge logs`: the logs bundle for IT, without patient data, with or without a running appliance.

The archive is made in memory and written in one go; a file that cannot be written whole is taken away again.
"""

import contextlib
import os
import sys
from pathlib import Path

import click
import msgspec

from edge.cli.main import config_option, fail, read_config, run_async
from edge.clock import SystemClock
from edge.config import Config
from edge.local import LINES, NotRunningError, Request, ask
from edge.snapshot import Snapshot
from edge.status.journal import journal
from edge.status.machine import look
from edge.status.versions import versions
from edge.store import StoreError
from edge.web.bundle import Bundle, archive, lines_of


@click.command()
@config_option
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write, a new one; - is stdout."
)
def logs(config_path: Path | None, *, output: Path | None) -> None:
    """Write a ZIP archive for IT: status, configuration without secrets, versions, log; nothing of a patient."""
    config = read_config(config_path).config
    bundle = _bundle(config)
    body = archive(bundle)
    if str(output) == "-":
        sys.stdout.buffer.write(body)
        return
    path = output or Path(bundle.name)
    try:
        _write(path, body)
    except OSError as e:
        fail(f"{path} cannot be written ({e.strerror or e}): name another file with --output.")
    click.echo(f"wrote {path}, {len(body)} bytes: nothing of a patient is in it")


def _bundle(config: Config) -> Bundle:
    snapshot, kept = run_async(lambda: _ask(config.storage.path))
    lines, source = lines_of(journal(), kept)
    clock = SystemClock()
    return Bundle(
        device=snapshot.device.id if snapshot else _device(config.storage.path),
        taken_at=clock.now(),
        config=config,
        snapshot=snapshot,
        machine=look(storage=config.storage.path),
        versions=versions(),
        lines=lines,
        source=source,
    )


async def _ask(storage: Path) -> tuple[Snapshot | None, tuple[str, ...]]:
    """Ask the running appliance, if there is one; whatever it does not say is left out."""
    snapshot: Snapshot | None = None
    kept: tuple[str, ...] = ()
    with contextlib.suppress(NotRunningError, StoreError):
        snapshot = msgspec.convert(await ask(storage, Request(command="status")), Snapshot)
    with contextlib.suppress(NotRunningError, StoreError):
        kept = tuple(msgspec.convert(await ask(storage, Request(command=LINES)), list[str]))
    return snapshot, kept


def _device(storage: Path) -> str:
    try:
        return (storage / "identity" / "device").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _write(path: Path, body: bytes) -> None:
    """Write a new file; nothing that is there already is touched, be it a device. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(body)
    except OSError:
        # it was made here a moment ago
        path.unlink(missing_ok=True)
        raise
