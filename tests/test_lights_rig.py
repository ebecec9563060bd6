"""Every light from a real cause: the installed appliance, real peers, and LEDs whose kernel is a folder."""

import os
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.appliance import COMMAND, Edge, dimse
from tests.leds import CONFIG, Panel
from tests.peers.mosquitto import Mosquitto, Subscriber
from tests.peers.objects import DicomObject, ct, tiny, uid
from tests.peers.ports import LOOPBACK, wait_for
from tests.peers.raw import RawReceiver, RawSender, Rejected
from tests.test_telemetry import SIGNER, TOPICS, command, named

pytestmark = pytest.mark.rig

UNIT: Final = Path(__file__).parents[1] / "firmware-config" / "systemd" / "edge.service"
ANYONE: Final = 'accept = "any"'


@pytest.fixture
def panel(tmp_path: Path) -> Iterator[Panel]:
    with Panel(tmp_path / "leds") as made:
        yield made


def lit(folder: Path, panel: Panel, destinations: str = "", *, receive: str = ANYONE, more: str = "") -> Edge:
    return Edge(folder / "box", destinations, receive=receive, more=CONFIG + more, environment=panel.environment)


def pacs_at(port: int) -> str:
    return dimse("pacs", port) + 'timeouts = { connect = "2s", response = "2s" }\n'


def send(port: int, objects: list[DicomObject]) -> None:
    with RawSender(port) as modality:
        modality.associate([(objects[0].sop_class_uid, [objects[0].transfer_syntax_uid])])
        assert [modality.store(one) for one in objects] == [0] * len(objects)
        modality.release()


def every_face(edge: Edge, panel: Panel, code: str) -> None:
    """What the LEDs show is what the command line says."""
    panel.wait(code)
    assert edge.json("status")["light"]["code"] == code


