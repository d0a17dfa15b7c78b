"""Images of which different things are asked, in one run of the vision graph: each gets what it gets by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.engines import WatchedEngine
from support.prompts import kinds_of_prompts

from attri.runtime import Classifier, Prediction
from attri.runtime.bundle import TEXT, VISION, Bundle
from attri.runtime.errors import ImageError
from attri.runtime.text.cache import TextCache
from attri.runtime.text.hysteresis import RetrievalHysteresis

Found = Sequence[list[Prediction] | ImageError]
SUMS = 1e-6  # other columns and rows stand beside it in the products of float32


@pytest.fixture
def engines(bundle: Path) -> tuple[WatchedEngine, WatchedEngine]:
    with Bundle.open(bundle) as opened:
        vision, text = (WatchedEngine(opened.graph(name)) for name in (VISION, TEXT))
    return vision, text


@pytest.fixture
def classifier(bundle: Path, engines: tuple[WatchedEngine, WatchedEngine]) -> Iterator[Classifier]:
    with Bundle.open(bundle) as opened:
        yield Classifier(opened, *engines, ["red apple", "bird"], TextCache())


def forks_of(classifier: Classifier, bundle: Path) -> list[Classifier]:
    """With learned, other, static and zero-shot prompts, and labels of their own."""
    forks = []
    for prompt in kinds_of_prompts(bundle).values():
        forks.append(classifier.fork())
        forks[-1].set_prompt(prompt)
    return [*forks, classifier.fork(["cat", "dog", "bird"])]


def assert_same(found: Prediction, wanted: Prediction) -> None:
    assert (found.labels, found.threshold, found.label) == (wanted.labels, wanted.threshold, wanted.label)
    np.testing.assert_array_equal(found.retrieved, wanted.retrieved)
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, rtol=0, atol=SUMS)


def predictions(found: list[Prediction] | ImageError) -> list[Prediction]:
    assert not isinstance(found, ImageError)
    return found


def test_each_image_is_asked_what_belongs_to_it(
    classifier: Classifier, engines: tuple[WatchedEngine, WatchedEngine], bundle: Path, image_files: list[Path]
) -> None:
    """One, two and the same questions again; the labels of one prompt are encoded together."""
    forks = forks_of(classifier, bundle)
    rows = [[0], [1, 4], [2], [3, 0], [4], [4], [0, 0]]
    files = image_files[: len(rows)]
    wanted = [[forks[number](file) for number in row] for file, row in zip(files, rows, strict=True)]
    vision, text = engines
    for known in (False, True):
        vision.runs.clear()
        text.runs.clear()
        if not known:
            classifier.cache.__init__()  # type: ignore[misc]  # as at the start
        found = classifier.classify_each(files, [[(forks[number], None) for number in row] for row in rows])
        assert [len(run["pixels"]) for run in vision.runs] == [len(rows)]
        assert len(text.runs) <= (0 if known else len(forks))
        for one, other in zip(found, wanted, strict=True):
            for prediction, alone in zip(predictions(one), other, strict=True):
                assert_same(prediction, alone)


def test_the_memory_of_each_video_is_its_own(classifier: Classifier, bundle: Path, image_files: list[Path]) -> None:
    """Two videos and one without memory in mixed batches, each as in batches of its own."""
    fork = forks_of(classifier, bundle)[0]
    videos = [image_files[:8], image_files[8:16], image_files[16:24]]
    wanted = []
    for video, memory in zip(videos, [RetrievalHysteresis(0.05), RetrievalHysteresis(2.0), None], strict=True):
        wanted.append([fork(file, memory) for file in video])
    memories = [RetrievalHysteresis(0.05), RetrievalHysteresis(2.0), None]
    for number in range(8):
        found = classifier.classify_each([video[number] for video in videos], [[(fork, each)] for each in memories])
        for one, results in zip(found, wanted, strict=True):
            assert_same(predictions(one)[0], results[number])
    assert len({each.retrieved.tobytes() for each in wanted[1]}) == 1  # the wide margin keeps the first


def test_an_image_that_cannot_be_read_costs_the_others_nothing(
    classifier: Classifier, engines: tuple[WatchedEngine, WatchedEngine], image_files: list[Path], tmp_path: Path
) -> None:
    files = [image_files[0], tmp_path / "gone.png", image_files[1]]
    good = [classifier(files[0]), classifier(files[2])]
    engines[0].runs.clear()
    found = classifier.classify_each(files, [[(classifier, None)]] * 3)
    assert isinstance(found[1], ImageError)
    for prediction, alone in zip([found[0], found[2]], good, strict=True):
        assert_same(predictions(prediction)[0], alone)
    assert [len(run["pixels"]) for run in engines[0].runs] == [2]
    assert isinstance(classifier.classify_each([files[1]], [[(classifier, None)]])[0], ImageError)


def test_prompts_that_do_not_fit_together_take_turns(bundle: Path, image_files: list[Path]) -> None:
    """An engine that takes the entries of two prompts at once, and 2 images."""
    kinds = kinds_of_prompts(bundle)
    limits = {"N": kinds["learned"].entries + kinds["other"].entries, "B": 2}
    with Bundle.open(bundle) as opened:
        vision, text = WatchedEngine(opened.graph(VISION), limits), WatchedEngine(opened.graph(TEXT))
        classifier = Classifier(opened, vision, text, None, TextCache())
    forks = forks_of(classifier, bundle)
    rows, files = [[0], [1], [0], [3], [2], [1]], image_files[:6]
    wanted = [forks[row[0]](file) for file, row in zip(files, rows, strict=True)]
    vision.runs.clear()
    found = classifier.classify_each(files, [[(forks[number], None) for number in row] for row in rows])
    assert all(len(run["pixels"]) <= 2 for run in vision.runs)
    assert all(run["keys"].shape[-1] <= limits["N"] for run in vision.runs)
    assert len(vision.runs) == 4  # 2 and 1 of the first two prompts, and two parts for the others
    assert classifier.largest_batch == 2
    for one, alone in zip(found, wanted, strict=True):
        assert_same(predictions(one)[0], alone)


def test_time_is_shared_among_the_images_and_their_questions(classifier: Classifier, image_files: list[Path]) -> None:
    twice = [(classifier, None), (classifier.fork(["cat"]), None)]
    found = classifier.classify_each(image_files[:2], [[(classifier, None)], twice])
    (one,), two = predictions(found[0]), predictions(found[1])
    assert one.latency_ms["vision"] == pytest.approx(sum(each.latency_ms["vision"] for each in two), abs=0.01)
