import re
import tomllib
import typing
from pathlib import Path
from types import NoneType

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge import configfile, tomllines
from edge.config import (
    Config,
    Device,
    DicomwebDestination,
    DimseDestination,
    FolderDestination,
    Modality,
    Receive,
    ReportTo,
    Route,
    Watch,
)
from edge.configfile import LATER, ConfigError, Problem, load, parse

DOCUMENT = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")

TAKEN = """\
[device]
name = "CT room"
site = "Posta San Juan"
language = "es"

[storage]
path = "/var/lib/edge"
reserve = "2GiB"
keep_delivered = "72h"

[receive]
ae_title = "EDGE"                   # also ae_titles = [...], ports = [104, 11112]
address = "0.0.0.0"
port = 11112
accept = "known"
max_associations = 32

[[modality]]
name = "CT1"
ae_title = "CT1"
address = "192.168.10.20"
commitment = { host = "192.168.10.20", port = 104, ae_title = "CT1" }

[[watch]]
path = "/srv/import"
settle = "5s"
after = "move"

[[destination]]
name = "pacs"
type = "dimse"
host = "pacs.example.org"
port = 104
ae_title = "PACS"
associations = 16
verify = "commitment"
calling_ae_title = "EDGE"
unsupported = "hold"
timeouts = { connect = "10s", response = "60s" }
max_pdu = "256KiB"
hours = "20:00-06:00"
rate_limit = "8Mbit/s"

[[destination]]
name = "archive"
type = "folder"
path = "/mnt/archive"

[[route]]
to = ["pacs", "archive"]
priority = "stat"

[commitment]
answer = "delivered"

[mqtt]
url = "mqtts://broker.example.org:8883"
ca_file = "..."
certificate_file = "..."
key_file = "..."
home_assistant = false

[dashboard]
address = "127.0.0.1"
port = 8080

[lights]
driver = "none"
"""

PACS = """\
[[destination]]
name = "pacs"
type = "dimse"
host = "h"
ae_title = "A"
"""
"""Five lines of a destination without fault."""


NO_URL = 'this is not an address of the right kind; write for example "mqtts://host.example.org"'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


def problem(text: str) -> str:
    (only,) = problems(text)
    return only


def refused(text: str) -> tuple[Problem, ...] | None:
    """Return the problems of ``text``; None if it is taken."""
    try:
        parse(text)
    except ConfigError as error:
        return error.problems
    return None


# what is taken


def test_the_contract_is_taken() -> None:
    loaded = parse(TAKEN)
    config = loaded.config
    assert config.device == Device(name="CT room", site="Posta San Juan", language="es")
    assert config.storage.reserve == 2 * 2**30
    assert config.receive == Receive()
    assert config.modality == (
        Modality(
            name="CT1",
            ae_title="CT1",
            address="192.168.10.20",
            commitment=ReportTo(host="192.168.10.20", ae_title="CT1"),
        ),
    )
    assert config.watch == (Watch(path=Path("/srv/import")),)
    pacs, archive = config.destination
    assert pacs == DimseDestination(
        name="pacs",
        host="pacs.example.org",
        ae_title="PACS",
        verify="commitment",
        hours=(1200, 360),
        rate_limit=1_000_000,
    )
    assert archive == FolderDestination(name="archive", path=Path("/mnt/archive"))
    assert (pacs.type, archive.type) == ("dimse", "folder")
    assert config.route == (Route(to=("pacs", "archive"), priority="stat"),)
    assert config.mqtt is not None
    assert config.mqtt.url == "mqtts://broker.example.org:8883"


def test_what_is_not_acted_on_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configfile, "LATER", (configfile.Later("device.language", save="en"),))
    assert parse(TAKEN).notices == ("device.language",)
    assert parse(PACS + 'verify = "none"').notices == ()


def test_an_empty_file_is_the_defaults() -> None:
    assert parse("") == configfile.Loaded(Config(), ())


