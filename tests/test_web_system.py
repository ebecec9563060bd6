"""System: what it says of the machine, what it does, and the bundle that leaves the box without anybody's name."""

import asyncio
import html
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from edge.config import Auth, ClientTls, Config, Device, DicomwebDestination, Modality, Mqtt, Receive, ReceiveTls, Watch
from edge.snapshot import ImportStatus, ModalityStatus, Problem, Snapshot
from edge.status.medium import Medium
from edge.status.versions import Versions
from edge.store import Choice, StoreError
from edge.web import certificate
from edge.web.bundle import Bundle, archive
from edge.web.redacted import redacted
from tests.machines import Housed, uneasy, worn
from tests.snapshots import destination, finding, snapshot
from tests.test_telemetry import spellings
from tests.web import PASSWORD, Acted, log_in, post, token_in

CANARY = "Kanarienvogel"
UID = "1.2.826.0.1.3680043.8.498.4711"
NEW = "a new sentence of mine"


async def inside(housed: Housed) -> httpx.AsyncClient:
    client = housed.client()
    assert (await log_in(client)).status_code == 303
    return client


async def read(housed: Housed) -> str:
    """The words of the page."""
    answer = await (await inside(housed)).get("/system")
    assert answer.status_code == 200
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text)))


@pytest.fixture(autouse=True)
def _no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal of this machine is nobody's business here."""
    monkeypatch.setenv("PATH", str(tmp_path))


# what it says


@pytest.mark.parametrize("path", ["/system", "/system/label", "/system/password"])
async def test_it_is_behind_the_login(tmp_path: Path, path: str) -> None:
    async with Housed(tmp_path) as housed:
        answer = await housed.client().get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={path}")


@pytest.mark.parametrize("act", ["identify", "pause", "resume", "restart", "logs", "password"])
async def test_nothing_is_done_for_who_is_not_logged_in_or_brings_no_token(tmp_path: Path, act: str) -> None:
    async with Housed(tmp_path) as housed:
        stranger, client = housed.client(), await inside(housed)
        fields = {"destination": "pacs", "present": PASSWORD, "password": NEW, "again": NEW}
        token = token_in((await stranger.get("/login")).text)
        assert (await stranger.post(f"/system/{act}", data=fields | {"token": token})).status_code == 403
        assert (await client.post(f"/system/{act}", data=fields)).status_code == 403
        assert (await client.get("/system")).status_code == 200, "still logged in"
    assert (housed.identified, housed.restarted.is_set(), housed.fake_control.acted) == ([], False, [])
    assert housed.secrets.verify(PASSWORD)


async def test_findings_are_told_with_code_component_and_advice(tmp_path: Path) -> None:
    async with Housed(tmp_path) as housed:
        text = await read(housed)
    assert "pacs.example.org refuses the connection on port 104." in text
    assert re.search(r"DESTINATION_DOWN · destination\.pacs · since \d\d:\d\d · 3 times", text)
    assert "Images are stored safely and go on as soon as it takes them." in text


async def test_the_machine_is_told_in_words(tmp_path: Path) -> None:
    async with Housed(tmp_path) as housed:
        text = await read(housed)
    for said in (
        "America/Santiago",
        "Kept right by chrony",
        "Battery clock rtc-ds1307",
        "Enough it was too low since the start",
        "Slowed down since the start",
        "cpu-thermal 74 °C warm",
        "9 days 52 GB free for images",
        "80 to 90 % of its life used few spare blocks: have it replaced",
        "Not told by this card, as by none",
        "Written to it 61.0 TB",
        "Running for 11 days",
        "1.1 GB of 1.9 GB free dicom-edge holds 210 MB",
        "port 11112 on 0.0.0.0 open",
        "Central monitoring (MQTT) Not configured",
        "Debian GNU/Linux 13 (trixie)",
    ):
        assert said in text


async def test_what_a_machine_does_not_tell_is_said_to_be_not_told(tmp_path: Path) -> None:
    silent = msgspec.structs.replace(
        worn(), model="", system="", uptime=None, memory=None, temperatures=(), throttling=None, media=()
    )
    async with Housed(tmp_path, machine=silent, power=None) as housed:
        text = await read(housed)
    for word in ("Voltage", "Temperature", "Disk", "Running for", "Memory", "Operating system"):
        assert f"{word} Not told by this machine" in text


