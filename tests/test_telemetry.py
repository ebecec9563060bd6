"""A running appliance over MQTT, with a real broker: what it tells, what it does when told, and what it never says."""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import events
from edge.clock import SystemClock, iso
from edge.messages import Topics
from edge.signing import sign
from edge.store import Store
from tests import signer
from tests.appliance import Edge, dimse
from tests.peers.certificates import Authority, Pair
from tests.peers.mosquitto import BrokerTls, Mosquitto, Subscriber
from tests.peers.objects import DicomObject, mr
from tests.peers.ports import LOOPBACK, free_port, wait_for
from tests.peers.raw import RawReceiver, RawSender, Received, Rejected
from tests.signer import KEY

pytestmark = pytest.mark.rig

NODE: Final = "00112233445566778899aabbccddeeff"
TOPICS: Final = Topics(NODE)
ROOT: Final = Path(__file__).parents[1]
SIGNER: Final = f'[[mqtt.signer]]\nname = "{signer.SIGNER.name}"\npublic_key = "{signer.SIGNER.public_key}"\n'


def named(folder: Path) -> Path:
    """Give the appliance that will live in `folder` the id that these tests know."""
    identity = folder / "storage" / "identity"
    identity.mkdir(parents=True)
    (identity / "device").write_text(f"{NODE}\n")
    return folder


def talking(folder: Path, broker: Mosquitto, destinations: str = "", *, more: str = "") -> Edge:
    """An appliance that tells `broker`."""
    mqtt = f'[mqtt]\nurl = "mqtt://{LOOPBACK}:{broker.port}"\n{more}'
    return Edge(named(folder), destinations, more=mqtt)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as made:
        yield made


def latest(watcher: Subscriber, topic: str) -> Any:
    payloads = watcher.payloads(topic)
    return json.loads(payloads[-1]) if payloads and payloads[-1] else None


def told(watcher: Subscriber, topic: str, what: str, **expected: object) -> Any:
    """Wait until the latest payload on `topic` says what is expected."""

    def says() -> bool:
        payload = latest(watcher, topic)
        return payload is not None and all(payload.get(key) == value for key, value in expected.items())

    wait_for(says, 20, what)
    return latest(watcher, topic)


def command(watcher: Subscriber, number: str, kind: str, /, **args: object) -> Any:
    """Sign and give a command; what became of it."""
    expires = iso(time.time() + 600)
    payload = {"v": 1, "id": number, "type": kind, "args": args, "issued_by": "monitor-1", "expires_at": expires}
    payload["signature"] = sign(payload, NODE, KEY)
    watcher.publish(TOPICS.down_command(number), json.dumps(payload).encode())

    def over() -> bool:
        report = latest(watcher, TOPICS.command(number))
        return report is not None and report["status"] not in {"accepted", "running"}

    wait_for(over, 20, f"{kind} is over")
    return latest(watcher, TOPICS.command(number))


def send(port: int, objects: list[DicomObject], calling: str = "RAW") -> list[int]:
    with RawSender(port, calling=calling) as sender:
        sender.associate([(o.sop_class_uid, [o.transfer_syntax_uid]) for o in objects[:1]])
        statuses = [sender.store(o) for o in objects]
        sender.release()
    return statuses


