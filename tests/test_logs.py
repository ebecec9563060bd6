"""The logs bundle of a real appliance into which somebody's name came by every way there is."""

import io
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.appliance import Edge, dimse
from tests.peers.objects import DicomObject, mr
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.raw import RawReceiver, RawSender, Received, Rejected
from tests.test_telemetry import spellings
from tests.web import PASSWORD, stored_password, token_in

pytestmark = pytest.mark.rig

CANARY: Final = "Kanarienvogel"


def _canary(made: DicomObject) -> DicomObject:
    """The same with the word in the texts that are read of it."""
    dataset = made.dataset
    for old in (b"Synthetic^Patient", b"Synthetic study", b"Synthetic series", b"SYNTHETIC-1"):
        assert old in dataset
        dataset = dataset.replace(old, CANARY.encode()[: len(old)].ljust(len(old)))
    return replace(made, dataset=dataset)


class Watched(Edge):
    """An appliance with its dashboard, and a password for it."""

    def __init__(self, folder: Path, destinations: str = "", *, more: str = "") -> None:
        self.web = free_port()
        super().__init__(folder, destinations, more=more, dashboard=f"port = {self.web}")
        identity = self.storage / "identity"
        identity.mkdir(parents=True)
        (identity / "password").write_bytes(stored_password(PASSWORD))

    @contextmanager
    def browser(self) -> Iterator[httpx.Client]:
        """A browser that is logged in."""
        with httpx.Client(base_url=f"http://{LOOPBACK}:{self.web}", timeout=20, trust_env=False) as client:
            token = token_in(client.get("/login").text)
            assert client.post("/login", data={"token": token, "password": PASSWORD}).status_code == 303
            yield client

    def served(self, times: int = 1) -> None:
        wait_for(lambda: self.output().count("event=dashboard ") >= times, 20, "the dashboard")


def test_the_bundle_tells_what_it_was_and_nobodys_name(tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    (export / f"{CANARY}^Hans.txt").write_bytes(b"no DICOM")
    watch = f'[[watch]]\npath = "{export}"\nname = "us"\nsettle = "100ms"\npatience = "200ms"\nrescan = "500ms"\n'
    objects = [_canary(o) for o in mr(3)]

    def refuses(received: Received) -> int:
        return 0xA900 if received.sop_instance_uid == objects[0].sop_instance_uid else 0

    with RawReceiver(comment=CANARY) as pacs:
        pacs.status_for = refuses
        with Watched(tmp_path / "box", dimse("pacs", pacs.port), more=watch) as edge:
            edge.served()
            with RawSender(edge.port, calling=CANARY[:16]) as sender:
                sender.associate([(objects[0].sop_class_uid, [objects[0].transfer_syntax_uid])])
                assert [sender.store(one) for one in objects] == [0] * 3
                sender.release()
            with RawSender(edge.port, calling=CANARY, called=CANARY) as stranger, pytest.raises(Rejected):
                stranger.associate([(objects[0].sop_class_uid, [objects[0].transfer_syntax_uid])])
            edge.wait_settled("pacs", {"accepted": 2, "held": 1})
            codes = {"DELIVERIES_HELD", "WATCH_LEFT", "PEER_REFUSED"}
            wait_for(lambda: codes <= {f["code"] for f in edge.json("status")["findings"]}, 20, "the findings")
            out = tmp_path / "out.zip"
            edge.command("logs", "--output", str(out))
            with edge.browser() as browser:
                page = browser.get("/system").text
                assert CANARY in page, "people at the box read it"
                taken = browser.post("/system/logs", data={"token": token_in(page)}).content
    for body in (out.read_bytes(), taken):
        with zipfile.ZipFile(io.BytesIO(body)) as archived:
            files = {name: archived.read(name) for name in archived.namelist()}
        assert b"event=ready" in files["log.txt"]
        for code in codes:
            assert code.encode() in files["snapshot.json"]
        for name, text in files.items():
            for spelling in spellings(CANARY):
                assert spelling not in text, name
            for one in objects:
                assert one.sop_instance_uid.encode() not in text, name


def test_a_restart_by_the_dashboard_begins_anew_and_keeps_what_is_paused(tmp_path: Path) -> None:
    with RawReceiver() as pacs, Watched(tmp_path, dimse("pacs", pacs.port)) as edge:
        edge.served()
        with edge.browser() as browser:
            page = browser.get("/system").text
            assert re.search(r"port \d+ on 127\.0\.0\.1</span> <span class=\"soft\">open<", page)
            assert (
                browser.post("/system/pause", data={"token": token_in(page), "destination": "pacs"}).headers["location"]
                == "/system?done=pause"
            )
            assert browser.post("/system/identify", data={"token": token_in(page)}).status_code == 303
            assert edge.json("status")["light"]["code"] == "I1"
            begun = time.monotonic()
            assert browser.post("/system/restart", data={"token": token_in(page)}).status_code == 200
            edge.served(2)
            assert time.monotonic() - begun < 20
            assert browser.get("/system").status_code == 303, "a restart logs everybody out"
        (destination,) = edge.json("status")["destinations"]
        assert destination["state"] == "paused"
        edge.command("logs", "--output", str(tmp_path / "out.zip"))
        with zipfile.ZipFile(tmp_path / "out.zip") as archived:
            log = archived.read("log.txt").decode()
    assert "the dashboard asks for a restart" in log
    assert log.count("event=ready") == 2, "what was before the restart is there too"
