"""MQTT against a real Mosquitto, which is killed, comes back, asks for passwords and shows certificates."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
from paho.mqtt.client import Client
from support.peers import PREFIX, Listener, Mosquitto, Relay, real, wait_for
from support.results import FakeControl, make_result

from attri.runtime.capture.base import SourceState
from attri.runtime.deliver.mqtt.broker import Broker
from attri.runtime.deliver.mqtt.home_assistant import sensors
from attri.runtime.deliver.mqtt.sink import MqttSink
from attri.runtime.deliver.mqtt.topics import source_topics
from attri.runtime.deliver.spool import Spool, spool_path

TESTS = Path(__file__).parents[2]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    opened: list[Listener] = []
    yield lambda *args, **kwargs: opened.append(Listener(*args, **kwargs)) or opened[-1]
    for listener in opened:
        listener.close()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., MqttSink]]:
    opened: list[MqttSink] = []

    def connect(broker: Broker | int, *sources: str, **options: Any) -> MqttSink:
        target = Broker("127.0.0.1", broker) if isinstance(broker, int) else broker
        spool = tmp_path / "spool.sqlite"
        opened.append(MqttSink(target, PREFIX, lambda: Spool(spool), FakeControl(*sources), **options))
        return opened[-1]

    yield connect
    for sink in opened:
        sink.close()


@real
def test_what_a_subscriber_sees(broker, connect, listen) -> None:
    listener = listen(broker.port)
    sink = connect(broker.port, "camera0", "rtsp://***@host/b", discovery="homeassistant")
    for frame in (0, 2, 3):
        sink.write(make_result("camera0", frame, label="かりんご", changed=True))
    sink.write(make_result("rtsp://***@host/b", 7, label=None, changed=True))
    wait_for(lambda: len(listener.frames()) == 3 and listener.frames("rtsp-host-b") == [7])
    assert listener.frames() == [0, 2, 3]
    first = json.loads(listener.of(f"{PREFIX}/camera0")[0])
    assert (first["label"], first["score"], first["source"]) == ("かりんご", 0.75, "camera0")
    assert listener.of(f"{PREFIX}/status") == [b"online"]
    wait_for(lambda: listener.of(f"{PREFIX}/camera0/state") == [b"live"])

    late = listen(broker.port)  # what is retained
    wait_for(lambda: len(late.messages) == 9)
    assert all(retained for *_, retained in late.messages)
    assert late.frames() == [3]
    configs = {topic: json.loads(payload) for topic, payload, _ in late.messages if "/config" in topic}
    assert len(configs) == 4
    for topic, config in configs.items():
        assert topic.split("/")[:2] == ["homeassistant", "sensor"]
        assert all(char.isascii() and (char.isalnum() or char in "_-") for char in topic.split("/")[2])
        assert late.of(config["state_topic"])
        assert [late.of(each["topic"])[0].decode() for each in config["availability"]] == ["online", "live"]
    assert len({config["unique_id"] for config in configs.values()}) == 4

    sink.close()
    wait_for(lambda: listener.of(f"{PREFIX}/status") == [b"online", b"offline"])


@real
def test_the_broker_is_killed_and_comes_back(connect, listen, tmp_path: Path, caplog, monkeypatch) -> None:
    keep = f"persistence true|persistence_location {tmp_path}/|autosave_on_changes true|autosave_interval 1|user root"
    broker = Mosquitto(tmp_path, *keep.split("|"))
    listener = listen(broker.port, name="listener")
    on_connect: Any = Client.on_connect

    def slowly(client: Client, callback: Callable[..., None]) -> None:
        def call(*args: object) -> None:  # time for newer events to overtake those that were on their way
            callback(*args)
            time.sleep(0.3)

        on_connect.fset(client, call)

    monkeypatch.setattr(Client, "on_connect", property(on_connect.fget, slowly))
    sink = connect(broker.port)
    for frame in range(30):
        sink.write(make_result(frame=frame, changed=True))
        if frame == 5:
            wait_for(lambda: len(listener.frames()) == 6)
            broker.process.send_signal(signal.SIGSTOP)  # what comes now is sent, and never taken
        if frame == 9:
            wait_for(lambda: sink.in_flight == 4)
            broker.kill()
    assert sink.pending >= 20
    broker.start()
    wait_for(lambda: len(listener.frames()) == 30 and sink.pending == 0)
    assert listener.frames() == list(range(30))
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len([line for line in warnings if "events are kept on the disk" in line]) == 1
    broker.kill()


@real
def test_a_backlog_larger_than_the_window_keeps_its_order(broker, connect, listen) -> None:
    broker.kill()
    sink = connect(broker.port)
    for frame in range(300):
        sink.write(make_result(frame=frame, changed=True))
    sink.close()  # a run that ends while the broker is away
    broker.start()
    listener, again = listen(broker.port), connect(broker.port)
    wait_for(lambda: again.pending == 0 and len(listener.frames()) == 300)
    assert listener.frames() == list(range(300))


@real
def test_a_run_that_dies_is_offline_and_loses_nothing(broker, listen, tmp_path: Path) -> None:
    listener, spool = listen(broker.port), tmp_path / "spool.sqlite"
    code = f"""
