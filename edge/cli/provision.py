"""`edge provision`: sets the box up from the file on its card, at each start; and judges such a file at a desk."""

import os
import sys
from pathlib import Path

import click

from edge.cli.main import BAD_USAGE, config_option, fail
from edge.provision import boot, node, standing
from edge.provision.card import lying
from edge.provision.faults import FaultsError
from edge.provision.places import CONFIGURATION, Places
from edge.provision.system import Folder, Machine

_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command()
@config_option
@click.option("--from", "folder", type=_FOLDER, help="Where provision.toml lies; else /boot/firmware.")
@click.option("--check", "checked", type=_FOLDER, help="Only judge the files in this folder, on any computer.")
@click.option("--request", is_flag=True, help="Print the request for a certificate of this box, for IT to sign.")
@click.option("--root", type=_FOLDER, default=Path("/"), help="Write a box that lies in this folder.")
def provision(
    config_path: Path | None, folder: Path | None, checked: Path | None, root: Path, *, request: bool
) -> None:
    """Set the box up from provision.toml on its card, whole or not at all. For root, at each start."""
    places = Places(root.resolve(), (config_path or CONFIGURATION).absolute())
    if checked is not None:
        _check(checked)
        return
    if request:
        _request(places)
        return
    if places.real and os.geteuid() != 0:
        fail("Only root sets a box up; to try a provision.toml use: edge provision --check FOLDER")
    outcome = boot.start(places, Machine() if places.real else Folder(), folder)
    for text in outcome.said:
        click.echo(text)
    for text in (*outcome.refused, *outcome.failed):
        click.echo(f"edge: {text}", err=True)
    if outcome.refused:
        sys.exit(BAD_USAGE)
    if outcome.failed:
        sys.exit(1)


def _check(folder: Path) -> None:
    from edge.provision.judge import judge  # noqa: PLC0415 - large, and not for each start

    source = lying(folder, "provision.toml")
    if source is None:
        fail(f"There is no provision.toml in {folder}.", BAD_USAGE)
    try:
        judged = judge(folder, source, None)
    except FaultsError as e:
        for fault in e.faults:
            click.echo(f"edge: {fault}", err=True)
        sys.exit(BAD_USAGE)
    for note in judged.notes:
        click.echo(f"note: {note}")
    what = "with the configuration" if judged.configuration else "without a configuration: the box keeps its own"
    click.echo(f"ok; {what}")


def _request(places: Places) -> None:
    path = standing.storage(places) / "identity" / node.REQUEST
    try:
        click.echo(path.read_text("ascii"), nl=False)
    except FileNotFoundError:
        fail(f"There is no {path}: run edge provision as root first.")
    except OSError as e:
        fail(f"{path} cannot be read ({e.strerror or e}): run this as root, or as the user of the service.")
