"""Real streams on loopback: an RTSP server that is killed and comes back, and MJPEG servers with every fault."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from support.fakes import FakeClassifier, FakeSink, wait_for
from support.streams import NEEDS_RTSP, MjpegServer, RtspServer, mjpeg_server

from attri.runtime.capture.open import open_source
from attri.runtime.capture.parse import find_source
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SourceOptions
from attri.runtime.decide.schedule import Schedule
from attri.runtime.errors import SourceError
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.pipeline.pipeline import Pipeline
from attri.runtime.pipeline.task import TaskSetup

QUICK = RetryPolicy(max_retries=3, first_retries=None, initial_delay=0.1, max_delay=0.2, freeze_timeout=1.0)


class Run:
    """A pipeline at work in a thread of its own."""

    def __init__(self, uris: list[str], patience: RetryPolicy, seconds: float) -> None:
        self.classifier = FakeClassifier(seconds=seconds)
        labels = LiveLabels(self.classifier, None)
        specs = [find_source(uri) for uri in uris]
        self.sink = FakeSink()
        self.pipeline = Pipeline(specs, [[TaskSetup(labels)]] * len(uris), Schedule(), patience)
        self.good: bool | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.good = self.pipeline.run([self.sink])

    def states(self) -> list[str]:
        return [health.state for health in self.pipeline.health()]

    def stop(self) -> None:
        self.pipeline.stop()
        self.thread.join(5)
        assert not self.thread.is_alive()

    def over(self, seconds: float = 15) -> bool | None:
        self.thread.join(seconds)
        assert not self.thread.is_alive()
        return self.good


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Run]]:
    caplog.set_level(logging.INFO, logger="attri")
    runs: list[Run] = []

    def start(*uris: str, patience: RetryPolicy = QUICK, seconds: float = 0.0) -> Run:
        runs.append(Run([*uris], patience, seconds))
        return runs[-1]

    yield start
    for each in runs:
        each.stop()


@pytest.fixture
def mjpeg() -> Iterator[MjpegServer]:
    with mjpeg_server() as server:
        yield server


@pytest.fixture
def rtsp() -> Iterator[RtspServer]:
    server = RtspServer("user:secret")
    yield server
    server.kill()


@NEEDS_RTSP
def test_rtsp_killed_and_back(run: Callable[..., Run], rtsp: RtspServer, caplog: pytest.LogCaptureFixture) -> None:
    found = run(
        rtsp.uri(account="user:secret"),
        patience=RetryPolicy(max_retries=20, first_retries=None, initial_delay=0.1, max_delay=0.5, freeze_timeout=3),
    )
    wait_for(lambda: len(found.sink.results) > 20, 20)
    health = found.pipeline.health()[0]
    assert (health.state, health.detail) == ("live", "64 x 48, 30 fps, h264 yuv420p (rtsp)")
    rtsp.kill()
    wait_for(lambda: found.states() == ["retrying"], 10)
    time.sleep(0.5)
    count = len(found.sink.results)
    time.sleep(0.5)
    assert len(found.sink.results) == count  # nothing is classified that did not come
    rtsp.start()
    wait_for(lambda: len(found.sink.results) > count + 20, 20)
    assert found.states() == ["live"]
    assert found.pipeline.health()[0].restarts >= 1
    assert found.sink.results[-1].image.shape == (48, 64, 3)
    assert "nothing listens on that port (connection refused); trying again" in caplog.text
    assert "secret" not in caplog.text


@NEEDS_RTSP
def test_rtsp_with_a_wrong_password_is_final(
    run: Callable[..., Run], rtsp: RtspServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert not run(rtsp.uri(account="user:wrong")).over()
    message = "it refuses the user name or password (401): mend them in the URI"
    assert caplog.messages[0] == f"error: {rtsp.uri(account='***')}: {message}"
    assert "trying again" not in caplog.text


@NEEDS_RTSP
def test_rtsp_over_udp_and_a_stream_that_stands_still(run: Callable[..., Run], rtsp: RtspServer) -> None:
    spec = replace(find_source(rtsp.uri("/cam", "user:secret")), input=SourceOptions(latency=100))
    with open_source(spec, 3, threading.Event()) as capture:
        shot = next(shot for shot in capture.frames if shot is not None)
        assert isinstance(shot.image, np.ndarray)
        assert shot.image.shape == (48, 64, 3)
    found = run(rtsp.uri("/still", "user:secret"), patience=replace(QUICK, max_retries=1))
    assert not found.over(30)
    assert found.states() == ["dead"]
    assert "frozen: nothing new for 1 s" in found.pipeline.health()[0].detail
    assert len({result.image.tobytes() for result in found.sink.results}) == len(found.sink.results)


def test_mjpeg(run: Callable[..., Run], mjpeg: MjpegServer) -> None:
    found = run(mjpeg.uri("/private", "user:secret"))
    wait_for(lambda: len(found.sink.results) > 10)
    assert "64 x 48" in found.pipeline.health()[0].detail
    assert "mjpeg yuvj420p (mpjpeg)" in found.pipeline.health()[0].detail


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/private", "it refuses the user name or password (401): mend them in the URI"),
        ("/none?token=secret", "the server knows no such stream (404), given up after 3 retries"),
        ("/page", "given up after 3 retries"),
        ("/garbage", "what it sends is no video, given up after 3 retries"),
    ],
)
def test_what_is_no_stream(
    run: Callable[..., Run], mjpeg: MjpegServer, caplog: pytest.LogCaptureFixture, path: str, words: str
) -> None:
    mjpeg.rate = 300
    # Garbage is probed for longer than QUICK waits where the machine is busy.
    found = run(mjpeg.uri(path, "user:wrong"), patience=replace(QUICK, freeze_timeout=10))
    assert not found.over(60)
    assert not found.sink.results
    (error,) = [message for message in caplog.messages if message.startswith("error: ")]
    assert error.endswith(words)
    assert mjpeg.requests == (2 if path == "/private" else 4)  # FFmpeg asks first without, then with a password
    assert "secret" not in caplog.text


def test_nobody_there(run: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    assert not run("http://127.0.0.1:9/cam").over()
    words = "nothing listens on that port (connection refused), given up after 3 retries"
    assert caplog.messages[-2] == f"error: http://127.0.0.1:9/cam: {words}"


def refused(uri: str) -> SourceError:
    with pytest.raises(SourceError) as error, open_source(find_source(uri), 3, threading.Event()):
        pass
    return error.value


@pytest.mark.parametrize("scheme", ["rtsp", "http", "https"])
@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("no-such-host.invalid/cam", r"^the name of its host does not resolve: is it spelt right, and is DNS there\?$"),
        ("user:secret@no-such-host.invalid/cam", r"does not resolve.*there\?$"),
        ("secret.invalid/part@host/cam", r"does not resolve.*in a password write / as %2F"),
        ("[::1]:9/cam", r"^nothing listens on that port \(connection refused\)$"),
        ("user:9/secret@host/cam", r"(does not resolve|refused).*in a password write / as %2F"),
    ],
)
def test_why_a_stream_does_not_begin(scheme: str, rest: str, words: str) -> None:
    """At the first attempt, and not for good: the network may come up later."""
    error = refused(f"{scheme}://{rest}")
    assert re.search(words, str(error)), error
    assert not error.final
    assert "secret" not in str(error)


@NEEDS_RTSP
def test_what_an_rtsp_server_refuses(rtsp: RtspServer) -> None:
    assert "asks for a user name and password (401)" in str(refused(rtsp.uri()))
    assert "refuses the user name or password (401)" in str(refused(rtsp.uri(account="user:wrong")))
    assert str(refused(rtsp.uri("/none", "user:secret"))) == "the server knows no such stream (404)"
    assert "no TLS connection" in str(refused(rtsp.uri().replace("rtsp", "rtsps")))


def test_what_an_http_server_refuses(mjpeg: MjpegServer) -> None:
    error = refused(mjpeg.uri("/private"))
    assert (str(error)[:39], error.final) == ("it asks for a user name and password (4", True)
    error = refused(mjpeg.uri("/forbidden", "user:secret"))
    assert ("this user may not see it (403)" in str(error), error.final) == (True, True)
    error = refused(mjpeg.uri("/broken"))
    assert ("the server failed (5xx)" in str(error), error.final) == (True, False)
    assert "no TLS connection" in str(refused(mjpeg.uri().replace("http", "https")))


def test_damaged_frames_are_left_out(run: Callable[..., Run], mjpeg: MjpegServer) -> None:
    mjpeg.rate = 100
    found = run(mjpeg.uri("/bad"))
    wait_for(lambda: len(found.sink.results) > 20)
    assert found.states() == ["live"]
    assert found.pipeline.health()[0].restarts == 0
    assert len({result.image.tobytes() for result in found.sink.results}) == len(found.sink.results)


def test_a_frozen_one_is_opened_again(
    run: Callable[..., Run], mjpeg: MjpegServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It starts with its first images each time, which are new, and then stands still."""
    found = run(mjpeg.uri("/frozen"))
    wait_for(lambda: found.states() == ["frozen"], 15)
    wait_for(lambda: mjpeg.requests == 3, 15)
    assert 2 <= len(found.sink.results) <= 15  # 5 each time, of which a busy machine may miss some
    assert caplog.text.count("frozen: nothing new for 1 s") == 2


