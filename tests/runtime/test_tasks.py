"""Several tasks on one run of the vision graph: each says what a classifier with its prompt alone says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.prompts import OWN_LABELS, kinds_of_prompts

from attri.runtime import Classifier, Prediction
from attri.runtime.bundle import PROMPT, TEXT, VISION, Bundle
from attri.runtime.classifier import classify_together, require_room
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.engines.vision import VisionGraph, nearest_entries
from attri.runtime.errors import BundleError, EngineError, ImageError, LabelsError, UsageError
from attri.runtime.prompt import Prompt
from attri.runtime.text.cache import TextCache
from attri.runtime.text.hysteresis import RetrievalHysteresis


@pytest.fixture(scope="module")
def prompts(bundle: Path) -> dict[str, Prompt]:
    return kinds_of_prompts(bundle)


@pytest.fixture
def classifier(bundle: Path, prompts: dict[str, Prompt]) -> Iterator[Classifier]:
    with Classifier.load(bundle, prompts=prompts, threads=1) as loaded:
        yield loaded


def alone(bundle: Path, prompt: Prompt, **options: Any) -> Classifier:
    return Classifier.load(bundle, prompt=prompt, threads=1, **options)


def assert_same(found: Sequence[Prediction], wanted: Sequence[Prediction]) -> None:
    """Equal but for the vision graph's float32 rounding, whose product has other columns beside it."""
    assert [each.labels for each in found] == [each.labels for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.retrieved, other.retrieved)
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=1e-6)
        assert (one.label, one.threshold) == (other.label, other.threshold)


def assert_each_as_alone(found: Sequence[dict[str, Prediction]], wanted: Mapping[str, Sequence[Prediction]]) -> None:
    for name, predictions in wanted.items():
        assert_same([each[name] for each in found], predictions)


@pytest.mark.stress
def test_each_task_says_what_it_says_alone(
    classifier: Classifier, bundle: Path, prompts: dict[str, Prompt], image_files: list[Path]
) -> None:
    """Learned, static and zero-shot prompts side by side; in batches, and one image at a time."""
    files = image_files[:24]
    wanted = {name: alone(bundle, prompt)(files) for name, prompt in prompts.items()}
    found = classifier.classify_tasks(files)
    assert [list(each) for each in found] == [list(prompts)] * len(files)
    assert_each_as_alone(found, wanted)
    assert_each_as_alone([classifier.classify_tasks(file) for file in files], wanted)
    assert len({each["learned"].retrieved.tobytes() for each in found}) > 1  # it depends on the image
    assert len({each["static"].retrieved.tobytes() for each in found}) == 1


def test_text_features_of_a_task_are_the_same_bits(
    classifier: Classifier, bundle: Path, prompts: dict[str, Prompt], image_files: list[Path]
) -> None:
    classifier.classify_tasks(image_files[:4])
    for name, prompt in prompts.items():
        one, task = alone(bundle, prompt), classifier.tasks[name]
        retrieved = one(image_files[0]).retrieved[None]
        np.testing.assert_array_equal(task.encode_text(retrieved)[0], one.encode_text(retrieved)[0])


@pytest.mark.stress
@pytest.mark.parametrize("margin", [0.0, 0.05, 2.0])
def test_hysteresis_is_the_memory_of_one_task(
    classifier: Classifier, bundle: Path, prompts: dict[str, Prompt], image_files: list[Path], margin: float
) -> None:
    topk, files = classifier.bundle.manifest.retrieval["topk"], image_files[:12]
    memories = {name: RetrievalHysteresis(margin, topk) for name in prompts}
    found = [classifier.classify_tasks(file, memories) for file in files]
    for name, prompt in prompts.items():
        one, memory = alone(bundle, prompt), RetrievalHysteresis(margin, topk)
        assert_same([each[name] for each in found], [one(file, memory) for file in files])


@pytest.mark.stress
def test_a_shortlist_is_taken_by_each_task(bundle: Path, prompts: dict[str, Prompt], image_files: list[Path]) -> None:
    files = image_files[:6]
    tasks = Classifier.load(bundle, prompts=prompts, threads=1, shortlist=2)
    wanted = {name: alone(bundle, prompt, shortlist=2)(files) for name, prompt in prompts.items()}
    assert_each_as_alone(tasks.classify_tasks(files), wanted)