import sys, time; sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from support.peers import PREFIX, Listener, Mosquitto, real, wait_for
from support.results import FakeControl, file_size_limit, make_result
from attri.runtime.deliver.mqtt.broker import Broker
from attri.runtime.deliver.mqtt.sink import MqttSink
from attri.runtime.deliver.spool import Spool
sink = MqttSink(Broker("127.0.0.1", {broker.port}), {PREFIX!r}, lambda: Spool(Path({str(spool)!r})), FakeControl())
for line in sys.stdin:
    sink.write(make_result(frame=int(line), changed=True))
    print(line, flush=True)"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        run.stdin.write("0\n")
        wait_for(lambda: listener.frames() == [0])
        broker.process.send_signal(signal.SIGSTOP)  # it takes nothing more, and nobody knows yet
        run.stdin.write("1\n2\n")
        assert [run.stdout.readline().strip() for _ in range(5)][::2] == ["0", "1", "2"]
        run.kill()
        broker.process.send_signal(signal.SIGCONT)
    wait_for(lambda: listener.of(f"{PREFIX}/status") == [b"online", b"offline"])
    sink = MqttSink(Broker("127.0.0.1", broker.port), PREFIX, lambda: Spool(spool), FakeControl())
    wait_for(lambda: sink.pending == 0)
    sink.close()
    assert listener.frames() == [0, 1, 2]


@real
def test_a_wrong_password_is_said_once(connect, listen, tmp_path: Path, caplog) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "ann", "s3cret"], check=True)
    passwords.chmod(0o644)
    broker = Mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}", "user root")
    try:
        target = Broker.parse(f"mqtt://ann@127.0.0.1:{broker.port}", "wr0ng")
        sink = connect(target)
        wait_for(lambda: "refuses: Not authorized" in caplog.text)
        sink.write(make_result(changed=True))
        sink.close()
        sink = connect(Broker.parse(f"mqtt://ann@127.0.0.1:{broker.port}", "s3cret"))
        listener = listen(broker.port, user=("ann", "s3cret"))
        wait_for(lambda: listener.frames() == [0])
        assert not any(word in caplog.text for word in ("wr0ng", "s3cret"))
    finally:
        broker.kill()


@real
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho leaves closing to the collector
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls(connect, listen, tmp_path: Path, caplog) -> None:
    subject = ["-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2", "-subj"]
    for name in ("broker", "other"):
        out = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")]
        names = ["-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run(
            ["openssl", "req", "-x509", *subject, f"/CN={name}", *names, *out], check=True, capture_output=True
        )
    files = f"cafile {tmp_path}/broker.pem", f"certfile {tmp_path}/broker.pem", f"keyfile {tmp_path}/broker.key"
    broker = Mosquitto(tmp_path, *files, "user root")
    try:
        url = f"mqtts://127.0.0.1:{broker.port}"
        sink = connect(Broker.parse(url, ca=tmp_path / "other.pem"))
        sink.write(make_result(frame=5, changed=True))
        wait_for(lambda: "cannot be reached" in caplog.text)
        assert sink.pending == 1
        sink.close()
        connect(Broker.parse(url, ca=tmp_path / "broker.pem"))
        listener = listen(broker.port, ca=tmp_path / "broker.pem")
        wait_for(lambda: listener.frames() == [5])
    finally:
        broker.kill()


