"""From scripted sources to sinks that keep what they get: order, loss, age, stops. The model is as slow as told."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest
from support.bench import LOST, Bench, at_rate, camera, video
from support.fakes import FakeClassifier, FakeSink, Step, frames_until, make_frame, wait_for

from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.decide.schedule import Schedule
from attri.runtime.deliver.result import FrameResult
from attri.runtime.errors import EngineError, ImageError


def numbers(results: list[FrameResult], source: str) -> list[int]:
    return [result.frame for result in results if result.source == source]


def test_files_give_every_frame_in_order_to_every_lossless_sink(bench: Bench) -> None:
    """However slow one of them is; one that takes the newest gets what it can."""
    frames = [make_frame(i) for i in range(40)]
    slow, fast, lossy = FakeSink(seconds=0.01), FakeSink(), FakeSink(lossless=False, seconds=0.05)
    pipeline = bench.make({video("a.mp4"): frames, video("b.mp4"): frames})
    assert pipeline.run([slow, fast, lossy])
    wanted = [(name, i) for name in ("a.mp4", "b.mp4") for i in range(40)]
    assert [(result.source, result.frame) for result in slow.results] == wanted
    assert [(result.source, result.frame) for result in fast.results] == wanted
    assert 8 < len(lossy.results) < 80
    assert lossy.results[-1].frame == 39
    assert slow.closed
    assert lossy.closed


def test_frames_of_files_go_in_batches_and_nothing_else_changes(bench: Bench) -> None:
    sink, slow = FakeSink(), FakeSink(seconds=0.005)
    bench.classifier.seconds = 0.002
    assert bench.make({video(): [make_frame(i) for i in range(50)]}, batch=4).run([sink, slow])
    assert bench.classifier.seen == list(range(50))
    assert [result.frame for result in sink.results] == [result.frame for result in slow.results] == list(range(50))
    assert max(bench.classifier.batches) == 4
    assert bench.pipeline.health()[0].frames == 50


def test_frames_of_a_batch_do_not_come_at_thousands_a_second(bench: Bench) -> None:
    sink = FakeSink()
    bench.classifier.seconds = 0.02
    assert bench.make({video(): [make_frame(i) for i in range(24)]}, batch=4).run([sink])
    assert 0 < sink.results[-1].fps <= 50
    assert max(result.fps for result in sink.results) <= 50  # the model takes 20 ms for each


def test_sinks_that_ask_are_told_when_a_source_has_ended(bench: Bench) -> None:
    class Follower(FakeSink):
        results: list[Any]  # and ends

        def source_ended(self, origin: str) -> None:
            self.results.append(origin)

    sink, lost = Follower(), Follower()
    sources = {video("a.mp4"): [make_frame(0)], video("b.mp4"): [make_frame(0), make_frame(1)]}
    assert bench.make(sources).run([sink])
    assert [getattr(each, "source", each) for each in sink.results] == ["a.mp4", "a.mp4", "b.mp4", "b.mp4", "b.mp4"]
    assert [each for each in sink.results if isinstance(each, str)] == ["a.mp4", "b.mp4"]
    bench.make({camera(): [make_frame(0), LOST]}).run([lost])
    assert lost.results[-1] == "camera0"
    assert not isinstance(lost.results[-2], str)


def test_the_newest_frame_of_a_camera_goes_alone_and_those_of_several_together(bench: Bench) -> None:
    sink = FakeSink()
    bench.classifier.seconds = 0.01
    bench.make({camera(): [*at_rate(200, 0.3), LOST]}, batch=4).run([sink])
    assert len(sink.results) > 5
    assert bench.classifier.batches == []
    several = FakeSink()
    bench.make({camera(f"camera{i}"): [*at_rate(200, 0.3, 80 * i), LOST] for i in range(3)}, batch=4).run([several])
    assert max(bench.classifier.batches) == 3
    for i in range(3):  # and nobody gets another's
        assert {result.image[0, 0, 0] // 80 for result in several.results if result.source == f"camera{i}"} == {i}


def test_files_fill_what_a_camera_leaves(bench: Bench) -> None:
    sink = FakeSink()
    bench.classifier.seconds = 0.005
    script = [frames_until(lambda: len(numbers(sink.results, "v.mp4")) == 60, rate=100), LOST]
    bench.make({video(): [make_frame(i) for i in range(60)], camera(): script}, batch=4).run([sink])
    assert numbers(sink.results, "v.mp4") == list(range(60))
    assert len(numbers(sink.results, "camera0")) > 5
    assert max(bench.classifier.batches) == 4


def test_an_image_that_cannot_be_read_costs_its_batch_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify = FakeClassifier.__call__

    def refuse(self: FakeClassifier, frame: Any) -> object:
        if frame[0, 0, 0] == 6:
            raise ImageError("number 6 cannot be read")
        return classify(self, frame)

    monkeypatch.setattr(FakeClassifier, "__call__", refuse)
    sink = FakeSink()
    assert not bench.make({video(): [make_frame(i) for i in range(10)]}, batch=4).run([sink])
    assert [result.frame for result in sink.results] == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert [m for m in caplog.messages if "number 6" in m] == ["error: number 6 cannot be read"]


def test_images_that_reader_or_classifier_cannot_read_are_both_counted(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Each thread has a count of its own: += is not atomic, so a shared one could lose some."""

    def refuse(*_: object) -> None:
        raise ImageError("the classifier cannot read it")

    bench.classifier.__class__ = type("Refusing", (FakeClassifier,), {"__call__": refuse})
    steps = [make_frame(1), lambda: ImageError("the reader cannot"), make_frame(2)] * 5
    assert not bench.make({video(): steps}).run([])
    assert caplog.messages[-1].endswith(", 15 files failed")


