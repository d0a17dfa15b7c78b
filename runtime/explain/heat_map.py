"""Heat maps: contributions of patches over the image that they belong to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOR, AGAINST = (255, 130, 0), (0, 100, 255)  # orange and blue, which colour-blind people tell apart
_STRONGEST = 0.8  # opacity of the strongest colour (our choice)
_SATURATED = 95  # percent of patches that have weaker colours: a few outliers would leave all others pale (our choice)


def heat_map(
    image: Image.Image, contributions: NDArray[np.float32], seen: tuple[float, float, float, float]
) -> Image.Image:
    """Lay contributions over a grey image: orange speaks for the label, blue against it, the stronger the more.

    The strongest colour is for the greatest contributions of this image: colours of two images do not compare.

    Args:
        image: RGB.
        contributions: Of patches [h, w].
        seen: What the model saw of it, as of `Explanation`; what lies outside is shown darker.
    """
    left, top, right, bottom = (round(each) for each in seen)
    width, height = max(1, right - left), max(1, bottom - top)
    strength = contributions / max(float(np.percentile(np.abs(contributions), _SATURATED)), 1e-12)
    smooth = Image.fromarray(strength.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    weights = np.asarray(smooth)[..., None]  # [H, W, 1]
    colour = np.where(weights >= 0, np.array(FOR), np.array(AGAINST))
    opacity = _STRONGEST * np.abs(weights).clip(0, 1)
    pixels = np.asarray(image.convert("L").convert("RGB")).astype(np.float32)
    shown = pixels / 3
    inside = pixels[top : top + height, left : left + width]
    shown[top : top + height, left : left + width] = inside * (1 - opacity) + colour * opacity
    return Image.fromarray(shown.round().astype(np.uint8))
