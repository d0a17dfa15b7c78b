"""One loader for every image: a path, bytes, a PIL image and an array come out alike: upright, opaque, in 8 bits."""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import (  # each registers its format in Image.OPEN
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from attri.runtime._util.printable import as_text
from attri.runtime._util.wording import plural
from attri.runtime.errors import ImageError

try:
    from PIL import AvifImagePlugin

    READS_AVIF = bool(AvifImagePlugin.SUPPORTED)
except ImportError:  # Pillow before 11.3
    READS_AVIF = False

Source = str | Path | Image.Image | NDArray[Any] | bytes

# The one list of them: training, calibration and the runtime take the same files for images.
_SUFFIXES = "jpg jpeg jpe jfif png webp bmp dib gif tif tiff ppm pgm pbm pnm avif heic heif hif"
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
# As Pillow stores them, at most 4 bytes each: 1 GiB. Admits the 200 megapixels of phones; libavif has the same limit.
MAX_PIXELS = 2**28
_LARGE = 2**25  # pixels from which on files are decoded one at a time

# Folders that systems and tools leave among images: archives of macOS, network storage, recycle bins, Python.
STRAY_FOLDERS = frozenset(
    (
        "__MACOSX",
        "@eaDir",
        "@Recycle",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
        "__pycache__",
    )
)

# Named, because some of the formats that Pillow knows start other programs (EPS), and few hold photographs.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "WEBP", "TIFF", "AVIF")
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_ALPHA_MODES = ("LA", "PA", "RGBA", "RGBa")
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
_TURN = threading.RLock()


def load_image(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image; nothing stays open.

    The result is upright by its EXIF orientation, has 8 bits per channel and no transparency:

    - An animated file gives its first frame.
    - Transparency is composited on white, at full size and before anything is resized, so that a logo looks the same
      at every size. Whatever colour lies under transparent pixels never shows.
    - A palette becomes RGB and 1 bit becomes "L": Pillow would resize both by nearest neighbour.
    - 16-bit gray becomes "L" by value / 257, and so does mode "I" if any value is above 255; mode "F" becomes "L" by
      value * 255 if all values lie in 0..1.
    - Every other mode stays as it is: CLIP turns an image into RGB only after resizing.

    The result may share memory with the PIL image or the array given.

    Args:
        source: a path; the bytes of a file; a PIL image; or a uint8 array: [H, W, 3] RGB, [H, W, 4] RGBA, [H, W] gray.
        max_pixels: a larger file is refused before it is decoded. What is in memory already is not measured.

    Raises:
        ImageError: one line with the name of the image and what is wrong with it.
    """
    with loaded_image(source, max_pixels) as image:
        return image


@contextmanager
def loaded_image(source: Source, max_pixels: int = MAX_PIXELS, enough: int | None = None) -> Iterator[Image.Image]:
    """`load_image` for as long as the `with` lasts: of files above 33 megapixels, one at a time in this process.

    Threads that decode and shrink images so need the memory of one large image together, not of one each.

    Args:
        source: as of `load_image`.
        max_pixels: likewise.
        enough: pixels of the shorter side that are enough: a JPEG file is decoded at 1/2, 1/4 or 1/8 of its size where
            as many are left. That leaves out most of the work, and the bytes are others than those of a full decode.
    """
    if isinstance(source, Image.Image):
        yield _decoded(source, getattr(source, "filename", "") or "the image")
    elif isinstance(source, np.ndarray):
        yield _decoded(_from_array(source), "the array")
    else:
        file, name = _file(source)
        with file:
            image = _opened(file, name, max_pixels)
            if enough is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
                image.draft(None, (enough, enough))
            with _turn(image):
                yield _decoded(image, name)


def crop_image(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """`image.crop(box)` for boxes inside of the image, without Pillow's limit on the number of pixels."""
    left, top, right, bottom = box
    if Image.MAX_IMAGE_PIXELS is None or (right - left) * (bottom - top) <= Image.MAX_IMAGE_PIXELS:
        return image.crop(box)
    part = Image.new(image.mode, (right - left, bottom - top))
    part.paste(image, (-left, -top))
    return part


def is_stray(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or one that a system or a tool leaves among images."""
    return name.startswith(".") or name in STRAY_FOLDERS


def list_images(folder: Path | str) -> list[Path]:
    """The images under `folder`, known by their suffix, sorted; hidden and stray files and folders are left out.

    Raises:
        ImageError: not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(map(is_stray, path.relative_to(folder).parts))
        and path.is_file()
    )


def _file(source: object) -> tuple[IO[bytes], str]:
    """The bytes of an image to read from, and its name in messages."""
    if isinstance(source, bytes):
        return io.BytesIO(source), f"the image of {plural(len(source), 'byte')}"
    if not isinstance(source, (str, Path)):
        raise ImageError(f"{type(source).__name__} is not an image: give a path, bytes, a PIL image or a uint8 array")
    path, name = Path(source), as_text(str(source))
    if path.exists() and not path.is_file():
        raise ImageError(f"{name} is a folder, not an image" if path.is_dir() else f"{name} is not a regular file")
    try:
        # Not Image.open(path): from a path Pillow maps some TIFF files, and lays the pixels of turned ones out wrong.
        return path.open("rb"), name
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist") from error
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror or error}") from error


def _opened(file: IO[bytes], name: str, max_pixels: int) -> Image.Image:
    """An image whose header is read and whose pixels are not."""
    try:
        prefix = file.read(16)
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror or error}") from error
    if not prefix:
        raise ImageError(f"{name} is empty")
    try:
        with _quiet():
            image = _identified(file, prefix) or _heif(file, prefix, name)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # some formats ask Pillow's own limit
        raise ImageError(f"{name} is too large: {_one_line(error)}") from error
    except Exception as error:
        raise ImageError(f"{name} is damaged: {_one_line(error)}") from error
    if image is None:
        raise ImageError(f"{name} is {_unknown(prefix)}")
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height} pixels, the limit is {max_pixels} in all"
        raise ImageError(f"{name} is too large: {size}: make it smaller, or raise the limit")
    return image


