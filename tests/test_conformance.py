"""The checker of the MQTT contract: what it passes, what it notices; and the samples for mosquitto, with mosquitto."""

import json
import os
import pwd
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import pytest
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.telemetry.metrics import dictionary
from scripts.conformance.__main__ import JUDGES, main
from scripts.conformance.broker import Access, listen
from scripts.conformance.heard import Message, Node, gather
from scripts.conformance.verdict import Verdict, Watch
from tests.peers.certificates import Authority, Pair
from tests.peers.ports import LOOPBACK, free_port, require, wait_for
from tests.peers.program import Program

SAMPLES: Final = Path(__file__).parents[1] / "firmware-config" / "mosquitto"
NOW: Final = "2027-01-15T08:00:00Z"
WALL: Final = 1_800_000_000.0
"""The same in seconds since 1970."""
ENDED: Final = 1000.0


def said(topic: str, document: object, *, at: float = 900.0, qos: int = 1, retain: bool = True) -> Message:
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Message(topic=f"dicom-edge/v1/n1/{topic}", payload=payload, qos=qos, retain=retain, at=at)


def state(word: str = "online", session: int = 42, **changed: Any) -> dict[str, Any]:
    return {"v": 1, "state": word, "session": session, "boot_id": "b", "lease_s": 180, "ts": NOW} | changed


def birth(session: int = 42, metrics: tuple[str, ...] = ("queue_instances",)) -> dict[str, Any]:
    return {
        "v": 1,
        "session": session,
        "model": "generic",
        "name": "CT room",
        "site": "",
        "version": "0.3.0",
        "slot": "",
        "capabilities": ["identify"],
        "metrics": [{"name": name, "kind": "counter", "unit": "1", "help": "x"} for name in metrics],
        "events": {"epoch": 7, "first": 1, "last": 0},
        "ts": NOW,
    }


def health(overall: str = "ok", **components: tuple[str, str]) -> dict[str, Any]:
    parts = components or {"receive": ("ok", "")}
    return {
        "v": 1,
        "light": "G1",
        "overall": overall,
        "components": {
            name.replace("__", "."): {"status": status, "code": code, "since": NOW}
            for name, (status, code) in parts.items()
        },
        "ts": NOW,
    }


def alert(*components: str) -> dict[str, Any]:
    return {
        "v": 1,
        "severity": "warning",
        "components": list(components),
        "since": NOW,
        "count": 1,
        "advice": "x",
        "ts": NOW,
    }


def metrics(seq: int = 1, session: int = 42, **values: float) -> dict[str, Any]:
    return {"v": 1, "session": session, "seq": seq, "ts": NOW, "m": values or {"queue_instances": 1}}


def event(seq: int, code: str = "STOPPED", **data: object) -> dict[str, Any]:
    return {
        "seq": seq,
        "ts": NOW,
        "clock_trusted": True,
        "severity": "info",
        "component": "appliance",
        "code": code,
        "data": data,
        "late": False,
    }


def batch(*events: dict[str, Any], epoch: int = 7, at: float = 900.0, **changed: Any) -> Message:
    document = {"v": 1, "epoch": epoch, "from": events[0]["seq"], "to": events[-1]["seq"], "events": list(events)}
    return said("up/events", document | changed, at=at, retain=False)


def told(seq: int = 1, session: int = 42, at: float = 930.0, **values: float) -> Message:
    return said("up/metrics", metrics(seq, session, **values), at=at, qos=0, retain=False)


CONFIG: Final = {"v": 1, "revision": 0, "hash": "0" * 64, "desired": 0, "status": "local", "ts": NOW}
UPDATE: Final = {"v": 1, "phase": "unsupported", "from": "", "to": "", "slot": "", "ts": NOW}


def well() -> list[Message]:
    """All that a node says that has nothing to tell."""
    return [
        said("up/state", state()),
        said("up/birth", birth()),
        said("up/update", UPDATE),
        said("up/health", health()),
        said("up/config", CONFIG),
        told(),
    ]


