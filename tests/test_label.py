"""The label of the box: on paper, on the command line, and what never stands on it."""

import re
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import segno
from click.testing import CliRunner, Result

from edge.cli.label import label as command
from edge.cli.logs import logs as logs_command
from edge.config import Config, Dashboard, Device, Receive, ReceiveTls
from edge.web import certificate
from edge.web.label import Label, columns, facts, in_lines, label, wrapped
from edge.web.label_svg import WIDTH, drawing, terminal
from edge.web.secret import Secrets
from tests.fakes import ManualClock
from tests.web import PASSWORD, stored_password

SVG = "{http://www.w3.org/2000/svg}"
PRINT = ":".join(f"{number:02X}" for number in range(32))


def made(**given: object) -> Label:
    tls = ReceiveTls(certificate_file=Path("c"), key_file=Path("k"))
    config = Config(
        device=Device(name="CT room", site="Posta San Juan"),
        receive=Receive(ae_titles=("EDGE", "EDGE2"), ports=(104, 11112), tls=tls),
        dashboard=Dashboard(**({"address": "0.0.0.0"} | given)),  # type: ignore[arg-type]
    )
    return label(config, "0123456789abcdef", ("192.168.10.7", "fd00::7"), code="ABCD-EFGH-JKMN", fingerprint=PRINT)


def test_everything_that_somebody_at_a_modality_types_is_on_it() -> None:
    told = dict(facts(made()))
    assert told["AE title"] == ("EDGE", "EDGE2")
    assert told["Port"] == ("104", "11112")
    assert told["Port with TLS"] == ("2762",)
    assert told["Address"] == ("192.168.10.7", "fd00::7")
    assert told["First-start code"] == ("ABCD-EFGH-JKMN",)
    assert [len(line) for line in told["Certificate (SHA-256)"]] == [23] * 4
    assert ":".join(told["Certificate (SHA-256)"]) == PRINT


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "https://192.168.10.7:8080/"),
        ({"port": 443}, "https://192.168.10.7/"),
        ({"hosts": ("ct.clinic.example.org",)}, "https://ct.clinic.example.org:8080/"),
        ({"address": "192.168.10.9"}, "https://192.168.10.9:8080/"),
        ({"address": "fd00::9"}, "https://[fd00::9]:8080/"),
        ({"address": "127.0.0.1"}, ""),
        ({"address": "::1"}, ""),
        ({"address": "localhost"}, ""),
        ({"enabled": False}, ""),
    ],
)
def test_the_address_of_the_dashboard_is_one_that_a_phone_can_open_or_none(given: dict[str, object], url: str) -> None:
    assert made(**given).url == url


def test_a_box_without_a_network_has_a_label_too() -> None:
    told = label(Config(dashboard=Dashboard(address="0.0.0.0")), "abc", ())
    assert (told.url, told.addresses, told.fingerprint) == ("", (), ())
    assert ET.fromstring(drawing(told)).tag == f"{SVG}svg"


def test_the_code_that_is_drawn_is_that_of_the_address() -> None:
    path = ET.fromstring(drawing(made())).find(f"{SVG}path")
    assert path is not None
    dark = {
        (int(y), int(x) + step)
        for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path.attrib["d"])
        for step in range(int(length))
    }
    expected = segno.make_qr("https://192.168.10.7:8080/", error="m").matrix
    assert dark == {(y, x) for y, row in enumerate(expected) for x, module in enumerate(row) if module}
    assert ET.fromstring(drawing(made(enabled=False))).find(f"{SVG}path") is None


def code_of(drawn: ET.Element) -> tuple[float, float, float]:
    """Where the QR code begins, from the left and from above, and where it ends."""
    path = drawn.find(f"{SVG}path")
    assert path is not None
    x, y, scale = map(float, re.findall(r"[\d.]+", path.attrib["transform"]))
    modules = 1 + max(int(row) for row in re.findall(r"M\d+ (\d+)h", path.attrib["d"]))
    return x, y, y + scale * modules


def test_what_is_drawn_stays_on_the_tape_and_covers_nothing() -> None:
    names = ("CT room", "X" * 64, "画像診断センター本館二階CT検査室" * 4, "a " * 32, "<b>&\"'")
    for name in names:
        config = Config(device=Device(name=name[:64], site=name[:64]), dashboard=Dashboard(address="0.0.0.0"))
        svg = drawing(label(config, "f" * 32, ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",) * 3, fingerprint=PRINT))
        drawn = ET.fromstring(svg)
        height = float(drawn.attrib["height"].removesuffix("mm"))
        left, top, bottom = code_of(drawn)
        ends = []
        for one in drawn.iter(f"{SVG}text"):
            size = float(one.attrib["font-size"])
            ends.append(float(one.attrib["y"]))
            right = float(one.attrib["x"]) + columns(one.text or "") * size * 0.6
            beside = top < ends[-1] and ends[-1] - size < bottom
            assert right <= (left if beside else WIDTH), one.text
        assert all(below > above for above, below in pairwise(ends))
        assert ends[-1] < height
        assert "style" not in svg


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("two words here", ["two words", "here"]),
        ("abcdefghijklm", ["abcdefghij", "klm"]),
        ("画像診断センター", ["画像診断セ", "ンター"]),
        ("", [""]),
    ],
)
def test_long_names_are_broken(text: str, lines: list[str]) -> None:
    assert wrapped(text, 10) == lines


