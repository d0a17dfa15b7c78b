"""What the classifier spends its time on: every second once, and batches as full as they are."""

from __future__ import annotations

import time

import pytest
from support.bench import LOST, Bench, camera, video
from support.fakes import FakeSink, make_frame
from support.results import make_result

from attri.runtime.errors import ImageError
from attri.runtime.pipeline.load_meter import LoadMeter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a test sets."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_every_second_counts_once(clock: list[float]) -> None:
    """Of two frames and one that cannot be read, in 0.4 s; a prediction of `make_result` names 20 and 2 ms."""
    meter, prediction = LoadMeter(4), make_result().prediction
    clock[0] += 1.5
    meter.idle()
    clock[0] += 0.4
    meter.classified([[prediction], ImageError("torn"), [prediction]])
    clock[0] += 0.1
    meter.delivered(3)
    spent = {"idle": 1.5, "preprocess": 0.4 - 0.044, "vision": 0.04, "text": 0.004, "deliver": 0.1}
    assert dict(meter.load.seconds) == pytest.approx(spent)
    assert (meter.load.batches, meter.load.frames, meter.load.occupancy) == (1, 3, 0.75)
    meter.classified([])
    meter.delivered(0)  # nothing had changed: that is no batch
    assert meter.load.batches == 1


def test_a_pipeline_says_how_full_its_batches_are(bench: Bench) -> None:
    bench.classifier.seconds = 0.005
    pipeline = bench.make({video(): [make_frame(i) for i in range(40)]}, batch=4)
    assert pipeline.load().occupancy == 0
    started = time.perf_counter()
    assert pipeline.run([FakeSink()])
    load = pipeline.load()
    assert load.frames == 40
    assert load.batches == len(bench.classifier.batches) + 40 - sum(bench.classifier.batches)
    assert load.seconds["preprocess"] >= 40 * 0.005  # all that a stand-in's predictions do not name
    assert sum(load.seconds.values()) <= time.perf_counter() - started + 1


def test_an_idle_camera_leaves_the_classifier_idle(bench: Bench) -> None:
    pipeline = bench.make({camera(): [make_frame(1), 0.3, make_frame(2), LOST]})
    pipeline.run([FakeSink()])
    assert pipeline.load().seconds["idle"] > 0.2