def test_names_that_fall_together_stay_apart() -> None:
    names = ["a/b", "a?b", "status", "b", "b-" + sha("b?")[:6], "b?"]
    topics = source_topics(PREFIX, names)
    assert topics["a/b"] == f"{PREFIX}/a-b"
    assert len(set(topics.values())) == len(names)
    assert f"{PREFIX}/status" not in topics.values()


def test_topics_do_not_depend_on_who_comes_first(connect, tmp_path: Path) -> None:
    """They are retained: the next run has to write over what this one wrote."""
    names, found = ("cam 1", "cam-1", "cam_1"), []
    for order in (names, names[::-1]):
        sink = connect(1, *names)
        for source in order:
            sink.write(make_result(source, changed=True))
        sink.close()
        spool = Spool(tmp_path / "spool.sqlite")
        found.append({json.loads(message.body)["source"]: message.topic for message in spool.after(0, 9)})
        spool.done(99)
        spool.close()
    assert found[0] == found[1] == source_topics(PREFIX, names)


class HomeAssistant:
    """Its rule of availability (MqttAvailabilityMixin), written down from its source: each topic starts out as not
    available, a rendered payload that is neither of the two words changes nothing, and mode "all" wants all topics."""

    def __init__(self, config: dict[str, Any]) -> None:
        assert config["availability_mode"] == "all"
        self.rules = {each["topic"]: each for each in config["availability"]}
        self.available = dict.fromkeys(self.rules, False)

    def hear(self, topic: str, payload: str) -> None:
        rule = self.rules[topic]
        if "value_template" in rule:
            payload = jinja2.Template(rule["value_template"]).render(value=payload)
        if payload == rule.get("payload_available", "online"):
            self.available[topic] = True
        elif payload == rule.get("payload_not_available", "offline"):
            self.available[topic] = False

    def is_available(self) -> bool:
        return all(self.available.values())


@pytest.mark.parametrize("state", ["opening", "retrying", "frozen", "dead", "ended", "live"])
def test_home_assistant_sees_what_became_of_a_source(state: str) -> None:
    for config in sensors("homeassistant", PREFIX, "door", f"{PREFIX}/door", f"{PREFIX}/door/state").values():
        home = HomeAssistant(config)
        home.hear(f"{PREFIX}/status", "online")
        assert not home.is_available()
        for before in ("live", state):
            home.hear(f"{PREFIX}/door/state", before)
        assert home.is_available() == (state == "live")
        home.hear(f"{PREFIX}/door/state", "live")
        assert home.is_available()
        home.hear(f"{PREFIX}/status", "offline")
        assert not home.is_available()


def retained(listen: Callable[..., Listener], port: int) -> dict[str, bytes]:
    """What the broker holds now: it comes before whatever is published after the subscription."""
    listener = listen(port)

    def heard() -> bool:
        listener.client.publish("marker", b"", 1)
        return bool(listener.of("marker"))

    wait_for(heard)
    return {topic: payload for topic, payload, held in list(listener.messages) if held}


@real
def test_what_is_no_longer_there_is_cleared(broker, connect, listen) -> None:
    others = listen(broker.port)
    others.client.publish("homeassistant/sensor/somebody/config", b"{}", 1, True)
    others.client.publish(f"{PREFIX}/by/hand", b"x", 1, True)
    others.client.publish(f"{PREFIX}2/camera1", b"x", 1, True)
    first = connect(broker.port, "camera0", "camera1", discovery="homeassistant")
    for source in ("camera0", "camera1"):
        first.write(make_result(source, 1, changed=True))
    wait_for(lambda: others.frames("camera1") == [1] and others.of(f"{PREFIX}/camera1/state") == [b"live"])
    first.close()
    before = retained(listen, broker.port)

    second = connect(broker.port, "camera0", discovery="homeassistant")  # camera1 was removed
    wait_for(lambda: others.of(f"{PREFIX}/camera1")[-1] == others.of(f"{PREFIX}/camera1/state")[-1] == b"")
    wait_for(lambda: others.of(f"{PREFIX}/camera0/state")[-1] == b"live")
    second.close()
    after = retained(listen, broker.port)
    gone = set(before) - set(after)
    assert {topic.removeprefix(PREFIX) for topic in gone if topic.startswith(PREFIX)} == {"/camera1", "/camera1/state"}
    assert len(gone) == 4  # and two sensors
    assert {"homeassistant/sensor/somebody/config", f"{PREFIX}/by/hand", f"{PREFIX}2/camera1"} <= set(after)
    assert after[f"{PREFIX}/camera0"] == before[f"{PREFIX}/camera0"]

    cleared = len(others.of(f"{PREFIX}/camera1"))
    third = connect(broker.port, "camera0")  # Home Assistant is no longer wanted
    wait_for(lambda: others.of(f"{PREFIX}/camera0/state")[-1] == b"live")
    third.close()
    assert not [topic for topic in retained(listen, broker.port) if "camera0_" in topic]
    assert len(others.of(f"{PREFIX}/camera1")) == cleared  # once is enough


