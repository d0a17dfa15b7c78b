"""The whole way of an image without torch, held against the PyTorch model and against itself."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.engines import WatchedEngine
from support.manifests import set_manifest, set_prompt

import attri.runtime
from attri.runtime import Classifier, Prediction
from attri.runtime.bundle import TEXT, VISION, Bundle, read_manifest
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.errors import ImageError, LabelsError, UsageError
from attri.runtime.prompt import Prompt
from attri.runtime.text.cache import TextCache
from attri.runtime.text.encoder import TextEncoder
from attri.runtime.text.hysteresis import RetrievalHysteresis
from attri.runtime.text.label_set import LabelSet
from attri.runtime.text.label_tokens import encode_labels
from attri.runtime.tokenizer import Tokenizer

LABELS = ["red apple", "green apple", "bird", "a small house", "car"]
# Probabilities are exp(s * cosine) normalised: float32 graphs differ by 1e-6 in the cosine, and s is at most 100.
CLOSE = 1e-4
# The same graph on other shapes adds up in another order.
SUMS = 1e-5


@pytest.fixture
def classifier(bundle: Path) -> Classifier:
    return Classifier.load(bundle, LABELS, threads=1)


@pytest.fixture(scope="module")
def five(image_files: list[Path]) -> list[Path]:
    return image_files[:5]


def probabilities(predictions: list[Prediction]) -> np.ndarray:
    return np.stack([prediction.probabilities for prediction in predictions])


def close(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_equals_the_pytorch_model(
    classifier: Classifier, pocket_model: Any, make_pixels: Any, five: list[Path]
) -> None:
    import torch

    backbone = pocket_model.backbone
    ids = encode_labels(Tokenizer(), LABELS, classifier.template, backbone.context_length)
    pixels = torch.from_numpy(make_pixels(backbone.preprocess(), 5))
    with torch.no_grad():
        logits = pocket_model(pixels, ids)  # [B, C]
        centres = pocket_model.encode_image(pixels)[1]  # [B, L, K, D]
        retrieved = pocket_model.pool.retrieve(centres)
        cosines = torch.einsum("blkd,lnd->blkn", centres, pocket_model.pool.keys_of_blocks()).numpy()
    found = classifier(five)
    close(probabilities(found), logits.softmax(-1).numpy(), CLOSE)
    assert [each.label for each in found] == [LABELS[i] for i in logits.argmax(-1)]
    np.testing.assert_array_equal([each.retrieved for each in found], retrieved)
    for each, cosine in zip(found, cosines, strict=True):
        assert [[entry.entry for entry in block for _ in range(entry.times)] for block in each.entries or []] == (
            each.retrieved.tolist()
        )
        for block, entries in enumerate(each.entries or []):
            wanted = [cosine[block, :, entry.entry].max() for entry in entries]
            np.testing.assert_allclose([entry.cosine for entry in entries], wanted, rtol=0, atol=SUMS)


def test_path_image_and_array_are_alike(classifier: Classifier, five: list[Path], tmp_path: Path) -> None:
    image = Image.open(five[0]).convert("RGB")
    image.save(tmp_path / "rgb.png")
    path = tmp_path / "rgb.png"
    wanted = classifier(path).probabilities
    for source in (str(path), path.read_bytes(), Image.open(path), image, np.asarray(image)):
        np.testing.assert_array_equal(classifier(source).probabilities, wanted)


def test_a_list_equals_singles(classifier: Classifier, five: list[Path]) -> None:
    mixed: list[Any] = [five[0], str(five[1]), Image.open(five[2]), *five[3:]]
    close(probabilities(classifier(mixed)), probabilities([classifier(path) for path in five]), SUMS)


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 5), (4, [4, 1]), (5, [5]), (16, [5])])
def test_a_list_goes_in_batches(bundle: Path, five: list[Path], batch: int, sizes: list[int]) -> None:
    opened = Bundle.open(bundle)
    vision, text = (WatchedEngine(opened.graph(name)) for name in (VISION, TEXT))
    classifier = Classifier(opened, vision, text, LABELS, TextCache(), batch=batch)
    singles = probabilities([classifier(path) for path in five])
    vision.runs.clear()
    close(probabilities(classifier(five)), singles, SUMS)
    assert [len(run["pixels"]) for run in vision.runs] == sizes


def test_steady_frames_keep_their_entries(classifier: Classifier, five: list[Path]) -> None:
    exact = [each.retrieved for each in classifier(five)]
    np.testing.assert_array_equal([each.retrieved for each in classifier(five, RetrievalHysteresis(0.0))], exact)
    kept = [
        each.retrieved for each in classifier(five, RetrievalHysteresis(3.0))
    ]  # more than two cosines can differ by
    np.testing.assert_array_equal(kept, [exact[0]] * 5)


@pytest.mark.parametrize("nothing", [[], ()])
def test_an_empty_list_gives_an_empty_list(classifier: Classifier, nothing: Any) -> None:
    assert classifier(nothing) == []


def test_one_unreadable_image_fails_its_batch(classifier: Classifier, five: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png does not exist"):
        classifier([five[0], tmp_path / "gone.png"])


def test_probabilities_are_a_distribution(classifier: Classifier, five: list[Path]) -> None:
    found = probabilities(classifier(five))
    assert found.dtype == np.float32
    assert (found >= 0).all()
    close(found.sum(1), np.ones(5), 1e-6)  # a few float32 roundings


def test_the_order_of_labels_does_not_matter(classifier: Classifier, five: list[Path]) -> None:
    wanted, order = probabilities(classifier(five)), [3, 0, 4, 1, 2]
    classifier.labels = [LABELS[i] for i in order]
    found = classifier(five)
    close(probabilities(found), wanted[:, order], SUMS)
    assert found[0].labels == tuple(LABELS[i] for i in order)


def test_labels_default_to_those_of_the_bundle(bundle: Path) -> None:
    assert Classifier.load(bundle, threads=1).labels == ("red apple", "bird", "a small house")


def test_labels_of_the_bundle_are_encoded_only_if_they_are_needed(
    bundle: Path, five: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[tuple[str, ...]] = []
    encode = TextEncoder.label_set

    def watched(self: TextEncoder, prompt: Prompt, labels: Any, *rest: Any) -> LabelSet:
        encoded.append(tuple(labels))
        return encode(self, prompt, labels, *rest)

    monkeypatch.setattr(TextEncoder, "label_set", watched)
    classifier = Classifier.load(bundle, threads=1, shortlist=1)
    classifier.labels = ["cat", "dog"]
    assert classifier(five[0]).labels == ("cat", "dog")
    assert encoded == [("cat", "dog")]
    classifier = Classifier.load(bundle, threads=1)
    assert classifier(five[0]).labels == classifier(five[0]).labels == classifier.labels
    assert encoded[1:] == [classifier.labels]


@pytest.mark.parametrize(
    ("option", "least"), [({"batch": 0}, 1), ({"shortlist": 0}, 1), ({"threads": -1}, 1), ({"cache_bytes": -1}, 0)]
)
def test_numbers_that_are_too_small(bundle: Path, option: dict[str, Any], least: int) -> None:
    ((name, value),) = option.items()
    with pytest.raises(UsageError, match=f"^{name} is {value}: give {least} or more$"):
        Classifier.load(bundle, **option)


def test_new_labels_equal_a_fresh_start_and_old_ones_are_still_cached(bundle: Path, five: list[Path]) -> None:
    classifier = Classifier.load(bundle, ["cat", "dog"], threads=1)
    first = classifier(five[0])
    classifier.labels = LABELS
    assert classifier.labels == tuple(LABELS)
    fresh = Classifier.load(bundle, LABELS, threads=1)(five[0])
    np.testing.assert_array_equal(classifier(five[0]).probabilities, fresh.probabilities)
    classifier.labels = ["cat", "dog"]
    again = classifier(five[0])
    assert (first.cache, again.cache) == ("miss", "hit")
    np.testing.assert_array_equal(again.probabilities, first.probabilities)


def test_a_hit_changes_no_bit(classifier: Classifier, five: list[Path]) -> None:
    miss, hit = classifier(five[0]), classifier(five[0])
    assert (miss.cache, hit.cache) == ("miss", "hit")
    assert (classifier.cache.misses, classifier.cache.hits) == (1, 1)
    np.testing.assert_array_equal(miss.probabilities, hit.probabilities)


def test_equal_images_of_a_batch_are_computed_once(classifier: Classifier, five: list[Path]) -> None:
    found = classifier([five[0]] * 3)
    assert [each.cache for each in found] == ["miss", "hit", "hit"]  # as one after the other
    assert (classifier.cache.misses, classifier.cache.hits, len(classifier.cache)) == (1, 2, 1)
    np.testing.assert_array_equal(probabilities(found)[1:], probabilities(found)[:-1])


@pytest.fixture
def many() -> list[str]:
    return [f"{colour} {thing}" for colour in ("red", "green", "old") for thing in ("apple", "bird", "car", "shoe")]


def plain_cosines(model: Any, pixels: np.ndarray, labels: list[str], template: str) -> np.ndarray:
    """What CLIP says without prompts, by PyTorch [I, C]"""
    import torch

    text = model.plain_text(encode_labels(Tokenizer(), labels, template, model.backbone.context_length))
    with torch.no_grad():
        return (model.encode_image(torch.from_numpy(pixels))[0] @ text.T).numpy()


def test_a_shortlist_prompts_the_nearest_and_leaves_the_rest_plain(
    bundle: Path, many: list[str], pocket_model: Any, make_pixels: Any, five: list[Path]
) -> None:
    classifier = Classifier.load(bundle, many, threads=1, shortlist=4)
    exact = probabilities(Classifier.load(bundle, many, threads=1)(five)).astype(np.float64)
    pixels = make_pixels(pocket_model.backbone.preprocess(), 5)
    plain = plain_cosines(pocket_model, pixels, many, classifier.template).astype(np.float64)
    scale = classifier.bundle.manifest.logit_scale
    for found, whole, cosine in zip(classifier(five), exact, plain, strict=True):
        nearest = sorted(range(len(many)), key=lambda label: -cosine[label])[:4]
        rest = [label for label in range(len(many)) if label not in nearest]
        # Differences of logits do not depend on what else softmax adds up.
        ours, theirs = (np.log(p[nearest]) - np.log(p[nearest[0]]) for p in (found.probabilities, whole))
        close(ours, theirs, 10 * CLOSE)
        logits = np.log(found.probabilities[rest]) - np.log(found.probabilities[rest[0]])
        close(logits, scale * (cosine[rest] - cosine[rest[0]]), 10 * CLOSE)
    assert [each.cache for each in classifier(five)] == ["hit"] * 5


def test_no_more_labels_than_the_shortlist_is_exact(bundle: Path, many: list[str], five: list[Path]) -> None:
    exact = Classifier.load(bundle, many, threads=1)
    for size in (len(many), len(many) + 5):
        listed = Classifier.load(bundle, many, threads=1, shortlist=size)
        close(probabilities(listed(five)), probabilities(exact(five)), SUMS)


def test_equal_labels_share_a_place_in_the_shortlist(bundle: Path, five: list[Path]) -> None:
    found = Classifier.load(bundle, ["bird", "Bird", "car", "red apple"], threads=1, shortlist=2)(five)
    assert all(each.probabilities[0] == each.probabilities[1] for each in found)


def test_below_the_threshold_there_is_no_label(classifier: Classifier, five: list[Path]) -> None:
    accepted = classifier(five[0])
    classifier.threshold = accepted.score
    assert classifier(five[0]).label == accepted.label == LABELS[int(accepted.probabilities.argmax())]
    classifier.threshold = float(np.nextafter(accepted.score, 2))
    rejected = classifier(five[0])
    assert rejected.label is None
    assert rejected.score == accepted.score


class Interrupted:
    """An engine during whose first run something else happens."""

    def __init__(self, engine: OrtEngine, then: Callable[[], object]) -> None:
        self.engine, self.description, self.limits, self.then = engine, "", engine.limits, then

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        then, self.then = self.then, lambda: None
        then()
        return self.engine.run(inputs)

    def close(self) -> None:
        self.engine.close()


@pytest.mark.parametrize("own_first", [True, False])
def test_a_prediction_has_the_threshold_of_its_own_labels(
    bundle: Path, five: list[Path], tmp_path: Path, own_first: bool
) -> None:
    """Other labels come while an image is classified: the bundle's threshold is for its own alone."""
    path = Path(shutil.copytree(bundle, tmp_path / "copy"))
    set_prompt(path, threshold=1.0)
    opened = Bundle.open(path)
    own, others = opened.prompt.facts.labels, ["cat", "dog", "teapot"]
    first, second = (own, others) if own_first else (others, own)
    engine = Interrupted(OrtEngine(opened.graph(VISION)), lambda: swapped.set_labels(second))
    classifier = swapped = Classifier(opened, engine, OrtEngine(opened.graph(TEXT)), first, TextCache(0))
    before, after = classifier(five[0]), classifier(five[0])
    assert (before.labels, after.labels) == (tuple(first), tuple(second))
    found = {each.labels: (each.threshold, each.label is None) for each in (before, after)}
    assert found == {tuple(own): (1.0, True), tuple(others): (None, False)}