def medium(**told: Any) -> Medium:
    return msgspec.structs.replace(worn().media[0], **told)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"life_used": (100, 110)}, "More than it was made for: have it replaced"),
        ({"life_used": (0, 10), "spare": "normal"}, "0 to 10 % of its life used enough spare blocks"),
        ({"spare": "used up"}, "hardly any spare blocks: have it replaced now"),
        ({"kind": "ssd", "life_used": None}, "Told only to the administrator: smartctl"),
        ({"read_only": True}, "Takes no more writes"),
        ({"errors": 2}, "2 errors have the disk checked"),
    ],
)
async def test_a_worn_disk_is_told(tmp_path: Path, told: dict[str, Any], said: str) -> None:
    machine = msgspec.structs.replace(worn(), media=(medium(**told),))
    async with Housed(tmp_path, machine=machine) as housed:
        assert said in await read(housed)


async def test_a_closed_port_and_a_broker_that_is_gone_are_told(tmp_path: Path) -> None:
    config = Config(receive=Receive(ports=(104, 11112)), mqtt=Mqtt(url="mqtts://broker.example.org"))
    async with Housed(tmp_path, config=config) as housed:
        housed.journal.state("BROKER_DOWN", "mqtt", "broker.example.org refuses the connection.")
        text = await read(housed)
    assert "port 104 on 0.0.0.0 not open" in text
    assert "port 11112 on 0.0.0.0 open" in text
    assert "Central monitoring (MQTT) Not connected" in text


async def test_certificates_are_told_with_their_end_and_fingerprint(tmp_path: Path) -> None:
    missing = ReceiveTls(certificate_file=tmp_path / "none.pem", key_file=tmp_path / "none.key")
    config = Config(receive=Receive(tls=missing))
    async with Housed(tmp_path, config=config) as housed:
        own = certificate.ensure(tmp_path / "identity", ["ct-room"], housed.clock)
        text = await read(housed)
        lines = certificate.fingerprint(own)
        assert lines[:23] in text
        assert "820 days left until" in text
        assert "receive.tls It cannot be read" in text
        housed.clock.wall += 800 * 86_400
        assert "20 days left" in await read(housed)
        housed.clock.believed = False
        assert "The clock is not trusted" in await read(housed)


async def test_a_script_in_a_name_stays_text_here_too(tmp_path: Path) -> None:
    script = "<script>alert('x')</script>"
    told = msgspec.structs.replace(finding("LOST", script, "error"), text=script, advice=script)
    machine = msgspec.structs.replace(worn(), model=script, media=(medium(model=script),))
    config = Config(device=Device(name=script, site=script))
    async with Housed(
        tmp_path, snapshot(findings=[told], destinations=[script]), config=config, machine=machine
    ) as housed:
        client = await inside(housed)
        for path in ("/system", "/system/label"):
            text = (await client.get(path)).text
            assert "<script>alert" not in text
            assert "&lt;script&gt;alert" in text
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)


# what it does


async def test_identify_lights_the_box_for_a_while(tmp_path: Path) -> None:
    async with Housed(tmp_path) as housed:
        client = await inside(housed)
        answer = await post(client, "/system/identify", "/system")
        assert (answer.status_code, answer.headers["location"]) == (303, "/system?done=identify")
        assert "the light says that it is this box" in (await client.get(answer.headers["location"])).text
    assert housed.identified == [15.0]


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_a_destination_is_paused_and_goes_on_by_control(tmp_path: Path, verb: str) -> None:
    async with Housed(tmp_path) as housed:
        client = await inside(housed)
        answer = await post(client, f"/system/{verb}", "/system", destination="cloud")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/system?done={verb}")
    assert housed.fake_control.acted == [Acted(verb, Choice(destination="cloud"), "dashboard", "")]


async def test_a_destination_that_there_is_not_is_not_paused(tmp_path: Path) -> None:
    async with Housed(tmp_path) as housed:
        client = await inside(housed)
        for name in ("", "elsewhere", CANARY):
            assert (await post(client, "/system/pause", "/system", destination=name)).status_code == 404
    assert housed.fake_control.acted == []


async def test_a_paused_destination_offers_to_go_on_and_no_other_does(tmp_path: Path) -> None:
    async with Housed(tmp_path) as housed:
        text = (await (await inside(housed)).get("/system")).text
    assert re.findall(r'action="/system/(pause|resume)">.*?name="destination" value="(\w+)"', text, re.DOTALL) == [
        ("pause", "pacs"),
        ("resume", "cloud"),
        ("pause", "archive"),
    ]