@real
def test_what_is_gone_is_cleared_when_the_broker_comes_back(broker, connect, listen) -> None:
    first = connect(broker.port, "camera0", "camera1")
    first.write(make_result("camera1", 1, changed=True))
    listener = listen(broker.port)
    wait_for(lambda: listener.frames("camera1") == [1])
    broker.process.send_signal(signal.SIGSTOP)
    first.write(make_result("camera1", 2, changed=True))  # waits, and its source is gone before it is delivered
    first.close()
    second = connect(broker.port, "camera0")
    second.close()  # a run that never reached the broker
    broker.process.send_signal(signal.SIGCONT)
    connect(broker.port, "camera0").write(make_result("camera0", 3, changed=True))
    wait_for(lambda: listener.frames("camera0") == [3])
    assert [json.loads(event)["frame"] for event in listener.of(f"{PREFIX}/camera1") if event][-1] == 2
    held = retained(listen, broker.port)
    assert f"{PREFIX}/camera1" not in held
    assert f"{PREFIX}/camera1/state" not in held


@real
def test_two_with_their_own_prefixes_leave_each_other_alone(broker, listen, tmp_path: Path) -> None:
    def run(prefix: str, *sources: str) -> MqttSink:
        path = spool_path(tmp_path, "mqtt", f"mqtt://127.0.0.1:{broker.port}/{prefix}")
        target = Broker("127.0.0.1", broker.port)
        return MqttSink(target, prefix, lambda: Spool(path), FakeControl(*sources), "homeassistant")

    listener = listen(broker.port)

    def is_live(topic: str) -> bool:
        return listener.of(topic)[-1:] == [b"live"]

    for left, right in (("camera0", "camera1"), ("camera1", "camera0")):
        sinks = [run("attri/a", left), run("attri/b", right)]
        for name, source in (("a", left), ("b", right)):
            wait_for(functools.partial(is_live, f"attri/{name}/{source}/state"))
        held = retained(listen, broker.port)
        for sink in sinks:
            sink.close()
    states = {topic: payload for topic, payload in held.items() if topic.endswith("/state")}
    assert states == {"attri/a/camera1/state": b"live", "attri/b/camera0/state": b"live"}
    assert len([topic for topic in held if topic.endswith("/config")]) == 4


@real
@pytest.mark.parametrize(("state", "last"), [("ended", b"ended"), ("opening", b"ended"), ("dead", b"dead")])
def test_the_last_state_of_a_source_stays(state: SourceState, last: bytes, broker, listen, tmp_path: Path) -> None:
    control = FakeControl("clip.mp4", state="opening")
    sink = MqttSink(Broker("127.0.0.1", broker.port), PREFIX, lambda: Spool(tmp_path / "s"), control)
    listener = listen(broker.port)
    wait_for(lambda: listener.of(f"{PREFIX}/clip.mp4/state") == [b"opening"])
    control.states["clip.mp4"] = state  # and at once the end, as of a short clip
    sink.close()
    held = retained(listen, broker.port)
    assert (held[f"{PREFIX}/clip.mp4/state"], held[f"{PREFIX}/status"]) == (last, b"offline")


