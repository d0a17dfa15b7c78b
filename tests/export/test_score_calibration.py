"""Which images a temperature is fitted on, and that the runtime does what the manifest says."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from typing import Any

import numpy as np
import pytest
from support.manifests import set_prompt

from attri.calibration.confidence import fit_temperature, logits_of
from attri.export import score_calibration as module
from attri.export import summary
from attri.export.score_calibration import (
    ScoreCalibrationRequest,
    Validation,
    calibrate_scores,
    data_of,
    find_negatives,
    independent_scores,
)
from attri.runtime import Classifier
from attri.runtime.errors import UsageError
from attri.train.config import PromptConfig, TrainConfig
from attri.train.data import Dataset, LabelledImage, read_data
from attri.train.training.checkpoint import Run

CLASSES = ("bird", "cat", "dog", "fish")


@pytest.fixture
def data(tmp_path, image_files):
    """data(part=count, ...): a folder of four classes with so many images of each."""

    def write(**parts):
        root = tmp_path / "data"
        for part, count in parts.items():
            for place, name in enumerate(CLASSES):
                folder = root / part / name
                folder.mkdir(parents=True)
                for number in range(count):
                    shutil.copy(image_files[place * 40 + number], folder / f"{number}.png")
        return root

    return write


def run_on(root, classes=CLASSES, **train):
    return Run(PromptConfig(), TrainConfig(**train), {}, list(classes), str(root), {})


def names(dataset):
    return sorted({"/".join(image.path.parts[-3:-1]) for image in dataset.test})


def test_validation_images_are_taken(data):
    found = Validation.of_run(run_on(data(train=8, val=14, test=5)))
    assert found.what == "validation images"
    assert names(found.base) == [f"val/{name}" for name in CLASSES]
    assert (len(found.base.test), found.novel) == (56, None)


@pytest.mark.parametrize("val", [0, 3])
def test_and_training_images_that_were_not_drawn(data, val):
    root = data(train=16, test=5, **({"val": val} if val else {}))
    found = Validation.of_run(run_on(root, shots=2, seed=7))
    left = "training images beyond the shots"
    assert found.what == (f"validation images and {left}" if val else left)
    drawn = {image.path for image in read_data(root, shots=2, seed=7).train}
    assert len(found.base.test) == 4 * (14 + val)
    assert not drawn & {image.path for image in found.base.test}
    parts = ("train", "val") if val else ("train",)
    assert names(found.base) == [f"{part}/{name}" for part in parts for name in CLASSES]


def test_images_held_out_for_testing_are_never_taken(data):
    root = data(photos=20)
    shutil.move(root / "photos", root.parent / "photos")  # class folders without parts: a quarter is held out
    found = Validation.of_run(run_on(root.parent / "photos", shots=2, seed=3))
    dataset = read_data(root.parent / "photos", seed=3)
    tested = {image.path for image in dataset.test}
    assert len(tested) == 20
    assert len(found.base.test) == 4 * (20 - 5 - 2)
    assert not tested & {image.path for image in found.base.test}


@pytest.mark.parametrize(
    ("parts", "train", "message"),
    [
        ({"train": 8, "test": 5}, {}, "0 validation images that can be used, 50 are needed"),
        ({"train": 8, "val": 12, "test": 5}, {}, "48 validation images that can be used, 50 are needed"),
        ({"train": 8, "test": 5}, {"shots": 2}, "24 training images beyond the shots that can be used, 50 are"),
    ],
)
def test_where_there_are_none_it_is_said(data, parts, train, message):
    with pytest.raises(UsageError, match=message):
        Validation.of_run(run_on(data(**parts), **train))


def test_data_that_has_changed_is_noticed(data, tmp_path):
    root = data(train=2, val=30, test=1)
    with pytest.raises(UsageError, match="no images of 'wolf', which was trained"):
        Validation.of_run(run_on(root, classes=("bird", "wolf")))
    with pytest.raises(UsageError, match="no such folder"):
        Validation.of_run(run_on(tmp_path / "gone"))


def test_other_classes_of_the_data_are_novel(data):
    found = Validation.of_run(run_on(data(train=1, val=25), classes=("cat", "dog")))
    assert (found.base.classes, found.novel.classes) == (["cat", "dog"], ["bird", "fish"])
    assert names(found.base) == ["val/cat", "val/dog"]
    assert {image.target for image in found.base.test} == {0, 1}


def test_a_named_folder_is_taken_whole_and_it_is_said_where_it_could_not_be_compared(data, tmp_path, caplog):
    run = run_on(tmp_path / "gone")
    found = Validation.of_folder(data(photos=13) / "photos", run)
    assert found.what == "images of photos"
    assert len(found.base.test) == 52
    assert not found.checked
    assert "was trained or tested on images of" in caplog.text
    assert "gone: no such folder" in caplog.text


def test_but_for_its_test_images(data, tmp_path):
    found = Validation.of_folder(data(train=8, val=9, test=10), run_on(tmp_path / "gone"))
    assert names(found.base) == sorted(f"{part}/{name}" for part in ("train", "val") for name in CLASSES)
    assert len(found.base.test) == 4 * (8 + 9)


def test_and_for_copies_of_what_the_run_was_trained_and_tested_on(data, tmp_path):
    root = data(train=20, val=13, test=5)
    shutil.copytree(root, tmp_path / "copy")
    found = Validation.of_folder(tmp_path / "copy", run_on(root, shots=2))
    again = {image.path.read_bytes() for image in read_data(root, shots=2).train}
    again |= {image.path.read_bytes() for image in read_data(root).test}
    assert found.checked
    assert len(found.base.test) >= 50
    assert not again & {image.path.read_bytes() for image in found.base.test}


def test_but_for_what_the_run_was_trained_and_tested_on(data):
    root = data(photos=20) / "photos"
    run = run_on(root, shots=2, seed=3)
    whole, learned = data_of(run)
    assert (len(whole.test), len(learned)) == (20, 8)
    found = {image.path for image in Validation.of_folder(root, run).base.test}
    assert len(found) == 80 - 20 - 8
    assert not found & {image.path for image in (*whole.test, *learned)}
    both = data(train=6, test=6)
    with pytest.raises(UsageError, match="0 images of data that can be used"):
        Validation.of_folder(both, run_on(both))


@pytest.fixture
def few_are_enough(monkeypatch):
    monkeypatch.setattr(module, "MIN_IMAGES", 20)


@pytest.fixture(scope="module")
def validation(bundle, image_files):
    """30 images, of which the bundle gets all but six right, and the same images as those of other classes."""
    classifier = Classifier.load(bundle, device="cpu")
    said = [int(prediction.probabilities.argmax()) for prediction in classifier(image_files[:30])]
    images = [
        LabelledImage(file, (best + (number % 5 == 0)) % 3)
        for number, (file, best) in enumerate(zip(image_files, said, strict=False))
    ]
    base = Dataset(image_files[0].parent, "some", list(classifier.labels), [], [], images)
    return Validation("validation images", base, dataclasses.replace(base, classes=["cat", "tree", "car"]))


@pytest.mark.usefixtures("few_are_enough")
def test_the_temperature_is_that_of_the_base(bundle, validation):
    classifier = Classifier.load(bundle, device="cpu")
    found = calibrate_scores(ScoreCalibrationRequest(validation, asked=True), classifier)
    logits, _ = logits_of(classifier, [image.path for image in validation.base.test])
    targets = np.array([image.target for image in validation.base.test])
    assert found["temperature"] == fit_temperature(logits, targets)
    assert found["base"]["images"] == found["novel"]["images"] == 30
    assert found["threshold"] is None
    assert classifier.labels == ("red apple", "bird", "a small house")
    json.dumps(found, allow_nan=False)


@pytest.mark.usefixtures("few_are_enough")
@pytest.mark.parametrize("error", [0.0, 1.0])
def test_a_temperature_that_does_harm_is_kept_only_where_it_was_asked_for(bundle, validation, monkeypatch, error):
    monkeypatch.setattr(module, "held_out_error", lambda logits, targets: error)
    monkeypatch.setattr(module, "held_out_gain", lambda logits, targets: (0.2, 0.1))
    classifier = Classifier.load(bundle, device="cpu")
    by_itself, asked = (
        calibrate_scores(ScoreCalibrationRequest(validation, asked=asked), classifier) for asked in (False, True)
    )
    assert (asked["held_out"], asked["worse"], asked["why"]) == (error, error == 1, "")
    assert asked["temperature"] != 1
    if error == 0:
        assert by_itself == asked
        return
    assert (by_itself["temperature"], by_itself["base"]["before"]) == (1, by_itself["base"]["after"])
    why = r"on held-out images a temperature makes the error 100.0%, from \d+\.\d%: it stays 1"
    assert re.fullmatch(why, by_itself["why"])
    assert "worse, kept since --calibrate was given" in summary.temperature_text(asked)
    assert summary.temperature_text(by_itself).startswith("not calibrated: on held-out images")
    assert re.search(r"; on other classes \d+\.\d% without, \d+\.\d% with it", summary.temperature_text(asked))


def test_images_that_cannot_be_read_count_for_nothing(bundle, validation, tmp_path, monkeypatch):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    broken = [LabelledImage(tmp_path / "broken.png", 0)] * 30
    some = dataclasses.replace(validation.base, test=[*validation.base.test, *broken])
    classifier = Classifier.load(bundle, device="cpu")
    found = calibrate_scores(ScoreCalibrationRequest(Validation("validation images", some)), classifier)
    why = "only 30 validation images can be read, 50 are needed"
    assert (found["temperature"], found["validation"], found["why"]) == (1.0, None, why)
    for request in ({"asked": True}, {"false_rejects": 0.1}):
        with pytest.raises(UsageError, match=f"scores cannot be calibrated: {why}"):
            calibrate_scores(ScoreCalibrationRequest(Validation("validation images", some), **request), classifier)
    monkeypatch.setattr(module, "MIN_IMAGES", 30)
    novel = dataclasses.replace(validation.base, test=broken)
    found = calibrate_scores(ScoreCalibrationRequest(Validation("validation images", some, novel)), classifier)
    assert (found["base"]["images"], "novel" in found) == (30, False)


@pytest.mark.usefixtures("few_are_enough")
def test_a_temperature_that_may_be_chance_is_kept_only_where_it_was_asked_for(bundle, validation, monkeypatch):
    monkeypatch.setattr(module, "held_out_error", lambda logits, targets: 0.0)
    monkeypatch.setattr(module, "held_out_gain", lambda logits, targets: (0.05, 0.06))
    classifier = Classifier.load(bundle, device="cpu")
    by_itself, asked = (
        calibrate_scores(ScoreCalibrationRequest(validation, asked=asked), classifier) for asked in (False, True)
    )
    assert by_itself["temperature"] == 1.0
    why = "on held-out images a temperature gains +0.050 nats, which is chance (± 0.060): it stays 1"
    assert by_itself["why"] == why
    assert (asked["why"], asked["gain"]) == ("", [0.05, 0.06])
    assert asked["temperature"] != 1


@pytest.mark.usefixtures("few_are_enough")
def test_images_that_are_all_right_leave_the_temperature_at_one(bundle, validation):
    classifier = Classifier.load(bundle, device="cpu")
    logits, _ = logits_of(classifier, [image.path for image in validation.base.test])
    right = [LabelledImage(p.path, int(best)) for p, best in zip(validation.base.test, logits.argmax(1), strict=True)]
    base = dataclasses.replace(validation.base, test=right)
    found = calibrate_scores(ScoreCalibrationRequest(Validation("v", base)), classifier)
    assert (found["temperature"], found["why"]) == (1.0, "these images have no best temperature, it stays 1")


def changed(bundle, tmp_path, **facts):
    path = tmp_path / "changed"
    shutil.copytree(bundle, path)
    set_prompt(path, **facts)
    return Classifier.load(path, device="cpu")


@pytest.mark.usefixtures("few_are_enough")
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_runtime_accepts_as_many_negatives_as_wanted(bundle, validation, image_files, tmp_path, share):
    negatives = image_files[40:70]
    found = calibrate_scores(
        ScoreCalibrationRequest(validation, "", negatives, share), Classifier.load(bundle, device="cpu")
    )
    classifier = changed(bundle, tmp_path, temperature=found["temperature"], threshold=found["threshold"])
    accepted = np.mean([prediction.label is not None for prediction in classifier(negatives)])
    assert accepted == pytest.approx(found["rejection"]["accepted"])
    assert share - 1 / 30 < accepted <= share
    assert 0 <= found["rejection"]["auroc"] <= 1


def test_a_threshold_is_applied_to_the_labels_that_it_was_chosen_for(bundle, image_files, tmp_path):
    classifier = changed(bundle, tmp_path, threshold=0.9999)
    own = list(classifier.labels)

    def rejected():
        return classifier(image_files[0]).label is None

    assert (classifier.threshold, rejected()) == (0.9999, True)
    cases: list[tuple[list[str], dict[str, Any]]] = [
        (["cat", *own], {}),
        (own[:2], {}),
        (own, {"prompts": [["cat"], *([label] for label in own[1:])]}),
        (own, {"template": "{}"}),
    ]
    for labels, options in cases:
        classifier.set_labels(labels, **options)
        assert (classifier.threshold, classifier.threshold_not_applied, rejected()) == (None, True, False)
    classifier.labels = own[::-1]
    assert (classifier.threshold, classifier.threshold_not_applied, rejected()) == (0.9999, False, True)
    classifier.labels = ["cat", "dog"]
    classifier.threshold = 1.0  # whatever the labels
    assert (classifier.threshold_not_applied, rejected()) == (False, True)
    classifier.labels, classifier.threshold = own, None
    assert not rejected()


@pytest.mark.usefixtures("few_are_enough")
def test_without_negatives_the_scores_of_validation_images_decide(bundle, validation, tmp_path):
    found = calibrate_scores(
        ScoreCalibrationRequest(validation, "", false_rejects=0.2), Classifier.load(bundle, device="cpu")
    )
    classifier = changed(bundle, tmp_path, temperature=found["temperature"], threshold=found["threshold"])
    rejected = [p.label is None for p in classifier([image.path for image in validation.base.test])]
    assert np.mean(rejected) == pytest.approx(found["rejection"]["rejected"]) == pytest.approx(0.2)


@pytest.mark.usefixtures("few_are_enough")
def test_independent_scores_are_those_of_the_runtime(bundle, validation, tmp_path, monkeypatch):
    monkeypatch.setattr("attri.calibration.independent.MIN_POSITIVES", 3)
    found = calibrate_scores(ScoreCalibrationRequest(validation), Classifier.load(bundle, device="cpu"))
    json.dumps(found, allow_nan=False)
    scores = independent_scores(found)
    classifier = changed(bundle, tmp_path, independent=scores)
    classifier.independent = True
    images, targets = zip(*((image.path, image.target) for image in validation.base.test), strict=True)
    held = np.array([each.probabilities >= 0.5 for each in classifier(images)])
    shown = np.arange(3) == np.array(targets)[:, None]
    right = [np.mean([held[shown[:, c], c].mean(), (~held[~shown[:, c], c]).mean()]) for c in range(3)]
    figures = found["independent"]["figures"]
    assert figures["balanced_accuracy"] == pytest.approx(np.mean(right))
    if not figures["own"]:
        holds = np.array([each.probabilities >= each.thresholds for each in classifier(images)])
        assert figures["precision"] == pytest.approx(shown[holds].mean())
        assert figures["recall"] == pytest.approx(holds[shown].mean())
    for prediction in classifier(images[:4]):
        limits = [scores.thresholds.get(label, scores.threshold) for label in prediction.labels]
        np.testing.assert_allclose(prediction.thresholds, limits, rtol=1e-6)


def test_nothing_is_fitted_without_validation_images(bundle):
    found = calibrate_scores(ScoreCalibrationRequest(), Classifier.load(bundle, device="cpu"))
    assert found["independent"] is independent_scores(found) is None


def test_a_temperature_moves_no_label_of_the_runtime(bundle, image_files, tmp_path):
    plain = Classifier.load(bundle, device="cpu")(image_files[:24])
    for number, temperature in enumerate((0.05, 0.7, 20.0)):
        soft = changed(bundle, tmp_path / str(number), temperature=temperature)(image_files[:24])
        assert [p.label for p in soft] == [p.label for p in plain]
        assert np.mean([p.score for p in soft]) != pytest.approx(np.mean([p.score for p in plain]))


def test_requests_that_cannot_be_met(validation, tmp_path, bundle):
    with pytest.raises(UsageError, match="`false_rejects` reads the scores of validation images: none there"):
        ScoreCalibrationRequest(None, "none there", false_rejects=0.1).check(["a", "b"])
    with pytest.raises(UsageError, match="leave `labels` out"):
        ScoreCalibrationRequest(validation, false_rejects=0.1).check(["a", "b"])
    with pytest.raises(UsageError, match="holds no images: `negatives`"):
        find_negatives(tmp_path)
    (tmp_path / "a.png").write_bytes(b"not an image")
    few = ScoreCalibrationRequest(negatives=[tmp_path / "a.png"] * 10, false_accepts=0.1)
    few.check(["a", "b"])
    with pytest.raises(UsageError, match="needs 10 `negatives` that can be read, not 0: add some"):
        calibrate_scores(few, Classifier.load(bundle, device="cpu"))


@pytest.mark.parametrize(("share", "least"), [(0.05, 20), (0.3, 4), (1.0, 1), (0.0, 20)])
def test_a_share_of_too_few_negatives_is_no_share(tmp_path, share, least):
    ScoreCalibrationRequest(negatives=[tmp_path] * least, false_accepts=share).check(["a", "b"])
    with pytest.raises(UsageError, match=f"`false_accepts` .* needs {least} `negatives` that can be read"):
        ScoreCalibrationRequest(negatives=[tmp_path] * (least - 1), false_accepts=share).check(["a", "b"])


def test_a_threshold_that_would_reject_every_image_is_refused(bundle, image_files, tmp_path, monkeypatch):
    for request in (
        ScoreCalibrationRequest(negatives=[tmp_path] * 20, false_accepts=0.1),
        ScoreCalibrationRequest(false_rejects=0.1),
    ):
        with pytest.raises(UsageError, match="a single label always scores 1"):
            request.check(["cat"])
    certain = np.array([[100.0, 0, 0]] * 20)  # a softmax of 1 to the last bit
    monkeypatch.setattr(module, "logits_of", lambda classifier, images: (certain, list(range(20))))
    classifier = Classifier.load(bundle, device="cpu")
    with pytest.raises(UsageError, match=r"that lets 10.0% of them pass would reject every image; raise `false_acc"):
        calibrate_scores(ScoreCalibrationRequest(negatives=image_files[:20], false_accepts=0.1), classifier)
