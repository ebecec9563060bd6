"""`edge capabilities DEST`: what a destination takes and refuses, as it answered last. Asks nobody."""

from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge.cli.main import config_option, destination_named, fail, json_option, print_json, read_config, run_async
from edge.cli.reads import utc
from edge.config import Config
from edge.dicom.uids import class_name, syntax_name
from edge.findings import printable
from edge.store import Capability, Reading, StoreError

_WIDTH: Final = 250


@click.command()
@click.argument("destination")
@config_option
@json_option
def capabilities(destination: str, config_path: Path | None, *, as_json: bool) -> None:
    """Show what a destination takes and refuses, as it answered last, and when."""
    config = read_config(config_path).config
    destination_named(config, destination)
    try:
        rows = run_async(lambda: _known(config, destination))
    except StoreError as e:
        fail(str(e))
    if as_json:
        print_json([_document(row) for row in rows])
        return
    if not rows:
        click.echo(f"nothing was proposed to {destination} yet")
        return
    table = Table("answer", "SOP class", "transfer syntax", "asked", box=None)
    for row in rows:
        when = utc(row.at) + ("" if row.clock_trusted else " (clock not trusted)")
        named = (class_name(row.kind.sop_class_uid), syntax_name(row.kind.transfer_syntax_uid))
        table.add_row("takes" if row.taken else "refuses", *(Text(printable(name)) for name in named), when)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(table)


async def _known(config: Config, destination: str) -> list[Capability]:
    reading = await Reading.open(config.storage.path)
    try:
        return await reading.capabilities(destination)
    finally:
        await reading.close()


def _document(row: Capability) -> dict[str, object]:
    return {
        "sop_class_uid": row.kind.sop_class_uid,
        "transfer_syntax_uid": row.kind.transfer_syntax_uid,
        "taken": row.taken,
        "at": utc(row.at),
        "clock_trusted": row.clock_trusted,
    }
