"""Spanish wherever a technician looks: the catalogue is whole; findings, light, answers and pages are said in it."""

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog
from click.testing import CliRunner
from rich.console import Console

from edge.cli.main import main as edge
from edge.cli.reads import show
from edge.config import Device, DimseDestination
from edge.findings import CODES, Journal
from edge.forward.outcome import Refused, Unreachable, from_status
from edge.forward.reach import diagnose
from edge.safety import DestinationView, StudyView, safe_to_delete
from edge.status.lights import LIGHTS
from edge.translator import parts, translator
from edge.web.public import general
from scripts.catalogues import extract
from scripts.catalogues.__main__ import LANGUAGES, main, path_of, read, untranslated, updated, written
from scripts.catalogues.extract import Said, UnmarkedError, collect, of_code, of_template
from tests import snapshots
from tests.fakes import ManualClock
from tests.stored import Stored, instance
from tests.web import Served

spanish = translator("es").translate
PERCENT = re.compile(r"%\((\w+)\)s|%%")


def catalogue(language: str = "es") -> Catalog:
    return read(path_of(language), language)


def entries() -> list[tuple[str, str]]:
    """Every text with its translation; of plurals each form."""
    found = []
    for message in catalogue():
        if isinstance(message.id, (tuple, list)):
            found += list(zip(message.id, message.string or (), strict=True))
        elif message.id:
            found.append((message.id, str(message.string)))
    return found


def places(text: str) -> set[str]:
    if "%(" in text:
        return set(PERCENT.findall(text))
    try:
        return set(parts(text)[1])
    except ValueError:
        return set(re.findall(r"\{.*?\}", text))


# the catalogue


def test_the_catalogues_are_what_the_code_says_all_of_it_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_nothing_is_guessed_or_left_over() -> None:
    assert [message.id for message in catalogue() if message.id and message.fuzzy] == []
    assert list(catalogue().obsolete) == []


def test_every_place_of_the_english_stands_in_the_translation() -> None:
    assert [(text, said) for text, said in entries() if places(text) != places(said)] == []


def test_a_sentence_keeps_its_end() -> None:
    wrong = [(text, said) for text, said in entries() if text[-1] in ".?:…" and said[-1] != text[-1]]
    assert wrong == []
    assert [(text, said) for text, said in entries() if text[:1].isspace() != said[:1].isspace()] == []


def test_every_template_of_the_core_is_found_again_in_what_was_made_of_it() -> None:
    for text, said in entries():
        names = () if "%(" in text or "= …" in text else parts(text)[1]
        # what has next to no words of its own is known by its place only, such as "CT1 at 10.0.0.1"
        if names and sum(c.isalpha() for c in extract.bare(text)) >= 4:
            values = {name: f"{name.upper()}7" for name in names}
            assert spanish(text.format(**values)) == said.format(**values), text


def test_a_new_text_is_named_until_it_is_translated_and_dropped_when_nobody_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "page.md"
    assert main([], tmp_path, document) == 1
    assert "es: not translated: Ready; transferring." in capsys.readouterr().err
    assert not document.exists()
    path_of("es", tmp_path).write_bytes(path_of("es").read_bytes())
    assert main([], tmp_path, document) == 0
    assert main(["--check"], tmp_path, document) == 0
    path_of("es", tmp_path).with_suffix(".mo").write_bytes(b"")
    assert main(["--check"], tmp_path, document) == 1
    left = [one for one in collect() if one.text != "Ready; transferring."]
    assert "Ready; transferring." not in updated(catalogue(), left, "es")
    more = updated(catalogue(), [*left, Said("x.py", "More.")], "es")
    assert untranslated(more) == ["More."]
    assert written(more) == written(more)


def test_what_is_said_is_a_literal() -> None:
    assert [one.text for one in of_code("edge/x.py", 'from edge.phrase import say\nsay("{a} is b", a=1)')] == [
        "{a} is b"
    ]
    assert [one.many for one in of_code("edge/x.py", 'language.ngettext("one", "many", 2)')] == ["many"]
    assert [one.text for one in of_template("x.html", '<p>{{ _("Now") }}{{ say(it) }}</p>')] == ["Now"]
    for source in ('from edge.phrase import say\nsay(f"{a} is b")', "language.gettext(text)", 'N_("a" + b)'):
        with pytest.raises(UnmarkedError):
            list(of_code("edge/x.py", source))
    with pytest.raises(ValueError, match="just a name"):
        list(of_code("edge/x.py", 'from edge.phrase import say\nsay("{a:g} is b", a=1)'))