def test_a_sink_with_room_is_not_kept_waiting(bench: Bench) -> None:
    sink = FakeSink(seconds=0.001)
    start = time.monotonic()
    assert bench.make({video(): [make_frame(i % 256) for i in range(300)]}).run([sink])
    assert len(sink.results) == 300
    assert time.monotonic() - start < 4  # by polling alone it would be 7 s


def test_a_result_says_what_was_seen(bench: Bench) -> None:
    sink = FakeSink()
    assert bench.make({video(): [make_frame(0), make_frame(1), make_frame(1)]}).run([sink])
    found = [(each.label, each.changed, each.dropped, int(each.image[0, 0, 0])) for each in sink.results]
    assert found == [("cat", True, 0, 0), ("dog", True, 0, 1), ("dog", False, 0, 1)]
    assert sink.results[0].score == pytest.approx(0.95)


def test_lag_does_not_grow_when_the_model_is_slow(bench: Bench) -> None:
    """30 frames a second, 5 that can be classified: each result is of a frame that came just before."""
    bench.classifier.seconds = 0.2
    sink = FakeSink()
    assert bench.make({camera(): at_rate(30, 2)}).run([sink])
    ages = [result.age_ms for result in sink.results]
    assert 4 <= len(ages) <= 30  # of 60
    # A frame waits at most until a newer one replaces it, 33 ms, and for the model: 233 ms, and more on a busy machine.
    # In a queue the last would be 1.6 s old.
    assert max(ages) < 600
    last = sink.results[-1]
    assert last.frame + 1 - len(ages) - 1 <= last.dropped <= last.frame + 1 - len(ages) + 1
    assert 0 < last.fps < 5.2


def test_every_camera_has_its_turn(bench: Bench) -> None:
    """Both give more than can be classified: while one frame is, another of each comes to wait."""
    sink = FakeSink()
    classify, seen = FakeClassifier.__call__, []

    def slowly(self: FakeClassifier, *image: Any) -> object:
        seen.append(1)
        wait_for(lambda: len(seen) > 10 or sum(each.waiting for each in bench.pipeline.health()) == 3)
        return classify(self, *image)

    bench.classifier.__class__ = type("Slow", (FakeClassifier,), {"__call__": slowly})
    cameras = [frames_until(lambda: len(sink.results) > 10, rate=100)]
    assert bench.make({camera("camera0"): cameras, camera("camera1"): cameras}).run([sink])
    sources = [result.source for result in sink.results[:10]]
    assert sources[::2] == sources[:1] * 5
    assert sources[1::2] == sources[1:2] * 5
    assert {*sources} == {"camera0", "camera1"}