def test_a_silent_one_is_given_up_by_the_library(
    run: Callable[..., Run], mjpeg: MjpegServer, caplog: pytest.LogCaptureFixture
) -> None:
    run(mjpeg.uri("/silent"))
    wait_for(lambda: mjpeg.requests == 2)
    assert "no answer for 1 s; trying again" in caplog.text


def test_one_that_ends(run: Callable[..., Run], mjpeg: MjpegServer, caplog: pytest.LogCaptureFixture) -> None:
    run(mjpeg.uri("/short"))
    wait_for(lambda: mjpeg.requests == 2)
    assert "the connection broke off; trying again" in caplog.text


def test_sizes_change(run: Callable[..., Run], mjpeg: MjpegServer, caplog: pytest.LogCaptureFixture) -> None:
    found = run(mjpeg.uri("/sizes"))
    wait_for(lambda: len(found.sink.results) > 12)
    assert {result.image.shape for result in found.sink.results} == {(48, 64, 3), (80, 96, 3)}
    assert found.pipeline.health()[0].restarts == 0
    assert f"{mjpeg.uri('/sizes')}: frames are now 96 x 80" in caplog.messages


def test_a_slow_model_gets_frames_that_just_came(run: Callable[..., Run], mjpeg: MjpegServer) -> None:
    """Against the server's own count: what is classified was sent just before, at the end as at the beginning."""
    found = run(mjpeg.uri(), seconds=0.2)
    behind: list[int] = []
    seen = 0
    end = time.monotonic() + 2
    while time.monotonic() < end:
        time.sleep(0.02)
        if len(found.sink.results) > seen:
            seen = len(found.sink.results)
            behind.append(mjpeg.sent - found.sink.results[-1].frame)
    assert len(behind) > 5
    assert max(behind) < 18  # 0.2 s are 6 frames; in a queue it would be 50
    assert found.pipeline.health()[0].dropped > 20


def test_one_of_four_dies_and_the_others_go_on(run: Callable[..., Run], mjpeg: MjpegServer) -> None:
    with mjpeg_server() as other:
        found = run(*(mjpeg.uri(f"/cam?{i}") for i in range(3)), other.uri())
        wait_for(lambda: found.states() == ["live"] * 4)
        wait_for(lambda: all(health.frames > 5 for health in found.pipeline.health()))
    wait_for(lambda: found.states() == ["live", "live", "live", "dead"], 15)
    before = [health.frames for health in found.pipeline.health()]
    wait_for(lambda: all(h.frames > b + 10 for h, b in zip(found.pipeline.health()[:3], before, strict=False)))
    assert found.pipeline.health()[3].frames == before[3]
    found.stop()
    assert found.good is False
