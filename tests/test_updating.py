"""Updates of the image: asked for, fetched over bad lines, carried out once, tried, marked good or taken back."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from configparser import ConfigParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import pytest
from box.bundle import manifest
from click.testing import CliRunner

from edge import __version__
from edge.cli.main import main
from edge.clock import iso
from edge.config import Receive
from edge.configfile import ConfigError, parse
from edge.events import Event
from edge.findings import Journal
from edge.fsync import replace_synced
from edge.messages import Topics, UpdateReport
from edge.mqtt import Message
from edge.signing import sign
from edge.status.collect import finding_status
from edge.store import Store, StoreError
from edge.store.schema import VERSION
from edge.telemetry.acts import Acts
from edge.telemetry.commander import Commander
from edge.telemetry.commands import REASONS as COMMAND_REASONS
from edge.telemetry.commands import CommandFailed, Nothing, Update
from edge.telemetry.health import health
from edge.telemetry.reporter import Reporter, Who
from edge.updating import download, installing
from edge.updating.carrying import Carrier
from edge.updating.download import Download, FetchError
from edge.updating.good import Answer, Judge, Settler, disk_takes, receives
from edge.updating.image import booted, other
from edge.updating.installing import Installer, Traffic
from edge.updating.reasons import REASONS, REFUSALS
from edge.updating.state import NAME, Phase, Record, State, read_state
from edge.updating.system import Bundle, Ran, System, ToolError, Unit, run
from edge.updating.taking import Counter, NotPlainError
from edge.updating.versions import is_older
from edge.updating.wanted import BUNDLE, FOLDER, Asking, RefusedError, Wanted, acceptable, bundle_url
from edge.updating.watch import REMEMBERED, UpdateWatch
from edge.web.language import Languages
from edge.web.system_facts import _image
from tests.fakes import FakeBrokerSession, ManualClock
from tests.peers.ports import LOOPBACK, free_port
from tests.signer import KEY, SIGNER
from tests.snapshots import snapshot

NODE: Final = "0123456789abcdef"
TOPICS: Final = Topics(NODE)
CONTENT: Final = bytes(range(256)) * 4096
"""A bundle of 1 MiB."""
ID: Final = "0123456789abcdef0123456789abcdef"
UPDATE: Final = {"v": 1, "id": ID, "kind": "update", "version": "1.2.3", "url": "https://updates.example.org/b.raucb"}


class PowerCut(BaseException):
    """The machine stops here."""


class Server:
    """A server of updates whose every answer can be made a bad one: `plan` says how the next ones are."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag = '"one"'
        self.plan: list[str] = []
        self.asked: list[tuple[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.url = f"http://{LOOPBACK}:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        begin, condition = to.headers.get("Range", ""), to.headers.get("If-Range", "")
        self.asked.append((begin, condition))
        how = self.plan.pop(0) if self.plan else ""
        if how.isdecimal():
            to.send_response(int(how))
            to.end_headers()
            return
        if how.startswith("to "):
            to.send_response(302)
            to.send_header("Location", how[3:])
            to.end_headers()
            return
        offset = int(begin[6:-1]) if begin and condition == self.etag else 0
        if how == "elsewhere":
            offset += 1
        if how == "beyond" or (offset and offset >= len(self.content)):
            to.send_response(416)
            to.send_header("Content-Range", f"bytes */{len(self.content)}")
            to.end_headers()
            return
        body = self.content[offset:]
        to.send_response(206 if offset else 200)
        if offset:
            to.send_header("Content-Range", f"bytes {offset}-{len(self.content) - 1}/{len(self.content)}")
        if self.etag:
            to.send_header("ETag", self.etag)
        if how != "endless":
            to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body[: len(body) // 2] if how in {"short", "silent"} else body)
        if how == "silent":
            threading.Event().wait(0.5)
        to.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


class Fetching:
    """One download with its troubles written down; pauses take no time."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.path = folder / "fetched.raucb"
        self.server = server
        self.clock = ManualClock()
        self.pauses: list[float] = []
        self.on_pause: Callable[[], None] = lambda: None
        self.troubles: list[str] = []
        self.room = 1 << 40
        self.looks = 0

    def run(self, *, url: str = "", silence: float = 5.0) -> None:
        Download(
            url or f"{self.server.url}/b.raucb",
            self.path,
            self.clock,
            room=lambda: self.room,
            pause=self._pause,
            tell=lambda _have, _size, trouble: self.troubles.append(trouble) if trouble else None,
            look=self._look,
            silence=silence,
        ).run()

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.pass_time(seconds)
        self.on_pause()

    def _look(self) -> None:
        self.looks += 1


@pytest.fixture
def fetching(tmp_path: Path, server: Server) -> Fetching:
    return Fetching(tmp_path, server)


# fetching


def test_a_line_that_breaks_costs_only_what_is_missing(fetching: Fetching) -> None:
    fetching.server.plan = ["short", "short", "503", "429"]
    fetching.run()
    assert fetching.path.read_bytes() == CONTENT
    half, quarters = len(CONTENT) // 2, len(CONTENT) * 3 // 4
    assert [begin for begin, _ in fetching.server.asked] == [
        "",
        f"bytes={half}-",
        *[f"bytes={quarters}-"] * 3,
    ]
    assert fetching.pauses == [5, 5, 10, 20], "it hurries again after each piece that came"


def test_a_server_that_is_away_is_tried_for_ever_and_ever_more_rarely(fetching: Fetching) -> None:
    fetching.server.plan = ["503"] * 40
    fetching.run()
    assert fetching.path.read_bytes() == CONTENT
    assert fetching.pauses[-1] == 300
    assert len(fetching.pauses) == 40


def test_nobody_listening_is_no_end(tmp_path: Path, server: Server) -> None:
    fetching = Fetching(tmp_path, server)
    url = f"http://{LOOPBACK}:{free_port()}/b.raucb"

    def enough() -> None:
        if len(fetching.pauses) == 5:
            raise PowerCut

    fetching.on_pause = enough
    with pytest.raises(PowerCut):
        fetching.run(url=url)
    assert len(fetching.troubles) == 5


def test_silence_is_a_line_that_broke(fetching: Fetching) -> None:
    fetching.server.plan = ["silent"]
    fetching.run(silence=0.1)
    assert fetching.path.read_bytes() == CONTENT
    assert len(fetching.troubles) == 1


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(fetching: Fetching) -> None:
    fetching.server.plan = ["short"]
    fetching.on_pause = lambda: _change(fetching.server)
    fetching.run()
    assert fetching.path.read_bytes() == CONTENT[::-1]


def _change(server: Server) -> None:
    server.content, server.etag = CONTENT[::-1], '"two"'


def test_a_weak_validator_is_no_reason_to_join_two_files(fetching: Fetching) -> None:
    fetching.server.etag = 'W/"one"'
    fetching.server.plan = ["short"]
    fetching.run()
    assert fetching.path.read_bytes() == CONTENT
    assert [begin for begin, _ in fetching.server.asked] == ["", ""]


@pytest.mark.parametrize("how", ["elsewhere", "beyond"])
def test_another_part_than_was_asked_for_is_not_taken(fetching: Fetching, how: str) -> None:
    fetching.server.plan = ["short", how]
    if how == "beyond":
        fetching.server.content = CONTENT
    fetching.run()
    assert fetching.path.read_bytes() == CONTENT


def test_what_is_here_whole_is_not_fetched_again(fetching: Fetching) -> None:
    fetching.run()
    fetching.run()
    assert fetching.path.read_bytes() == CONTENT
    assert fetching.server.asked[-1] == (f"bytes={len(CONTENT)}-", '"one"')


def test_nothing_beyond_what_was_synced_is_believed_after_a_power_cut(fetching: Fetching) -> None:
    fetching.server.plan = ["short", "404"]
    with pytest.raises(FetchError):
        fetching.run()
    half = len(CONTENT) // 2
    with fetching.path.open("r+b") as file:
        file.seek(half)
        file.write(b"\0" * len(CONTENT))  # as a file system may leave it
    fetching.run()
    assert fetching.path.read_bytes() == CONTENT
    with fetching.path.open("r+b") as file:
        file.truncate(half - 1)  # less than was said to be synced: the card lies
    fetching.run()
    assert fetching.path.read_bytes() == CONTENT


@pytest.mark.parametrize("status", ["404", "403", "400", "410", "204"])
def test_a_server_that_says_no_is_not_asked_again(fetching: Fetching, status: str) -> None:
    fetching.server.plan = [status]
    with pytest.raises(FetchError) as e:
        fetching.run()
    assert (e.value.code, e.value.text) == ("DOWNLOAD", f"the server answers {status}")
    assert len(fetching.server.asked) == 1


def test_a_redirect_is_followed_but_not_to_where_nothing_is_encrypted(fetching: Fetching) -> None:
    fetching.server.plan = [f"to {fetching.server.url}/other"]
    fetching.run()
    assert fetching.path.read_bytes() == CONTENT
    fetching.path.unlink()
    fetching.server.plan = ["to http://updates.example.org/b.raucb"]
    with pytest.raises(FetchError, match="without encryption"):
        fetching.run()
    fetching.server.plan = ["to /again"] * 20
    with pytest.raises(FetchError, match="from one address to the next"):
        fetching.run()


def test_too_little_room_and_too_long_a_file_end_it_before_the_disk_is_full(
    fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching.room = len(CONTENT) - 1
    with pytest.raises(FetchError) as e:
        fetching.run()
    assert e.value.code == "NO_ROOM"
    assert not fetching.path.exists()
    fetching.room = 1 << 40
    monkeypatch.setattr(download, "MOST", len(CONTENT) // 2)
    with pytest.raises(FetchError, match="too long"):
        fetching.run()
    fetching.server.plan = ["endless"]
    with pytest.raises(FetchError, match="too long"):
        fetching.run()


def test_a_full_disk_is_told_as_such(fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    # a file system may say it only here
    monkeypatch.setattr("edge.updating.download.os.fsync", full)
    monkeypatch.setattr(Download, "_keep", lambda *_: None)
    with pytest.raises(FetchError) as e:
        fetching.run()
    assert e.value.code == "NO_ROOM"


# asking


class Box:
    """A box with two sides, on paper: `programs` says what rauc and systemctl come to."""

    def __init__(self, folder: Path, url: str | None = "https://updates.example.org/edge") -> None:
        self.storage, self.root = folder / "storage", folder / "root"
        for one in (self.storage, self.root):
            one.mkdir()
        self.url = url
        self.clock = ManualClock()
        self.slot = "A"
        self.boot = "boot-1"
        self.running = "1.0.0"
        self.bundle = "1.2.3"
        self.meta: dict[str, object] = {}
        self.fails: dict[str, str] = {}
        self.ran: list[str] = []
        self.traffic: Traffic | None = Traffic(going=False, came=7)
        self.on_pause: Callable[[], None] = lambda: None
        self.on_run: Callable[[str], None] = lambda _: None

    @property
    def asking(self) -> Asking:
        return Asking(self.storage, self.url, self.root / NAME, slot=self.slot, running=self.running)

    @property
    def record(self) -> Record:
        return Record(self.root, self.clock, self.boot)

    @property
    def state(self) -> State:
        return read_state(self.root / NAME)

    @property
    def phases(self) -> list[str]:
        return [change.phase for change in self.state.changes]

    def run(self, argv: Sequence[str], _seconds: float | None) -> Ran:
        word = f"mark {argv[-2]}" if "Mark" in argv else "set-state" if "set-state" in argv else argv[1]
        self.ran.append(word)
        self.on_run(word)
        if word in self.fails:
            return Ran(
                code=1, out="", err=f"rauc-Message: Verifying bundle signature...\n{self.fails[word]}\n{word} failed\n"
            )
        if word == "info":
            assert Path(argv[-1]).is_file()
            told = {"update": {"version": self.bundle, "compatible": "x"}, "bundle": {}, "meta": self.meta}
            return Ran(code=0, out=json.dumps(told), err="")
        return Ran(code=0, out="", err="")

    def pause(self, seconds: float) -> None:
        self.clock.pass_time(seconds)
        self.on_pause()

    def settler(self) -> Settler:
        return Settler(self.record, System(self.run), self.clock, slot=self.slot, pause=self.pause)

    def carry_out(self) -> None:
        """As edge-update.service does."""
        self.settler().compare()
        self.carrier().run()

    def carrier(self) -> Carrier:
        return Carrier(
            Counter(self.storage),
            self.record,
            System(self.run),
            self.clock,
            slot=self.slot,
            running=self.running,
            keep=0,
            traffic=lambda: self.traffic,
            pause=self.pause,
        )

    def start_anew(self, slot: str, running: str = "") -> None:
        self.boot += "+"
        self.slot = slot
        self.running = running or ("1.2.3" if slot == "B" else "1.0.0")

    def judge(self, *, unit: Unit | None = None, answer: Answer = "good", receives: bool = True) -> Judge:
        found = unit or Unit(active="active", restarts=0, ports=(11112,))
        return Judge(lambda: found, lambda: answer, lambda _: receives, lambda: True, self.clock)

    def put(self, name: str, content: object) -> Path:
        folder = self.storage / FOLDER
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return folder / name

    def ask_by_stick(self, *, force: bool = False) -> None:
        """A bundle whose name says nothing of its version."""
        stick = self.root.parent / "stick.raucb"
        stick.write_bytes(CONTENT)
        self.asking.file(stick, keep=0, force=force)

    def nothing_is_left(self) -> None:
        assert not (self.root / "request.json").exists()
        assert list((self.root / "download").iterdir()) == []
        assert sorted(p.name for p in (self.storage / FOLDER).iterdir()) == []


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.fixture
def served(tmp_path: Path, server: Server) -> Box:
    return Box(tmp_path, server.url)


def test_a_slot_is_what_the_boot_script_said(tmp_path: Path) -> None:
    line = tmp_path / "cmdline"
    for text, slot in (
        ("root=x ro rauc.slot=B panic=10\n", "B"),
        ("rauc.slot=A", "A"),
        ("rauc.slot=C", ""),
        ("norauc.slot=A", ""),
        ("rauc.slot=AB", ""),
        ("", ""),
    ):
        line.write_text(text)
        assert booted(line) == slot, text
    assert booted(tmp_path / "none") == ""
    assert (other("A"), other("B"), other("")) == ("B", "A", "")


def test_what_is_asked_for_is_written_whole_and_is_strict(box: Box) -> None:
    box.asking.version("1.2.3")
    (path,) = (box.storage / FOLDER).iterdir()
    told = json.loads(path.read_bytes())
    assert told["url"] == "https://updates.example.org/edge/dicom-edge-1.2.3-arm64.raucb"
    assert path.name == "wanted.json"
    assert Counter(box.storage).look("update") == msgspec.convert(told, Wanted)


@pytest.mark.parametrize("version", ["", "1.2", "../1.2.3", "1.2.3/..", "1.2.3\n", "https://x", "1.2.3 ", "1.2.3-A..b"])
def test_a_version_is_no_path_and_no_address(box: Box, version: str) -> None:
    with pytest.raises(RefusedError) as e:
        box.asking.version(version)
    assert e.value.code == "BAD_VERSION"
    assert not (box.storage / FOLDER).exists()


def test_nothing_is_asked_for_that_cannot_be(box: Box) -> None:
    def refused(code: str, version: str = "1.2.3", *, force: bool = False) -> None:
        assert box.asking.refusal(version, force=force) == code
        with pytest.raises(RefusedError) as e:
            box.asking.version(version, force=force)
        assert e.value.code == code
        assert code in REFUSALS

    refused("SAME_VERSION", "1.0.0")
    box.url = None
    refused("NO_UPDATE_URL")
    box.slot = ""
    refused("UNSUPPORTED")
    box.slot, box.url = "A", "https://updates.example.org"
    box.record.enter(State(to="1.2.3"), "rolled-back")
    refused("ROLLED_BACK_BEFORE")
    assert box.asking.refusal("1.2.3", force=True) == ""
    assert box.asking.refusal("1.2.4") == ""
    box.record.enter(State(to="1.2.4"), "downloading")
    refused("UPDATE_UNDER_WAY", "1.2.5", force=True)


def test_of_two_requests_at_once_the_first_counts(box: Box) -> None:
    asking = box.asking
    codes = []

    def ask(version: str) -> None:
        try:
            asking.version(version)
            codes.append("")
        except RefusedError as e:
            codes.append(e.code)

    threads = [threading.Thread(target=ask, args=(f"1.2.{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == ["", *["UPDATE_UNDER_WAY"] * 7]
    assert [p.name for p in (box.storage / FOLDER).iterdir()] == ["wanted.json"]


def test_a_file_is_copied_only_where_there_is_room_for_it_twice(box: Box, tmp_path: Path) -> None:
    stick = tmp_path / "stick.raucb"
    stick.write_bytes(CONTENT)
    for path, keep, code in (
        (stick, 1 << 60, "NO_ROOM"),
        (tmp_path / "none", 0, "BAD_FILE"),
        (tmp_path, 0, "BAD_FILE"),
    ):
        with pytest.raises(RefusedError) as e:
            box.asking.file(path, keep=keep)
        assert e.value.code == code
        assert list((box.storage / FOLDER).iterdir()) == []
    box.asking.file(stick, keep=0)
    assert (box.storage / FOLDER / BUNDLE).read_bytes() == CONTENT
    with pytest.raises(RefusedError, match="UPDATE_UNDER_WAY"):
        box.asking.file(stick, keep=0)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("dicom-edge-1.2.3-arm64.raucb", "ROLLED_BACK_BEFORE"),
        ("dicom-edge-1.0.0-amd64.raucb", "SAME_VERSION"),
        ("dicom-edge-0.9.9-arm64.raucb", "OLDER_VERSION"),
        ("dicom-edge-1.0.0-rc1-arm64.raucb", "OLDER_VERSION"),
        ("dicom-edge-1.2.4-arm64.raucb", ""),
        ("dicom-edge-latest-arm64.raucb", ""),
        ("old.raucb", ""),
    ],
)
def test_what_a_files_name_says_is_refused_before_it_is_copied(box: Box, tmp_path: Path, name: str, code: str) -> None:
    box.record.enter(State(to="1.2.3"), "rolled-back")
    stick = tmp_path / name
    stick.write_bytes(CONTENT)
    if code:
        with pytest.raises(RefusedError) as e:
            box.asking.file(stick, keep=0)
        assert e.value.code == code
        assert code in REFUSALS
        assert not (box.storage / FOLDER).exists()
    box.asking.file(stick, keep=0, force=bool(code))
    assert (box.storage / FOLDER / BUNDLE).exists()


def test_a_bundle_on_a_medium_leads_nowhere_else(box: Box, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    link, pipe = tmp_path / "link.raucb", tmp_path / "pipe.raucb"
    link.symlink_to(secret)
    os.mkfifo(pipe)
    for path in (link, pipe, Path("/dev/null")):
        with pytest.raises(RefusedError) as e:
            box.asking.file(path, keep=0)
        assert e.value.code == "BAD_FILE"
        assert list((box.storage / FOLDER).iterdir()) == []


def test_only_https_or_this_machine_may_be_fetched_from() -> None:
    good = ["https://x.example.org/a", "https://x.example.org:444/a", "http://127.0.0.1:80/a", "http://[::1]/a"]
    bad = [
        "http://x.example.org/a",
        "ftp://x/a",
        "file:///etc/shadow",
        "https://u:p@x/a",
        "https:///a",
        "https://x/a b",
    ]
    bad += [
        "http://127.0.0.1.example.org/a",
        "https://x:0/",
        "https://[x",
        "https://ü.example.org/",
        "http://localhost@x/",
    ]
    assert [url for url in good if not acceptable(url)] == []
    assert [url for url in bad if acceptable(url)] == []
    assert bundle_url("https://x/y/", "1.2.3") == "https://x/y/dicom-edge-1.2.3-arm64.raucb"


@pytest.mark.parametrize("url", ["http://updates.example.org", "ftp://x", "https://x/?a", "https://u:p@x"])
def test_the_configuration_takes_no_address_without_encryption(url: str) -> None:
    with pytest.raises(ConfigError):
        parse(f'[update]\nurl = "{url}"\n')
    assert parse('[update]\nurl = "https://x/edge/"\n').config.update.url == "https://x/edge"
    assert parse('[update]\nurl = "http://127.0.0.1:8000"\n').config.update.url == "http://127.0.0.1:8000"


# what a stranger may have written


HOSTILE: Final[dict[str, object]] = {
    "no JSON": b"{",
    "no UTF-8": b'{"v":1,"id":"\xff"}',
    "deep": b"[" * 4000,
    "long": json.dumps({**UPDATE, "force": True}).encode().ljust(5000),
    "unknown key": {**UPDATE, "command": "reboot"},
    "another kind": {**UPDATE, "kind": "reboot"},
    "no kind": {**UPDATE, "kind": "shell"},
    "a path": {**UPDATE, "version": "../../etc"},
    "an address without encryption": {**UPDATE, "url": "http://updates.example.org/b"},
    "a local file": {**UPDATE, "url": "file:///etc/shadow"},
    "an address without a version": {**UPDATE, "version": ""},
    "a version without an address": {**UPDATE, "url": ""},
    "an id that is a path": {**UPDATE, "id": "../" * 10},
    "a line feed": {**UPDATE, "version": "1.2.3\n"},
    "numbers": {**UPDATE, "force": 1e400},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_request_is_thrown_away_and_nothing_is_done(box: Box, what: str) -> None:
    path = box.put("wanted.json", HOSTILE[what])
    with pytest.raises(NotPlainError):
        Counter(box.storage).look("update")
    box.carry_out()
    assert not path.exists(), "else it would be looked at for ever"
    assert box.ran == []
    assert box.state == State()


def test_links_pipes_and_folders_are_not_read(box: Box, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(json.dumps(UPDATE))
    path = box.put("wanted.json", b"")
    makers: list[Callable[[], object]] = [
        lambda: path.symlink_to(secret),
        lambda: path.hardlink_to(secret),
        lambda: os.mkfifo(path),
        lambda: (path / "full").mkdir(parents=True),
        lambda: path.symlink_to(path),
    ]
    for make in makers:
        path.unlink(missing_ok=True)
        make()
        box.carry_out()
        assert not os.path.lexists(path)
        assert secret.read_text() == json.dumps(UPDATE)
    assert box.ran == []
    assert box.state == State()


def test_a_folder_that_leads_elsewhere_is_not_entered(box: Box, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "wanted.json").write_text(json.dumps(UPDATE))
    (box.storage / FOLDER).symlink_to(elsewhere)
    with pytest.raises(NotPlainError):
        Counter(box.storage).look("update")
    with pytest.raises(NotPlainError):
        box.carry_out()
    assert (elsewhere / "wanted.json").exists()
    assert box.ran == []


def test_a_bundle_that_is_a_link_is_not_followed(box: Box, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    box.put("wanted.json", {"v": 1, "id": ID, "kind": "update"})
    (box.storage / FOLDER / BUNDLE).symlink_to(secret)
    box.carry_out()
    assert (box.state.phase, box.state.reason) == ("failed", "BAD_FILE")
    assert box.ran == []
    assert secret.read_bytes() == CONTENT
    box.nothing_is_left()


# carrying out


def test_an_update_is_fetched_installed_and_tried(served: Box) -> None:
    served.asking.version("1.2.3")
    served.carry_out()
    assert served.phases == ["downloading", "installing", "waiting"]
    assert served.ran == ["info", "install", "reboot"]
    state = served.state
    assert (state.from_, state.to, state.slot, state.received) == ("1.0.0", "1.2.3", "B", len(CONTENT))
    served.start_anew("B")
    served.carry_out()  # the path unit sees the request that was begun
    served.nothing_is_left()
    assert served.settler().settle(served.judge())
    assert served.phases == ["downloading", "installing", "waiting", "trial", "done"]
    assert served.ran[-1] == "mark good"
    served.start_anew("B")
    served.ran.clear()
    assert served.settler().settle(served.judge())
    assert served.ran == ["mark good"], "a normal start gives its try back"
    assert served.phases[-1] == "done"


def test_an_update_comes_from_a_stick_too(box: Box, tmp_path: Path) -> None:
    stick = tmp_path / "stick.raucb"
    stick.write_bytes(CONTENT)
    box.url = None
    box.asking.file(stick, keep=0)
    box.on_run = lambda word: (
        handed.append((box.root / "download/handed-over.raucb").read_bytes()) if word == "info" else None
    )
    handed: list[bytes] = []
    box.carry_out()
    assert handed == [CONTENT]
    assert box.phases == ["installing", "waiting"]
    assert box.state.to == "1.2.3"
    assert list((box.storage / FOLDER).iterdir()) == []


@pytest.mark.parametrize(
    ("word", "said", "code"),
    [
        ("info", "signature verification failed: Verify error: self-signed certificate", "BAD_SIGNATURE"),
        ("info", "Invalid bundle format: Signature size (1) exceeds bundle size", "BAD_SIGNATURE"),
        ("install", "LastError: Compatible mismatch: Expected 'a' but bundle manifest has 'b'", "INCOMPATIBLE"),
        ("install", "LastError: Installation error: Failed to write: No space left on device", "NO_ROOM"),
        ("install", "LastError: Installation error: something", "RAUC"),
    ],
)
def test_a_bad_bundle_is_deleted_and_leaves_the_box_as_it_is(served: Box, word: str, said: str, code: str) -> None:
    served.fails = {word: said}
    served.asking.version("1.2.3")
    served.carry_out()
    state = served.state
    text = said.removeprefix("LastError: ") if said.startswith("LastError") else f"{word} failed"
    assert (state.phase, state.reason, state.text, state.to) == ("failed", code, text, "1.2.3")
    assert "reboot" not in served.ran
    served.nothing_is_left()
    served.fails = {}
    served.asking.version("1.2.3")
    served.carry_out()
    assert served.phases[-1] == "waiting", "it may be asked for again"


def test_another_version_than_was_asked_for_is_not_installed(served: Box) -> None:
    served.bundle = "1.1.0"
    served.asking.version("1.2.3")
    served.carry_out()
    assert (served.state.phase, served.state.reason) == ("failed", "WRONG_VERSION")
    assert served.ran == ["info"]


def test_a_version_that_the_server_does_not_have_fails(served: Box, server: Server) -> None:
    server.plan = ["404"]
    served.asking.version("1.2.3")
    served.carry_out()
    assert (served.state.phase, served.state.reason) == ("failed", "DOWNLOAD")
    served.nothing_is_left()


def test_a_line_that_is_down_is_told_and_can_be_called_off(served: Box, server: Server) -> None:
    server.plan = ["short", *["503"] * 1000]
    told: list[tuple[str, int]] = []

    def look() -> None:
        told.append((served.state.reason, served.state.received))
        if len(told) == 50:
            served.asking.cancel()

    served.on_pause = look
    served.asking.version("1.2.3")
    served.carry_out()
    assert told[-1] == ("LINE", len(CONTENT) // 2)
    assert (served.state.phase, served.state.reason) == ("failed", "CANCELLED")
    served.nothing_is_left()


def test_a_restart_is_served_while_a_download_waits_and_the_download_goes_on_after_it(
    served: Box, server: Server
) -> None:
    server.plan = ["short", "503"]
    served.on_pause = served.asking.reboot
    served.asking.version("1.2.3")
    served.carry_out()
    assert served.ran == ["reboot"]
    assert not (served.storage / FOLDER / "reboot.json").exists(), "else it would start anew for ever"
    served.on_pause = lambda: None
    served.start_anew("A")
    served.carry_out()
    assert served.phases == ["downloading", "installing", "waiting"]
    assert server.asked[-1][0] == f"bytes={len(CONTENT) // 2}-"


def test_a_restart_alone_is_asked_for_like_that_too(box: Box) -> None:
    box.asking.reboot()
    box.asking.reboot()
    box.carry_out()
    assert box.ran == ["reboot"]
    assert box.state == State()
    box.carry_out()
    assert box.ran == ["reboot"]


def test_a_second_request_is_not_carried_out_during_or_after_the_first(served: Box) -> None:
    def another() -> None:
        served.put("wanted.json", UPDATE | {"id": "f" * 32, "version": "9.9.9"})

    served.on_pause = another
    served.asking.version("1.2.3")
    served.carry_out()
    assert not (served.storage / FOLDER / "wanted.json").exists()
    served.on_pause = lambda: None
    served.start_anew("B")
    served.carry_out()
    served.nothing_is_left()
    assert [change.to for change in served.state.changes] == ["1.2.3"] * 4


def test_it_waits_until_nothing_comes_in_for_a_minute_but_no_longer_than_a_day(served: Box) -> None:
    began = served.clock.monotonic()
    until = began + 600

    def coming() -> None:
        going = served.clock.monotonic() < until
        came = int(min(served.clock.monotonic(), until + 30))
        served.traffic = Traffic(going, came)

    served.traffic = Traffic(going=True, came=1)
    served.on_pause = coming
    served.asking.version("1.2.3")
    served.carry_out()
    assert 685 <= served.clock.monotonic() - began <= 705, "what came between two looks counts too"
    assert served.ran[-1] == "reboot"


def test_after_a_day_it_waits_no_longer(served: Box) -> None:
    served.traffic = Traffic(going=True, came=1)
    began = served.clock.monotonic()
    served.asking.version("1.2.3")
    served.carry_out()
    assert installing.PATIENCE <= served.clock.monotonic() - began <= installing.PATIENCE + 60


def test_an_appliance_that_does_not_answer_takes_nothing_in(served: Box) -> None:
    served.traffic = None
    began = served.clock.monotonic()
    served.asking.version("1.2.3")
    served.carry_out()
    assert served.clock.monotonic() - began == pytest.approx(60, abs=6)


def test_a_restart_that_cannot_be_had_is_told_and_tried_again(served: Box) -> None:
    served.fails = {"reboot": "Access denied"}
    served.asking.version("1.2.3")
    with pytest.raises(ToolError):
        served.carry_out()
    assert (served.state.phase, served.state.reason) == ("waiting", "REBOOT")
    served.fails = {}
    served.carry_out()
    assert served.ran.count("install") == 1
    assert served.ran[-1] == "reboot"


def test_a_full_disk_leaves_the_request_for_the_next_try(served: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    served.asking.version("1.2.3")
    with monkeypatch.context() as patch:
        patch.setattr("edge.updating.carrying.replace_synced", full)
        with pytest.raises(OSError, match="No space"):
            served.carry_out()
    assert (served.storage / FOLDER / "wanted.json").exists()
    served.carry_out()
    assert served.phases[-1] == "waiting"


def test_too_little_room_beside_the_reserve_fails(served: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Installer, "_room", lambda _: len(CONTENT) - 1)
    served.asking.version("1.2.3")
    served.carry_out()
    assert (served.state.phase, served.state.reason) == ("failed", "NO_ROOM")
    served.nothing_is_left()


# power cuts


NOT_OVER: Final[set[str]] = {"none", "downloading", "installing", "waiting"}
STEPS: Final = 40
"""More writes and programs than one update has."""


@pytest.mark.parametrize("source", ["server", "stick"])
def test_whenever_the_power_goes_the_next_start_explains_it_and_goes_on(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """The power goes before, and after, each step that changes anything; what follows ends as without it."""
    stick = tmp_path / "stick.raucb"
    stick.write_bytes(CONTENT)
    cuts = 0
    for step in range(STEPS):
        for after in (False, True):
            folder = tmp_path / f"{step}{after}"
            folder.mkdir()
            box = Box(folder, server.url)
            if source == "server":
                box.asking.version("1.2.3")
            else:
                box.asking.file(stick, keep=0)
            cut = _cut(box, monkeypatch, step, after=after)
            primary = "B" if "install" in box.ran else "A"
            cuts += cut
            box.start_anew(primary)
            assert box.state.phase in NOT_OVER
            _live_on(box)
            assert box.phases[-1] == "done", (step, after, box.phases, box.ran)
            assert box.state.rolled_back == ()
            assert box.slot == "B"
            box.nothing_is_left()
            if not cut:
                assert cuts > 10, "the steps were found"
                return
    pytest.fail("an update has more steps than were thought")


def _cut(box: Box, monkeypatch: pytest.MonkeyPatch, step: int, *, after: bool) -> bool:
    """Carry out until the ``step``-th change, where the power goes; False where there are not so many."""
    count = 0

    def stepping(work: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > step and not after:
                raise PowerCut
            result = work(*args, **kwargs)
            if count > step:
                raise PowerCut
            return result

        return stepped

    with monkeypatch.context() as patch:
        for name in ("state.replace_synced", "carrying.replace_synced", "download.replace_synced"):
            patch.setattr(f"edge.updating.{name}", stepping(replace_synced))
        patch.setattr(os, "unlink", stepping(os.unlink))
        patch.setattr(box, "run", stepping(box.run))
        try:
            box.carry_out()
        except PowerCut:
            return True
    return False


def _live_on(box: Box) -> None:
    """Start after start, until nothing is left to do; a version that is installed starts from its slot."""
    for _ in range(5):
        installs = box.ran.count("install")
        box.carry_out()
        box.settler().settle(box.judge())
        if box.state.phase == "done":
            box.carry_out()
            return
        box.start_anew("B" if box.ran.count("install") > installs or box.slot == "B" else "A")


def test_an_installation_that_stops_the_machine_each_time_is_given_up(served: Box) -> None:
    def stop(word: str) -> None:
        if word == "install":
            raise PowerCut

    served.on_run = stop
    served.asking.version("1.2.3")
    for _ in range(3):
        with pytest.raises(PowerCut):
            served.carry_out()
        served.start_anew("A")
    served.carry_out()
    assert (served.state.phase, served.state.reason) == ("failed", "INTERRUPTED")
    served.nothing_is_left()


# the trial


def waiting(box: Box) -> None:
    """An update is installed in B, which starts next."""
    box.record.enter(State(from_="1.0.0", to="1.2.3", slot="B", request=ID), "waiting")


BAD: Final[dict[str, dict[str, Any]]] = {
    "SERVICE_DOWN": {"unit": Unit(active="failed", restarts=0, ports=())},
    "STARTING": {"unit": Unit(active="activating", restarts=2, ports=())},
    "NO_STATUS": {"answer": "none"},
    "NO_DATABASE": {"answer": "no database"},
    "NO_RECEIVER": {"receives": False},
}


@pytest.mark.parametrize("code", BAD)
def test_a_version_on_trial_that_does_not_do_well_is_taken_back_with_its_reason(box: Box, code: str) -> None:
    waiting(box)
    box.start_anew("B")
    began = box.clock.monotonic()
    assert not box.settler().settle(box.judge(**BAD[code]))
    assert 300 <= box.clock.monotonic() - began <= 310
    assert box.ran == ["mark bad", "reboot"]
    box.start_anew("A")
    assert box.settler().settle(box.judge())
    state = box.state
    assert (state.phase, state.reason, state.from_, state.to) == ("rolled-back", code, "1.0.0", "1.2.3")
    assert state.rolled_back == ("1.2.3",)
    assert code in REASONS


@pytest.mark.parametrize("code", BAD)
def test_what_was_good_before_is_never_started_anew(box: Box, code: str) -> None:
    looks = 0
    bad, good = box.judge(**BAD[code]), box.judge()

    class Changing(Judge):
        def look(self) -> Any:
            nonlocal looks
            looks += 1
            return (good if looks > 2000 else bad).look()

    judge = Changing(lambda: Unit(active="active", restarts=0, ports=()), lambda: "good", bool, lambda: True, box.clock)
    assert box.settler().settle(judge)
    assert looks == 2001
    assert box.ran == ["mark good"]
    assert box.state == State()


def test_a_version_that_does_not_start_at_all_fell_back(box: Box) -> None:
    waiting(box)
    box.start_anew("A")
    assert box.settler().compare().phase == "rolled-back"
    assert box.state.reason == "FELL_BACK"
    box.carry_out()
    assert box.phases == ["waiting", "rolled-back"]


def test_a_version_that_was_good_and_does_not_start_any_more_fell_back_too(box: Box) -> None:
    box.record.enter(State(from_="1.0.0", to="1.2.3", slot="B"), "done")
    box.start_anew("A")
    assert box.settler().compare().phase == "rolled-back"
    assert box.settler().compare() == box.state
    assert box.phases == ["done", "rolled-back"]
    assert box.state.rolled_back == (), "it was good: three cuts in a row pass it over, too"


def test_a_trial_survives_a_power_cut(box: Box) -> None:
    waiting(box)
    for _ in range(2):
        box.start_anew("B")
        assert box.settler().compare().phase == "trial"
    assert box.settler().settle(box.judge())
    assert box.phases == ["waiting", "trial", "done"]


def test_a_full_disk_is_no_fault_of_the_version(box: Box) -> None:
    waiting(box)
    box.start_anew("B")
    began = box.clock.monotonic()

    def full() -> bool:
        return box.clock.monotonic() - began > 50_000

    judge = Judge(
        lambda: Unit(active="active", restarts=0, ports=()),
        lambda: "good" if full() else "none",
        lambda _: True,
        full,
        box.clock,
    )
    assert box.settler().settle(judge)
    assert box.clock.monotonic() - began > 50_000
    assert box.state.phase == "done"


def test_a_database_that_is_mended_for_long_is_waited_for_but_not_for_ever(box: Box) -> None:
    began = 0.0
    for length, good in ((3000, True), (1e9, False)):
        waiting(box)
        box.start_anew("B")
        began = box.clock.monotonic()

        def unit(end: float = began + length) -> Unit:
            active = "active" if box.clock.monotonic() > end else "activating"
            return Unit(active=active, restarts=0, ports=(11112,))

        judge = Judge(unit, lambda: "good", lambda _: True, lambda: True, box.clock)
        assert box.settler().settle(judge) is good
    assert box.clock.monotonic() - began == pytest.approx(3600 + 300, abs=20)


def test_what_waits_for_the_network_before_it_starts_is_waited_for(box: Box) -> None:
    judge = box.judge(unit=Unit(active="inactive", restarts=0, ports=(), queued=True))
    assert judge.look().excused
    assert not box.judge(unit=Unit(active="inactive", restarts=0, ports=())).look().excused


def test_a_program_that_falls_again_and_again_is_not_good_for_a_moment(box: Box) -> None:
    waiting(box)
    box.start_anew("B")
    looks = 0

    def unit() -> Unit:
        nonlocal looks
        looks += 1
        return Unit(active="active" if looks % 3 else "activating", restarts=looks, ports=(11112,))

    assert not box.settler().settle(Judge(unit, lambda: "good", lambda _: True, lambda: True, box.clock))
    assert box.ran == ["mark bad", "reboot"]


def test_a_slot_that_rauc_cannot_mark_bad_is_marked_past_it(box: Box) -> None:
    waiting(box)
    box.start_anew("B")
    box.fails = {"mark bad": "Error"}
    assert not box.settler().settle(box.judge(answer="none"))
    assert box.ran == ["mark bad", "set-state", "reboot"]


def test_where_nothing_keeps_a_mark_the_machine_does_not_start_anew_for_ever(box: Box) -> None:
    waiting(box)
    box.start_anew("B")
    box.fails = {"mark bad": "Error", "set-state": "Error"}
    bad, good, end = box.judge(answer="none"), box.judge(), box.clock.monotonic() + 2000

    class Late(Judge):
        def look(self) -> Any:
            return (good if box.clock.monotonic() > end else bad).look()

    judge = Late(lambda: Unit(active="active", restarts=0, ports=()), lambda: "good", bool, lambda: True, box.clock)
    reasons = []
    box.on_pause = lambda: reasons.append(box.state.reason)
    assert box.settler().settle(judge), "it is looked at until it is well"
    assert "reboot" not in box.ran
    assert box.ran[:4] == ["mark bad", "set-state"] * 2
    assert reasons[-1] == "NO_STATUS"
    assert (box.state.phase, box.state.reason) == ("done", "")


def test_a_slot_that_cannot_be_marked_good_stays_on_trial(box: Box) -> None:
    waiting(box)
    box.start_anew("B")
    box.fails = {"mark good": "Error"}
    with pytest.raises(ToolError):
        box.settler().settle(box.judge())
    assert box.state.phase == "trial"
    assert "reboot" not in box.ran


def test_a_rolled_back_version_is_taken_again_only_by_force(served: Box) -> None:
    served.record.enter(State(from_="1.0.0", to="1.2.3", slot="B", request="a" * 32), "rolled-back", reason="FELL_BACK")
    served.put("wanted.json", {**UPDATE, "url": f"{served.url}/b"})  # by somebody who did not ask first
    served.carry_out()
    assert (served.state.phase, served.state.reason) == ("rolled-back", "FELL_BACK"), "which is the truth still"
    assert served.ran == []
    served.nothing_is_left()
    served.asking.version("1.2.3", force=True)
    served.carry_out()
    assert served.state.phase == "waiting"


def test_the_same_holds_for_one_from_a_stick_that_is_left_in(box: Box) -> None:
    watching = Watching(box)
    box.record.enter(State(to="1.2.3", slot="B", request="a" * 32), "rolled-back", reason="NO_STATUS")
    for n in range(3):
        box.ask_by_stick()
        box.carry_out()
        assert (box.state.phase, box.state.reason, box.state.to) == ("rolled-back", "NO_STATUS", "1.2.3")
        assert box.ran == ["info"] * (n + 1)
        box.nothing_is_left()
        watching.look()
        assert watching.codes == ["UPDATE_ROLLED_BACK"]
        (box.storage / FOLDER / "told").unlink()


def test_what_a_stick_holds_that_is_not_needed_leaves_the_last_update_on_record(box: Box) -> None:
    box.record.enter(State(from_="1.0.0", to="1.2.3", slot="B", request="a" * 32), "done")
    box.start_anew("B")
    for bundle in ("1.2.3", "1.2.2"):
        box.bundle = bundle
        box.ask_by_stick()
        box.carry_out()
        assert (box.state.phase, box.state.to) == ("done", "1.2.3")
        box.nothing_is_left()


def test_a_box_that_was_never_updated_says_why_it_does_not_take_a_stick(box: Box) -> None:
    box.bundle = "1.0.0"
    box.ask_by_stick()
    box.carry_out()
    assert (box.state.phase, box.state.reason, box.state.to) == ("failed", "SAME_VERSION", "1.0.0")


@pytest.mark.parametrize("version", ["0.9.9", "1.0.0rc1", "1.0.0-dev", "0.10", ""])
def test_an_older_version_is_taken_from_a_stick_only_by_force(box: Box, version: str) -> None:
    box.bundle = version
    box.ask_by_stick()
    box.carry_out()
    assert (box.state.phase, box.state.reason) == ("failed", "OLDER_VERSION")
    assert box.ran == ["info"]
    box.nothing_is_left()
    box.ask_by_stick(force=True)
    box.carry_out()
    assert box.state.phase == "waiting"


def test_an_older_version_that_is_asked_for_from_afar_is_taken(served: Box) -> None:
    served.bundle = "0.9.9"
    served.asking.version("0.9.9")
    served.carry_out()
    assert served.state.phase == "waiting"


def test_versions_have_an_order() -> None:
    order = [
        *("0.9.9", "0.10.0", "1.0.0a2", "1.0.0-alpha", "1.0.0-beta1", "1.0.0.dev3", "1.0.0rc2", "1.0.0rc10"),
        *("1.0.0", "1.0.0+debian", "1.0.0.post1", "1.0.0.post2", "1.0.1", "2.0.0"),
    ]
    for n, one in enumerate(order):
        assert [is_older(one, than) for than in order] == [False] * (n + 1) + [True] * (len(order) - n - 1), one
    assert not is_older("1.0.0", "01.0.0")
    for nonsense in ("", "1.0", "1.0.0.0", "1.0.0\n", "a.b.c", "1.0.0-RC1", "\u0661.0.0"):
        with pytest.raises(ValueError, match="is no version"):
            is_older(nonsense, "1.0.0")
        with pytest.raises(ValueError, match="is no version"):
            is_older("1.0.0", nonsense)


def test_a_version_whose_database_is_too_far_away_is_not_installed(box: Box) -> None:
    for schema, force, taken in (
        (VERSION + 2, False, False),
        (VERSION + 2, True, False),
        (VERSION + 1, False, True),
        (VERSION, False, True),
        (VERSION - 1, False, True),
        (VERSION - 2, False, False),
        (VERSION - 2, True, True),
        (None, False, True),
    ):
        (box.root / NAME).unlink(missing_ok=True)
        (box.root / "request.json").unlink(missing_ok=True)
        box.meta = {} if schema is None else {"dicom-edge": {"schema": str(schema), "more": "x"}}
        box.ask_by_stick(force=force)
        box.carry_out()
        said = ("waiting", "") if taken else ("failed", "SCHEMA")
        assert (box.state.phase, box.state.reason) == said, (schema, force)


def test_what_a_bundle_says_of_its_database_in_vain_is_no_answer() -> None:
    for schema in ("x", "-1", "1\n", "9" * 7):
        told = json.dumps({"update": {"version": "1.2.3"}, "meta": {"dicom-edge": {"schema": schema}}})
        with pytest.raises(ToolError):
            System(lambda *_, out=told: Ran(code=0, out=out, err="")).bundle(Path("b"))


def test_a_bundle_says_of_itself_what_a_box_reads() -> None:
    said = ConfigParser()
    said.read_string(manifest("arm64", "1.2.3", VERSION))
    told = {
        "update": dict(said["update"]),
        "images": [dict(said["image.rootfs"])],
        "bundle": dict(said["bundle"]),
        "meta": {"dicom-edge": dict(said["meta.dicom-edge"])},
    }
    # as rauc 1.13 repeats it
    found = System(lambda *_: Ran(code=0, out=json.dumps(told), err="")).bundle(Path("b"))
    assert found == Bundle("1.2.3", VERSION)


# what is lost


@pytest.mark.parametrize("phase", ["downloading", "installing"])
@pytest.mark.parametrize("lost", ["gone", "damaged"])
def test_a_request_that_is_lost_ends_its_update_and_the_next_one_is_taken(served: Box, phase: Phase, lost: str) -> None:
    served.record.enter(State(from_="1.0.0", to="1.2.3", slot="B", request=ID), phase)
    if lost == "damaged":
        (served.root / "request.json").write_bytes(b'{"wan\0\0')
    served.start_anew("A")
    served.carry_out()
    assert (served.state.phase, served.state.reason, served.state.to) == ("failed", "INTERRUPTED", "1.2.3")
    assert not (served.root / "request.json").exists()
    served.asking.version("1.2.3")
    served.carry_out()
    assert served.state.phase == "waiting"


@pytest.mark.parametrize("phase", ["downloading", "installing"])
def test_it_is_found_at_the_next_start_that_a_request_is_lost(box: Box, phase: Phase) -> None:
    box.record.enter(State(from_="1.0.0", to="1.2.3", slot="B", request=ID), phase)
    request = box.root / "request.json"
    request.write_text("{}")
    box.start_anew("A")
    assert box.settler().compare().phase == phase
    request.unlink()
    assert box.settler().compare().phase == "failed", "the path unit sees nothing, and nobody may ask meanwhile"
    assert (box.state.phase, box.state.reason) == ("failed", "INTERRUPTED")


def test_a_call_off_without_a_request_ends_it_as_well(box: Box) -> None:
    box.record.enter(State(from_="1.0.0", to="1.2.3", slot="B", request=ID), "downloading")
    box.asking.cancel()
    box.carrier().run()  # in the same start: nobody compared
    assert (box.state.phase, box.state.reason) == ("failed", "INTERRUPTED")
    box.nothing_is_left()


def test_what_is_left_of_a_lost_request_is_not_taken_for_the_next_one(box: Box) -> None:
    box.record.enter(State(from_="1.0.0", to="1.2.2", slot="B", request=ID), "installing")
    (box.root / "download").mkdir()
    (box.root / "download/handed-over.raucb").write_bytes(b"of 1.2.2")
    box.start_anew("A")
    box.settler().compare()
    box.ask_by_stick()
    path, handed = box.root / "download/handed-over.raucb", []
    box.on_run = lambda word: handed.append(path.read_bytes()) if word == "info" else None
    box.carry_out()
    assert handed == [CONTENT]


def test_one_that_was_installed_starts_although_its_request_is_lost(box: Box) -> None:
    waiting(box)
    box.carry_out()
    assert box.ran == ["reboot"]
    box.record.enter(State(from_="1.0.0", to="1.2.3", slot="B", request=ID), "installing")
    box.start_anew("B")
    box.carry_out()
    assert box.state.phase == "trial", "it was installed whole"


def test_a_request_that_a_newer_version_wrote_is_gone_on_with(served: Box) -> None:
    wanted = {**UPDATE, "url": f"{served.url}/b", "mirrors": ["https://x"]}
    (served.root / "request.json").write_text(json.dumps({"wanted": wanted, "tries": 0, "new": 1}))
    served.record.enter(State(from_="1.0.0", to="1.2.3", slot="B", request=ID), "downloading")
    served.carry_out()
    assert served.phases == ["downloading", "installing", "waiting"]


# the power, again and again


def test_a_version_whose_starts_the_power_cut_off_may_be_asked_for_again(box: Box) -> None:
    waiting(box)
    for _ in range(2):
        box.start_anew("B")
        box.settler().compare()
        box.settler().compare()  # by another service, in the same start
    box.start_anew("A")
    assert box.settler().compare().phase == "rolled-back"
    assert (box.state.reason, box.state.rolled_back) == ("FELL_BACK", ())
    assert box.asking.refusal("1.2.3") == ""


def test_a_version_whose_starts_were_cut_off_twice_over_is_not_tried_for_ever(box: Box) -> None:
    # as one does that crashes the machine before it is judged, on a stick that was left in the box
    for remembered in ((), ("1.2.3",)):
        waiting(box)
        for _ in range(2):
            box.start_anew("B")
            box.settler().compare()
        box.start_anew("A")
        box.settler().compare()
        assert (box.state.reason, box.state.rolled_back) == ("FELL_BACK", remembered)
    assert box.asking.refusal("1.2.3")


def test_a_version_that_was_judged_in_its_second_start_is_remembered(box: Box) -> None:
    waiting(box)
    box.start_anew("B")
    box.settler().compare()
    box.start_anew("B")
    assert not box.settler().settle(box.judge(answer="none"))
    box.start_anew("A")
    box.settler().compare()
    assert (box.state.reason, box.state.rolled_back) == ("NO_STATUS", ("1.2.3",))


@pytest.mark.parametrize("starts", [0, 1])
def test_a_version_that_did_not_come_up_each_time_is_remembered(box: Box, starts: int) -> None:
    waiting(box)
    for _ in range(starts):
        box.start_anew("B")
        box.settler().compare()
    box.start_anew("A")
    box.settler().compare()
    assert (box.state.reason, box.state.rolled_back) == ("FELL_BACK", ("1.2.3",))


def test_a_restart_that_could_not_be_had_is_no_reason_of_the_version(box: Box) -> None:
    waiting(box)
    box.record.keep(msgspec.structs.replace(box.state, reason="REBOOT", text="Access denied"))
    box.start_anew("A")
    box.settler().compare()
    assert (box.state.reason, box.state.text) == ("FELL_BACK", "")


def test_a_disk_that_is_full_keeps_no_version_from_being_good(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting(box)
    box.start_anew("B")
    full = True

    def write(path: Path, data: bytes, mode: int = 0o666) -> None:
        if full:
            raise OSError(28, "No space left on device")
        replace_synced(path, data, mode)

    def pause() -> None:
        nonlocal full
        full = "mark good" not in box.ran

    monkeypatch.setattr("edge.updating.state.replace_synced", write)
    box.on_pause = pause
    assert box.settler().settle(box.judge())
    assert box.ran == ["mark good"]
    assert box.phases == ["waiting", "done"], "written once there was room"


def test_a_trial_is_written_down_once_there_is_room(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting(box)
    box.start_anew("B")
    full = True

    def write(path: Path, data: bytes, mode: int = 0o666) -> None:
        if full:
            raise OSError(28, "No space left on device")
        replace_synced(path, data, mode)

    seen: list[str] = []

    def pause() -> None:
        nonlocal full
        seen.append(box.state.phase)
        full = False

    monkeypatch.setattr("edge.updating.state.replace_synced", write)
    box.on_pause = pause
    assert not box.settler().settle(box.judge(answer="none"))
    assert seen[:2] == ["waiting", "trial"]
    assert box.phases == ["waiting", "trial"]
    assert box.state.reason == "NO_STATUS"


def test_a_clock_at_1970_decides_nothing(served: Box) -> None:
    served.clock.wall = 0.0
    served.clock.believed = False
    served.asking.version("1.2.3")
    served.carry_out()
    served.start_anew("B")
    served.clock.wall = 0.0
    assert served.settler().settle(served.judge())
    assert served.phases == ["downloading", "installing", "waiting", "trial", "done"]
    assert served.state.since.startswith("1970-01-01T00:")


# the record


def test_a_record_of_a_newer_version_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text('{"v":1,"phase":"rolled-back","from":"1.0.0","to":"1.2.3","new":{"a":1}}')
    assert (read_state(path).phase, read_state(path).to) == ("rolled-back", "1.2.3")
    for nonsense in (b"", b"{", b"\xff", b"[" * 50_000, b'{"phase":"dancing"}'):
        path.write_bytes(nonsense)
        assert read_state(path) == State()
    path.unlink()
    assert read_state(path) == State()


def test_the_record_stays_small_and_everybody_may_read_it(box: Box) -> None:
    old = os.umask(0o077)
    try:
        for n in range(100):
            box.record.enter(State(to=f"1.0.{n}"), "rolled-back", text="x" * 10_000)
    finally:
        os.umask(old)
    path = box.root / NAME
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.stat().st_size < 20_000
    assert (len(box.state.changes), box.state.changes[-1].n) == (32, 100)
    assert box.state.rolled_back[-1] == "1.0.99"


# what the appliance tells


class Watching:
    def __init__(self, box: Box) -> None:
        self.box = box
        self.journal = Journal(box.clock)
        self.events: list[Event] = []
        self.writable = True
        self.watch = self.another()

    def another(self) -> UpdateWatch:
        async def run_now(work: Callable[[], Any]) -> Any:
            return work()

        return UpdateWatch(
            self.box.storage,
            self.box.root / NAME,
            self.box.slot,
            self.journal,
            self.box.clock,
            tell=self._tell,
            run=run_now,
        )

    async def _tell(self, told: Sequence[Event]) -> None:
        if not self.writable:
            raise StoreError("it cannot be written")
        self.events += told

    def look(self) -> UpdateReport:
        asyncio.run(self.watch.look())
        return self.watch.report()

    @property
    def phases(self) -> list[object]:
        return [event.data["phase"] for event in self.events]

    @property
    def codes(self) -> list[str]:
        return [finding.code for finding in self.journal.open()]


def test_every_change_is_told_once_also_across_a_restart_of_the_program(box: Box) -> None:
    watching = Watching(box)
    assert (watching.look().phase, watching.look().slot) == ("none", "A")
    waiting(box)
    watching.writable = False
    watching.look()
    watching.writable = True
    watching.look()
    assert watching.phases == ["waiting"]
    box.start_anew("B")
    box.settler().settle(box.judge())
    watching.watch = watching.another()
    assert watching.look().phase == "done"
    watching.look()
    assert watching.phases == ["waiting", "trial", "done"]
    assert {event.component for event in watching.events} == {"update"}
    (box.root / NAME).unlink()
    box.record.enter(State(to="1.3.0"), "failed", reason="RAUC")
    watching.look()
    assert watching.phases[3:] == ["failed"]


def test_a_roll_back_is_a_finding_until_the_next_update_or_for_a_week(box: Box) -> None:
    watching = Watching(box)
    box.record.enter(State(from_="1.0.0", to="1.2.3", slot="B"), "rolled-back", reason="NO_STATUS")
    assert watching.look().reason == "NO_STATUS"
    assert watching.codes == ["UPDATE_ROLLED_BACK"]
    (finding,) = watching.journal.open()
    assert "1.2.3 was tried, and 1.0.0 runs again: the program did not answer." in finding.text
    box.clock.pass_time(REMEMBERED - 10)
    watching.look()
    assert watching.codes == ["UPDATE_ROLLED_BACK"]
    box.clock.pass_time(10)
    watching.look()
    assert watching.codes == []
    box.record.enter(State(from_="1.0.0", to="1.2.3"), "rolled-back")
    watching.look()
    box.record.enter(State(from_="1.0.0", to="1.2.4"), "downloading")
    watching.look()
    assert watching.codes == []


def test_a_clock_that_jumps_from_1970_ends_no_finding(box: Box) -> None:
    watching = Watching(box)
    box.clock.wall = 0.0
    box.record.enter(State(from_="1.0.0", to="1.2.3"), "rolled-back")
    watching.look()
    box.clock.wall = 1_800_000_000.0
    watching.look()
    assert watching.codes == ["UPDATE_ROLLED_BACK"]


def test_a_system_that_is_no_image_says_so(box: Box) -> None:
    box.slot = ""
    watching = Watching(box)
    assert (watching.watch.report().phase, watching.watch.report().slot) == ("unsupported", "")
    asyncio.run(asyncio.wait_for(watching.watch.run(), 5))


# over MQTT


def acts(box: Box) -> Acts:
    """As an appliance has them, of which only what is about updates is used."""
    nothing: Any = None
    asking = box.asking if box.slot else None
    return Acts((), nothing, nothing, box.clock, probe=nothing, rebirth=nothing, restart=nothing, asking=asking)


async def test_an_update_and_a_restart_are_asked_for_over_mqtt(box: Box) -> None:
    table = acts(box).table()
    assert await table["update"](Update(version="1.2.3"), "monitor-1") == {"version": "1.2.3"}
    assert await table["reboot"](Nothing(), "monitor-1") == {}
    assert sorted(p.name for p in (box.storage / FOLDER).iterdir()) == ["reboot.json", "wanted.json"]
    with pytest.raises(CommandFailed, match="UPDATE_UNDER_WAY"):
        await table["update"](Update(version="1.2.4"), "monitor-1")


async def test_where_there_is_no_image_updates_are_not_served_and_a_restart_goes_the_old_way(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.slot = ""
    table = acts(box).table()
    assert "update" not in table
    fake_programs(tmp_path, monkeypatch, systemctl='echo "$@" > "$0.log"')
    assert await table["reboot"](Nothing(), "monitor-1") == {}
    assert (tmp_path / "systemctl.log").read_text() == "reboot\n"
    assert not (box.storage / FOLDER).exists()


async def test_a_command_that_cannot_be_is_rejected_with_its_reason_and_none_is_carried_out_twice(
    box: Box, tmp_path: Path
) -> None:
    store = await Store.open(tmp_path, box.clock, 1, lambda n: tmp_path / str(n))
    running = asyncio.create_task(store.run())
    session, made = FakeBrokerSession(), acts(box)
    commander = Commander(NODE, TOPICS, (SIGNER,), made.table(), store, box.clock, made.refusal)
    commander.report_over(session)  # type: ignore[arg-type]
    assert commander.capabilities[-1] == "update"

    async def give(number: str, **arguments: object) -> tuple[str, str]:
        payload = {"v": 1, "id": number, "type": "update", "args": arguments, "issued_by": "monitor-1"}
        payload["expires_at"] = iso(box.clock.now() + 600)
        payload["signature"] = sign(payload, NODE, KEY)
        body = json.dumps(payload).encode()
        await commander.take(Message(topic=TOPICS.down_command(number), payload=body, qos=1, retain=False))
        await commander.finish()
        told = json.loads(session.on(TOPICS.command(number))[-1])
        return told["status"], told["reason"]

    try:
        for arguments in ({}, {"version": "../x"}, {"version": "1.2.3", "url": "https://x"}, {"version": 1}):
            assert await give("c0", **arguments) == ("rejected", "BAD_ARGUMENTS")
        assert await give("c1", version="1.0.0") == ("rejected", "SAME_VERSION")
        box.url = None
        commander._refusal = acts(box).refusal
        assert await give("c2", version="1.2.3") == ("rejected", "NO_UPDATE_URL")
        commander._refusal = made.refusal
        assert await give("c3", version="1.2.3") == ("succeeded", "")
        assert await give("c4", version="1.2.3") == ("rejected", "UPDATE_UNDER_WAY")
        (box.storage / FOLDER / "wanted.json").unlink()
        await give("c3", version="1.2.3")
        assert not (box.storage / FOLDER / "wanted.json").exists()
    finally:
        store.finish()
        await running
        await store.close()
    assert {"NO_UPDATE_URL", "UPDATE_UNDER_WAY", "ROLLED_BACK_BEFORE", "SAME_VERSION", "STORAGE"} <= set(
        COMMAND_REASONS
    )


def test_an_update_is_a_part_of_the_health_of_an_image(box: Box) -> None:
    assert "update" not in health(snapshot(), {}).components
    assert health(snapshot(), {}, image=True).components["update"].status == "ok"
    watching = Watching(box)
    box.record.enter(State(from_="1.0.0", to="1.2.3"), "rolled-back", reason="RAUC")
    watching.look()
    shown = snapshot(findings=[finding_status(one) for one in watching.journal.open()])
    told = health(shown, {}, image=True).components["update"]
    assert (told.status, told.code) == ("attention", "UPDATE_ROLLED_BACK")


async def test_an_update_is_reported_when_it_goes_on_and_not_else(box: Box) -> None:
    nothing: Any = None
    session, watching = FakeBrokerSession(), Watching(box)
    reporter = Reporter(
        session,  # type: ignore[arg-type]
        TOPICS,
        Who(session=1, boot_id=""),
        box.clock,
        snapshot=nothing,
        birth=nothing,
        findings=nothing,
        power=nothing,
        introduce=nothing,
        update=watching.watch.report,
    )
    await reporter._tell_update(anew=True)
    box.clock.pass_time(100)
    await reporter._tell_update(anew=False)
    box.record.enter(State(from_="1.0.0", to="1.2.3", slot="B"), "downloading")
    await watching.watch.look()
    await reporter._tell_update(anew=False)
    told = [json.loads(body) for body in session.on(TOPICS.update)]
    assert [(one["phase"], one["slot"]) for one in told] == [("none", "A"), ("downloading", "B")]


def test_the_page_of_the_system_says_slot_and_phase_in_the_readers_language(box: Box) -> None:
    shown: Any = SimpleNamespace(slot="A", update=lambda: box.state)
    english, spanish = (Languages(code).choose("", "") for code in ("en", "es"))
    assert _image(shown, english).note == "no update so far"
    box.record.enter(State(from_="1.0.0", to="1.2.3", slot="B"), "rolled-back", reason="NO_STATUS")
    said = _image(shown, english)
    assert (said.value, said.state) == ("slot A", "care")
    assert said.note == "update to 1.2.3: taken back (the program did not answer)"
    assert _image(shown, spanish).note == "actualización a 1.2.3: se deshizo (el programa no respondió)"


# the programs


def fake_programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> None:
    for name, text in texts.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_programs_are_run_and_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_programs(
        tmp_path,
        monkeypatch,
        rauc='test "$1 $2" = "info --output-format=json-2" && cat "$0.told" && exit; echo "$@" >> "$0.log"',
        busctl='echo "$@" >> "$0.log"',
        systemctl='printf "%s\\n" ActiveState=active Job=0 NRestarts=4 "StatusText=receiving on [104, 2762]"',
    )
    (tmp_path / "rauc.told").write_text('{"update":{"version":"1.2.3"}}')
    system = System()
    assert system.bundle(tmp_path / "b").version == "1.2.3"
    system.install(tmp_path / "b")
    system.mark_good()
    system.mark_bad("B")
    assert (tmp_path / "rauc.log").read_text().splitlines() == [f"install {tmp_path}/b"]
    mark = "call --timeout=300 de.pengutronix.rauc / de.pengutronix.rauc.Installer Mark ss"
    assert (tmp_path / "busctl.log").read_text().splitlines() == [f"{mark} good booted", f"{mark} bad booted"]
    assert system.unit() == Unit(active="active", restarts=4, ports=(104, 2762))
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert run(("rauc", "info"), 1.0).code == 127
    assert system.unit() == Unit(active="", restarts=0, ports=())
    with pytest.raises(ToolError):
        system.reboot()


def test_a_program_that_hangs_is_ended() -> None:
    assert run(("sleep", "60"), 0.1).code == 124


@pytest.mark.parametrize("out", ["", "[]", "{", "{}", '{"update": {"version": 3}}'])
def test_what_rauc_says_that_is_no_answer_is_a_failure(out: str) -> None:
    with pytest.raises(ToolError):
        System(lambda *_: Ran(code=0, out=out, err="")).bundle(Path("b"))


async def test_a_receiver_is_good_as_soon_as_it_answers_at_all() -> None:
    async def reject(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(bytes([3, 0, 0, 0, 0, 4, 0, 1, 1, 7]))  # A-ASSOCIATE-RJ
        await writer.drain()
        writer.close()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    for handler, good in ((reject, True), (hang, False)):
        server = await asyncio.start_server(handler, LOOPBACK, 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            assert await receives(Receive(), (port,)) is good
    assert not await receives(Receive(port=free_port()), ())


def test_a_disk_that_is_there_takes_something(tmp_path: Path) -> None:
    assert disk_takes(tmp_path)
    assert disk_takes(tmp_path)
    assert not disk_takes(tmp_path / "none")


def test_a_disk_that_takes_nothing_without_saying_so_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert disk_takes(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert not disk_takes(tmp_path)


# the command


def test_the_command_says_what_runs_and_takes_no_update_where_there_is_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edge.toml").write_text(f'[storage]\npath = "{tmp_path}"\n[update]\nurl = "https://x/y"\n')
    monkeypatch.setenv("EDGE_CONFIG", str(tmp_path / "edge.toml"))
    monkeypatch.setattr("edge.cli.update.FOLDER", tmp_path / "root")

    def call(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["update", *words])
        return done.exit_code, done.output

    monkeypatch.setattr("edge.cli.update.booted", lambda: "")
    assert call() == (0, f"version {__version__}; this system is not the image of the box\n")
    assert call("--version", "9.2.3")[0] == 1
    assert call("--carry-out")[0] == 1
    assert call("--version", "9.2.3", "--cancel")[0] == 2
    monkeypatch.setattr("edge.cli.update.booted", lambda: "A")
    assert call() == (0, f"version {__version__}, slot A\nthere was no update so far\n")
    assert call("--version", "1/2")[0] == 1
    assert call("--version", "9.2.3") == (0, "asked for; edge update shows how it goes on\n")
    assert call("--version", "9.2.4")[0] == 1
    told = json.loads(call("--json")[1])
    assert (told["phase"], told["booted"], told["asked"], told["image"]) == ("none", "A", True, True)


def test_root_does_not_write_into_the_folder_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edge.toml").write_text(f'[storage]\npath = "{tmp_path}"\n[update]\nurl = "https://x/y"\n')
    monkeypatch.setattr("edge.cli.update.booted", lambda: "A")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    stat = Path.stat

    def owned(self: Path, **more: bool) -> os.stat_result:
        found = stat(self, **more)
        return os.stat_result((*found[:4], 1234, *found[5:])) if self == tmp_path else found

    monkeypatch.setattr(Path, "stat", owned)
    done = CliRunner().invoke(main, ["update", "--version", "9.2.3", "--config", str(tmp_path / "edge.toml")])
    assert done.exit_code == 2
    assert not (tmp_path / FOLDER).exists()


def test_roots_side_works_without_a_configuration_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edge.toml").write_text("nonsense")
    fake_programs(tmp_path, monkeypatch, systemctl="exit 0", rauc="exit 0")
    monkeypatch.setattr("edge.cli.update_root.FOLDER", tmp_path / "root")
    monkeypatch.setattr("edge.cli.update_root.booted", lambda: "A")
    done = CliRunner().invoke(main, ["update", "--carry-out", "--config", str(tmp_path / "edge.toml")])
    assert (done.exit_code, done.output) == (0, "")


def test_the_units_are_for_the_image_alone_and_wait_for_what_is_asked(tmp_path: Path) -> None:
    folder = Path(__file__).parent.parent / "firmware-config" / "systemd"
    for name in ("edge-update.path", "edge-update.service", "edge-good.service"):
        text = (folder / name).read_text()
        assert "ConditionKernelCommandLine=rauc.slot\n" in text
        (tmp_path / name).write_text(text.replace("ExecStart=edge", f"ExecStart={sys.executable}"))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.iterdir())], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "edge-update" in line or "edge-good" in line] == []
    path = (folder / "edge-update.path").read_text()
    for name in ("wanted.json", "reboot.json", "cancel.json"):
        assert f"PathExists=/var/lib/edge/update/{name}\n" in path