def judge(check: str, messages: list[Message], *, flags: bool = True, seconds: float = 75.0) -> Verdict:
    nodes = gather(messages)
    watch = Watch(ended=ENDED, seconds=seconds, now=WALL + 100, flags=flags)
    return JUDGES[check](nodes.get("n1", Node(name="n1")), watch)


def failed(check: str, *messages: Message) -> str:
    """What a judge says of these on top of a node that is well."""
    found = judge(check, [*well(), *messages])
    assert found.word == "FAILED"
    return found.detail


def passes(check: str, *messages: Message) -> None:
    assert judge(check, [*well(), *messages]) == Verdict(word="ok")


# what is well


@pytest.mark.parametrize("check", JUDGES)
def test_a_node_that_is_well_passes(check: str) -> None:
    passes(check)


@pytest.mark.parametrize("check", set(JUDGES) - {"presence", "health"})
def test_what_was_not_said_is_not_judged(check: str) -> None:
    assert judge(check, []) == Verdict(word="ok")


# payloads and flags


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (said("up/state", b"{"), "truncated"),
        (said("up/state", state() | {"patient_name": "x"}), "patient_name"),
        (said("up/state", b""), "truncated"),
        (said("up/state", state("asleep")), "asleep"),
        (said("up/state", state(session="42")), "session"),  # type: ignore[arg-type]
        (said("up/nonsense", {}), "no topic of the contract"),
        (said("up/alerts", alert("store")), "no topic of the contract"),
        (said("up/alerts/Pérez", alert("store")), "no topic of the contract"),
        (said("up/command/a/b", {}), "no topic of the contract"),
        (said("down/ack", {"epoch": 7, "up_to": "x"}, retain=True), "up_to"),
        (said("down/command/c-1", b'{"args":{"a":' + b"[" * 100_000), "recursion"),
    ],
)
def test_a_payload_or_topic_that_is_not_of_the_contract_fails(message: Message, words: str) -> None:
    assert words in failed("payloads", message)


def test_what_clears_is_a_payload_too() -> None:
    passes("payloads", said("up/alerts/DESTINATION_DOWN", b""), said("up/command/c-1", b""))


def test_topics_of_others_are_left_alone() -> None:
    assert gather([Message(topic="homeassistant/device/n1/config", payload=b"", qos=1, retain=True, at=1.0)]) == {}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (said("up/state", state(), qos=0), "QoS 0"),
        (said("up/metrics", metrics(), qos=1, retain=False), "QoS 1"),
        (said("up/metrics", metrics(), qos=0), "is retained"),
        (said("up/events", {}, retain=True), "is retained"),
        (said("down/command/c-1", {}, retain=True), "down/command/c-1 is retained"),
        (said("up/health", health(), retain=False), "is not retained"),
        (said("up/alerts/DESTINATION_DOWN", b"", retain=False), "is not retained"),
    ],
)
def test_a_wrong_qos_or_retain_flag_fails(message: Message, words: str) -> None:
    assert words in failed("flags", message)


def test_a_broker_of_3_1_1_hides_flags_and_that_is_no_failure() -> None:
    assert judge("flags", [said("up/health", health(), retain=False)], flags=False) == Verdict(word="ok")
    assert judge("flags", [said("up/metrics", metrics(), qos=0)], flags=False).word == "FAILED"


# presence, session, lease


@pytest.mark.parametrize("topic", ["state", "birth", "health", "config", "update"])
def test_a_retained_topic_that_is_missing_fails(topic: str) -> None:
    rest = [message for message in well() if not message.topic.endswith(f"/{topic}")]
    assert judge("presence", rest) == Verdict(word="FAILED", detail=f"no {topic}")


def test_missing_metrics_fail_only_where_they_must_have_come() -> None:
    rest = well()[:-1]
    assert judge("presence", rest, seconds=75.0).word == "FAILED"
    assert judge("presence", rest, seconds=5.0).word == "unclear"
    assert judge("presence", [*rest, said("up/state", state("offline"))], seconds=75.0).word == "ok"


