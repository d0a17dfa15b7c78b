"""Calibrated ranges of an int8 base, and whether another prompt stays within them.

int8 represents the values of an activation within the range that calibration found; what lies beyond is clipped. Ranges
belong to the base: its graphs have them built in. A prompt enters the text graph alone, through the keys and values of
attention, so the activations there are what it can change.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from attri.calibration.activation_ranges import Range, Samples, label_tokens, measure_ranges
from attri.calibration.qdq import Layers
from attri.export.parity.outputs import open_unfinished
from attri.runtime.bundle import SYMMETRIC, TEXT, Bundle
from attri.runtime.errors import FailedError, ParityError

__all__ = ["check_ranges", "describe_ranges"]

SETS = 16  # of pool entries, each with up to 64 labels, that the text graph is run on
# How far a value may lie beyond those of the calibration, as a share of the width of its range (our choice). Measured
# on the pocket model: 0.01 for other images, 0.08 for another training, 0.28 for 200 of ImageNet's names in the place
# of 24 labels; 0.53 where the values of attention are twice as large, and 2.1 where five times.
LEEWAY = 0.5


def describe_ranges(
    found: Layers, graph: onnx.GraphProto, ranges: Mapping[str, Range], seen: Mapping[str, Range]
) -> dict[str, dict[str, Any]]:
    """Make the entry of a graph in the manifest.

    Args:
        found: Nodes of each layer.
        graph: The float32 graph.
        ranges: That int8 represents, of each tensor that a layer reads.
        seen: Least and greatest value on the calibration images. The methods but "minmax" clip on purpose.

    Returns:
        By layer and tensor {"range": [least, greatest], "seen": [least, greatest]}.
    """
    reads = {node.name: node.input[0] for node in graph.node if node.input}
    entries = {tensor: {"range": [*ranges[tensor]], "seen": [*seen[tensor]]} for tensor in ranges}
    return {layer: {reads[node]: entries[reads[node]] for node in nodes} for layer, nodes in found.items()}


def check_ranges(bundle: Bundle, pixels: NDArray[np.float32]) -> None:
    """Check that a prompt stays within the calibrated ranges of its int8 base.

    Args:
        bundle: The base, with the prompt in the place of its own.
        pixels: Of the parity images [I, 3, S, S].

    Raises:
        ParityError: It leaves one of them; names the tensor, its range, and the value.
        FailedError: The base was exported without its ranges.
    """
    try:
        layers = bundle.manifest.arithmetic["ranges"][TEXT]
        known = {tensor: (layer, entry) for layer, tensors in layers.items() for tensor, entry in tensors.items()}
    except (LookupError, AttributeError) as error:
        raise FailedError(f"{bundle.path} has no calibrated ranges in its manifest: export it again") from error
    quantized = set[str]().union(*(quantized_tensors(bundle.file(name)) for name in (TEXT, SYMMETRIC[TEXT])))
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / TEXT  # a copy, because ONNX Runtime's calibrator writes beside it
        shutil.copyfile(bundle.file(TEXT), graph)
        feeds = _samples(bundle, pixels).text(SETS)
        reached = measure_ranges(graph, known.keys() & quantized, feeds, "minmax", Path(scratch))
    beyond = {tensor: _excess(values, known[tensor][1]) for tensor, values in reached.items()}
    worst = max(beyond, key=lambda tensor: beyond[tensor], default=None)
    if worst is None or beyond[worst] <= LEEWAY:
        return
    layer, entry = known[worst]
    low, high = entry["range"]
    value = max(reached[worst], key=lambda value: max(low - value, value - high))
    raise ParityError(
        f"the prompt leaves the calibrated ranges of {bundle.path}: {worst} in {layer} of {TEXT} reaches {value:.4g},"
        f" and int8 holds {low:.4g} to {high:.4g}: export a bundle of its own, with --int8"
    )


def quantized_tensors(graph: Path) -> set[str]:
    """Names of the activations that an int8 graph quantizes."""
    return {node.input[0] for node in onnx.load(graph).graph.node if node.op_type == "QuantizeLinear"}


def _samples(bundle: Bundle, pixels: NDArray[np.float32]) -> Samples:
    """The sets of pool entries that images get, and the labels of the prompt."""
    _, retrieved = open_unfinished(bundle).encode_image(pixels)
    sets = np.unique(retrieved, axis=0)
    return Samples((), bundle.preprocess(), bundle.prompt, sets, *label_tokens(bundle))


def _excess(reached: Range, entry: Mapping[str, Any]) -> float:
    """How far values lie beyond those of the calibration, as a share of the range's width; below 0 within them."""
    (low, high), (least, greatest) = entry["range"], entry["seen"]
    excess: float = max(min(low, least) - reached[0], reached[1] - max(high, greatest)) / max(high - low, 1e-12)
    return excess