async def test_a_restart_is_asked_for_once_its_answer_is_out(tmp_path: Path) -> None:
    async with Housed(tmp_path) as housed:
        client = await inside(housed)
        answer = await post(client, "/system/restart", "/system")
        assert answer.status_code == 200
        assert "Images are accepted again in a moment" in answer.text
        assert not housed.restarted.is_set()
        await asyncio.wait_for(housed.restarted.wait(), 5)


async def test_what_the_box_cannot_do_is_not_offered(tmp_path: Path) -> None:
    async with Housed(tmp_path, able=False) as housed:
        client = await inside(housed)
        page = (await client.get("/system")).text
        assert "/system/identify" not in page
        assert "/system/restart" not in page
        for act in ("identify", "restart"):
            assert (await post(client, f"/system/{act}", "/system")).status_code == 404


# the password


async def test_another_password_logs_everybody_out(tmp_path: Path) -> None:
    async with Housed(tmp_path) as housed:
        client, other = await inside(housed), await inside(housed)
        answer = await post(client, "/system/password", "/system/password", present=PASSWORD, password=NEW, again=NEW)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/system")
        for one in (client, other):
            assert (await one.get("/system")).status_code == 303
        assert (await log_in(client)).status_code == 403
        assert (await log_in(client, NEW)).status_code == 303
    assert housed.secrets.verify(NEW)


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"present": "wrong"}, 403, "That is not the present password."),
        ({"again": "another sentence"}, 400, "The two passwords are not the same."),
        ({"password": "short", "again": "short"}, 400, "at least 10 characters"),
        ({"present": ""}, 403, "That is not the present password."),
    ],
)
async def test_a_password_is_not_changed_by_who_errs(
    tmp_path: Path, fields: dict[str, str], status: int, said: str
) -> None:
    given = {"present": PASSWORD, "password": NEW, "again": NEW} | fields
    async with Housed(tmp_path) as housed:
        answer = await post(await inside(housed), "/system/password", "/system/password", **given)
    assert answer.status_code == status
    assert said in answer.text
    assert NEW not in answer.text
    assert housed.secrets.verify(PASSWORD)


async def test_a_stolen_session_cannot_try_passwords_for_long(tmp_path: Path) -> None:
    async with Housed(tmp_path) as housed:
        client = await inside(housed)
        answers = [
            await post(
                client, "/system/password", "/system/password", present=f"guess {number}", password=NEW, again=NEW
            )
            for number in range(8)
        ]
    assert answers[0].status_code == 403
    assert answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"]


# the bundle


def telling() -> Snapshot:
    """A snapshot with the word wherever a peer, a file, a medium or a stranger has a say."""
    said = msgspec.structs.replace(destination("pacs", problem="REFUSED"), problem=Problem(code="REFUSED", text=CANARY))
    told = [
        msgspec.structs.replace(finding(code, f"{component}{CANARY}"), text=f"{CANARY} {UID}", advice=CANARY)
        for code, component in (
            ("IMPORT_INCOMPLETE", "import."),
            ("PEER_REFUSED", "title."),
            ("MODALITY_SILENT", "modality."),
            ("LOST", ""),
            ("NONE_SUCH", "x."),
        )
    ]
    return msgspec.structs.replace(
        snapshot(destinations=[said], findings=told),
        imports=[
            ImportStatus(name=CANARY, media=True, over=False, files=1, files_done=0, bytes=0, bytes_done=0, refused=0)
        ],
        modalities=[
            ModalityStatus(
                name="",
                ae_title=CANARY,
                address="192.0.2.9",
                last_heard_at=None,
                last_object_at=None,
                refused=1,
                refused_because=CANARY,
            )
        ],
    )


TRACE = rf"Traceback\nKeyError: '{CANARY}'\n{CANARY}Error: x"
LINES = (
    "timestamp=2026-11-22T12:00:00Z level=info event=ready ports=[11112]",
    f'timestamp=2026-11-22T12:00:01Z level=error event=failed exception="{TRACE}"',
    f"KeyError: '{CANARY}' {UID}",
    CANARY,
)


def opened(body: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(body)) as archived:
        assert archived.testzip() is None
        return {name: archived.read(name) for name in archived.namelist()}


