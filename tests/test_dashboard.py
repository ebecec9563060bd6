"""The dashboard of the real appliance: beside the flow, never in its way."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import httpx
import psutil
import pytest

from edge.board import Board
from edge.config import Config, DimseDestination
from edge.findings import Journal
from edge.status.collect import Collector
from edge.status.lights import LIGHTS
from tests.appliance import Edge, dimse
from tests.peers.objects import mr
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.raw import RawReceiver, RawSender
from tests.stored import Stored, instance, leg
from tests.web import PASSWORD, Served, token_in

CONTEXTS = [(mr(1)[0].sop_class_uid, [mr(1)[0].transfer_syntax_uid])]


@pytest.fixture
def pacs() -> Iterator[RawReceiver]:
    with RawReceiver() as receiver:
        yield receiver


class Watched(Edge):
    """An appliance with its dashboard."""

    def __init__(self, folder: Path, destinations: str = "") -> None:
        self.web = free_port()
        super().__init__(folder, destinations, dashboard=f"port = {self.web}")
        self.url = f"http://{LOOPBACK}:{self.web}"

    def serves(self) -> bool:
        return self.output().count("event=dashboard") > 0

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False)


@pytest.mark.rig
def test_the_appliance_is_told_in_the_browser_as_on_the_command_line(tmp_path: Path, pacs: RawReceiver) -> None:
    pacs.stop()
    with Watched(tmp_path, dimse("pacs", pacs.port)) as edge:
        wait_for(edge.serves, 20, "the dashboard")
        assert edge.output().index("event=ready") < edge.output().index("event=dashboard")
        with RawSender(edge.port) as sender:
            sender.associate(CONTEXTS)
            assert [sender.store(one) for one in mr(7)] == [0] * 7
            sender.release()
        wait_for(lambda: edge.json("status")["light"]["code"] == "Y1", 20, "the outage is told")
        with edge.client() as browser:
            assert browser.get("/healthz").json() == {"serving": True, "light": "Y1"}
            page = browser.get("/").text
            assert LIGHTS["Y1"].text in page
            assert re.search(r"pacs unreachable since \d\d:\d\d\.", page)
            assert "7 images waiting" in page
            status, told = browser.get("/api/status").json(), edge.json("status")
            assert status.keys() == told.keys()
            assert status["queue"]["instances"] == told["queue"]["instances"] == 7
            assert 'edge_deliveries{destination="pacs",state="queued"} 7.0' in browser.get("/metrics").text


@pytest.mark.rig
def test_a_password_set_by_command_opens_the_running_dashboard(tmp_path: Path) -> None:
    with Watched(tmp_path) as edge:
        wait_for(edge.serves, 20, "the dashboard")
        code = wait_for(lambda: edge.command("password", "--show-code").stdout, 10, "the code")
        assert (edge.storage / "identity" / "first-code").read_text().strip() in code
        set_password = [*edge_command("password"), "--stdin", "--config", str(edge.config)]
        subprocess.run(set_password, input=f"{PASSWORD}\n", text=True, check=True, capture_output=True, timeout=60)
        with edge.client() as browser:
            assert browser.get("/api/studies").status_code == 401
            token = token_in(browser.get("/login").text)
            assert browser.post("/login", data={"token": token, "password": PASSWORD}).status_code == 303
            assert browser.get("/api/studies").json() == {"studies": []}


def edge_command(name: str) -> list[str]:
    return [str(Path(sys.executable).with_name("edge")), name]


@pytest.mark.rig
def test_two_hundred_idle_connections_and_a_slow_post_are_nothing_to_intake(tmp_path: Path) -> None:
    objects = mr(60)

    def sending(edge: Watched) -> float:
        begun = time.perf_counter()
        with RawSender(edge.port) as sender:
            sender.associate(CONTEXTS)
            assert [sender.store(one) for one in objects] == [0] * len(objects)
            sender.release()
        return time.perf_counter() - begun

    with Watched(tmp_path) as edge, contextlib.ExitStack() as held:
        wait_for(edge.serves, 20, "the dashboard")
        alone = min(sending(edge) for _ in range(2))
        for number in range(200):
            one = held.enter_context(socket.create_connection((LOOPBACK, edge.web), timeout=5))
            if number % 2:
                with contextlib.suppress(OSError):  # one that had to make room already
                    one.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\na")
        crowded = min(sending(edge) for _ in range(2))
        with edge.client() as browser:
            assert browser.get("/healthz").status_code == 200
        assert crowded < 3 * alone + 0.5
        found = {finding["code"] for finding in edge.json("status")["findings"]}
        assert "SERVICE_RESTARTED" not in found


@pytest.mark.rig
def test_five_screens_cost_less_than_a_fiftieth_of_a_core(tmp_path: Path) -> None:
    seconds = 8.0

    def cost(edge: Watched) -> float:
        """CPU seconds a second."""
        process = psutil.Process(edge.pid)
        before = sum(process.cpu_times()[:2])
        time.sleep(seconds)
        return float(sum(process.cpu_times()[:2]) - before) / seconds

    def read(stream: httpx.Response) -> None:
        with contextlib.suppress(httpx.HTTPError, httpx.StreamError):
            for _ in stream.iter_raw():
                pass

    with Watched(tmp_path, dimse("pacs", 1) + dimse("other", 2)) as edge, contextlib.ExitStack() as held:
        wait_for(edge.serves, 20, "the dashboard")
        alone = cost(edge)
        streams = [held.enter_context(held.enter_context(edge.client()).stream("GET", "/events")) for _ in range(5)]
        for stream in streams:
            threading.Thread(target=read, args=(stream,), daemon=True).start()
        assert cost(edge) - alone < 0.02


@pytest.mark.rig
def test_screens_that_look_do_not_hold_up_the_end(tmp_path: Path) -> None:
    with Watched(tmp_path) as edge, contextlib.ExitStack() as held:
        wait_for(edge.serves, 20, "the dashboard")
        for _ in range(5):
            browser = held.enter_context(edge.client())
            stream = held.enter_context(browser.stream("GET", "/events"))
            assert stream.status_code == 200
        begun = time.monotonic()
        process = edge._process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - begun < 8
        assert "Traceback" not in edge.output()


@pytest.mark.rig
def test_a_port_that_is_taken_ends_nothing(tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        with Edge(tmp_path, dashboard=f"port = {other.getsockname()[1]}") as edge:
            wait_for(lambda: "DASHBOARD_DOWN" in edge.output(), 20, "the finding")
            told = edge.json("status")
            assert "DASHBOARD_DOWN" in {finding["code"] for finding in told["findings"]}
            with RawSender(edge.port) as sender:
                sender.associate(CONTEXTS)
                assert sender.store(mr(1)[0]) == 0
                sender.release()


def test_what_serves_pages_is_not_imported_before_it_is_needed() -> None:
    heavy = "{'argon2', 'h11', 'jinja2', 'prometheus_client', 'starlette', 'uvicorn'}"
    program = f"import sys, edge.app, edge.cli.password; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


async def test_the_first_page_is_there_at_once_with_100_000_images_in_the_store(tmp_path: Path) -> None:
    config = Config(destination=(DimseDestination(name="pacs", host=LOOPBACK, ae_title="PACS"),))
    async with Stored(tmp_path) as box:
        for first in range(1, 100_000, 10_000):
            await box.store.record(
                [(instance(n, study=f"1.2.{n // 200}"), [leg()]) for n in range(first, first + 10_000)]
            )
        journal, board = Journal(box.clock), Board(box.clock)
        collector = Collector(
            config,
            "0123456789abcdef",
            box.store.reading,
            board,
            journal,
            box.clock,
            lambda: 10**12,
            10**9,
            light=lambda: LIGHTS["G1"],
            autonomy=lambda: None,
        )
        served = Served(tmp_path / "web", clock=box.clock, snapshot=collector.snapshot)
        async with served:
            times = []
            for _ in range(7):
                browser = served.client()  # a connection of its own
                box.clock.pass_time(1)
                begun = time.perf_counter()
                page = await browser.get("/")
                times.append(time.perf_counter() - begun)
                assert "100\N{NARROW NO-BREAK SPACE}000" in page.text
    assert min(times) < 0.1
    assert median(times) < 0.3
