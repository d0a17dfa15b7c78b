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
from attri.runtime.deliver.updates.exchange import TaskSettings
from attri.runtime.engines.onnxruntime import Device
from attri.runtime.engines.select import Backend, EngineOptions, open_engines
from attri.runtime.engines.verify import compare
from attri.runtime.errors import BundleError, RefusedError, UsageError
from attri.runtime.image_batches import ImageInput
from attri.runtime.labels import decode, parse_labels, read_bytes
from attri.runtime.prediction import Prediction
from attri.runtime.prompt import Prompt

WARM_UP, TIMED = 2, 10  # images


@dataclass(frozen=True)
class Check:
    """What a release has to show.

    Attributes:
        backend: what runs it, as `Classifier.load` has it.
        device: likewise.
        threads: likewise.
        labels: the device's labels file; None are the prompt's own.
        template: sentence around each label; None is the prompt's.
        threshold: scores below it are none of the labels; None is the prompt's.
        independent: whether each label is scored by itself.
        shortlist: of labels that are prompted, as `Classifier.load` has it.
        prompts: prompt files of the device's own tasks, which have to fit the graphs.
        golden: folder of golden images; None asks for none.
        tolerance: percent of the golden images by which it may be worse than what runs.
        latency_ms: median time of an image that it may take; None is any.
    """

    backend: Backend = "auto"
    device: Device = "auto"
    threads: int | None = None
    labels: str | None = None
    template: str | None = None
    threshold: float | None = None
    independent: bool = False
    shortlist: int | None = None
    prompts: Sequence[str] = ()
    golden: str | None = None
    tolerance: float = 0.0
    latency_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @property
    def settings(self) -> TaskSettings:
        """What attri-run asks here where a source has no tasks. Raises LabelsError: the labels cannot be read."""
        text = None if self.labels is None else decode(read_bytes(Path(self.labels)), Path(self.labels))
        return TaskSettings(None, None, text, self.template, self.threshold, self.independent)


def agree(bundle: Path, check: Check) -> dict[str, Any]:
    """Open, or build, the engines of a release, and hold them against the model on the reference images.

    Returns:
        The least figure of each graph.

    Raises:
        AttriError: it does not fit, or does not agree.
    """
    own = {path: _own_prompt(path) for path in check.prompts}
    with Bundle.open(bundle) as opened:
        for path, prompt in own.items():
            opened.manifest.require_prompt(prompt, path)
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
    with open_classifier(bundle, check) as opened:
        classifier = ask(opened, check.settings)
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
        with open_classifier(running, check) as opened:  # after the other one: less memory
            figures["right_before"] = before = count_right(ask(opened, check.settings), golden)
        if figures["right"] < before - check.tolerance / 100 * len(golden):
            raise RefusedError(f"{figures['right']} of {len(golden)} golden images are right, {before} with what runs")
    return figures


def open_classifier(bundle: Path, check: Check) -> Classifier:
    """The graphs of a bundle as this device runs them. Raises AttriError: they cannot be."""
    return Classifier.load(
        bundle, backend=check.backend, device=check.device, threads=check.threads, shortlist=check.shortlist
    )


def ask(classifier: Classifier, settings: TaskSettings) -> Classifier:
    """A fork of a classifier that asks what a task of attri-run asks.

    Raises:
        RefusedError: its labels are independent, and this prompt was not calibrated for that.
        AttriError: the prompt of the task or its labels cannot be used.
    """
    task = classifier.fork()
    if settings.prompt is not None:
        task.set_prompt(settings.prompt)
    try:
        task.independent = settings.independent
    except UsageError as error:
        raise RefusedError(str(error)) from error
    if settings.labels is not None or settings.template is not None:
        text = "\n".join(task.labels) if settings.labels is None else settings.labels
        labels = parse_labels(text, "the labels")
        words, prompts = [each.text for each in labels], [each.prompts for each in labels]
        task.set_labels(words, prompts=prompts, template=settings.template)
    if settings.threshold is not None:
        task.threshold = settings.threshold
    return task


def require_finite(predictions: Sequence[Prediction]) -> None:
    """Raises RefusedError: a score is NaN or infinite."""
    if odd := sum(not math.isfinite(each.score) for each in predictions):
        raise RefusedError(f"{odd} of {plural(len(predictions), 'image')} get a score that is no finite number")


def _own_prompt(path: str) -> Prompt:
    """Of a task of this device. Raises UsageError: that is none, whatever is released."""
    try:
        return Prompt.read(Path(path))
    except BundleError as error:
        raise UsageError(str(error)) from error


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
