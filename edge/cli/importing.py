"""`edge import`: files, folders, media, archives, spools of other boxes; with or without a running appliance."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import click
import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from edge.app import Appliance, StartError
from edge.cli.main import FAILED, config_option, fail, json_option, print_json, read_config, run_async
from edge.config import Config
from edge.configfile import Loaded
from edge.intake.fate import Fate
from edge.intake.importing import Import
from edge.intake.remote import HandoverError, RemoteReceiver
from edge.intake.tally import Tally
from edge.intake.tree import plain
from edge.local import NotRunningError, hand_over
from edge.model import IMPORT, Source
from edge.store import StoreError
from edge.supervise import CrashLoopError

_READERS: Final = 4
_LINE_EVERY: Final = 5.0
"""Seconds between two lines of progress where there is no terminal."""
_REDRAW: Final = 0.2


@click.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--media", default="", metavar="NAME", help="A medium to be pulled out: the light shows how far it is.")
@click.option("--ae-title", default="", help="The calling AE title that the objects are taken to have.")
@click.option("--again", is_flag=True, help="Also what was taken from these files and delivered before.")
@config_option
@json_option
def import_(
    paths: tuple[Path, ...], media: str, ae_title: str, config_path: Path | None, *, again: bool, as_json: bool
) -> None:
    """Take DICOM files: files, folders, DICOMDIR media, ZIP archives, the storage folder of a dead box.

    Nothing is changed where they are read, and nothing is taken twice: an import that was stopped is begun again.
    """
    loaded = read_config(config_path)
    for path in paths:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            fail(f"{path} is not there: check the name, or whether the medium is mounted.")
        except OSError:
            pass  # the summary says so, beside what is taken of the others
    source = Source(
        door=IMPORT,
        calling=ae_title,
        called=loaded.config.receive.titles[0],
        address=plain(media or Path(os.path.realpath(paths[0])).name or "import"),
    )
    tally = Tally()
    try:
        offline = run_async(lambda: _run(loaded, paths, source, tally, media=bool(media), again=again, quiet=as_json))
    except HandoverError as e:
        _print(tally, as_json=as_json)
        fail(f"{e} {_again('Run it again: it goes on where it stopped.', again=again)}")
    except (StartError, CrashLoopError, StoreError, NotRunningError) as e:
        fail(str(e))
    except OSError as e:
        fail(f"{e.filename or loaded.config.storage.path} cannot be read: {e.strerror or e}.")
    _print(tally, as_json=as_json)
    if offline and not as_json:
        click.echo("The appliance does not run: the objects wait in the spool until it does.")
    if tally.broken:
        then = "Put it back in, or mend what is wrong with it, and run the same command again: nothing is taken twice."
        fail(f"Not everything could be read. {_again(then, again=again)}")
    sys.exit(FAILED if tally.failures() else 0)


async def _run(
    loaded: Loaded, paths: tuple[Path, ...], source: Source, tally: Tally, *, media: bool, again: bool, quiet: bool
) -> bool:
    """Import, counting in ``tally``; whether no appliance ran."""
    config = loaded.config
    # what is printed is the summary, which gives each file's reason
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

    async def work() -> None:
        async with AsyncExitStack() as stack:
            receivers = []
            for _ in range(_READERS + 1):
                receiver = RemoteReceiver(
                    *await hand_over(config.storage.path),
                    asyncio.to_thread,
                    again=again,
                    most=config.receive.max_object,
                )
                stack.callback(receiver.close)
                receivers.append(receiver)
            running = Import(
                paths,
                receivers[1:],
                receivers[0],
                asyncio.to_thread,
                source,
                media=media,
                folder=config.storage.path,
                room=lambda size: shutil.disk_usage(config.storage.path).free > 2 * size,
                tally=tally,
            )
            showing = asyncio.ensure_future(_nothing() if quiet else _show(running))
            try:
                await running.run()
            finally:
                showing.cancel()
                await asyncio.wait((showing,))

    try:
        await work()
    except NotRunningError:
        await _offline(config, loaded.notices, work)
        return True
    return False


async def _offline(config: Config, notices: tuple[str, ...], work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work`` with an appliance that is started for it and takes nothing else. Raises `StartError`."""
    storage = config.storage.path
    if os.geteuid() == 0 and storage.exists() and storage.stat().st_uid != 0:
        owner = storage.owner()
        raise StartError(
            f"No appliance runs, and files of root in {storage} would lock it out: sudo -u {owner} edge import …"
        )
    appliance = Appliance(config, notices, offline=True)
    ready = asyncio.Event()
    serving = asyncio.ensure_future(appliance.run(lambda _: ready.set()))
    waiting = asyncio.ensure_future(ready.wait())
    try:
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        await work()
    finally:
        waiting.cancel()
        appliance.stop()
        await asyncio.wait((serving,))


async def _nothing() -> None:
    """Show nothing."""


async def _show(running: Import) -> None:
    """Show progress on stderr: a bar on a terminal, else a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        await _show_lines(running)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[files]}"),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("counting", total=None, files="")
        try:
            while True:
                tally = running.tally
                progress.update(
                    task,
                    description=f"waiting: {tally.waits}" if tally.waits else "importing",
                    total=max(1, tally.bytes),
                    completed=running.bytes_done(),
                    files=f"{tally.files_done} of {tally.files} files",
                )
                await asyncio.sleep(_REDRAW)
        finally:
            progress.update(task, completed=running.bytes_done(), files=f"{running.tally.files_done} files")


async def _show_lines(running: Import) -> None:
    begun = time.monotonic()
    while True:
        await asyncio.sleep(_LINE_EVERY)
        tally, done = running.tally, running.bytes_done()
        rate = done / (time.monotonic() - begun)
        left = f", {(tally.bytes - done) / rate:.0f} s left" if rate else ""
        waits = f", waiting: {tally.waits}" if tally.waits else ""
        click.echo(f"{tally.files_done} of {tally.files} files, {rate / 1e6:.1f} MB/s{left}{waits}", err=True)


def _summary(tally: Tally) -> dict[str, object]:
    return {
        "taken": tally.objects[Fate.TAKEN],
        "already_there": tally.objects[Fate.ALREADY],
        "not_dicom": tally.objects[Fate.NOT_DICOM],
        "refused": tally.failures(),
        "reasons": [*tally.broken, *tally.refused],
    }


def _print(tally: Tally, *, as_json: bool) -> None:
    if as_json:
        print_json(_summary(tally))
        return
    objects = tally.objects
    click.echo(f"taken          {objects[Fate.TAKEN]}")
    click.echo(f"already there  {objects[Fate.ALREADY]}")
    click.echo(f"not DICOM      {objects[Fate.NOT_DICOM]}")
    click.echo(f"refused        {tally.failures()}")
    named = [*tally.broken, *tally.refused]
    for refusal in named:
        click.echo(f"  {refusal.path}: {refusal.why}")
    if tally.failures() > len(named):
        click.echo(f"  and {tally.failures() - len(named)} more")


def _again(then: str, *, again: bool) -> str:
    """Say what to do next; with ``--again``, what was taken until now would be taken once more."""
    return then.replace("again:", "again, but without --again:") if again else then
