"""The queue in front of a sink that is slow: what it is offered, and what gives way when it is full."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support.fakes import FakeSink, wait_for
from support.results import make_result

from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.worker import ROOM, SinkWorker


class Stuck(FakeSink):
    """Takes the first result and then nothing, until it is free."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.busy, self.free = threading.Event(), threading.Event()

    def write(self, result: FrameResult) -> None:
        self.busy.set()
        self.free.wait(10)
        super().write(result)


class Bench:
    def __init__(self, kind: type[Stuck] = Stuck, **options: Any) -> None:
        self.sink = kind(**options)
        self.delivery = SinkWorker(self.sink, lambda: None, lambda error: None)

    def fill(self, *events: int, count: int, live: bool = True) -> None:
        """So many results, numbered; the first one is on its way when the others come."""
        for frame in range(count):
            self.delivery.offer(make_result(frame=frame, changed=frame in events), True, live)
            if frame == 0:
                self.sink.busy.wait(0.2)

    def end(self) -> list[int]:
        self.sink.free.set()
        self.delivery.end()
        wait_for(lambda: self.delivery.join(0.05))
        return [result.frame for result in self.sink.results]


@pytest.fixture
def stuck() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []
    yield lambda **options: made.append(Bench(**options)) or made[-1]
    for each in made:
        each.end()


def test_a_sink_of_events_is_offered_nothing_else(stuck) -> None:
    """A disk that is busy for a second of 30 frames costs none of the changes."""
    bench = stuck(takes="changes")
    bench.fill(0, 20, 29, count=30)
    assert bench.end() == [0, 20, 29]
    assert bench.delivery.dropped == 0


def test_every_frame_may_be_a_change(stuck) -> None:
    bench = stuck(takes="changes")
    bench.fill(*range(30), count=30)
    assert bench.end() == list(range(30))


def test_no_event_gives_way_to_a_frame(stuck) -> None:
    lossless, lossy = stuck(takes="every_frame"), stuck(takes="every_frame", lossless=False)
    for bench in (lossless, lossy):
        bench.fill(0, 2, 12, count=15)
    assert lossless.end() == [0, *range(2, ROOM + 1), 12]  # beside events, what came first
    assert lossy.end() == [0, 2, *range(8, 15)]  # beside events, what came last


def test_when_all_that_wait_are_events(stuck) -> None:
    lossy = stuck(takes="every_frame", lossless=False)
    lossy.fill(*range(10), count=12)
    assert lossy.end() == [0, *range(2, 10)]  # the oldest goes for a new event, nothing for a frame


class Follower(Stuck):
    """A sink that is told of ends; they stand among its results."""

    def source_ended(self, origin: str) -> None:
        self.results.append(make_result(origin, frame=-1))


@pytest.mark.parametrize("lossless", [True, False])
def test_the_end_of_a_source_keeps_its_place(stuck, lossless: bool) -> None:
    bench = stuck(kind=Follower, lossless=lossless, takes="every_frame")
    bench.fill(0, count=1)
    for _ in range(ROOM):
        bench.delivery.end_source("camera0")
    bench.fill(1, 2, count=3)  # events that find the queue full of ends
    assert bench.end().count(-1) == ROOM


def test_a_sink_that_follows_no_sources_is_not_told(stuck) -> None:
    bench = stuck()
    bench.fill(count=1)
    bench.delivery.end_source("camera0")
    assert bench.end() == [0]


def test_what_a_file_was_promised_gives_way_to_nothing(stuck) -> None:
    bench = stuck(takes="every_frame")
    bench.fill(count=ROOM + 1, live=False)
    bench.delivery.offer(make_result(frame=99, changed=True), True, live=True)
    assert bench.end() == list(range(ROOM + 1))
    assert bench.delivery.dropped == 1


def test_large_frames_of_files_wait_for_a_slow_sink(stuck) -> None:
    """Photographs of 200 megapixels that wait eight at a time would take 6 GB."""
    bench, large = stuck(takes="every_frame"), np.zeros((6000, 8000, 3), np.uint8)  # 144 MB that nothing is written to
    bench.fill(count=1, live=False)
    assert bench.delivery.has_room()
    bench.delivery.offer(make_result(frame=1, image=large), True, live=False)
    assert not bench.delivery.has_room()
    assert bench.end() == [0, 1]
    assert bench.delivery.has_room()
