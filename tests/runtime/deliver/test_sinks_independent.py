"""Sinks and independent labels: all that hold are in what is printed, kept, counted and sent."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fakes import FakeSink
from support.peers import PREFIX, Listener, Mosquitto, real, wait_for
from support.results import FakeControl, make_result

from attri.runtime.deliver.annotate import annotate
from attri.runtime.deliver.compare import CompareSink
from attri.runtime.deliver.console import live_line
from attri.runtime.deliver.csv_file import CsvSink
from attri.runtime.deliver.format import event_body, json_object, text_line
from attri.runtime.deliver.metrics import MetricsSink
from attri.runtime.deliver.mqtt.broker import Broker
from attri.runtime.deliver.mqtt.home_assistant import sensors
from attri.runtime.deliver.mqtt.sink import MqttSink
from attri.runtime.deliver.result import FrameResult, ResultKey
from attri.runtime.deliver.snapshots import SnapshotSink
from attri.runtime.deliver.spool import Spool
from attri.runtime.web.views import SourceView, card_json


def holding(*held: tuple[str, float], **others: Any) -> FrameResult:
    label, score = held[0] if held else (None, 0.25)
    return dataclasses.replace(make_result(label=label, score=score, changed=True, **others), held=held)


TWO = holding(("bird", 0.9), ("red apple", 0.6))
NONE = holding(frame=1)


def test_json_and_events_have_all_of_them() -> None:
    wanted = [{"label": "bird", "score": 0.9}, {"label": "red apple", "score": 0.6}]
    assert json_object(TWO, 1)["labels"] == json.loads(event_body(TWO, 1))["labels"] == wanted
    assert (json_object(TWO, 1)["label"], json_object(TWO, 1)["score"]) == ("bird", 0.9)
    assert (json_object(NONE, 1)["labels"], json_object(NONE, 1)["label"]) == ([], None)
    assert "labels" not in json_object(make_result(), 1)


def test_lines_have_all_of_them() -> None:
    assert text_line(TWO, 1).endswith("camera0  bird 90.0%  red apple 60.0%")
    assert "(none of the labels)" in text_line(NONE, 1)
    assert "bird, red apple" in live_line(TWO, 100)


def test_tables_and_snapshots_have_all_of_them(tmp_path: Path) -> None:
    table, files = CsvSink(tmp_path / "a.csv"), SnapshotSink(tmp_path / "files", 10, 1)
    for result in (TWO, NONE):
        table.write(result), files.write(result)
    table.close()
    with (tmp_path / "a.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["bird; red apple", ""]
    names = sorted(path.name.split("_", 1)[1] for path in (tmp_path / "files").iterdir())
    assert names == ["camera0_bird-red-apple_0.jpg", "camera0_none_1.jpg"]


def test_recordings_show_all_of_them() -> None:
    wide = np.zeros((240, 640, 3), np.uint8)
    one, two = (annotate(dataclasses.replace(each, raw_image=wide)) for each in (holding(("bird", 0.9)), TWO))
    assert (one != two).any()


def test_metrics_count_each() -> None:
    metrics = MetricsSink(FakeControl())
    for result in (TWO, NONE):
        metrics.write(result)
    text = metrics.render()[0].decode()
    for label in ("bird", "red apple", "(none of the labels)"):
        assert f'attri_results_total{{label="{label}",source="camera0"}} 1.0' in text


def test_tasks_agree_where_the_same_labels_hold() -> None:
    control, shown = FakeControl(tasks=("a", "b")), FakeSink()
    sink = CompareSink(control.health(), shown)
    image = np.zeros((8, 8, 3), np.uint8)
    swapped = holding(("red apple", 0.9), ("bird", 0.6))
    for pair in ((TWO, swapped), (TWO, holding(("bird", 0.9)))):
        image = image.copy()
        for task, result in zip("ab", pair, strict=True):
            sink.write(dataclasses.replace(result, task=task, raw_image=image))
    assert [result.decided for result in shown.results] == [("bird", "red apple"), ("bird",)]
    assert sink.summary() == "compared 2 frames: agreed a and b on 1 (50%)"


def test_the_page_has_all_of_them() -> None:
    key = ResultKey("camera0")
    assert card_json(key, (SourceView(TWO, 1), TWO, 1), None)["labels"] == ["bird", "red apple"]
    plain = make_result()
    assert "labels" not in card_json(key, (SourceView(plain, 1), plain, 1), None)


def test_home_assistant_has_a_binary_sensor_for_each_label() -> None:
    jinja2 = pytest.importorskip("jinja2")
    labels = ["bird", 'a "red" apple', "かりんご", "bird!"]
    found = sensors("homeassistant", "attri/pi", "gate", "attri/pi/gate", "attri/pi/gate/state", labels)
    configs = [config for topic, config in found.items() if topic.startswith("homeassistant/binary_sensor/")]
    assert [config["name"] for config in configs] == [f"gate {label}" for label in labels]
    assert len({config["unique_id"] for config in configs}) == len(labels)
    assert len(found) == len(labels) + 2
    for config, label in zip(configs, labels, strict=True):
        template = jinja2.Template(config["value_template"])
        held = [{"label": "dog", "score": 0.9}, {"label": label, "score": 0.8}]
        assert template.render(value_json={"labels": held}) == "ON"
        assert template.render(value_json={"labels": held[:1]}) == "OFF"
        assert template.render(value_json={"labels": []}) == "OFF"


@real
def test_binary_sensors_follow_the_labels(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    listener, control = Listener(broker.port), FakeControl("gate", "door")
    control.of_independent.add("gate")
    target = Broker("127.0.0.1", broker.port)
    sink = MqttSink(target, PREFIX, lambda: Spool(tmp_path / "spool.sqlite"), control, "homeassistant")

    def binary() -> dict[str, str]:
        """What the broker holds: name by topic."""
        last = {topic: body for topic, body, _ in listener.messages if "/binary_sensor/" in topic}
        return {topic: json.loads(body)["name"] for topic, body in last.items() if body}

    wait_for(lambda: sorted(binary().values()) == ["gate bird", "gate red apple", "gate かりんご"])
    control.set_labels("bird\ncat")
    wait_for(lambda: sorted(binary().values()) == ["gate bird", "gate cat"])
    sink.write(dataclasses.replace(TWO, origin="gate", source="gate"))
    wait_for(lambda: len(listener.of(f"{PREFIX}/gate")) == 1)
    assert [each["label"] for each in json.loads(listener.of(f"{PREFIX}/gate")[0])["labels"]] == ["bird", "red apple"]
    sink.close()
    broker.kill()