def test_every_topic_is_as_documented_over_tls_with_the_sample_acl(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    acl = (ROOT / "firmware-config" / "mosquitto" / "acl").read_text()
    server = BrokerTls(authority.issue("broker"), authority)
    own, watcher = authority.issue(NODE), authority.issue("watcher")
    more = f'ca_file = "{authority.path}"\ncertificate_file = "{own.certificate}"\nkey_file = "{own.key}"\n'
    broker = Mosquitto(tmp_path / "broker", tls=server, acl=acl, extra=["use_identity_as_username true"])
    with broker, RawReceiver() as pacs:
        mqtt = f'[mqtt]\nurl = "mqtts://{LOOPBACK}:{broker.port}"\nhome_assistant = true\n{more}'
        with Edge(named(tmp_path), dimse("pacs", pacs.port), more=mqtt) as edge:
            checking = _conformance(broker.port, authority, watcher)
            assert send(edge.port, mr(3)) == [0] * 3
            edge.wait_settled("pacs", {"accepted": 3})
            output, _ = checking.communicate(timeout=60)
    assert checking.returncode == 0, output


def _conformance(port: int, authority: Authority, pair: Pair) -> "subprocess.Popen[str]":
    files = ["--ca-file", authority.path, "--certificate-file", pair.certificate, "--key-file", pair.key]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "scripts.conformance", "--url", f"mqtts://{LOOPBACK}:{port}"),
            *(*map(str, files), "--node", NODE, "--seconds", "8"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_kill_is_told_as_lost_and_a_clean_end_as_offline(tmp_path: Path, broker: Mosquitto) -> None:
    edge = talking(tmp_path, broker)
    with Subscriber(broker.port, f"{TOPICS.base}/#") as watcher, edge:
        first = told(watcher, TOPICS.state, "it is online", state="online")
        edge.kill()
        lost = told(watcher, TOPICS.state, "it is lost", state="lost")
        assert lost["session"] == first["session"]
        edge.start()
        second = told(watcher, TOPICS.state, "it is online again", state="online")
        assert second["session"] > first["session"]
        begun = time.monotonic()
        edge.stop()
        assert time.monotonic() - begun < 10
        told(watcher, TOPICS.state, "it is offline", state="offline", session=second["session"])
    retained = {heard.topic: heard for heard in watcher.heard}
    assert retained[TOPICS.birth].qos == 1


def test_a_broker_that_forgot_everything_has_it_again(tmp_path: Path, broker: Mosquitto) -> None:
    closed = free_port()
    with talking(tmp_path, broker, dimse("pacs", closed)) as edge:
        assert send(edge.port, mr(1)) == [0]
        with Subscriber(broker.port, f"{TOPICS.base}/#") as watcher:
            told(watcher, TOPICS.alert("DESTINATION_DOWN"), "the alert", severity="warning")
        broker.kill()
        broker.start()
        with Subscriber(broker.port, f"{TOPICS.base}/#") as watcher:
            begun = time.monotonic()
            for topic in (TOPICS.state, TOPICS.birth, TOPICS.health, TOPICS.config, TOPICS.update):
                told(watcher, topic, topic)
            told(watcher, TOPICS.alert("DESTINATION_DOWN"), "the alert again", severity="warning")
            assert time.monotonic() - begun < 10


def test_a_month_of_events_arrives_in_order_once_and_late(tmp_path: Path, broker: Mosquitto) -> None:
    edge = talking(tmp_path, broker)
    count = 100_000
    asyncio.run(_write(edge.storage, count))
    with Monitor(broker.port) as monitor:
        with edge:
            wait_for(lambda: len(monitor.stored) >= count, 100, "every event")
            wait_for(lambda: edge_kept(edge) == 0, 20, "what is stored there leaves the box")
        old = [number for number in monitor.order if number <= count]
    assert old == sorted(set(old))
    assert set(range(1, count + 1)) <= set(monitor.stored)
    assert all(monitor.stored[number]["late"] for number in range(1, count + 1))
    assert monitor.stored[count]["data"] == {"instances": count - 1, "bytes": 0}


async def _write(storage: Path, count: int) -> None:
    """Fill the log as a box without a network would."""
    store = await Store.open(storage, SystemClock(), 1, lambda n: storage / str(n), new_epoch=lambda: 1)
    running = asyncio.create_task(store.run())
    for begin in range(0, count, 5000):
        await store.write_events([events.deleted(n, 0) for n in range(begin, begin + 5000)])
    store.finish()
    await running
    await store.close()


def test_a_database_put_back_from_a_backup_gives_no_number_twice(tmp_path: Path, broker: Mosquitto) -> None:
    edge = talking(tmp_path, broker)
    with Monitor(broker.port) as monitor:
        with edge:
            wait_for(lambda: monitor.batches and edge_kept(edge) == 0, 20, "the first events")
        shutil.copytree(edge.storage / "db", tmp_path / "backup")
        edge.start()
        first = len(monitor.batches)
        wait_for(lambda: len(monitor.batches) > first and edge_kept(edge) == 0, 20, "more events")
        edge.stop()
        shutil.rmtree(edge.storage / "db")
        shutil.copytree(tmp_path / "backup", edge.storage / "db")
        before = len(monitor.batches)
        edge.start()
        wait_for(lambda: len(monitor.batches) > before and edge_kept(edge) == 0, 20, "events after the backup")
        edge.stop()
        said: dict[tuple[int, int], Any] = {}
        for batch in monitor.batches:
            for event in batch["events"]:
                plain = {key: value for key, value in event.items() if key != "late"}
                assert said.setdefault((batch["epoch"], event["seq"]), plain) == plain
        assert {batch["epoch"] for batch in monitor.batches} == {1, 2}


def test_findings_of_a_run_are_told_after_its_start_which_closes_those_before(
    tmp_path: Path, broker: Mosquitto
) -> None:
    with Monitor(broker.port) as monitor, talking(tmp_path, broker):
        wait_for(lambda: len(monitor.stored) >= 2, 20, "a start and a finding")
        codes = [monitor.stored[number]["code"] for number in sorted(monitor.stored)]
        assert codes[0] == "STARTED"
        assert len(codes) > 1


def test_a_broker_that_lets_the_box_say_nothing_is_a_finding_there(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path / "broker", acl="topic read #\n") as broker,
        talking(tmp_path, broker) as edge,
    ):

        def found() -> bool:
            return any(
                f["code"] == "BROKER_DOWN" and "not authorized" in f["text"] for f in edge.json("status")["findings"]
            )

        wait_for(found, 20, "somebody is told")


