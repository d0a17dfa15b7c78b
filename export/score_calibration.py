"""Score calibration of a bundle: temperature and rejection threshold, from images outside of training and test.

The images are the validation images of the run's data, and its training images that `--shots` left out. Where there are
too few, nothing is fitted, unless a folder of labelled images is named. Test images are never taken. For a run on some
classes of its data (base-to-novel), the error of the temperature is also measured on the other, novel, classes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.calibration.confidence import (
    auroc,
    calibration_error,
    fit_temperature,
    held_out_error,
    held_out_gain,
    logits_of,
    probabilities,
    summary,
    threshold_accepting,
    threshold_rejecting,
)
from attri.calibration.images import evenly, without_copies
from attri.calibration.independent import fit_independent
from attri.runtime.classifier import Classifier
from attri.runtime.errors import UsageError
from attri.runtime.images import list_images
from attri.runtime.prompt import IndependentScores
from attri.train.data import Dataset, LabelledImage, read_data, read_target
from attri.train.data.dataset import few_shot
from attri.train.training.checkpoint import Run

__all__ = [
    "FALSE_ACCEPTS",
    "ScoreCalibrationRequest",
    "Validation",
    "calibrate_scores",
    "data_of",
    "find_negatives",
    "independent_scores",
    "logits_and_targets",
]

_LOGGER = logging.getLogger("attri")
MAX_IMAGES = 256  # of validation, and of negatives, evenly over them; one number is fitted (our choice)
# With fewer a temperature is chance: from 26 images of the pocket set it was 0.55 where that of the test images is
# 0.78, and made their likelihood worse; from 52 it was 0.83 for 0.84 (our choice).
MIN_IMAGES = 50
FALSE_ACCEPTS = 0.05  # default share of the negatives (our choice)


@dataclass(frozen=True)
class Validation:
    """Labelled images to fit a temperature on. The images are those of each dataset's `test`."""

    what: str  # these images in words
    base: Dataset  # of the classes that were trained
    novel: Dataset | None = None  # of other classes of the same data, to measure the temperature on
    checked: bool = True  # whether images that the run was trained or tested on could be left out

    @classmethod
    def of_run(cls, run: Run) -> Validation:
        """Take the images of the run's data that were neither trained on nor are tested.

        Raises:
            UsageError: there are too few of them.
        """
        whole, learned = data_of(run)
        used = {image.path for image in learned}
        unused = [image for image in whole.train if image.path not in used]
        parts = {"validation images": whole.val, "training images beyond the shots": unused}
        what = " and ".join(name for name, images in parts.items() if images) or "validation images"
        return cls.of(what, dataclasses.replace(whole, test=whole.val + unused), run.classes)

    @classmethod
    def of_folder(cls, folder: Path | str, run: Run) -> Validation:
        """Take a folder's images, without its test part and without those that the run was trained or tested on.

        Where the run's data cannot be read, the latter are not known: that is a warning, and `checked` is False.

        Raises:
            UsageError: it holds no dataset with the run's classes, or too few other images.
        """
        data, images = _not_for_testing(folder)
        try:
            whole, learned = data_of(run)
        except UsageError as error:
            _LOGGER.warning("whether the run was trained or tested on images of %s is not known: %s", folder, error)
            used = None
        else:
            used = [image.path for image in (*learned, *whole.test)]
        fresh = set(without_copies([image.path for image in images], used or []))
        others = dataclasses.replace(data, test=[image for image in images if image.path in fresh])
        found = cls.of(f"images of {data.name}", others, run.classes)
        return dataclasses.replace(found, checked=used is not None)

    @classmethod
    def of(cls, what: str, data: Dataset, classes: list[str]) -> Validation:
        """Split the images of `data.test` into those of the run's classes and those of others.

        Raises:
            UsageError: a class is missing, or there are too few images.
        """
        number = {name: i for i, name in enumerate(data.classes)}
        if missing := [name for name in classes if name not in number]:
            raise UsageError(f"{data.root} has no images of {missing[0]!r}, which was trained")
        base = data.only([number[name] for name in classes])
        if len(base.test) < MIN_IMAGES:
            raise UsageError(f"{data.root} has {len(base.test)} {what} that can be used, {MIN_IMAGES} are needed")
        others = data.only([i for name, i in number.items() if name not in set(classes)])
        return cls(what, base, others if len(others.classes) > 1 and len(others.test) >= MIN_IMAGES else None)


