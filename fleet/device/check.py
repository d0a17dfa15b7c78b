"""Does a release fit this device, agree with its model, and is it no worse than what runs: a process of its own.

    python -m attri.fleet.device.check BUNDLE [RUNNING] OPTIONS

writes a JSON object a line: {"stage": "built"}, when the engines are there and have been held against the reference
images, then {"stage": "checked", "figures": ...}, or {"stage": "refused", "reason": ...} in the place of either.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.fleet.device.answers import answering, be_modest, say
from attri.fleet.device.golden import count_right, read_golden, unknown_labels
from attri.runtime._util.wording import plural
from attri.runtime.bundle import REFERENCE, Bundle
from attri.runtime.classifier import Classifier
from attri.runtime.engines.onnxruntime import Device
from attri.runtime.engines.select import Backend, EngineOptions, open_engines
from attri.runtime.engines.verify import compare
from attri.runtime.errors import RefusedError, UsageError
from attri.runtime.image_batches import ImageInput
from attri.runtime.labels import load_labels
from attri.runtime.prediction import Prediction

WARM_UP, TIMED = 2, 10  # images


@dataclass(frozen=True)
class Check:
    """What a release has to show.

    Attributes:
        backend: what runs it, as `Classifier.load` has it.
        device: likewise.
        threads: likewise.
        labels: the device's labels file; None are the prompt's own.
        golden: folder of golden images; None asks for none.
        tolerance: percent of the golden images by which it may be worse than what runs.
        latency_ms: median time of an image that it may take; None is any.
    """

    backend: Backend = "auto"
    device: Device = "auto"
    threads: int | None = None
    labels: str | None = None
    golden: str | None = None
    tolerance: float = 0.0
    latency_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def agree(bundle: Path, check: Check) -> dict[str, Any]:
    """Open, or build, the engines of a release, and hold them against the model on the reference images.

    Returns:
        The least figure of each graph.

    Raises:
        AttriError: it does not fit, or does not agree.
    """
    with Bundle.open(bundle) as opened:
        engines = open_engines(opened, EngineOptions(check.backend, check.device, check.threads))
        try:
            return {
                name: round(min(compare(opened, name, engine).values()), 6)
                for name, engine in zip(opened.graph_files, engines, strict=True)
            }
        finally:
            for engine in engines:
                engine.close()


def suffice(bundle: Path, running: Path | None, check: Check) -> dict[str, Any]:
    """Time a release, and compare it with what runs on the golden images.

    Returns:
        The figures.

    Raises:
        RefusedError: it is too slow, or worse.
        AttriError: it cannot be asked.
    """
    golden = read_golden(Path(check.golden)) if check.golden else []
    figures: dict[str, Any] = {}
    with open_classifier(bundle, check) as classifier:
        if unknown := ", ".join(unknown_labels(classifier, golden)):
            if check.labels is not None:
                raise UsageError(f"{check.labels} has no {unknown}, of which there are golden images in {check.golden}")
            raise RefusedError(f"it has no label {unknown}, of which there are golden images")
        figures["latency_ms"] = took = _latency(classifier, [image for image, _ in golden] or _reference(bundle))
        if check.latency_ms is not None and not took <= check.latency_ms:
            raise RefusedError(f"an image takes {took:g} ms, the bound is {check.latency_ms:g}")
        if golden:
            figures |= {"golden": len(golden), "right": count_right(classifier, golden)}
    if golden and running:
        with open_classifier(running, check) as classifier:  # after the other one: less memory
            figures["right_before"] = before = count_right(classifier, golden)
        if figures["right"] < before - check.tolerance / 100 * len(golden):
            raise RefusedError(f"{figures['right']} of {len(golden)} golden images are right, {before} with what runs")
    return figures


def open_classifier(bundle: Path, check: Check) -> Classifier:
    """A bundle as this device runs it. Raises AttriError: it cannot be."""
    classifier = Classifier.load(bundle, backend=check.backend, device=check.device, threads=check.threads)
    if check.labels is not None:
        labels = load_labels(check.labels)
        classifier.set_labels([each.text for each in labels], prompts=[each.prompts for each in labels])
    return classifier


def require_finite(predictions: Sequence[Prediction]) -> None:
    """Raises RefusedError: a score is NaN or infinite."""
    if odd := sum(not math.isfinite(each.score) for each in predictions):
        raise RefusedError(f"{odd} of {plural(len(predictions), 'image')} get a score that is no finite number")


def _reference(bundle: Path) -> list[NDArray[np.uint8]]:
    """The bundle's reference images, uint8 [S, S, 3] each."""
    with Bundle.open(bundle) as opened, np.load(opened.file(REFERENCE), allow_pickle=False) as file:
        return list(file["pixels"])


def _latency(classifier: Classifier, images: Sequence[ImageInput]) -> float:
    """Median milliseconds of an image by itself, after the first ones."""
    rounds = [images[i % len(images)] for i in range(WARM_UP + TIMED)]
    found = [classifier(each) for each in rounds]
    require_finite(found)
    return round(statistics.median([each.latency_ms["total"] for each in found][WARM_UP:]), 2)


def main(bundle: str, running: str, options: str) -> int:
    """Check a release and write what was found to stdout."""
    with answering():
        check = Check(**json.loads(options))
        agreement = agree(Path(bundle), check)
        say(stage="built")
        figures = suffice(Path(bundle), Path(running) if running else None, check)
        say(stage="checked", figures={"agreement": agreement, **figures})
    return 0


if __name__ == "__main__":
    be_modest()
    sys.exit(main(*sys.argv[1:]))
