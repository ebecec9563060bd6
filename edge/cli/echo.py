"""`edge echo DEST`: does a destination answer? From this machine, whether or not the appliance runs."""

import time
from pathlib import Path

import click

from edge.cli.main import BAD_USAGE, config_option, fail, json_option, print_json, read_config, run_async
from edge.clock import SystemClock
from edge.config import DimseDestination, FolderDestination
from edge.dicom import status
from edge.dicom.requestor import NoContextError, connect
from edge.dicom.uids import IMPLICIT_LITTLE, VERIFICATION
from edge.forward.dimse import FAILURES, ORIGINAL, address_of, diagnose
from edge.tls import TlsError, client_context


@click.command()
@click.argument("destination")
@config_option
@json_option
def echo(destination: str, config_path: Path | None, *, as_json: bool) -> None:
    """Verify a destination: TCP, TLS where configured, association, C-ECHO."""
    config = read_config(config_path).config
    found = next((d for d in config.destination if d.name == destination), None)
    if found is None:
        known = ", ".join(d.name for d in config.destination) or "none"
        fail(f"There is no destination {destination!r}; the configuration has: {known}.", BAD_USAGE)
    if isinstance(found, FolderDestination):
        problem = "" if found.path.is_dir() else f"{found.path} is not there: is it mounted?"
        seconds = 0.0
    elif isinstance(found, DimseDestination):
        seconds, problem = run_async(lambda: _echo(found))
    else:
        fail("This type of destination is not in this version yet.")
    if as_json:
        print_json({"destination": destination, "ok": not problem, "seconds": round(seconds, 3), "problem": problem})
    if problem:
        if not as_json:
            fail(f"{destination}: {problem}")
        raise SystemExit(1)
    if not as_json:
        click.echo(f"{destination} answers ({seconds * 1000:.0f} ms)")


async def _echo(destination: DimseDestination) -> tuple[float, str]:
    """Return how long it took and what is wrong, or ''."""
    title = destination.calling_ae_title
    try:
        context = client_context(destination.tls) if destination.tls is not None else None
    except TlsError as e:
        return 0.0, f"TLS cannot be used: tls.{e.key}: {e}."
    address = address_of(destination, "EDGE" if title == ORIGINAL else title, context)
    begun = time.monotonic()
    try:
        requestor = await connect(address, [(VERIFICATION, (IMPLICIT_LITTLE,))])
        try:
            code = await requestor.echo()
        except NoContextError:
            await requestor.release()
            return time.monotonic() - begun, "it takes associations, but no C-ECHO"
        await requestor.release()
    except FAILURES as e:
        return time.monotonic() - begun, diagnose(e, destination, trusted=SystemClock().trusted()).detail
    taken = time.monotonic() - begun
    return taken, "" if code == status.SUCCESS else status.meaning(code)
