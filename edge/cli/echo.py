"""`edge echo DEST`: does a destination answer? From this machine, whether or not the appliance runs."""

from pathlib import Path

import click

from edge.cli.main import config_option, destination_named, fail, json_option, print_json, read_config, run_async
from edge.clock import SystemClock
from edge.forward.probe import probe


@click.command()
@click.argument("destination")
@config_option
@json_option
def echo(destination: str, config_path: Path | None, *, as_json: bool) -> None:
    """Verify a destination: TCP, TLS where configured, association and C-ECHO, or a query by DICOMweb."""
    found = destination_named(read_config(config_path).config, destination)
    said = run_async(lambda: probe(found, trusted=SystemClock().trusted()))
    problem = said.problem
    if as_json:
        seconds = round(said.seconds, 3)
        print_json({"destination": destination, "ok": not problem, "seconds": seconds, "problem": problem})
    if problem:
        if not as_json:
            fail(f"{destination}: {problem}")
        raise SystemExit(1)
    if not as_json:
        click.echo(f"{destination} answers ({said.seconds * 1000:.0f} ms)")
