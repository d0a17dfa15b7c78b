"""The real pictures that both sides of the parity check read, and whether the runtime reads them as open_clip does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from attri.export.parity.compare import Stage
from attri.runtime.errors import FailedError, ImageError
from attri.runtime.images import load_image
from attri.train.model.backbone import Backbone

# Mean difference of normalised pixels. They are equal to the last bit, but for a few bytes of very thin strips
# (`Preprocess`); a wrong crop, resize or mean moves all of them by a hundredth or more.
GATE = 1e-4
LEAST = 0.5  # share of the files that must be readable: the few of a damaged folder are no sample (our choice)
logger = logging.getLogger("attri")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Those that can be read: their files, pixels float32 [I, 3, S, S], and how far these are from open_clip's own."""

    files: list[Path]
    pixels: NDArray[np.float32]
    stage: Stage


def read_pictures(backbone: Backbone, files: list[Path]) -> Pictures:
    """A picture that cannot be read is named in a warning. Raises FailedError where less than half can be read."""
    preprocess, transform = backbone.preprocess(), open_clip_transform(backbone)
    read, pixels, errors = [], [], []
    for path in files:
        try:
            image = load_image(path)
            ours = preprocess(image)
        except ImageError as error:
            logger.warning("left out of the parity check: %s", error)
            continue
        distance = np.abs(transform(image).numpy() - ours)  # [3, S, S]
        read.append(path)
        pixels.append(ours)
        errors.append((distance.max(), distance.mean()))
    if not read or len(read) < LEAST * len(files):
        raise FailedError(
            f"only {len(read)} of {len(files)} pictures for the parity check can be read, half are needed: mend them,"
            " or name a folder with --parity-data"
        )
    worst, mean = np.array(errors, np.float64).T
    stage = Stage("pixels", "difference", float(worst.max()), float(mean.mean()), GATE, "mean", worst)
    return Pictures(read, np.stack(pixels), stage)


def open_clip_transform(backbone: Backbone) -> Callable[[Image.Image], torch.Tensor]:
    """What open_clip itself does to pictures for this model."""
    from open_clip.transform import image_transform

    cfg = getattr(backbone.visual, "preprocess_cfg", None) or {}
    known = {name: cfg[name] for name in ("mean", "std", "interpolation", "resize_mode") if name in cfg}
    transform: Callable[[Image.Image], torch.Tensor] = image_transform(
        backbone.visual.image_size, is_train=False, **known
    )
    return transform
