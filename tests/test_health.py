"""From a snapshot to what the broker is told: no sentence, no stranger's name, the right word for each part."""

import json
from typing import Final

import pytest

from edge.messages import Component, Topics, encode
from edge.snapshot import FindingStatus, WatchStatus
from edge.telemetry.discovery import document
from edge.telemetry.health import alerts, blind, health, same
from edge.telemetry.metrics import dictionary, values
from tests.snapshots import NOW, destination, finding, snapshot


def words(shown: dict[str, Component]) -> dict[str, tuple[str, str]]:
    return {name: (one.status, one.code) for name, one in shown.items()}


def test_a_box_that_is_well_says_so_of_every_part() -> None:
    watch = WatchStatus(name="us", taken=0, waiting=0, left=0)
    told = health(snapshot(destinations=["pacs"], watches=[watch]), {})
    assert told.overall == "ok"
    assert words(told.components) == dict.fromkeys(
        ["clock", "destination.pacs", "queue", "receive", "storage", "watch"], ("ok", "")
    )


def test_a_destination_that_is_down_degrades_the_box_and_says_why() -> None:
    shown = snapshot(
        destinations=[destination("pacs", problem="REFUSED_CONNECTION"), "archive"],
        findings=[finding("DESTINATION_DOWN", "destination.pacs")],
    )
    told = health(shown, {})
    assert told.overall == "degraded"
    assert words(told.components)["destination.pacs"] == ("down", "REFUSED_CONNECTION")
    assert words(told.components)["destination.archive"] == ("ok", "")


@pytest.mark.parametrize(
    ("code", "component", "severity", "part", "status", "overall"),
    [
        ("INTAKE_CLOSED", "disk", "error", "receive", "down", "down"),
        ("STORAGE_ERROR", "index", "error", "storage", "fault", "fault"),
        ("DELIVERIES_HELD", "destination.pacs", "warning", "destination.pacs", "attention", "attention"),
        ("WATCH_MISSING", "watch.us", "warning", "watch", "attention", "attention"),
        ("PEER_REFUSED", "modality.10.0.0.9", "warning", "receive", "attention", "attention"),
        ("CLOCK_WRONG", "clock", "warning", "clock", "attention", "attention"),
        ("SERVICE_RESTARTED", "service.lane pacs", "warning", "service", "attention", "attention"),
        ("ACCEPTS_ANYONE", "config.modality", "info", "service", "ok", "ok"),
    ],
)
def test_a_finding_shows_at_its_part(
    code: str, component: str, severity: str, part: str, status: str, overall: str
) -> None:
    shown = snapshot(destinations=["pacs"], findings=[finding(code, component, severity)])
    told = health(shown, {})
    assert words(told.components)[part] == (status, code if status != "ok" else "")
    assert told.overall == overall


def test_the_time_since_when_stays_while_the_word_does() -> None:
    before = health(snapshot(destinations=["pacs"]), {})
    later = snapshot(destinations=["pacs"], taken_at="2026-11-22T13:00:00.000Z")
    after = health(later, before.components)
    assert same(before, after)
    assert {one.since for one in after.components.values()} == {NOW}
    down = snapshot(destinations=[destination("pacs", problem="TIMED_OUT")], taken_at="2026-11-22T14:00:00.000Z")
    changed = health(down, after.components)
    assert not same(after, changed)
    assert changed.components["destination.pacs"].since == "2026-11-22T14:00:00.000Z"


def test_alerts_gather_a_code_and_leave_out_what_only_informs() -> None:
    open_: list[FindingStatus] = [
        finding("PEER_REFUSED", "modality.10.0.0.1", count=3, since="2026-11-22T11:00:00.000Z"),
        finding("PEER_REFUSED", "modality.10.0.0.2", count=4),
        finding("ACCEPTS_ANYONE", "config.modality", "info"),
        finding("STORAGE_ERROR", "index", "error"),
    ]
    told = alerts(open_, NOW)
    assert sorted(told) == ["PEER_REFUSED", "STORAGE_ERROR"]
    refused = told["PEER_REFUSED"]
    assert (refused.count, refused.components, refused.since) == (7, ["receive"], "2026-11-22T11:00:00.000Z")
    assert told["STORAGE_ERROR"].severity == "error"


def test_nothing_that_came_from_outside_is_told() -> None:
    shown = snapshot(
        destinations=[destination("pacs", problem="REFUSED_CONNECTION")],
        findings=[
            finding("PEER_REFUSED", "modality.MEIER^HANS"),
            finding("TITLE_SHARED", "title.MEIER^HANS"),
            finding("IMPORT_INCOMPLETE", "import.MEIER^HANS"),
            finding("DESTINATION_DOWN", "destination.pacs"),
        ],
    )
    told = encode(health(shown, {})) + b"".join(encode(alert) for alert in alerts(shown.findings, NOW).values())
    for secret in (b"MEIER", b"secret", b"it said"):
        assert secret not in told


