"""Explanations as files: a PNG and JSON for each image, names that stay apart, and errors that lose one result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest
from PIL import Image
from support.results import FakeControl, make_result

from attri.runtime.deliver.explain.panels import labels_to_explain
from attri.runtime.deliver.explain.sink import ExplainSink
from attri.runtime.errors import SinkError, UsageError


def test_a_png_and_the_numbers_beside_it(tmp_path: Path) -> None:
    sink = ExplainSink(tmp_path / "why", FakeControl(), 2)
    sink.write(make_result("photos/a b.png"))
    found = json.loads((tmp_path / "why" / "photos-a-b.png.json").read_text())
    assert found["label"] == "red apple"
    assert [each["label"] for each in found["explanations"]] == ["red apple", "かりんご"]
    for each in found["explanations"]:
        assert sum(map(sum, each["patches"])) + each["rest"] == pytest.approx(each["cosine"], abs=1e-5)  # rounded
    with Image.open(tmp_path / "why" / "photos-a-b.png.png") as image:
        assert image.format == "PNG"
        assert image.width > 3 * 240  # the image, the label, the label and not the other


def test_files_of_equal_ends_stay_apart_and_have_the_same_names_again(tmp_path: Path) -> None:
    long = "x" * 100
    for _ in range(2):
        sink = ExplainSink(tmp_path, FakeControl(), 1)
        sink.write(make_result(f"a/{long}.png"))
        sink.write(make_result(f"b/{long}.png"))
    names = sorted(file.name for file in tmp_path.glob("*.png"))
    assert len(names) == 2
    assert names[0].endswith("-2.png")


def test_of_a_video_only_changes_are_explained(tmp_path: Path) -> None:
    sink = ExplainSink(tmp_path, FakeControl(), 1)
    for frame in range(4):
        sink.write(make_result("walk.mp4", frame, changed=frame in (0, 2)))
    assert sorted(file.name for file in tmp_path.glob("*.png")) == ["walk.mp4_0.png", "walk.mp4_2.png"]


def test_what_cannot_be_explained_or_written_is_a_lost_result(tmp_path: Path) -> None:
    class Gone(FakeControl):
        def explain(self, *_: object) -> NoReturn:
            raise UsageError("'red apple' is not among the labels that are in use")

    with pytest.raises(SinkError, match=r"a\.png cannot be explained: 'red apple' is not among"):
        ExplainSink(tmp_path, Gone(), 1).write(make_result("a.png"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        ExplainSink(tmp_path / "file", FakeControl(), 1)


def test_where_nothing_was_decided_the_best_label_is_explained() -> None:
    assert labels_to_explain(make_result(label=None, score=0.4)) == ["red apple", "かりんご"]
    assert labels_to_explain(make_result(label="bird")) == ["bird", "red apple"]
