"""Measure the ranges of activations on real images, with ONNX Runtime's own calibrators.

The vision graph runs on the images. The text graph runs on the bundle's labels with the pool entries that these images
retrieve. Everything is read and run a few at a time: memory does not grow with the number of images.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from attri.calibration.images import WANTED_IMAGES, evenly, find_calibration_images
from attri.runtime._util.cpus import usable_cpus
from attri.runtime._util.wording import plural
from attri.runtime.bundle import LABEL, Bundle
from attri.runtime.engines.base import Engine
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.errors import FailedError, ImageError, UsageError
from attri.runtime.preprocess import Preprocess
from attri.runtime.prompt import Prompt
from attri.runtime.text.label_inputs import LabelInputs
from attri.runtime.text.reader import TextReader, Tokens

__all__ = [
    "METHODS",
    "CalibrationMethod",
    "Feed",
    "Range",
    "Samples",
    "collect_samples",
    "label_tokens",
    "measure_ranges",
]

Feed = dict[str, NDArray[Any]]
Range = tuple[float, float]  # least and greatest value
_Item = TypeVar("_Item")
_LOGGER = logging.getLogger("attri")

CalibrationMethod = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)
PERCENTILE = 99.999  # of all values of a tensor lie in its range; ONNX Runtime's own choice
# ONNX Runtime's default of as many bins as levels leaves its search for the least entropy nothing to choose from.
ENTROPY_BINS, ENTROPY_LEVELS = 1024, 128
BATCH = 4  # images at once (our choice)
TEXT_SETS, TEXT_LABELS = 64, 64  # sets of pool entries at most, and labels for each, that the text graph is run on


@dataclass(frozen=True)
class Samples:
    """Real inputs of both graphs. Images are read anew on every pass.

    Attributes:
        images: readable image files, or uint8 arrays [H, W, 3].
        preprocess: the model's preprocessing.
        prompt: of the bundle.
        retrieved: the distinct sets of pool entries that the images retrieve, int32 [I, L, M].
        labels: tokens of the bundle's labels.
        inputs: turns tokens into inputs of the text graph.
    """

    images: Sequence[Path | NDArray[np.uint8]]
    preprocess: Preprocess
    prompt: Prompt
    retrieved: NDArray[np.int32]
    labels: Tokens
    inputs: LabelInputs

    def vision(self, count: int | None = None) -> Iterator[Feed]:
        """Yield inputs of the vision graph: the first `count` images, or all."""
        for batch in _batches(self.images[:count]):
            pixels = np.stack([self.preprocess(image) for image in batch])
            yield {"pixels": pixels, **self.prompt.vision_inputs}

    def text(self, count: int | None = None) -> Iterator[Feed]:
        """Yield inputs of the text graph: sets of pool entries, each with the next `TEXT_LABELS` of the labels.

        Args:
            count: how many; None yields until every set and every label was used.
        """
        total, sets = len(self.labels), evenly(list(self.retrieved), TEXT_SETS if count is None else count)
        rounds = len(sets) if count is not None else max(len(sets), math.ceil(total / TEXT_LABELS))
        for number in range(rounds):
            chosen = (np.arange(min(total, TEXT_LABELS)) + number * TEXT_LABELS) % total
            labels = self.inputs(self.labels.take(chosen))
            yield {"retrieved": sets[number % len(sets)][None], **self.prompt.text_inputs, **labels}


def label_tokens(bundle: Bundle) -> tuple[Tokens, LabelInputs]:
    """Encode a bundle's default labels with its own template, and open what makes inputs of the text graph of them."""
    facts = bundle.prompt.facts
    label = OrtEngine(bundle.file(LABEL), "cpu") if LABEL in bundle.graph_files else None
    tokens = TextReader.of(bundle).encode(facts.labels, facts.template)
    return tokens, LabelInputs(bundle.token_embedding(), label)