def test_titles_and_ports() -> None:
    assert (Receive().titles, Receive().all_ports) == (("EDGE",), (11112,))
    receive = parse('[receive]\nae_titles = ["PACS ", "a b"]\nports = [104, 11112]').config.receive
    assert (receive.titles, receive.all_ports) == (("PACS", "a b"), (104, 11112))
    assert parse("[receive]\nports = [0, 0]").config.receive.all_ports == (0, 0)


def test_values_are_read_as_the_types_say() -> None:
    config = parse(
        """
        receive.timeouts = { request = "500ms", idle = "1h" }
        receive.max_object = "1GiB"
        receive.private_storage = false
        receive.address = "fe80::1%eth0"
        modality = [{ name = "Sala 1", ae_title = "CT", address = "10.0.0.0/8" }]
        """
    ).config
    assert config.receive.timeouts.request == 0.5
    assert config.receive.timeouts.idle == 3600
    assert config.receive.max_object == 2**30
    assert config.receive.private_storage is False
    assert config.modality[0].address == "10.0.0.0/8"


STORED = '[storage]\npath = "/var/lib/edge"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            STORED + '[[watch]]\npath = "/var/lib"',
            "line 4: watch[1].path: it would take the appliance's own files from storage.path",
        ),
        (
            STORED + '[[watch]]\npath = "/var/lib/edge/spool/ready"',
            "line 4: watch[1].path: it would take the appliance's own files from storage.path",
        ),
        (
            '[[watch]]\npath = "/"',
            "line 2: watch[1].path: it would take the appliance's own files from storage.path",
        ),
        (
            '[[destination]]\nname = "a"\ntype = "folder"\npath = "/mnt/a"\n[[watch]]\npath = "/mnt"',
            "line 6: watch[1].path: it would take back what a destination of type folder was given",
        ),
        (
            '[[watch]]\npath = "/x/a"\n[[watch]]\npath = "/y/a"',
            'line 3: watch[2].name: another watch is called "a" too; give it a name',
        ),
        (
            '[[watch]]\npath = "/x"\n[[watch]]\npath = "/x/b"',
            "line 4: watch[2].path: it lies in another watch, or that in it: files would go twice",
        ),
        (
            PACS + '[[watch]]\npath = "/x/usa"\n[[route]]\nto = ["pacs"]\nwhen = { watch = "uas" }',
            'line 10: route[1].when.watch: no watch is called "uas"; did you mean "usa"?',
        ),
    ],
)
def test_watches_that_cannot_be_meant_are_refused(text: str, said: str) -> None:
    assert problem(text) == said


@pytest.mark.parametrize("verify", ["query", "commitment", "commitment-or-query", "none"])
def test_a_destination_by_dicomweb_proves_in_each_of_the_ways(verify: str) -> None:
    cloud = f'[[destination]]\nname = "a"\ntype = "dicomweb"\nurl = "https://a.example.org"\nverify = "{verify}"'
    loaded = parse(cloud)
    assert (loaded.config.destination[0].verify, loaded.notices) == (verify, ())


def test_destinations_of_several_types_are_read() -> None:
    config = parse(
        PACS + 'tls = { ca_file = "c" }\n'
        '[[destination]]\nname = "cloud"\ntype = "dicomweb"\nurl = "https://cloud.example.org"\n'
        '[[route]]\nto = ["cloud"]\nwhen = { modality = ["CT", "MR"], calling = "A*" }'
    ).config
    assert config.destination[1] == DicomwebDestination(name="cloud", url="https://cloud.example.org")
    assert config.route[0].when.modality == ("CT", "MR")
    assert config.route[0].when.calling == ("A*",)


