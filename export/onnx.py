"""Export a bundle: trace the graphs to ONNX, compare them with the PyTorch model, write what agrees."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from attri.export.bundle import writer
from attri.export.bundle.model_card import Card
from attri.export.bundle.report import write_report
from attri.export.graph.opset import check_opset
from attri.export.graph.precision import DTYPES, half_report
from attri.export.graph.trace import trace_explain, trace_label, trace_text, trace_vision
from attri.export.parity.compare import compare
from attri.export.parity.drift import locate_drift
from attri.export.parity.explanations import check_explained, compare_explanations
from attri.export.parity.gates import Gates
from attri.export.parity.images import ParityImages, read_images
from attri.export.parity.outputs import open_unfinished
from attri.export.parity.reference import save_reference
from attri.export.parity.report import ParityReport, Stage
from attri.export.pooled import as_pool
from attri.export.progress import Progress
from attri.export.prompt import make_prompt
from attri.export.quantize import Calibration, quantize_bundle
from attri.export.score_calibration import ScoreCalibrationRequest, calibrate_scores, independent_scores
from attri.export.training_images import LabelledFiles, encode_training_images
from attri.runtime._util.wording import plural
from attri.runtime.bundle import EMBEDDING, EXPLAIN, LABEL, TEXT, VISION, Bundle, Precision
from attri.runtime.errors import UsageError
from attri.runtime.prompt import Prompt
from attri.train.model import AttriPrompt

__all__ = ["ExportOptions", "export_bundle"]


@dataclass(frozen=True)
class ExportOptions:
    """How a bundle is made.

    Attributes:
        precision: "fp32", "fp16" or "int8"; retrieval, norms and softmax are float32 in all.
        template: the sentence around each label, with {} in its place.
        opset: of both graphs, 17 or 18.
        gates: limits of the parity check; None takes those of the precision.
        calibration: what int8 is fitted on; for int8 alone.
        scores: what temperature and rejection threshold are fitted on; by default neither is.
        card: what the report says about the training.
        zero_shot: the model is plain CLIP (`attri.export.pooled.zero_shot_model`): no image gets a prompt.
        attracts: the classes that the pool's entries attract, as of `attri.export.bundle.model_card.entry_names`.
        explain: add the graph that explains cosines by patches.
        training: the images whose features the prompt keeps; None keeps none.
    """

    precision: Precision = "fp32"
    template: str = "a photo of a {}."
    opset: int = 18
    gates: Gates | None = None
    calibration: Calibration | None = None
    scores: ScoreCalibrationRequest = field(default_factory=ScoreCalibrationRequest)
    card: Card = field(default_factory=Card)
    zero_shot: bool = False
    attracts: list[list[list[str]]] | None = None
    explain: bool = False
    training: LabelledFiles | None = None

    def check(self, path: Path, labels: list[str], images: Sequence[Path]) -> None:
        """Refuse everything that cannot be exported, before anything takes long.

        Args:
            path: of the bundle.
            labels: the bundle's default labels.
            images: of the parity check.

        Raises:
            UsageError: see `export_bundle`.
        """
        if self.precision not in DTYPES:
            raise UsageError(f"precision is {self.precision!r}: choose {', '.join(DTYPES)}")
        if (self.precision == "int8") != (self.calibration is not None):
            raise UsageError("int8 needs calibration images, and nothing else does: see `calibration_data`")
        check_opset(self.opset)
        if self.calibration is not None:
            self.calibration.excluding(images).check(self.gates or Gates.of(self.precision))
        self.scores.check(labels)
        writer.check_target(path)


def export_bundle(
    model: AttriPrompt,
    path: Path | str,
    labels: list[str],
    images: Sequence[Path | str],
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Write a bundle whose graphs agree with the model on real images.

    Args:
        model: a trained prompt on its backbone.
        path: of the bundle; an older bundle there is replaced, whole, at the end.
        labels: the bundle's default labels, also those of the parity check.
        images: files for the parity check.
        options: how; None takes the defaults.
        progress: receives stages and messages.

    Returns:
        The report of the parity check.

    Raises:
        ParityError: the graphs do not agree with the model; nothing is written.
        UsageError: an unknown precision or opset, no calibration images, int8 for convolutions, explanations of a model
            that allows none, or `path` is something that is not a bundle.
        FailedError: the tracer did not write what was asked for, a graph called fp16 or int8 would not be, most images
            cannot be read, or the disk is full.
    """
    options, progress = options or ExportOptions(), progress or Progress()
    target, files = Path(path), [Path(image) for image in images]
    options.check(target, labels, files)
    if options.calibration is not None and not model.vision.tower.transformer:
        raise UsageError(
            f"int8 quantizes transformer blocks, and the image tower of {model.backbone.public_name} is made of"
            " convolutions: use fp16"
        )
    model = model.eval().cpu()
    if options.explain:
        check_explained(model)
    progress.begin(f"reading {plural(len(files), 'image')} for the parity check")
    parity_images = read_images(model.backbone, files)
    with writer.staging(target) as folder:
        return _Export(model, folder, labels, parity_images, options, progress).run()


