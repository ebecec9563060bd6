"""The vocabulary on the broker: what is taken, what is refused; and the documentation and schemas beside it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import pytest
from msgspec import inspect

from edge.configfile import parse
from edge.events import EVENTS
from edge.messages import PAYLOADS, Command, CommandReport, Component, ConfigReport, Payload, Topics, encode
from edge.signing import good, key_bytes
from edge.telemetry import commands, twin
from edge.telemetry.commands import ARGUMENTS
from edge.telemetry.metrics import dictionary
from scripts.conformance import schemas
from tests.peers.ports import require
from tests.test_docs import ROOT, quote, quoted, read, rows, section

NOW: Final = "2026-11-22T12:00:00Z"
EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "up/state": {"v": 1, "state": "online", "session": 42, "boot_id": "b", "lease_s": 180, "ts": NOW},
    "up/birth": {
        "v": 1,
        "session": 42,
        "model": "",
        "name": "CT room",
        "site": "Posta San Juan",
        "version": "0.3.0",
        "slot": "",
        "capabilities": ["identify"],
        "metrics": [{"name": "queue_instances", "kind": "gauge", "unit": "1", "help": "objects that wait"}],
        "events": {"epoch": 7, "first": 881, "last": 883},
        "ts": NOW,
    },
    "up/health": {
        "v": 1,
        "light": "Y1",
        "overall": "degraded",
        "components": {"destination.pacs": {"status": "down", "code": "REFUSED_CONNECTION", "since": NOW}},
        "ts": NOW,
    },
    "up/metrics": {"v": 1, "session": 42, "seq": 1081, "ts": NOW, "m": {"queue_instances": 41, "rate": 0.5}},
    "up/events": {
        "v": 1,
        "epoch": 7,
        "from": 881,
        "to": 881,
        "events": [
            {
                "seq": 881,
                "ts": NOW,
                "clock_trusted": True,
                "severity": "warning",
                "component": "destination.pacs",
                "code": "DESTINATION_DOWN",
                "data": {"open": True, "count": 1},
                "late": False,
            }
        ],
    },
    "up/alerts": {
        "v": 1,
        "severity": "warning",
        "components": ["destination.pacs"],
        "since": NOW,
        "count": 1,
        "advice": "nothing",
        "ts": NOW,
    },
    "up/command": {"v": 1, "id": "c-1", "status": "rejected", "reason": "UNSIGNED", "result": {}, "ts": NOW},
    "up/config": {
        "v": 1,
        "revision": 0,
        "hash": "0" * 64,
        "desired": 3,
        "status": "rejected",
        "reason": "INVALID",
        "errors": ["line 4: receive.port"],
        "ts": NOW,
    },
    "up/update": {"v": 1, "phase": "unsupported", "from": "", "to": "", "slot": "", "reason": "", "ts": NOW},
    "down/command": {
        "v": 1,
        "id": "c-1",
        "type": "retry",
        "args": {"destination": "pacs"},
        "issued_by": "monitor-1",
        "expires_at": NOW,
        "signature": "base64",
    },
    "down/config": {"v": 1, "revision": 3, "document": "", "issued_by": "monitor-1", "signature": "base64"},
    "down/ack": {"v": 1, "epoch": 7, "up_to": 883},
}


def decode(topic: str, document: object) -> Payload:
    return msgspec.json.decode(json.dumps(document), type=PAYLOADS[topic])


def structs(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where in an example a struct stands, told from a free mapping by the key ``data``, ``m`` and such."""
    found = []
    if isinstance(value, dict):
        if not path or path[-1] not in {"data", "m", "args", "result", "components"}:
            found.append(path)
        for key, inner in value.items():
            found += structs(inner, (*path, key))
    if isinstance(value, list):
        for number, inner in enumerate(value):
            found += structs(inner, (*path, number))
    return found


def test_there_is_an_example_of_every_payload() -> None:
    assert list(EXAMPLES) == list(PAYLOADS)


@pytest.mark.parametrize("topic", PAYLOADS)
def test_an_example_is_read_and_written_as_it_is(topic: str) -> None:
    assert json.loads(encode(decode(topic, EXAMPLES[topic]))) == EXAMPLES[topic]


def test_keys_with_a_default_may_be_left_out() -> None:
    bare = {"v": 1, "id": "c-1", "status": "rejected", "reason": "UNSIGNED", "ts": NOW}
    assert decode("up/command", bare) == decode("up/command", EXAMPLES["up/command"])
    assert decode("down/ack", {"epoch": 7, "up_to": 883}) == decode("down/ack", EXAMPLES["down/ack"])