def test_sessions_that_shrink_fail_but_for_a_late_will() -> None:
    assert "after 42" in failed("session", said("up/state", state(session=41)))
    assert "after 42" in failed("session", said("up/state", state("offline", session=41)))
    passes("session", said("up/state", state("lost", session=41)))


def test_birth_and_metrics_of_another_session_fail() -> None:
    assert "birth is of session 41" in failed("session", said("up/birth", birth(session=41)))
    assert "metrics of session 43" in failed("session", told(session=43))
    assert "two boot ids" in failed("session", said("up/state", state(boot_id="c")))


def test_a_state_must_be_renewed_within_its_lease() -> None:
    late = said("up/state", state(lease_s=50), at=900.0)
    assert "not a word in 100 s" in failed("lease", late)
    assert "between two states" in failed(
        "lease", said("up/state", state(lease_s=20)), said("up/state", state(), at=930)
    )
    assert "a lease of 0 s" in failed("lease", said("up/state", state(lease_s=0), at=ENDED))
    passes("lease", said("up/state", state("offline", lease_s=50)))
    assert "is no time" in failed("lease", said("up/state", state(ts="2027-13-15T08:00:00Z"), at=ENDED))


def test_a_state_that_stood_there_beyond_its_lease_is_stale_and_no_failure() -> None:
    found = judge("lease", [said("up/state", state(ts="2027-01-15T07:00:00Z"))])
    assert found.word == "unclear"
    assert "its lease ended 3520 s ago" in found.detail


# health and alerts


def test_an_alert_goes_with_health() -> None:
    down = health("degraded", receive=("ok", ""), destination__pacs=("down", "REFUSED_CONNECTION"))
    passes("health", said("up/health", down), said("up/alerts/DESTINATION_DOWN", alert("destination.pacs")))
    passes(
        "health",
        said("up/alerts/DESTINATION_DOWN", alert("destination.pacs"), at=890.0),
        said("up/alerts/DESTINATION_DOWN", b""),
    )


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (health("ok", clock=("attention", "CLOCK_WRONG")), "overall is ok, and not ok are: clock"),
        (health("fault"), "overall is fault, and not ok are: none"),
        (health("attention", clock=("attention", "")), "clock is attention with the code ''"),
        (health("attention", clock=("ok", "CLOCK_WRONG"), receive=("down", "X")), "clock is ok with the code"),
    ],
)
def test_health_that_contradicts_itself_fails(document: dict[str, Any], words: str) -> None:
    assert words in failed("health", said("up/health", document))


def test_an_alert_beside_health_that_knows_of_nothing_fails() -> None:
    assert "all is ok" in failed("health", said("up/alerts/DESTINATION_DOWN", alert("destination.pacs")))
    other = health("degraded", destination__pacs=("ok", ""), receive=("down", "INTAKE_CLOSED"))
    assert "which is ok" in failed(
        "health", said("up/health", other), said("up/alerts/DESTINATION_DOWN", alert("destination.pacs"))
    )
    assert "no finding" in failed("health", said("up/alerts/NONSENSE", alert("store")))


def test_a_finding_in_health_without_an_alert_is_unclear() -> None:
    found = judge("health", [said("up/health", health("attention", clock=("attention", "CLOCK_WRONG")))])
    assert found == Verdict(word="unclear", detail="clock has CLOCK_WRONG, and no alert stands")


def test_what_changes_at_the_very_end_is_not_judged() -> None:
    message = said("up/alerts/DESTINATION_DOWN", alert("destination.pacs"), at=ENDED - 0.5)
    assert judge("health", [*well(), message]).word == "unclear"


# metrics, events, reports


