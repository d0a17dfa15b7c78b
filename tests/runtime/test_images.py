"""The loader, on real files: every one is written here and read back."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from attri.runtime.errors import ImageError
from attri.runtime.images import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    READS_AVIF,
    crop_image,
    list_images,
    load_image,
    loaded_image,
)


@pytest.fixture(scope="module")
def photo(image_files: list[Path]) -> Image.Image:
    try:
        from matplotlib.cbook import get_sample_data
    except ModuleNotFoundError:  # a base install
        return Image.open(image_files[0]).convert("RGB").resize((60, 45))
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as file:
        return file.convert("RGB").resize((60, 45))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes()


def test_a_path_bytes_an_image_and_an_array_come_out_alike(photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    photo.save(path)
    sources: list[Any] = [path, str(path), path.read_bytes(), Image.open(path), photo, np.asarray(photo)]
    assert all(same(load_image(source), photo) for source in sources)


TURNS = {  # where row 0 and column 0 of the file belong: EXIF 2.32, tag 0x0112
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(photo: Image.Image, tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned"
    photo.save(path, kind, exif=exif)
    wanted = Image.fromarray(TURNS[orientation](np.asarray(load_image(encoded(photo, kind)))))
    assert same(load_image(path), wanted)
    with Image.open(path) as lazy:
        assert same(load_image(lazy), wanted)
    assert same(load_image(load_image(path)), wanted)


def test_a_turned_gray_tiff_is_not_mapped_into_memory(photo: Image.Image, tmp_path: Path) -> None:
    """Pillow 13.0 scrambles this file when it opens it by its path."""
    exif, path, gray = Image.Exif(), tmp_path / "turned.tif", photo.convert("L")
    exif[0x0112] = 6
    gray.save(path, exif=exif)
    assert same(load_image(path), gray.transpose(Image.Transpose.ROTATE_270))


def test_orientation_told_by_xmp_is_applied_once(photo: Image.Image) -> None:
    data = encoded(photo, "PNG")
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    chunk = struct.pack(">I", len(xmp)) + b"iTXt" + xmp + struct.pack(">I", zlib.crc32(b"iTXt" + xmp))
    turned = load_image(data[:33] + chunk + data[33:])
    assert same(turned, photo.transpose(Image.Transpose.ROTATE_270))
    assert same(load_image(turned), turned)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\0", b"Exif\0\0II*\0\0\0\0\x80"]
)
def test_damaged_exif_leaves_the_image_as_it_lies(photo: Image.Image, exif: bytes) -> None:
    data = encoded(photo, "JPEG", exif=exif)
    assert same(load_image(data), Image.open(io.BytesIO(encoded(photo, "JPEG"))))


@pytest.mark.parametrize(
    ("mode", "wanted"), [("1", "L"), ("L", "L"), ("LA", "RGB"), ("P", "RGB"), ("RGB", "RGB"), ("RGBA", "RGB")]
)
def test_modes_of_files(photo: Image.Image, mode: str, wanted: str) -> None:
    """Without transparent pixels nothing is lost; bits and palettes would be resized by nearest neighbour."""
    image = photo.convert(mode)
    assert same(load_image(encoded(image, "PNG")), image.convert(wanted))
    assert same(load_image(image), image.convert(wanted))


def on_white(rgba: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 4] -> [H, W, 3], pixel by pixel."""
    rows = [[[round((c * a + 255 * (255 - a)) / 255) for c in rgb] for *rgb, a in row] for row in rgba.tolist()]
    return np.array(rows, np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "array", "LA", "palette", "colour key", "GIF"])
def test_transparency_is_put_on_white(photo: Image.Image, kind: str) -> None:
    """A ramp of alpha over a photograph; where a format has one transparent colour, that one."""
    image = photo.convert("LA" if kind == "LA" else "RGBA")
    image.putalpha(Image.linear_gradient("L").resize(photo.size))
    sources: dict[str, Any] = {
        "array": np.asarray(image),
        "palette": encoded(photo.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
        "colour key": encoded(photo, "PNG", transparency=photo.getpixel((3, 3))),
        "GIF": encoded(photo.quantize(16), "GIF", transparency=5),
    }
    if kind in sources:
        source = sources[kind]
    else:
        source = encoded(image, "PNG" if kind == "LA" else kind, **({"lossless": True} if kind == "WEBP" else {}))
    truth = source if kind == "array" else np.asarray(Image.open(io.BytesIO(source)).convert("RGBA"))
    assert truth[..., 3].min() < 255
    loaded = load_image(source)
    assert (loaded.mode, "transparency" in loaded.info) == ("RGB", False)
    assert np.array_equal(np.asarray(loaded), on_white(truth))


def test_cmyk_jpeg_stays_cmyk(photo: Image.Image) -> None:
    data = encoded(photo.convert("CMYK"), "JPEG")
    assert same(load_image(data), Image.open(io.BytesIO(data)))
    assert load_image(data).mode == "CMYK"


DEEP = np.array([[0, 128, 129, 256, 257], [32767, 32768, 65278, 65279, 65535]], np.uint16)
SHALLOW = np.array([[0, 0, 1, 1, 1], [127, 128, 254, 254, 255]], np.uint8)  # round(value / 257)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
def test_16_bit_gray_is_scaled_not_clipped(kind: str) -> None:
    pgm = b"P5 5 2 65535\n" + DEEP.astype(">u2").tobytes()
    image = load_image(pgm if kind == "PGM" else encoded(Image.fromarray(DEEP), kind))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), SHALLOW)