class _Export:
    """The steps of one export, in the order of `run`; each leaves its files in the unfinished bundle."""

    def __init__(
        self,
        model: AttriPrompt,
        folder: Path,
        labels: list[str],
        images: ParityImages,
        options: ExportOptions,
        progress: Progress,
    ) -> None:
        model, selection = as_pool(model)
        selection = "none" if options.zero_shot else selection
        self.model = model
        self.images = images
        self.options = options
        self.progress = progress
        self.gates = options.gates or Gates.of(options.precision)
        manifest = writer.describe(model, options.precision, options.opset)
        self.bundle = Bundle(
            folder, manifest, make_prompt(model, labels, options.template, selection, options.attracts)
        )

    @property
    def pixels(self) -> NDArray[np.float32]:
        """Of the parity images, [I, 3, S, S]."""
        return self.images.pixels

    def run(self) -> ParityReport:
        self.trace()
        report, arithmetic = self.quantize() if self.options.calibration else self.compare()
        stages, requested = [self.images.stage, *report.stages], len(self.images.requested)
        if self.options.explain:
            stages.append(self.compare_explanations())
        report = dataclasses.replace(report, stages=stages, requested=requested)
        report = report.with_default_gates(Gates.of(self.options.precision))
        self.require_parity(report)
        confidence = self.calibrate_scores()
        self.finish(report, arithmetic, confidence)
        return report

    def trace(self) -> None:
        """Write the graphs, the token embedding, the tokenizer and the reference images."""
        folder, precision, opset = self.bundle.path, self.options.precision, self.options.opset
        self.progress.begin("tracing the vision graph")
        save_graph(trace_vision(self.model, precision, opset), folder / VISION)
        self.progress.begin("tracing the text graph")
        save_graph(trace_text(self.model, precision, opset), folder / TEXT)
        if not self.model.text.causal:
            self.progress.begin("tracing the label graph")
            save_graph(trace_label(self.model, precision, opset), folder / LABEL)
        if self.options.explain:
            self.progress.begin("tracing the graph of explanations")
            save_graph(trace_explain(self.model, opset), folder / EXPLAIN)
        self.progress.begin("writing the token embedding")
        writer.save_embedding(self.model.backbone.token_embedding, folder / EMBEDDING, precision)
        writer.save_tokenizer(self.model.backbone.reader, folder)
        save_reference(self.model, self.bundle, self.pixels)

    def quantize(self) -> tuple[ParityReport, dict[str, Any]]:
        """Replace the graphs by int8 ones that hold the gates."""
        assert self.options.calibration is not None
        self.progress.begin("fitting int8 to the calibration images")
        calibration = self.options.calibration.excluding(self.images.requested)
        return quantize_bundle(self.model, self.bundle, self.pixels, self.gates, calibration, self.progress)

    def compare(self) -> tuple[ParityReport, dict[str, Any]]:
        """Compare float graphs with the model, half precision also with its range."""
        arithmetic: dict[str, Any] = {}
        if self.options.precision == "fp16":
            self.progress.begin("proving that half precision does not overflow")
            arithmetic = half_report(self.bundle, self.model.backbone.preprocess(), self.pixels)
        self.progress.begin("comparing the graphs with the PyTorch model")
        return compare(self.model, self.bundle, self.pixels, self.gates), arithmetic

    def compare_explanations(self) -> Stage:
        """Compare what explanations add up to with the cosines of the model."""
        self.progress.begin("comparing explanations with the PyTorch model")
        return compare_explanations(self.model, self.bundle, self.pixels)

    def require_parity(self, report: ParityReport) -> None:
        """Raise ParityError that names the stage, and the layer, where a gate was missed."""
        if report.missed:
            self.progress.say(report.table())
            self.progress.begin("looking for the layer that differs first")
        report.check(lambda stage: locate_drift(self.model, self.bundle, stage.id, self.pixels[[stage.worst_image]]))

    def calibrate_scores(self) -> dict[str, Any]:
        """Fit temperature and threshold; returns them and their figures."""
        if (validation := self.options.scores.validation) is not None:
            self.progress.begin(f"fitting the scores to {validation.what}")
        return calibrate_scores(self.options.scores, open_unfinished(self.bundle))

    def finish(self, report: ParityReport, arithmetic: dict[str, Any], confidence: dict[str, Any]) -> None:
        """Write parity.json and report.html, and last prompt and manifest."""
        parity = report.to_dict()
        manifest = dataclasses.replace(self.bundle.manifest, arithmetic=arithmetic, parity=parity)
        facts = dataclasses.replace(
            self.bundle.prompt.facts,
            temperature=confidence["temperature"],
            threshold=confidence["threshold"],
            independent=independent_scores(confidence),
            parity=parity,
        )
        kept = None
        if (training := self.options.training) is not None:
            self.progress.begin(f"computing features of {plural(len(training.files), 'training image')}")
            kept = encode_training_images(self.bundle, training)
        self.progress.begin("writing the report")
        bundle = Bundle(self.bundle.path, manifest, Prompt.of(facts, self.bundle.prompt.tensors, kept))
        write_report(bundle, report, self.images, self.model.backbone.preprocess(), self.options.card, confidence)
        writer.save(bundle)


def save_graph(proto: onnx.ModelProto, path: Path) -> None:
    """Write a graph; the same graph gives the same bytes."""
    path.write_bytes(proto.SerializeToString(deterministic=True))
