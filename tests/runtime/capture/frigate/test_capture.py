"""A pipeline between a stand-in for Frigate and a real Mosquitto: objects in, sub labels out, whatever breaks."""

from __future__ import annotations

import functools
import logging
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.fakes import FakeSink
from support.frigate import Frigate
from support.peers import Mosquitto, free_port, real, wait_for

from attri.runtime import Classifier
from attri.runtime.capture.frigate import api
from attri.runtime.capture.frigate.address import FrigateAddress
from attri.runtime.capture.frigate.api import FrigateApi
from attri.runtime.capture.frigate.session import FrigateSession
from attri.runtime.capture.open import open_source
from attri.runtime.capture.parse import find_source
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.decide.schedule import Schedule
from attri.runtime.decide.smoothing import DecisionRule
from attri.runtime.deliver.frigate import FrigateSink
from attri.runtime.deliver.mqtt.broker import Broker
from attri.runtime.errors import FailedError
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.pipeline.pipeline import Pipeline
from attri.runtime.pipeline.task import TaskSetup

pytestmark = real
LABELS = ["red apple", "bird", "a small house"]


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> Iterator[Classifier]:
    with Classifier.load(bundle, LABELS, threads=1) as classifier:
        yield classifier


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def frigate(broker: Mosquitto) -> Iterator[Frigate]:
    frigate = Frigate(broker.port)
    yield frigate
    frigate.close()


class Running:
    """A pipeline of one source in a thread, with the sink that answers, and one that keeps results."""

    def __init__(self, classifier: Classifier, uri: str, broker: Broker, rule: DecisionRule, **policy: Any) -> None:
        self.sink = FakeSink(takes="every_frame")
        policy = {"initial_delay": 0.05, "max_delay": 0.1} | policy
        self.pipeline = Pipeline(
            [find_source(uri)],
            [[TaskSetup(LiveLabels(classifier.fork(), None), rule)]],
            Schedule(),
            RetryPolicy(**policy),
            2,
            opener=functools.partial(open_source, broker=broker),
        )
        self.good: bool | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.good = self.pipeline.run([FrigateSink(), self.sink])

    @property
    def state(self) -> str:
        return self.pipeline.health()[0].state

    def stop(self) -> bool | None:
        self.pipeline.stop()
        self.thread.join()
        return self.good


@pytest.fixture
def run(classifier: Classifier) -> Iterator[Any]:
    opened: list[Running] = []

    def run(
        frigate: Frigate,
        query: str = "",
        broker: Broker | None = None,
        rule: DecisionRule | None = None,
        login: str = "",
        **policy: Any,
    ) -> Running:
        uri, broker = f"frigate://{login}127.0.0.1:{frigate.port}{query}", broker or Broker("127.0.0.1", frigate.broker)
        opened.append(Running(classifier, uri, broker, rule or DecisionRule(), **policy))
        wait_for(lambda: opened[-1].state != "opening")
        return opened[-1]

    yield run
    for each in opened:
        each.stop()


def api_of(port: int, stop: threading.Event | None = None) -> FrigateApi:
    session = FrigateSession(FrigateAddress.parse(f"frigate://127.0.0.1:{port}"))
    return FrigateApi(session, stop or threading.Event())


def test_what_frigate_detects_gets_a_sub_label(
    frigate: Frigate, run: Any, classifier: Classifier, image_files: list[Path]
) -> None:
    """Of each object that is meant, once for each snapshot, by its crop and without the box that Frigate draws."""
    running = run(frigate, "?camera=front_door,yard&object=person")
    frigate.publish(b"no message")
    first = frigate.appears(Image.open(image_files[0]))
    frigate.appears(Image.open(image_files[1]), camera="street")
    frigate.appears(Image.open(image_files[1]), label="dog")
    second = frigate.appears(Image.open(image_files[2]), camera="yard")
    wait_for(lambda: len(frigate.posts) == 2)
    frigate.moves(first)
    frigate.improves(first, Image.open(image_files[3]))
    wait_for(lambda: len(frigate.posts) == 3)
    frigate.leaves(first)
    last = frigate.appears(Image.open(image_files[4]))
    wait_for(lambda: len(frigate.posts) == 4)
    assert [event for event, _ in frigate.posts] == [first, second, first, last]
    crops = [Image.open(image_files[i]).convert("RGB").resize((160, 160)) for i in (0, 2, 3, 4)]
    for (_, body), wanted in zip(frigate.posts, classifier(crops), strict=True):
        assert body["subLabel"] == wanted.label
        # What JPEG at quality 95 makes of a drawing; the crop with a box on it, or the frame, is 0.1 away and more.
        assert body["subLabelScore"] == pytest.approx(wanted.score, abs=0.03)
    name = f"frigate://127.0.0.1:{frigate.port}/front_door/{first}"
    assert running.sink.results[0].source == name
    assert {result.origin for result in running.sink.results} == {running.pipeline.health()[0].source}
    assert running.stop() is True


