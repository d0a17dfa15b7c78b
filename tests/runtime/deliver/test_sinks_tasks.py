"""Sinks and tasks: what is made of results of two tasks of a camera, and that nothing changes without tasks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.results import FakeControl, make_result

from attri.runtime.capture.base import SourceState
from attri.runtime.deliver.annotate import annotate
from attri.runtime.deliver.csv_file import CsvSink, check_csv
from attri.runtime.deliver.format import event_body, json_object, text_line
from attri.runtime.deliver.metrics import MetricsSink
from attri.runtime.deliver.mqtt.home_assistant import sensors
from attri.runtime.deliver.mqtt.topics import event_topics, source_topics
from attri.runtime.deliver.result import ResultKey, SourceHealth
from attri.runtime.deliver.snapshots import SnapshotSink
from attri.runtime.deliver.video import VideoSink
from attri.runtime.errors import UsageError

TASKS = ("defects", "fill")
PLAIN = make_result()
DEFECTS = make_result(task="defects", label="bird", changed=True)
FILL = make_result(task="fill", changed=True)


def test_the_task_is_in_json_and_in_bodies_of_events() -> None:
    assert "task" not in json_object(PLAIN, 1)
    assert list(json_object(DEFECTS, 1))[:3] == ["source", "task", "frame"]
    assert json.loads(event_body(DEFECTS, 1))["task"] == "defects"
    without = json_object(DEFECTS, 1)
    without.pop("task")
    assert without.keys() == json_object(PLAIN, 1).keys()


def test_lines_name_the_task() -> None:
    assert text_line(PLAIN, 1).split()[1:] == ["camera0", "red", "apple", "75.0%"]
    assert text_line(DEFECTS, 1).split()[1:] == ["camera0", "defects", "bird", "75.0%"]


def test_a_table_has_a_column_for_tasks_where_there_are_some(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for _ in range(2):
        check_csv(path, tasks=True)
        sink = CsvSink(path, tasks=True)
        for result in (DEFECTS, FILL, PLAIN):
            sink.write(result)
        sink.close()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["task"], row["label"]) for row in rows] == 2 * [
        ("camera0", "defects", "bird"), ("camera0", "fill", "red apple"), ("camera0", "", "red apple"),
    ]  # fmt: skip
    for refused in (check_csv, CsvSink):
        with pytest.raises(UsageError, match="holds another table"):
            refused(path)
    CsvSink(tmp_path / "plain.csv").close()
    with pytest.raises(UsageError, match="holds another table"):
        check_csv(tmp_path / "plain.csv", tasks=True)


def test_snapshots_of_tasks_have_names_of_their_own(tmp_path: Path) -> None:
    sink = SnapshotSink(tmp_path, 10, 1)
    for result in (DEFECTS, FILL, PLAIN):
        sink.write(result)
    names = sorted(file.name.partition("_")[2] for file in tmp_path.iterdir())
    assert names == ["camera0_defects_bird_0.jpg", "camera0_fill_red-apple_0.jpg", "camera0_red-apple_0.jpg"]
    with Image.open(next(tmp_path.glob("*defects*"))) as image:
        assert json.loads(image.info["comment"])["task"] == "defects"
    again = SnapshotSink(tmp_path, 1, 1)  # it knows them for its own
    again.write(make_result(task="fill", frame=7))
    assert [file.name.partition("_")[2] for file in tmp_path.iterdir()] == ["camera0_fill_red-apple_7.jpg"]


def test_a_recording_shows_its_task(tmp_path: Path) -> None:
    pytest.importorskip("av")
    sink = VideoSink(tmp_path / "{source}-{task}.mp4", tasks=True)
    for frame in range(3):
        for task in TASKS:
            sink.write(make_result(frame=frame, task=task))
    sink.source_ended("camera0")
    sink.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["camera0-defects.mp4", "camera0-fill.mp4"]
    wide = np.full((240, 640, 3), 90, np.uint8)
    images = [annotate(make_result(image=wide, task=task)) for task in (*TASKS, None)]
    assert len({image.tobytes() for image in images}) == 3


def test_metrics_have_a_label_for_tasks_where_there_are_some() -> None:
    with_tasks, without = MetricsSink(FakeControl(tasks=TASKS)), MetricsSink(FakeControl())
    for result in (DEFECTS, FILL, FILL, PLAIN):
        with_tasks.write(result)
    without.write(PLAIN)
    found, plain = (metrics.render()[0].decode().splitlines() for metrics in (with_tasks, without))
    assert 'attri_results_total{label="bird",source="camera0",task="defects"} 1.0' in found
    assert 'attri_results_total{label="red apple",source="camera0",task="fill"} 2.0' in found
    assert 'attri_events_total{label="bird",source="camera0",task="defects"} 1.0' in found
    assert 'attri_score{source="camera0",task="fill"} 0.75' in found
    assert 'attri_score{source="camera0",task=""} 0.75' in found  # of a source without tasks beside others
    assert 'attri_source_frames_total{source="camera0"} 120.0' in found
    assert not [line for line in plain if "task=" in line]
    assert 'attri_results_total{label="red apple",source="camera0"} 1.0' in plain


def health(source: str, *tasks: str) -> SourceHealth:
    state: SourceState = "live"
    return SourceHealth(source, state, "", 0, 0, 0, 0.0, None, 0, tasks)


def test_every_source_and_task_has_a_topic_of_its_own() -> None:
    sources = [health("door", *TASKS), health("hall"), health("a/b", "état")]
    topics = source_topics("attri/pi", [each.source for each in sources])
    assert event_topics(topics, sources) == {
        ResultKey("door", "defects"): "attri/pi/door/defects",
        ResultKey("door", "fill"): "attri/pi/door/fill",
        ResultKey("hall"): "attri/pi/hall",
        ResultKey("a/b", "état"): "attri/pi/a-b/état",
    }


def test_sensors_of_tasks_are_told_apart_and_share_the_state_of_the_source() -> None:
    found = [
        sensors("homeassistant", "attri/pi", f"door {task}", f"attri/pi/door/{task}", "attri/pi/door/state")
        for task in TASKS
    ]
    assert not found[0].keys() & found[1].keys()
    configs = [config for each in found for config in each.values()]
    assert len({config["unique_id"] for config in configs}) == 4
    assert {config["name"] for config in configs} == {
        "door defects",
        "door defects score",
        "door fill",
        "door fill score",
    }
    assert {config["availability"][1]["topic"] for config in configs} == {"attri/pi/door/state"}
    assert {config["state_topic"] for config in configs} == {f"attri/pi/door/{task}" for task in TASKS}
