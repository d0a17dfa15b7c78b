"""Locate the drift of a graph that missed a gate: compare its norms with those of the module that it was traced from.

Both halves of a transformer block begin with a LayerNorm, in the module and, one for one and in the same order, in the
graph. The input and the output of each norm is compared on the worst image and the worst labels. The error of
rounding is about the same everywhere: the first layer with ten times the error of the layers before it is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

from attri.calibration.qdq import FEATURES
from attri.export.graph.modules import LabelGraph, StatesGraph, VisionGraph, text_graph
from attri.export.graph.probe import Feed, Recorder, inner
from attri.export.parity.outputs import open_unfinished, run_bundle, run_model
from attri.runtime.bundle import LABEL, TEXT, VISION, Bundle, Precision
from attri.runtime.engines.agreement import cosine
from attri.runtime.engines.base import Engine
from attri.runtime.engines.verify import ParityStage
from attri.train.model import AttriPrompt

__all__ = ["first_jump", "layer_drifts", "locate_drift", "name_layers"]

JUMP = 10  # times the error of the layers before, or of rounding (our choice)
ROUNDING = {"fp32": 1e-12, "fp16": 2.5e-7}  # 1 - cosine, a little more than measured in correct graphs
GRAPHS = {
    ParityStage.IMAGE_FEATURES: [VISION],
    ParityStage.RETRIEVED: [VISION],
    ParityStage.TEXT_FEATURES: [LABEL, TEXT],
    ParityStage.TOP1: [VISION, LABEL, TEXT],
}
BLOCK_NORM = re.compile(r"(\d+)\.ln_([12])\.")
TIMM_NORM = re.compile(r"\btrunk\.(.+)\.weight$")  # before, after or inside of attention and MLP, as timm names it
Array = NDArray[Any]


def locate_drift(model: AttriPrompt, bundle: Bundle, stage: ParityStage, pixels: NDArray[np.float32]) -> str:
    """Name the graph and the layer that drifted first, as the end of an error message.

    Args:
        model: the reference.
        bundle: fp32 or fp16; it may be unfinished.
        stage: name of the stage that missed its gate.
        pixels: of the worst image, [1, 3, S, S].

    Returns:
        The words, or "" for a stage without a graph.
    """
    if stage not in GRAPHS:
        return ""
    feeds = _worst_feeds(model, bundle, pixels)
    makers: dict[str, Callable[[AttriPrompt, Precision], nn.Module]]
    makers = {VISION: VisionGraph, TEXT: text_graph, LABEL: LabelGraph}
    words = []
    for name in [name for name in GRAPHS[stage] if name in bundle.graph_files]:
        proto = onnx.load(bundle.file(name))
        ours = _graph_tensors(proto, FEATURES[name], feeds[name])
        drifts = layer_drifts(ours, _module_tensors(makers[name](model, "fp32"), proto, feeds[name], model.first))
        layer = first_jump(drifts, ROUNDING[bundle.manifest.precision])
        words.append(f"; {name} drifts first in {layer}" if layer else f"; no layer of {name} drifts by itself")
    return "".join(words)


def first_jump(drifts: Iterable[tuple[str, float]], before: float) -> str | None:
    """Find the first layer whose drift is more than `JUMP` times the greatest before it, which starts at `before`."""
    for layer, drift in drifts:
        if not drift <= JUMP * before:  # NaN jumps
            return f"{layer} (1 - cosine {drift:.1e})"
        before = max(before, drift)
    return None


def _worst_feeds(model: AttriPrompt, bundle: Bundle, pixels: NDArray[np.float32]) -> dict[str, Feed]:
    """Inputs of the graphs for this image and the two labels that are furthest off.

    Two, because all words of a single label would be shared words, and belong to the prefix.
    """
    recorders: list[Recorder] = []

    def record(engine: Engine) -> Recorder:
        recorders.append(Recorder(engine))
        return recorders[-1]

    classifier = open_unfinished(bundle, wrap=record)
    labels = list(classifier.labels)
    reference = run_model(model, pixels, labels, classifier.template, classifier.prompt)
    same = cosine(reference.text, run_bundle(classifier, pixels, reference.retrieved).text)[0]  # [C]
    classifier.set_labels([labels[i] for i in np.nan_to_num(same, nan=-1).argsort(kind="stable")[:2]])
    classifier.encode_text(reference.retrieved)
    return {name: recorder.feeds[-1] for name, recorder in zip(bundle.graph_files, recorders, strict=True)}


def _graph_tensors(proto: onnx.ModelProto, features: str, feed: Feed) -> list[Array]:
    """Input and output of every LayerNormalization, in order; last the features."""
    nodes = [node for node in proto.graph.node if node.op_type == "LayerNormalization"]
    order = [name for node in nodes for name in (node.input[0], node.output[0])]
    names = sorted(set(order))
    values = dict(zip([*names, features], inner(proto, names, feed, [features]), strict=True))
    return [values[name] for name in [*order, features]]


@torch.no_grad()
def _module_tensors(module: nn.Module, proto: onnx.ModelProto, feed: Feed, first: int) -> list[tuple[str, Array]]:
    """The same tensors of the module, each with the layer that computed it. Inputs are in the order of the graph.

    first: prompted text block; a label graph ends before it, and its text graph begins there.
    """
    with _Norms() as norms:
        result = module.eval()(*(torch.from_numpy(feed[value.name].copy()) for value in proto.graph.input))
    features = result if isinstance(result, torch.Tensor) else result[0]
    weights = {parameter.data_ptr(): name for name, parameter in module.named_parameters()}
    begin = first if isinstance(module, StatesGraph) else 0
    names = name_layers((weights.get(weight.data_ptr(), "") for weight, _, _ in norms.calls), begin)
    tensors = [tensor.numpy() for _, x, y in norms.calls for tensor in (x, y)]
    last = f"block {first - 1}, MLP" if isinstance(module, LabelGraph) else "the projection"
    return list(zip([*names, last], [*tensors, features.numpy()], strict=True))


def name_layers(weights: Iterable[str], begin: int = 0) -> Iterator[str]:
    """Yield, for the weight name of each norm, the name of the layer before the norm and that of the norm itself.

    Args:
        weights: as the graph's module calls them.
        begin: the model's number of the graph's first block.
    """
    last = begin - 1  # the latest block of which both halves have begun
    for weight in weights:
        match = BLOCK_NORM.search(weight)
        if of_timm := TIMM_NORM.search(weight):
            yield f"what {of_timm[1]} reads"
            yield of_timm[1]
            continue
        block, half = (begin + int(match[1]), int(match[2])) if match else (last + 1, 1)
        last = block if half == 2 else last
        yield f"block {block}, attention" if half == 2 else f"block {block - 1}, MLP" if block else "the embedding"
        yield f"block {block}, ln_{half}" if match else weight.removesuffix(".weight").rpartition(".")[2]


def layer_drifts(ours: list[Array], reference: list[tuple[str, Array]]) -> list[tuple[str, float]]:
    """Compute 1 - cosine of the worst token for each layer; empty where graph and module have different norms."""
    if [x.shape for x in ours] != [x.shape for _, x in reference]:
        return []
    return [(layer, float((1 - cosine(a, b)).max())) for a, (layer, b) in zip(ours, reference, strict=True)]


class _Norms(TorchFunctionMode):
    """Records, in order, the weight, input and output of every LayerNorm that runs inside the context, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.nn.functional.layer_norm:
            x, weight = args[0], (kwargs or {})["weight"]
            if not any(x is other and weight is its_weight for its_weight, other, _ in self.calls):
                self.calls.append((weight, x, result))  # the tracer merges repeated computations too
        return result