def test_labels_and_thresholds_belong_to_a_task(
    classifier: Classifier, bundle: Path, prompts: dict[str, Prompt], image_files: list[Path]
) -> None:
    before = classifier.classify_tasks(image_files[0])
    classifier.tasks["other"].labels = ["bird", "house"]
    classifier.tasks["static"].threshold = 1.0
    found = classifier.classify_tasks(image_files[0])
    assert found["other"].labels == ("bird", "house")
    assert (found["static"].label, found["static"].threshold) == (None, 1.0)
    assert_same([found["learned"], found["plain"]], [before["learned"], before["plain"]])
    one = alone(bundle, prompts["other"])
    one.labels = ["bird", "house"]
    assert_same([found["other"]], [one(image_files[0])])


def test_labels_that_are_given_are_those_of_all_tasks(
    bundle: Path, prompts: dict[str, Prompt], image_files: list[Path]
) -> None:
    labels = ["cat", "dog"]
    tasks = Classifier.load(bundle, labels, prompts={"one": None, "two": prompts["other"]}, threads=1)
    found = tasks.classify_tasks(image_files[0])
    assert_same([found["one"]], [Classifier.load(bundle, labels, threads=1)(image_files[0])])
    assert_same([found["two"]], [alone(bundle, prompts["other"], labels=labels)(image_files[0])])


def test_a_fork_has_tasks_of_its_own(classifier: Classifier, image_files: list[Path]) -> None:
    fork = classifier.fork(["x", "y"])
    assert {name: task.labels for name, task in fork.tasks.items()} == dict.fromkeys(classifier.tasks, ("x", "y"))
    assert {name: list(task.labels) for name, task in classifier.tasks.items()} == OWN_LABELS
    assert fork.classify_tasks(image_files[0])["plain"].labels == ("x", "y")


def test_one_prompt_may_serve_several_tasks(bundle: Path, image_files: list[Path], tmp_path: Path) -> None:
    """Its keys are in the table once."""
    tasks = Classifier.load(bundle, prompts={"a": bundle / PROMPT, "b": bundle / PROMPT, "c": None}, threads=1)
    tasks.tasks["b"].labels = ["cat", "dog"]
    found = tasks.classify_tasks(image_files[:3])
    wanted = Classifier.load(bundle, threads=1)(image_files[:3])
    assert_each_as_alone(found, {"a": wanted, "c": wanted})
    assert {each["b"].labels for each in found} == {("cat", "dog")}


class Watched:
    """An engine that keeps what it was given, and acts before it runs."""

    description = "watched"

    def __init__(self, engine: OrtEngine, limits: Mapping[str, int] | None = None) -> None:
        self.engine, self.limits = engine, limits or {}
        self.inputs: list[dict[str, NDArray[Any]]] = []
        self.act: Callable[[], object] = lambda: None

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self.act()
        self.inputs.append(dict(inputs))
        return self.engine.run(inputs)

    def close(self) -> None:
        self.engine.close()


@pytest.fixture
def watched(bundle: Path, prompts: dict[str, Prompt]) -> tuple[Watched, Watched, list[Classifier]]:
    opened = Bundle.open(bundle)
    vision, text = (Watched(OrtEngine(opened.graph(name), "cpu", 1)) for name in (VISION, TEXT))
    first = Classifier(opened, vision, text, None, TextCache())
    tasks = []
    for prompt in prompts.values():
        tasks.append(first.fork())
        tasks[-1].set_prompt(prompt)
    return vision, text, tasks


def test_tasks_cost_one_vision_run_and_cached_text(
    watched: tuple[Watched, Watched, list[Classifier]], prompts: dict[str, Prompt], image_files: list[Path]
) -> None:
    vision, text, tasks = watched
    for _ in range(2):
        predictions = classify_together(tasks, image_files[0], [None] * 4)[0]
    assert len(vision.inputs) == 2
    assert len(text.inputs) == 4  # of the first image
    assert [each.cache for each in predictions] == ["hit"] * 4
    keys = [inputs["keys"] for inputs in vision.inputs]
    assert keys[0].shape[-1] == sum(prompt.entries for prompt in prompts.values())
    assert keys[0] is keys[1]  # so that it stays on the device
    assert not keys[0].flags.writeable
    spent = [each.latency_ms for each in predictions]
    assert len({(each["preprocess"], each["vision"]) for each in spent}) == 1  # each has its share


@pytest.mark.parametrize("graph", [VISION, TEXT])
def test_an_image_that_has_begun_keeps_prompt_and_labels_of_every_task(
    bundle: Path,
    watched: tuple[Watched, Watched, list[Classifier]],
    prompts: dict[str, Prompt],
    image_files: list[Path],
    graph: str,
) -> None:
    vision, text, tasks = watched
    wanted = [alone(bundle, prompt)(image_files[0]) for prompt in prompts.values()]

    def swap() -> None:
        tasks[0].set_prompt(prompts["other"])
        tasks[2].set_labels(["x", "y", "z"])

    (vision if graph == VISION else text).act = swap
    assert_same(classify_together(tasks, image_files[0], [None] * 4)[0], wanted)
    after = classify_together(tasks, image_files[0], [None] * 4)[0]
    assert_same([after[0], after[1], after[3]], [wanted[1], wanted[1], wanted[3]])
    assert after[2].labels == ("x", "y", "z")