def _identified(file: IO[bytes], prefix: bytes) -> Image.Image | None:
    """What `Image.open` does, without its limit on the number of pixels, which belongs to the whole process."""
    for kind in _FORMATS:
        factory, accept = Image.OPEN.get(kind, (None, None))
        if factory is None or (accept is not None and accept(prefix) is not True):
            continue
        file.seek(0)
        with suppress(SyntaxError, IndexError, TypeError, struct.error):  # it is of another format after all
            return factory(file, "")
    return None


def _heif(file: IO[bytes], prefix: bytes, name: str) -> Image.Image | None:
    if prefix[4:8] != b"ftyp" or prefix[8:12] not in _HEIF_BRANDS:
        return None
    try:
        from pillow_heif import HeifImageFile
    except ModuleNotFoundError as error:  # no MissingExtra: the other images of the folder can be read
        hint = "pillow-heif is not installed: pip install 'attri[heif]'"
        raise ImageError(f"{name} is HEIC, and {hint}") from error
    file.seek(0)
    open_heif: Any = HeifImageFile  # Pillow's plugin, without entering it into Pillow's registry for everybody
    image: Image.Image = open_heif(file, "")
    return image


def _unknown(prefix: bytes) -> str:
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _AVIF_BRANDS and not READS_AVIF:
        return "AVIF, which this Pillow does not read: pip install --upgrade 'Pillow>=11.3'"
    return "not an image of a kind that attri reads (JPEG, PNG, WebP, ...)"


def _turn(image: Image.Image) -> AbstractContextManager[object]:
    return _TURN if image.width * image.height > _LARGE else nullcontext()


def _decoded(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: {image.width} x {image.height}")
    try:
        image.load()
    except MemoryError as error:
        raise ImageError(f"{name} does not fit into memory: {image.width} x {image.height} pixels") from error
    except Exception as error:  # decoders meet hostile bytes with a dozen kinds of exception
        raise ImageError(f"{name} is damaged: {_one_line(error)}") from error
    turn = _TURNS.get(_orientation(image))
    image = _opaque(_eight_bits(image, name))
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
    for key in _ORIENTED_BY:  # or the next to read them would turn the image again
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
        values = values.astype(np.int32)
        values += 128  # in place: a large image is not held three times
        values //= 257
    return Image.fromarray(values.astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """Transparency on white: so did img2dataset, which made the data of most open CLIP models."""
    if _has_alpha(image):
        with _quiet():  # about palettes with transparency
            image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert({"1": "L", "P": "RGB"}[image.mode]) if image.mode in ("1", "P") else image


def _has_alpha(image: Image.Image) -> bool:
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    return image.mode in _ALPHA_MODES or "transparency" in image.info or palette.endswith("A")


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        shape = list(array.shape)
        raise ImageError(f"the array is {array.dtype} {shape}: give uint8 [H, W, 3] RGB, [H, W, 4] RGBA or [H, W] gray")
    if array.size == 0:
        raise ImageError(f"the array has no pixels: shape {list(array.shape)}")
    return Image.fromarray(array)


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow's warnings off: about odd headers, and about sizes, which `_opened` judges itself."""
    # The filters belong to the process: two threads that save and restore them at once would leave the wrong ones.
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
