"""Tasks by MQTT, with a real Mosquitto: topics, sensors, and what is cleared when tasks come and go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.peers import PREFIX, Listener, Mosquitto, real, wait_for
from support.results import FakeControl, make_result

from attri.runtime.deliver.mqtt.broker import Broker
from attri.runtime.deliver.mqtt.sink import MqttSink
from attri.runtime.deliver.spool import Spool

TASKS = ("defects", "fill")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


def connect(broker: Mosquitto, folder: Path, tasks: tuple[str, ...]) -> MqttSink:
    control, target = FakeControl("gate", "yard", tasks=tasks), Broker("127.0.0.1", broker.port)
    return MqttSink(target, PREFIX, lambda: Spool(folder / "spool.sqlite"), control, "homeassistant")


def publish(sink: MqttSink, tasks: tuple[str, ...]) -> None:
    for task in tasks or (None,):
        sink.write(make_result("gate", task=task, changed=True))
    wait_for(lambda: sink.pending == 0)
    sink.close()


@real
def test_sources_come_and_go_with_their_topics_and_sensors(broker: Mosquitto, tmp_path: Path) -> None:
    """Of one that goes nothing stays with the broker; those that stay keep their topics; one on its way is not kept."""
    control = FakeControl("gate", "yard")
    spool, listener = tmp_path / "spool.sqlite", Listener(broker.port)
    sink = MqttSink(Broker("127.0.0.1", broker.port), PREFIX, lambda: Spool(spool), control, "homeassistant")
    sink.write(make_result("gate", changed=True))
    wait_for(lambda: listener.of(f"{PREFIX}/gate") and listener.of(f"{PREFIX}/yard/state"))
    control.change_sources({"hall": {"uri": "camera2"}})
    sink.write(make_result("hall", 3, changed=True))  # maybe before anybody has looked which sources there are
    wait_for(lambda: listener.frames("hall") == [3] and listener.of(f"{PREFIX}/hall/state") == [b"live"])
    wait_for(
        lambda: len([topic for topic, payload, _ in listener.messages if "hall" in topic and b"hall" in payload]) == 3
    )
    control.change_sources({"gate": None})
    sink.write(make_result("gate", 9, changed=True))  # was on its way
    wait_for(lambda: listener.of(f"{PREFIX}/gate/state")[-1] == b"")
    wait_for(
        lambda: (
            len([topic for topic, payload, _ in listener.messages if topic.endswith("/config") and not payload]) == 2
        )
    )
    wait_for(lambda: sink.pending == 0)
    late = Listener(broker.port)  # what is retained: status; state, 2 sensors of yard and hall; an event of hall
    wait_for(lambda: len(late.messages) == 8)
    assert not [topic for topic, _, _ in late.messages if "gate" in topic]
    control.change_sources({"gate": {"uri": "camera0"}})
    wait_for(lambda: late.of(f"{PREFIX}/gate/state") == [b"live"])
    sink.close()
    for each in (listener, late):
        each.close()


@real
def test_each_task_has_a_topic_and_sensors(broker: Mosquitto, tmp_path: Path) -> None:
    listener = Listener(broker.port)
    sink = connect(broker, tmp_path, TASKS)
    for frame, (task, label) in enumerate((("defects", "bird"), ("fill", "red apple"), ("fill", None))):
        sink.write(make_result("gate", frame, task=task, label=label, changed=True))
    wait_for(lambda: len(listener.of(f"{PREFIX}/gate/fill")) == 2 and listener.of(f"{PREFIX}/yard/state") == [b"live"])
    event = json.loads(listener.of(f"{PREFIX}/gate/defects")[0])
    assert (event["task"], event["label"], event["source"]) == ("defects", "bird", "gate")
    assert [json.loads(body)["label"] for body in listener.of(f"{PREFIX}/gate/fill")] == ["red apple", None]
    assert listener.of(f"{PREFIX}/gate") == []
    assert listener.of(f"{PREFIX}/gate/state") == [b"live"]

    late = Listener(broker.port)  # what is retained: status, 2 events, 2 states, 8 sensors
    wait_for(lambda: len(late.messages) == 13)
    configs = [json.loads(payload) for topic, payload, _ in late.messages if topic.endswith("/config")]
    assert len({config["unique_id"] for config in configs}) == 8
    assert {config["name"] for config in configs} >= {"gate defects", "gate fill score", "yard fill"}
    assert {config["state_topic"] for config in configs} == {
        f"{PREFIX}/{s}/{t}" for s in ("gate", "yard") for t in TASKS
    }
    for config in configs:
        assert late.of(config["availability"][1]["topic"]) == [b"live"]
    sink.close()
    listener.close()
    late.close()


@real
@pytest.mark.parametrize("second", [("fill",), ()])
def test_topics_of_tasks_that_are_gone_are_cleared(broker: Mosquitto, tmp_path: Path, second: tuple[str, ...]) -> None:
    for tasks in (TASKS, second):
        publish(connect(broker, tmp_path, tasks), tasks)
    late = Listener(broker.port)
    events = {f"{PREFIX}/gate/{task}" if task else f"{PREFIX}/gate" for task in second or (None,)}
    states = {f"{PREFIX}/{name}" for name in ("status", "gate/state", "yard/state")}
    wait_for(lambda: len(late.messages) == len(events | states) + 4 * max(1, len(second)))
    assert {topic for topic, *_ in late.messages if not topic.endswith("/config")} == events | states
    late.close()