def test_a_box_without_a_certificate_has_no_fingerprint() -> None:
    assert in_lines("") == ()


def test_a_code_in_a_terminal_is_square_and_quiet_around() -> None:
    lines = list(terminal("https://192.168.10.7:8080/"))
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == (len(lines[0]) + 1) // 2
    assert set(lines[0]) == set(lines[1]) == {"█"}


# the command


def run(folder: Path, *arguments: str, dashboard: str = "") -> Result:
    config = folder / "edge.toml"
    config.write_text(
        f'[device]\nname = "CT room"\n[storage]\npath = "{folder / "storage"}"\n[dashboard]\n{dashboard}\n',
        encoding="utf-8",
    )
    return CliRunner().invoke(command, ["--config", str(config), *arguments])


def box(folder: Path) -> Path:
    identity = folder / "storage" / "identity"
    identity.mkdir(parents=True)
    (identity / "device").write_text("0123456789abcdef\n", encoding="ascii")
    return identity


def test_the_command_prints_the_label_with_code_and_fingerprint(tmp_path: Path) -> None:
    identity = box(tmp_path)
    code = Secrets(identity).code()
    own = certificate.ensure(identity, ["ct-room"], ManualClock())
    done = run(tmp_path, dashboard='address = "0.0.0.0"\nhosts = ["ct.example.org"]')
    assert done.exit_code == 0
    assert re.search(rf"^First-start code +{code}$", done.output, re.MULTILINE)
    assert certificate.fingerprint(own)[:23] in done.output
    assert "https://ct.example.org:8080/" in done.output
    assert "█" in done.output
    plain = run(tmp_path, "--text", dashboard='address = "0.0.0.0"\nhosts = ["ct.example.org"]').output
    assert "█" not in plain
    assert code in plain


def test_the_command_draws_the_label(tmp_path: Path) -> None:
    box(tmp_path)
    drawn = ET.fromstring(run(tmp_path, "--svg").output)
    assert drawn.attrib["width"] == "62mm"


def test_a_label_changes_nothing_and_makes_no_code(tmp_path: Path) -> None:
    identity = box(tmp_path)
    assert "First-start code" not in run(tmp_path).output
    assert [path.name for path in identity.iterdir()] == ["device"]


def test_the_password_stands_on_no_label(tmp_path: Path) -> None:
    identity = box(tmp_path)
    code = Secrets(identity).code()
    (identity / "password").write_bytes(stored_password(PASSWORD))
    for arguments in ((), ("--svg",), ("--text",)):
        printed = run(tmp_path, *arguments).output
        assert code not in printed
        assert PASSWORD not in printed
        assert stored_password(PASSWORD).decode().strip() not in printed


def test_a_box_that_never_started_has_no_label(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.exit_code == 1
    assert "start the appliance once" in done.output


def test_a_certificate_that_is_none_is_said(tmp_path: Path) -> None:
    identity = box(tmp_path)
    (identity / certificate.NAME).write_text("nothing", encoding="ascii")
    done = run(tmp_path)
    assert done.exit_code == 1
    assert "holds no certificate" in done.output


# the command for the bundle


def bundled(folder: Path, *arguments: str) -> Result:
    run(folder)
    return CliRunner().invoke(logs_command, ["--config", str(folder / "edge.toml"), *arguments])


def test_a_bundle_is_written_for_its_owner_only_and_without_an_appliance(tmp_path: Path) -> None:
    box(tmp_path)
    out = tmp_path / "out.zip"
    done = bundled(tmp_path, "--output", str(out))
    assert done.exit_code == 0, done.output
    assert out.read_bytes()[:2] == b"PK"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert bundled(tmp_path, "--output", "-").stdout_bytes[:2] == b"PK"


@contextmanager
def small_files() -> Iterator[None]:
    """Have every write beyond a KB fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_bundle_that_cannot_be_written_whole_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    box(tmp_path)
    out = tmp_path / "out.zip"
    run(tmp_path)
    with small_files():
        done = CliRunner().invoke(logs_command, ["--config", str(tmp_path / "edge.toml"), "--output", str(out)])
    assert done.exit_code == 1
    assert "name another file with --output" in done.output
    assert not out.exists()
    assert bundled(tmp_path, "--output", str(tmp_path / "none" / "out.zip")).exit_code == 1


def test_a_bundle_is_written_over_nothing(tmp_path: Path) -> None:
    box(tmp_path)
    out, elsewhere = tmp_path / "out.zip", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    out.symlink_to(elsewhere)
    done = bundled(tmp_path, "--output", str(out))
    assert done.exit_code == 1
    assert "File exists" in done.output
    assert elsewhere.read_bytes() == b"mine"
    assert out.is_symlink()
