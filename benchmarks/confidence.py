"""Calibration error, AUROC and rejection threshold, on images that were used for neither fitting nor choosing them.

    attri-train --protocol base-to-novel --shots 8 --output runs/base-to-novel
    python -m benchmarks.confidence runs/base-to-novel

Every AttriPrompt run of the protocol, which learned the base classes, is exported with its temperature, fitted on
images of the base classes that training left out (8 shots leave enough), and with a threshold that lets 5% of such
images of the novel classes pass.
What is printed is measured on test images. Known images show a base class; unknown ones show a novel class, and
no label is theirs. Mean over the runs, and in brackets the standard deviation. Kept in benchmarks/confidence.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from attri.calibration.confidence import auroc, logits_of, probabilities, summary
from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity.images import find_parity_images
from attri.export.score_calibration import (
    FALSE_ACCEPTS,
    ScoreCalibrationRequest,
    Validation,
    logits_and_targets,
)
from attri.runtime import Classifier
from attri.train.data import read_data
from attri.train.fitting import load_model
from attri.train.training.checkpoint import load_run
from benchmarks.common import keep


def main() -> None:
    """Parse the command line, measure, and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", type=Path)
    runs = sorted(parser.parse_args().protocol.glob("attriprompt-*"))
    assert runs, "no AttriPrompt run of base-to-novel there"
    keep(Path(__file__), __doc__, table([measure(run) for run in runs]))


def measure(folder: Path) -> dict[str, Any]:
    """Export one run with temperature and threshold, and score its test images."""
    run = load_run(folder)
    validation = Validation.of_run(run)
    assert validation.novel is not None, "the run knows all classes of its data"
    negatives = [image.path for image in validation.novel.test]
    data = read_data(Path(run.data), run.train.holdout, seed=run.train.seed)
    known = [data.classes.index(name) for name in run.classes]
    parts = {"base": known, "novel": [number for number in range(len(data.classes)) if number not in known]}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "bundle"
        request = ScoreCalibrationRequest(validation, "", negatives, FALSE_ACCEPTS, asked=True)  # even if it does harm
        images = find_parity_images(Path(run.data), 16)
        export_bundle(load_model(run), path, run.classes, images, ExportOptions(scores=request))
        classifier = Classifier.load(path, device="cpu")
        facts = classifier.prompt.facts
        temperature, threshold = facts.temperature, facts.threshold
        assert threshold is not None
        found: dict[str, Any] = {"temperature": temperature, "threshold": threshold}
        scores = {}
        for name, numbers in parts.items():
            part = data.only(numbers)
            found[name] = summary(*logits_and_targets(classifier, part), temperature)
            classifier.set_labels(run.classes)
            logits, _ = logits_of(classifier, [image.path for image in part.test])
            scores[name] = probabilities(logits, temperature).max(1)
    found["auroc"] = auroc(scores["base"], scores["novel"])
    found["accepted"] = float((scores["novel"] >= threshold).mean())
    found["rejected"] = float((scores["base"] < threshold).mean())
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the runs, as Markdown."""

    def percent(*path: str) -> str:
        values = []
        for each in found:
            value: Any = each
            for key in path:
                value = value[key]
            values.append(100 * value)
        return f"{np.mean(values):.1f} ({np.std(values):.1f})"

    temperatures = ", ".join(f"{each['temperature']:.2f}" for each in found)
    thresholds = ", ".join(f"{each['threshold']:.2f}" for each in found)
    lines = [
        f"pocket, base-to-novel, {len(found)} seeds; in percent. Temperatures {temperatures}.",
        "",
        "| test images of | right | mean score before | after | calibration error before | after |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("base", "novel"):
        cells = [("accuracy",), ("before", "score"), ("after", "score"), ("before", "ece"), ("after", "ece")]
        count = found[0][name]["images"]
        lines.append(f"| {name} classes, {count} | {' | '.join(percent(name, *cell) for cell in cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            "With so few images in 15 bins, even perfect scores have a calibration error of 10 to 13 (simulated).",
            "",
            "| with the base classes as labels | |",
            "|---|---|",
            f"| AUROC, images of base against novel classes | {percent('auroc')} |",
            f"| novel images that pass, {100 * FALSE_ACCEPTS:.0f} wanted (at {thresholds}) | {percent('accepted')} |",
            f"| base images that are rejected | {percent('rejected')} |",
        ]
    )


if __name__ == "__main__":
    main()