@pytest.mark.stress
def test_a_task_that_is_swapped_all_the_time_leaves_the_others_alone(
    classifier: Classifier, bundle: Path, prompts: dict[str, Prompt], image_files: list[Path]
) -> None:
    known = [alone(bundle, prompts[name])(image_files[0]) for name in ("other", "learned")]
    others = {name: [alone(bundle, prompts[name])(image_files[0])] for name in ("learned", "static", "plain")}
    done, seen = threading.Event(), set()

    def swap() -> None:
        while not done.is_set():
            for name in ("learned", "other"):
                classifier.tasks["other"].set_prompt(prompts[name])

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(60):
            found = classifier.classify_tasks(image_files[0])
            assert_each_as_alone([found], others)
            (which,) = (i for i, each in enumerate(known) if each.labels == found["other"].labels)
            assert_same([found["other"]], [known[which]])
            seen.add(which)
    finally:
        done.set()
        swapper.join()
    assert seen == {0, 1}


@pytest.mark.parametrize("topk", [1, 2, 3])
def test_the_nearest_entries_are_those_of_a_slow_search(topk: int) -> None:
    """Of equal scores the lower entry is taken; scores of few values have many that are equal."""
    random = np.random.default_rng(topk)
    scores = random.integers(0, 4, (3, 2, 2, 5)).astype(np.float32)
    wanted = [
        [
            sorted(n for row in block for _, n in sorted((-score, n) for n, score in enumerate(row))[:topk])
            for block in image
        ]
        for image in scores.tolist()
    ]
    found = nearest_entries(scores, topk)
    assert found.dtype == np.int32
    assert found.tolist() == wanted


def test_the_graph_chooses_the_same_entries(bundle: Path, prompts: dict[str, Prompt], image_files: list[Path]) -> None:
    opened = Bundle.open(bundle)
    pixels = np.stack([opened.preprocess()(file) for file in image_files[:16]])
    graph = VisionGraph(OrtEngine(opened.graph(VISION), "cpu", 1), opened.manifest.retrieval["topk"])
    for name in ("learned", "other"):
        (seen,) = graph.run(pixels, [prompts[name]])
        np.testing.assert_array_equal(nearest_entries(seen.scores, opened.manifest.retrieval["topk"]), seen.retrieved)


def test_more_entries_than_the_engine_takes_are_refused(bundle: Path, prompts: dict[str, Prompt]) -> None:
    opened = Bundle.open(bundle)
    vision, text = (Watched(OrtEngine(opened.graph(name), "cpu", 1), {"N": 20}) for name in (VISION, TEXT))
    first, second = (Classifier(opened, vision, text, None, TextCache()) for _ in range(2))
    first.set_prompt(prompts["learned"])
    second.set_prompt(prompts["other"])
    require_room([first, first])  # the same entries
    with pytest.raises(EngineError, match="have together 25 pool entries, this engine takes 20: run fewer"):
        require_room([first, second])


@pytest.mark.parametrize(
    ("name", "prompt", "error", "words"),
    [
        ("a/b", None, UsageError, "a task cannot be called 'a/b': letters, digits"),
        ("", None, UsageError, "cannot be called ''"),
        ("state", None, UsageError, "and not state"),
        ("-a", None, UsageError, "cannot be called '-a'"),
        ("x" * 41, None, UsageError, "at most 40"),
        ("a", "gone.attri", BundleError, "the prompt gone.attri cannot be read"),
    ],
)
def test_tasks_that_cannot_be_are_refused(
    bundle: Path, name: str, prompt: str | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Classifier.load(bundle, prompts={name: prompt}, threads=1)


def test_wrong_calls_say_what_is_wrong(classifier: Classifier, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no tasks: load it with `prompts`"):
        Classifier.load(bundle, threads=1).classify_tasks("a.png")
    with pytest.raises(UsageError, match="there is no task door"):
        classifier.classify_tasks("a.png", {"door": RetrievalHysteresis(0.1)})
    with pytest.raises(ImageError, match="gone"):
        classifier.classify_tasks(tmp_path / "gone.png")
    with pytest.raises(LabelsError):
        classifier.tasks["plain"].labels = []
    assert list(classifier.tasks["plain"].labels) == OWN_LABELS["plain"]
