"""A pipeline that classifies only what has changed: results come all the same, and from fewer runs of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.bench import LOST, Bench, camera, video
from support.fakes import FakeSink, make_frame, wait_for

from attri.runtime.capture.sources_file import read_sources
from attri.runtime.capture.spec import RegionSpec, SourceOptions
from attri.runtime.cli.run import main
from attri.runtime.decide.smoothing import DecisionRule
from attri.runtime.deliver.format import json_object
from attri.runtime.errors import UsageError

WATCHED = replace(video(), input=SourceOptions(motion=3.0))


@pytest.mark.parametrize("batch", [1, 4])
def test_frames_that_show_the_same_get_the_prediction_of_the_one_before(bench: Bench, batch: int) -> None:
    script = [make_frame(number) for number in (0, 0, 0, 61, 61, 0, 0, 0, 0, 61)]
    sink = FakeSink()
    assert bench.make({WATCHED: script}, batch=batch).run([sink])
    assert bench.classifier.seen == [0, 61, 0, 61]
    assert [result.label for result in sink.results] == ["cat"] * 3 + ["dog"] * 2 + ["cat"] * 4 + ["dog"]
    assert [result.frame for result in sink.results] == list(range(10))
    assert [result.unchanged for result in sink.results] == [i not in (0, 3, 5, 9) for i in range(10)]
    assert [json_object(result, 1).get("unchanged") for result in sink.results[:2]] == [None, True]


def test_decisions_over_time_go_on(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A label that has to hold for three frames does so, although only the first of them is classified."""
    caplog.set_level("INFO")
    sink = FakeSink()
    script = [*[make_frame(0)] * 5, *[make_frame(61)] * 5]
    bench.make({WATCHED: script}, rule=DecisionRule(majority=5)).run([sink])
    assert [result.label for result in sink.results] == ["cat"] * 7 + ["dog"] * 3
    assert ", 8 frames unchanged" in caplog.messages[-1]


def test_other_labels_are_asked_at_once(bench: Bench) -> None:
    def change() -> None:
        wait_for(lambda: len(sink.results) == 3)
        bench.pipeline.set_labels("car\nbus\n")

    sink = FakeSink()
    watched = replace(camera(), input=SourceOptions(motion=3.0))
    bench.make({watched: [*[make_frame(0), 0.05] * 3, change, make_frame(1), LOST]})
    bench.pipeline.run([sink])
    assert sink.results[-1].prediction.labels == ("car", "bus")


def test_each_region_is_watched_by_itself(bench: Bench) -> None:
    """On the left something moves, on the right never; the right one watches, and so does not classify again."""
    regions = (RegionSpec("left", (0, 0, 4, 6)), RegionSpec("right", (4, 0, 4, 6), motion=3.0))
    frames = []
    for number in range(6):
        frames.append(make_frame(number))
        frames[-1][:, 4:] = 100
    spec, sink = replace(video(), regions=regions), FakeSink()
    bench.make({spec: frames}).run([sink])
    assert bench.classifier.seen.count(100) == 1
    assert len(bench.classifier.seen) == 7
    assert len(sink.results) == 12


def test_a_sources_file_may_watch(tmp_path: Path) -> None:
    file = tmp_path / "sources.toml"
    text = '[gate]\nuri = "camera0"\nmotion = 3\nmotion_max_age = 20\n[gate.regions.a]\nroi = [0, 0, 8, 8]\n'
    file.write_text(f"{text}[gate.regions.b]\nroi = [0, 0, 8, 8]\nmotion = 1.5")
    assert read_sources(file)["gate"].motions == [3, 1.5]
    file.write_text('[gate]\nuri = "camera0"\nmotion_max_age = 20')
    with pytest.raises(UsageError, match=r"gate\.motion_max_age is for motion"):
        read_sources(file)
    file.write_text(f'[gate]\nuri = "{tmp_path}"\n[gate.regions.b]\nroi = [0, 0, 8, 8]\nmotion = 1.5')
    (tmp_path / "a.png").touch()
    with pytest.raises(UsageError, match=r"gate\.regions\.b takes no motion"):
        read_sources(file)


def test_a_maximum_age_without_motion_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    run = CliRunner().invoke(main, [str(tmp_path / "a.mp4"), "--motion-max-age", "9", "--bundle", str(tmp_path)])
    assert (run.exit_code, "--motion-max-age is for --motion" in run.output) == (2, True)
