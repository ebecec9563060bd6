"""Home Assistant's MQTT discovery: one retained document that describes the box as a device with its sensors.

The metric dictionary is the one source; units are translated to Home Assistant's device classes where it has them.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from edge.messages import Metric, Topics

PREFIX: Final = "homeassistant"
_CLASSES: Final = {"B": "data_size", "B/s": "data_rate", "s": "duration"}
_SILENT: Final = 200
"""Seconds without metrics after which their sensors are unavailable: three are missing."""


def topic(node: str) -> str:
    """Where the document stands."""
    return f"{PREFIX}/device/{node}/config"


def document(node: str, name: str, site: str, version: str, topics: Topics, metrics: Sequence[Metric]) -> bytes:
    """Describe the box, as JSON."""
    components = {metric.name.replace(".", "_"): _sensor(node, topics, metric) for metric in metrics}
    components["light"] = {
        "platform": "sensor",
        "unique_id": f"{node}_light",
        "name": "Light",
        "state_topic": topics.health,
        "value_template": "{{ value_json.light }}",
        "icon": "mdi:traffic-light",
    }
    components["problem"] = {
        "platform": "binary_sensor",
        "unique_id": f"{node}_problem",
        "name": "Problem",
        "device_class": "problem",
        "state_topic": topics.health,
        "value_template": "{{ 'OFF' if value_json.overall == 'ok' else 'ON' }}",
        "json_attributes_topic": topics.health,
    }
    components["update"] = {
        "platform": "update",
        "unique_id": f"{node}_update",
        "name": "Software",
        "state_topic": topics.birth,
        "value_template": (
            "{{ {'installed_version': value_json.version, 'latest_version': value_json.version} | tojson }}"
        ),
        # nothing, which is passed over, unless another version is on its way
        "latest_version_topic": topics.update,
        "latest_version_template": (
            "{{ value_json.to if value_json.phase in ['downloading', 'installing', 'waiting', 'trial'] else '' }}"
        ),
    }
    found: dict[str, Any] = {
        "device": {
            "identifiers": [node],
            "name": name,
            "manufacturer": "dicom-edge",
            "model": "DICOM edge appliance",
            "sw_version": version,
            **({"suggested_area": site} if site else {}),
        },
        "origin": {"name": "dicom-edge", "sw_version": version},
        "availability": [
            {
                "topic": topics.state,
                "value_template": "{{ 'online' if value_json.state == 'online' else 'offline' }}",
            }
        ],
        "qos": 1,
        "components": components,
    }
    return json.dumps(found).encode("utf-8")


def _sensor(node: str, topics: Topics, metric: Metric) -> dict[str, Any]:
    found: dict[str, Any] = {
        "platform": "sensor",
        "unique_id": f"{node}_{metric.name.replace('.', '_')}",
        "name": _title(metric.name),
        "state_topic": topics.metrics,
        "value_template": f"{{{{ value_json.m.get('{metric.name}') }}}}",
        "state_class": "total_increasing" if metric.kind == "counter" else "measurement",
        "expire_after": _SILENT,
        "entity_category": "diagnostic",
    }
    if metric.unit != "1":
        found |= {"unit_of_measurement": metric.unit, "device_class": _CLASSES[metric.unit]}
    return found


def _title(name: str) -> str:
    """A metric's name as people read it; a destination keeps its own."""
    before, _, last = name.rpartition(".")
    text = f"{before.replace('.', ' ')} {last.replace('_', ' ')}".strip()
    return text[:1].upper() + text[1:]