def test_metrics_outside_the_dictionary_fail_and_so_does_what_must_grow_and_does_not() -> None:
    assert "x is not in the dictionary" in failed("metrics", told(2, x=1))
    assert "queue_instances fell" in failed("metrics", told(2, queue_instances=0))
    assert "metrics 1 after 1" in failed("metrics", told(1))
    passes("metrics", told(2, queue_instances=1), told(9, queue_instances=5))
    passes("metrics", said("up/birth", birth(43)), told(1, session=43, queue_instances=0))


def test_the_dictionary_of_the_code_names_each_metric_once() -> None:
    names = [metric.name for metric in dictionary(["pacs", "archive"])]
    assert len(set(names)) == len(names)


def test_events_in_order_pass_and_so_do_resends() -> None:
    passes("events", batch(event(1), event(2)), batch(event(3), at=901.0))
    passes("events", batch(event(1), event(2)), batch(event(1), event(2), event(3), at=931.0))
    reconnected = said("up/state", state(session=43), at=902.0)
    again = {"late": True}
    passes("events", batch(event(1)), reconnected, batch(event(1) | again, event(2), at=903.0))
    passes("events", batch(event(5)), batch(event(1), epoch=8))


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([batch(event(1)), batch(event(1), at=905.0)], "event 1 came again after 5 s"),
        ([batch(event(1)), batch(event(1, "STARTED", session=1, version="1"), at=940.0)], "says something else"),
        ([batch(event(5)), batch(event(4))], "event 4 came first after event 5"),
        ([batch(event(2), event(1))], "is not in order"),
        ([batch(event(1), to=2)], "has other events"),
        ([batch(event(1), events=[])], "has other events"),
        ([batch(event(1, "NONSENSE"))], "NONSENSE is no code"),
        ([batch(event(1, "DELETED", instances=1))], "has the data"),
        ([batch(event(1, "DESTINATION_DOWN", open=True, count=1, text="x"))], "has the data"),
        ([batch(*(event(n) for n in range(1, 600)))], "a batch of"),
    ],
)
def test_events_out_of_order_or_not_of_the_contract_fail(messages: list[Message], words: str) -> None:
    assert words in failed("events", *messages)


def test_events_that_did_not_come_are_unclear_until_a_gap_tells_of_them() -> None:
    torn = [batch(event(1), event(2), event(6))]
    assert judge("events", torn) == Verdict(
        word="unclear", detail="the events from 3 to 5 did not come; no GAP tells why (yet)"
    )
    gap = {"from": 3, "to": 4, "count": 2}
    assert "from 5 to 5" in judge("events", [*torn, batch(event(7, "GAP", **gap))]).detail
    assert judge("events", [*torn, batch(event(7, "GAP", **(gap | {"to": 5, "count": 3})))]).word == "ok"
    endless = {"from": 3, "to": 10**18, "count": 10**18}
    assert judge("events", [*torn, batch(event(7, "GAP", **endless))]).word == "ok"


def test_reports_say_why_and_stand_where_they_belong() -> None:
    report = {"v": 1, "id": "c-1", "status": "rejected", "reason": "UNSIGNED", "ts": NOW}
    passes("reports", said("up/command/c-1", report, retain=False))
    passes("reports", said("up/command/c-1", report | {"status": "succeeded", "reason": ""}))
    assert "stands at c-2" in failed("reports", said("up/command/c-2", report))
    assert "rejected with the reason ''" in failed("reports", said("up/command/c-1", report | {"reason": ""}))
    assert "'BECAUSE'" in failed("reports", said("up/command/c-1", report | {"reason": "BECAUSE"}))
    assert "rolled-back" in failed("reports", said("up/config", CONFIG | {"status": "rolled-back", "desired": 1}))
    assert "revision 3" in failed("reports", said("up/config", CONFIG | {"revision": 3, "desired": 2}))


# with a broker


