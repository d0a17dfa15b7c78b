"""Regions that are drawn: what they may be, and the sources file after they were written into it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attri.runtime.capture.parse import find_source
from attri.runtime.capture.sources_file import read_sources
from attri.runtime.capture.spec import RegionSpec, SourceOptions, SourceSpec
from attri.runtime.decide.task_spec import TaskSpec
from attri.runtime.errors import UsageError
from attri.runtime.pipeline.regions import edited_regions, with_regions

pytest.importorskip("tomlkit")
FRAME = np.zeros((480, 640, 3), np.uint8)
FILE = """# cameras of the site
[gate]   # the north one
uri = "rtsp://user:p%2Fw@192.0.2.7/stream" # changes in May
threshold = 0.5

# who comes in
[gate.regions.door]
roi = [100, 80, 300, 400] # measured by hand
threshold = 0.7 # strict
motion = 3.0

[gate.regions.yard]
roi = [0, 0, 64, 64]

# nothing to see here
["the hall"]
uri = "camera1"
roi = [0, 0, 320, 240] # the left half
"""


@pytest.fixture
def gate() -> SourceSpec:
    door = RegionSpec("door", (100, 80, 300, 400), TaskSpec(threshold=0.7), motion=3.0)
    return replace(find_source("rtsp://192.0.2.7/stream"), name="gate", regions=(door,))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sources.toml"
    path.write_text(FILE)
    return path


def test_a_region_that_there_is_keeps_what_is_asked(gate: SourceSpec) -> None:
    found = with_regions(gate, {"door": [1, 2, 3, 4], "yard": [5, 6, 7, 8]}, FRAME)
    assert found.regions == (
        RegionSpec("door", (1, 2, 3, 4), TaskSpec(threshold=0.7), motion=3.0),
        RegionSpec("yard", (5, 6, 7, 8)),
    )
    whole = replace(gate, regions=(), input=SourceOptions(roi=(0, 0, 9, 9)))
    assert with_regions(whole, {}, None).rois == [None]


@pytest.mark.parametrize(
    ("rois", "message"),
    [
        ({"a b": [0, 0, 9, 9]}, "a region cannot be called 'a b'"),
        ({"door": [0, 0, 9]}, "door is x, y, width and height, whole pixels"),
        ({"door": [0, 0, 9.5, 9]}, "whole pixels"),
        ({"door": None}, "whole pixels"),
        ({"door": [600, 0, 41, 9]}, "door: the region 600,0,41,9 is not inside a frame of 640 x 480"),
        ({f"r{number}": [0, 0, 9, 9] for number in range(65)}, "65 regions are too many"),
    ],
)
def test_what_cannot_be_a_region_is_refused(gate: SourceSpec, rois: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_regions(gate, rois, FRAME)


def test_objects_of_frigate_have_no_regions() -> None:
    with pytest.raises(UsageError, match="takes no regions"):
        with_regions(replace(find_source("frigate://nvr"), name="nvr"), {"door": [0, 0, 9, 9]}, None)


def test_only_what_was_drawn_changes_in_the_file(file: Path) -> None:
    gate = with_regions(read_sources(file)["gate"], {"door": [1, 2, 3, 4], "shed": [9, 9, 9, 9]}, FRAME)
    file.write_bytes(edited_regions(file, gate))
    assert read_sources(file)["gate"] == gate
    lines = file.read_text().splitlines()
    kept = [line for line in FILE.splitlines() if line and "yard" not in line and "roi = [0, 0, 64" not in line]
    assert [line for line in kept if line not in lines] == ["roi = [100, 80, 300, 400] # measured by hand"]
    assert "roi = [1, 2, 3, 4] # measured by hand" in lines
    assert "yard" not in file.read_text()


def test_regions_come_in_the_place_of_one_without_a_name_and_go_again(file: Path) -> None:
    hall = with_regions(read_sources(file)["the hall"], {"left": [0, 0, 32, 32]}, FRAME)
    file.write_bytes(edited_regions(file, hall))
    found = read_sources(file)
    assert found["the hall"] == hall
    assert found["gate"] == read_sources(file)["gate"]
    file.write_bytes(edited_regions(file, with_regions(hall, {}, FRAME)))
    assert read_sources(file)["the hall"].rois == [None]
    assert "# nothing to see here" in file.read_text()


def test_an_inline_table_is_edited_too(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('gate = {uri = "camera0", regions = {door = {roi = [0, 0, 9, 9], threshold = 0.5}}}\n')
    gate = with_regions(read_sources(path)["gate"], {"door": [1, 1, 9, 9], "yard": [2, 2, 9, 9]}, FRAME)
    path.write_bytes(edited_regions(path, gate))
    assert read_sources(path)["gate"] == gate


def test_a_file_that_says_something_else_is_left_alone(file: Path, gate: SourceSpec) -> None:
    file.write_text(FILE.replace("0.7", "0.9"))
    with pytest.raises(UsageError, match="says something else of gate"):
        edited_regions(file, gate)
    file.write_text('[hall]\nuri = "camera1"\n')
    with pytest.raises(UsageError, match="has no source gate any more"):
        edited_regions(file, gate)
    file.write_text("[gate\n")
    with pytest.raises(UsageError, match="is not TOML"):
        edited_regions(file, gate)


def test_what_cannot_be_edited_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('[gate]\nuri = "camera0"\nregions.door.roi = [0, 0, 9, 9]\n')
    gate = read_sources(path)["gate"]
    moved = with_regions(gate, {"door": [1, 1, 9, 9]}, FRAME)
    assert b"regions.door.roi = [1, 1, 9, 9]" in edited_regions(path, moved)
    with pytest.raises(UsageError, match=r"write the regions of gate as \[gate.regions.NAME\]"):
        edited_regions(path, with_regions(gate, {"yard": [2, 2, 9, 9]}, FRAME))