def test_there_is_a_catalogue_for_each_language_that_may_be_configured() -> None:
    assert set(LANGUAGES) | {"en"} == set(Device.__annotations__["language"].__args__)
    assert extract.ROOT.joinpath("docs/es/avisos.md").exists()


# what people live on


@pytest.mark.parametrize("code", LIGHTS)
def test_every_light_is_said(code: str) -> None:
    light = LIGHTS[code]
    assert "" not in {light.text, light.color, light.pattern}
    assert spanish(light.text) != light.text


@pytest.mark.parametrize("code", CODES)
def test_every_finding_is_said_through_the_journal_with_and_without_its_detail(code: str) -> None:
    journal = Journal(ManualClock())
    journal.note(code, "disk", "the disk is full up to its reserve.")
    (finding,) = journal.open()
    said = spanish(finding.text)
    assert said != finding.text
    assert "{" not in said
    assert ("disco está lleno hasta su reserva" in said) == ("{detail}" in CODES[code].text)
    assert spanish(finding.advice) != finding.advice
    assert len(general(code)) > 10
    assert spanish(general(code)) != general(code)


def test_a_destination_that_is_down_says_why_in_spanish_wherever_the_text_has_been() -> None:
    destination = DimseDestination(name="pacs", host="pacs.example.org", port=104, ae_title="PACS")
    why = diagnose(ConnectionRefusedError(111, "Connection refused"), destination)
    assert isinstance(why, Unreachable)
    assert spanish(why.detail) == "pacs.example.org puerto 104 rechaza las conexiones: ¿está funcionando el PACS?"
    assert spanish(f"pacs: {why.detail}") == f"pacs: {spanish(why.detail)}"
    refused = from_status(0x0122, "not here")
    assert isinstance(refused, Refused)
    assert spanish(refused.detail) == "El receptor no acepta esta SOP Class (estado 0122). Dice: not here"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "PACS takes associations from EDGE; PDUs of up to 16 KiB",
            "PACS acepta asociaciones de EDGE; PDU de hasta 16 KiB",
        ),
        ("it takes CT, dose reports; not NM", "acepta CT, informes de dosis; no NM"),
        ("it answered that it stored it: Coerced", "respondió que la guardó: Coerced"),
        ("mqtts://b:8883: it sent a packet without an end.", "mqtts://b:8883: envió un paquete sin fin."),
        (
            "it would have to go as X, and cannot be re-encoded without doubt: its fragments are no whole items.",
            "tendría que ir como X, y no se puede recodificar con certeza: sus fragmentos no son ítems completos.",
        ),
        (
            "A sender at 10.0.0.9 broke the protocol: a command set is too long.",
            "Un emisor en 10.0.0.9 no respetó el protocolo: un comando es demasiado largo.",
        ),
    ],
)
def test_what_stands_in_a_sentence_is_said_too(text: str, said: str) -> None:
    assert spanish(text) == said


PACS = {"destination": "pacs", "received": 212}
ANSWERS: list[tuple[str, dict[str, int], dict[str, Any], str]] = [
    ("NAMED", {"verified": 212}, {"named": True}, "Las 212 imágenes que el equipo nombró: todo verificado por pacs."),
    (
        "RECEIVED",
        {"accepted": 212},
        {},
        "Todo lo recibido está a salvo (212): compare ese número con el del equipo. Está aceptado por pacs.",
    ),
    (
        "RECEIVING",
        {"verified": 212},
        {"complete": False},
        "Todavía llegan imágenes: 212 hasta ahora, todo verificado por pacs.",
    ),
    ("LOST", {"verified": 212}, {"lost": 2}, "Perdidas o dañadas en este dispositivo antes de entregarse: 2 de 212."),
    ("HELD", {"verified": 211, "held": 1}, {}, "Retenidas hasta que una persona decida: 1 de 212 para pacs."),
    (
        "REFUSED",
        {"verified": 211, "declined": 1},
        {},
        "Descartadas, o no aceptadas por el destino: 1 de 212 para pacs.",
    ),
    ("NO_DESTINATION", {"verified": 212}, {"unrouted": 3}, "Guardadas aquí y sin enviar a ningún lado: 3 de 212."),
    ("WAITING", {"queued": 212}, {}, "Todavía no entregadas: 212 de 212 para pacs."),
    ("UNPROVEN", {"accepted": 212, "unproven": 5}, {}, "Aceptadas, pero aún sin verificar: 5 de 212 para pacs."),
]