class Mosquitto(Program):
    """mosquitto with a configuration of ours."""

    def __init__(self, folder: Path, text: str, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "mosquitto.conf"
        config.write_text(f"{text}\nuser {pwd.getpwuid(os.geteuid()).pw_name}\n")
        super().__init__(
            [require("mosquitto"), "-c", str(config)], ports=[port], log=folder / "log", environment=os.environ
        )
        self.port = port


class Person:
    """A client that waits for what it asks for."""

    def __init__(self, port: int, authority: Authority | None = None, pair: Pair | None = None) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.connected: list[bool] = []
        self._answers: dict[int | None, ReasonCode] = {}
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        if authority is not None:
            self._client.tls_set(
                str(authority.path), str(pair.certificate) if pair else None, str(pair.key) if pair else None
            )
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = lambda _c, _u, mid, codes, _p: self._answers.update({mid: codes[0]})
        self._client.on_publish = lambda _c, _u, mid, code, _p: self._answers.update({mid: code})
        self._client.on_message = lambda _c, _u, message: self.heard.append((message.topic, bytes(message.payload)))
        self._client.connect(LOOPBACK, port)
        self._client.loop_start()
        wait_for(lambda: self.connected, 10, "an answer of the broker")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topics: str) -> None:
        _, number = self._client.subscribe(topics, qos=1)
        assert not self._answer(number).is_failure

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> ReasonCode:
        """The broker's answer."""
        return self._answer(self.send(topic, payload, qos=qos, retain=retain))

    def send(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        return self._client.publish(topic, payload, qos=qos, retain=retain).mid

    def _answer(self, number: int | None) -> ReasonCode:
        wait_for(lambda: number in self._answers, 10, f"an answer to {number}")
        return self._answers[number]

    def _on_connect(
        self, _c: Client, _u: object, _flags: ConnectFlags, code: ReasonCode, _more: Properties | None
    ) -> None:
        self.connected.append(not code.is_failure)

    def _on_disconnect(
        self, _c: Client, _u: object, _flags: DisconnectFlags, _code: ReasonCode, _more: Properties | None
    ) -> None:
        self.connected.append(False)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker for anybody on this machine."""
    port = free_port()
    with Mosquitto(tmp_path / "plain", f"listener {port} {LOOPBACK}\nallow_anonymous true", port) as broker:
        yield broker


def speak(person: Person, messages: list[Message]) -> None:
    for message in messages:
        person.publish(message.topic, message.payload, qos=message.qos, retain=message.retain)


def current(messages: list[Message]) -> list[Message]:
    """The same, said now."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return [
        Message(
            topic=message.topic,
            payload=message.payload.replace(NOW.encode(), now.encode()),
            qos=message.qos,
            retain=message.retain,
            at=message.at,
        )
        for message in messages
    ]


@pytest.mark.rig
def test_a_node_that_is_well_is_told_so(plain: Mosquitto, capsys: pytest.CaptureFixture[str]) -> None:
    with Person(plain.port) as node:
        speak(node, current(well()))
        assert main(["--url", f"mqtt://{LOOPBACK}:{plain.port}", "--seconds", "2"]) == 0
    out = capsys.readouterr().out
    assert "n1: online, session 42" in out
    assert "1 heard, 0 of them failed" in out


@pytest.mark.rig
def test_a_node_that_breaks_the_contract_is_told_so_beside_one_that_does_not(
    plain: Mosquitto, capsys: pytest.CaptureFixture[str]
) -> None:
    with Person(plain.port) as node:
        speak(node, current(well()))
        node.publish("dicom-edge/v1/n2/up/state", b'{"patient":"x"}', retain=True)
        url = f"mqtt://{LOOPBACK}:{plain.port}"
        assert main(["--url", url, "--seconds", "1"]) == 1
        assert "2 heard, 1 of them failed" in capsys.readouterr().out
        assert main(["--url", url, "--seconds", "1", "--node", "n1"]) == 0
        assert main(["--url", url, "--seconds", "1", "--node", "n3"]) == 2
        assert "No node was heard" in capsys.readouterr().out


