"""A release in the shadow of what runs: both classify the same live frames, and their labels are compared.

attri-run saves its next frames and goes on; a process with bounds on memory and time classifies them:

    python -m attri.fleet.device.shadow BUNDLE RUNNING CHECK SHADOW FRAMES DISAGREEMENTS

writes {"stage": "checked", "figures": ...}, or {"stage": "refused", "reason": ...}.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from attri.fleet.device.answers import answering, be_modest, say
from attri.fleet.device.check import Check, ask, open_classifier, require_finite
from attri.runtime.classifier import classify_together
from attri.runtime.deliver.format import file_name
from attri.runtime.deliver.updates.exchange import Exchange, TaskSettings, settings_of
from attri.runtime.errors import AttriError, FailedError, RefusedError, UsageError
from attri.runtime.prediction import Prediction

KEPT = 20  # images on which both disagree
POLL = 0.1  # seconds between looks at what came


@dataclass(frozen=True)
class Shadow:
    """What a release has to show on live frames.

    Attributes:
        frames: how many.
        seconds: within which they have to come.
        min_agreement: percent of them that have to get the label that they get from what runs.
    """

    frames: int
    seconds: float = 600.0
    min_agreement: float = 90.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def collect(live: Exchange, shadow: Shadow) -> list[Path]:
    """Have the running attri-run save its next frames, and wait for them.

    Raises:
        FailedError: too few came in time.
    """
    live.ask_for_frames(shadow.frames)
    deadline = time.monotonic() + shadow.seconds
    while len(found := live.saved_frames()) < shadow.frames:
        if time.monotonic() > deadline:
            raise FailedError(
                f"{len(found)} of {shadow.frames} live frames came within {shadow.seconds:g} seconds: the release waits"
                " for an attri-run that follows this store and sees something, what runs goes on"
            )
        time.sleep(POLL)
    return found


class Answers(NamedTuple):
    """What both say of one frame to one task.

    Attributes:
        image: the frame.
        task: name of the task; None where its source has only this one.
        before: of what runs.
        after: of the release.
    """

    image: Path
    task: str | None
    before: Prediction
    after: Prediction

    @property
    def same(self) -> bool:
        """Whether both give the same label; of independent ones, the same labels."""
        return _labels(self.before) == _labels(self.after)


def compare(bundle: Path, running: Path, check: Check, shadow: Shadow, frames: Path, kept: Path) -> dict[str, Any]:
    """Classify frames with a release and with what runs, by all tasks of the source that each frame is of.

    Args:
        bundle: of the release.
        running: bundle of what runs.
        check: backend, device and threads.
        shadow: the bound, for each task by itself: one that does not use what is new would hide one that does.
        frames: folder of the images, and of what is asked of each.
        kept: folder for those on which both disagree; what is there is removed.

    Returns:
        The figures: frames, agreement (0 to 1, of the task with the least), mean change of the best score, the shares
        without a label, and the agreement of each task that has a name.

    Raises:
        RefusedError: they agree on too few.
        UsageError: what runs cannot be asked either.
        AttriError: the release cannot be asked.
    """
    images = sorted(frames.glob("*.jpg"))
    try:
        before = _classified(running, check, images)
    except AttriError as error:
        raise UsageError(f"what runs cannot be compared with: {error}") from error
    after = _classified(bundle, check, images)
    answers = [Answers(*key, prediction, after[key]) for key, prediction in before.items()]
    _keep([each for each in answers if not each.same][:KEPT], kept)
    tasks: dict[str | None, list[Answers]] = {}
    for each in answers:
        tasks.setdefault(each.task, []).append(each)
    worst = min(tasks, key=lambda task: _agreement(tasks[task]))
    agreement, found = _agreement(tasks[worst]), tasks[worst]
    drift = statistics.fmean(each.after.score - each.before.score for each in found)
    rejected, rejected_before = (_rejected([getattr(each, name) for each in found]) for name in ("after", "before"))
    figures: dict[str, Any] = {
        "frames": len(images),
        "agreement": round(agreement, 4),
        "score_drift": round(drift, 4),
        "rejected": round(rejected, 4),
        "rejected_before": round(rejected_before, 4),
    }
    if named := {task: round(_agreement(each), 4) for task, each in tasks.items() if task is not None}:
        figures["tasks"] = named
    if 100 * agreement < shadow.min_agreement:
        of_task = f" of task {worst}" if worst is not None else ""
        raise RefusedError(
            f"{sum(each.same for each in found)} of {len(found)} live frames{of_task} get the label that they get from"
            f" what runs ({agreement:.0%}), the bound is {shadow.min_agreement:g}%; scores differ by {drift:+.2f} on"
            f" average, {rejected:.0%} have no label, {rejected_before:.0%} before; images are in {kept}"
        )
    return figures


def _classified(bundle: Path, check: Check, images: Sequence[Path]) -> dict[tuple[Path, str | None], Prediction]:
    """What a bundle says of frames, by frame and task; tasks of a frame share the run of the vision graph."""
    asked: dict[tuple[TaskSettings, ...], list[Path]] = {}
    for image in images:
        asked.setdefault(settings_of(image), []).append(image)
    found: dict[tuple[Path, str | None], Prediction] = {}
    with open_classifier(bundle, check) as classifier:  # one bundle after the other, which takes less memory
        for tasks, group in asked.items():
            forks = [ask(classifier, task) for task in tasks]
            for image, predictions in zip(group, classify_together(forks, group, [None] * len(forks)), strict=True):
                found |= {(image, task.name): each for task, each in zip(tasks, predictions, strict=True)}
    require_finite(list(found.values()))
    return found


def _labels(prediction: Prediction) -> set[str | None]:
    """The label, or of independent ones all that hold."""
    return {prediction.label} if prediction.held is None else {label for label, _ in prediction.held}


def _agreement(answers: Sequence[Answers]) -> float:
    return sum(each.same for each in answers) / len(answers)


def _rejected(predictions: Sequence[Prediction]) -> float:
    return sum(each.label is None for each in predictions) / len(predictions)


def _keep(disagreements: Sequence[Answers], folder: Path) -> None:
    """Copy images to NUMBER[_TASK]_BEFORE_AFTER.jpg."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)  # others are not to see what cameras do
    for each in disagreements:
        labels = [prediction.label or "none of the labels" for prediction in (each.before, each.after)]
        words = [each.image.stem, *filter(None, [each.task]), *map(file_name, labels)]
        shutil.copy(each.image, folder / f"{'_'.join(words)}.jpg")


def main(bundle: str, running: str, check: str, shadow: str, frames: str, kept: str) -> int:
    """Compare, and write what was found to stdout."""
    with answering():
        asked = Check(**json.loads(check)), Shadow(**json.loads(shadow))
        figures = compare(Path(bundle), Path(running), *asked, Path(frames), Path(kept))
        say(stage="checked", figures={"shadow": figures})
    return 0


if __name__ == "__main__":
    be_modest()
    sys.exit(main(*sys.argv[1:]))
