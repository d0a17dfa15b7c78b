"""Orientation (flip, rotate) and region of interest of a frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.errors import SourceError
from attri.runtime.images import crop_image

Region = tuple[int, int, int, int]  # x, y, width, height in pixels

# Named as by jetson-utils, in the order of GStreamer's videoflip: what is done to the frame, not how the camera hangs.
Flip = Literal[
    "none",
    "counterclockwise",
    "rotate-180",
    "clockwise",
    "horizontal",
    "vertical",
    "upper-right-diagonal",
    "upper-left-diagonal",
]
FLIPS: dict[Flip, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "none": lambda image: image,
    "counterclockwise": np.rot90,
    "rotate-180": lambda image: image[::-1, ::-1],
    "clockwise": lambda image: np.rot90(image, -1),
    "horizontal": lambda image: image[:, ::-1],
    "vertical": lambda image: image[::-1],
    "upper-right-diagonal": lambda image: image[::-1, ::-1].swapaxes(0, 1),
    "upper-left-diagonal": lambda image: image.swapaxes(0, 1),
}


def flipped(image: NDArray[np.uint8], how: Flip) -> NDArray[np.uint8]:
    """Turn or mirror a frame.

    Args:
        image: [H, W, 3].
        how: A key of FLIPS.

    Returns:
        [H, W, 3] or, turned by a quarter, [W, H, 3]; C-contiguous.
    """
    return np.ascontiguousarray(FLIPS[how](image))


def as_rgb(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], whatever mode an image has."""
    if isinstance(image, np.ndarray):
        return image
    if image.mode == "RGB":  # converting would copy it
        return np.asarray(image)
    return np.asarray(image.convert("RGB"))


def nbytes(image: Image.Image | NDArray[np.uint8]) -> int:
    """Memory that a frame takes, at most."""
    if isinstance(image, np.ndarray):
        return image.nbytes
    return 4 * image.width * image.height  # Pillow stores each pixel of a colour image in four


def crop(image: Image.Image | NDArray[np.uint8], roi: Region | None) -> Image.Image | NDArray[np.uint8]:
    """Crop a frame to its region of interest; None is all of it.

    Raises:
        SourceError: The region is not inside the frame.
    """
    if roi is None:
        return image
    x, y, w, h = roi
    width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
    if x + w > width or y + h > height:
        raise SourceError(f"the region {x},{y},{w},{h} is not inside a frame of {width} x {height}")
    if isinstance(image, Image.Image):
        return crop_image(image, (x, y, x + w, y + h))
    return image[y : y + h, x : x + w]