@real
def test_no_online_after_the_end(broker, listen, tmp_path: Path) -> None:
    """The connection was lost, is there again, and what was on its way is acknowledged in the very last moment."""
    relay = Relay(broker.port, lambda packet: packet[0] >> 4 == 3 and packet.endswith(b"offline"))
    watcher = listen(broker.port)
    sink = MqttSink(Broker("127.0.0.1", relay.port), PREFIX, lambda: Spool(tmp_path / "s"), FakeControl())
    wait_for(lambda: watcher.of(f"{PREFIX}/camera0/state") == [b"live"])
    relay.held.set()
    for frame in range(3):
        sink.write(make_result(frame=frame, changed=True))
    wait_for(lambda: relay.waiting() >= 3)  # more, where the broker is late with that of a state
    relay.cut()
    wait_for(lambda: relay.waiting() >= 3)  # paho has connected again and sent them anew
    sink.close()
    relay.close()
    wait_for(lambda: watcher.of(f"{PREFIX}/status")[-1] == b"offline")
    assert retained(listen, broker.port)[f"{PREFIX}/status"] == b"offline"


@real
def test_offline_when_the_last_events_are_not_acknowledged(broker, listen, tmp_path: Path) -> None:
    """The farewell has no room among what is on its way, so the last will has to say it."""
    relay, watcher = Relay(broker.port, lambda packet: False), listen(broker.port)
    sink = MqttSink(Broker("127.0.0.1", relay.port), PREFIX, lambda: Spool(tmp_path / "s"), FakeControl())
    wait_for(lambda: watcher.of(f"{PREFIX}/camera0/state") == [b"live"])
    relay.held.set()
    for frame in range(40):
        sink.write(make_result(frame=frame, changed=True))
    wait_for(lambda: relay.waiting() >= 20)
    sink.close()
    relay.close()
    wait_for(lambda: watcher.of(f"{PREFIX}/status")[-1] == b"offline")


@real
def test_an_event_whose_topic_was_damaged_holds_nothing_up(broker, connect, listen, tmp_path: Path, caplog) -> None:
    sink = connect(1)
    for frame in range(4):
        sink.write(make_result(frame=frame, changed=True))
    sink.close()
    base = sqlite3.connect(tmp_path / "spool.sqlite")
    with base:
        for number, topic in enumerate((b"attri/line2/#", b"\xff\xfe", None), 1):
            base.execute("UPDATE messages SET topic = ? WHERE id = ?", (topic, number))
        base.execute("INSERT INTO retained VALUES (?), (?)", ("somebody/else", f"{PREFIX}/+"))
    base.close()
    listener, again = listen(broker.port), connect(broker.port)
    wait_for(lambda: listener.frames() == [3])
    again.close()
    assert "is damaged" in caplog.text
    assert not listener.of("somebody/else")
    spool = Spool(tmp_path / "spool.sqlite")
    assert len(spool) == 0
    spool.close()


def test_images_of_a_folder_share_a_topic(connect, tmp_path: Path) -> None:
    """Each is retained: a watched folder would leave a million of them with the broker."""
    sink = connect(1, "inbox")
    for number in range(3):
        sink.write(make_result(f"inbox/{number}.jpg", origin="inbox", changed=True))
    sink.close()
    spool = Spool(tmp_path / "spool.sqlite")
    waiting = spool.after(0, 9)
    spool.close()
    assert {message.topic for message in waiting} == {f"{PREFIX}/inbox"}
    assert [json.loads(message.body)["source"] for message in waiting] == [f"inbox/{n}.jpg" for n in range(3)]


def test_a_broker_that_is_away_is_complained_of_once(connect, caplog, monkeypatch) -> None:
    attempts: list[object] = []

    def refuse(address: object, **_: object) -> None:
        attempts.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("attri.runtime.deliver.mqtt.sink.RECONNECT", (0.01, 0.01))
    connect(1)
    wait_for(lambda: len(attempts) > 3)
    assert caplog.text.count("cannot be reached") == 1
    assert "events are kept on the disk" in caplog.text


def test_closing_waits_for_nobody(connect) -> None:
    sink = connect(1)  # a port where nobody is
    sink.write(make_result(changed=True))
    start = time.monotonic()
    sink.close()
    assert time.monotonic() - start < 5


@real
def test_a_connection_that_breaks_off_at_the_end(broker, connect, listen, tmp_path: Path) -> None:
    listener, sink = listen(broker.port), connect(broker.port)
    wait_for(lambda: listener.of(f"{PREFIX}/camera0/state") == [b"live"])
    broker.kill()
    sink.close()
    Spool(tmp_path / "spool.sqlite").close()  # nobody holds it any more
