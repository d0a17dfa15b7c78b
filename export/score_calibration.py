"""Temperature and rejection threshold of a bundle, from pictures that neither training nor the reported accuracy has.

Which pictures these are: those of the run's data that are for validation, and its training pictures that `--shots` left
out. Where there are too few, nothing is fitted, unless a folder of labelled pictures is named. Test pictures are never
taken. A run over some classes of its data (base-to-novel) also says how well the temperature of its own classes, the
base, does for the others.
"""

from __future__ import annotations

import dataclasses
import logging
import math
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
    logits_of,
    probabilities,
    summary,
    threshold_accepting,
    threshold_rejecting,
)
from attri.calibration.images import evenly, without_copies
from attri.runtime.classifier import Classifier
from attri.runtime.errors import UsageError
from attri.runtime.images import list_images
from attri.train.data import Dataset, LabelledImage, read_data, read_target
from attri.train.data.dataset import few_shot
from attri.train.training.checkpoint import Run

logger = logging.getLogger("attri")
MOST = 256  # pictures of a kind that are looked at, evenly over them; one number is fitted (our choice)
# Below it a temperature is chance: from 26 pictures of the pocket set it was 0.55 where that of the test pictures is
# 0.78, and made their likelihood worse; from 52 it was 0.83 for 0.84 (our choice).
LEAST = 50
FALSE_ACCEPTS = 0.05  # where negatives are given and nothing else is said (our choice)


@dataclass(frozen=True)
class Validation:
    """Labelled pictures: of the classes that were trained, and perhaps of others of the same data.

    what     for a person
    checked  whether they were held against those that the run was trained and tested on
    """

    what: str
    base: Dataset
    novel: Dataset | None = None
    checked: bool = True

    @classmethod
    def of_run(cls, run: Run) -> Validation:
        """Raises UsageError where the run's data has no such pictures; it says why."""
        whole, learned = data_of(run)
        used = {picture.path for picture in learned}
        unused = [picture for picture in whole.train if picture.path not in used]
        parts = {"validation pictures": whole.val, "training pictures that --shots left out": unused}
        what = " and ".join(name for name, pictures in parts.items() if pictures) or "validation pictures"
        return cls.of(what, dataclasses.replace(whole, test=whole.val + unused), run.classes)

    @classmethod
    def of_folder(cls, folder: Path, run: Run) -> Validation:
        """Its pictures but those that the run was trained or tested on, copies of them, and test pictures of its own.

        Where the run's data cannot be read, nothing is known of the former: that is said, and not `checked`.

        Raises:
            UsageError: it holds no dataset with the run's classes, or too few other pictures.
        """
        data, pictures = not_for_testing(folder)
        try:
            whole, learned = data_of(run)
        except UsageError as error:
            logger.warning("whether the run was trained or tested on pictures of %s is not known: %s", folder, error)
            used = None
        else:
            used = [picture.path for picture in (*learned, *whole.test)]
        fresh = set(without_copies([picture.path for picture in pictures], used or []))
        others = dataclasses.replace(data, test=[picture for picture in pictures if picture.path in fresh])
        found = cls.of(f"pictures of {data.name}", others, run.classes)
        return dataclasses.replace(found, checked=used is not None)

    @classmethod
    def of(cls, what: str, data: Dataset, classes: list[str]) -> Validation:
        """The pictures are those of `data.test`."""
        number = {name: place for place, name in enumerate(data.classes)}
        if missing := [name for name in classes if name not in number]:
            raise UsageError(f"{data.root} has no pictures of {missing[0]!r}, which was trained")
        base = data.only([number[name] for name in classes])
        if len(base.test) < LEAST:
            raise UsageError(f"{data.root} has {len(base.test)} {what} that can be used, {LEAST} are needed")
        others = data.only([place for name, place in number.items() if name not in set(classes)])
        return cls(what, base, others if len(others.classes) > 1 and len(others.test) >= LEAST else None)


@dataclass(frozen=True)
class ScoreCalibrationRequest:
    """What to fit. Without `validation` the temperature stays 1; without either share nothing is rejected.

    why             what is said where there is no validation
    asked           --calibrate was given: a temperature that cannot be fitted is an error, one that does harm is kept
    false_accepts   share of the negatives, pictures of none of the labels, that may pass
    false_rejects   share of the validation pictures that may be rejected
    """

    validation: Validation | None = None
    why: str = "not asked for"
    negatives: list[Path] = field(default_factory=list)
    false_accepts: float | None = None
    false_rejects: float | None = None
    asked: bool = False

    def check(self, labels: list[str]) -> None:
        """Raises UsageError where the wish cannot be met with these labels, or from so few negatives."""
        if len(labels) < 2 and (self.false_accepts, self.false_rejects) != (None, None):
            raise UsageError("a single label always scores 1, and no threshold rejects it: name two labels or more")
        if self.false_accepts is not None:
            require_negatives(len(self.negatives), self.false_accepts)
        if self.false_rejects is None:
            return
        if self.validation is None:
            raise UsageError(f"--false-rejects reads the scores of validation pictures: {self.why}")
        if labels != self.validation.base.classes:
            raise UsageError("--false-rejects reads the scores of pictures of the run's classes: leave --labels out")


def data_of(run: Run) -> tuple[Dataset, list[LabelledImage]]:
    """The whole dataset that a run was trained on, its test pictures those of the run, and what was learned from."""
    train = run.train
    whole = read_data(Path(run.data), train.holdout, seed=train.seed)
    return whole, few_shot(whole, train.shots, train.seed).train if train.shots else whole.train


