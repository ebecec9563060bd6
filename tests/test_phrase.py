"""Sentences of the core: made of templates, found again in plain text, said in another language."""

import gettext
import io
import struct
import time

import pytest

from edge.phrase import say, say_n
from edge.translator import Translator, parts


def translator(**entries: str) -> Translator:
    """Into a language that has these entries; an underscore in a key is a space."""
    texts = {"": "Content-Type: text/plain; charset=utf-8\n", **entries}
    keys = sorted(texts)
    ids, strings, offsets = b"", b"", []
    for key in keys:
        offsets.append((len(ids), len(key.encode()), len(strings), len(texts[key].encode())))
        ids += key.encode() + b"\0"
        strings += texts[key].encode() + b"\0"
    start = 28 + 16 * len(keys)
    head = struct.pack("<7I", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, 0)
    originals = b"".join(struct.pack("<2I", length, start + at) for at, length, _, _ in offsets)
    said = b"".join(struct.pack("<2I", length, start + len(ids) + at) for _, _, at, length in offsets)
    return Translator(gettext.GNUTranslations(io.BytesIO(head + originals + said + ids + strings)))


SPANISH = translator(
    **{
        "The disk is full.": "El disco está lleno.",
        "{where} does not answer: {why}.": "{where} no responde: {why}.",
        "it is asleep": "está dormido",
        "{host} port {port}": "{host} puerto {port}",
        "{count} of {total} for {name}": "{count} de {total} para {name}",
        "Not delivered yet: {counts}.": "Falta: {counts}.",
        "Attention: {detail}": "Atención: {detail}",
        "{left} GB are left for images": "quedan {left} GB para imágenes",
        "{who} was refused": "{who} fue rechazado",
        "{calling} at {address}": "{calling} en {address}",
        "verified by {verified}": "verificado por {verified}",
        "{names} and {name}": "{names} y {name}",
        "name": "nombre",
        "pacs": "ARCHIVO",
        "Write { port = … } there.": "Escriba { port = … } ahí.",
    }
)


def test_a_sentence_is_plain_text() -> None:
    text = say("{where} does not answer: {why}.", where="pacs", why="it is asleep")
    assert (type(text), text) == (str, "pacs does not answer: it is asleep.")


def test_one_thing_and_many_have_their_own_sentences() -> None:
    assert [say_n("one for {name}", "{n} for {name}", n, name="x") for n in (0, 1, 2)] == [
        "0 for x",
        "one for x",
        "2 for x",
    ]


def test_a_place_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        say("{where} is away", why="x")


@pytest.mark.parametrize("template", ["{}", "{0}", "{a.b}", "{a[0]}", "{a:>3}", "{a!r}"])
def test_a_place_is_a_name_and_no_more(template: str) -> None:
    with pytest.raises(ValueError, match="just a name"):
        parts(template)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The disk is full.", "El disco está lleno."),
        ("x port 104 does not answer: it is asleep.", "x puerto 104 no responde: está dormido."),
        ("Not delivered yet: 3 of 7 for a, 1 of 2 for b.", "Falta: 3 de 7 para a, 1 de 2 para b."),
        ("Attention: 3.2 GB are left for images", "Atención: quedan 3.2 GB para imágenes"),
        ("Attention: /srv/x: it is asleep", "Atención: /srv/x: está dormido"),
        ("CT 1 at 192.168.1.2 was refused", "CT 1 en 192.168.1.2 fue rechazado"),
        ("verified by a, b and c", "verificado por a, b y c"),
        ("Write { port = … } there.", "Escriba { port = … } ahí."),
        ("{where} does not answer: {why}.", "{where} no responde: {why}."),
    ],
)
def test_a_text_is_said_by_what_explains_most_of_it(text: str, said: str) -> None:
    assert SPANISH.translate(text) == said


@pytest.mark.parametrize(
    "text", ["", "Something new.", "a: b", "pacs", "x at y", "a and b", "{", "The disk is full. Really.", "x" * 3000]
)
def test_what_is_not_known_stays_as_it_is(text: str) -> None:
    assert SPANISH.translate(text) == ("ARCHIVO" if text == "pacs" else text)


def test_a_name_that_is_a_word_by_chance_stays_a_name() -> None:
    assert SPANISH.translate("verified by pacs") == "verificado por pacs"
    assert SPANISH.translate("3 of 7 for name") == "3 de 7 para name"


def test_what_a_peer_wrote_is_neither_translated_nor_filled_in() -> None:
    hostile = "{who.__class__} {0} it is asleep"
    assert SPANISH.translate(f"3 of 7 for {hostile}") == f"3 de 7 para {hostile}"


def test_without_a_catalogue_everything_stays() -> None:
    assert Translator().translate("The disk is full.") == "The disk is full."


@pytest.mark.parametrize(
    "piece", ["a: ", "x at ", "; ", ", ", " does not answer: ", " and ", "1 of 2 for ", "{", "Attention: ", ". "]
)
def test_no_text_is_slow_to_read(piece: str) -> None:
    begun = time.process_time()
    SPANISH.translate((piece * 2000)[:2000])
    assert time.process_time() - begun < 0.5
