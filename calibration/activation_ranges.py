"""What activations range over, measured on real pictures with ONNX Runtime's own calibrators.

The vision graph sees the pictures. The text graph sees the bundle's labels with the prompts that these pictures
retrieve. Everything is read and run a few at a time: memory does not grow with the number of pictures.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from attri.runtime._util.cpus import usable_cpus
from attri.runtime._util.wording import plural
from attri.runtime.bundle import Bundle, file_entry
from attri.runtime.engines.base import Engine
from attri.runtime.errors import FailedError, ImageError, UsageError
from attri.runtime.images import list_images
from attri.runtime.preprocess import Preprocess
from attri.runtime.text.label_tokens import LabelTokens, encode_labels
from attri.runtime.tokenizer import Tokenizer

logger = logging.getLogger("attri")

Feed = dict[str, NDArray[Any]]
Item = TypeVar("Item")

METHODS = ("minmax", "percentile", "entropy")
PERCENTILE = 99.999  # of all values of a tensor lie in its range; ONNX Runtime's own choice
# ONNX Runtime's default of as many bins as levels leaves its search for the least entropy nothing to choose from.
ENTROPY_BINS, ENTROPY_LEVELS = 1024, 128
WANTED = 100  # pictures below which a warning is due: ranges of pocket and ViT-B settle between 50 and 100
MOST = 256  # pictures that are read of a larger folder
BATCH = 4
TEXT_SETS, TEXT_LABELS = 64, 64  # sets of entries at most, and labels for each, that the text graph is run on


@dataclass(frozen=True)
class Samples:
    """Real inputs of both graphs. Pictures are read anew on every pass.

    pictures   that can be read: files, or uint8 [H, W, 3]
    retrieved  the distinct sets of pool entries that they retrieve, int32 [I, L, M]
    embedding  of tokens [49408, W]
    """

    pictures: Sequence[Path | NDArray[np.uint8]]
    preprocess: Preprocess
    retrieved: NDArray[np.int32]
    labels: LabelTokens
    embedding: NDArray[Any]

    def vision(self, count: int | None = None) -> Iterator[Feed]:
        """The first `count` pictures, or all."""
        for batch in batches(self.pictures[:count]):
            yield {"pixels": np.stack([self.preprocess(picture) for picture in batch])}

    def text(self, count: int | None = None) -> Iterator[Feed]:
        """Sets of entries, each with another stretch of the labels: `count` of them, or until all had their turn."""
        total, sets = len(self.labels), evenly(self.retrieved, TEXT_SETS if count is None else count)
        rounds = len(sets) if count is not None else max(len(sets), math.ceil(total / TEXT_LABELS))
        for number in range(rounds):
            chosen = (np.arange(min(total, TEXT_LABELS)) + number * TEXT_LABELS) % total
            yield {"retrieved": sets[number % len(sets)][None], **self.labels.take(chosen).feed(self.embedding)}


def label_tokens(bundle: Bundle) -> LabelTokens:
    """A bundle's own labels."""
    text = bundle.manifest.text
    return encode_labels(Tokenizer(), bundle.manifest.labels, text["template"], text["context_length"])


