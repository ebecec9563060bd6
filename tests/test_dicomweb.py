"""The pieces of DICOMweb that need no server: answers in JSON and XML, bodies, Retry-After."""

import codecs
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edge.dicomweb.answer import Stored, UnreadableError, instances, stored
from edge.dicomweb.multipart import CHUNK, Multipart, Part, Read
from edge.dicomweb.native import NotXmlError, items
from edge.dicomweb.retry import retry_after

JSON = "application/dicom+json"
XML = "application/dicom+xml"
HEAD = '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'


def sequence(tag: str, *inner: str) -> str:
    rows = "".join(f'<Item number="{i}">{row}</Item>' for i, row in enumerate(inner, 1))
    return f'<DicomAttribute tag="{tag}" vr="SQ">{rows}</DicomAttribute>'


def value(tag: str, *texts: str) -> str:
    rows = "".join(f'<Value number="{i}">{text}</Value>' for i, text in enumerate(texts, 1))
    return f'<DicomAttribute tag="{tag}" vr="UI">{rows}</DicomAttribute>'


# JSON


def test_lists_are_read_by_uid() -> None:
    answer = {
        "00081190": {"vr": "UR", "Value": ["http://a/b"]},
        "00081199": {
            "vr": "SQ",
            "Value": [
                {"00081155": {"vr": "UI", "Value": ["1.2\0"]}},
                {"00081155": {"vr": "UI", "Value": ["1.3 "]}, "00081196": {"vr": "US", "Value": [45056]}},
            ],
        },
        "00081198": {"vr": "SQ", "Value": [{"00081155": {"Value": ["1.4"]}, "00081197": {"Value": [42752]}}]},
    }
    assert stored(JSON, json.dumps(answer).encode()) == Stored({"1.2": None, "1.3": 0xB000}, {"1.4": 0xA700})
    assert stored("", json.dumps([answer]).encode()) == Stored({"1.2": None, "1.3": 0xB000}, {"1.4": 0xA700})


@pytest.mark.parametrize(
    "odd",
    [
        {"00081199": {"vr": "SQ"}},
        {"00081199": None},
        {"00081199": {"Value": None}},
        {"00081199": {"Value": [None, {}, {"00081155": None}, {"00081155": {"Value": [None, 7]}}]}},
        {},
    ],
)
def test_what_names_nothing_lists_nothing(odd: object) -> None:
    assert stored(JSON, json.dumps(odd).encode()) == Stored({}, {})


def test_what_is_listed_with_a_reason_why_it_failed_has_failed() -> None:
    def listed(reason: int) -> Stored:
        item = {"00081155": {"Value": ["1.2"]}, "00081197": {"Value": [reason]}}
        return stored(JSON, json.dumps({"00081199": {"Value": [item]}}).encode())

    assert listed(0xA700) == Stored({}, {"1.2": 0xA700})
    assert listed(0) == Stored({"1.2": None}, {})


def test_a_mark_of_the_byte_order_is_no_matter() -> None:
    answer = b'{"00081199": {"Value": [{"00081155": {"Value": ["1.2"]}}]}}'
    xml = HEAD + sequence("00081199", value("00081155", "1.2")) + "</NativeDicomModel>"
    for media_type, body in ((JSON, answer), ("", answer), (XML, xml.encode()), ("", xml.encode())):
        assert stored(media_type, codecs.BOM_UTF8 + body) == Stored({"1.2": None}, {})
    assert instances(JSON, codecs.BOM_UTF8 + b'[{"00080018": {"Value": ["1.2"]}}]') == ("1.2",)


@pytest.mark.parametrize("reason", ["A700", -1, 70000000, 1.5, {}, "", True, [[[]]], 10**4000])
def test_a_reason_that_is_none_is_unknown(reason: object) -> None:
    failed = {"00081198": {"Value": [{"00081155": {"Value": ["1.2"]}, "00081197": {"Value": [reason]}}]}}
    assert stored(JSON, json.dumps(failed).encode()) == Stored({}, {"1.2": 0})


def test_a_reason_may_be_text() -> None:
    failed = {"00081198": {"Value": [{"00081155": {"Value": ["1.2"]}, "00081197": {"Value": ["42752"]}}]}}
    assert stored(JSON, json.dumps(failed).encode()).failed == {"1.2": 0xA700}


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        (JSON, b"{"),
        (JSON, b'{"00081199": {"Value": [{"00081155": {"Value": "1.2"}}]}}'),
        (JSON, b'"text"'),
        (JSON, b"\xff\xfe"),
        (JSON, b"[" * 100_000),
        (JSON, b'{"00081199": {"Value": [{"00081155": {"Value": ' + b"[" * 100_000),
        ("text/html", b"<html></html>"),
        ("text/html", b'{"00081199": {"Value": [{"00081155": {"Value": ["1.2"]}}]}}'),
        ("text/plain", b"stored"),
        ("", b"<html></html>"),
        ("application/xml", b"<html></html>"),
        (XML, b"<NativeDicomModel>"),
    ],
)
def test_what_is_no_answer_is_unreadable(media_type: str, body: bytes) -> None:
    with pytest.raises(UnreadableError) as told:
        stored(media_type, body)
    assert str(told.value)


