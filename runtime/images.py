"""One loader for every picture: a path, bytes, a PIL image and an array come out alike, upright and in 8 bits."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from attri.runtime.errors import ImageError

_SUFFIXES = "jpg jpeg jpe jfif png webp bmp dib gif tif tiff ppm pgm pbm pnm"
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())

# Named, because of the kinds that Pillow knows some start other programs (EPS) and few are pictures from a camera.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "WEBP", "TIFF")
_ORIENTATION = 0x0112
_ORIENTED_BY = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WARNINGS = threading.Lock()


def load_image(source: str | Path | Image.Image | NDArray[Any] | bytes) -> Image.Image:
    """A decoded picture, upright by its EXIF orientation, in an 8-bit mode (or "1"); nothing stays open.

    source: a path; the bytes of a file; a PIL image; or a uint8 array, [H, W, 3] RGB, [H, W, 4] RGBA or [H, W] gray.
    An animated file gives its first frame. 16-bit gray becomes "L" by value / 257, and so does mode "I" if any value
    is above 255; mode "F" becomes "L" by value * 255 if all values lie in 0..1. Every other mode stays as it is: CLIP
    turns a picture into RGB only after resizing. The result may share memory with the PIL image or the array given.

    Raises: ImageError: one line with the name of the picture and what is wrong with it. Above Pillow's
    `Image.MAX_IMAGE_PIXELS` pixels a picture is refused, whatever it comes from.
    """
    if isinstance(source, Image.Image):
        return _decoded(source, getattr(source, "filename", "") or "the image")
    if isinstance(source, np.ndarray):
        return _decoded(_from_array(source), "the array")
    if isinstance(source, bytes):
        return _open(io.BytesIO(source), f"the image of {len(source)} bytes")
    if isinstance(source, (str, Path)):
        return _load_file(Path(source))
    raise ImageError(f"{type(source).__name__} is not a picture: give a path, bytes, a PIL image or a uint8 array")


def list_images(folder: Path) -> list[Path]:
    """The pictures under `folder`, known by their suffix, sorted; hidden files and folders are left out.

    Raises: ImageError: not a folder.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _load_file(path: Path) -> Image.Image:
    if path.exists() and not path.is_file():
        raise ImageError(f"{path} is a folder, not a picture" if path.is_dir() else f"{path} is not a regular file")
    try:
        # Not Image.open(path): from a path Pillow maps some TIFF files, and lays the pixels of turned ones out wrong.
        with path.open("rb") as file:
            return _open(file, str(path))
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist") from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error


def _open(file: IO[bytes], name: str) -> Image.Image:
    if not file.read(1):
        raise ImageError(f"{name} is empty")
    try:
        with _quiet():
            image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture of a kind that attri reads (JPEG, PNG, WebP, ...)") from error
    except Image.DecompressionBombError as error:
        pixels = str(error).partition("(")[2].partition(" ")[0]
        raise ImageError(f"{name} is too large: {pixels} pixels, the limit is {Image.MAX_IMAGE_PIXELS}") from error
    except Exception as error:
        raise ImageError(f"{name} is damaged: {_one_line(error)}") from error
    return _decoded(image, name)


def _decoded(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: {image.width} x {image.height}")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ImageError(f"{name} is too large: {image.width} x {image.height} pixels, the limit is {limit}")
    try:
        image.load()
    except Exception as error:  # decoders meet hostile bytes with a dozen kinds of exception
        raise ImageError(f"{name} is damaged: {_one_line(error)}") from error
    turn = _TURNS.get(_orientation(image))
    image = _eight_bits(image, name)
    return image if turn is None else _turned(image, turn)


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # turned by Pillow while it decodes, and up to 9.5 the tag stays
        return 1
    try:
        with _quiet():
            return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels, which are fine: take them as they lie
        return 1


def _turned(image: Image.Image, turn: Image.Transpose) -> Image.Image:
    image = image.transpose(turn)
    for key in _ORIENTED_BY:  # or the next to read them would turn the picture again
        image.info.pop(key, None)
    return image


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # also refuses NaN
            raise ImageError(f"{name} holds floats from {low:g} to {high:g}: scale them to 0..1, or save 8 bits")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if low < 0 or high > 65535:
        raise ImageError(f"{name} holds values from {low} to {high}: save it with 8 or 16 bits")
    if image.mode != "I" or high > 255:
        values = (values.astype(np.int32) + 128) // 257
    return Image.fromarray(values.astype(np.uint8))


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        shape = list(array.shape)
        raise ImageError(f"the array is {array.dtype} {shape}: give uint8 [H, W, 3] RGB, [H, W, 4] RGBA or [H, W] gray")
    if array.size == 0:
        raise ImageError(f"the array has no pixels: shape {list(array.shape)}")
    return Image.fromarray(array)


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow's warnings off: about odd headers, and about sizes, which `_decoded` judges itself."""
    # The filters belong to the process: two threads that save and restore them at once would leave the wrong ones.
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
