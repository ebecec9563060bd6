"""Setting a box up from its card: all or nothing, at any power cut, with every error told at once."""

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge.cli import main
from edge.clock import SystemClock
from edge.provision import boot, live, network, node, taking
from edge.provision.card import RESULT, Card
from edge.provision.faults import FaultsError
from edge.provision.judge import judge
from edge.provision.places import Places
from edge.provision.profile import Network, Profile
from edge.provision.system import Machine
from edge.web.certificate import ensure
from edge.web.secret import Secrets
from scripts.rigs.volume import Volume
from tests.peers.ports import require

ROOT: Final = Path(__file__).parents[1]
SITES: Final = ROOT / "firmware-config" / "site"
UNIT: Final = ROOT / "firmware-config" / "systemd" / "edge-provision.service"
PAGE: Final = ROOT / "docs" / "provisioning.md"
PASSWORD: Final = "radiografía nocturna"

FULL: Final = f"""
[box]
hostname = "Edge-CT"
timezone = "America/Lima"
[network]
address = "192.168.10.5/24"
gateway = "192.168.10.1"
dns = ["192.168.10.1", "192.168.10.2"]
ntp = "pool.ntp.org"
[dashboard]
password = "{PASSWORD}"
[files]
public = ["ca.pem"]
private = ["token"]
"""
CONFIGURATION: Final = """
[[destination]]
name = "cloud"
type = "dicomweb"
url = "https://cloud.example.org/dicom-web"
auth = { type = "bearer", token_file = "/etc/edge/token" }
tls = { ca_file = "/etc/edge/ca.pem" }
"""


class Fake:
    """A system that remembers what it was asked."""

    def __init__(self, name: str = "localhost") -> None:
        self.name = name
        self.given: list[Path] = []
        self.readable: list[Path] = []
        self.mounts: list[bool] = []
        self.ran: list[tuple[str, ...]] = []

    def hostname(self) -> str:
        return self.name

    def set_hostname(self, name: str) -> None:
        self.name = name

    def give(self, path: Path) -> None:
        self.given.append(path)

    def let_read(self, path: Path) -> None:
        self.readable.append(path)

    def remount(self, folder: Path, *, writable: bool) -> None:
        assert folder.is_dir()
        self.mounts.append(writable)

    def sync(self) -> None:
        pass

    def run(self, *words: str) -> None:
        self.ran.append(words)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "box")
    made.firmware.mkdir(parents=True)
    zones = made.at("/usr/share/zoneinfo/America")
    zones.mkdir(parents=True)
    (zones / "Lima").touch()
    return made


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = ensure(tmp_path_factory.mktemp("pem"), ["here"], SystemClock())
    return path.read_text()


def put(places: Places, pem: str, text: str = FULL, configuration: str = CONFIGURATION) -> None:
    (places.firmware / "provision.toml").write_text(text)
    (places.firmware / "edge.toml").write_text(configuration)
    (places.firmware / "ca.pem").write_text(pem)
    (places.firmware / "token").write_text("s3cret\n")


def below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def answer(places: Places) -> str:
    return (places.firmware / RESULT).read_text("utf-8-sig")


def faults(places: Places, text: str, configuration: str | None = None) -> list[str]:
    source = places.firmware / "provision.toml"
    source.write_text(text)
    if configuration is not None:
        (places.firmware / "edge.toml").write_text(configuration)
    with pytest.raises(FaultsError) as e:
        judge(places.firmware, source, places)
    return str(e.value).splitlines()


def at_rest(places: Places, found: str) -> None:
    """What the program of that name found at this start."""
    places.at_rest.parent.mkdir(parents=True, exist_ok=True)
    places.at_rest.write_text(f"{found}\n")


# what is taken


