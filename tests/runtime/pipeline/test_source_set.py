"""Sources that come and go while others run: nothing is left behind, and the others lose nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.bench import QUICK, camera, video
from support.fakes import FakeClassifier, FakeSink, make_frame, scripted, wait_for
from support.streams import MjpegServer, mjpeg_server

from attri.runtime.capture import reader as reader_module
from attri.runtime.capture.open import open_source
from attri.runtime.capture.parse import find_source
from attri.runtime.capture.sources_file import read_sources
from attri.runtime.capture.spec import RegionSpec, SourceSpec
from attri.runtime.decide.schedule import Schedule
from attri.runtime.errors import EngineError, UsageError
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.pipeline.pipeline import Pipeline
from attri.runtime.pipeline.source_set import PlannedSource
from attri.runtime.pipeline.task import TaskSetup


class Sink(FakeSink):
    """Notes the end of each source among the results, in order."""

    results: list[Any]

    def source_ended(self, origin: str) -> None:
        self.results.append(origin)

    def of(self, name: str) -> list[Any]:
        return [each for each in list(self.results) if not isinstance(each, str) and each.origin == name]


class Plans:
    """What a test says there is: sources by name, in the file and in tables alike."""

    def __init__(self, classifier: FakeClassifier, file: Path | None) -> None:
        self.classifier, self.file = classifier, file
        self.wanted: dict[str, SourceSpec] = {}

    def specs_of_file(self) -> dict[str, SourceSpec]:
        if self.file is None:
            return {}
        if not self.file.exists():
            raise UsageError("sources.toml cannot be read: No such file or directory")
        names = self.file.read_text().split()
        if "broken" in names:
            raise UsageError("sources.toml is not TOML")
        return {name: self.wanted[name] for name in names}

    def spec_of_table(self, name: str, table: object) -> SourceSpec:
        if table == "wrong":
            raise UsageError(f"{name} is wrong")
        return self.wanted[name]

    def plan(self, specs: Sequence[SourceSpec]) -> list[PlannedSource]:
        return [PlannedSource(spec, self.tasks(spec)) for spec in specs]

    def tasks(self, spec: SourceSpec) -> list[list[TaskSetup]]:
        return [[TaskSetup(LiveLabels(self.classifier.fork(), None))] for _ in spec.rois]


class Running:
    """A pipeline in a thread, and what it was told and told."""

    def __init__(self, plans: Plans, *names: str) -> None:
        self.plans, self.sink = plans, Sink(takes="every_frame")
        specs = [plans.wanted[name] for name in names]
        tasks = [each for spec in specs for each in plans.tasks(spec)]
        self.pipeline = Pipeline(specs, tasks, Schedule(), QUICK, 4)
        self.pipeline.follow_sources(plans)
        self.good: bool | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.good = self.pipeline.run([self.sink])

    def change(self, **tables: object) -> None:
        self.pipeline.change_sources(tables)

    def see(self, name: str, count: int = 1) -> None:
        """Wait for so many more results of a source."""
        before = len(self.sink.of(name))
        wait_for(lambda: len(self.sink.of(name)) >= before + count)

    def wait_for_names(self, names: str) -> None:
        wait_for(lambda: self.names() == [*names])

    def names(self) -> list[str]:
        return [health.source for health in self.pipeline.health()]

    def states(self) -> Mapping[str, str]:
        return {health.source: health.state for health in self.pipeline.health()}


@pytest.fixture
def server() -> Iterator[MjpegServer]:
    with mjpeg_server(rate=100) as server:
        yield server


@pytest.fixture
def plans(server: MjpegServer, caplog: pytest.LogCaptureFixture) -> Plans:
    caplog.set_level(logging.INFO, "attri")
    plans = Plans(FakeClassifier(), None)
    plans.wanted = {name: replace(find_source(server.uri()), name=name) for name in ("a", "b", "c", "d")}
    return plans


@pytest.fixture
def run(plans: Plans) -> Iterator[Any]:
    runs: list[Running] = []
    yield lambda *names: runs.append(Running(plans, *names)) or runs[-1]
    for each in runs:
        each.pipeline.stop()
        each.thread.join(10)


def test_what_is_added_runs_and_what_is_removed_is_told_no_more(run: Any) -> None:
    running = run("a")
    wait_for(lambda: running.sink.of("a"))
    running.change(b={"uri": "..."})
    assert running.names() == ["a", "b"]
    wait_for(lambda: len(running.sink.of("b")) > 5)
    running.change(b=None)
    assert running.names() == ["a"]
    wait_for(lambda: "b" in running.sink.results)
    after = len(running.sink.of("a"))
    wait_for(lambda: len(running.sink.of("a")) > after + 20)
    end = running.sink.results.index("b")
    assert not [each for each in running.sink.results[end:] if getattr(each, "origin", "") == "b"]
    assert running.sink.results.count("b") == 1


def test_those_that_stay_are_not_touched(run: Any, server: MjpegServer) -> None:
    """`a` is opened once, and its frames go on being counted from where they were."""
    running = run("a")
    wait_for(lambda: running.sink.of("a"))
    opened = server.requests
    for name in ("b", "c"):
        running.change(**{name: {}})
        running.see(name)
    running.change(b=None, c=None)
    frames = [result.frame for result in running.sink.of("a")]
    assert frames == sorted(frames)
    assert server.requests == opened + 2
    health = {each.source: each for each in running.pipeline.health()}
    assert (health["a"].restarts, health["a"].state) == (0, "live")


def test_a_source_goes_while_it_is_started(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, removed = threading.Event(), threading.Event()

    class Slow(threading.Thread):
        def start(self) -> None:
            if self.name == "source b":
                entered.set()
                removed.wait(0.2)  # it cannot be, before this has ended
            super().start()

    monkeypatch.setattr(threading, "Thread", Slow)
    running = run("a", "b")
    assert entered.wait(60)
    running.change(b=None)
    removed.set()
    running.wait_for_names("a")


def test_frames_of_a_file_are_all_told_while_others_come_and_go(
    run: Any, plans: Plans, server: MjpegServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = scripted([step for i in range(200) for step in (make_frame(i), 0.002)])
    opener = lambda spec, *rest: (clip if spec.kind == "video" else open_source)(spec, *rest)  # noqa: E731
    monkeypatch.setattr(reader_module, "open_source", opener)
    plans.wanted["clip"] = video("clip")
    running = run("clip", "a")
    while len(running.sink.of("clip")) < 150:
        running.change(b={})
        running.change(b=None)
    wait_for(lambda: len(running.sink.of("clip")) == 200)
    assert [result.frame for result in running.sink.of("clip")] == list(range(200))


def test_twenty_that_come_and_go_leave_nothing_behind(run: Any) -> None:
    """Threads and open files are as many after them as before."""
    running = run("a")
    wait_for(lambda: running.sink.of("a"))
    for name in ("b", "c"):  # what is loaded and opened once
        running.change(**{name: {}})
        running.change(**{name: None})

    def held() -> tuple[int, int]:
        ours = [each for each in threading.enumerate() if not each.name.startswith(("Thread-", "process_request"))]
        return len(ours), len([*Path("/proc/self/fd").iterdir()])

    before = held()
    for number in range(20):
        running.change(b={})
        if number % 2:
            running.see("b")
        running.change(b=None)
    wait_for(lambda: held()[0] <= before[0] and held()[1] <= before[1])
    assert running.states() == {"a": "live"}
    assert len(running.pipeline.queue.dropped) == 1


def test_the_camera_of_a_source_that_goes_is_closed(run: Any, server: MjpegServer) -> None:
    running = run("a", "b")
    wait_for(lambda: running.sink.of("a") and running.sink.of("b"))
    running.change(a=None, b={"paused": True})
    assert running.states() == {"b": "paused"}
    sent = server.sent
    wait_for(lambda: server.requests == 2 and _stands_still(server))
    assert server.sent - sent < 20  # what was on its way
    assert running.thread.is_alive()  # one that is paused has not ended
    running.change(b={"paused": False})
    seen = len(running.sink.of("b"))
    wait_for(lambda: len(running.sink.of("b")) > seen + 3)


def _stands_still(server: MjpegServer) -> bool:
    before = server.sent
    threading.Event().wait(0.2)
    return server.sent == before


def test_a_pause_keeps_labels_that_were_changed(run: Any) -> None:
    running = run("a", "b")
    running.pipeline.set_labels("lion\ntiger", "a")
    for paused in (True, False):
        running.change(a={"paused": paused})
        assert running.pipeline.labels("a") == ["lion", "tiger"]
    assert running.names() == ["a", "b"]  # in their places
    wait_for(lambda: [each for each in running.sink.of("a") if each.label == "lion"])


def test_one_that_changed_starts_again_and_keeps_its_place(run: Any, plans: Plans, server: MjpegServer) -> None:
    running = run("a", "b")
    wait_for(lambda: running.sink.of("a"))
    plans.wanted["a"] = replace(
        plans.wanted["a"], regions=(RegionSpec("left", (0, 0, 8, 8)), RegionSpec("right", (8, 8, 8, 8)))
    )
    running.change(a={})
    assert running.names() == ["a/left", "a/right", "b"]
    wait_for(lambda: running.sink.of("a/left") and running.sink.of("a/right"))
    plans.wanted["a/left"] = replace(plans.wanted["b"], name="a/left")
    with pytest.raises(UsageError, match="both called a/left"):
        running.pipeline.change_sources({"a/left": {}})


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"x": None}, "there is no source x"),
        ({"x": {"paused": True}}, "there is no source x"),
        ({"a": {"paused": "yes"}}, "a.paused is true or false"),
        ({"clip": {"paused": True}}, "clip is no camera or stream"),
        ({"a": None, "b": None, "clip": None}, "this is the only source"),
        ({"c": {}, "d": "wrong"}, "d is wrong"),
        ({"a": None, "x": None}, "there is no source x"),
    ],
)
def test_an_error_changes_nothing(run: Any, plans: Plans, tmp_path: Path, tables: dict[str, Any], words: str) -> None:
    plans.wanted["clip"] = SourceSpec("clip", "watch", str(tmp_path))
    running = run("a", "b", "clip")
    wait_for(lambda: running.sink.of("a") and running.sink.of("b"))
    channels = running.pipeline.channels
    with pytest.raises(UsageError, match=words):
        running.pipeline.change_sources(tables)
    assert running.pipeline.channels is channels
    assert running.states() == {"a": "live", "b": "live", "clip": "live"}


def test_prompts_that_do_not_fit_change_nothing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = run("a")

    def refuse(_: object) -> None:
        raise EngineError("too many pool entries")

    monkeypatch.setattr("attri.runtime.pipeline.label_control.require_room", refuse)
    with pytest.raises(EngineError, match="too many"):
        running.change(b={})
    assert running.names() == ["a"]
    assert running.thread.is_alive()


def test_the_file_is_followed(run: Any, plans: Plans, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plans.file = tmp_path / "sources"
    plans.file.write_text("a b")
    running = run("a", "b", "d")  # d is of the command line
    running.change(c={})  # and c was sent
    wait_for(lambda: all(running.sink.of(name) for name in "abcd"))
    opened = {each.name: each.reader for each in running.pipeline.channels}
    for text, names in (("a broken", "abdc"), ("a", "adc"), ("b a", "adcb")):
        plans.file.write_text(text)
        running.wait_for_names(names)
        if "broken" in text:
            wait_for(lambda: "sources.toml is not TOML; the sources from before stay" in caplog.messages)
            assert running.names() == [*names]
    for each in running.pipeline.channels:
        assert (each.reader is opened[each.name]) == (each.name != "b")
    plans.file.unlink()
    wait_for(lambda: any("No such file" in message for message in caplog.messages))
    assert running.names() == [*"adcb"]


def test_what_was_sent_is_not_undone_by_a_file_that_says_nothing_new(run: Any, plans: Plans, tmp_path: Path) -> None:
    plans.file = tmp_path / "sources"
    plans.file.write_text("a b")
    running = run("a", "b")
    running.change(a={"paused": True})
    plans.file.write_text("a b c")
    wait_for(lambda: running.names() == ["a", "b", "c"])
    assert running.states()["a"] == "paused"


def test_one_that_is_paused_from_the_start_is_not_opened(run: Any, plans: Plans, server: MjpegServer) -> None:
    plans.wanted["b"] = replace(plans.wanted["b"], paused=True)
    running = run("a", "b")
    wait_for(lambda: len(running.sink.of("a")) > 5)
    assert running.states()["b"] == "paused"
    assert server.requests == 1


def test_a_pipeline_that_was_not_told_how_changes_nothing(plans: Plans) -> None:
    pipeline = Pipeline([camera()], plans.tasks(camera()), Schedule(), QUICK)
    with pytest.raises(UsageError, match="cannot be changed"):
        pipeline.change_sources({"a": None})


def test_the_summary_counts_those_that_are_gone(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    running = run("a", "b")
    wait_for(lambda: len(running.sink.of("b")) > 5)
    running.change(b=None)
    frames = {each.source: each.frames for each in running.pipeline.health()}
    running.pipeline.stop()
    running.thread.join(10)
    counted = int(caplog.messages[-1].split()[0])
    assert counted >= frames["a"] + 6


def with_roi(spec: SourceSpec, **rois: tuple[int, int, int, int]) -> SourceSpec:
    return replace(spec, regions=tuple(RegionSpec(name, roi) for name, roi in rois.items()))


def test_a_region_that_is_drawn_leaves_the_others_as_they_are(run: Any, plans: Plans, server: MjpegServer) -> None:
    plans.wanted["a"] = with_roi(plans.wanted["a"], door=(0, 0, 16, 8), yard=(8, 8, 16, 16))
    running = run("a")
    running.see("a/door")
    running.see("a/yard")
    about = running.pipeline.regions("a")
    assert about.rois == {"door": (0, 0, 16, 8), "yard": (8, 8, 16, 16)}
    height, width = about.image.shape[:2]
    requests = server.requests
    running.pipeline.set_regions("a", {"yard": [1, 2, 10, 12], "door": [0, 0, 16, 8], "all": [0, 0, width, height]})
    running.wait_for_names(("a/door", "a/yard", "a/all"))
    frames = {health.source: health.frames for health in running.pipeline.health()}
    assert frames["a/door"] > 0
    running.see("a/yard", 2)
    assert running.sink.of("a/yard")[-1].image.shape == (12, 10, 3)
    running.see("a/all")
    assert running.sink.of("a/all")[-1].image.shape == (height, width, 3)
    numbers = [result.frame for result in running.sink.of("a/door")]
    assert numbers == sorted(set(numbers))  # none came twice, and none again from 0
    running.pipeline.set_regions("a", {"door": [0, 0, 16, 8]})
    running.wait_for_names(("a/door",))
    wait_for(lambda: {"a/yard", "a/all"} <= {each for each in running.sink.results if isinstance(each, str)})
    assert "a/door" not in running.sink.results
    running.pipeline.set_regions("a", {})
    running.wait_for_names(("a",))
    running.see("a")
    assert server.requests == requests  # it was not opened again


def test_regions_that_cannot_be_change_nothing(run: Any) -> None:
    running = run("a")
    running.see("a")
    with pytest.raises(UsageError, match="door: the region 0,0,9000,8 is not inside a frame"):
        running.pipeline.set_regions("a", {"door": [0, 0, 9000, 8]})
    with pytest.raises(UsageError, match="there is no source nowhere"):
        running.pipeline.set_regions("nowhere", {})
    assert running.names() == ["a"]
    with pytest.raises(UsageError, match="not from a sources file"):
        running.pipeline.write_regions("a")
    assert running.pipeline.regions_origin("a").file is None


def test_a_region_that_was_written_is_not_taken_for_new(
    run: Any, plans: Plans, tmp_path: Path, server: MjpegServer
) -> None:
    plans.file = tmp_path / "sources.toml"
    plans.file.write_text(f'a = {{uri = "{server.uri()}"}}\n')
    plans.specs_of_file = lambda: read_sources(plans.file)
    running = run("a")
    running.see("a", 3)
    requests = server.requests
    running.pipeline.set_regions("a", {"door": [0, 0, 16, 8]})
    assert running.pipeline.regions_origin("a").edited
    wait_for(lambda: written(running))
    assert not running.pipeline.regions_origin("a").edited
    assert read_sources(plans.file)["a"].rois == [(0, 0, 16, 8)]
    running.see("a/door", 100)  # longer than it takes to look at the file
    assert server.requests == requests  # it was not opened again
    plans.file.write_text(plans.file.read_text().replace("16, 8", "16, 9"))  # by hand
    wait_for(lambda: running.pipeline.regions("a").rois == {"door": (0, 0, 16, 9)})
    assert server.requests == requests  # it was not opened again


def written(running: Running) -> bool:
    """Write, once the pipeline has looked at the file that it is to write."""
    try:
        running.pipeline.write_regions("a")
    except UsageError:
        return False
    return True
