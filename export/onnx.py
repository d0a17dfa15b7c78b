"""Trace the graphs to ONNX, check what came out, and put the bundle together."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from attri.export.bundle import writer
from attri.export.bundle.model_card import Card
from attri.export.bundle.report import write_report
from attri.export.graph.modules import TextGraph, VisionGraph
from attri.export.graph.precision import DTYPES, half_report
from attri.export.parity.compare import Gates, Report, classifier_of, compare
from attri.export.parity.drift import locate_drift
from attri.export.parity.images import read_pictures
from attri.export.parity.reference import save_reference
from attri.export.quantize import Calibration, quantize_bundle
from attri.export.score_calibration import ScoreCalibrationRequest, measure
from attri.runtime import bundle
from attri.runtime._util.wording import plural
from attri.runtime.errors import FailedError, UsageError
from attri.runtime.text.label_tokens import LabelTokens
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt

OPSETS = (17, 18)  # lowest first: LayerNormalization is from 17 on; TensorRT 8.6 reads both
MOST_BYTES = 2**31 - 1  # that protobuf writes


def export_bundle(
    model: AttriPrompt,
    path: Path,
    labels: list[str],
    pictures: list[Path],
    *,
    precision: str = "fp32",
    template: str = "a photo of a {}.",
    opset: int = 18,
    gates: Gates | None = None,
    calibration: Calibration | None = None,
    confidence: ScoreCalibrationRequest | None = None,
    card: Card | None = None,
    tell: Callable[[str], None] = lambda line: None,
    stage: Callable[[str], None] = lambda title: None,
) -> Report:
    """Write the bundle, after its graphs were held against the model on real pictures.

    Args:
        labels: the bundle's default labels, also those of the parity check.
        pictures: files for the parity check.
        precision: "fp32", "fp16" or "int8"; retrieval, norms and softmax are float32 in all.
        gates: limits of the parity check; None takes those of the precision.
        calibration: what int8 is fitted on.
        confidence: what temperature and threshold are fitted on; None does neither.
        card: what the report says of the training.
        tell: is given what is worth a line that stays.
        stage: is given the name of each stage when it begins.

    Raises:
        ParityError: the graphs do not agree with the model; nothing is written.
        UsageError: an unknown precision or opset, no pool, no calibration pictures, or `path` is something that is not
            a bundle.
        FailedError: the tracer did not do as asked, what is called fp16 or int8 would not be, most pictures cannot be
            read, or the disk is full.
    """
    gates = gates or Gates.of(precision)
    confidence = confidence or ScoreCalibrationRequest()
    if calibration is not None:
        calibration = calibration.judged_on(pictures)
    check_request(model.config, path, labels, precision, opset, gates, calibration, confidence)
    stage(f"reading {plural(len(pictures), 'image')} for the parity check")
    model = model.eval().cpu()
    seen = read_pictures(model.backbone, pictures)
    with writer.staging(path) as folder:
        stage("tracing the vision graph")
        save(trace_vision(model, precision, opset), folder / bundle.VISION)
        stage("tracing the text graph")
        save(trace_text(model, precision, opset), folder / bundle.TEXT)
        stage("writing the tokens' embedding")
        writer.save_embedding(model.backbone.token_embedding, folder / bundle.EMBEDDING, precision)
        writer.copy_merges(folder / bundle.MERGES)
        manifest = writer.describe(model, labels, template, precision, opset)
        unfinished = bundle.Bundle(folder, manifest)
        save_reference(model, unfinished, seen.pixels)
        arithmetic: dict[str, Any] = {}
        if calibration is not None:
            stage("fitting int8 to the calibration images")
            report, arithmetic = quantize_bundle(model, unfinished, seen.pixels, gates, calibration, tell)
        else:
            if precision == "fp16":
                stage("proving that half precision does not overflow")
                arithmetic = half_report(unfinished, model.backbone.preprocess(), seen.pixels)
            stage("comparing the graphs with the PyTorch model")
            report = compare(model, unfinished, seen.pixels, gates)
        report = dataclasses.replace(report, stages=[seen.stage, *report.stages], asked=len(pictures))
        report = report.beside(Gates.of(precision))
        if report.missed:
            tell(report.table())
            stage("looking for the layer that differs first")
        report.check(lambda stage: locate_drift(model, unfinished, stage.name, seen.pixels[[stage.worst_picture]]))
        if confidence.validation is not None:
            stage(f"fitting the scores to {confidence.validation.what}")
        sure = measure(confidence, classifier_of(unfinished))
        manifest = dataclasses.replace(
            manifest,
            arithmetic=arithmetic,
            parity=report.to_dict(),
            temperature=sure["temperature"],
            threshold=sure["threshold"],
        )
        stage("writing the report")
        write_report(bundle.Bundle(folder, manifest), report, seen, model.backbone.preprocess(), card or Card(), sure)
        writer.save_manifest(manifest, folder)
    return report


def check_request(
    prompt: PromptConfig,
    path: Path,
    labels: list[str],
    precision: str,
    opset: int,
    gates: Gates,
    calibration: Calibration | None,
    confidence: ScoreCalibrationRequest,
) -> None:
    """Refuse what cannot be exported, before the model is loaded or anything else takes long.

    Raises:
        UsageError: see `export_bundle`.
    """
    if precision not in DTYPES:
        raise UsageError(f"precision is {precision!r}: choose {', '.join(DTYPES)}")
    if (precision == "int8") != (calibration is not None):
        raise UsageError(
            "int8 needs calibration pictures, and nothing else does: name a folder with --calibration-data"
        )
    if opset not in OPSETS:
        raise UsageError(
            f"opset is {opset}: these graphs are written at {' or '.join(map(str, OPSETS))}, the lowest that works is"
            f" {OPSETS[0]}"
        )
    if prompt.retrieved == 0:
        raise UsageError(
            "a prompt without a pool is a baseline of training and cannot be exported: train with --pool-size"
        )
    if calibration is not None:
        calibration.check(gates)
    confidence.check(labels)
    writer.check_target(path)


def trace_vision(model: AttriPrompt, precision: str, opset: int) -> onnx.ModelProto:
    side = model.backbone.preprocess().size
    batch = torch.export.Dim("B", min=1)
    # A batch of 1 in the example would be frozen into the graph.
    inputs = {"pixels": (torch.zeros(2, 3, side, side), {0: batch})}
    shapes: dict[str, list[Any]] = {
        "pixels": ["B", 3, side, side],
        "image_features": ["B", model.backbone.joint_width],
        "retrieved": ["B", model.depth, model.config.retrieved],
        "scores": ["B", model.depth, model.config.clusters, model.config.pool_size],
    }
    return trace(VisionGraph(model, precision), inputs, ["image_features", "retrieved", "scores"], shapes, opset)


def trace_text(model: AttriPrompt, precision: str, opset: int) -> onnx.ModelProto:
    B, P, R, C, T = (torch.export.Dim(name, min=1) for name in "BPRCT")
    width, count = model.text.positional_embedding.shape[1], model.config.retrieved
    tokens, lengths = np.arange(18, dtype=np.int32).reshape(3, 6), np.array([2, 6, 3], np.int32)
    labels = LabelTokens.pack(np.zeros(5, np.int32), tokens, lengths)
    rows = len(labels.suffix_tokens)
    inputs: dict[str, tuple[torch.Tensor, dict[int, Any]]] = {
        "retrieved": (torch.zeros(2, model.depth, count, dtype=torch.int32), {0: B}),
        "prefix": (torch.zeros(5, width), {0: P}),
        "suffix_tokens": (torch.zeros(rows, width), {0: R}),
        "suffix_positions": (torch.from_numpy(labels.suffix_positions), {0: R}),
        "token_rows": (torch.from_numpy(labels.token_rows), {0: C, 1: T}),
        "scatter_index": (torch.from_numpy(labels.scatter_index), {0: R}),
        "eot_rows": (torch.from_numpy(labels.eot_rows), {0: C}),
    }
    shapes: dict[str, list[Any]] = {
        "retrieved": ["B", model.depth, count],
        "prefix": ["P", width],
        "suffix_tokens": ["R", width],
        "suffix_positions": ["R"],
        "token_rows": ["C", "T"],
        "scatter_index": ["R"],
        "eot_rows": ["C"],
        "text_features": ["B", "C", model.backbone.joint_width],
    }
    return trace(TextGraph(model, precision), inputs, ["text_features"], shapes, opset)


def trace(
    module: nn.Module,
    inputs: dict[str, tuple[torch.Tensor, dict[int, Any]]],
    outputs: list[str],
    shapes: dict[str, list[Any]],
    opset: int,
) -> onnx.ModelProto:
    """The module as a checked ONNX model with exactly these shapes and this opset.

    Raises:
        FailedError: the tracer froze a dimension or ignored the opset, or the graph is over protobuf's 2 GB.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of its own internals; what matters is asserted below
        program = torch.onnx.export(
            module.eval(),
            tuple(example for example, _ in inputs.values()),
            dynamo=True,
            dynamic_shapes=tuple(dims for _, dims in inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            opset_version=max(opset, 18),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    if opset == 17:
        to_opset_17(proto)
    strip(proto)
    if proto.ByteSize() > MOST_BYTES:  # of which the checker would only say that it cannot be parsed
        graph = f"the graph of {outputs[0]} would be {proto.ByteSize() / 2**30:.1f} GB"
        raise FailedError(f"{graph}, ONNX holds {MOST_BYTES / 2**30:.1f}: use --fp16, or a smaller model")
    require(proto, shapes, opset)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def to_opset_17(proto: onnx.ModelProto) -> None:
    """The tracer writes 18 at least, and onnx's converter knows no way back for Split, whose one change is undone here.

    Raises:
        FailedError: the graph has another operator that opset 18 changed.
    """
    for node in proto.graph.node:
        if node.op_type == "Split":
            kept = [attribute for attribute in node.attribute if attribute.name != "num_outputs"]
            del node.attribute[:]
            node.attribute.extend(kept)
        elif onnx.defs.get_schema(node.op_type, 18).since_version > 17:
            raise FailedError(f"{node.op_type} cannot be written at opset 17: use --opset 18")
    proto.opset_import[0].version = 17


def strip(proto: onnx.ModelProto) -> None:
    """Drop the tracer's notes: they hold paths of this machine and make equal graphs unequal."""
    graph = proto.graph
    proto.doc_string = graph.doc_string = ""
    del proto.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


def require(proto: onnx.ModelProto, shapes: dict[str, list[Any]], opset: int) -> None:
    """Assert the opset and every dimension of the borders."""
    found = {entry.domain: entry.version for entry in proto.opset_import}
    if found != {"": opset}:
        raise FailedError(f"the tracer wrote opsets {found}, asked for {opset}: try --opset 18")
    for value in (*proto.graph.input, *proto.graph.output):
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if dims != shapes[value.name]:
            raise FailedError(f"the tracer gave {value.name} the shape {dims}, expected {shapes[value.name]}")


def save(proto: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(proto.SerializeToString(deterministic=True))