def test_everything_is_taken_and_the_card_keeps_no_secret(places: Places, pem: str) -> None:
    put(places, pem)
    system = Fake()
    outcome = boot.start(places, system)
    assert outcome == boot.Outcome(("provision.toml was taken from the card",))
    assert places.configuration.read_text() == CONFIGURATION
    assert stat.S_IMODE(places.configuration.stat().st_mode) == 0o640
    token = places.settings / "token"
    assert (token.read_text(), stat.S_IMODE(token.stat().st_mode)) == ("s3cret\n", 0o640)
    assert system.readable == [token, places.configuration]
    assert stat.S_IMODE((places.settings / "ca.pem").stat().st_mode) == 0o644
    assert places.hostname.read_text() == "edge-ct\n"
    assert system.name == "edge-ct"
    assert str(places.at("/run/edge-system/localtime").readlink()) == "/usr/share/zoneinfo/America/Lima"
    assert places.at("/run/systemd/network/10-edge.network").read_text() == places.network.read_text()
    assert places.at("/run/chrony-edge/edge.sources").read_text() == "server pool.ntp.org iburst\n"
    assert Secrets(places.at("/var/lib/edge/identity")).verify(PASSWORD)
    assert sorted(below(places.firmware)) == ["ca.pem", RESULT]
    said = answer(places)
    assert "was taken" in said
    for fact in ("edge-ct", "192.168.10.5/24, gateway 192.168.10.1", node.device(places.at("/var/lib/edge"))):
        assert fact in said
    assert PASSWORD not in said
    assert not places.record.exists()


STORAGE: Final = '[storage]\nencryption = "tpm"\nrecovery_key = "seven words that nobody else has"\n'


def test_what_was_encrypted_is_told_and_its_recovery_key_is_wiped(places: Places, pem: str) -> None:
    at_rest(places, "tpm")
    put(places, pem, FULL + STORAGE)
    assert boot.start(places, Fake()).refused == ()
    assert "encrypted, the key in the TPM" in answer(places)
    assert not [name for name, data in below(places.root).items() if b"seven words" in data]


@pytest.mark.parametrize(
    ("found", "text", "said"),
    [
        (None, STORAGE, "line 1: storage: only a card of the image"),
        ("none", STORAGE, "line 2: storage.encryption: this card is in use already, and not encrypted"),
        ("card", STORAGE, 'line 2: storage.encryption: this box is encrypted with "card"'),
        ("tpm another recovery key", STORAGE, "line 3: storage.recovery_key: it is not the one"),
        ("tpm", '[storage]\nencryption = "tpm"\n', "line 1: storage: give encryption and recovery_key"),
        ("tpm", STORAGE.replace("seven words that nobody else has", "short"), "line 3: storage.recovery_key: "),
        ("tpm", STORAGE.replace("tpm", "disk"), "line 2: storage.encryption: "),
    ],
)
def test_encryption_that_is_not_that_of_the_box_is_refused(
    places: Places, found: str | None, text: str, said: str
) -> None:
    if found is not None:
        at_rest(places, found)
    (fault,) = faults(places, text)
    assert fault.startswith(f"provision.toml: {said}"), fault
    assert "seven words" not in fault


def test_a_second_start_changes_nothing(places: Places, pem: str) -> None:
    put(places, pem)
    boot.start(places, Fake())
    before = below(places.root)
    assert boot.start(places, Fake("edge-ct")) == boot.Outcome()
    assert below(places.root) == before


def test_only_what_the_file_says_changes(places: Places, pem: str) -> None:
    put(places, pem)
    boot.start(places, Fake())
    before = below(places.root)
    (places.firmware / "provision.toml").write_text('[box]\nhostname = "other"\n')
    boot.start(places, Fake())
    after = below(places.root)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {f"boot/firmware/{RESULT}", "var/lib/edge-system/hostname"}


def test_a_hash_is_taken_as_the_password(places: Places, tmp_path: Path) -> None:
    Secrets(tmp_path / "elsewhere").set(PASSWORD)
    hashed = (tmp_path / "elsewhere" / "password").read_text().strip()
    (places.firmware / "provision.toml").write_text(f"[dashboard]\npassword_hash = '{hashed}'\n")
    assert not boot.start(places, Fake()).refused
    assert Secrets(places.at("/var/lib/edge/identity")).verify(PASSWORD)


def test_a_file_is_found_as_an_editor_names_it(places: Places) -> None:
    (places.firmware / "provision.toml.txt").write_bytes(b'\xef\xbb\xbf[box]\r\nhostname = "edge-1"\r\n')
    boot.start(places, Fake())
    assert places.hostname.read_text() == "edge-1\n"
    assert sorted(below(places.firmware)) == [RESULT]


