"""Artwork as square RGBA images of one size."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 64
RgbaImage = NDArray[np.uint8]  # [SIZE, SIZE, 4], RGBA, alpha not premultiplied


def render(svg: str) -> RgbaImage:
    """An SVG document as an image. Needs resvg-py, which nothing else in attri uses."""
    import resvg_py

    png: Any = resvg_py.svg_to_bytes(svg_string=svg, width=4 * SIZE, height=4 * SIZE, skip_system_fonts=True)
    return shrink(Image.open(io.BytesIO(bytes(png))))


def shrink(image: Image.Image) -> RgbaImage:
    """Fit an image into the square, centred; `reduce` first, because 4x oversampling keeps thin lines."""
    image = image.convert("RGBA")
    if max(image.size) != SIZE or image.width != image.height:
        image.thumbnail((SIZE, SIZE), Image.Resampling.BOX if max(image.size) % SIZE == 0 else Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIZE, SIZE))
    canvas.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    return np.asarray(canvas)


def icon_document(icons: dict[str, Any], name: str, flip: bool = False) -> str:
    """One icon of an iconify set as an SVG document. Its own size wins over that of the set."""
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{icon["body"]}</g>' if flip else icon["body"]
    name_spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {name_spaces} viewBox="{left} {top} {width} {height}">{body}</svg>'


def open_square(path: Path, side: int) -> NDArray[np.uint8]:
    """The centre of a photograph, [side, side, 3]: the shorter side fits, what is longer is cut off."""
    image = Image.open(path).convert("RGB")
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))