def batches(items: Sequence[Item], size: int = BATCH) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def evenly(items: Any, count: int | None) -> Any:
    """Up to `count` of a list or array, evenly over it."""
    total = len(items)
    return [items[i * total // count] for i in range(count)] if count is not None and total > count else items


def unlike(files: Sequence[Path], others: Iterable[Path]) -> list[Path]:
    """Those of the files whose bytes none of the others has, wherever both lie: a copied picture is the same one."""
    sizes = {_size(file) for file in files}
    seen = {_content(other) for other in others if _size(other) in sizes}  # few need be read
    return [file for file in files if _content(file) not in seen] if seen else list(files)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _content(file: Path) -> str:
    """Of a file that cannot be read, its name: it is like itself alone."""
    try:
        return str(file_entry(file)["sha256"])
    except OSError:
        return str(file)


def find_pictures(folder: Path, judged: Sequence[Path] = ()) -> list[Path]:
    """Pictures of the folder, of its `train` where it is split, but those that the bundle is `judged` on.

    Raises:
        UsageError: there is no such folder, or no picture in it, or none but those.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise UsageError(f"{folder}: {what}; name a folder of real images with --calibration-data")
    part = folder / "train" if is_split(folder) else folder
    pictures = list_images(part)
    if not pictures:
        raise UsageError(f"{part} holds no pictures: int8 is calibrated on about {WANTED} real ones")
    fresh = unlike(pictures, judged)
    if not fresh:
        raise UsageError(
            f"{part} holds no pictures but those that int8 is judged on: add some, or take fewer with --parity-pictures"
        )
    chosen: list[Path] = evenly(fresh, MOST)
    return chosen


def is_split(folder: Path) -> bool:
    """Whether there is a `train` that is a part of a dataset and not a class of pictures of trains."""
    parts = [folder / name for name in ("train", "val", "test")]
    classes = [entry for entry in parts[0].iterdir() if entry.is_dir()] if parts[0].is_dir() else []
    return parts[0].is_dir() and (any(part.is_dir() for part in parts[1:]) or len(classes) > 1)


def collect(
    folder: Path,
    vision: Engine,
    preprocess: Preprocess,
    labels: LabelTokens,
    embedding: NDArray[Any],
    judged: Sequence[Path] = (),
) -> Samples:
    """Read the folder's pictures once, as `find_pictures` tells, and note what they retrieve by the float32 graph.

    A picture that cannot be read is named in a warning; so is a folder with fewer than WANTED.

    Raises:
        UsageError: no folder, no picture, or none that can be read.
    """
    usable: list[Path] = []
    found: list[NDArray[np.int32]] = []
    for batch in batches(find_pictures(folder, judged)):
        pixels = []
        for path in batch:
            try:
                pixels.append(preprocess(path))
            except ImageError as error:
                logger.warning("left out of the calibration: %s", error)
                continue
            usable.append(path)
        if pixels:
            found.append(vision.run({"pixels": np.stack(pixels)})[1])
    if not usable:
        raise UsageError(f"no picture of {folder} can be read: int8 is calibrated on about {WANTED} real ones")
    if len(usable) < WANTED:
        found_few = plural(len(usable), "picture")
        logger.warning("int8 is calibrated on %s, %d are wanted: its ranges may clip", found_few, WANTED)
    retrieved = np.unique(np.concatenate(found), axis=0)
    return Samples(usable, preprocess, retrieved, labels, embedding)


def ranges(
    graph: Path, tensors: set[str], feeds: Iterable[Feed], method: str, scratch: Path
) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each tensor that int8 shall represent.

    Args:
        graph: a float32 ONNX file.
        tensors: inputs of MatMul, Gemm or Conv nodes.
        method: "minmax", "percentile" (PERCENTILE of all values) or "entropy" (the symmetric range whose 128 levels
            lose least information, Migacz 2017), all three as ONNX Runtime computes them.
        scratch: a folder for its files.

    Raises:
        FailedError: a tensor is not finite on these inputs.
    """
    from onnxruntime.quantization.calibrate import EntropyCalibrater, MinMaxCalibrater, PercentileCalibrater

    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "minmax": (MinMaxCalibrater, {}),
        "percentile": (PercentileCalibrater, {"percentile": PERCENTILE, "symmetric": False}),
        "entropy": (EntropyCalibrater, {"num_bins": ENTROPY_BINS, "num_quantized_bins": ENTROPY_LEVELS}),
    }
    kind, options = kinds[method]
    calibrator: Any = kind(graph, None, str(scratch / "augmented.onnx"), **options)
    select = calibrator.select_tensors_to_calibrate
    calibrator.select_tensors_to_calibrate = lambda model: (tensors & select(model)[0], select(model)[1])
    # It reports on stdout, which is for data, and warns of NaN, which is judged below.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        calibrator.augment_graph()
        calibrator.infer_session = _session(calibrator)
        for feed in feeds:  # one at a time: whatever it is given at once it keeps in memory at once
            calibrator.collect_data(_Once(feed))
        found = calibrator.compute_data()
    result = {name: (float(np.min(found[name].lowest)), float(np.max(found[name].highest))) for name in sorted(tensors)}
    for name, (low, high) in result.items():
        if not (math.isfinite(low) and math.isfinite(high)):
            raise FailedError(f"{name} ranges over {low} to {high} on the calibration pictures: int8 cannot hold it")
    return result


def _session(calibrator: Any) -> Any:
    """The calibrator's own, but on no more CPUs than this process may use."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = usable_cpus().count
    return ort.InferenceSession(calibrator.augmented_model_path, options, providers=calibrator.execution_providers)


class _Once:
    """A CalibrationDataReader of one feed."""

    def __init__(self, feed: Feed) -> None:
        self.feed: Feed | None = feed

    def get_next(self) -> Feed | None:
        feed, self.feed = self.feed, None
        return feed