# a box that nobody has set up


def test_a_box_that_nobody_set_up_runs_and_says_how_to_go_on(places: Places) -> None:
    system = Fake("edge")
    boot.start(places, system)
    device = node.device(places.at("/var/lib/edge"))
    assert system.name == f"edge-{device[:6]}"
    assert f'name = "{system.name}"' in places.configuration.read_text()
    assert CliRunner().invoke(main, ["check", "--config", str(places.configuration)]).exit_code == 0
    assert Secrets(places.at("/var/lib/edge/identity")).waiting_code() in answer(places)
    assert f"https://{system.name}.local/" in answer(places)


def test_a_configuration_and_a_name_that_are_there_are_left_alone(places: Places) -> None:
    places.settings.mkdir(parents=True)
    places.configuration.write_text('[device]\nname = "mine"\n')
    system = Fake("radiology-7")
    assert boot.start(places, system) == boot.Outcome()
    assert places.configuration.read_text() == '[device]\nname = "mine"\n'
    assert (system.name, places.hostname.exists()) == ("radiology-7", False)


def test_who_the_box_is_is_made_once_and_is_the_appliances_own(places: Places) -> None:
    system = Fake()
    boot.start(places, system)
    identity = places.at("/var/lib/edge/identity")
    before = below(identity)
    assert set(before) >= {"device", "device.key", "device.csr"}
    assert {identity / name for name in before if name != "first-code"} <= set(system.given)
    assert stat.S_IMODE((identity / "device.key").stat().st_mode) == 0o600
    request = x509.load_pem_x509_csr(before["device.csr"])
    key = request.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert request.is_signature_valid
    (name,) = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == before["device"].decode().strip()
    printed = CliRunner().invoke(main, ["provision", "--request", "--root", str(places.root)])
    assert printed.output.encode() == before["device.csr"]
    (identity / "device.csr").unlink()
    boot.start(places, system)
    assert below(identity)["device.key"] == before["device.key"]
    again = x509.load_pem_x509_csr(below(identity)["device.csr"])
    assert again.public_key() == key


def test_a_spool_that_was_brought_is_counted_on(places: Places) -> None:
    ready = places.at("/var/lib/edge/spool/ready")
    for shard in range(256):
        (ready / f"{shard:02x}").mkdir(parents=True)
    places.at("/var/lib/edge/spool/incoming").mkdir()
    places.at("/var/lib/edge/quarantine").mkdir()
    (places.at("/var/lib/edge/quarantine") / f"{7 << 20}.dcm").touch()
    node.ensure(places.at("/var/lib/edge"), Fake())
    assert (places.at("/var/lib/edge/identity/session")).read_text() == "8\n"


# what is wrong


def test_every_error_is_told_at_once_and_nothing_changes(places: Places, pem: str) -> None:
    put(places, pem)
    boot.start(places, Fake())
    text = FULL.replace("hostname", "hostnme").replace('192.168.10.1"\n', '192.168.11.1"\n').replace("ca.pem", "b.pem")
    put(places, pem, text, CONFIGURATION.replace("url", "ulr"))
    before = below(places.root)
    outcome = boot.start(places, Fake())
    after = below(places.root)
    assert {name for name in before | after if before.get(name) != after.get(name)} == {f"boot/firmware/{RESULT}"}
    assert outcome.refused == (
        'provision.toml: line 3: box.hostnme: unknown key; did you mean "hostname"?',
        'provision.toml: line 7: network.gateway: "192.168.11.1" is not in the network of the address, 192.168.10.0/24',
        'provision.toml: line 13: files.public[1]: "b.pem" does not lie beside provision.toml',
        'edge.toml: line 2: destination.cloud.url: missing; write an address such as "https://cloud.example.org/dicom-web"',
        'edge.toml: line 5: destination.cloud.ulr: unknown key; did you mean "url"?',
    )
    said = answer(places)
    assert "NOT taken" in said
    assert "There are 5 errors" in said
    for one in outcome.refused:
        assert one in said