def test_a_slow_sink_stalls_no_live_source(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    slow, fast, free = FakeSink(), FakeSink(), threading.Event()
    write = slow.write
    slow.write = lambda result: free.wait(20) and write(result)
    steps = [frames_until(lambda: len(fast.results) >= 20, rate=100), free.set]
    assert bench.make({camera(): steps}).run([slow, fast])
    assert len(slow.results) < 16
    assert f"{len(fast.results) - len(slow.results)} results skipped by fake" in caplog.messages[-1]


def test_a_slow_sink_holds_back_files_and_no_camera(bench: Bench) -> None:
    slow = FakeSink(seconds=0.05)
    live: list[int] = []
    watcher = FakeSink()
    pipeline = bench.make({video(): [make_frame(i) for i in range(30)], camera(): at_rate(50, 1)})
    assert pipeline.run([slow, watcher])
    assert numbers(slow.results, "v.mp4") == list(range(30))
    live = numbers(watcher.results, "camera0")
    assert len(live) > 15
    assert live == sorted(live)


def test_four_streams_of_which_one_dies(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    scripts: dict[SourceSpec, list[Step]] = {camera(f"camera{i}"): at_rate(20, 1, 40 * i) for i in range(3)}
    scripts[camera("camera3")] = [*at_rate(20, 0.2, 200), LOST]
    sink = FakeSink()
    patience = RetryPolicy(max_retries=2, initial_delay=0.01, max_delay=0.02, freeze_timeout=5)
    assert not bench.make(scripts, patience=patience).run([sink])
    for i in range(3):
        assert len(numbers(sink.results, f"camera{i}")) > 8
        labels = {result.image[0, 0, 0] // 40 for result in sink.results if result.source == f"camera{i}"}
        assert labels == {i}  # nobody gets another's frames
    assert 0 < len(numbers(sink.results, "camera3")) <= 4
    states = {health.source: health.state for health in bench.pipeline.health()}
    assert states == {"camera0": "ended", "camera1": "ended", "camera2": "ended", "camera3": "dead"}
    assert "error: camera3: lost, given up after 2 retries" in caplog.messages
    assert caplog.messages[-1].endswith("1 source given up")


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_and_closes_everything(bench: Bench, kind: int) -> None:
    sinks = [FakeSink(), FakeSink()]
    send = bench.signal(kind, lambda: len(sinks[1].results) > 10)
    pipeline = bench.make(
        {camera(): [make_frame(1), send, ...], video(): [make_frame(i % 256) for i in range(100_000)]}
    )
    before, threads = signal.getsignal(kind), threading.active_count()
    if kind == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(sinks)
    else:
        assert pipeline.run(sinks)
    assert time.monotonic() - bench.signalled < 10
    assert all(sink.closed for sink in sinks)
    assert len(sinks[0].results) == len(sinks[1].results)  # what was classified is delivered
    assert signal.getsignal(kind) is before
    wait_for(lambda: threading.active_count() <= threads)


def test_what_hangs_does_not_keep_it_from_stopping(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    free, stuck, sink = threading.Event(), FakeSink(), FakeSink()
    stuck.write = lambda result: free.wait(20)
    send = bench.signal(signal.SIGTERM, lambda: sink.results)
    bench.make({camera(): [make_frame(1), send, lambda: free.wait(20)]}).run([stuck, sink])
    assert time.monotonic() - bench.signalled < 10
    assert sink.closed
    assert "fake did not end in time" in caplog.messages
    assert "camera0 did not end in time" in caplog.messages
    free.set()


def test_a_model_that_hangs_does_not_keep_sinks_from_closing(bench: Bench) -> None:
    sink, free = FakeSink(), threading.Event()
    hang = {"__call__": lambda self, *_: free.wait(20)}
    bench.classifier.__class__ = type("Hanging", (FakeClassifier,), hang)
    bench.make({camera(): [make_frame(1), 0.1, bench.signal(signal.SIGTERM, lambda: True), ...]}).run([sink])
    assert time.monotonic() - bench.signalled < 10
    assert sink.closed
    free.set()


def test_frames_that_wait_for_a_model_that_hangs(bench: Bench) -> None:
    """The last one too, behind which nothing comes; those that a sink holds back wait for something else."""
    free, sink, seen = threading.Event(), FakeSink(), []
    sink.write = lambda result: free.wait(20)
    classify = FakeClassifier.__call__

    def hang(self: FakeClassifier, *image: Any) -> object:
        wait_for(lambda: bench.pipeline.health()[1].state == "ended")
        seen.append([health.waiting for health in bench.pipeline.health()])
        return classify(self, *image)

    def look() -> None:
        wait_for(lambda: bench.pipeline.health()[0].frames == 9)  # one in the sink, 8 before it
        wait_for(lambda: bench.pipeline.queue.waiting(0) == 3)
        seen.append([health.waiting for health in bench.pipeline.health()])
        free.set()

    bench.classifier.__class__ = type("Hanging", (FakeClassifier,), {"__call__": hang})
    stdin = SourceSpec("-", "stdin", "-")
    assert bench.make({stdin: [*[make_frame(i) for i in range(12)], look], camera(): []}).run([sink])
    assert all(waiting > 0 for waiting, _ in seen[:9])
    assert seen[9] == [0, 0]
    assert [health.waiting for health in bench.pipeline.health()] == [0, 0]


def test_a_full_disk_is_told_once_and_counted(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    full, good = FakeSink(), FakeSink()
    full.full = True

    def mend() -> None:
        wait_for(lambda: len(good.results) == full.refused == 5)
        full.full = False

    steps = [*[make_frame(i) for i in range(5)], mend, make_frame(5)]
    assert not bench.make({video(): steps}).run([full, good])
    assert len(good.results) == 6
    assert [result.frame for result in full.results] == [5]
    assert caplog.messages.count("error: the disk is full") == 1
    assert "fake works again; 5 results lost" in caplog.messages
    assert caplog.messages[-1].endswith("5 results lost by fake")


def test_a_lossy_sink_that_fails_fails_nothing(bench: Bench) -> None:
    broker = FakeSink(lossless=False)
    broker.full = True
    assert bench.make({video(): [make_frame(1)]}).run([broker])


@pytest.mark.parametrize("where", ["sink", "close", "model", "source"])
def test_a_bug_ends_it_with_its_traceback(bench: Bench, where: str) -> None:
    sink, other = FakeSink(), FakeSink()

    def fail(*_: Any, **__: Any) -> None:
        raise BrokenPipeError("bug")

    steps: list[Step] = [*at_rate(30, 0.5)]
    if where == "sink":
        sink.write = fail
    elif where == "close":
        sink.close = fail
    elif where == "source":
        steps.insert(10, fail)
    else:
        bench.classifier.__class__ = type("Broken", (FakeClassifier,), {"__call__": fail})
    start = time.monotonic()
    with pytest.raises(BrokenPipeError, match="bug"):
        bench.make({camera(): steps}).run([sink, other])
    assert other.closed
    assert time.monotonic() - start < 10


def test_an_engine_that_fails_ends_it(bench: Bench) -> None:
    def fail(*_: object) -> None:
        raise EngineError("no memory")

    bench.classifier.__class__ = type("Broken", (FakeClassifier,), {"__call__": fail})
    with pytest.raises(EngineError):
        bench.make({video(): [make_frame(1)]}).run([])


def test_images_that_cannot_be_read_stop_no_other(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    sink = FakeSink()
    assert not bench.make({video(): [make_frame(1), lambda: ImageError("bad"), make_frame(2)]}).run([sink])
    assert [result.frame for result in sink.results] == [0, 2]
    assert caplog.messages[-1] == "2 frames, 100% from the text cache, 1 file failed"


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (Schedule(), [0, 1, 2, 3, 4, 5, 6, 7]),
        (Schedule(on_change=True), [0, 2, 5]),
        (Schedule(min_interval=0.3), [0, 3, 6]),
        (Schedule(min_interval=0.3, on_change=True), [0, 2, 5]),
        (Schedule(min_interval=0.2, on_change=True), [0, 2, 4, 5, 7]),
    ],
)
def test_which_results_are_due(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, schedule: Schedule, wanted: list[int]
) -> None:
    """Frames of a video, 0.1 s apart; the label changes at 0, 2 and 5. Sinks of every frame get every frame."""
    clock = iter([i / 10 + 1e-9 for i in range(8)])
    monkeypatch.setattr("support.fakes.time", type("Clock", (), {"time": lambda: next(clock), "sleep": time.sleep}))
    due, every = FakeSink(), FakeSink(takes="every_frame")
    frames = [make_frame(i) for i in (0, 0, 1, 1, 1, 0, 0, 0)]
    assert bench.make({video(): frames}, schedule=schedule).run([due, every])
    assert [result.frame for result in due.results] == wanted
    assert len(every.results) == 8


def test_health_while_it_runs(bench: Bench) -> None:
    seen: list[Any] = []
    sink = FakeSink()
    pipeline = bench.make(
        {
            camera(): [
                *at_rate(30, 0.5),
                lambda: wait_for(lambda: len(sink.results) > 2),
                lambda: seen.extend(bench.pipeline.health()),
            ]
        }
    )
    assert pipeline.run([sink])
    (health,) = seen
    assert (health.source, health.state, health.detail, health.restarts) == ("camera0", "live", "scripted", 0)
    assert 2 < health.frames <= len(sink.results)
    assert 0 < health.fps < 32
    assert abs(health.last_frame - time.time()) < 1


def test_a_dead_source_costs_next_to_nothing(bench: Bench) -> None:
    """Below 5% of a core while it waits to try again (the whole process is measured)."""
    patience = RetryPolicy(max_retries=100, first_retries=None, initial_delay=0.1, max_delay=0.2)
    pipeline = bench.make({camera(): [LOST]}, patience=patience)
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    wall, cpu = time.monotonic(), time.process_time()
    pipeline.run([FakeSink()])
    assert time.process_time() - cpu < 0.05 * (time.monotonic() - wall)
    assert bench.pipeline.health()[0].restarts > 5