@pytest.mark.rig
def test_flags_and_qos_are_heard_as_they_were_sent(plain: Mosquitto) -> None:
    with Person(plain.port) as node:
        speak(node, well())
        node.publish("dicom-edge/v1/n1/up/command/c-1", b"{}")
        listened = listen(Access(url=f"mqtt://{LOOPBACK}:{plain.port}"), 1.0)
    assert listened.flags
    assert {(m.topic.rpartition("/")[2], m.qos, m.retain) for m in listened.messages} == {
        (name, 1, True) for name in ("state", "birth", "update", "health", "config")
    }


def test_a_broker_that_is_not_there_is_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", f"mqtt://{LOOPBACK}:{free_port()}", "--seconds", "1"]) == 2
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [[], ["--url", "http://x"], ["--url", "mqtt://u:p@x"], ["--url", "mqtt://x", "--seconds", "0"]]
)
def test_a_wrong_word_is_bad_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: scripts/mqtt-conformance" in capsys.readouterr().err


# the samples


class Clinic:
    """The sample broker in a folder, with an authority and everybody's certificates."""

    def __init__(self, folder: Path, *, bridge: str = "") -> None:
        folder.mkdir(parents=True)
        self.authority = Authority(folder / "certs")
        self.authority.issue("broker")
        self.port = free_port()
        (folder / "acl").write_text((SAMPLES / "acl").read_text())
        (folder / "acl").chmod(0o600)
        (folder / "conf.d").mkdir()
        (folder / "conf.d" / "bridge.conf").write_text(bridge)
        (folder / "lib").mkdir()
        text = (SAMPLES / "clinic.conf").read_text()
        text = replace(
            text, "/var/lib/mosquitto/", f"{folder}/lib/", "listener 8883", f"listener {self.port} {LOOPBACK}"
        )
        self.broker = Mosquitto(folder / "run", text.replace("/etc/mosquitto/", f"{folder}/"), self.port)

    def person(self, name: str) -> Person:
        return Person(self.port, self.authority, self.authority.issue(name))


def replace(text: str, *pairs: str) -> str:
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    made = Clinic(tmp_path / "clinic")
    with made.broker:
        yield made


@pytest.mark.rig
def test_the_sample_broker_starts_without_a_complaint_and_stops(clinic: Clinic) -> None:
    clinic.broker.stop()
    complaints = re.findall("(?i).*(?:error|warning|unknown|invalid|deprecated).*", clinic.broker.output())
    assert [line for line in complaints if "run as root" not in line] == []


@pytest.mark.rig
def test_a_node_may_write_its_own_topics_and_no_others(clinic: Clinic) -> None:
    with clinic.person("monitor") as monitor, clinic.person("n1") as node:
        monitor.subscribe("dicom-edge/v1/#")
        for topic, allowed in {
            "dicom-edge/v1/n1/up/state": True,
            "dicom-edge/v1/n1/up/alerts/DESTINATION_DOWN": True,
            "dicom-edge/v1/n2/up/state": False,
            "dicom-edge/v1/n1/down/ack": False,
            "dicom-edge/v1/n2/down/command/c-1": False,
            "homeassistant/device/n1/config": True,
            "homeassistant/device/n2/config": False,
            "elsewhere": False,
        }.items():
            code = node.publish(topic, b"x")
            assert (code.getName() == "Not authorized") is not allowed, topic
        node.publish("dicom-edge/v1/n1/up/end", b"x")
        wait_for(lambda: monitor.heard[-1:] == [("dicom-edge/v1/n1/up/end", b"x")], 10, "the last message")
        assert {topic for topic, _ in monitor.heard} == {
            "dicom-edge/v1/n1/up/state",
            "dicom-edge/v1/n1/up/alerts/DESTINATION_DOWN",
            "dicom-edge/v1/n1/up/end",
        }