def from_the_unit(key: str, edge: Edge, panel: Panel) -> "subprocess.CompletedProcess[str]":
    """Run a line of the unit as systemd would."""
    (line,) = re.findall(rf"^{key}=-(.*)$", UNIT.read_text(), re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert program == "edge"
    return subprocess.run(
        [COMMAND, *arguments],
        env={"PATH": os.environ["PATH"], "EDGE_CONFIG": str(edge.config), **panel.environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_day_without_trouble_begins_white_is_green_and_dips(tmp_path: Path, panel: Panel) -> None:
    with RawReceiver() as pacs, lit(tmp_path, panel, pacs_at(pacs.port)) as edge:
        every_face(edge, panel, "G1")
        assert panel.seen == ["W1", "G1"]
        with RawSender(edge.port) as modality:
            (one,) = tiny(1, uid())
            modality.associate([(one.sop_class_uid, [one.transfer_syntax_uid])])
            every_face(edge, panel, "G2")
            assert modality.store(one) == 0
            modality.release()
        pacs.wait(1, 20)
        every_face(edge, panel, "G1")


def test_an_outage_is_yellow_and_goes_when_it_is_over(tmp_path: Path, panel: Panel) -> None:
    with RawReceiver() as pacs:
        port = pacs.port
    with lit(tmp_path, panel, pacs_at(port)) as edge:
        panel.wait("G1")
        send(edge.port, tiny(2, uid()))
        every_face(edge, panel, "Y1")
        with RawReceiver(port=port) as pacs:
            edge.command("retry", "--destination", "pacs")
            pacs.wait(2, 30)
            panel.wait("G1", 30)
        assert "G1" in panel.seen[panel.seen.index("Y1") :]
        assert panel.seen.count("Y1") == 1, "it did not flicker"


def test_a_stranger_who_is_refused_asks_for_attention(tmp_path: Path, panel: Panel) -> None:
    known = '[[modality]]\nname = "CT1"\nae_title = "CT1"\naddress = "127.0.0.1"\n'
    with RawReceiver() as pacs, lit(tmp_path, panel, pacs_at(pacs.port), receive="", more=known) as edge:
        panel.wait("G1")
        (one,) = tiny(1, uid())
        with RawSender(edge.port, calling="WHO") as modality, pytest.raises(Rejected):
            modality.associate([(one.sop_class_uid, [one.transfer_syntax_uid])])
        every_face(edge, panel, "Y2")
        with RawSender(edge.port, calling="CT1") as modality:
            modality.associate([(one.sop_class_uid, [one.transfer_syntax_uid])])
            assert modality.store(one) == 0
            modality.release()
        ct1, who = edge.json("status")["modalities"]
        assert (ct1["name"], ct1["ae_title"], ct1["refused"]) == ("CT1", "CT1", 0)
        assert ct1["last_heard_at"] <= ct1["last_object_at"]
        assert (who["name"], who["ae_title"], who["address"], who["refused"]) == ("", "WHO", LOOPBACK, 1)
        assert (who["last_heard_at"], who["refused_because"]) == (None, "it is not among the modalities")


def test_a_fault_that_leaves_intake_open_is_steady_red(tmp_path: Path, panel: Panel) -> None:
    with RawReceiver() as pacs:
        ours = f'tls = {{ ca_file = "{tmp_path / "none.pem"}" }}\n'
        with lit(tmp_path, panel, pacs_at(pacs.port) + ours) as edge:
            every_face(edge, panel, "R1")
            send(edge.port, tiny(1, uid()))


def test_a_full_disk_blinks_red_until_there_is_room(tmp_path: Path, panel: Panel) -> None:
    free = psutil.disk_usage(str(tmp_path)).free
    with RawReceiver() as pacs, lit(tmp_path, panel, pacs_at(pacs.port)) as edge:
        panel.wait("G1")
        edge.stop()
        text = edge.config.read_text()
        edge.config.write_text(text.replace('reserve = "1MiB"', f'reserve = "{free + (1 << 30)}B"'))
        edge.start()
        every_face(edge, panel, "R2")
        assert not edge.json("status")["intake"]["open"]
        edge.stop()
        edge.config.write_text(text)
        edge.start()
        every_face(edge, panel, "G1")


def test_a_medium_is_blue_until_somebody_has_had_time_to_pull_it(tmp_path: Path, panel: Panel) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for number, one in enumerate(ct(150)):
        one.write(media / f"IM{number:04}")
    with RawReceiver() as pacs, lit(tmp_path, panel, pacs_at(pacs.port)) as edge:
        panel.wait("G1")
        importing = subprocess.Popen(
            [COMMAND, "import", "--media", "stick", str(media), "--config", str(edge.config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        panel.wait("B2")
        assert importing.wait(60) == 0
        every_face(edge, panel, "B3")


def test_a_box_that_is_looked_for_shows_itself(tmp_path: Path, panel: Panel) -> None:
    named(tmp_path / "box")
    with Mosquitto(tmp_path / "broker") as broker, RawReceiver() as pacs:
        mqtt = f'[mqtt]\nurl = "mqtt://{LOOPBACK}:{broker.port}"\n{SIGNER}'
        with (
            lit(tmp_path, panel, pacs_at(pacs.port), more=mqtt) as edge,
            Subscriber(broker.port, f"{TOPICS.base}/up/#") as watcher,
        ):
            panel.wait("G1")
            begun = time.monotonic()
            assert command(watcher, "c1", "identify")["status"] == "succeeded"
            every_face(edge, panel, "I1")
            panel.wait("G1", 25)
            assert 13 < time.monotonic() - begun < 22


def test_a_service_that_is_killed_turns_red_by_the_means_of_its_unit(tmp_path: Path, panel: Panel) -> None:
    with RawReceiver() as pacs, lit(tmp_path, panel, pacs_at(pacs.port)) as edge:
        panel.wait("G1")
        edge.kill()
        assert panel.code() == "G1", "the kernel goes on with what it was told last"
        done = from_the_unit("ExecStopPost", edge, panel)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert panel.code() == "R2"
        done = from_the_unit("ExecStartPre", edge, panel)
        assert (done.returncode, panel.code()) == (0, "W1")
        edge.start()
        panel.wait("G1")


def test_a_clean_end_leaves_the_truth_behind(tmp_path: Path, panel: Panel) -> None:
    with RawReceiver() as pacs, lit(tmp_path, panel, pacs_at(pacs.port)) as edge:
        panel.wait("G1")
        edge.stop()
        assert panel.code() == "R2"


def test_a_service_that_cannot_start_is_red(tmp_path: Path, panel: Panel) -> None:
    with RawReceiver() as pacs:
        edge = lit(tmp_path, panel, pacs_at(pacs.port))
        with socket.socket() as taken:
            taken.bind((LOOPBACK, edge.port))
            taken.listen()
            done = subprocess.run(edge.arguments, env=edge.environment, capture_output=True, timeout=30, check=False)
        assert done.returncode == 1
        assert panel.code() == "R2"
        edge.config.write_text(edge.config.read_text() + "[colour]\nblue = 1\n")
        assert from_the_unit("ExecStartPre", edge, panel).returncode == 0
        assert panel.code() == "W1"
        done = subprocess.run(edge.arguments, env=edge.environment, capture_output=True, timeout=30, check=False)
        assert done.returncode == 2, "the configuration has an error"
        assert from_the_unit("ExecStopPost", edge, panel).returncode == 0
        assert panel.code() == "R2"


def test_a_light_by_hand_says_what_is_wrong_with_its_own_table(tmp_path: Path, panel: Panel) -> None:
    config = tmp_path / "edge.toml"
    config.write_text('[lights]\ndriver = "leds"\n')
    done = edge_light("R2", config, panel)
    assert done.returncode == 2
    assert done.stderr.startswith(f"edge: {config}: line 2: lights.driver: name at least one LED")
    assert edge_light("R2", tmp_path / "none.toml", panel).returncode == 2
    config.write_text("[lights")
    assert edge_light("R2", config, panel).returncode == 2


def test_a_light_that_is_not_there_is_told_and_stops_nothing(tmp_path: Path, panel: Panel) -> None:
    (panel.folder / "edge:green").rename(tmp_path / "gone")
    with RawReceiver() as pacs, lit(tmp_path, panel, pacs_at(pacs.port)) as edge:

        def codes() -> list[str]:
            return [one["code"] for one in edge.json("status")["findings"]]

        wait_for(lambda: "LIGHT_UNUSABLE" in codes(), 15, "it is told")
        assert edge.json("status")["light"]["code"] == "Y2"
        send(edge.port, tiny(2, uid()))
        pacs.wait(2, 20)
        (tmp_path / "gone").rename(panel.folder / "edge:green")
        wait_for(lambda: "LIGHT_UNUSABLE" not in codes(), 15, "it works again")
        panel.wait("G1", 20)
        (panel.folder / "edge:green").rename(tmp_path / "gone")
        done = edge_light("R1", edge.config, panel)
        assert done.returncode == 0
        assert done.stdout == ""
        assert done.stderr.startswith(f"edge: {edge.config}: the light is not shown: There is no LED edge:green;")
        assert done.stderr.count("\n") == 1


def edge_light(code: str, config: Path, panel: Panel) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [COMMAND, "light", code, "--config", str(config)],
        env={"PATH": os.environ["PATH"], **panel.environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_light_by_hand_is_quick_and_needs_no_network(tmp_path: Path, panel: Panel) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(f'[storage]\npath = "{tmp_path / "none"}"\n{CONFIG}')
    before = os.times()
    done = edge_light("y2", config, panel)
    spent = os.times()
    assert (done.returncode, done.stderr, panel.code()) == (0, "", "Y2")
    assert spent.children_user + spent.children_system - before.children_user - before.children_system < 0.5
    assert not (tmp_path / "none").exists()
    assert edge_light("Z9", config, panel).returncode == 2
    heavy = subprocess.run(
        [COMMAND.replace("edge", "python"), "-X", "importtime", "-m", "edge", "light", "G1", "--config", str(config)],
        env={"PATH": os.environ["PATH"], **panel.environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stderr
    loaded = {line.rpartition("|")[2].strip() for line in heavy.splitlines()}
    assert "edge.lights.leds" in loaded
    assert not loaded & {"sqlite3", "pydicom", "pynetdicom", "numpy", "httpx", "paho", "cryptography", "edge.app"}


def test_lights_on_a_page_are_written_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "light.json"
    more = f'[lights]\ndriver = "file"\npath = "{path}"\n'
    with RawReceiver() as pacs, Edge(tmp_path / "box", pacs_at(pacs.port), receive=ANYONE, more=more):
        wait_for(lambda: path.exists() and '"G1"' in path.read_text(), 15, "ready")
    assert '"R2"' in path.read_text()
