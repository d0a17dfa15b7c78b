"""Images of the parity check: which are taken, and whether the runtime preprocesses them as open_clip does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from attri.calibration.images import evenly
from attri.export.parity.report import Stage
from attri.export.score_calibration import data_of
from attri.runtime.engines.verify import ParityStage
from attri.runtime.errors import FailedError, ImageError, UsageError
from attri.runtime.images import list_images, load_image
from attri.train.data import read_target
from attri.train.model.backbone import Backbone
from attri.train.training.checkpoint import Run

__all__ = ["ParityImages", "find_parity_images", "open_clip_transform", "parity_images_of_run", "read_images"]

# Mean difference of normalised pixels. They are equal to the last bit, but for a few bytes of very thin strips
# (`Preprocess`); a wrong crop, resize or mean moves all of them by a hundredth or more.
GATE = 1e-4
MIN_READABLE = 0.5  # share of the files: the few readable ones of a damaged folder are no sample (our choice)
_LOGGER = logging.getLogger("attri")


def parity_images_of_run(run: Run, count: int) -> list[Path]:
    """Choose up to `count` test images of a run, which leaves its training images for int8 calibration.

    Without test images, or where its data is no dataset any more, `find_parity_images` chooses.
    """
    try:
        test = [labelled.path for labelled in data_of(run)[0].test]
    except UsageError:
        test = []
    return evenly(test, count) if test else find_parity_images(Path(run.data), count)


def find_parity_images(data: Path, count: int) -> list[Path]:
    """Choose up to `count` images, evenly over a folder; of its test part where it is a dataset.

    Raises:
        UsageError: there is no such folder, or no image in it, or it is a table with mistakes.
    """
    if not data.exists():
        raise UsageError(f"{data}: no such folder; name one with images for the parity check as `parity_data`")
    try:
        images = [labelled.path for labelled in read_target(data).test]
    except UsageError:
        if not data.is_dir():  # a table: the error says what is wrong with it
            raise
        images = list_images(data)  # no dataset, but a folder of images is enough
    if not images:
        raise UsageError(f"{data} holds no images: name some for the parity check as `parity_data`")
    return evenly(images, count)


@dataclass(frozen=True, eq=False)
class ParityImages:
    """The images that could be read."""

    requested: list[Path]  # all files that were named
    files: list[Path]  # the readable ones
    pixels: NDArray[np.float32]  # of these, [I, 3, S, S]
    stage: Stage  # distance of these pixels from open_clip's own


def read_images(backbone: Backbone, files: list[Path]) -> ParityImages:
    """Read images with the runtime's preprocessing and compare them with open_clip's; name unreadable ones in warnings.

    Raises:
        FailedError: less than half of them can be read.
    """
    preprocess, transform = backbone.preprocess(), open_clip_transform(backbone)
    read, pixels, errors = [], [], []
    for path in files:
        try:
            image = load_image(path)
            ours = preprocess(image)
        except ImageError as error:
            _LOGGER.warning("left out of the parity check: %s", error)
            continue
        distance = np.abs(transform(image).numpy() - ours)  # [3, S, S]
        read.append(path)
        pixels.append(ours)
        errors.append((distance.max(), distance.mean()))
    if not read or len(read) < MIN_READABLE * len(files):
        raise FailedError(
            f"only {len(read)} of {len(files)} images for the parity check can be read, half are needed: replace the"
            " damaged ones, or name another folder as `parity_data`"
        )
    worst, mean = np.array(errors, np.float64).T
    stage = Stage(ParityStage.PIXELS, "difference", float(worst.max()), float(mean.mean()), GATE, "mean", worst)
    return ParityImages(files, read, np.stack(pixels), stage)


def open_clip_transform(backbone: Backbone) -> Callable[[Image.Image], torch.Tensor]:
    """Open_clip's own preprocessing for this model, from what open_clip keeps of it."""
    from open_clip.transform import image_transform

    cfg = getattr(backbone.clip.visual, "preprocess_cfg", None) or {}
    known = {name: cfg[name] for name in ("mean", "std", "interpolation", "resize_mode") if name in cfg}
    transform: Callable[[Image.Image], torch.Tensor] = image_transform(backbone.tower.size, is_train=False, **known)
    return transform