# every kind of error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[receive]\nprot = 5", 'line 2: receive.prot: unknown key; did you mean "port"?'),
        ("[recieve]\nport = 5", 'line 1: recieve: unknown key; did you mean "receive"?'),
        (
            "[lights]\nzzz = 5",
            (
                "line 2: lights.zzz: unknown key; known here: driver, red, green, blue, multicolor, chip, "
                "red_line, green_line, blue_line, active_low, path"
            ),
        ),
        ('[device]\n"a b\\n" = 5', 'line 2: device."a b?": unknown key; known here: name, site, language'),
        (PACS + "Host = 1", 'line 6: destination.pacs.Host: unknown key; did you mean "host"?'),
        # types
        (
            'receive.port = "104"',
            "line 1: receive.port: expected a whole number from 0 to 65535, not text in quotes",
        ),
        (
            "receive.port = true",
            "line 1: receive.port: expected a whole number from 0 to 65535, not true or false",
        ),
        (
            "receive.port = 1.5",
            "line 1: receive.port: expected a whole number from 0 to 65535, not a number with a point",
        ),
        (
            "receive.private_storage = 1",
            "line 1: receive.private_storage: expected true or false, not a whole number",
        ),
        (
            "device.name = 2024-01-01",
            'line 1: device.name: expected a name such as "CT 1", in quotes, not a date or time',
        ),
        ("receive.ports = 104", "line 1: receive.ports: expected a list, not a whole number"),
        ("receive.timeouts = 10", "line 1: receive.timeouts: expected a table, not a whole number"),
        ("receive = 5", "line 1: receive: expected a table, not a whole number"),
        ("\n[[receive]]\nport = 1", "line 2: receive: write [receive], in single brackets"),
        ('[destination]\nname = "x"', "line 1: destination: write [[destination]], in double brackets"),
        ("destination = [\n5\n]", "line 2: destination[1]: expected a table, not a whole number"),
        (
            "[receive.timeouts]\nidle = 30",
            'line 2: receive.timeouts.idle: expected a duration such as "10s", in quotes, not a whole number',
        ),
        # ranges and choices
        ("receive.port = 65536", "line 1: receive.port: expected a whole number from 0 to 65535, not 65536"),
        (
            "receive.ports = [1,\n-1]",
            "line 2: receive.ports[2]: expected a whole number from 0 to 65535, not -1",
        ),
        ("receive.ports = [1, 1]", "line 1: receive.ports[2]: it is given twice"),
        (
            PACS + "associations = 65",
            "line 6: destination.pacs.associations: expected a whole number from 1 to 64, not 65",
        ),
        ('receive.accept = "all"', 'line 1: receive.accept: expected "known" or "any", not "all"'),
        ("receive.accept = false", 'line 1: receive.accept: expected "known" or "any", not true or false'),
        (
            'receive.max_pdu = "1B"',
            'line 1: receive.max_pdu: "1B" is out of range; it must be from "4KiB" to "1MiB"',
        ),
        (
            'receive.timeouts.idle = "0s"',
            'line 1: receive.timeouts.idle: "0s" is out of range; it must be from "1ms" to "24h"',
        ),
        (
            'storage.reserve = "2"',
            'line 1: storage.reserve: "2" has no unit; write for example "256KiB", "16MB" or "2GiB"',
        ),
        # AE titles
        ('receive.ae_title = ""', "line 1: receive.ae_title: an AE title cannot be empty or all spaces"),
        ('receive.ae_title = "   "', "line 1: receive.ae_title: an AE title cannot be empty or all spaces"),
        (
            'receive.ae_title = "0123456789ABCDEFG"',
            "line 1: receive.ae_title: an AE title has at most 16 characters, this one has 17",
        ),
        *(
            (
                f"receive.ae_titles = ['A', '{title}']",
                (
                    "line 1: receive.ae_titles[2]: an AE title is made of plain letters, digits and signs, "
                    "without backslash or accents"
                ),
            )
            for title in ("A\\B", "SALÓN", "A\tB")
        ),
        # names, hosts, addresses, paths
        ('device.name = " "', "line 1: device.name: it cannot be empty"),
        (f'device.site = "{"x" * 65}"', "line 1: device.site: it must be one line of at most 64 characters"),
        (
            'dashboard.address = "http://x"',
            ('line 1: dashboard.address: "http://x" is not a host; write a name or an address, without port or "//"'),
        ),
        *(
            (
                f'dashboard.address = "{bad}"',
                f'line 1: dashboard.address: "{bad}" is not a host; write a name or an address, without port or "//"',
            )
            for bad in ("x" * 64, "a..b", "-a.b")
        ),
        (
            'modality = [{ name = "a", ae_title = "A", address = "ct.local" }]',
            (
                'line 1: modality.a.address: "ct.local" is not an address; '
                'write for example "192.168.10.20" or "192.168.10.0/24"'
            ),
        ),
        (
            'mqtt.url = "http://x"',
            f"line 1: mqtt.url: {NO_URL}",
        ),
        (
            'mqtt.url = "mqtts://[x"',
            f"line 1: mqtt.url: {NO_URL}",
        ),
        (
            'mqtt.url = "mqtts://x:99999"',
            f"line 1: mqtt.url: {NO_URL}",
        ),
        (
            'storage.path = ""',
            ("line 1: storage.path: this is not the path of a file or folder; write one such as /etc/edge/key.pem"),
        ),
        # what is missing
        (
            '[[destination]]\ntype = "dimse"\nname = "p"\nae_title = "A"',
            'line 1: destination.p.host: missing; write a host such as "pacs.example.org" or "192.168.10.5"',
        ),
        (
            '\n[[destination]]\nname = "p"',
            'line 2: destination.p.type: missing; write "dimse", "dicomweb" or "folder"',
        ),
        (
            PACS.replace("dimse", "dicom"),
            'line 3: destination.pacs.type: expected "dimse", "dicomweb" or "folder"',
        ),
        (PACS + "[[route]]", "line 6: route[1].to: missing; write a list"),
        (
            'modality = [{ name = "a", ae_title = "A", commitment = { ae_title = "A" } }]',
            (
                "line 1: modality.a.commitment.host: missing; "
                "the modality has no single address to which reports could go"
            ),
        ),
        (
            PACS + 'verify = "commitment-or-query"\ncalling_ae_title = "original"',
            (
                "line 6: destination.pacs.verify: its reports would go to the modality; "
                'use "query", or a calling_ae_title of this box'
            ),
        ),
        # names that stand twice, and routes to nowhere
        (PACS + PACS, 'line 7: destination.pacs.name: another destination is called "pacs" too'),
        (
            'modality = [{ name = "a", ae_title = "A" },\n{ name = "a", ae_title = "B" }]',
            'line 2: modality.a.name: another modality is called "a" too',
        ),
        (
            PACS + '[[route]]\nto = ["pcas"]',
            'line 7: route[1].to[1]: no destination is called "pcas"; did you mean "pacs"?',
        ),
        (
            '[[route]]\nto = ["x"]',
            'line 2: route[1].to[1]: no destination is called "x"; add a [[destination]] of that name',
        ),
        ("[[route]]\nto = []", "line 2: route[1].to: it is empty; name at least one destination"),
        (PACS + '[[route]]\nto = ["pacs", "pacs"]', "line 7: route[1].to[2]: it is given twice"),
    ],
)
def test_each_error(text: str, said: str) -> None:
    assert problem(text) == said


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a+", "#", "ñ", "x" * 65])
def test_a_destination_is_named_with_plain_characters(name: str) -> None:
    assert "1 to 64 letters" in problem(PACS.replace("pacs", name))


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ('mqtt.url = "mqtt://h"\nmqtt.password = "hunter2"', 'use "password_file"'),
        (PACS + 'password = "hunter2"', 'use "password_file"'),
        (PACS + 'api_key = "hunter2"', 'use "password_file"'),
        (
            'mqtt.url = "mqtt://h"\nmqtt.Token = "hunter2"',
            '"password_file", "ca_file", "certificate_file" or "key_file"',
        ),
        ('mqtt.url = "mqtt://u:hunter2@h"', '"username" and "password_file"'),
        ('mqtt.url = "mqtt://h"\nmqtt.key_file = "-----BEGIN\\nhunter2"', "not the path of a file"),
    ],
)
def test_secrets_are_refused_and_never_repeated(text: str, use: str) -> None:
    said = problem(text)
    assert use in said
    assert "hunter2" not in said


