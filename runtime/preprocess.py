"""Pixels as the model was trained on them: the bytes of open_clip's evaluation transform, without torch.

`load_image` comes first: upright, 8 bits, transparency on white, no palette. From there on every byte is open_clip's.
open_clip alone would show what lies hidden under transparent pixels where the image has the size of the model, and
black where it has to be resized.

"shortest", CLIP's own: the shorter side is brought to `size`, and a centre crop follows. "squash": the whole image is
resized to the square. Both by Pillow's bicubic or bilinear, with antialias; then RGB, then normalisation.

Why the whole image is resized, and not only the crop with `Image.resize(box=...)` for half the work: Pillow stores
the box as float32. For 1920 x 1080 at 224 the crop starts at 419.698... pixels, and a handful of its 150,528 bytes come
out different by one; hardly any camera's format has a crop that float32 holds. To run Pillow's two passes one by one,
with a cut between them, is no way out: since Pillow 13 tall images go rows first, and bytes depend on that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.errors import ImageError
from attri.runtime.images import Source, crop_image, loaded_image

Resize = Literal["shortest", "squash"]
Interpolation = Literal["bicubic", "bilinear"]
RESIZES: tuple[Resize, ...] = get_args(Resize)
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# A thin strip would be blown up to gigabytes, only to be cut to a square.
MAX_RESIZED_PIXELS = 2**26
_SPARE = 2  # pixels for each that is needed, so that the resize has some to weigh (as Pillow's own thumbnails do)


@dataclass(frozen=True)
class Preprocess:
    """From any image to the input of the vision encoder.

    The values are those of open_clip's `image_transform`, applied to what `load_image` gives. The exception is a strip
    so thin that, resized, it would hold more than 2**26 pixels (at size 224 from an aspect ratio of 1337 on): it is cut
    before it is resized, and a few bytes in a hundred may differ from open_clip's.
    """

    size: int  # side of the square, pixels
    mean: tuple[float, float, float]  # of R, G, B, on a scale of 0..1
    std: tuple[float, float, float]
    resize: Resize = "shortest"
    interpolation: Interpolation = "bicubic"

    def to_dict(self) -> dict[str, Any]:
        """The fields by their names, as a manifest keeps them."""
        return {**vars(self), "mean": list(self.mean), "std": list(self.std)}

    def __call__(self, image: Source, fast_jpeg: bool = False) -> NDArray[np.float32]:
        """Normalised pixels, float32 [3, size, size], C-contiguous. Takes and raises what `load_image` does.

        Args:
            image: what `load_image` takes.
            fast_jpeg: decode JPEG files at a part of their size, at least twice `size`; bytes are not open_clip's then.
        """
        channels_first = self.pixels(image, fast_jpeg).transpose(2, 0, 1)  # [3, size, size]
        planes: NDArray[np.float32] = channels_first.astype(np.float32, order="C")
        # The three float32 roundings of torchvision, in its order; folded into one multiply-add the last bit differs.
        planes /= np.float32(255)
        planes -= np.array(self.mean, np.float32).reshape(3, 1, 1)
        planes /= np.array(self.std, np.float32).reshape(3, 1, 1)
        return planes

    def pixels(self, image: Source, fast_jpeg: bool = False) -> NDArray[np.uint8]:
        """The same before normalisation: uint8 [size, size, 3], RGB. Takes and raises what `load_image` does."""
        with loaded_image(image, enough=_SPARE * self.size if fast_jpeg else None) as loaded:
            square = self._square(loaded)
        try:
            return np.array(square.convert("RGB"))
        except ValueError as error:
            raise ImageError(f"an image of mode {square.mode} cannot be turned into RGB: save it as RGB") from error

    def seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """What is left of an image of this width and height: left, top, right and bottom, in its pixels."""
        if self.resize == "squash":
            return (0.0, 0.0, float(size[0]), float(size[1]))
        short = min(size)
        resized = [self.size if side == short else int(self.size * side / short) for side in size]
        starts = [round((side - self.size) / 2.0) for side in resized]
        left, top = (start * side / scaled for start, side, scaled in zip(starts, size, resized, strict=True))
        right, bottom = (
            (start + self.size) * side / scaled for start, side, scaled in zip(starts, size, resized, strict=True)
        )
        return left, top, right, bottom

    def _square(self, image: Image.Image) -> Image.Image:
        """The image as [size, size], in its own mode."""
        if self.resize == "squash":
            return image.resize((self.size, self.size), _FILTERS[self.interpolation])
        return _resized_crop(image, self.size, _FILTERS[self.interpolation])


def _resized_crop(image: Image.Image, size: int, resampling: Image.Resampling) -> Image.Image:
    """The shorter side resized to `size`, the centre [size, size] cut out, in the mode of `image`."""
    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    if max(width, height) * size > MAX_RESIZED_PIXELS:
        x0, x1, x_start, x_end = _span(image.width, width, left, size)
        y0, y1, y_start, y_end = _span(image.height, height, top, size)
        part = crop_image(image, (x0, y0, x1, y1))
        return part.resize((size, size), resampling, box=(x_start, y_start, x_end, y_end))
    return image.resize((width, height), resampling).crop((left, top, left + size, top + size))


def _span(source: int, resized: int, offset: int, size: int) -> tuple[int, int, float, float]:
    """What resized pixels [offset, offset + size) need of `source` pixels: from, to, and the box measured from there.

    Measured so, the box has small numbers, which float32 holds to a millionth of a pixel.
    """
    scale = source / resized
    start, end = offset * scale, min((offset + size) * scale, source)
    reach = 2 * max(scale, 1) + 1  # bicubic's two pixels, stretched where it shrinks, and one more against rounding
    first, last = max(0, int(start - reach)), min(source, int(end + reach) + 1)
    return first, last, start - first, end - first