@dataclass(frozen=True)
class ScoreCalibrationRequest:
    """What to fit. Without `validation` the temperature stays 1; without either share nothing is rejected."""

    validation: Validation | None = None
    why: str = "not asked for"  # the reason why there is no validation
    negatives: list[Path] = field(default_factory=list)  # images of none of the labels
    false_accepts: float | None = None  # share of the negatives that may pass
    false_rejects: float | None = None  # share of the validation images that may be rejected
    asked: bool = False  # for: failure to fit is an error, and a harmful temperature is kept

    def check(self, labels: list[str]) -> None:
        """Refuse what cannot be fitted with these labels, or from so few negatives.

        Raises:
            UsageError: says which option is impossible.
        """
        if len(labels) < 2 and (self.false_accepts, self.false_rejects) != (None, None):
            raise UsageError("a single label always scores 1, and no threshold rejects it: name two labels or more")
        if self.false_accepts is not None:
            _require_negatives(len(self.negatives), self.false_accepts)
        if self.false_rejects is None:
            return
        if self.validation is None:
            raise UsageError(f"`false_rejects` reads the scores of validation images: {self.why}")
        if labels != self.validation.base.classes:
            raise UsageError("`false_rejects` reads the scores of images of the run's classes: leave `labels` out")


def data_of(run: Run) -> tuple[Dataset, list[LabelledImage]]:
    """Read the dataset of a run, with the run's own test part, and the images that the run was trained on."""
    train = run.train
    whole = read_data(Path(run.data), train.holdout, seed=train.seed)
    return whole, few_shot(whole, train.shots, train.seed).train if train.shots else whole.train


def _not_for_testing(folder: Path | str) -> tuple[Dataset, list[LabelledImage]]:
    """Read a dataset, and list its images for validation or training; all where it has no parts."""
    whole, target = read_data(folder), read_target(folder)
    has_test = whole.test == target.test  # else `read_data` holds out some for testing, of all that `target` has
    return whole, whole.val + (whole.train if has_test else target.test)


def find_negatives(folder: Path | str) -> list[Path]:
    """Choose up to `MAX_IMAGES` images of a folder, evenly.

    Raises:
        UsageError: it holds none.
    """
    images = list_images(folder) if Path(folder).is_dir() else []
    if not images:
        raise UsageError(f"{folder} holds no images: `negatives` is a folder of images that show none of the labels")
    return evenly(images, MAX_IMAGES)


def _require_negatives(count: int, share: float) -> None:
    """Refuse a share that is less than one image of so few.

    Raises:
        UsageError: says how many are needed.
    """
    least = math.ceil(1 / (share or FALSE_ACCEPTS) - 1e-9)
    if count < least:
        raise UsageError(f"`false_accepts` {share:g} needs {least} `negatives` that can be read, not {count}: add some")


def calibrate_scores(request: ScoreCalibrationRequest, classifier: Classifier) -> dict[str, Any]:
    """Fit temperature, threshold and independent scores.

    Args:
        request: what to fit.
        classifier: of the bundle; its labels are changed meanwhile.

    Returns:
        `temperature`, `threshold` (None: nothing is rejected), `independent` (None: not fitted), and the figures that
        parity.json keeps beside them.

    Raises:
        UsageError: a temperature or threshold was asked for, and too few of its images can be read; or no threshold
            does what was asked for.
    """
    labels = list(classifier.labels)
    result: dict[str, Any] = {"temperature": 1.0, "threshold": None, "validation": None, "why": request.why}
    result["independent"] = None
    known = None
    if request.validation is not None:
        base, targets = logits_and_targets(classifier, request.validation.base)
        if len(targets) < MIN_IMAGES:
            result["why"] = f"only {len(targets)} {request.validation.what} can be read, {MIN_IMAGES} are needed"
            if request.asked or request.false_rejects is not None:
                raise UsageError(f"scores cannot be calibrated: {result['why']}")
        else:
            result |= _fit_temperature(request.validation, request.asked, classifier, base, targets)
            result["independent"] = _fit_independent(request.validation, classifier, base, targets)
            if labels == request.validation.base.classes:
                known = probabilities(base, result["temperature"]).max(1)
    classifier.set_labels(labels)
    return result | _choose_threshold(request, classifier, known, result["temperature"])