CLOUD = '[[destination]]\nname = "c"\ntype = "dicomweb"\nurl = "https://h/dicom-web/"\n'


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ('type = "basic"', ["username: missing", "password_file: missing"]),
        ('type = "basic", username = "", password_file = "/p"', ["username: missing"]),
        ('type = "bearer"', ["token_file: missing"]),
        ('type = "oauth2", client_id = "x"', ["token_url: missing", "client_secret_file: missing"]),
        ('type = "google", scope = "x"', ["service_account_file: missing"]),
        ('token_file = "/t"', ['token_file: it does nothing with type "none"']),
        ('type = "bearer", token_file = "/t", username = "x"', ['username: it does nothing with type "bearer"']),
        ('type = "bearer", token_file = "/t"', []),
    ],
)
def test_a_login_has_what_its_type_needs_and_nothing_else(auth: str, said: list[str]) -> None:
    text = f"{CLOUD}auth = {{ {auth} }}"
    if not said:
        assert parse(text).config.destination[0].name == "c"
        return
    found = problems(text)
    assert len(found) == len(said)
    assert all(line.startswith(f"line 5: destination.c.auth.{start}") for line, start in zip(found, said, strict=True))


def test_where_a_service_begins_is_taken_without_its_last_slash() -> None:
    (cloud,) = parse(CLOUD).config.destination
    assert isinstance(cloud, DicomwebDestination)
    assert (cloud.url, cloud.secure) == ("https://h/dicom-web", True)
    (said,) = problems(CLOUD.replace("/dicom-web/", "/dicom-web?key=hunter2"))
    assert said == 'line 4: destination.c.url: it ends with its path, without "?" and "#"'