def test_files_of_the_configuration_are_judged_where_they_lie(places: Places, pem: str) -> None:
    put(places, pem)
    (places.firmware / "ca.pem").write_text("no certificate\n")
    (places.firmware / "token").write_text("two\nlines\n")
    configuration = CONFIGURATION + "[mqtt]\nurl = 'mqtts://b'\nca_file = '/etc/edge/broker.pem'\n"
    first, second = faults(places, FULL, configuration)
    assert first.startswith(
        "edge.toml: line 10: mqtt.ca_file: there is no /etc/edge/broker.pem on the box; lay broker.pem"
    )
    assert second.startswith(f"edge.toml: line 7: destination.cloud.tls.ca_file: {places.firmware}/ca.pem holds no")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[box]\nhostname = '-a'\n", "line 2: box.hostname: a host name is"),
        ("[box]\nhostname = 'a.b'\n", "line 2: box.hostname: a host name is"),
        ("[box]\nhostname = '12'\n", "line 2: box.hostname: a host name of digits"),
        ("[box]\ntimezone = 'America/Limaa'\n", 'line 2: box.timezone: "America/Limaa" is no time zone; did you mean'),
        ("[box]\ntimezone = '../../etc/passwd'\n", "line 2: box.timezone: a time zone is written"),
        ("[network]\naddress = '10.0.0.5'\n", 'line 2: network.address: "10.0.0.5" is no address with'),
        ("[network]\naddress = '10.0.0.0/24'\n", 'line 2: network.address: "10.0.0.0/24" is not the address of one'),
        ("[network]\naddress = ['10.0.0.1/24', '10.0.1.1/24']\n", "line 2: network.address: give one for IPv4"),
        ("[network]\ngateway = '10.0.0.1'\n", "line 2: network.gateway: it does nothing without address"),
        ("[network]\naddress = '10.0.0.1/24'\ngateway = '10.0.0.1'", 'line 3: network.gateway: "10.0.0.1" is the'),
        ("[network]\ninterface = 'a b\\n'\n", "line 2: network.interface: a network interface"),
        ("[dashboard]\npassword = 'short'\n", "line 2: dashboard.password: The password needs at least 10"),
        ("[dashboard]\npassword_hash = 'x'\n", "line 2: dashboard.password_hash: this is no hash"),
        (
            "[dashboard]\npassword_hash = '$argon2id$v=19$m=999999,t=3,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA'\n",
            "no hash",
        ),
        ("[box]\npassword = 'long enough one'\n", "line 2: box.password: unknown key; the password stands in [dashb"),
        ("[files]\nprivate = ['../x']\n", "line 2: files.private[1]: write the name of a file that lies beside"),
        ("[files]\nprivate = ['config.txt']\n", 'line 2: files.private[1]: "config.txt" has a meaning of its own'),
        ("[files]\nprivate = ['u-boot.bin']\n", 'line 2: files.private[1]: "u-boot.bin" has a meaning of its own'),
        ("[files]\npublic = ['a']\nprivate = ['A']\n", 'line 3: files.private[1]: "A" is given twice'),
        ("[edge]\nconfiguration = 'other.toml'\n", 'line 2: edge.configuration: "other.toml" does not lie beside'),
        ("[edge]\nconfiguration = 'config.txt'\n", "line 2: edge.configuration: the configuration is a file of"),
        ("[[box]]\n", "line 1: box: write [box], in single brackets"),
        ("[box\n", "line 1: not valid TOML"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(places: Places, text: str, why: str) -> None:
    found = faults(places, text)
    assert [one for one in found if why in one] != [], found
    for secret in ("long enough one", "'short'"):
        assert secret not in str(found)


def test_a_file_that_is_no_text_is_refused(places: Places) -> None:
    (places.firmware / "provision.toml").write_bytes("[box]".encode("utf-16"))
    assert boot.start(places, Fake()).refused == (
        "provision.toml: line 1: it is not UTF-8 text; save it again as UTF-8",
    )
    assert places.configuration.exists()


def test_a_file_that_stays_wrong_is_answered_once(places: Places) -> None:
    (places.firmware / "provision.toml").write_text("[boks]\n")
    first = boot.start(places, Fake())
    written = (places.firmware / RESULT).stat()
    assert boot.start(places, Fake()) == first
    assert (places.firmware / RESULT).stat().st_ino == written.st_ino
    assert "There is 1 error" in answer(places)


def test_files_that_are_too_long_are_refused_unread(places: Places) -> None:
    long = "# " + "x" * (1 << 20)
    assert faults(places, long) == ["provision.toml: it is longer than 1 MiB"]
    assert faults(places, "", long) == ['provision.toml: edge.configuration: "edge.toml" is longer than 1 MiB']


def test_a_machine_without_such_a_card_is_started_too(places: Places) -> None:
    places.firmware.rmdir()
    assert boot.start(places, Fake()).failed == ()
    assert not places.firmware.exists()


def test_a_desk_judges_without_touching_anything(places: Places, pem: str) -> None:
    put(places, pem)
    before = below(places.root)
    done = CliRunner().invoke(main, ["provision", "--check", str(places.firmware)])
    assert (done.exit_code, done.output) == (0, "ok; with the configuration\n")
    (places.firmware / "token").unlink()
    done = CliRunner().invoke(main, ["provision", "--check", str(places.firmware)])
    assert done.exit_code == 2
    assert 'edge: provision.toml: line 14: files.private[1]: "token" does not lie' in done.output
    (places.firmware / "token").write_text("s3cret\n")
    assert below(places.root) == before


# power cuts and broken cards


class PowerCut(BaseException):
    """The power goes."""


STEPS: Final = ("fsync", "replace", "unlink", "mkdir", "chmod")


@contextlib.contextmanager
def cut_at(number: int, monkeypatch: pytest.MonkeyPatch, *, after: bool) -> Iterator[list[int]]:
    """Have the power go at step ``number``, before or after it is done; the count of steps."""
    count = [0]

    def step(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            count[0] += 1
            if count[0] > number or (count[0] == number and not after):
                raise PowerCut
            done = real(*arguments, **named)
            if count[0] == number:
                raise PowerCut
            return done

        return call

    with monkeypatch.context() as patched:
        for name in STEPS:
            # nothing is lost with a process, so what is synced is only counted
            patched.setattr(os, name, step(getattr(os, name) if name != "fsync" else lambda _: None))
        yield count


@pytest.mark.parametrize("after", [False, True])
def test_a_power_cut_at_any_step_leaves_what_the_next_start_completes(
    tmp_path: Path, pem: str, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    # passwords are slow on purpose, and not what is tried here
    text = FULL.replace(f'password = "{PASSWORD}"\n', "")

    def fresh(name: str) -> Places:
        made = Places(tmp_path / name)
        made.firmware.mkdir(parents=True)
        put(made, pem, text)
        return made

    def left(places: Places) -> dict[str, bytes]:
        own = {"device", "device.key", "device.csr", "first-code", "session", "session.new", RESULT}
        return {name: data for name, data in below(places.root).items() if Path(name).name not in own}

    def owned(places: Places, system: Fake) -> bool:
        identity = places.at("/var/lib/edge/identity")
        return {identity, *identity.iterdir()} - {identity / "first-code"} <= set(system.given)

    monkeypatch.setattr(os, "fsync", lambda _: None)
    whole = fresh("whole")
    with cut_at(10_000, monkeypatch, after=after) as count:
        boot.start(whole, Fake())
    steps = count[0]
    assert steps > 30
    for number in range(1, steps + 1):
        places = fresh(str(number))
        with cut_at(number, monkeypatch, after=after), pytest.raises(PowerCut):
            boot.start(places, Fake())
        if (places.firmware / "provision.toml").exists() and not places.record.exists():
            # what is not remembered is still there, whole
            assert (places.firmware / "token").read_text() == "s3cret\n"
        system = Fake()
        outcome = boot.start(places, system)
        assert (outcome.refused, outcome.failed) == ((), ())
        assert owned(places, system)
        assert "was taken" in answer(places)
        assert left(places) == left(whole)
        shutil.rmtree(places.root)


def test_what_is_put_on_the_card_after_a_cut_is_taken_and_not_wiped(
    places: Places, pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(places, pem)
    with monkeypatch.context() as patched:
        patched.setattr(Card, "wipe", lambda *_: (_ for _ in ()).throw(OSError("the card is gone")))
        assert boot.start(places, Fake()).failed == (
            "everything was taken, but the card is not wiped: the card is gone",
        )
    assert places.record.exists()
    (places.firmware / "provision.toml").write_text('[box]\nhostname = "second"\n[files]\nprivate = ["token"]\n')
    (places.firmware / "token").write_text("another\n")
    boot.start(places, Fake())
    assert (places.settings / "token").read_text() == "another\n"
    assert places.hostname.read_text() == "second\n"
    assert not (places.firmware / "token").exists()


def test_a_box_that_cannot_store_says_so_and_keeps_the_file(
    places: Places, pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(places, pem)
    boot.start(places, Fake())
    put(places, pem)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/etc/edge/edge.new")

    with monkeypatch.context() as patched:
        patched.setattr(taking, "put", full)
        system = Fake()
        outcome = boot.start(places, system)
    assert outcome.failed == ("No space left on device: /etc/edge/edge.new",)
    assert "could not store" in answer(places)
    assert (places.firmware / "provision.toml").exists()
    assert system.name == "edge-ct", "the running system is told nevertheless"


def test_wiping_overwrites_before_it_removes(places: Places, pem: str, tmp_path: Path) -> None:
    put(places, pem)
    os.link(places.firmware / "token", tmp_path / "blocks")
    os.link(places.firmware / "provision.toml", tmp_path / "more")
    boot.start(places, Fake())
    assert set((tmp_path / "blocks").read_bytes()) == {0}
    assert set((tmp_path / "more").read_bytes()) == {0}


@pytest.mark.rig
def test_a_card_is_mounted_writable_only_while_it_is_written(tmp_path: Path, pem: str) -> None:
    require("mkfs.ext4")
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    places = Places(tmp_path / "box")
    places.firmware.mkdir(parents=True)
    with Volume(tmp_path / "card", places.firmware, 8):
        put(places, pem)
        system = Machine("nobody")
        system.remount(places.firmware, writable=False)
        assert os.statvfs(places.firmware).f_flag & os.ST_RDONLY
        card = Card(places.firmware, system)
        taking.take(card, places.firmware / "provision.toml", places, system)
        assert os.statvfs(places.firmware).f_flag & os.ST_RDONLY
        assert sorted(below(places.firmware)) == ["ca.pem", RESULT]
        # for whoever signs it, without a login
        assert "BEGIN CERTIFICATE REQUEST" in (places.firmware / RESULT).read_text("utf-8-sig")


# the running system


def test_what_is_kept_lies_where_the_image_binds_it() -> None:
    places = Places()
    kept = Path("/var/lib/edge-system")
    assert (places.hostname, places.timezone) == (kept / "hostname", kept / "timezone")
    assert places.network == kept / "network" / "10-edge.network"
    assert places.sources == kept / "chrony" / "edge.sources"
    assert places.machine_id == kept / "machine-id"
    assert places.configuration == Path("/etc/edge/edge.toml")


def test_a_step_that_fails_does_not_keep_the_others_from_being_done(places: Places) -> None:
    class Nameless(Fake):
        def set_hostname(self, name: str) -> None:
            raise OSError(1, "Operation not permitted", name)

    boot.start(places, Fake())
    assert live.apply(places, Nameless()) == ("the host name could not be set (Operation not permitted)",)
    assert str(places.at("/run/edge-system/localtime").readlink()) == "/usr/share/zoneinfo/UTC"


def test_the_boot_environment_keeps_the_first_machine_id(places: Places) -> None:
    first, later = "a" * 32, "b" * 32
    places.at("/etc").mkdir(exist_ok=True)
    places.at("/proc").mkdir()
    places.at("/etc/machine-id").write_text(f"{first}\n")
    places.at("/proc/cmdline").write_text("root=x ro\n")
    tool = places.at("/usr/lib/edge/bootenv")
    tool.parent.mkdir(parents=True)
    tool.touch()
    system = Fake()
    live.apply(places, system)
    places.at("/etc/machine-id").write_text(f"{later}\n")
    live.apply(places, system)
    assert system.ran == [(str(tool), "set", f"MACHINE_ID={first}")] * 2
    places.at("/proc/cmdline").write_text(f"root=x systemd.machine_id={first} ro\n")
    live.apply(places, system)
    assert len(system.ran) == 2


@pytest.mark.parametrize(
    ("wanted", "there", "absent"),
    [
        (
            Network(),
            ["Type=ether", "Kind=!*", "MulticastDNS=yes", "DHCP=yes", "ClientIdentifier=mac"],
            ["UseDNS", "Address="],
        ),
        (Network(dns=("9.9.9.9",)), ["DNS=9.9.9.9", "DHCP=yes", "UseDNS=no"], ["Address="]),
        (
            Network(interface="eth1", address=("10.0.0.5/24",), gateway=("10.0.0.1",)),
            ["Name=eth1", "Address=10.0.0.5/24", "Gateway=10.0.0.1", "DHCP=no", "IPv6AcceptRA=yes"],
            ["Type=ether", "DHCPv4"],
        ),
        (Network(address=("2001:db8::5/64",)), ["Address=2001:db8::5/64", "IPv6AcceptRA=no"], ["UseDNS"]),
    ],
)
def test_the_network_is_written_as_systemd_reads_it(wanted: Network, there: list[str], absent: list[str]) -> None:
    text = network.networkd(wanted)
    assert [line for line in there if line not in text.splitlines()] == []
    assert [word for word in absent if word in text] == []


def test_a_start_with_nothing_new_is_quick(places: Places) -> None:
    boot.start(places, Fake())
    program = (
        "import sys; from pathlib import Path; from edge.provision import boot\n"
        "from edge.provision.places import Places; from edge.provision.system import Folder\n"
        f"assert boot.start(Places(Path({str(places.root)!r})), Folder()) == boot.Outcome()\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    heavy = {"cryptography", "argon2", "edge.tls", "edge.provision.judge", "edge.web.secret", "zoneinfo"}
    assert heavy & set(done.stdout.split()) == set()


# firmware-config and the documentation


@pytest.mark.parametrize("site", sorted(path.name for path in SITES.iterdir() if path.is_dir()))
def test_every_example_site_is_taken(tmp_path: Path, places: Places, pem: str, site: str) -> None:
    folder = shutil.copytree(SITES / site, tmp_path / "site")
    for name in re.findall(r'"([\w.-]+\.pem|[\w-]+-token)"', (folder / "provision.toml").read_text()):
        (folder / name).write_text("s3cret" if name.endswith("token") else pem)
    if site == "xray-cloud":  # the key of the box, whose certificate IT signed
        identity = places.at("/var/lib/edge/identity")
        identity.mkdir(parents=True)
        (identity / "device").write_text("0123456789abcdef\n")
        (identity / "device.key").write_text(pem)
    done = CliRunner().invoke(main, ["provision", "--check", str(folder)])
    assert done.exit_code == 0, done.output
    outcome = boot.start(places, Fake(), folder)
    assert (outcome.refused, outcome.failed) == ((), ())
    assert places.configuration.read_text() == (SITES / site / "edge.toml").read_text()


def keys(kind: Any, path: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        here = f"{path}.{field.name}" if path else field.name
        inner = [one for one in (field.type, *get_args(field.type)) if isinstance(one, type)]
        structs = [one for one in inner if issubclass(one, msgspec.Struct)]
        if structs:
            yield from keys(structs[0], here)
        else:
            yield here


def test_every_key_is_documented_and_no_other() -> None:
    documented = re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert documented == list(keys(Profile))


def test_the_documented_file_is_whole_and_good(places: Places, pem: str) -> None:
    (text,) = re.findall(r"^~~~toml\n(.*?)^~~~$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    source = places.firmware / "provision.toml"
    source.write_text(text)
    for name, data in (("edge.toml", ""), ("hospital-ca.pem", pem), ("cloud-token", "x")):
        (places.firmware / name).write_text(data or "# nothing\n")
    at_rest(places, "card")
    judge(places.firmware, source, places)
    said = {f"{table}.{key}" for table, given in tomllib.loads(text).items() for key in given}
    assert set(keys(Profile)) - said == {"dashboard.password_hash"}


@pytest.mark.rig
def test_systemd_takes_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    tool = require("systemd-analyze")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("ExecStart=edge ", f"ExecStart={shutil.which('true')} "))
    done = subprocess.run([tool, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "edge-provision" in line] == []
    done = subprocess.run([tool, "security", "--offline=yes", str(unit)], capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 4.0  # it mounts


# what the appliance, or a mistake, left behind


def test_a_storage_path_that_cannot_be_written_is_refused_and_the_corrected_file_is_taken(
    places: Places, pem: str
) -> None:
    locked = places.at("/mnt")
    locked.mkdir()
    wrong = (
        CONFIGURATION.replace("/var/lib/edge", "/mnt/disk")
        if "/var/lib/edge" in CONFIGURATION
        else (CONFIGURATION + '\n[storage]\npath = "/mnt/disk"\n')
    )
    # a file in its way is what root, too, cannot write below
    (locked / "disk").write_text("no folder")
    put(places, pem, configuration=wrong)
    first = boot.start(places, Fake())
    assert first.refused or first.failed
    assert (places.firmware / "provision.toml").exists()
    put(places, pem)
    second = boot.start(places, Fake())
    assert (second.refused, second.failed) == ((), ())
    assert not (places.firmware / "provision.toml").exists()


def test_a_box_whose_own_folder_is_broken_still_reads_its_card(places: Places, pem: str) -> None:
    boot.start(places, Fake())
    text = '[storage]\npath = "/mnt/gone"\n'
    places.configuration.write_text(text)
    places.at("/mnt").write_text("no folder")
    assert boot.start(places, Fake()).failed
    put(places, pem)
    assert boot.start(places, Fake()).failed == ()
    assert "/mnt/gone" not in places.configuration.read_text()


def test_nothing_that_the_appliance_may_leave_in_its_identity_leads_root_elsewhere(
    places: Places, tmp_path: Path
) -> None:
    boot.start(places, Fake())
    identity = places.at("/var/lib/edge/identity")
    outside = tmp_path / "outside"
    outside.write_text("kept")
    outside.chmod(0o600)
    for name in ("device.new", "device.key.new", "first-code.new"):
        (identity / name).symlink_to(outside)
    for name in ("device.csr", "first-code", "device"):
        (identity / name).unlink(missing_ok=True)
        (identity / name).symlink_to(outside)
    os.mkfifo(identity / "fifo")
    os.link(outside, identity / "linked")
    system = Fake()
    (places.firmware / RESULT).unlink()
    places.configuration.unlink()
    assert boot.start(places, system).failed == ()
    assert outside.read_text() == "kept"
    assert "kept" not in answer(places)
    assert {path.name for path in identity.iterdir() if path.is_symlink()} == set()
    assert not {identity / "fifo", identity / "linked"} & set(system.given)


def test_an_identity_that_is_a_link_is_made_a_folder_again(places: Places, tmp_path: Path) -> None:
    boot.start(places, Fake())
    identity = places.at("/var/lib/edge/identity")
    elsewhere = tmp_path / "elsewhere"
    identity.rename(elsewhere)
    identity.symlink_to(elsewhere)
    system = Fake()
    assert boot.start(places, system).failed == ()
    assert not identity.is_symlink()
    assert not [path for path in system.given if path.is_relative_to(elsewhere)]


def test_a_key_that_is_none_is_set_aside_and_made_anew(places: Places) -> None:
    boot.start(places, Fake())
    identity = places.at("/var/lib/edge/identity")
    (identity / "device.key").write_text("no key")
    (identity / "device.csr").unlink()
    assert boot.start(places, Fake()).failed == ()
    assert "BEGIN PRIVATE KEY" in (identity / "device.key").read_text()
    assert "BEGIN CERTIFICATE REQUEST" in (identity / "device.csr").read_text()


def test_the_network_is_told_before_anything_that_could_hang(places: Places, pem: str) -> None:
    put(places, pem)
    boot.start(places, Fake())
    told = places.at("/run/systemd/network/10-edge.network")
    told.unlink()
    places.configuration.unlink()

    seen: list[bool] = []

    class Looks(Fake):
        def give(self, path: Path) -> None:
            seen.append(told.exists())
            super().give(path)

    boot.start(places, Looks())
    assert seen
    assert all(seen)