ONE = (
    'one label ("cat") always scores 100%, whatever the threshold, since nothing is compared with it: add a second for'
    ' what else is seen, such as "background"'
)


def test_one_label_is_warned_of(bundle: Path, five: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    classifier = Classifier.load(bundle, ["cat"], threads=1)
    assert classifier(five[0]).score == 1
    assert caplog.messages == [ONE]
    classifier.labels = ["cat", "background"]
    assert caplog.messages == [ONE]
    classifier.set_labels(["cat"], prompts=[["a cat", "a kitten"]])  # still one label
    assert caplog.messages == [ONE, ONE]


def test_one_label_of_the_bundle_itself_is_warned_of(
    bundle: Path, five: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(shutil.copytree(bundle, tmp_path / "copy"))
    set_prompt(path, labels=["cat"])
    classifier = Classifier.load(path, threads=1)
    classifier(five[0]), classifier(five[1])
    assert caplog.messages == [ONE]


def test_top_is_sorted_and_no_longer_than_the_labels(classifier: Classifier, five: list[Path]) -> None:
    prediction = classifier(five[0])
    top = prediction.top(99)
    assert sorted(label for label, _ in top) == sorted(LABELS)
    assert [score for _, score in top] == sorted(prediction.probabilities.tolist(), reverse=True)
    assert top[0] == (prediction.label, prediction.score)
    assert prediction.top(2) == top[:2]


def test_equal_labels_share_and_keep_their_order(classifier: Classifier, five: list[Path]) -> None:
    classifier.labels = ["bird", "Bird"]  # CLIP reads lower case
    assert classifier(five[0]).top(2) == [("bird", 0.5), ("Bird", 0.5)]


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [("cat", TypeError, "give a list"), ("", TypeError, "give a list"), ([], LabelsError, "at least one")],
)
def test_labels_that_are_none(bundle: Path, classifier: Classifier, labels: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        Classifier.load(bundle, labels, threads=1)
    with pytest.raises(error, match=words):
        classifier.labels = labels
    assert classifier.labels == tuple(LABELS)


@pytest.mark.parametrize(("scale", "temperature"), [(100.0, 1.0), (None, 2.0)])
def test_the_base_sets_the_scale_and_the_prompt_the_temperature(
    bundle: Path, classifier: Classifier, five: list[Path], tmp_path: Path, scale: float | None, temperature: float
) -> None:
    path = Path(shutil.copytree(bundle, tmp_path / "copy"))
    old = read_manifest(path).logit_scale
    set_manifest(path, logit_scale=scale or old)
    set_prompt(path, temperature=temperature)
    factor = (scale or old) / old / temperature
    powers = probabilities(classifier(five)).astype(np.float64) ** factor
    found = probabilities(Classifier.load(path, LABELS, threads=1)(five))
    close(found, powers / powers.sum(1, keepdims=True), CLOSE)
    assert np.abs(found - probabilities(classifier(five))).max() > 10 * CLOSE


@pytest.mark.stress
def test_threads_see_one_set_of_labels_or_the_other(bundle: Path, five: list[Path]) -> None:
    sets = [("red apple", "bird"), ("car", "a small house", "green apple")]
    classifier = Classifier.load(bundle, sets[0], threads=1, cache_bytes=3000)  # so small that hits and misses mix
    wanted = {}
    for labels in sets:
        classifier.labels = labels
        wanted[labels] = probabilities(classifier(five))
    found: list[tuple[int, Prediction]] = []
    busy = threading.Event()

    def classify(offset: int) -> None:
        for i in range(40):
            number = (i + offset) % 5
            found.append((number, classifier(five[number])))

    def change() -> None:
        while not busy.wait(0.002):
            classifier.labels = sets[classifier.labels == sets[0]]

    workers = [threading.Thread(target=classify, args=(offset,)) for offset in (0, 2)]
    changer = threading.Thread(target=change)
    for thread in (*workers, changer):
        thread.start()
    for worker in workers:
        worker.join()
    busy.set()
    changer.join()
    assert len(found) == 80
    assert {prediction.labels for _, prediction in found} == set(sets)
    for number, prediction in found:
        close(prediction.probabilities, wanted[prediction.labels][number], SUMS)


def test_a_classifier_closes_with_its_block(bundle: Path, five: list[Path]) -> None:
    with Classifier.load(bundle, LABELS, threads=1) as classifier:
        assert classifier(five[0]).label in LABELS


def test_any_iterable_and_any_batch_array_are_classified_alike(classifier: Classifier, five: list[Path]) -> None:
    expected = [each.label for each in classifier(five)]
    assert [each.label for each in classifier(path for path in five)] == expected
    assert classifier(iter(())) == []
    arrays = [np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in five]
    stacked = np.stack(arrays)  # uint8 [5, 64, 64, 3]
    assert [each.label for each in classifier(stacked)] == [each.label for each in classifier(arrays)]


def test_embeddings_are_the_image_features(classifier: Classifier, five: list[Path]) -> None:
    features = classifier.embed_images(five)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(classifier.embed_images(five[1])[0], features[1], atol=1e-6)  # a batch of another size
    assert classifier.embed_images([]).shape == (0, features.shape[1])


def test_cosines_are_the_logits_before_scale(classifier: Classifier, five: list[Path]) -> None:
    """With several prompts a label is as near as its best one."""
    prompts = [["red apple", "green apple"], ["bird"], ["car", "a small house"]]
    classifier.set_labels(["fruit", "bird", "thing"], prompts=prompts)
    pixels = np.stack([classifier.bundle.preprocess()(path) for path in five])
    features, retrieved = classifier.encode_image(pixels)
    each = np.stack([text @ image for text, image in zip(classifier.encode_text(retrieved), features, strict=True)])
    cosines = classifier.cosines(features, retrieved)
    close(cosines, np.stack([each[:, :2].max(1), each[:, 2], each[:, 3:].max(1)], 1), SUMS)
    logits = classifier.bundle.manifest.logit_scale * cosines / classifier.prompt.facts.temperature
    found = np.log(probabilities(classifier(five)))
    close(found - found[:, :1], logits - logits[:, :1], 10 * CLOSE)


def test_a_fork_has_labels_of_its_own_and_the_same_cache(bundle: Path, five: list[Path]) -> None:
    with Classifier.load(bundle, LABELS, threads=1) as classifier:
        fork = classifier.fork(["cat", "dog"])
        fork.threshold = 0.5
        assert (classifier.labels, classifier.threshold) == (tuple(LABELS), None)
        assert fork(five[0]).labels == ("cat", "dog")
        assert fork.cache is classifier.cache
        assert classifier.fork().labels == tuple(LABELS)


def test_a_prediction_as_plain_values(classifier: Classifier, five: list[Path]) -> None:
    prediction = classifier(five[0])
    plain = json.loads(json.dumps(prediction.to_dict(topk=2)))
    assert plain["label"] == prediction.label
    assert [each["label"] for each in plain["top"]] == [label for label, _ in prediction.top(2)]
    assert plain["cache"] in ("hit", "miss")


def test_the_version_is_that_of_the_package() -> None:
    assert attri.runtime.__version__ == importlib.metadata.version("attri")