def test_every_value_told_is_in_the_dictionary() -> None:
    known = {metric.name for metric in dictionary(["pacs", "archive"])}
    told = values(snapshot(destinations=["pacs", "archive"]))
    assert set(told) <= known
    assert told["queue_instances"] == 3
    assert told["destination.pacs.accepted"] == 7
    assert "storage_autonomy_seconds" not in told, "what is not known is not told"


def test_home_assistant_gets_a_sensor_for_each_metric() -> None:
    metrics = dictionary(["pacs"])
    told = json.loads(document("n1", "CT room", "Posta", "0.1.0", Topics("n1"), metrics))
    components = told["components"]
    assert len(components) == len(metrics) + 3
    assert told["device"]["identifiers"] == ["n1"]
    assert told["availability"][0]["topic"] == "dicom-edge/v1/n1/up/state"
    assert len({one["unique_id"] for one in components.values()}) == len(components)
    assert components["queue_bytes"]["device_class"] == "data_size"
    assert "destination.pacs.queued" in components["destination_pacs_queued"]["value_template"]


HOME_ASSISTANT: Final[dict[str, tuple[set[str], set[str]]]] = {
    "": ({"device", "origin", "components"}, {"availability", "availability_mode", "qos", "encoding", "state_topic"}),
    "device": (set(), {"identifiers", "name", "manufacturer", "model", "sw_version", "suggested_area", "hw_version"}),
    "origin": ({"name"}, {"sw_version", "support_url"}),
    "availability": ({"topic"}, {"value_template", "payload_available", "payload_not_available"}),
    "sensor": (
        {"platform", "unique_id", "state_topic"},
        {"name", "value_template", "state_class", "expire_after", "entity_category"}
        | {"unit_of_measurement", "device_class", "icon"},
    ),
    "binary_sensor": (
        {"platform", "unique_id", "state_topic"},
        {"name", "value_template", "device_class", "json_attributes_topic"},
    ),
    "update": (
        {"platform", "unique_id"},
        {"name", "state_topic", "value_template"} | {"latest_version_topic", "latest_version_template"},
    ),
}
"""Keys that Home Assistant's schema of device discovery requires, and those that it knows, as far as we use them."""
UNITS: Final = {"data_size": {"B"}, "data_rate": {"B/s"}, "duration": {"s"}}
"""Units of Home Assistant's device classes, as far as we use them."""


def test_home_assistant_knows_every_key_that_it_is_told() -> None:
    told = json.loads(document("n1", "CT room", "Posta", "0.1.0", Topics("n1"), dictionary(["pacs"])))
    parts = [
        ("", told),
        ("device", told["device"]),
        ("origin", told["origin"]),
        ("availability", told["availability"][0]),
    ]
    parts += [(one["platform"], one) for one in told["components"].values()]
    for kind, part in parts:
        required, known = HOME_ASSISTANT[kind]
        assert required <= set(part) <= required | known, kind
    for one in told["components"].values():
        assert one.get("entity_category", "diagnostic") in {"diagnostic", "config"}
        assert one.get("state_class", "measurement") in {"measurement", "total_increasing"}
        if one.get("device_class") in UNITS:
            assert one["unit_of_measurement"] in UNITS[one["device_class"]]
        else:
            assert "unit_of_measurement" not in one


def test_what_a_finding_is_about_is_told_with_the_findings_time() -> None:
    long_ago = "2026-11-20T06:00:00.000Z"
    shown = snapshot(
        destinations=[destination("pacs", problem="REFUSED_CONNECTION")],
        findings=[
            finding("DESTINATION_DOWN", "destination.pacs", since=long_ago),
            finding("WATCH_MISSING", "watch.us", since=long_ago),
            finding("WATCH_MISSING", "watch.ct"),
        ],
    )
    told = health(shown, {})
    assert told.components["destination.pacs"].since == long_ago
    assert told.components["watch"].since == long_ago
    assert told.components["receive"].since == NOW


def test_a_box_that_cannot_read_its_database_says_that_and_what_it_still_knows() -> None:
    before = health(snapshot(destinations=["pacs"]), {})
    told = blind([finding("INTAKE_CLOSED", "store", "error")], before.components, NOW)
    assert words(told.components) == {
        "clock": ("unknown", "STORE"),
        "destination.pacs": ("unknown", "STORE"),
        "queue": ("unknown", "STORE"),
        "receive": ("down", "INTAKE_CLOSED"),
        "storage": ("fault", "STORE"),
    }
    assert (told.light, told.overall) == ("R2", "fault")
    assert blind([], {}, NOW).light == "R1"


def test_power_is_a_part_where_it_can_be_seen() -> None:
    assert "power" not in health(snapshot(), {}).components
    assert words(health(snapshot(), {}, power=True).components)["power"] == ("ok", "")
    low = health(snapshot(), {}, power=False)
    assert words(low.components)["power"] == ("attention", "UNDER_VOLTAGE")
    assert low.overall == "attention"


def test_home_assistant_shows_a_destination_by_its_own_name() -> None:
    told = json.loads(document("n1", "CT room", "", "0.1.0", Topics("n1"), dictionary(["PACS-Süd"])))
    assert told["components"]["destination_PACS-Süd_queued"]["name"] == "Destination PACS-Süd queued"