async def test_no_patient_and_no_stranger_leaves_in_the_bundle(tmp_path: Path) -> None:
    async with Housed(tmp_path, telling()) as housed:
        housed.log = list(LINES)
        client = await inside(housed)
        assert CANARY in html.unescape((await client.get("/system")).text), "people at the box read it"
        answer = await post(client, "/system/logs", "/system")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    name = "edge-logs-01234567-20270115T080000Z.zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert answer.headers["cache-control"] == "no-store"
    files = opened(answer.content)
    assert set(files) == {
        *("README.txt", "snapshot.json", "configuration.json", "machine.json", "versions.json", "log.txt"),
    }
    for file, body in files.items():
        for spelling in (*spellings(CANARY), UID.encode()):
            assert spelling not in body, file
    told = json.loads(files["snapshot.json"])
    assert [f["code"] for f in told["findings"]][:2] == ["IMPORT_INCOMPLETE", "PEER_REFUSED"]
    assert told["destinations"][0]["problem"]["code"] == "REFUSED"
    assert b"event=ready" in files["log.txt"]
    assert b'exception="KeyError"' in files["log.txt"]
    assert json.loads(files["machine.json"])["media"][0]["life_used"] == [80, 90]
    assert json.loads(files["versions.json"])["edge"]


async def test_a_box_whose_database_is_broken_still_gives_its_log(tmp_path: Path) -> None:
    async with Housed(tmp_path) as housed:
        housed.log = list(LINES)
        client = await inside(housed)
        token = token_in((await client.get("/system")).text)
        housed.shown = None
        housed.clock.pass_time(2)
        answer = await client.post("/system/logs", data={"token": token})
    files = opened(answer.content)
    assert files["snapshot.json"] == b"null\n"
    assert b"event=ready" in files["log.txt"]


def test_a_log_without_end_is_cut_at_its_beginning() -> None:
    lines = tuple(f"timestamp={n} level=info event=x {'y' * 7000}" for n in range(2000))
    body = archive(
        Bundle(
            device="",
            taken_at=0.0,
            config=Config(),
            snapshot=None,
            machine=worn(),
            versions=Versions(edge="1", python="3", openssl="3", architecture="", libraries={}),
            lines=lines,
            source="",
        )
    )
    log = opened(body)["log.txt"]
    assert len(log) <= 4 << 20
    assert log.startswith(b"timestamp=")
    assert log.splitlines()[-1].startswith(b"timestamp=1999 ")


def secretive(folder: Path) -> Config:
    """A configuration with a secret wherever one can be, and one where none belongs."""
    there = folder / "token"
    there.write_text(CANARY, encoding="ascii")
    auth = Auth(
        type="bearer",
        username=CANARY,
        client_id=CANARY,
        scope=CANARY,
        token_file=there,
        token_url=f"https://login.example.org/token?key={CANARY}",
        password_file=Path(f"/{CANARY}"),
        client_secret_file=Path(CANARY * 40),
    )
    return Config(
        modality=(Modality(name="CT1", ae_title="CT1"),),
        watch=(Watch(path=Path("/srv/export")),),
        destination=(
            DicomwebDestination(
                name="cloud",
                url="https://cloud.example.org/dicom-web",
                auth=auth,
                tls=ClientTls(key_file=Path(f"-----BEGIN PRIVATE KEY----- {CANARY}")),
            ),
        ),
        mqtt=Mqtt(url="mqtts://broker.example.org", username=CANARY, password_file=Path(CANARY)),
    )


def test_no_secret_leaves_with_the_configuration_even_where_it_stands_in_the_place_of_its_file(tmp_path: Path) -> None:
    told = redacted(secretive(tmp_path))
    text = json.dumps(told)
    assert CANARY not in text
    assert str(tmp_path) not in text
    cloud = msgspec.convert(told, dict[str, Any])["destination"][0]
    assert cloud["type"] == "dicomweb"
    assert cloud["url"] == "https://cloud.example.org/dicom-web"
    assert cloud["auth"]["token_file"] == "token"
    assert cloud["auth"]["token_url"] == "https://login.example.org/token"
    assert cloud["auth"]["username"] == "(set)"
    assert msgspec.convert(told, dict[str, Any])["watch"][0]["path"] == "/srv/export"


async def test_a_store_that_fails_while_a_destination_is_paused_is_said(tmp_path: Path) -> None:
    async def broken(*_: object, **__: object) -> int:
        raise StoreError("The database does not answer.")

    async with Housed(tmp_path, uneasy()) as housed:
        housed.fake_control.act = broken  # type: ignore[method-assign]
        answer = await post(await inside(housed), "/system/pause", "/system", destination="pacs")
    assert answer.status_code == 503
