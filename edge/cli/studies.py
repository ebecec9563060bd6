"""`edge studies`: what was received, where it is, and what is safe to delete from the scanner."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge.cli.main import config_option, fail, json_option, print_json, read_config, run_async
from edge.config import Config
from edge.findings import printable
from edge.local import STUDIES, NotRunningError, Request, ask
from edge.phrase import N_
from edge.safety import Safety, StudyView, safe_to_delete
from edge.store import Reading, StoreError, StudyFilter, read_studies
from edge.translator import Translator, translator

_COLORS: Final = {"yes": "green", "received": "green", "no": "yellow"}
_ANSWERS: Final = {"yes": N_("yes"), "received": N_("compare"), "no": N_("not yet")}
_OF: Final = N_("{name} {n} of {total}")
_COLUMNS: Final = (
    N_("date"),
    N_("patient"),
    N_("modality"),
    N_("received"),
    N_("where"),
    N_("safe to delete?"),
)
_WIDE: Final = 200
_DATE: Final = len("YYYYMMDD")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One study as JSON has it."""

    study: StudyView
    safe_to_delete: Safety


def _date(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    """Refuse what would be compared with dates and be none."""
    if text and not (len(text) == _DATE and text.isascii() and text.isdigit()):
        raise click.BadParameter(f"{text!r} is no date such as 20261127")
    return text


@click.command()
@click.argument("name", required=False, default="")
@config_option
@json_option
@click.option("--id", "patient_id", default="", help="Patient ID, or how it begins.")
@click.option("--accession", default="", help="Accession number, or how it begins.")
@click.option("--modality", default="", help="Such as CT.")
@click.option("--uid", default="", help="The Study Instance UID.")
@click.option("--since", default="", metavar="YYYYMMDD", callback=_date, help="Study date, the earliest.")
@click.option("--until", default="", metavar="YYYYMMDD", callback=_date, help="Study date, the latest.")
@click.option("--most", default=20, type=click.IntRange(1, 200), show_default=True, help="How many studies.")
def studies(
    name: str,
    config_path: Path | None,
    patient_id: str,
    accession: str,
    modality: str,
    uid: str,
    since: str,
    until: str,
    most: int,
    *,
    as_json: bool,
) -> None:
    """List studies, the latest first, and whether each is safe to delete from the scanner.

    NAME: words of the patient's name.
    """
    which = StudyFilter(
        uid=uid,
        patient_name=name,
        patient_id=patient_id,
        accession=accession,
        modality=modality,
        first_date=since,
        last_date=until,
    )
    config = read_config(config_path).config
    try:
        found = find(config, which, most)
    except StoreError as e:
        fail(str(e))
    if as_json:
        print_json([Row(study=study, safe_to_delete=safe_to_delete(study)) for study in found])
    elif not found:
        click.echo(translator(config.device.language).translate(N_("no such study")))
    else:
        _show(found, translator(config.device.language))


def find(config: Config, which: StudyFilter, most: int) -> list[StudyView]:
    """Ask the running appliance, or else its store. Raises `StoreError`."""

    async def main() -> list[StudyView]:
        storage = config.storage.path
        try:
            said = await ask(storage, Request(command=STUDIES, which=which, most=most))
        except NotRunningError:
            reading = await Reading.open(storage)
            try:
                return await read_studies(reading, which, most)
            finally:
                await reading.close()
        try:
            return msgspec.convert(said, list[StudyView])
        except msgspec.ValidationError as e:
            raise StoreError("The appliance that runs is of another version: restart it.") from e

    return run_async(main)


def _show(found: Sequence[StudyView], into: Translator) -> None:
    spoken = into.translate
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    table = Table(*map(spoken, _COLUMNS), box=None)
    for column in table.columns:  # half a name may be another's
        column.overflow = "fold"
    for study in found:
        safety = safe_to_delete(study)
        there = [(d.destination, d.accepted + d.verified, d.received) for d in study.destinations]
        where = ", ".join(spoken(_OF).format(name=name, n=n, total=total) for name, n, total in there)
        answer = f"[bold {_COLORS[safety.answer]}]{spoken(_ANSWERS[safety.answer])}[/]: {escape(spoken(safety.text))}"
        patient = " ".join(filter(None, (study.patient_id, study.patient_name))) or spoken(N_("(no name)"))
        table.add_row(
            _plain(study.date),
            _plain(patient),
            _plain("/".join(study.modalities)),
            str(study.received),
            escape(where),
            answer,
        )
    console.print(table)


def _plain(text: str) -> str:
    """What a scanner wrote, without what a terminal would obey."""
    return escape(printable(text))
