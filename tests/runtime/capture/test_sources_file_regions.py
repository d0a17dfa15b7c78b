"""Regions in a sources file: what a person may write there, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from attri.runtime.capture.sources_file import read_sources
from attri.runtime.capture.spec import RegionSpec, SourceSpec
from attri.runtime.decide.task_spec import TaskSpec
from attri.runtime.errors import UsageError

GATE = '[gate]\nuri = "camera0"\n'
DOOR = "[gate.regions.door]\nroi = [0, 0, 8, 8]\n"


def read(folder: Path, text: str) -> SourceSpec:
    (folder / "sources.toml").write_text(text, encoding="utf-8")
    return read_sources(folder / "sources.toml")["gate"]


def test_regions_of_a_source(tmp_path: Path) -> None:
    """Each is asked what it says itself; one that says nothing, what is asked of the source."""
    spec = read(
        tmp_path,
        """
        [gate]
        uri = "camera0"
        labels = "gate.txt"
        [gate.tasks.weather]
        labels = "weather.txt"
        [gate.tasks.people]
        [gate.regions.door]
        roi = [10, 20, 300, 400]
        labels = "door.txt"
        threshold = 0.6
        min_duration = 2
        [gate.regions.yard]
        roi = [0, 0, 64, 64]
        """,
    )
    door = TaskSpec(labels=tmp_path / "door.txt", threshold=0.6, min_duration=2)
    tasks = (TaskSpec("weather", labels=tmp_path / "weather.txt"), TaskSpec("people"))
    assert spec.regions == (RegionSpec("door", (10, 20, 300, 400), door), RegionSpec("yard", (0, 0, 64, 64)))
    assert spec.rois == [(10, 20, 300, 400), (0, 0, 64, 64)]
    assert spec.asked == [(door,), tasks]
    assert read(tmp_path, GATE).rois == [None]
    assert read(tmp_path, GATE).asked == [(TaskSpec(),)]
    assert read(tmp_path, f"{GATE}roi = [1, 2, 3, 4]").rois == [(1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{GATE}regions = 3", r"gate\.regions cannot be 3"),
        (f"{GATE}[gate.regions]", r"gate\.regions cannot be \{\}"),
        (f"{GATE}[gate.regions]\ndoor = [0, 0, 8, 8]", r"gate\.regions\.door must be a table"),
        (f"{GATE}[gate.regions.door]\nthreshold = 0.5", r"gate\.regions\.door has no roi"),
        (f"{GATE}[gate.regions.door]\nroi = [0, 0, 0, 8]", r"gate\.regions\.door\.roi cannot be"),
        (f"{GATE}{DOOR}colour = 3", r"gate\.regions\.door\.colour is not known: use roi, "),
        (f"{GATE}{DOOR}smooth = 1\nmajority = 3", "smooth and majority are two ways"),
        (f'{GATE}[gate.regions."a/b"]\nroi = [0, 0, 8, 8]', "a region cannot be called 'a/b'"),
        (f"{GATE}[gate.regions.state]\nroi = [0, 0, 8, 8]", "a region cannot be called 'state'"),
        (f"{GATE}roi = [0, 0, 9, 9]\n{DOOR}", "gate: roi and regions are two ways to one end"),
        (f"{GATE}[gate.tasks.a]\n{DOOR}threshold = 0.5", r"gate\.tasks: every region has labels, prompt or decisions"),
        (f'[gate]\nuri = "{Path(__file__).parent}"\n{DOOR}smooth = 1', "an image says nothing of the next"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.png").touch()
    text = text.replace(str(Path(__file__).parent), str(tmp_path))
    with pytest.raises(UsageError, match=message):
        read(tmp_path, text)