def test_a_secret_in_authentication_is_refused() -> None:
    (said,) = problems('[[destination]]\nname = "c"\ntype = "dicomweb"\nurl = "https://h"\nauth.token = "hunter2"')
    assert said == (
        "line 5: destination.c.auth.token: a secret never stands in the configuration; "
        'put it in a file of its own and use "token_file"'
    )


def test_every_error_is_reported_at_once_in_the_order_of_lines() -> None:
    said = problems(
        """\
[receive]
prot = 104
port = "104"
ae_title = "FAR TOO LONG A TITLE"
accept = "nobody"

[[destination]]
host = "pacs:104"
ae_title = "A"

[[destination]]
name = "cloud"
type = "dicomweb"
password = "x"

[[route]]
to = ["cloud", "pacs"]
[route.when]
modality = 5
"""
    )
    assert [line.split(": ")[:2] for line in said] == [
        ["line 2", "receive.prot"],
        ["line 3", "receive.port"],
        ["line 4", "receive.ae_title"],
        ["line 5", "receive.accept"],
        ["line 7", "destination[1].type"],
        ["line 7", "destination[1].name"],
        ["line 8", "destination[1].host"],
        ["line 11", "destination.cloud.url"],
        ["line 14", "destination.cloud.password"],
        ["line 17", "route[1].to[2]"],
        ["line 19", "route[1].when.modality"],
    ]


def test_a_broken_destination_is_no_unknown_one() -> None:
    assert problem(PACS + 'port = "x"\n[[route]]\nto = ["pacs"]').startswith("line 6: destination.pacs.port")


# not TOML, not a file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nport 5", "line 2: not valid TOML: Expected '=' after a key in a key/value pair"),
        ("a = 1\na = 2", "line 2: not valid TOML: Cannot overwrite a value"),
        ("a = 1\nb = ", "line 2: not valid TOML: Invalid value"),
        ('a = """x\n', "line 1: not valid TOML: Unterminated string"),
        ("a = " + "[" * 5000, "not valid TOML: brackets are nested too deeply"),
    ],
)
def test_not_toml(text: str, said: str) -> None:
    assert problem(text) == said