def test_an_object_that_is_gone_before_it_was_seen_is_classified_by_its_thumbnail(
    frigate: Frigate, run: Any, image_files: list[Path]
) -> None:
    event = frigate.appears(Image.open(image_files[0]))
    run(frigate)
    frigate.leaves(event)
    wait_for(lambda: frigate.posts)
    assert frigate.asked == [f"/api/events/{event}/thumbnail.jpg", f"/api/events/{event}/sub_label"]


def test_an_object_that_is_none_of_the_labels_gets_none(frigate: Frigate, run: Any, image_files: list[Path]) -> None:
    running = run(frigate, rule=DecisionRule(threshold=1.0))
    frigate.appears(Image.open(image_files[0]))
    wait_for(lambda: running.sink.results)
    assert running.stop() is True
    assert frigate.posts == []


def test_an_object_that_frigate_has_forgotten_is_left_out(frigate: Frigate, run: Any, image_files: list[Path]) -> None:
    running = run(frigate)
    frigate.fails = [404, 404]
    frigate.appears(Image.open(image_files[0]))
    event = frigate.appears(Image.open(image_files[1]))
    wait_for(lambda: frigate.posts)
    assert [each for each, _ in frigate.posts] == [event]
    assert running.stop() is True


def test_an_answer_that_fails_is_asked_for_again(
    frigate: Frigate,
    run: Any,
    image_files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(api, "PAUSES", (0.01, 0.02))
    running = run(frigate)
    frigate.fails = [503, 500]
    first = frigate.appears(Image.open(image_files[0]))
    wait_for(lambda: len(frigate.posts) == 1)
    frigate.fails = [503] * 4  # as often as it is asked: this object is lost, and said to be
    second = frigate.appears(Image.open(image_files[1]))
    wait_for(lambda: not frigate.fails)
    third = frigate.appears(Image.open(image_files[2]))
    wait_for(lambda: len(frigate.posts) == 2)
    assert [event for event, _ in frigate.posts] == [first, third]
    (error,) = [message for message in caplog.messages if message.startswith("error")]
    assert second in error
    assert "does not answer: status 503" in error
    assert running.stop() is False


def test_a_broker_that_comes_back(
    frigate: Frigate, broker: Mosquitto, run: Any, image_files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """More often than the retries in a row: the connection is a sign of life, though no object was seen."""
    caplog.set_level(logging.WARNING, "attri")
    running = run(frigate, max_retries=100)
    for _ in range(2):
        broker.kill()
        wait_for(lambda: running.state == "retrying")
        broker.start()
        wait_for(lambda: running.state == "live")
    wait_for(frigate.client.is_connected)
    frigate.appears(Image.open(image_files[0]))
    wait_for(lambda: frigate.posts)
    assert running.stop() is True
    assert all(f"mqtt://127.0.0.1:{broker.port}" in message for message in caplog.messages)


def test_a_broker_that_is_not_there_is_given_up(frigate: Frigate, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    running = run(frigate, broker=Broker("127.0.0.1", free_port()))
    running.thread.join(20)
    assert running.good is False
    assert running.pipeline.health()[0].state == "dead"
    assert "cannot be reached" in caplog.text
    assert "given up after 2 retries" in caplog.text


def test_a_broker_that_refuses_the_password(
    tmp_path: Path, frigate: Frigate, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "ann", "s3cret"], check=True)
    passwords.chmod(0o644)
    (tmp_path / "other").mkdir()
    guarded = Mosquitto(tmp_path / "other", "allow_anonymous false", f"password_file {passwords}", "user root")
    try:
        running = run(frigate, broker=Broker("127.0.0.1", guarded.port, user="ann", password="wr0ng"))
        running.thread.join(20)
    finally:
        guarded.kill()
    assert running.good is False
    assert "refuses" in caplog.text
    assert "trying again" not in caplog.text
    assert "wr0ng" not in caplog.text


def test_sub_labels_are_as_the_api_takes_them(frigate: Frigate, image_files: list[Path]) -> None:
    event = frigate.appears(Image.open(image_files[0]))
    requests = api_of(frigate.port)
    assert requests.set_sub_label(event, "x" * 200, 0.0)
    assert frigate.posts == [(event, {"subLabel": "x" * 100, "subLabelScore": 0.0001})]
    assert not requests.set_sub_label("1.0-gone", "x", 1.0)
    for status, words in ((401, "write USER:PASSWORD@ before the host"), (422, "refuses sub_label: status 422")):
        frigate.fails = [status]
        with pytest.raises(FailedError, match=words):
            requests.set_sub_label(event, "x", 1.0)


@pytest.fixture
def guarded(broker: Mosquitto, tmp_path: Path) -> Iterator[Frigate]:
    """One that asks for a login, with TLS and the certificate that it makes itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    file = tmp_path / "frigate.pem"
    subject = ["-subj", "/O=FRIGATE DEFAULT CERT/CN=*"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, "-keyout", file, "-out", f"{file}.crt"],
        check=True,
        capture_output=True,
    )
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    users = {"ann": ("s3cret@/", "admin"), "guest": ("gu3st", "viewer")}
    frigate = Frigate(broker.port, users=users, certificate=str(file))
    yield frigate
    frigate.close()


def test_a_frigate_that_asks_for_a_login(
    guarded: Frigate, run: Any, image_files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    running = run(guarded, f"?certificate={guarded.certificate}", login="ann:s3cret%40%2F@")
    first = guarded.appears(Image.open(image_files[0]))
    wait_for(lambda: len(guarded.posts) == 1)
    guarded.tokens.clear()  # the session has expired
    second = guarded.appears(Image.open(image_files[1]))
    wait_for(lambda: len(guarded.posts) == 2)
    assert [event for event, _ in guarded.posts] == [first, second]
    assert running.sink.results[0].source == f"frigate://127.0.0.1:{guarded.port}/front_door/{first}"
    assert guarded.asked.count("/api/login") == 2
    assert running.stop() is True
    said = caplog.text + "".join(f"{result}" for result in running.sink.results) + str(running.pipeline.health())
    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("login", "query", "said"),
    [
        ("ann:wr0ng@", "?certificate={}", "refuses the login of ann: wrong user or password"),
        ("ann:s3cret%40%2F@", "", "cannot be reached: .*certificate verify failed"),
        ("ann:s3cret%40%2F@", "?certificate=/nowhere.pem", "/nowhere.pem cannot be read: No such file"),
    ],
)
def test_a_login_that_fails_is_told_at_the_start(
    guarded: Frigate, run: Any, caplog: pytest.LogCaptureFixture, login: str, query: str, said: str
) -> None:
    running = run(guarded, query.format(guarded.certificate), login=login)
    running.thread.join(60)
    assert running.good is False
    assert re.search(said, caplog.text)
    assert "s3cret" not in caplog.text
    assert "wr0ng" not in caplog.text
    assert guarded.asked.count("/api/login") <= 1  # Frigate counts those that fail


def test_a_user_who_may_not_set_sub_labels_is_told(guarded: Frigate, image_files: list[Path]) -> None:
    event = guarded.appears(Image.open(image_files[0]))
    uri = f"frigate://guest:gu3st@127.0.0.1:{guarded.port}?certificate={guarded.certificate}"
    requests = FrigateApi(FrigateSession(FrigateAddress.parse(uri)), threading.Event())
    assert requests.snapshot(event, over=False)
    with pytest.raises(FailedError, match="need a user with the role admin"):
        requests.set_sub_label(event, "x", 1.0)


def test_nobody_waits_when_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAUSES", (60.0, 60.0))
    stop = threading.Event()
    stop.set()
    started = time.monotonic()
    with pytest.raises(FailedError, match="does not answer"):
        api_of(free_port(), stop).snapshot("1.0-a", over=False)
    assert time.monotonic() - started < 30
