"""Discovery documents for Home Assistant: the sensors of a source and task, and when they are available."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

# Home Assistant ignores every payload but "online" and "offline": the states of a source are mapped to these two.
_IS_LIVE = "{{ 'online' if value == 'live' else 'offline' }}"


def sensors(
    discovery: str, prefix: str, name: str, topic: str, state: str, independent: Iterable[str] = ()
) -> dict[str, dict[str, Any]]:
    """The sensors of a task of a source: its label, with the event as attributes, and the label's score.

    Args:
        discovery: Prefix of Home Assistant's discovery topics.
        prefix: Prefix of the sink's topics; PREFIX/status says whether this program runs.
        name: Of the source, and the task if it has several, as people see it.
        topic: Topic of its events.
        state: Topic of the state of the source.
        independent: Labels that hold or not by themselves; each has a binary sensor.

    Returns:
        Discovery documents by topic.
    """
    unique = f"{identifier(topic)}_{hashlib.sha256(topic.encode()).hexdigest()[:6]}"
    shown = name.encode(errors="replace").decode()
    common = {
        "state_topic": topic,
        "availability": [
            {"topic": f"{prefix}/status"},
            {"topic": state, "value_template": _IS_LIVE},
        ],
        "availability_mode": "all",
        "device": {"identifiers": [prefix], "name": prefix, "manufacturer": "attri"},
    }
    label = {
        "name": shown,
        "unique_id": f"{unique}_label",
        "value_template": "{{ value_json.label or 'none' }}",
        "json_attributes_topic": topic,
        "icon": "mdi:tag",
    }
    score = {
        "name": f"{shown} score",
        "unique_id": f"{unique}_score",
        "value_template": "{{ (value_json.score * 100) | round(1) }}",
        "unit_of_measurement": "%",
        "state_class": "measurement",
    }
    kinds = {"label": label, "score": score}
    found = {f"{discovery}/sensor/{unique}/{kind}/config": common | own for kind, own in kinds.items()}
    for each in independent:
        plain = each.encode(errors="replace").decode()
        key = f"{identifier(plain)[:40]}_{hashlib.sha256(plain.encode()).hexdigest()[:6]}"
        held = "value_json.labels | map(attribute='label')"
        found[f"{discovery}/binary_sensor/{unique}/{key}/config"] = common | {
            "name": f"{shown} {plain}",
            "unique_id": f"{unique}_{key}",
            "value_template": f"{{{{ 'ON' if {json.dumps(plain)} in {held} else 'OFF' }}}}",
            "icon": "mdi:tag",
        }
    return found


def identifier(topic: str) -> str:
    """A topic spelled in the characters that discovery topics may hold."""
    return "".join(char if char.isascii() and char.isalnum() else "_" for char in topic)
