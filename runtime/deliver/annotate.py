"""Draw the decided label onto a frame, for recordings."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from attri.runtime._util.printable import printable
from attri.runtime.deliver.format import label_text, title
from attri.runtime.deliver.result import FrameResult

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "LiberationSans-Regular.ttf")  # the first that is installed
_ACCENT, _TEXT, _MUTED = (255, 196, 0), (255, 255, 255), (170, 170, 170)


def annotate(result: FrameResult) -> NDArray[np.uint8]:
    """Draw the decided label, its score, the source and the task in a strip at the bottom of the frame.

    Returns:
        A copy of the frame, RGB uint8 [H, W, 3].
    """
    image = Image.fromarray(result.image)
    font = font_of(max(11, min(48, image.height // 20)))
    label = printable(f"{label_text(result)}  {result.score:.0%}")
    _, top, _, bottom = font.getbbox(f"{label}|")
    pad = int(bottom - top) // 2
    strip = int(bottom - top) + 2 * pad
    _darken(image, strip)
    draw = ImageDraw.Draw(image)
    upper = image.height - strip
    draw.rectangle((0, upper, round(result.score * (image.width - 1)), upper + max(1, pad // 4)), fill=_ACCENT)
    draw.text((pad, upper + pad - top), label, font=font, fill=_TEXT if result.label else _MUTED)
    source = title(result)
    room = image.width - 3 * pad - font.getlength(label)
    if (width := font.getlength(source)) <= room:
        draw.text((image.width - pad - width, upper + pad - top), source, font=font, fill=_MUTED)
    return np.asarray(image)


def _darken(image: Image.Image, strip: int) -> None:
    box = (0, max(0, image.height - strip), image.width, image.height)
    image.paste(Image.eval(image.crop(box), lambda value: value // 4), box)


@functools.lru_cache(maxsize=8)
def font_of(size: int) -> Font:
    """The first of FONTS that is installed, in this size where it can be had."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    try:
        return ImageFont.load_default(size)
    except (TypeError, OSError):  # Pillow before 10.1, or without FreeType: one size only
        return ImageFont.load_default()