def collect_samples(
    folder: Path | str,
    vision: Engine,
    preprocess: Preprocess,
    prompt: Prompt,
    labels: Tokens,
    inputs: LabelInputs,
    excluded: Sequence[Path] = (),
) -> Samples:
    """Read the images of `find_calibration_images` once, and note the pool entries that they retrieve.

    An unreadable image is named in a warning; fewer than `WANTED_IMAGES` readable ones give another.

    Args:
        folder: holds the images.
        vision: an engine of the float32 vision graph.
        preprocess: the model's preprocessing.
        prompt: of the bundle.
        labels: tokens of the bundle's labels.
        inputs: turns tokens into inputs of the text graph.
        excluded: images of the parity check.

    Raises:
        UsageError: there is no such folder, or no image in it that can be read.
    """
    usable: list[Path] = []
    retrieved: list[NDArray[np.int32]] = []
    for batch in _batches(find_calibration_images(folder, excluded)):
        readable = [(path, pixels) for path in batch if (pixels := _read(path, preprocess)) is not None]
        if readable:
            usable += [path for path, _ in readable]
            stacked = np.stack([pixels for _, pixels in readable])
            retrieved.append(vision.run({"pixels": stacked, **prompt.vision_inputs})[1])
    if not usable:
        raise UsageError(f"no image of {folder} can be read: int8 is calibrated on about {WANTED_IMAGES} real ones")
    if len(usable) < WANTED_IMAGES:
        count = plural(len(usable), "image")
        _LOGGER.warning("int8 is calibrated on %s, %d are wanted: its ranges may clip", count, WANTED_IMAGES)
    return Samples(usable, preprocess, prompt, np.unique(np.concatenate(retrieved), axis=0), labels, inputs)


def _read(path: Path, preprocess: Preprocess) -> NDArray[np.float32] | None:
    try:
        return preprocess(path)
    except ImageError as error:
        _LOGGER.warning("left out of the calibration: %s", error)
        return None


def _batches(items: Sequence[_Item], size: int = BATCH) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def measure_ranges(
    graph: Path, tensors: set[str], feeds: Iterable[Feed], method: CalibrationMethod, scratch: Path
) -> dict[str, Range]:
    """Find the least and the greatest value that int8 shall represent, for each tensor.

    Args:
        graph: a float32 ONNX file.
        tensors: inputs of MatMul, Gemm or Conv nodes.
        feeds: inputs of the graph.
        method: "minmax", "percentile" (`PERCENTILE` of all values) or "entropy" (the symmetric range whose 128 levels
            lose least information, Migacz 2017), all three as ONNX Runtime computes them.
        scratch: a folder for temporary files.

    Raises:
        FailedError: a tensor is not finite on these inputs.
    """
    calibrator = _open_calibrator(graph, tensors, method, scratch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NaN, which is refused below
        calibrator.augment_graph()
        calibrator.infer_session = _open_session(calibrator)
        for feed in feeds:  # one at a time: the calibrator keeps in memory whatever one call gives it
            calibrator.collect_data(_SingleFeed(feed))
        found = calibrator.compute_data()
    result = {name: (float(np.min(found[name].lowest)), float(np.max(found[name].highest))) for name in sorted(tensors)}
    for name, (low, high) in result.items():
        if not (math.isfinite(low) and math.isfinite(high)):
            raise FailedError(f"{name} ranges over {low} to {high} on the calibration images: int8 cannot hold it")
    return result


def _open_calibrator(graph: Path, tensors: set[str], method: CalibrationMethod, scratch: Path) -> Any:
    """ONNX Runtime's calibrator of that method, restricted to these tensors."""
    from onnxruntime.quantization import calibrate

    # Its progress is printed to stdout, which is for data. Redirecting stdout would take that of other threads too.
    vars(calibrate)["print"] = _LOGGER.debug
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "minmax": (calibrate.MinMaxCalibrater, {}),
        "percentile": (calibrate.PercentileCalibrater, {"percentile": PERCENTILE, "symmetric": False}),
        "entropy": (calibrate.EntropyCalibrater, {"num_bins": ENTROPY_BINS, "num_quantized_bins": ENTROPY_LEVELS}),
    }
    kind, options = kinds[method]
    calibrator = kind(graph, None, str(scratch / "augmented.onnx"), **options)
    select = calibrator.select_tensors_to_calibrate
    calibrator.select_tensors_to_calibrate = lambda model: (tensors & select(model)[0], select(model)[1])
    return calibrator


def _open_session(calibrator: Any) -> Any:
    """The calibrator's session, limited to the CPUs that this process may use."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = usable_cpus().count
    return ort.InferenceSession(calibrator.augmented_model_path, options, providers=calibrator.execution_providers)


class _SingleFeed:
    """A `CalibrationDataReader` of one feed."""

    def __init__(self, feed: Feed) -> None:
        self.feed: Feed | None = feed

    def get_next(self) -> Feed | None:
        """Return the feed, then None."""
        feed, self.feed = self.feed, None
        return feed