def not_for_testing(folder: Path) -> tuple[Dataset, list[LabelledImage]]:
    """A dataset, and those of its pictures that are for validation or training; all where it has no parts."""
    whole, target = read_data(folder), read_target(folder)
    has_test = whole.test == target.test  # else `read_data` holds out some for testing, of all that `target` has
    return whole, whole.val + (whole.train if has_test else target.test)


def find_negatives(folder: Path) -> list[Path]:
    """Raises UsageError where there are none."""
    pictures = list_images(folder) if folder.is_dir() else []
    if not pictures:
        raise UsageError(
            f"{folder} holds no pictures: --negatives is a folder of pictures that show none of the labels"
        )
    chosen: list[Path] = evenly(pictures, MOST)
    return chosen


def require_negatives(count: int, share: float) -> None:
    """Raises UsageError where a share of so few pictures cannot be told from none of them."""
    least = math.ceil(1 / (share or FALSE_ACCEPTS) - 1e-9)
    if count < least:
        raise UsageError(f"--false-accepts {share:g} wants {least} --negatives that can be read, not {count}: add some")


def measure(wish: ScoreCalibrationRequest, classifier: Classifier) -> dict[str, Any]:
    """Fit what is wished for.

    Returns:
        temperature, threshold (None: nothing is rejected), and the figures that parity.json keeps beside them.

    Raises:
        UsageError: a temperature or threshold is asked for, and too few of its pictures can be read; or no threshold
            does what is wished for.
    """
    labels = list(classifier.labels)
    result: dict[str, Any] = {"temperature": 1.0, "threshold": None, "validation": None, "why": wish.why}
    known = None
    if wish.validation is not None:
        base, targets = look(classifier, wish.validation.base)
        if len(targets) < LEAST:
            result["why"] = f"only {len(targets)} {wish.validation.what} can be read, {LEAST} are needed"
            if wish.asked or wish.false_rejects is not None:
                raise UsageError(f"scores cannot be calibrated: {result['why']}")
        else:
            result |= fit(wish.validation, wish.asked, classifier, base, targets)
            if labels == wish.validation.base.classes:
                known = probabilities(base, result["temperature"]).max(1)
    classifier.set_labels(labels)
    return result | reject(wish, classifier, known, result["temperature"])


def fit(
    validation: Validation,
    asked: bool,
    classifier: Classifier,
    logits: NDArray[np.float64],
    targets: NDArray[np.int64],
) -> dict[str, Any]:
    """A temperature and its figures, from the base's logits [I, C] and targets [I].

    Unless it was `asked` for, one that makes the error of pictures that it was not fitted on worse is not kept.
    """
    temperature, held_out = fit_temperature(logits, targets), held_out_error(logits, targets)
    plain = calibration_error(probabilities(logits).max(1), logits.argmax(1) == targets)
    result: dict[str, Any] = {"temperature": temperature or 1.0, "validation": validation.what, "why": ""}
    result |= {"checked": validation.checked, "held_out": held_out, "worse": held_out > plain}
    if temperature is None:
        result["why"] = "these pictures have no best temperature, it stays 1"
    elif held_out > plain and not asked:
        said = f"on held-out pictures a temperature makes the error {held_out:.1%}, from {plain:.1%}"
        result |= {"temperature": 1.0, "why": f"{said}: it stays 1"}
    result["base"] = summary(logits, targets, result["temperature"])
    if validation.novel is not None:
        novel, novel_targets = look(classifier, validation.novel)
        if len(novel_targets):
            result["novel"] = summary(novel, novel_targets, result["temperature"])
    return result


def look(classifier: Classifier, data: Dataset) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits [I, C] among the classes of the data, and targets [I], of the pictures that can be read."""
    pictures = evenly(data.test, MOST)
    classifier.set_labels(data.classes)
    logits, rows = logits_of(classifier, [picture.path for picture in pictures])
    return logits, np.array([pictures[row].target for row in rows], np.int64)


def reject(
    wish: ScoreCalibrationRequest, classifier: Classifier, known: NDArray[np.float64] | None, temperature: float
) -> dict[str, Any]:
    """The threshold that was wished for. known: scores of pictures that do show a label, where there are such."""
    found: dict[str, Any] = {}
    if wish.false_accepts is not None:
        logits, rows = logits_of(classifier, wish.negatives)
        require_negatives(len(rows), wish.false_accepts)
        unknown = probabilities(logits, temperature).max(1)
        threshold = threshold_accepting(unknown, wish.false_accepts)
        if threshold > 1:
            raise UsageError(
                f"too many of the negatives score 1: a threshold that lets {wish.false_accepts:.1%} of them pass would"
                " reject every picture; raise --false-accepts, or look whether they do show a label"
            )
        found = {"false_accepts": wish.false_accepts, "negatives": len(rows)}
        found |= {"accepted": float((unknown >= threshold).mean())}
        found |= {"auroc": None if known is None else auroc(known, unknown)}
    elif wish.false_rejects is not None:
        assert known is not None  # Confidence.check
        threshold = threshold_rejecting(known, wish.false_rejects)
        found = {"false_rejects": wish.false_rejects}
    else:
        return {}
    if known is not None:
        found |= {"known": len(known), "rejected": float((known < threshold).mean())}
    return {"threshold": threshold, "rejection": found}