def test_16_bit_images_of_each_byte_order() -> None:
    big = Image.frombytes("I;16B", (5, 2), DEEP.astype(">u2").tobytes())
    for image in (Image.fromarray(DEEP), big, Image.fromarray(DEEP.astype(np.int32))):
        assert np.array_equal(np.asarray(load_image(image)), SHALLOW)


def test_16_bit_gray_is_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = load_image(encoded(Image.fromarray(DEEP), "PNG", exif=exif))
    assert np.array_equal(np.asarray(image), np.rot90(SHALLOW, -1))


def test_mode_i_with_8_bit_values_keeps_them() -> None:
    values = np.array([[0, 7, 255]], np.int32)
    assert np.array_equal(np.asarray(load_image(Image.fromarray(values))), values)


def test_floats_from_0_to_1_are_scaled() -> None:
    image = load_image(Image.fromarray(np.array([[0, 0.5, 1], [0.001, 0.002, 0.999]], np.float32)))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 128, 255], [0, 1, 255]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 255]], np.float32), "the image holds floats from 0 to 255: scale them to 0..1, or save 8 bits"),
        (np.array([[-0.5, 1]], np.float32), "the image holds floats from -0.5 to 1"),
        (np.array([[0, np.nan]], np.float32), "the image holds floats from nan to nan"),
        (np.array([[0, 65536]], np.int32), "the image holds values from 0 to 65536: save it with 8 or 16 bits"),
        (np.array([[-1, 5]], np.int32), "the image holds values from -1 to 5"),
    ],
)
def test_other_ranges_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(Image.fromarray(values))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame_and_works_after_closing(photo: Image.Image, kind: str) -> None:
    frames = [photo, ImageOps.invert(photo), ImageOps.mirror(photo)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    image = load_image(data)
    wanted = load_image(encoded(frames[0], kind, **options))
    assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(wanted.convert("RGB")))
    assert image.resize((10, 10)).size == (10, 10)


def test_the_file_is_closed(photo: Image.Image, tmp_path: Path) -> None:
    for name in ("photo.gif", "photo.tif", "photo.jpg"):
        path = tmp_path / name
        photo.save(path, save_all=name != "photo.jpg")
        image = load_image(path)
        path.unlink()
        open_files = {fd.resolve() for fd in Path("/proc/self/fd").iterdir()}
        assert not any(file.name.startswith(name) for file in open_files)
        assert image.convert("RGB").size == photo.size