@pytest.mark.rig
def test_a_node_hears_what_it_is_told_and_nothing_that_another_is(clinic: Clinic) -> None:
    with clinic.person("monitor") as monitor, clinic.person("n1") as node, clinic.person("n2") as other:
        node.subscribe("dicom-edge/v1/#")
        other.publish("dicom-edge/v1/n2/up/state", b"x")
        monitor.publish("dicom-edge/v1/n2/down/command/c-1", b"x")
        assert monitor.publish("dicom-edge/v1/n1/up/state", b"x").getName() == "Not authorized"
        monitor.publish("dicom-edge/v1/n1/down/command/c-1", b"x")
        wait_for(lambda: node.heard, 10, "the command")
        assert node.heard == [("dicom-edge/v1/n1/down/command/c-1", b"x")]


@pytest.mark.rig
def test_who_has_no_certificate_is_not_let_in(clinic: Clinic, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "strangers", "Somebody else").issue("monitor")
    for pair in (None, stranger):
        with Person(clinic.port, clinic.authority, pair) as person:
            assert person.connected[0] is False


@pytest.mark.rig
def test_a_message_longer_than_any_of_the_contract_is_refused(clinic: Clinic) -> None:
    with clinic.person("monitor") as monitor, clinic.person("n1") as node:
        node.subscribe("dicom-edge/v1/n1/down/#")
        monitor.publish("dicom-edge/v1/n1/down/config", b"x" * 2 * (256 << 10), retain=True)
        wait_for(lambda: node.heard, 10, "the longest message")
        monitor.send("dicom-edge/v1/n1/down/config", b"x" * 700_000)
        wait_for(lambda: False in monitor.connected, 10, "the broker to hang up")
        assert len(node.heard) == 1


@pytest.mark.rig
def test_the_checker_comes_in_with_a_certificate(clinic: Clinic, capsys: pytest.CaptureFixture[str]) -> None:
    pair = clinic.authority.issue("watcher")
    with clinic.person("n1") as node:
        speak(node, current(well()))
        words = [
            "--url",
            f"mqtts://{LOOPBACK}:{clinic.port}",
            "--ca-file",
            str(clinic.authority.path),
            "--seconds",
            "2",
        ]
        assert main([*words, "--certificate-file", str(pair.certificate), "--key-file", str(pair.key)]) == 0
        assert "1 heard, 0 of them failed" in capsys.readouterr().out
        assert main(words) == 2


@pytest.mark.rig
def test_the_bridge_takes_up_what_nodes_say_and_brings_down_what_they_are_told(tmp_path: Path) -> None:
    centre = Clinic(tmp_path / "centre")
    pair = centre.authority.issue("clinic-1")
    text = replace(
        (SAMPLES / "bridge.conf").read_text(),
        "mqtt.central.example.org:8883",
        f"{LOOPBACK}:{centre.port}",
        "/etc/mosquitto/certs/central-authority.pem",
        str(centre.authority.path),
        "/etc/mosquitto/certs/clinic-1.pem",
        str(pair.certificate),
        "/etc/mosquitto/certs/clinic-1.key",
        str(pair.key),
    )
    clinic = Clinic(tmp_path / "clinic", bridge=text)
    with centre.broker, clinic.broker, centre.person("monitor") as monitor, clinic.person("n1") as node:
        monitor.subscribe("dicom-edge/v1/+/up/#")
        node.subscribe("dicom-edge/v1/n1/down/#")
        node.publish("dicom-edge/v1/n1/up/state", b"x", retain=True)
        monitor.publish("dicom-edge/v1/n1/down/ack", b"y", retain=True)
        wait_for(lambda: monitor.heard, 30, "the state at the centre")
        wait_for(lambda: node.heard, 30, "the acknowledgement at the node")
        assert set(monitor.heard) == {("dicom-edge/v1/n1/up/state", b"x")}
        assert set(node.heard) == {("dicom-edge/v1/n1/down/ack", b"y")}
        with centre.person("watcher") as late:
            late.subscribe("dicom-edge/v1/+/up/#")
            wait_for(lambda: late.heard, 10, "what is retained at the centre")
