"""`edge demo`: the whole main job on this machine, with an outage you can watch."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import click
from rich.console import Console

from edge.cli.main import config_option, fail
from edge.demo.story import DemoError, forever, once


@click.command()
@click.option("--once", "one_outage", is_flag=True, help="One outage to its end; exit 0 only if all arrived.")
@click.option("--images", default=400, show_default=True, type=click.IntRange(1, 5000), help="Images in a study.")
@config_option
def demo(*, one_outage: bool, images: int, config_path: object) -> None:
    """Show an appliance between a modality and a PACS that comes and goes."""
    del config_path  # taken as by every command; the demonstration makes its own
    console = Console()
    try:
        if one_outage:
            good = asyncio.run(_until_interrupted(once(images, console)))
            sys.exit(0 if good else 1)
        asyncio.run(_until_interrupted(forever(images, console)))
    except DemoError as e:
        fail(str(e))


async def _until_interrupted(story: Coroutine[Any, Any, bool | None]) -> bool | None:
    """Let SIGTERM and Ctrl-C end the story in order."""
    task = asyncio.ensure_future(story)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        click.echo("ended")
        return False
