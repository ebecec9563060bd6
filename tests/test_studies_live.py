"""Studies on the dashboard of the real appliance: sent by a modality, decided in a browser, delivered to a PACS."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydicom.data import get_testdata_file

from tests.appliance import Edge, dimse
from tests.peers.objects import mr, uid
from tests.peers.part10 import part10
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.raw import RawReceiver, RawSender
from tests.peers.sender import Storable
from tests.web import PASSWORD, token_in


@pytest.fixture
def pacs() -> Iterator[RawReceiver]:
    with RawReceiver() as receiver:
        yield receiver


class Watched(Edge):
    """An appliance with its dashboard."""

    def __init__(self, folder: Path, destinations: str) -> None:
        self.web = free_port()
        super().__init__(folder, destinations, dashboard=f"port = {self.web}")

    @contextlib.contextmanager
    def enter(self) -> Iterator[httpx.Client]:
        """A browser that is logged in."""
        wait_for(lambda: "event=dashboard" in self.output(), 20, "the dashboard")
        command = [str(Path(sys.executable).with_name("edge")), "password", "--stdin", "--config", str(self.config)]
        subprocess.run(command, input=f"{PASSWORD}\n", text=True, check=True, capture_output=True, timeout=60)
        with httpx.Client(base_url=f"http://{LOOPBACK}:{self.web}", timeout=60, trust_env=False) as browser:
            token = token_in(browser.get("/login").text)
            assert browser.post("/login", data={"token": token, "password": PASSWORD}).status_code == 303
            yield browser


def send(edge: Edge, *objects: Storable) -> None:
    with RawSender(edge.port) as modality:
        modality.associate(sorted({(one.sop_class_uid, (one.transfer_syntax_uid,)) for one in objects}))
        assert {modality.store(one) for one in objects} == {0x0000}
        modality.release()


@pytest.mark.rig
def test_a_study_is_seen_hurried_given_up_and_delivered(tmp_path: Path, pacs: RawReceiver) -> None:
    pacs.stop()
    with Watched(tmp_path, dimse("pacs", pacs.port)) as edge, edge.enter() as browser:
        send(edge, *mr(3, uid()))
        send(edge, *mr(2, uid()))
        edge.wait_settled("pacs", {"queued": 5})
        second, first = [study["id"] for study in browser.get("/api/studies").json()["studies"]]
        assert "2 studies today." in re.sub(r"\s+", " ", browser.get("/studies").text)

        def do(study: int, what: str, reason: str = "") -> str:
            token = token_in(browser.get(f"/studies/{study}").text)
            fields = {"token": token, "what": what, "reason": reason}
            assert browser.post(f"/studies/{study}/act", data=fields).status_code == 303
            return browser.get(f"/studies/{study}").text

        chosen = "destination=pacs&state=queued"
        assert "pacs: 2 images go before all others." in do(second, f"verb=stat&{chosen}")
        assert "pacs: 3 images are given up." in do(first, f"verb=cancel&{chosen}", "phantom")
        pacs.start()
        do(second, f"verb=retry&{chosen}")
        edge.wait_settled("pacs", {"accepted": 2, "cancelled": 3})
        assert browser.get(f"/api/studies/{second}").json()["open"] == []
        receipt = browser.get(f"/api/studies/{first}/receipt").json()
        assert receipt == edge.json("trace", receipt[0]["study_uid"])
        assert {(step["code"], step["detail"]) for one in receipt for step in one["trail"][-1:]} == {
            ("dashboard", "phantom")
        }


@pytest.mark.rig
def test_a_study_has_a_picture(tmp_path: Path) -> None:
    path = get_testdata_file("CT_small.dcm")
    assert isinstance(path, str)
    with Watched(tmp_path, dimse("pacs", free_port())) as edge, edge.enter() as browser:
        send(edge, part10(Path(path)))
        edge.wait_settled("pacs", {"queued": 1})
        (study,) = browser.get("/api/studies").json()["studies"]
        assert f'data-picture="/studies/{study["id"]}/picture/256"' in browser.get("/studies").text
        picture = browser.get(f"/studies/{study['id']}/picture/256")
        assert picture.headers["content-type"] == "image/webp", picture.text
        assert picture.content.startswith(b"RIFF")
        assert "SERVICE_RESTARTED" not in json.dumps(edge.json("status"))
        # the worker of the picture ends with the appliance, and is waited for
        edge.stop()
        assert "event=stopped" in edge.output()
        assert "cut at shutdown" not in edge.output()