def edge_kept(edge: Edge) -> int:
    """Events in the log, straight from it."""
    import sqlite3  # noqa: PLC0415 - for this alone

    connection = sqlite3.connect(f"{(edge.storage / 'db' / 'edge.sqlite').as_uri()}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM event").fetchone()[0])
    finally:
        connection.close()


class Monitor(Subscriber):
    """One that stores each event by its key and acknowledges it."""

    def __init__(self, port: int) -> None:
        super().__init__(port, TOPICS.events)
        self.stored: dict[int, Any] = {}
        self.order: list[int] = []
        self.batches: list[Any] = []

    def _on_message(self, client: Any, userdata: object, message: Any) -> None:
        del userdata
        batch = json.loads(message.payload)
        self.batches.append(batch)
        for event in batch["events"]:
            self.order.append(event["seq"])
            self.stored[event["seq"]] = event
        ack = json.dumps({"v": 1, "epoch": batch["epoch"], "up_to": batch["to"]})
        client.publish(TOPICS.down_ack, ack.encode(), 1, retain=True)


def test_a_signed_command_is_obeyed_and_what_a_person_at_the_box_sees(tmp_path: Path, broker: Mosquitto) -> None:
    with (
        RawReceiver() as pacs,
        talking(tmp_path, broker, dimse("pacs", pacs.port), more=SIGNER) as edge,
        Subscriber(broker.port, f"{TOPICS.base}/up/#") as watcher,
    ):
        told(watcher, TOPICS.state, "it is online", state="online")
        assert command(watcher, "c1", "pause", destination="pacs")["status"] == "succeeded"
        assert send(edge.port, mr(2)) == [0, 0]
        wait_for(lambda: edge.json("status")["destinations"][0]["state"] == "paused", 10, "it is paused")
        wait_for(lambda: edge.tally("pacs") == {"queued": 2}, 10, "they wait")
        before = latest(watcher, TOPICS.state)["session"]
        edge.kill()
        edge.start()
        wait_for(lambda: latest(watcher, TOPICS.state)["session"] > before, 20, "it is back")
        wait_for(lambda: len(watcher.payloads(TOPICS.config)) > 1, 20, "it listens")
        told(watcher, TOPICS.health, "paused still", overall="paused")
        assert edge.tally("pacs") == {"queued": 2}
        assert command(watcher, "c2", "resume", destination="pacs")["status"] == "succeeded"
        edge.wait_settled("pacs", {"accepted": 2})
        assert command(watcher, "c3", "diagnose", destination="pacs")["status"] in {"succeeded", "failed"}
        assert command(watcher, "c4", "identify", seconds=30)["status"] == "succeeded"
        wait_for(lambda: edge.json("status")["light"]["code"] == "I1", 10, "this one")
        assert command(watcher, "c5", "hold", destination="pacs")["reason"] == "NOTHING_APPLIES"
        assert command(watcher, "c6", "retry", destination="nowhere")["reason"] == "UNKNOWN_DESTINATION"
        sessions = edge.output().count("event=ready")
        assert command(watcher, "c7", "restart")["status"] == "succeeded"
        wait_for(lambda: edge.output().count("event=ready") == sessions + 1, 20, "it began anew")
        os.kill(edge.pid, 0)


