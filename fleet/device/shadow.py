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
from typing import Any

from attri.fleet.device.answers import answering, be_modest, say
from attri.fleet.device.check import Check, open_classifier, require_finite
from attri.runtime.deliver.format import file_name
from attri.runtime.deliver.updates.exchange import Exchange
from attri.runtime.errors import FailedError, RefusedError
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


def compare(bundle: Path, running: Path, check: Check, shadow: Shadow, frames: Path, kept: Path) -> dict[str, Any]:
    """Classify frames with a release and with what runs.

    Args:
        bundle: of the release.
        running: bundle of what runs.
        check: backend, device, threads and labels.
        shadow: the bound.
        frames: folder of the images.
        kept: folder for those on which both disagree; what is there is removed.

    Returns:
        The figures: frames, agreement (0 to 1), mean change of the best score, and the shares without a label.

    Raises:
        RefusedError: they agree on too few.
        AttriError: it cannot be asked.
    """
    images = sorted(frames.glob("*.jpg"))
    after, before = _classified(bundle, check, images), _classified(running, check, images)
    differ = [i for i in range(len(images)) if after[i].label != before[i].label]
    _keep([(images[i], before[i].label, after[i].label) for i in differ[:KEPT]], kept)
    agreement = 1 - len(differ) / len(images)
    drift = statistics.fmean(new.score - old.score for new, old in zip(after, before, strict=True))
    figures = {
        "frames": len(images),
        "agreement": round(agreement, 4),
        "score_drift": round(drift, 4),
        "rejected": round(_rejected(after), 4),
        "rejected_before": round(_rejected(before), 4),
    }
    if 100 * agreement < shadow.min_agreement:
        raise RefusedError(
            f"{len(images) - len(differ)} of {len(images)} live frames get the label that they get from what runs"
            f" ({agreement:.0%}), the bound is {shadow.min_agreement:g}%; scores differ by {drift:+.2f} on average,"
            f" {_rejected(after):.0%} have no label, {_rejected(before):.0%} before; images are in {kept}"
        )
    return figures


def _classified(bundle: Path, check: Check, images: Sequence[Path]) -> list[Prediction]:
    with open_classifier(bundle, check) as classifier:  # one after the other, which takes less memory
        found = classifier(images)
    require_finite(found)
    return found


def _rejected(predictions: Sequence[Prediction]) -> float:
    return sum(each.label is None for each in predictions) / len(predictions)


def _keep(disagreements: Sequence[tuple[Path, str | None, str | None]], folder: Path) -> None:
    """Copy images to NUMBER_BEFORE_AFTER.jpg."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)  # others are not to see what cameras do
    for image, *labels in disagreements:
        before, after = (file_name(label or "none of the labels") for label in labels)
        shutil.copy(image, folder / f"{image.stem}_{before}_{after}.jpg")


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
