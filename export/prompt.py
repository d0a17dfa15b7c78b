"""Export of a prompt alone: a trained prompt becomes a file of 2 MB for a bundle that is there already.

The graphs of a bundle take any prompt of their backbone and shape. So nothing is traced and no engine is built; what is
checked is the same: the bundle's graphs with this prompt, against the PyTorch model, on real images.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attri.export.bundle.writer import shape_of
from attri.export.parity.compare import compare
from attri.export.parity.gates import Gates
from attri.export.parity.images import ParityImages, read_images
from attri.export.parity.outputs import open_unfinished
from attri.export.parity.report import ParityReport
from attri.export.pooled import as_pool
from attri.export.progress import Progress
from attri.export.quantize import compare_int8
from attri.export.ranges import check_ranges
from attri.export.score_calibration import ScoreCalibrationRequest, calibrate_scores, independent_scores
from attri.export.training_images import LabelledFiles, encode_training_images
from attri.runtime._util.wording import plural
from attri.runtime.bundle import Bundle
from attri.runtime.errors import FailedError, UsageError
from attri.runtime.prompt import PROMPT_SCHEMA, Prompt, PromptFacts, Selection, short
from attri.train.model import AttriPrompt

__all__ = ["PromptOptions", "export_prompt", "make_prompt"]


@dataclass(frozen=True)
class PromptOptions:
    """How a prompt is exported.

    Attributes:
        template: the sentence around each label, with {} in its place.
        gates: limits of the parity check; None takes those of the bundle's precision.
        scores: what temperature and rejection threshold are fitted on; by default neither is.
        source: what the file says about the run.
        zero_shot: the model is plain CLIP (`attri.export.pooled.zero_shot_model`): no image gets a prompt.
        attracts: the classes that the pool's entries attract, as of `attri.export.bundle.model_card.entry_names`.
        training: the images whose features the prompt keeps; None keeps none.
    """

    template: str = "a photo of a {}."
    gates: Gates | None = None
    scores: ScoreCalibrationRequest = field(default_factory=ScoreCalibrationRequest)
    source: dict[str, Any] = field(default_factory=dict)
    zero_shot: bool = False
    attracts: list[list[list[str]]] | None = None
    training: LabelledFiles | None = None


def export_prompt(
    model: AttriPrompt,
    bundle: Bundle,
    path: Path,
    labels: list[str],
    images: list[Path],
    options: PromptOptions | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Write a prompt file that agrees with the model, run by the graphs of a bundle.

    Args:
        model: a trained prompt on its backbone.
        bundle: the base.
        path: of the file; an older one there is replaced, at the end.
        labels: default labels, also those of the parity check.
        images: files for the parity check.
        options: how; None takes the defaults.
        progress: receives stages and messages.

    Returns:
        The report of the parity check.

    Raises:
        UsageError: the model does not fit the bundle; names what differs.
        ParityError: the graphs do not agree with the model, or the prompt leaves the calibrated ranges of an int8 base;
            nothing is written.
        FailedError: most images cannot be read, or the file cannot be written.
    """
    options, progress = options or PromptOptions(), progress or Progress()
    model, selection = as_pool(model)
    selection = "none" if options.zero_shot else selection
    require_base(model, bundle)
    options.scores.check(labels)
    progress.begin(f"reading {plural(len(images), 'image')} for the parity check")
    model = model.eval().cpu()
    parity_images: ParityImages = read_images(model.backbone, images)
    prompt = make_prompt(model, labels, options.template, selection, options.attracts)
    with_prompt = dataclasses.replace(bundle, prompt=prompt)
    if bundle.manifest.precision == "int8":
        progress.begin("looking whether the prompt stays within the calibrated ranges")
        check_ranges(with_prompt, parity_images.pixels)
    progress.begin("comparing the graphs with the PyTorch model")
    report = _compare(model, with_prompt, parity_images.pixels, options.gates)
    report = dataclasses.replace(
        report, stages=[parity_images.stage, *report.stages], requested=len(parity_images.requested)
    )
    if report.missed:
        progress.say(report.table())
    report.check(lambda stage: "")
    confidence = calibrate_scores(options.scores, open_unfinished(with_prompt))
    facts = dataclasses.replace(
        prompt.facts,
        base=bundle.manifest.base,
        temperature=confidence["temperature"],
        threshold=confidence["threshold"],
        independent=independent_scores(confidence),
        parity=report.to_dict(),
        source={**options.source, **(prompt.facts.source or {})},
    )
    kept = None
    if (training := options.training) is not None:
        progress.begin(f"computing features of {plural(len(training.files), 'training image')}")
        kept = encode_training_images(with_prompt, training)
    progress.begin("writing the prompt")
    try:
        Prompt.of(facts, prompt.tensors, kept).save(path)
    except OSError as error:
        raise FailedError(f"cannot write {path}: {error.strerror or error}") from error
    return report


def make_prompt(
    model: AttriPrompt,
    labels: list[str],
    template: str,
    selection: Selection = "nearest",
    attracts: list[list[list[str]]] | None = None,
) -> Prompt:
    """Fold the learned tensors of a model with a pool into a prompt, still without a base and without figures.

    Args:
        model: has the pool.
        labels: default labels.
        template: the sentence around each of them.
        selection: which entries an image gets.
        attracts: the classes that entries attract; of a pool that all blocks share it is one block.
    """
    with torch.no_grad():
        keys = model.pool.keys_of_blocks().transpose(-1, -2)  # [L, D, N]
        table, static = model.tables()
    tensors: dict[str, NDArray[np.float32]] = {"keys": keys.numpy(), "prompt_table": table.numpy()}
    if model.config.static_tokens:
        tensors["static_table"] = static.numpy()
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    # With what the base names, this is how the keys are retrieved: so that training can start at the file.
    source = {"retrieval": {name: getattr(model.config, name) for name in ("lloyd_steps", "kmeans_init")}}
    facts = PromptFacts(PROMPT_SCHEMA, version("attri"), created, {}, template, labels, selection, source=source)
    if attracts is not None:
        facts = dataclasses.replace(facts, attracts=attracts * model.depth if len(attracts) == 1 else attracts)
    return Prompt.of(facts, tensors)


def require_base(model: AttriPrompt, bundle: Bundle) -> None:
    """Check that a bundle's graphs are of this model's backbone and of this shape of prompt.

    Raises:
        UsageError: names what differs.
    """
    base = bundle.manifest.base
    backbone = model.backbone
    ours = {"model": backbone.public_name, "weights": backbone.sha256, **shape_of(model)}
    if differing := [key for key, value in ours.items() if base.get(key) != value]:
        said = "; ".join(f"{key} {short(ours[key])}, there {short(base.get(key))}" for key in differing)
        raise UsageError(f"the run does not fit {bundle.path} ({said}): export a bundle of its own")


def _compare(model: AttriPrompt, bundle: Bundle, pixels: NDArray[np.float32], given: Gates | None) -> ParityReport:
    gates = given or Gates.of(bundle.manifest.precision)
    compared = compare_int8 if bundle.manifest.precision == "int8" else compare
    return compared(model, bundle, pixels, gates).with_default_gates(Gates.of(bundle.manifest.precision))
