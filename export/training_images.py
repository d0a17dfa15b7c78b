"""Features of a run's training images, computed by the exported vision graph, for the prompt file to keep."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attri.export.parity.outputs import BATCH, open_unfinished
from attri.runtime._util.wording import plural
from attri.runtime.bundle import Bundle
from attri.runtime.errors import FailedError, ImageError, UsageError
from attri.runtime.image_batches import decode_each
from attri.runtime.prompt_file.training_images import TrainingImages
from attri.train.data.csv_dataset import read_table
from attri.train.training.checkpoint import Run
from attri.train.training.run_folder import TRAINED

__all__ = ["LabelledFiles", "encode_training_images", "size_text", "training_files"]

_LOGGER = logging.getLogger("attri")


@dataclass(frozen=True)
class LabelledFiles:
    """Image files with their classes, and the names by which a prompt file knows them."""

    files: list[Path]
    labels: list[str]
    names: list[str]


def training_files(folder: Path, run: Run) -> LabelledFiles:
    """List the images that a run was trained on. Names are their paths below the run's data: they leave this machine.

    Args:
        folder: of the run.
        run: what was read from it.

    Raises:
        UsageError: the run does not say which they were, or one of them is gone.
    """
    table = folder / TRAINED
    if not table.is_file():
        raise UsageError(f"{folder} does not say which images it was trained on, it has no {TRAINED}: train again")
    data = read_table(table)
    files = [image.path for image in data.train]
    return LabelledFiles(files, [data.classes[image.target] for image in data.train], [_name(f, run) for f in files])


def _name(file: Path, run: Run) -> str:
    """The path below the run's data; of an image that was added from elsewhere its folder and name."""
    root = f"{Path(run.data)}{os.sep}"
    return str(file).removeprefix(root) if str(file).startswith(root) else f"{file.parent.name}/{file.name}"


def encode_training_images(bundle: Bundle, images: LabelledFiles) -> TrainingImages:
    """Compute the features of the images that can be read; the others are named in warnings.

    Args:
        bundle: whose vision graph computes them; it may be unfinished.
        images: the files.

    Raises:
        FailedError: none can be read.
    """
    classifier, preprocess = open_unfinished(bundle), bundle.preprocess()
    features: list[NDArray[np.float32]] = []
    kept: list[tuple[str, str]] = []
    for start in range(0, len(images.files), BATCH):
        decoded = decode_each(preprocess, images.files[start : start + BATCH])
        pixels = []
        for row, each in enumerate(decoded, start):
            if isinstance(each, ImageError):
                _LOGGER.warning("left out of the training images that are kept: %s", each)
                continue
            pixels.append(each[0])
            kept.append((images.labels[row], images.names[row]))
        if pixels:
            features.append(classifier.encode_image(np.stack(pixels))[0])
    if not kept:
        raise FailedError("none of the training images can be read, and no feature can be kept")
    return TrainingImages.of(np.concatenate(features), kept)


def size_text(kept: TrainingImages) -> str:
    """What a prompt file keeps, and how large that is."""
    return f"features of {plural(len(kept), 'training image')}, {kept.facts['bytes'] / 2**20:.2f} MB of the prompt"