def test_instances_of_a_query_are_read() -> None:
    rows = [{"00080018": {"vr": "UI", "Value": ["1.2"]}, "00280010": {"vr": "US", "Value": [512]}}, {}]
    assert instances(JSON, json.dumps(rows).encode()) == ("1.2",)
    assert instances("", b"") == ()
    for media_type, body in ((JSON, b"{}"), ("text/html", b"<html>"), (JSON, b'[{"00080018": {"Value": 1}}]')):
        with pytest.raises(UnreadableError):
            instances(media_type, body)


# XML


def test_the_native_model_says_the_same() -> None:
    text = HEAD + sequence(
        "00081199",
        value("00081150", "1.2.840") + value("00081155", "1.2"),
        value("00081155", "1.3") + value("00081196", "45056"),
    )
    text += sequence("00081198", value("00081155", " 1.4 ") + value("00081197", "42752"))
    text += sequence("0008119A", value("00081197", "49152")) + "</NativeDicomModel>"
    expected = Stored({"1.2": None, "1.3": 0xB000}, {"1.4": 0xA700}, (0xC000,))
    assert stored(XML, text.encode()) == expected
    assert stored("application/octet-stream", b'<?xml version="1.0"?>' + text.encode()) == expected
    assert stored("text/xml", text.encode("utf-16")) == expected


def test_a_uid_deeper_down_is_no_instance_of_the_list() -> None:
    inner = sequence("00081115", value("00081155", "6.6.6"))
    text = HEAD + sequence("00081199", inner + value("00081155", "1.2")) + inner + "</NativeDicomModel>"
    assert stored(XML, text.encode()).listed == {"1.2": None}


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    "document",
    [
        f'<!DOCTYPE x [<!ENTITY l0 "lol">{LAUGHS}]><NativeDicomModel>&l9;</NativeDicomModel>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd"><NativeDicomModel/>',
        '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><NativeDicomModel>&f;</NativeDicomModel>',
        "<!DOCTYPE x><NativeDicomModel/>",
        "<NativeDicomModel>&unknown;</NativeDicomModel>",
        '<?xml version="1.0" encoding="shift_jis"?><NativeDicomModel/>',
        '<?xml version="1.0" encoding="nothing"?><NativeDicomModel/>',
        '<?xml version="1.0" encoding="punycode"?><NativeDicomModel/>',
        "<NativeDicomModel>" + "<a>" * 10_000,
        "<NativeDicomModel/><NativeDicomModel/>",
        "",
    ],
)
def test_a_hostile_document_is_refused(document: str) -> None:
    with pytest.raises(NotXmlError):
        items(document.encode(), ())


def test_a_long_value_is_cut() -> None:
    text = HEAD + sequence("00081199", value("00081155", "1" * 1_000_000)) + "</NativeDicomModel>"
    ((_, found),) = items(text.encode(), {"00081155"})
    assert len(found["00081155"]) == 1024
    assert stored(XML, text.encode()).listed.get("1.2") is None


# bodies


class Opened:
    """The data of one part, and whether it stands open."""

    def __init__(self, data: bytes) -> None:
        self.data, self.open = data, 0

    @contextmanager
    def __call__(self) -> Iterator[Read]:
        at = 0
        self.open += 1

        async def read(count: int) -> bytes:
            nonlocal at
            at += count
            return self.data[at - count : at]

        try:
            yield read
        finally:
            self.open -= 1


@pytest.mark.parametrize("sizes", [(0,), (1,), (10, 0, 3), (CHUNK, CHUNK - 1, CHUNK + 1), (5, 3 * CHUNK + 7, 9)])
async def test_a_body_is_as_long_as_it_says_and_parts_again(sizes: tuple[int, ...]) -> None:
    datas = [hashlib.sha256(bytes([i])).digest()[:1] * size for i, size in enumerate(sizes)]
    openers = [Opened(data) for data in datas]
    body = Multipart([Part(b"HEAD", len(o.data), o) for o in openers])
    for _ in range(2):
        pieces = [piece async for piece in body.stream()]
        whole = b"".join(pieces)
        assert len(whole) == body.length
        assert all(len(piece) <= 2 * CHUNK + 1000 for piece in pieces)
        boundary = b"--" + body.content_type.partition("boundary=")[2].encode()
        assert whole.startswith(boundary + b"\r\nContent-Type: application/dicom\r\n\r\n")
        assert whole.endswith(b"\r\n" + boundary + b"--\r\n")
        parts = whole.split(boundary)[1:-1]
        assert [part.partition(b"\r\n\r\n")[2] for part in parts] == [b"HEAD" + data + b"\r\n" for data in datas]
    assert {opener.open for opener in openers} == {0}


# Retry-After


def test_a_date_is_compared_with_the_servers_own_clock() -> None:
    headers = {"retry-after": "Fri, 01 Jan 1999 00:01:30 GMT", "date": "Fri, 01 Jan 1999 00:00:00 GMT"}
    assert retry_after(headers, 1_800_000_000.0) == 90.0
    assert retry_after({"retry-after": headers["retry-after"]}, 1_800_000_000.0) == 0.0
    assert retry_after({"retry-after": "9" * 400}, 0.0) == 3600.0
    assert retry_after({"retry-after": "٣"}, 0.0) is None
    assert retry_after({}, 0.0) is None
    beyond = "Wed, 21 Oct 2015 07:28:00 +99999999999999999999"
    assert retry_after({"retry-after": beyond}, 0.0) is None
    assert retry_after(headers | {"date": beyond}, 915_148_800.0) == 90.0
