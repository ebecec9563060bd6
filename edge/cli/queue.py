"""`edge queue`: the deliveries that a destination does not have yet, or those in one state, each with its last answer.

Nothing is left out for want of room: on a narrow terminal the long words stand below the short ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edge.cli.main import config_option, json_option, print_json, read_config
from edge.cli.reads import MOST_ANSWER, size, with_reading
from edge.findings import printable
from edge.states import DeliveryState
from edge.store import DeliveryRow
from edge.translator import translator

_COLUMNS: Final = (
    *("id", "destination", "state", "priority", "modality", "size", "tries"),
    *("SOP Instance UID", "last answer"),
)
_SHORT: Final = 7
"""So many of them are short."""
_WIDE: Final = 250
"""Characters on a line where no terminal says how many."""
_ROOMY: Final = 160
"""Characters from which on all columns stand side by side."""
_MOST_ROWS: Final = 10_000
"""So many deliveries are listed."""


@click.command()
@config_option
@json_option
@click.option("--destination", default="", help="Only deliveries to this destination.")
@click.option("--state", type=click.Choice([str(s) for s in DeliveryState]), help="Only deliveries in this state.")
def queue(config_path: Path | None, destination: str, state: str | None, *, as_json: bool) -> None:
    """List deliveries; without --state those that a destination does not have yet."""
    config = read_config(config_path).config
    if destination and destination not in {d.name for d in config.destination}:
        known = ", ".join(d.name for d in config.destination) or "none"
        click.echo(f"edge: note: {destination!r} is no destination of the configuration ({known})", err=True)
    wanted = DeliveryState(state) if state else None
    rows = with_reading(config, lambda r: r.queue(destination=destination, state=wanted, most=_MOST_ROWS + 1))
    if len(rows) > _MOST_ROWS:
        click.echo(f"edge: note: there are more; these are the oldest {_MOST_ROWS}", err=True)
        rows = rows[:_MOST_ROWS]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("nothing")
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=_WIDE)
    spoken = translator(config.device.language).translate
    lines = [_cells(row, spoken(row.detail)) for row in rows]
    if console.width < _ROOMY:
        _show_narrow(lines, console)
    else:
        _show_wide(lines, console)


def _cells(row: DeliveryRow, detail: str) -> list[str]:
    """What is said of a delivery, its last answer in words, one for each column, without what a terminal would obey."""
    return [
        str(row.id),
        row.destination,
        row.state,
        row.priority,
        printable(row.modality),
        size(row.bytes),
        str(row.attempts),
        printable(row.sop_instance_uid),
        printable(" ".join(filter(None, (row.code, detail))), MOST_ANSWER),
    ]


def _show_wide(lines: Sequence[Sequence[str]], console: Console) -> None:
    """Print a line a delivery."""
    table = Table(*_COLUMNS, box=None)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for cells in lines:
        table.add_row(*map(Text, cells))
    console.print(table)


def _show_narrow(lines: Sequence[Sequence[str]], console: Console) -> None:
    """Print the long cells, UID and answer, below the others: on 80 columns nothing is left out."""
    widths = [max(len(cells[at]) for cells in (_COLUMNS, *lines)) for at in range(_SHORT)]
    for cells in (_COLUMNS, *lines):
        short = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        console.print(Text(short.rstrip(), "bold" if cells is _COLUMNS else ""), soft_wrap=True)
        for cell in filter(None, cells[_SHORT:]):
            console.print(Padding(Text(cell), (0, 0, 0, 4)))
