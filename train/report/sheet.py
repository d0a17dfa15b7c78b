"""Sheets of small images with captions, on one pair of axes: a pair for each image takes ten times as long to draw."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from attri.runtime.errors import ImageError
from attri.runtime.images import load_image
from attri.train.report.plots import DPI, save


class Sheet:
    """Images and text at places in inches, from the upper left corner.

    Args:
        width: in inches.
        height: in inches.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        self.axes.set_autoscale_on(False)
        self.axes.set(xlim=(0, width), ylim=(height, 0))

    def image(self, file: Path, left: float, top: float, side: float) -> bool:
        """Draw an image file in a square, whole and centred; returns False where it cannot be read."""
        try:
            image = load_image(file).convert("RGB")
        except ImageError:
            return False
        pixels = round(side * DPI)
        image.thumbnail((pixels, pixels), Image.Resampling.BICUBIC)
        width, height = (side * extent / max(image.size) for extent in image.size)
        left, top = left + (side - width) / 2, top + (side - height) / 2
        self.axes.imshow(image, extent=(left, left + width, top + height, top), aspect="auto")
        return True

    def text(self, left: float, bottom: float, text: str, points: float) -> None:
        """Write text of one or more lines, which end above `bottom`."""
        self.axes.text(left, bottom, text, fontsize=points, va="bottom", linespacing=1.15)

    def save(self, path: Path) -> None:
        """Write a PNG; raises FailedError where it cannot be written."""
        save(self.figure, path)