def test_what_nobody_signed_does_nothing(tmp_path: Path, broker: Mosquitto) -> None:
    with (
        talking(tmp_path, broker, dimse("pacs", free_port()), more=SIGNER) as edge,
        Subscriber(broker.port, f"{TOPICS.base}/up/#") as watcher,
    ):
        told(watcher, TOPICS.state, "it is online", state="online")
        payload = {
            "v": 1, "id": "c1", "type": "pause", "args": {"destination": "pacs"}, "issued_by": "monitor-1",
            "expires_at": iso(time.time() + 600),
        }  # fmt: skip
        watcher.publish(TOPICS.down_command("c1"), json.dumps(payload).encode())
        told(watcher, TOPICS.command("c1"), "it is rejected", status="rejected", reason="UNSIGNED")
        forged = payload | {"id": "c2", "signature": sign(payload, NODE, Ed25519PrivateKey.generate())}
        watcher.publish(TOPICS.down_command("c2"), json.dumps(forged).encode())
        told(watcher, TOPICS.command("c2"), "so is that", status="rejected", reason="BAD_SIGNATURE")
        kept = payload | {"id": "c3"}
        watcher.publish(TOPICS.down_command("c3"), json.dumps(kept | {"signature": sign(kept, NODE, KEY)}).encode(),
                        retain=True)  # fmt: skip
        told(watcher, TOPICS.command("c3"), "taken while it was there", status="succeeded")
        edge.command("resume", "pacs")
        edge.stop()
        edge.start()
        told(watcher, TOPICS.command("c3"), "retained, it is for nobody", status="rejected", reason="RETAINED")
        assert edge.json("status")["destinations"][0]["state"] != "paused"


def test_a_configuration_with_which_it_does_not_start_is_taken_back(tmp_path: Path, broker: Mosquitto) -> None:
    taken = free_port()
    with (
        talking(tmp_path, broker, dimse("pacs", free_port()), more=SIGNER) as edge,
        Subscriber(broker.port, f"{TOPICS.base}/up/#") as watcher,
        RawReceiver(port=taken),
    ):
        told(watcher, TOPICS.config, "its own", status="local", revision=0)
        own = edge.config.read_text()
        _want(watcher, own.replace('name = "test"', 'name = "from afar"'), 1)
        told(watcher, TOPICS.birth, "another name", name="from afar")
        told(watcher, TOPICS.config, "on trial", status="trial", revision=1)
        _want(watcher, own.replace(f"port = {edge.port}", f"port = {taken}"), 2)
        back = told(watcher, TOPICS.config, "taken back", status="rolled-back", reason="START_FAILED")
        assert back["revision"] == 0, "the first was not proven yet"
        told(watcher, TOPICS.birth, "its own name", name="test")
        wait_for(lambda: ("rolled-back", "START_FAILED") in _configurations(watcher), 20, "it is an event")
        assert send(edge.port, mr(1)) == [0]
        _want(watcher, own + "[nonsense]\n", 3)
        bad = told(watcher, TOPICS.config, "refused", status="rejected", reason="INVALID")
        assert bad["errors"] == [f"line {own.count(chr(10)) + 1}: nonsense"]
        os.kill(edge.pid, 0)


def _configurations(watcher: Subscriber) -> list[tuple[str, str]]:
    """Status and reason of each event of a configuration."""
    batches = [json.loads(body) for body in watcher.payloads(TOPICS.events)]
    data = [event["data"] for batch in batches for event in batch["events"] if event["code"] == "CONFIGURATION"]
    return [(one["status"], one["reason"]) for one in data]