@pytest.mark.parametrize(("code", "counts", "more", "text"), ANSWERS, ids=[answer[0] for answer in ANSWERS])
def test_every_answer_to_safe_to_delete_is_said(
    code: str, counts: dict[str, int], more: dict[str, Any], text: str
) -> None:
    values: dict[str, Any] = dict.fromkeys(
        ("uid", "patient_id", "patient_name", "accession", "date", "description"), ""
    )
    values |= dict.fromkeys(("id", "latest", "lost", "quarantined", "unrouted"), 0) | {"received": 212}
    values |= dict.fromkeys(("first_received", "last_received"), 0.0) | {"modalities": ("CT",), "clock_trusted": True}
    values |= {"complete": True, "reopened": False, "named": False}
    values |= {"destinations": (DestinationView(destination="pacs", received=212, **counts),)}
    safety = safe_to_delete(StudyView(**(values | more)))
    assert safety.code == code
    assert spanish(safety.text) == text
    assert spanish(safety.advice).startswith(
        {"yes": "El estudio se puede borrar", "received": "Si el equipo también muestra 212", "no": "No borre"}[
            safety.answer
        ]
    )


# faces


def test_the_status_is_printed_in_the_language_of_the_device() -> None:
    finding = snapshots.finding("DISK_FILLING", "storage", count=3)
    out = io.StringIO()
    show(snapshots.snapshot(destinations=["pacs"], findings=[finding]), Console(file=out, width=200), translator("es"))
    said = out.getvalue()
    assert "G1 verde, fijo" in said
    assert "CT room: recibidos 40 (1000 B) desde el arranque; en espera 3 (300 B), el más antiguo desde hace" in said
    assert re.search(r"destino +estado +en cola +enviando +aceptado +verificado +retenido", said)
    assert "atención: secret (3 veces)" in said


async def test_the_commands_speak_as_configured_and_json_stays_english(tmp_path: Path) -> None:
    config, pacs = tmp_path / "edge.toml", '[[destination]]\nname = "pacs"\ntype = "folder"\npath = "/mnt/pacs"\n'
    config.write_text(f'[device]\nlanguage = "es"\n[storage]\npath = "{tmp_path}"\n{pacs}', encoding="utf-8")
    async with Stored(tmp_path) as box:
        await box.receive(instance(1))

    async def run(*arguments: str) -> str:
        invoked = await asyncio.to_thread(CliRunner().invoke, edge, [*arguments, "--config", str(config)])
        assert invoked.exit_code == 0, invoked.output
        return " ".join(invoked.output.split())

    assert "No se reciben imágenes: déjelas en la modalidad" in await run("status")
    assert "falla: El programa no está funcionando" in await run("status")
    assert '"text": "Not accepting images: keep them' in await run("status", "--json")
    assert "fecha paciente modalidad recibido dónde ¿se puede borrar?" in await run("studies")
    assert "pacs 0 de 1" in await run("studies")
    assert "todavía no: Todavía no entregadas: 1 de 1 para pacs." in await run("studies")
    assert "Not delivered yet: 1 of 1 for pacs." in await run("studies", "--json")
    assert json.loads(await run("check", "--json"))["not_in_this_version"] == []


async def test_a_page_is_in_the_language_of_its_reader_also_what_the_core_said(tmp_path: Path) -> None:
    shown = snapshots.snapshot(
        destinations=["pacs"], findings=[snapshots.finding("DESTINATION_DOWN", "destination.pacs")]
    )
    async with Served(tmp_path, shown) as served:
        client = served.client()
        english = (await client.get("/", headers={"accept-language": "en"})).text
        asked = (await client.get("/?lang=es")).text
        kept = (await client.get("/", headers={"accept-language": "en"})).text
    assert '<html lang="en"' in english
    assert "A destination cannot be reached." in english
    for page in (asked, kept):
        assert '<html lang="es"' in page
        assert "No se puede llegar a un destino." in page
        assert "A destination cannot be reached." not in page
        assert "No es un sistema de alarma médica." in page
