"""The findings and the light in Spanish, as a page of the documentation: written from the catalogue."""

from typing import Final

from babel.messages.catalog import Catalog

from edge.findings import CODES, Severity
from edge.status.lights import TABLE
from edge.web.public import general
from scripts.catalogues.extract import ROOT

PAGE: Final = ROOT / "docs" / "es" / "avisos.md"
_GRAVITY: Final = {Severity.INFO: "nota", Severity.WARNING: "atención", Severity.ERROR: "falla"}
_HEAD: Final = """# Luz y avisos

Esta página se escribe con `scripts/catalogue`; no la corrija a mano. Cada aviso, en detalle y en inglés, está en
[findings.md](../findings.md); la luz, en [lights.md](../lights.md). No es un sistema de alarma médica.
"""


def page(catalogue: Catalog) -> str:
    """Return the page. Raises KeyError for a sentence that the catalogue lacks."""
    lights = [
        f"| {row.light.code} | {_said(catalogue, row.light.color)}, {_said(catalogue, row.light.pattern)} "
        f"| {_said(catalogue, row.light.text)} |"
        for row in TABLE
    ]
    findings = [
        f"| `{code.name}` | {_GRAVITY[code.severity]} | {_said(catalogue, general(code.name))} "
        f"| {_said(catalogue, code.advice)} |"
        for code in CODES.values()
    ]
    return "\n".join(
        [
            _HEAD,
            "## La luz",
            "",
            "| código | luz | qué dice |",
            "|---|---|---|",
            *lights,
            "",
            "## Los avisos",
            "",
            "| código | gravedad | qué pasa | qué hacer |",
            "|---|---|---|---|",
            *findings,
            "",
        ]
    )


def _said(catalogue: Catalog, text: str) -> str:
    message = catalogue.get(text)
    if message is None or not isinstance(message.string, str):
        raise KeyError(text)
    return message.string.replace("|", "\\|")
