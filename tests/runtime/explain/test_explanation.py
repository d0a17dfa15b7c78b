"""Explanations add up to the cosines of the classifier, and cost nothing before they are asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attri.runtime import BundleError, Classifier, UsageError
from attri.runtime.batch import ClassifyBatch
from attri.runtime.bundle import EXPLAIN, MANIFEST

LABELS = ["red apple", "green apple", "bird", "a small house"]
# Of cosines: the graph of explanations adds up in another order than the vision graph.
CLOSE = 1e-5


@pytest.fixture
def classifier(explained_bundle: Path) -> Classifier:
    return Classifier.load(explained_bundle, LABELS, device="cpu", threads=1)


def test_patches_and_rest_are_the_cosines(classifier: Classifier, image_files: list[Path]) -> None:
    image = image_files[0]
    prediction = classifier(image)
    explanation = classifier.explain(image, prediction=prediction)
    assert prediction.image_feature is not None
    wanted = classifier.cosines(prediction.image_feature[None], prediction.retrieved[None])[0]
    assert explanation.labels == tuple(LABELS)
    np.testing.assert_allclose(explanation.patches.sum((1, 2)) + explanation.rest, wanted, rtol=0, atol=CLOSE)
    np.testing.assert_allclose(explanation.cosines, wanted, rtol=0, atol=CLOSE)
    both = explanation.contrast("bird", "red apple")
    np.testing.assert_array_equal(both, explanation.of("bird") - explanation.of("red apple"))
    unknown = classifier.explain(image, ["bird"])  # whose entries are retrieved first
    np.testing.assert_allclose(unknown.of("bird"), explanation.of("bird"), rtol=0, atol=CLOSE)


def test_of_several_prompts_the_nearest_one_counts(classifier: Classifier, image_files: list[Path]) -> None:
    kinds = ["a red car", "a bird"]
    classifier.set_labels(["thing", "house"], prompts=[kinds, ["a small house"]])
    together = classifier.explain(image_files[0], ["thing"]).cosines[0]
    classifier.set_labels(kinds)
    assert together == pytest.approx(classifier.explain(image_files[0]).cosines.max(), abs=CLOSE)


def test_what_the_model_saw_of_an_image_is_said(classifier: Classifier, image_files: list[Path]) -> None:
    wide = Image.open(image_files[0]).convert("RGB").resize((300, 100))
    assert classifier.explain(wide).seen == pytest.approx((100, 0, 200, 100))
    tall = wide.resize((64, 128))
    assert classifier.explain(tall).seen == pytest.approx((0, 32, 64, 96))


def test_a_label_that_is_not_in_use_is_named(classifier: Classifier, image_files: list[Path]) -> None:
    with pytest.raises(UsageError, match="'zebra' is not among the labels"):
        classifier.explain(image_files[0], ["zebra"])


def test_rows_of_a_dataset_have_the_patches_of_their_best_label(
    explained_bundle: Path, image_files: list[Path]
) -> None:
    first, second = image_files[:2]
    rows = {"image": [first, b"damaged", second]}
    classify = ClassifyBatch(explained_bundle, LABELS, threads=1, explain=True, threshold=0.999)
    assert classify.fields()[-2].name == "patches"
    found = classify(rows)
    alone = Classifier.load(explained_bundle, LABELS, threads=1)
    assert found["patches"][1] is None
    for row, image in ((0, first), (2, second)):
        (best, _), *_ = alone(image).top(1)
        wanted = alone.explain(image).of(best)
        assert np.stack(found["patches"][row]) == pytest.approx(wanted, abs=2e-4)  # float16 rounds 0.1 to 6e-5
    tasks = ClassifyBatch(explained_bundle, LABELS, prompts={"a": None, "b": None}, threads=1, explain=True)(rows)
    assert np.stack(tasks["b_patches"][0]) == pytest.approx(np.stack(found["patches"][0]))


def test_a_bundle_without_the_graph_says_what_to_do(bundle: Path, image_files: list[Path]) -> None:
    classifier = Classifier.load(bundle, LABELS, device="cpu", threads=1)
    with pytest.raises(UsageError, match="export it again with attri-export --explain"):
        classifier.explain(image_files[0])
    with pytest.raises(UsageError, match="export it again with attri-export --explain"):
        ClassifyBatch(bundle, LABELS, threads=1, explain=True)({"image": [image_files[0]]})


def test_the_graph_is_read_when_it_is_needed_and_only_if_it_is_the_one(
    explained_bundle: Path, bundle: Path, image_files: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(explained_bundle, tmp_path / "bundle")
    classifier = Classifier.load(tmp_path / "bundle", LABELS, device="cpu", threads=1)
    for name in (EXPLAIN, MANIFEST):
        (tmp_path / "bundle" / name).unlink()
    shutil.copy(bundle / MANIFEST, tmp_path / "bundle" / MANIFEST)  # as if another had been exported to its place
    shutil.copy(bundle / "prompt.attri", tmp_path / "bundle")
    classifier(image_files[0])
    with pytest.raises(BundleError, match="has been replaced since it was loaded"):
        classifier.explain(image_files[0])
