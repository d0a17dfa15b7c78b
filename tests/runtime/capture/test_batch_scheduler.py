"""Whose frames go through the graphs together: by a clock of its own, so that nothing depends on this machine."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from itertools import count

import numpy as np
import pytest

from attri.runtime.capture.frame_queue import BatchScheduler, Frame

IMAGE = np.zeros((1, 1, 3), np.uint8)
ALWAYS = 1e9


def frame(number: int = 0, captured: float = 0.0, regions: int = 1) -> Frame:
    parts = {(0, 0, 1, 1 + region): IMAGE for region in range(regions)}
    return Frame("camera", number, 0.0, IMAGE, parts, captured)


def taken(scheduler: BatchScheduler, now: float = 0.0, coming: Sequence[bool] = (True,) * 8, **rest: bool) -> list[int]:
    return [source for source, _ in scheduler.take(now, coming, **rest)]


def filled(live: Sequence[bool], limit: int = 1, gather: float = 0.0, each: int = 1) -> BatchScheduler:
    scheduler = BatchScheduler(live, limit, gather)
    for source in range(len(live)):
        for number in range(each):
            scheduler.put(source, frame(number), 0.0)
    return scheduler


def test_the_newest_frame_of_every_source_that_has_one_goes_in() -> None:
    scheduler = BatchScheduler([True] * 4, limit=8)
    for source in (3, 0, 3):
        scheduler.put(source, frame(source), 0.0)
    scheduler.put(3, frame(9), 0.0)
    assert [(source, each.number) for source, each in scheduler.take(0.0, [True] * 4)] == [(0, 0), (3, 9)]
    assert list(scheduler.dropped.values()) == [0, 0, 0, 2]
    assert taken(scheduler) == []


def test_turns_go_on_after_the_source_that_was_served_last() -> None:
    scheduler = BatchScheduler([True] * 5, limit=2)
    served = []
    for _ in range(5):
        for source in range(5):
            scheduler.put(source, frame(), 0.0)
        served.append(taken(scheduler))
    assert served == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]


def test_files_fill_what_live_sources_leave_and_never_the_reverse() -> None:
    scheduler = filled([False, True, False, True], limit=5, each=6)
    assert taken(scheduler) == [1, 3, 0, 2, 0]
    scheduler.put(1, frame(), 0.0)
    assert taken(scheduler, files=False) == [1]
    assert taken(scheduler, files=False) == []
    assert taken(scheduler) == [2, 0, 2, 0, 2]
    full = filled([False, True, True], limit=2, each=2)
    assert taken(full) == [1, 2]
    assert taken(full) == [0, 0]


def test_frames_of_a_file_stay_in_order() -> None:
    scheduler = filled([False, False], limit=3, each=7)
    found: list[tuple[int, int]] = []
    while batch := scheduler.take(0.0, [True, True]):
        found += [(source, each.number) for source, each in batch]
    for source in (0, 1):
        assert [number for each, number in found if each == source] == list(range(7))


def test_nothing_waits_by_default_and_never_for_what_cannot_come() -> None:
    assert taken(filled([True])) == [0]
    scheduler = BatchScheduler([True, True, False], limit=4, gather=0.1)
    scheduler.put(2, frame(), 0.0)
    assert taken(scheduler, 0.0) == [2]  # files wait for nobody
    scheduler.put(0, frame(), 1.0)
    assert taken(scheduler, 1.0, [True, False, True]) == [0]  # the other has ended


def test_gathering_is_over_when_all_are_there_the_batch_is_full_or_time_is_up() -> None:
    scheduler = BatchScheduler([True] * 3, limit=2, gather=0.1)
    scheduler.put(0, frame(1), 5.0)
    assert taken(scheduler, 5.05) == []
    assert scheduler.seconds_left(5.05, [True] * 3) == pytest.approx(0.05)
    scheduler.put(0, frame(2), 5.06)  # a newer frame does not begin anew
    assert taken(scheduler, 5.1001) == [0]
    scheduler.put(0, frame(), 6.0)
    scheduler.put(2, frame(), 6.01)
    assert taken(scheduler, 6.01) == [2, 0]
    every = BatchScheduler([True] * 2, limit=8, gather=ALWAYS)
    every.put(0, frame(), 0.0)
    assert taken(every, 99.0) == []
    every.put(1, frame(), 99.0)
    assert taken(every, 99.0) == [0, 1]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """When the frames of a consumer camera come: by two, and now and then not at all for 450 ms."""
    times, now, dice = [], random.Random(seed).uniform(0, 0.1), random.Random(seed)
    pause = dice.uniform(4, 8)
    while now < seconds:
        times += [now, now + 1e-3]
        now += 2 / rate
        if now > pause:
            now, pause = now + 0.45, now + dice.uniform(4, 8)
    return times


@pytest.mark.parametrize("limit", [4, 8])
def test_eight_cameras_with_bursts_and_pauses_share_a_busy_engine(limit: int) -> None:
    """An engine of a + b n ms. One camera of eight dies after a quarter of the time."""
    a, b, seconds, sources = 0.040, 0.015, 240.0, 8
    dies = seconds / 4
    coming = [arrivals(15 + 15 * i / 7, seconds if i else dies, i) for i in range(sources)]
    events = list(heapq.merge(*([(time, source) for time in times] for source, times in enumerate(coming))))
    scheduler, numbers = BatchScheduler([True] * sources, limit), count()
    served, ages, runs, now, next_event = Counter[int](), [], [], 0.0, 0
    dead: list[float] = []
    while now < seconds:
        while next_event < len(events) and events[next_event][0] <= now:
            time, source = events[next_event]
            scheduler.put(source, frame(next(numbers), time), time)
            next_event += 1
        batch = scheduler.take(now, [True] * sources)
        if not batch:
            if next_event == len(events):
                break
            now = events[next_event][0]
            continue
        run = a + b * len(batch)
        now += run
        runs.append(run)
        for source, each in batch:
            ages.append(now - each.captured)
            if now > dies + 1:
                served[source] += 1
                dead += [now] if source == 0 else []
    alive = [served[source] for source in range(1, sources)]
    together = min(limit, sources - 1)
    assert sum(alive) / (now - dies - 1) > 0.95 * together / (a + b * together)
    assert sum(alive) ** 2 / (len(alive) * sum(each**2 for each in alive)) > 0.99  # Jain's index
    assert dead == []
    if limit == sources:
        assert np.percentile(ages, 95) <= 2 * max(runs)


def test_all_regions_of_a_frame_go_together() -> None:
    scheduler = BatchScheduler([True, True, True, False], limit=4)

    def put() -> None:
        for source, regions in ((0, 1), (1, 3), (2, 2), (3, 1)):
            scheduler.put(source, frame(regions=regions), 0.0)

    put()
    assert taken(scheduler) == [0, 1]
    assert taken(scheduler) == [2, 3]
    put()
    put()  # of the file, a second one
    assert taken(scheduler) == [0, 1]  # the last in turn are the first that were served
    assert taken(scheduler) == [2, 3, 3]


def test_a_frame_with_more_regions_than_a_batch_takes_goes_alone_and_in_its_turn() -> None:
    scheduler = BatchScheduler([True, True, True], limit=2)
    served = []
    for _ in range(4):
        for source, regions in ((0, 1), (1, 5), (2, 1)):
            scheduler.put(source, frame(regions=regions), 0.0)
        served.append(taken(scheduler))
    assert served == [[0], [1], [2, 0], [1]]