@pytest.mark.parametrize(("topic", "path"), [(topic, path) for topic in EXAMPLES for path in structs(EXAMPLES[topic])])
def test_an_unknown_key_is_refused_at_every_depth(topic: str, path: tuple[str | int, ...]) -> None:
    document = json.loads(json.dumps(EXAMPLES[topic]))
    place = document
    for step in path:
        place = place[step]
    place["patient_name"] = "x"
    with pytest.raises(msgspec.ValidationError, match="patient_name"):
        decode(topic, document)


@pytest.mark.parametrize("topic", PAYLOADS)
def test_another_version_is_refused(topic: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.v"):
        decode(topic, EXAMPLES[topic] | {"v": 2})


@pytest.mark.parametrize(
    "time",
    [
        "",
        "2026-11-22",
        "2026-11-22T12:00:00",
        "2026-11-22T12:00:00+01:00",
        "2026-11-22 12:00:00Z",
        "2026-11-22T12:00:00Z\n",
        "\uff12026-11-22T12:00:00Z",
        "x2026-11-22T12:00:00Z",
    ],
)
def test_a_time_that_is_not_rfc_3339_in_utc_is_refused(time: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="ts"):
        decode("up/state", EXAMPLES["up/state"] | {"ts": time})


@pytest.mark.parametrize("number", ["", "a" * 65, "a/b", "+", "#", "a b", "é", "a\n", "../x", "a\x00"])
def test_an_id_that_cannot_stand_in_a_topic_is_refused(number: str) -> None:
    for topic in ("down/command", "up/command"):
        with pytest.raises(msgspec.ValidationError, match="id"):
            decode(topic, EXAMPLES[topic] | {"id": number})
    assert Topics("n").command_id(f"dicom-edge/v1/n/down/command/{number}") is None


def test_a_command_is_given_and_answered_on_topics_of_its_id() -> None:
    topics = Topics("n")
    assert topics.command_id(topics.down_command("c-1")) == "c-1"
    assert topics.command("c-1") == "dicom-edge/v1/n/up/command/c-1"
    assert topics.command_id(Topics("m").down_command("c-1")) is None
    assert topics.command_id(topics.command("c-1")) is None


def test_a_word_that_is_none_of_the_closed_lists_is_refused() -> None:
    for topic, key in (
        ("up/state", "state"),
        ("up/health", "overall"),
        ("up/command", "status"),
        ("up/config", "status"),
    ):
        with pytest.raises(msgspec.ValidationError, match=key):
            decode(topic, EXAMPLES[topic] | {key: "fine"})


def test_what_needs_no_value_has_one() -> None:
    report = CommandReport(id="c-1", status="accepted", ts=NOW)
    assert json.loads(encode(report)) == {
        "v": 1,
        "id": "c-1",
        "status": "accepted",
        "reason": "",
        "result": {},
        "ts": NOW,
    }
    command = Command(id="c-1", type="rebirth", issued_by="m", expires_at=NOW)
    assert (command.args, command.signature) == ({}, "")


# the schemas beside the documentation


def test_the_schemas_in_the_documentation_are_the_codes() -> None:
    assert schemas.differing(schemas.FOLDER) == []


def test_every_object_of_a_schema_is_closed_or_a_mapping_of_known_values() -> None:
    for name, text in schemas.documents().items():
        for title, kind in json.loads(text)["$defs"].items():
            assert kind["additionalProperties"] is False, (name, title)


def test_schemas_are_written_compared_and_cleared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert schemas.main(["--check"], tmp_path) == 1
    assert schemas.main([], tmp_path) == 0
    assert schemas.main(["--check"], tmp_path) == 0
    (tmp_path / "up-old.schema.json").write_text("{}")
    (tmp_path / "up-state.schema.json").write_text("{}")
    capsys.readouterr()
    assert schemas.main(["--check"], tmp_path) == 1
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == [
        "up-old.schema.json",
        "up-state.schema.json",
    ]
    assert schemas.main([], tmp_path) == 0
    assert schemas.differing(tmp_path) == []


# docs/mqtt.md

PAGE: Final = read("docs/mqtt.md")


def keys(kind: object, path: str = "") -> list[str]:
    """Every key of a payload, those of a struct in a list or a mapping too, but for the version."""
    match kind:
        case inspect.StructType(fields=fields):
            found = []
            for field in fields:
                here = f"{path}.{field.encode_name}" if path else field.encode_name
                found += [here, *keys(field.type, here)]
            return [key for key in found if key != "v"]
        case inspect.ListType(item_type=item):
            return keys(item, f"{path}[]")
        case inspect.DictType(value_type=value):
            return keys(value, f"{path}.*")
    return []


def test_topics_in_the_documentation_are_the_codes() -> None:
    table = rows(section(PAGE, "Topics"), "topic", "QoS", "retained", "when", "schema")
    assert [quote(topic).partition("/{")[0] for topic, *_ in table] == list(PAYLOADS)
    topics = Topics("N")
    known = {f"{topics.base}/{quote(topic)}" for topic, *_ in table}
    own = {value for name, value in vars(topics).items() if name not in {"base", "down_commands"}}
    assert own | {topics.alert("{code}"), topics.command("{id}"), topics.down_command("{id}")} == known
    for topic, _, _, _, schema in table:
        name = quote(topic).partition("/{")[0].replace("/", "-")
        assert schema == f"[{name}](mqtt/{name}.schema.json)"


@pytest.mark.parametrize("topic", PAYLOADS)
def test_keys_in_the_documentation_are_the_codes(topic: str) -> None:
    table = rows(section(PAGE, f"`{topic}`"), "key", "meaning")
    assert [quote(key) for key, _ in table] == keys(inspect.type_info(PAYLOADS[topic]))


@pytest.mark.parametrize("topic", PAYLOADS)
def test_examples_in_the_documentation_are_read_and_complete(topic: str) -> None:
    example = re.findall(r"```json\n(.*?)```", section(PAGE, f"`{topic}`"), re.DOTALL)[0]
    payload = msgspec.json.decode(example, type=PAYLOADS[topic])
    assert json.loads(encode(payload)) == json.loads(example)


def test_events_in_the_documentation_are_the_codes() -> None:
    assert rows(section(PAGE, "Events"), "code", "tells", "data") == [
        [f"`{code}`", kind.text, "; ".join(f"`{name}` {text}" for name, text in kind.data.items()) or "none"]
        for code, kind in EVENTS.items()
    ]


def test_the_metric_dictionary_in_the_documentation_is_the_codes() -> None:
    table = rows(section(PAGE, "`up/metrics`"), "metric", "kind", "unit", "meaning")
    assert table == [[f"`{one.name}`", one.kind, f"`{one.unit}`", one.help] for one in dictionary(["NAME"])]


def test_commands_in_the_documentation_are_the_codes() -> None:
    table = rows(section(PAGE, "Commands"), "type", "arguments", "does", "result")
    assert [(quote(kind), quoted(arguments)) for kind, arguments, *_ in table] == [
        (kind, list(arguments.__struct_fields__)) for kind, arguments in ARGUMENTS.items()
    ]


@pytest.mark.parametrize(("title", "reasons"), [("Reasons", commands.REASONS), ("Configuration", twin.REASONS)])
def test_reasons_in_the_documentation_are_the_codes(title: str, reasons: Mapping[str, str]) -> None:
    assert rows(section(PAGE, title), "code", "means") == [[f"`{code}`", text] for code, text in reasons.items()]


@pytest.mark.parametrize(
    ("title", "kind", "name"), [("`up/health`", Component, "status"), ("Configuration", ConfigReport, "status")]
)
def test_words_in_the_documentation_are_the_codes(title: str, kind: type[msgspec.Struct], name: str) -> None:
    (words,) = (field.type for field in msgspec.structs.fields(kind) if field.name == name)
    assert {quote(word) for word, _ in rows(section(PAGE, title), "status", "means")} == set(get_args(words))


def test_the_command_in_the_documentation_is_signed_with_the_key_made_as_it_says(tmp_path: Path) -> None:
    require("openssl")
    (make_key,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "command.py").write_text(script)
    made = subprocess.run(["bash", "-ec", make_key], cwd=tmp_path, capture_output=True, text=True, check=True)
    signed = subprocess.run(
        [sys.executable, "command.py", "node-1", "c-1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    command = msgspec.json.decode(signed.stdout, type=Command)
    assert (command.id, command.issued_by) == ("c-1", "monitor-1")
    assert datetime.fromisoformat(command.expires_at) > datetime.now(UTC)
    msgspec.convert(command.args, type=ARGUMENTS[command.type])
    loaded = parse(
        f'[mqtt]\nurl = "mqtt://b"\n[[mqtt.signer]]\nname = "monitor-1"\npublic_key = "{made.stdout.strip()}"\n'
    )
    assert loaded.config.mqtt is not None
    (signer,) = loaded.config.mqtt.signer
    assert good(signed.stdout, "node-1", key_bytes(signer.public_key))
    assert not good(signed.stdout, "node-2", key_bytes(signer.public_key))