def test_files_that_are_no_images(photo: Image.Image, tmp_path: Path) -> None:
    jpeg, png = encoded(photo, "JPEG"), encoded(photo, "PNG")
    cases = {
        "empty.jpg": (b"", "is empty"),
        "text.jpg": (b"this is a letter, not a picture", "is not an image of a kind that attri reads"),
        "short.jpg": (jpeg[: len(jpeg) // 2], "is damaged: image file is truncated"),
        "header.jpg": (jpeg[:20], "is "),
        "short.png": (png[: len(png) // 2], "is damaged: image file is truncated"),
        "short.tif": (encoded(photo, "TIFF")[:300], "is "),
        "short.webp": (encoded(photo, "WEBP")[:200], "is "),
        "short.gif": (encoded(photo, "GIF")[:900], "is damaged"),
        "hidden.eps": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "is not an image of a kind that attri reads",
        ),
        "bad.png": (png[:50] + b"\xff" * 40 + png[90:], "is "),
    }
    for name, (data, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ImageError) as caught:
            load_image(path)
        assert str(caught.value).startswith(f"{path} {message}"), caught.value
        assert "\n" not in str(caught.value)
        with pytest.raises(ImageError, match=f"the image of {len(data)} bytes {message}"):
            load_image(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_every_cut_of_a_file_is_refused_in_one_line(photo: Image.Image, kind: str) -> None:
    data = encoded(photo, kind)
    refused = 0
    for end in range(0, len(data), max(1, len(data) // 60)):
        with contextlib.suppress(ImageError):  # anything else is a traceback for the user
            assert load_image(data[:end]).size == photo.size
            continue
        refused += 1
    assert refused > 40  # a cut through the last bytes may leave all the pixels


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for source, message in [(tmp_path / "none.jpg", "does not exist"), (tmp_path, "is a folder, not an image")]:
        with pytest.raises(ImageError, match=message):
            load_image(source)
    with pytest.raises(ImageError, match="is not a regular file"):
        load_image("/dev/null")
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="cannot be read: Not a directory"):
        load_image(tmp_path / "file" / "photo.jpg")


BOMB = 40_000  # pixels a side: 6.4 GB as RGB in memory


def png_bomb(side: int, mode: int = 0, depth: int = 1) -> bytes:
    """A gray or bilevel PNG of side x side zeros, in kilobytes: its rows are compressed as they are counted."""
    deflate, row = zlib.compressobj(9), bytes(1 + (side * depth + 7) // 8)
    data = b"".join([*(deflate.compress(row) for _ in range(side)), deflate.flush()])
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, mode, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    framed = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """In a process that may not have the memory."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bomb(BOMB))
    assert path.stat().st_size < 1 << 20
    code = f"""
import resource
from attri.runtime.images import load_image
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
load_image({str(path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    size = f"{BOMB} x {BOMB} pixels, the limit is {MAX_PIXELS} in all"
    wanted = f"ImageError: {path} is too large: {size}: make it smaller, or raise the limit"
    assert done.stderr.splitlines()[-1].endswith(wanted), done.stderr


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_a_limit_on_pixels(photo: Image.Image, kind: str) -> None:
    if kind == "AVIF" and not READS_AVIF:
        pytest.skip("this Pillow has no AVIF")
    data = encoded(photo, kind)
    assert load_image(data, max_pixels=60 * 45).size == (60, 45)
    with pytest.raises(ImageError, match="too large: 60 x 45 pixels, the limit is 2699 in all"):
        load_image(data, max_pixels=60 * 45 - 1)


def test_pillows_own_limit_is_neither_asked_nor_changed(monkeypatch: pytest.MonkeyPatch, photo: Image.Image) -> None:
    """Pillow's belongs to the program that uses it, and refuses photographs of 200 megapixels."""
    data, pixels = encoded(photo, "PNG"), np.asarray(photo)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert np.array_equal(np.asarray(load_image(data)), pixels)
    assert np.array_equal(np.asarray(crop_image(load_image(data), (1, 2, 51, 42))), pixels[2:42, 1:51])
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))


def test_a_photograph_of_200_megapixels(tmp_path: Path) -> None:
    """Gray, so that the test takes a quarter of the memory that such a photograph does."""
    path = tmp_path / "phone.jpg"
    Image.new("L", (16320, 12240), 77).save(path, quality=50)
    assert load_image(path).size == (16320, 12240)


def test_large_files_are_decoded_one_at_a_time(tmp_path: Path) -> None:
    """A second thread waits for the first to let its image go; small ones do not wait."""
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    large.write_bytes(png_bomb(6_000))
    Image.new("L", (9, 9)).save(small)
    with ThreadPoolExecutor(2) as pool:
        with loaded_image(large) as image:
            assert image.size == (6_000, 6_000)
            waiting = pool.submit(lambda: load_image(large).size)
            assert pool.submit(lambda: load_image(small).size).result(60) == (9, 9)
            assert not waiting.done()
        assert waiting.result(60) == (6_000, 6_000)


@pytest.mark.parametrize(("enough", "size"), [(75, (75, 100)), (76, (150, 200)), (300, (300, 400)), (301, (600, 800))])
def test_enough_pixels_of_a_jpeg_are_decoded(photo: Image.Image, enough: int, size: tuple[int, int]) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: what is left is turned too
    photo.resize((800, 600)).save(file, "JPEG", exif=exif)
    with loaded_image(file.getvalue(), enough=enough) as image:
        assert image.size == size
    whole = load_image(file.getvalue())
    assert whole.size == (600, 800)
    small = np.asarray(whole.resize(size, Image.Resampling.BOX), np.int16)
    assert np.abs(small - np.asarray(image)).mean() < 2  # of 255: another average of the same pixels, rounded twice


def test_the_filters_of_warnings_are_left_alone(photo: Image.Image) -> None:
    before = list(warnings.filters)
    load_image(encoded(photo, "PNG"))
    assert warnings.filters == before


@pytest.mark.parametrize(("shape", "mode"), [((4, 5, 3), "RGB"), ((4, 5, 4), "RGB"), ((4, 5), "L")])
def test_arrays(shape: tuple[int, ...], mode: str) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for view in (array, array[::-1, ::2], np.asfortranarray(array)):
        image = load_image(view)
        assert image.mode == mode
        assert np.array_equal(np.asarray(image), on_white(view) if shape[2:] == (4,) else view)


@pytest.mark.parametrize(
    "array",
    [
        *[np.zeros((4, 5, 3), dtype) for dtype in (np.float32, np.float64, np.int64, np.uint16, bool, object)],
        *[np.zeros(shape, np.uint8) for shape in ((3, 4, 5), (4, 5, 1), (4, 5, 2), (1, 4, 5, 3), (5,), ())],
    ],
    ids=str,
)
def test_other_arrays_are_refused_by_name(array: np.ndarray) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(array)
    wanted = f"the array is {array.dtype} {list(array.shape)}: give uint8 [H, W, 3] RGB, [H, W, 4] RGBA or [H, W] gray"
    assert str(caught.value) == wanted


@pytest.mark.parametrize(
    "source", [np.zeros((0, 5, 3), np.uint8), np.zeros((5, 0), np.uint8), Image.new("RGB", (0, 3))]
)
def test_nothing_to_see(source: Any) -> None:
    with pytest.raises(ImageError, match="has no pixels"):
        load_image(source)


@pytest.mark.parametrize("source", [None, 3, ["a.jpg"], io.BytesIO(b"x")])
def test_other_things_are_no_images(source: Any) -> None:
    with pytest.raises(ImageError, match=f"{type(source).__name__} is not an image: give a path"):
        load_image(source)


def test_list_images(tmp_path: Path) -> None:
    kept = ["a.JPG", "b/c.png", "b/d/e.webp", "z.TIFF"]
    left_out = ["notes.txt", ".hidden.jpg", ".git/x.png", "b/.thumbs/y.jpg", "jpg", "c.jpg.part"]
    for name in [*kept, *left_out]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert list_images(tmp_path) == [tmp_path / name for name in kept]
    assert list_images(tmp_path / "folder.jpg") == []
    assert list_images(tmp_path / ".git") == [tmp_path / ".git" / "x.png"]
    with pytest.raises(ImageError, match="does not exist"):
        list_images(tmp_path / "none")
    with pytest.raises(ImageError, match="is not a folder"):
        list_images(tmp_path / "a.JPG")


def test_each_suffix_that_is_listed_can_be_read(photo: Image.Image, tmp_path: Path) -> None:
    for suffix in IMAGE_SUFFIXES - HEIF - (set() if READS_AVIF else {".avif"}):
        path = tmp_path / f"photo{suffix}"
        photo.convert({".pgm": "L", ".pbm": "1"}.get(suffix, "RGB")).save(path)
        assert load_image(path).size == photo.size


HEIF = {".heic", ".heif", ".hif"}


def heic(image: Image.Image, **options: object) -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=-1, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", sorted(HEIF))
def test_heic(photo: Image.Image, tmp_path: Path, suffix: str) -> None:
    """Gray, because colours are stored at half of the size; Y'CbCr in 8 bits moves a value by two at most."""
    path, gray = tmp_path / f"photo{suffix}", photo.convert("L").convert("RGB")
    path.write_bytes(heic(gray))
    image = load_image(path)
    assert (image.mode, image.size) == ("RGB", photo.size)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(gray)).max() <= 2
    with pytest.raises(ImageError, match="too large: 60 x 45 pixels"):
        load_image(path, max_pixels=100)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ImageError, match="photo"):
        load_image(path)


def test_a_turned_heic_is_upright_and_its_alpha_on_white(photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    gray = photo.convert("L").convert("RGB")
    turned = load_image(heic(gray, exif=exif.tobytes()))
    upright = np.asarray(gray.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(np.asarray(turned) - upright).max() <= 2
    logo = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert np.asarray(load_image(heic(logo))).min() >= 253


def test_heic_without_its_extra_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert str(caught.value) == f"{path} is HEIC, and pillow-heif is not installed: pip install 'attri[heif]'"


@pytest.mark.skipif(not READS_AVIF, reason="this Pillow has no AVIF")
@pytest.mark.parametrize("orientation", TURNS)
def test_avif(photo: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.open(io.BytesIO(encoded(photo, "AVIF", quality=90))).convert("RGB")
    image = load_image(encoded(photo, "AVIF", quality=90, exif=exif))
    assert same(image, Image.fromarray(TURNS[orientation](np.asarray(upright))))


@pytest.mark.skipif(READS_AVIF, reason="this Pillow has AVIF")
def test_avif_without_a_pillow_that_reads_it() -> None:
    with pytest.raises(ImageError, match=r"is AVIF, which this Pillow does not read: pip install --upgrade"):
        load_image(b"\0\0\0\x20ftypavif\0\0\0\0avifmif1")