def _want(watcher: Subscriber, document: str, revision: int) -> None:
    payload: dict[str, Any] = {"v": 1, "revision": revision, "document": document, "issued_by": "monitor-1"}
    payload["signature"] = sign(payload, NODE, KEY)
    watcher.publish(TOPICS.down_config, json.dumps(payload).encode(), retain=True)


CANARY: Final = "Kanarienvogel"


def spellings(text: str) -> list[bytes]:
    """How a word may stand in bytes."""
    plain = text.encode()
    return [
        plain,
        plain.lower(),
        plain.upper(),
        plain.hex().encode(),
        base64.b64encode(plain)[:-4],
        text.encode("utf-16-le"),
        text.encode("utf-16-be"),
        "".join(f"\\u{ord(c):04x}" for c in text).encode(),
    ]


def test_no_patient_and_no_word_of_a_peer_leaves_the_box(tmp_path: Path, broker: Mosquitto) -> None:
    export = tmp_path / f"{CANARY}-export"
    export.mkdir()
    (export / f"{CANARY}^Hans.txt").write_bytes(b"no DICOM")
    watch = f'[[watch]]\npath = "{export}"\nname = "us"\nsettle = "100ms"\npatience = "200ms"\nrescan = "500ms"\n'
    objects = [_canary(o) for o in mr(3)]

    def refuses(received: Received) -> int:
        return 0xA900 if received.sop_instance_uid == objects[0].sop_instance_uid else 0

    with RawReceiver(comment=CANARY) as pacs, Subscriber(broker.port, "#") as watcher:
        pacs.status_for = refuses
        edge = talking(tmp_path, broker, dimse("pacs", pacs.port), more=SIGNER + watch)
        with edge:
            told(watcher, TOPICS.state, "it is online", state="online")
            assert send(edge.port, objects, calling=CANARY[:16]) == [0] * 3
            with RawSender(edge.port, calling=CANARY, called=CANARY) as stranger, pytest.raises(Rejected):
                stranger.associate([(objects[0].sop_class_uid, [objects[0].transfer_syntax_uid])])
            edge.wait_settled("pacs", {"accepted": 2, "held": 1})
            told(watcher, TOPICS.alert("DELIVERIES_HELD"), "held", severity="warning")
            told(watcher, TOPICS.alert("WATCH_LEFT"), "left", severity="warning")
            told(watcher, TOPICS.alert("PEER_REFUSED"), "refused", severity="warning")
            assert CANARY in json.dumps(edge.json("status")), "people at the box read it"
            command(watcher, "c1", "retry", destination="pacs")
        published = b"\n".join(heard.topic.encode() + b" " + heard.payload for heard in watcher.heard)
        assert b"DELIVERIES_REFUSED" in published
    logged = edge.log.read_bytes()
    for uid in (o.sop_instance_uid for o in objects):
        assert uid.encode() not in published
        assert uid.encode() not in logged
    for spelling in spellings(CANARY):
        assert spelling not in published
        assert spelling not in logged.replace(str(export).encode(), b""), "a folder of the configuration may be named"


def _canary(made: DicomObject) -> DicomObject:
    """The same with the word in the texts that are read of it."""
    dataset = made.dataset
    for old in (b"Synthetic^Patient", b"Synthetic study", b"Synthetic series", b"SYNTHETIC-1"):
        assert old in dataset
        dataset = dataset.replace(old, CANARY.encode()[: len(old)].ljust(len(old)))
    return replace(made, dataset=dataset)


def test_an_appliance_whose_broker_was_never_there_ends_as_fast_as_any(tmp_path: Path) -> None:
    mqtt = f'[mqtt]\nurl = "mqtt://{LOOPBACK}:{free_port()}"\n'
    with RawReceiver() as pacs, Edge(tmp_path, dimse("pacs", pacs.port), receive='accept = "any"', more=mqtt) as edge:
        wait_for(lambda: "BROKER_DOWN" in {f["code"] for f in edge.json("status")["findings"]}, 10, "it is told")
        assert edge.json("status")["light"]["code"] == "G1", "nobody in the room need care"
        begun = time.monotonic()
        os.kill(edge.pid, signal.SIGTERM)
        wait_for(lambda: "event=stopped" in edge.output(), 10, "the end")
        assert time.monotonic() - begun < 5
