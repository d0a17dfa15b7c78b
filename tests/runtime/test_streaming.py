"""attri.runtime.stream over real files and a scripted camera: results, order, options, closing, errors."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.fakes import FakeClassifier, frames_until, make_frame, scripted

from attri.runtime import Classifier, stream
from attri.runtime.capture import reader
from attri.runtime.errors import SourceError, UsageError


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> Iterator[Classifier]:
    made = Classifier.load(bundle)
    yield made
    made.close()


@pytest.fixture
def folder(image_files: list[Path], tmp_path: Path) -> Path:
    for number, file in enumerate(image_files[:3]):
        shutil.copy(file, tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture
def video(image_files: list[Path], tmp_path: Path) -> Path:
    av = pytest.importorskip("av", reason="av is not installed")
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        track = container.add_stream("libx264", rate=10)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        for file in [*image_files[:2]] * 5:
            frame = np.asarray(Image.open(file).convert("RGB").resize((64, 48)))
            container.mux(track.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(track.encode())
    return tmp_path / "v.mkv"


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(("stream ", "classify", "sink "))]


def test_stream_classifies_a_folder_as_the_classifier_does(classifier: Classifier, folder: Path) -> None:
    results = list(stream(folder, classifier=classifier, batch=2))
    assert [Path(result.source).name for result in results] == ["0.png", "1.png", "2.png"]
    for result in results:
        alone = classifier(result.source)
        np.testing.assert_allclose(result.prediction.probabilities, alone.probabilities, atol=1e-5)
    assert threads() == []


def test_regions_are_classified_each_by_itself(classifier: Classifier, folder: Path, video: Path) -> None:
    for file in folder.glob("*.png"):
        Image.open(file).convert("RGB").resize((96, 64)).save(file)
    regions = {"left": (0, 0, 48, 64), "right": (48, 0, 48, 64)}
    results = list(stream(folder, classifier=classifier, regions=regions))
    assert [result.origin for result in results] == [f"{folder}/left", f"{folder}/right"] * 3
    for number, result in enumerate(results):
        x, y, width, height = regions[result.origin.rpartition("/")[2]]
        crop = Image.open(folder / f"{number // 2}.png").crop((x, y, x + width, y + height))
        np.testing.assert_allclose(result.prediction.probabilities, classifier(crop).probabilities, atol=1e-5)
    assert len(list(stream(video, classifier=classifier, regions={"all": (0, 0, 64, 48)}, stride=2))) == 5
    with pytest.raises(SourceError, match="is not inside a frame"):
        list(stream(video, classifier=classifier, regions={"out": (0, 0, 65, 48), "in": (0, 0, 8, 8)}))


def test_regions_that_are_none(classifier: Classifier, folder: Path) -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ({"a b": (0, 0, 8, 8)}, {}, "a region cannot be called 'a b'"),
        ({"a": (0, 0, 0, 8)}, {}, "the region a cannot be"),
        ({"a": (0, 0, 8, 8)}, {"roi": (0, 0, 8, 8)}, "two ways to one end"),
    ]
    for regions, options, words in cases:
        with pytest.raises(UsageError, match=words):
            stream(folder, classifier=classifier, regions=regions, **options)


def test_stream_of_a_video_smooths_paces_and_takes_source_options(classifier: Classifier, video: Path) -> None:
    every = list(stream(video, classifier=classifier, majority=3))
    assert [result.frame for result in every] == list(range(10))
    assert sum(result.changed for result in every) <= 2
    paced = list(stream(video, classifier=classifier, min_interval=0.3, stride=2))
    assert [result.frame for result in paced] == [0, 4, 8]


def test_stream_with_own_labels_leaves_the_classifier_alone(classifier: Classifier, folder: Path) -> None:
    before = classifier.labels
    results = list(stream(folder, classifier=classifier, labels=["a cat", "a dog"]))
    assert {result.prediction.labels for result in results} == {("a cat", "a dog")}
    assert classifier.labels == before


def test_stream_opens_a_bundle(bundle: Path, folder: Path) -> None:
    assert len(list(stream(folder / "0.png", bundle=bundle))) == 1


def test_stream_that_is_closed_ends_its_threads(video: Path) -> None:
    results = stream(video, classifier=FakeClassifier(), loop=-1)
    assert threads() == []  # none before the first result
    assert next(results).frame == 0
    assert threads() != []
    results.close()
    assert threads() == []


def test_stream_of_a_live_source_gives_a_slow_loop_the_newest_result(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr(reader, "open_source", scripted([frames_until(done.is_set, rate=100), ...]))
    results = stream("camera0", classifier=FakeClassifier())
    first = next(results)
    time.sleep(0.5)
    next(results)  # made while the loop slept, and the last to be: 1 of 50
    second = next(results)
    done.set()
    results.close()
    assert second.frame - first.frame > 10


def test_stream_raises_what_breaks(
    monkeypatch: pytest.MonkeyPatch, classifier: Classifier, tmp_path: Path, image_files: list[Path]
) -> None:
    (tmp_path / "words.png").write_text("no image")
    with pytest.raises(SourceError, match="none of its images can be read"):
        list(stream(tmp_path / "words.png", classifier=classifier))
    shutil.copy(image_files[0], tmp_path / "good.png")
    assert len(list(stream(tmp_path, classifier=classifier))) == 1  # what cannot be read is left out
    monkeypatch.setattr(reader, "open_source", scripted([make_frame(1), SourceError("lost")]))
    results = stream("camera0", classifier=FakeClassifier(), max_retries=0)
    assert next(results).label == "dog"
    with pytest.raises(SourceError, match="lost"):
        next(results)
    monkeypatch.setattr(reader, "open_source", scripted([make_frame(1), ZeroDivisionError("a bug")]))
    with pytest.raises(ZeroDivisionError):
        list(stream("camera0", classifier=FakeClassifier()))
    assert threads() == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, UsageError, "gone.png does not exist"),
        ({"bundle": "b"}, TypeError, "not both"),
        ({"speed": 1}, TypeError, "takes no option speed"),
        ({"stride": 0}, UsageError, "stride cannot be 0"),
        ({"smooth": 1.0, "majority": 3}, UsageError, "two ways"),
    ],
    ids=["source", "both", "unknown", "value", "exclusive"],
)
def test_stream_refuses_wrong_usage_at_once(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        stream("gone.png", classifier=FakeClassifier(), **options)


def test_stream_refuses_options_that_the_source_does_not_take(folder: Path) -> None:
    with pytest.raises(UsageError, match="takes no width"):
        stream(folder, classifier=FakeClassifier(), width=640)
