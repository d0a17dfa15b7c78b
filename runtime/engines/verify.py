"""The bundle's reference images, with what the PyTorch model made of them: an engine must agree before it is used.

Who runs them: TensorRT's engines once they are built, attri-doctor always, and a load of a small bundle the first.

reference.npz holds, by names of the graphs' inputs and outputs:
pixels uint8 [I, S, S, 3]             images after resizing and cropping, RGB
image_features float32 [I, D]         the model's
retrieved int32 [I, L, M]             the model's
text_features float32 [I, C, D]       the model's, at those entries, for a few of the default labels
vision.keys                           keys of the prompt that the model had
text.NAME                             what the text graph reads for this prompt and these labels, but for `retrieved`
label.ids int32 [C, T]                where there is a label graph: the tokens whose states are text.states
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.bundle import LABEL, REFERENCE, TEXT, VISION, Bundle
from attri.runtime.engines.agreement import cosine, same_top1
from attri.runtime.engines.base import Engine
from attri.runtime.errors import BundleError, ParityError


class ParityStage(str, Enum):
    """What a parity check compares, by its id in the manifest (`parity["stages"][i]["id"]`)."""

    PIXELS = "pixels"
    IMAGE_FEATURES = "image_features"
    RETRIEVED = "retrieved"
    TEXT_FEATURES = "text_features"
    LOGITS = "logits"
    TOP1 = "top1"
    EXPLANATIONS = "explanations"  # of a bundle with a graph for them: cosines of their sums
    LABEL_STATES = "label_states"  # of an engine of the label graph alone; its gate is that of text features

    @property
    def heading(self) -> str:
        """The stage in words, for people alone."""
        return _HEADINGS[self]


_HEADINGS = {
    ParityStage.PIXELS: "pixels",
    ParityStage.IMAGE_FEATURES: "image features",
    ParityStage.RETRIEVED: "retrieved entries",
    ParityStage.TEXT_FEATURES: "text features",
    ParityStage.LOGITS: "logits",
    ParityStage.TOP1: "top-1",
    ParityStage.EXPLANATIONS: "explanations",
    ParityStage.LABEL_STATES: "label states",
}
GATED = (ParityStage.IMAGE_FEATURES, ParityStage.RETRIEVED, ParityStage.TEXT_FEATURES, ParityStage.TOP1)
DEVICE_ARITHMETIC = (None, "S8S8")  # of the stages whose gates engines are held to: of int8, the graphs of TensorRT
ARRAYS = ("pixels", "image_features", "retrieved", "text_features")
# Bytes of both graphs up to which loading runs an image. In CPU time, one image is 7% of loading the embedded model
# (16 MB) without the imports, and 20% of loading ViT-B-16 (500 MB): there it is left to attri-doctor.
SMALL = 64 << 20


@dataclass(frozen=True)
class ReferenceSet:
    """What stands in reference.npz, pixels normalised to float32 [I, 3, S, S]."""

    pixels: NDArray[np.float32]
    image_features: NDArray[np.float32]
    retrieved: NDArray[np.int32]
    text_features: NDArray[np.float32]
    vision: Mapping[str, NDArray[Any]]
    text: Mapping[str, NDArray[Any]]
    label: Mapping[str, NDArray[Any]]


def read_reference(bundle: Bundle, count: int | None = None) -> ReferenceSet:
    """The first `count` images, or all. Raises BundleError where the file has not these arrays."""
    try:
        with np.load(bundle.file(REFERENCE), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        pixels, image, retrieved, text = (arrays[name] for name in ARRAYS)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{bundle.path} has no {REFERENCE} to check an engine with: export it again") from error
    pixels, image, retrieved, text = (array[:count] for array in (pixels, image, retrieved, text))
    preprocess = bundle.preprocess()
    inputs = [_inputs(arrays, graph) for graph in ("vision", "text", "label")]
    if "ids" in inputs[2]:
        inputs[2] = {"tokens": np.asarray(bundle.token_embedding()[inputs[2]["ids"]], np.float32)}
    return ReferenceSet(np.stack([preprocess(each) for each in pixels]), image, retrieved, text, *inputs)


def _inputs(arrays: Mapping[str, NDArray[Any]], graph: str) -> dict[str, NDArray[Any]]:
    """Inputs of a graph among the arrays, by their names in the graph."""
    return {name.partition(".")[2]: value for name, value in arrays.items() if name.startswith(f"{graph}.")}


def compare(bundle: Bundle, name: str, engine: Engine) -> dict[ParityStage, float]:
    """Hold one engine against the model, by the gates of the bundle's own parity check.

    Args:
        bundle: holds the reference images and the gates.
        name: of the graph, one of `Bundle.graph_files`.
        engine: runs that graph.

    Returns:
        figures by stage: worst cosine of features, mean share of equal entries, of equal best classes.

    Raises:
        ParityError: a gate does not hold; NaN never does.
        BundleError, EngineError
    """
    check, gates = read_reference(bundle), read_gates(bundle)
    figures = _FIGURES[name](check, engine)
    counts = {ParityStage.RETRIEVED: check.retrieved.size, ParityStage.TOP1: len(check.pixels)}
    for stage, value in figures.items():
        _require(engine, name, stage, value, _of_so_many(gates[stage], counts.get(stage)))
    return figures


def spot_check(bundle: Bundle, *engines: Engine) -> None:
    """Run all graphs of a small bundle on its first reference image, and hold their features to the gates.

    Retrieved entries are left to `compare`: one image has few, and near ties fall either way on other hardware.

    Raises:
        ParityError, BundleError, EngineError: as `compare`.
    """
    if sum(bundle.manifest.files[name]["size"] for name in bundle.graph_files) > SMALL:
        return
    check, gates = read_reference(bundle, 1), read_gates(bundle)
    for name, engine in zip(bundle.graph_files, engines, strict=True):
        for stage, figure in _FIGURES[name](check, engine).items():
            if stage in (ParityStage.IMAGE_FEATURES, ParityStage.TEXT_FEATURES, ParityStage.LABEL_STATES):
                _require(engine, name, stage, figure, gates[stage])


def _require(engine: Engine, name: str, stage: ParityStage, value: float, gate: float) -> None:
    if not value >= gate:
        raise ParityError(
            f"{engine.description} does not agree with the PyTorch model: {stage.heading} of {name} is {value:.6f} on"
            f" the bundle's own images, the gate is {gate:g}; the engine is not used"
        )


def _of_so_many(gate: float, count: int | None) -> float:
    """The gate of a share of so many: one in few is no evidence, where the gate allows for one in many."""
    return gate if not count else math.floor(gate * count + 1e-9) / count


def read_gates(bundle: Bundle) -> dict[ParityStage, float]:
    """Gates of the bundle's own parity check; of int8, those of the graphs that TensorRT takes.

    Raises:
        BundleError: the manifest lacks one.
    """
    stages = bundle.manifest.parity.get("stages", [])
    found = {each.get("id"): each["gate"] for each in stages if each.get("arithmetic") in DEVICE_ARITHMETIC}
    if missing := [stage.value for stage in GATED if not isinstance(found.get(stage.value), (int, float))]:
        raise BundleError(f"{bundle.path} has no gates for {', '.join(missing)} in its manifest: export it again")
    gates = {stage: float(found[stage.value]) for stage in GATED}
    return gates | {ParityStage.LABEL_STATES: gates[ParityStage.TEXT_FEATURES]}


def _vision(check: ReferenceSet, engine: Engine) -> dict[ParityStage, float]:
    parts = [engine.run({"pixels": rows, **check.vision})[:2] for rows in _rows(check.pixels, engine)]
    features, retrieved = (np.concatenate(part) for part in zip(*parts, strict=True))
    cosines = np.einsum("icd,id->ic", check.text_features, features)
    return {
        ParityStage.IMAGE_FEATURES: float(cosine(features, check.image_features).min()),
        ParityStage.RETRIEVED: float((retrieved == check.retrieved).mean()) if retrieved.size else 1.0,
        ParityStage.TOP1: _same_best(check, cosines),
    }


def _text(check: ReferenceSet, engine: Engine) -> dict[ParityStage, float]:
    parts = [engine.run({"retrieved": rows, **check.text})[0] for rows in _rows(check.retrieved, engine)]
    text = np.concatenate(parts)  # [I, C, D]
    cosines = np.einsum("icd,id->ic", text, check.image_features)
    return {
        ParityStage.TEXT_FEATURES: float(cosine(text, check.text_features).min()),
        ParityStage.TOP1: _same_best(check, cosines),
    }


def _label(check: ReferenceSet, engine: Engine) -> dict[ParityStage, float]:
    parts = [engine.run({"tokens": rows})[0] for rows in _rows(check.label["tokens"], engine, "C")]
    return {ParityStage.LABEL_STATES: float(cosine(np.concatenate(parts), check.text["states"]).min())}


_FIGURES: dict[str, Callable[[ReferenceSet, Engine], dict[ParityStage, float]]] = {
    VISION: _vision,
    TEXT: _text,
    LABEL: _label,
}


def _rows(array: NDArray[Any], engine: Engine, dim: str = "B") -> list[NDArray[Any]]:
    size = engine.limits.get(dim, len(array))
    return [array[start : start + size] for start in range(0, len(array), size)]


def _same_best(check: ReferenceSet, cosines: NDArray[Any]) -> float:
    """Share of images whose best label is the model's, or tied with it there."""
    reference = np.einsum("icd,id->ic", check.text_features, check.image_features)
    return float(same_top1(reference, cosines).mean())