def test_numbers_without_bounds_do_no_harm() -> None:
    assert "not valid TOML" in problem("receive.port = " + "9" * 5000)
    assert "not a whole number" in problem("receive.port = 0x" + "f" * 5000)


def test_a_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TAKEN.replace("\n", "\r\n").encode())
    assert load(path) == parse(TAKEN)


def test_a_file_that_cannot_be_loaded(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes('[device]\nname = "Sal\u00f3n"'.encode("latin-1"))
    for path, said in (
        (tmp_path / "no", "there is no such file; create it, or name another with --config"),
        (tmp_path, "it cannot be read (Is a directory); it must be a file this user may read"),
        (Path("a\0b"), "this is no path of a file (embedded null byte)"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert [(p.line, p.text) for p in caught.value.problems] == [(None, said)]
    with pytest.raises(ConfigError) as caught:
        load(latin)
    assert str(caught.value) == f"line 2: {latin}: it is not UTF-8 text; save it again as UTF-8"


def test_problems_read_well() -> None:
    assert str(Problem(12, "a.b", "bad")) == "line 12: a.b: bad"
    assert str(Problem(None, "a.b", "bad")) == "a.b: bad"
    assert str(Problem(3, "", "bad")) == "line 3: bad"


# any text, and the lines

SCALARS = st.sampled_from(
    [
        "1",
        "-70000",
        "true",
        '"x"',
        "''",
        '"90s"',
        '"2GiB"',
        '"a#]}"',
        '"""\na"b\n"""',
        "'''\n''''",
        "1979-05-27 07:32:00",
        "inf",
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[ # [\n" + ",\n".join(items) + "\n]"),
        st.lists(inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"k{i} . a = {item}" for i, item in enumerate(items)) + "}"
        ),
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "device",
        "storage",
        "receive",
        "modality",
        "destination",
        "route",
        "mqtt",
        "name",
        "type",
        "host",
        "to",
        "when",
        "port",
        "ae_title",
        "tls",
        "timeouts",
        "commitment",
        '"quoted \\u00e9"',
        "'a.b'",
        "password",
        "path",
    ]
)
DOTTED = st.lists(KEYS, min_size=1, max_size=3).map(" . ".join)
STATEMENTS = st.one_of(
    DOTTED.map(lambda key: f"[ {key} ] # [x]"),
    KEYS.map(lambda key: f"[[{key}]]"),
    st.tuples(DOTTED, VALUES).map(" = ".join),
    st.sampled_from(["", "# = ", "\t"]),
)
DOCUMENTS = st.lists(STATEMENTS, max_size=12).map("\n".join)


@given(st.text() | DOCUMENTS)
@settings(max_examples=400, deadline=None)
@example("a = 1979-02-31")
@example("\ufeff")
@example("[a]\na.b.c = 1\n[a.b.d]")
@example("destination = [[]]\nroute = [[], {to = [[]]}, {to = {}}]\nmodality = [{name = [], commitment = {}}]")
@example("receive.accept = []\nreceive.tls = {}\nlights.driver = {}")
@example('destination = [{type = []}, {type = "dimse", name = {}}]')
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    found = refused(text)
    assert found is None or found
    assert all(str(problem).isprintable() for problem in found or ())


@given(st.sampled_from(TAKEN.splitlines()), VALUES)
def test_any_value_of_any_key_is_taken_or_refused_at_its_line(line: str, value: str) -> None:
    key = line.partition(" = ")[0]
    lines = [f"{key} = {value}" if this is line and " = " in line else this for this in TAKEN.splitlines()]
    assert all(problem.line is not None for problem in refused("\n".join(lines)) or ())


@given(DOCUMENTS)
@settings(max_examples=400, deadline=None)
def test_every_key_has_a_line_and_stands_on_it(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = tomllines.scan(text)
    rows = text.split("\n")
    for path in _paths(document, ()):
        assert path in lines
        if isinstance(path[-1], str) and path[-1].isalnum():
            assert path[-1] in rows[lines[path] - 1]


def _paths(value: object, path: tomllines.Path) -> list[tomllines.Path]:
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [found for key, item in inner for found in [(*path, key), *_paths(item, (*path, key))]]


def test_lines() -> None:
    assert tomllines.scan(
        'a.b = 1\r\n\r\n[[c]]\r\n[c.d]\r\n"e\\u0020f" = [\r\n1, # ]\r\n{g = """\r\n"""}]\r\n[[c]]'
    ) == {
        ("a",): 1,
        ("a", "b"): 1,
        ("c",): 3,
        ("c", 0): 3,
        ("c", 0, "d"): 4,
        ("c", 0, "d", "e f"): 5,
        ("c", 0, "d", "e f", 0): 6,
        ("c", 0, "d", "e f", 1): 7,
        ("c", 0, "d", "e f", 1, "g"): 7,
        ("c", 1): 9,
    }


@given(st.text(alphabet="[]{}=.,#\"'\\ \nab1"))
def test_lines_of_no_toml_are_what_was_understood(text: str) -> None:
    assert all(line >= 1 for line in tomllines.scan(text).values())


# the document


def _structs(kind: type[msgspec.Struct], heading: str, path: str) -> dict[str, type[msgspec.Struct]]:
    """Every struct within ``kind`` by the heading that it has in the document."""
    found = {heading: kind} if heading else {}
    for field in msgspec.structs.fields(kind):
        inner = path + ("." if path else "") + field.name
        for part in _parts(field.type):
            if not isinstance(part, type) or not issubclass(part, msgspec.Struct):
                continue
            many = "tuple" in str(field.type)
            tag = part.__struct_config__.tag
            found |= _structs(
                part, (f"[[{inner}]]" if many else f"[{inner}]") + (f" of type {tag}" if tag else ""), inner
            )
    return found


def _parts(kind: object) -> list[object]:
    inner = [part for part in typing.get_args(kind) if part not in (NoneType, ...)]
    return [found for part in inner for found in _parts(part)] if inner else [kind]


def _tables() -> dict[str, list[list[str]]]:
    """The rows of each section's last table, by heading without backticks."""
    tables = {}
    for section in re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        rows = [
            [cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", body, re.MULTILINE)
        ]
        tables[heading.replace("`", "")] = rows[2:]
    return tables


STRUCTS = _structs(Config, "", "")


def test_every_section_is_in_the_document_and_nothing_else() -> None:
    assert set(_tables()) == {*STRUCTS, "How values are written", "Not in this version yet"}
    assert len(STRUCTS) == 22


@pytest.mark.parametrize("heading", STRUCTS)
def test_every_key_is_in_the_document_with_its_default(heading: str) -> None:
    kind = STRUCTS[heading]
    rows = {row[0].strip("`"): row[1] for row in _tables()[heading]}
    tag = kind.__struct_config__.tag_field
    assert list(rows) == [*([tag] if tag else []), *kind.__struct_fields__]
    for field in msgspec.structs.fields(kind):
        default = rows[field.name]
        if field.required:
            assert default == "*required*", field.name
        elif field.default in (None, ()):
            assert default == "*not set*", field.name
        elif isinstance(field.default, msgspec.Struct):
            assert default == "", field.name
            assert field.default == type(field.default)(), field.name
        else:
            raw = tomllib.loads(f"x = {default.strip('`')}")["x"]
            reader = configfile.Reader({}, {})
            value = reader.value(field.type, raw, ("x",))
            assert (value, reader.problems) == (field.default, []), field.name


def test_what_is_not_there_yet_is_in_the_document() -> None:
    rows = [[cell.replace("`", "") for cell in row] for row in _tables()["Not in this version yet"]]
    assert rows == [[later.key, f'not "{later.save}"' if later.save else "given", "noticed"] for later in LATER]


def test_the_example_in_the_document_is_taken_whole() -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    loaded = parse(text)
    assert [destination.name for destination in loaded.config.destination] == ["pacs", "archive"]
    assert loaded.notices == ()
