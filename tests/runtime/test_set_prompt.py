"""A prompt that is replaced while a classifier is in use: every prediction is of one prompt, whole."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attri.runtime import Classifier, Prediction
from attri.runtime.bundle import PROMPT, TEXT, VISION, Bundle
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.errors import BundleError, EngineError
from attri.runtime.prompt import Prompt
from attri.runtime.text.cache import TextCache
from attri.runtime.text.hysteresis import RetrievalHysteresis

OTHERS = ["cat", "dog", "a large house", "teapot"]


@pytest.fixture(scope="module")
def first(bundle: Path) -> Prompt:
    return Prompt.read(bundle / PROMPT)


@pytest.fixture(scope="module")
def second(first: Prompt) -> Prompt:
    """Fewer entries, other tables and labels, a temperature and a threshold."""
    random, keys = np.random.default_rng(1), first.tensors["keys"]
    facts = dataclasses.replace(first.facts, labels=OTHERS, temperature=3.0, threshold=1.0, template="{}")
    table = first.tensors["prompt_table"][:, :9]
    table = random.permutation(table.ravel()).reshape(table.shape)
    return Prompt.of(facts, {"keys": keys[..., :9], "prompt_table": table})


@pytest.fixture
def classifier(bundle: Path) -> Classifier:
    return Classifier.load(bundle, threads=1)


def same(a: Prediction, b: Prediction) -> bool:
    return (
        a.labels == b.labels and a.threshold == b.threshold and np.allclose(a.probabilities, b.probabilities, atol=1e-6)
    )


@pytest.fixture(scope="module")
def answers(bundle: Path, first: Prompt, second: Prompt, image_files: list[Path]) -> dict[str, Prediction]:
    """What a classifier says of one image that has had no other prompt."""
    return {p.digest: Classifier.load(bundle, prompt=p, threads=1)(image_files[0]) for p in (first, second)}


def test_the_prompt_counts_from_the_next_image_on(
    classifier: Classifier, first: Prompt, second: Prompt, answers: dict[str, Prediction], image_files: list[Path]
) -> None:
    for prompt in (second, first, second):
        classifier.set_prompt(prompt)
        assert classifier.prompt is prompt
        assert classifier.labels == tuple(prompt.facts.labels)
        assert classifier.template == prompt.facts.template
        assert same(classifier(image_files[0]), answers[prompt.digest])
    assert not same(answers[first.digest], answers[second.digest])
    assert classifier(image_files[0]).cache == "hit"  # features of both prompts are kept apart, and kept


def test_labels_that_were_set_stay(classifier: Classifier, second: Prompt, image_files: list[Path]) -> None:
    classifier.set_labels(["bird", "house"], template="a {}")
    before = classifier(image_files[0])
    classifier.set_prompt(second)
    after = classifier(image_files[0])
    assert before.labels == after.labels == ("bird", "house")
    assert after.threshold is None  # the prompt's is for its own labels
    assert not same(before, after)


class Interrupted:
    """An engine that does something else before each run."""

    limits: Mapping[str, int] = {}
    description = "interrupted"

    def __init__(self, engine: OrtEngine, act: Callable[[], None]) -> None:
        self.engine, self.act = engine, act

    def run(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        self.act()
        return self.engine.run(inputs)

    def close(self) -> None:
        self.engine.close()


@pytest.mark.parametrize("graph", [VISION, TEXT])
def test_an_image_that_has_begun_keeps_its_prompt(
    bundle: Path, graph: str, first: Prompt, second: Prompt, answers: dict[str, Prediction], image_files: list[Path]
) -> None:
    opened = Bundle.open(bundle)

    def swap() -> None:
        swapped.set_prompt(second)

    vision, text = (
        Interrupted(OrtEngine(opened.graph(name)), swap if name == graph else lambda: None) for name in (VISION, TEXT)
    )
    classifier = swapped = Classifier(opened, vision, text, None, TextCache())
    assert same(classifier(image_files[0]), answers[first.digest])
    assert same(classifier(image_files[0]), answers[second.digest])


@pytest.mark.stress
def test_every_prediction_is_of_one_prompt_while_they_take_turns(
    classifier: Classifier, first: Prompt, second: Prompt, answers: dict[str, Prediction], image_files: list[Path]
) -> None:
    done, seen = threading.Event(), set()

    def swap() -> None:
        while not done.is_set():
            for prompt in (second, first):
                classifier.set_prompt(prompt)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(60):
            found = classifier(image_files[0])
            (digest,) = (digest for digest, answer in answers.items() if same(found, answer))
            seen.add(digest)
    finally:
        done.set()
        swapper.join()
    assert seen == answers.keys()


def test_hysteresis_remembers_nothing_of_another_prompt(
    classifier: Classifier, second: Prompt, answers: dict[str, Prediction], image_files: list[Path]
) -> None:
    """It has fewer entries: what was chosen before may not even be there."""
    hysteresis = RetrievalHysteresis(2.0, classifier.bundle.manifest.retrieval["topk"])  # nothing is ever left
    for path in image_files[:3]:
        classifier(path, hysteresis)
    classifier.set_prompt(second)
    assert same(classifier(image_files[0], hysteresis), answers[second.digest])


def test_a_fork_has_a_prompt_of_its_own(classifier: Classifier, first: Prompt, second: Prompt) -> None:
    fork = classifier.fork()
    fork.set_prompt(second)
    assert (classifier.labels, fork.labels) == (tuple(first.facts.labels), tuple(OTHERS))


def test_a_bundle_loads_with_another_prompt(bundle: Path, second: Prompt, tmp_path: Path) -> None:
    second.save(tmp_path / "second.attri")
    assert Classifier.load(bundle, prompt=tmp_path / "second.attri", threads=1).labels == tuple(OTHERS)
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    second.save(copy / PROMPT)  # in the place of its own
    assert Classifier.load(copy, threads=1).labels == tuple(OTHERS)


@pytest.mark.parametrize("kind", ["another base", "damaged", "missing", "too large"])
def test_the_old_prompt_stays_on_any_error(
    bundle: Path, second: Prompt, image_files: list[Path], tmp_path: Path, kind: str
) -> None:
    opened = Bundle.open(bundle)
    vision, text = (Interrupted(OrtEngine(opened.graph(name)), lambda: None) for name in (VISION, TEXT))
    if kind == "too large":
        vision.limits = {"N": 8}
    classifier = Classifier(opened, vision, text, None, TextCache())
    before, file = classifier(image_files[0]), tmp_path / "new.attri"
    if kind != "missing":
        base = second.facts.base | ({"weights": "0" * 64} if kind == "another base" else {})
        data = Prompt.of(dataclasses.replace(second.facts, base=base), second.tensors).to_bytes()
        file.write_bytes(data[:-1] if kind == "damaged" else data)
    words = {
        "another base": r"was made for another bundle \(weights ",
        "damaged": "is damaged|cut off",
        "missing": "cannot be read",
        "too large": "has 9 pool entries, this engine takes 8",
    }
    with pytest.raises((BundleError, EngineError), match=words[kind]):
        classifier.set_prompt(file)
    assert same(classifier(image_files[0]), before)


@pytest.mark.parametrize(
    ("tensor", "changed"),
    [
        ("keys", lambda array: array[:, :-1]),
        ("prompt_table", lambda array: array[..., :-2]),
        ("static_table", lambda array: np.zeros((array.shape[0], 1, array.shape[-1]), np.float32)),
    ],
)
def test_tensors_that_the_graphs_do_not_take_are_told_before_the_first_frame(
    classifier: Classifier, first: Prompt, tensor: str, changed: Callable[[Any], Any]
) -> None:
    """Of a file that somebody edited: its facts say that it fits."""
    array = first.tensors.get(tensor, first.tensors["prompt_table"])
    odd = Prompt.of(first.facts, {**first.tensors, tensor: changed(array)})
    with pytest.raises(BundleError, match=rf"the prompt has {tensor} [\dx]+, the graphs take "):
        classifier.set_prompt(odd)
    assert classifier.prompt.digest == first.digest