def logits_and_targets(classifier: Classifier, data: Dataset) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Classify the readable ones of up to `MAX_IMAGES` of `data.test`, with the data's classes as labels.

    Returns:
        Logits [I, C] and targets [I].
    """
    images = evenly(data.test, MAX_IMAGES)
    classifier.set_labels(data.classes)
    logits, rows = logits_of(classifier, [image.path for image in images])
    return logits, np.array([images[row].target for row in rows], np.int64)


def _fit_temperature(
    validation: Validation,
    asked: bool,
    classifier: Classifier,
    logits: NDArray[np.float64],
    targets: NDArray[np.int64],
) -> dict[str, Any]:
    """Fit a temperature to the base's logits [I, C] and targets [I]; returns it with its figures.

    Unless it was `asked` for, it is kept only where held-out images say that it does good: it makes the cross-validated
    calibration error no worse, and the likelihood better by more than one standard error (benchmarks/confidence.md).
    """
    temperature, held_out = fit_temperature(logits, targets), held_out_error(logits, targets)
    plain = calibration_error(probabilities(logits).max(1), logits.argmax(1) == targets)
    gain, unsure = held_out_gain(logits, targets)
    result: dict[str, Any] = {"temperature": temperature or 1.0, "validation": validation.what, "why": ""}
    result |= {"checked": validation.checked, "held_out": held_out, "worse": held_out > plain, "gain": [gain, unsure]}
    if temperature is None:
        result["why"] = "these images have no best temperature, it stays 1"
    elif held_out > plain and not asked:
        why = f"on held-out images a temperature makes the error {held_out:.1%}, from {plain:.1%}: it stays 1"
        result |= {"temperature": 1.0, "why": why}
    elif gain <= unsure and not asked:
        why = f"on held-out images a temperature gains {gain:+.3f} nats, which is chance (± {unsure:.3f}): it stays 1"
        result |= {"temperature": 1.0, "why": why}
    result["base"] = summary(logits, targets, result["temperature"])
    if validation.novel is not None:
        novel, novel_targets = logits_and_targets(classifier, validation.novel)
        if len(novel_targets):
            result["novel"] = summary(novel, novel_targets, result["temperature"])
    return result


def _fit_independent(
    validation: Validation, classifier: Classifier, logits: NDArray[np.float64], targets: NDArray[np.int64]
) -> dict[str, Any] | None:
    """Fit how labels are scored by themselves, if they can be.

    A model that was trained for it (SigLIP) keeps its scale and bias.
    """
    manifest = classifier.bundle.manifest
    bias = manifest.logit_bias
    fixed = (manifest.logit_scale, bias) if bias else None
    found = fit_independent(logits / manifest.logit_scale, targets, validation.base.classes, fixed)
    return None if found is None else {**dataclasses.asdict(found[0]), "figures": found[1]}


def independent_scores(confidence: Mapping[str, Any]) -> IndependentScores | None:
    """What a prompt keeps of the figures of `calibrate_scores`."""
    found = confidence["independent"]
    return (
        None
        if found is None
        else IndependentScores(found["scale"], found["bias"], found["threshold"], found["thresholds"])
    )


def _choose_threshold(
    request: ScoreCalibrationRequest, classifier: Classifier, known: NDArray[np.float64] | None, temperature: float
) -> dict[str, Any]:
    """Choose the threshold that was asked for, if any. known: scores of images that do show a label, [I]."""
    if request.false_accepts is not None:
        threshold, found = _threshold_of_negatives(request, classifier, known, temperature)
    elif request.false_rejects is not None:
        assert known is not None  # ScoreCalibrationRequest.check
        threshold = threshold_rejecting(known, request.false_rejects)
        found = {"false_rejects": request.false_rejects}
    else:
        return {}
    if known is not None:
        found |= {"known": len(known), "rejected": float((known < threshold).mean())}
    return {"threshold": threshold, "rejection": found}


def _threshold_of_negatives(
    request: ScoreCalibrationRequest, classifier: Classifier, known: NDArray[np.float64] | None, temperature: float
) -> tuple[float, dict[str, Any]]:
    assert request.false_accepts is not None
    logits, rows = logits_of(classifier, request.negatives)
    _require_negatives(len(rows), request.false_accepts)
    unknown = probabilities(logits, temperature).max(1)
    threshold = threshold_accepting(unknown, request.false_accepts)
    if threshold > 1:
        raise UsageError(
            f"too many of the negatives score 1: a threshold that lets {request.false_accepts:.1%} of them pass would"
            " reject every image; raise `false_accepts`, or look whether they do show a label"
        )
    return threshold, {
        "false_accepts": request.false_accepts,
        "negatives": len(rows),
        "accepted": float((unknown >= threshold).mean()),
        "auroc": None if known is None else auroc(known, unknown),
    }
