"""The compare sink: frames on which tasks disagree are shown whole, and counts are those of a slow count."""

from __future__ import annotations

import itertools
import logging
import random
import re

import numpy as np
import pytest
from support.fakes import FakeSink
from support.results import FakeControl, make_result

from attri.runtime.deliver.compare import CompareSink
from attri.runtime.deliver.result import FrameResult

TASKS = ("zero", "static", "learned")
CHOICES = ("red apple", "bird", None)


def frame_results(source: str, frame: int, labels: tuple[str | None, ...]) -> list[FrameResult]:
    image = np.full((4, 4, 3), frame % 256, np.uint8)
    named = zip(TASKS, labels, strict=False)
    return [make_result(source, frame, task=task, label=label, image=image) for task, label in named]


def compared(summary: str) -> dict[str, int]:
    return {name: int(count) for name, count in re.findall(r"(\w+(?: and \w+)?|all tasks) on (\d+) \(", summary)}


def test_counts_are_those_of_a_slow_count(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    choose = random.Random(0)
    frames = {
        source: [tuple(choose.choice(CHOICES) for _ in TASKS) for _ in range(30)] for source in ("camera0", "camera1")
    }
    shown = FakeSink()
    sink = CompareSink(FakeControl("camera0", "camera1", tasks=TASKS).health(), shown)
    for number in range(30):  # in turn, as a pipeline delivers them
        for source, each in frames.items():
            for result in frame_results(source, number, each[number]):
                sink.write(result)
    sink.close()
    every = [labels for each in frames.values() for labels in each]
    wanted = {
        f"{a} and {b}": sum(labels[TASKS.index(a)] == labels[TASKS.index(b)] for labels in every)
        for a, b in itertools.combinations(TASKS, 2)
    } | {"all tasks": sum(len(set(labels)) == 1 for labels in every)}
    (message,) = caplog.messages
    assert message.startswith("compared 60 frames: agreed all tasks on ")
    assert compared(message) == wanted
    differing = [(source, n) for n in range(30) for source, each in frames.items() if len(set(each[n])) > 1]
    assert [(result.source, result.frame) for result in shown.results[:: len(TASKS)]] == differing
    assert [result.task for result in shown.results] == [*TASKS] * len(differing)
    assert shown.closed


def test_two_tasks_are_one_pair() -> None:
    sink = CompareSink(FakeControl(tasks=TASKS[:2]).health(), None)
    assert sink.summary() == "compared 0 frames"
    for number, labels in enumerate((("bird", "bird"), ("bird", None), (None, None), ("bird", "red apple"))):
        for result in frame_results("camera0", number, labels):
            sink.write(result)
    assert sink.summary() == "compared 4 frames: agreed zero and static on 2 (50%)"


def test_a_frame_of_which_a_result_was_dropped_is_left_out() -> None:
    shown = FakeSink()
    sink = CompareSink(FakeControl(tasks=TASKS[:2]).health(), shown)
    first, second = (frame_results("camera0", number, ("bird", None)) for number in range(2))
    for result in (first[0], *second):
        sink.write(result)
    assert sink.summary().startswith("compared 1 frame:")
    assert [result.frame for result in shown.results] == [1, 1]
