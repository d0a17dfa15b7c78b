"""Preprocessing against open_clip's own transform: not one byte may differ."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageOps

from attri.runtime import preprocess
from attri.runtime.errors import ImageError
from attri.runtime.images import load_image
from attri.runtime.preprocess import INTERPOLATIONS, RESIZES, Interpolation, Preprocess, Resize

Colour = tuple[float, float, float]
HALF: Colour = (0.5, 0.5, 0.5)  # SigLIP's and PE-Core's mean and deviation; MobileCLIP has 0 and 1
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MODES = ["1", "L", "LA", "P", "P+alpha", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
SIZES = [
    *[(1, 1), (1, 9), (9, 1), (2, 3), (7, 7), (31, 33), (32, 32), (33, 32), (32, 33), (32, 100), (100, 32), (31, 500)],
    *[(500, 31), (64, 64), (65, 64), (80, 201), (201, 80), (3, 400), (400, 3), (160, 90), (90, 160), (133, 100)],
]


def reference(size: int, **options: Any) -> Any:
    from open_clip.transform import image_transform

    return image_transform(size, is_train=False, **options)


def plain(image: Image.Image) -> Image.Image:
    """What `load_image` promises of 8-bit images, in the plainest way: transparency on white, no palette, no bits."""
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA")).astype(float)
        colour, alpha = rgba[..., :3], rgba[..., 3:] / 255
        return Image.fromarray(np.rint(colour * alpha + 255 * (1 - alpha)).astype(np.uint8))
    return image.convert({"1": "L", "P": "RGB"}.get(image.mode, image.mode))


def reference_pixels(image: Image.Image, size: int, **options: Any) -> np.ndarray:
    for step in reference(size, **options).transforms[:-2]:  # resize, crop, RGB; then the tensor and the normalisation
        image = step(image)
    return np.asarray(image)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    from matplotlib.cbook import get_sample_data

    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as file:
        return file.convert("RGB")


def make_image(photo: Image.Image, mode: str, size: tuple[int, int]) -> Image.Image:
    """The photograph in another mode and size; its alpha, where there is one, is its own brightness."""
    image = photo.resize(size)
    if mode in ("LA", "RGBA", "RGBa"):
        image = image.convert("LA" if mode == "LA" else "RGBA")
        image.putalpha(photo.convert("L").resize(size))
        return image.convert(mode)
    if mode == "P+alpha":
        image = image.quantize(16)
        image.info["transparency"] = bytes(range(0, 256, 16))
        return image
    if mode == "PA":
        return image.quantize(16).convert("PA")
    if mode == "LAB":  # Pillow reads LAB files, but does not convert to LAB
        return Image.merge("LAB", image.split())
    return image.convert(mode)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # from the reference; ours must not
def test_same_pixels_in_every_mode_and_size(
    photo: Image.Image, mode: str, resize: Resize, interpolation: Interpolation
) -> None:
    ours = Preprocess(32, MEAN, STD, resize, interpolation)
    for size in SIZES:
        image = make_image(photo, mode, size)
        expected = reference_pixels(plain(image), 32, resize_mode=resize, interpolation=interpolation)
        assert np.array_equal(ours.pixels(image), expected), size


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_changes_no_byte_of_open_clips(photo: Image.Image, mode: str) -> None:
    for size in SIZES:
        image = photo.resize(size).convert(mode)
        assert np.array_equal(Preprocess(32, MEAN, STD).pixels(image), reference_pixels(image, 32)), size


@pytest.mark.parametrize("hidden", ["black", "white", "red"])
@pytest.mark.parametrize("size", [31, 32, 33, 64, 320])
def test_a_logo_looks_the_same_at_every_size(size: int, hidden: str) -> None:
    """Black on transparent; open_clip alone gives all of it in black, unless it has the model's size already."""
    image = Image.new("RGBA", (size, size), (*ImageColor.getrgb(hidden), 0))
    image.paste((0, 0, 0, 255), (size // 4, size // 4, size - size // 4, size - size // 4))
    pixels = Preprocess(32, MEAN, STD).pixels(image)
    # Next to the edge, bicubic overshoots and the square's side is rounded: the corners and the middle are exact.
    assert (pixels[:4] == 255).all()
    assert (pixels[14:18, 14:18] == 0).all()


@pytest.mark.parametrize("mode", ["1", "P"])
def test_a_line_of_a_drawing_is_not_lost_between_two_pixels(mode: str) -> None:
    """Pillow resizes these modes by nearest neighbour: at a tenth of its size this drawing would be white."""
    image = Image.new("L", (320, 320), "white")
    image.paste("black", (0, 102, 320, 103))
    rows = Preprocess(32, MEAN, STD).pixels(image.convert(mode))[:, 16, 0]
    assert np.array_equal(rows, Preprocess(32, MEAN, STD).pixels(image)[:, 16, 0])
    assert rows.min() < 240


def test_a_palette_with_alpha_warns_of_nothing(photo: Image.Image) -> None:
    assert Preprocess(32, MEAN, STD)(make_image(photo, "P+alpha", (40, 50))).shape == (3, 32, 32)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize(("size", "mean", "std"), [(17, MEAN, STD), (224, (0.0,) * 3, (1.0,) * 3), (512, HALF, HALF)])
def test_same_tensor_on_random_shapes(
    photo: Image.Image, size: int, mean: Colour, std: Colour, resize: Resize, interpolation: Interpolation
) -> None:
    """Bit for bit, so there is no tolerance: both sides round three times in float32, in the same order."""
    rng = random.Random(size)
    ours = Preprocess(size, mean, std, resize, interpolation)
    transform = reference(size, mean=mean, std=std, resize_mode=resize, interpolation=interpolation)
    for _ in range(25):
        width, height = (int(2 ** rng.uniform(3, 9.5)) for _ in range(2))
        if max(width, height) > 8 * min(width, height):
            continue
        image = make_image(photo, rng.choice(["RGB", "L", "RGBA", "CMYK"]), (width, height))
        assert np.array_equal(ours(image), transform(plain(image)).numpy()), (width, height)


@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (640, 480), (2400, 1600), (700, 1800)])
def test_same_tensor_on_the_formats_of_cameras(photo: Image.Image, size: tuple[int, int]) -> None:
    image = photo.resize(size)
    assert np.array_equal(Preprocess(224, MEAN, STD)(image), reference(224)(image).numpy())


def test_resizing_only_the_crop_would_not_be_the_same(photo: Image.Image) -> None:
    """Why `Preprocess` resizes the whole image. Where this fails, Pillow's box has become exact and can be used."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (1080, 1920, 3), np.uint8))
    box = (87 * 1920 / 398, 0, 311 * 1920 / 398, 1080)
    crop = image.resize((224, 224), Image.Resampling.BICUBIC, box=box)
    assert 0 < (np.asarray(crop) != reference_pixels(image, 224)).sum() < 100


def test_same_tensor_with_other_statistics(photo: Image.Image) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.5, 0.25, 0.1)
    expected = reference(48, mean=mean, std=std)(photo).numpy()
    assert np.array_equal(Preprocess(48, mean, std)(photo), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_turned_jpeg_equals_the_upright_image(
    photo: Image.Image, tmp_path: Path, mode: str, orientation: int
) -> None:
    path, exif = tmp_path / "image", Image.Exif()
    exif[0x0112] = orientation
    photo.resize((90, 70)).convert(mode).save(path, "JPEG", exif=exif)
    with Image.open(path) as opened:
        expected = reference(32)(ImageOps.exif_transpose(opened)).numpy()
    assert np.array_equal(Preprocess(32, MEAN, STD)(path), expected)
    assert np.array_equal(Preprocess(32, MEAN, STD)(path.read_bytes()), expected)


def test_an_animated_gif_equals_its_first_frame(photo: Image.Image, tmp_path: Path) -> None:
    path, image = tmp_path / "image.gif", photo.resize((90, 70))
    image.save(path, save_all=True, append_images=[image.rotate(90), image.rotate(180)])
    with Image.open(path) as opened:
        expected = reference(32)(plain(opened)).numpy()
    assert np.array_equal(Preprocess(32, MEAN, STD)(path), expected)


def test_16_bit_gray_equals_the_image_in_8_bits(photo: Image.Image, tmp_path: Path) -> None:
    """Not open_clip on the file itself, which clips nearly all of it to white."""
    path, gray = tmp_path / "image.png", photo.convert("L")
    Image.fromarray(np.asarray(gray).astype(np.uint16) * 257).save(path)
    assert np.array_equal(Preprocess(32, MEAN, STD)(path), reference(32)(gray).numpy())


def test_an_array_equals_the_image(photo: Image.Image) -> None:
    prepare = Preprocess(32, MEAN, STD)
    assert np.array_equal(prepare(np.asarray(photo)), prepare(photo))
    assert np.array_equal(prepare(np.asarray(photo)[..., ::-1]), prepare(Image.merge("RGB", photo.split()[::-1])))
    assert np.array_equal(prepare(np.asarray(photo.convert("L"))), prepare(photo.convert("L")))


def test_shape_dtype_and_layout(photo: Image.Image) -> None:
    prepare = Preprocess(40, MEAN, STD)
    tensor, pixels = prepare(photo), prepare.pixels(photo)
    assert (tensor.shape, tensor.dtype, tensor.flags.c_contiguous) == ((3, 40, 40), np.float32, True)
    assert (pixels.shape, pixels.dtype, pixels.flags.writeable) == ((40, 40, 3), np.uint8, True)
    black, white = (prepare(Image.new("RGB", (50, 50), colour)) for colour in ("black", "white"))
    # 1e-6: float32 keeps 24 bits, and both ends are below 3 in size.
    assert np.allclose(black[:, 0, 0], -np.array(MEAN) / STD, rtol=0, atol=1e-6)
    assert np.allclose(white[:, 0, 0], (1 - np.array(MEAN)) / STD, rtol=0, atol=1e-6)


def test_the_image_given_is_not_changed(photo: Image.Image) -> None:
    image = make_image(photo, "P+alpha", (32, 32))
    before, info = image.tobytes(), dict(image.info)
    Preprocess(32, MEAN, STD)(image)
    assert (image.tobytes(), image.info, image.size) == (before, info, (32, 32))


@pytest.mark.parametrize("size", [(3, 400), (400, 3), (7, 300), (300, 7), (40, 50), (1, 77)])
def test_a_strip_that_is_cut_first_is_nearly_the_same(
    monkeypatch: pytest.MonkeyPatch, photo: Image.Image, size: tuple[int, int]
) -> None:
    """Two steps of 255 and one byte in a hundred: the box is rounded to float32, the two passes may change places."""
    expected = reference_pixels(photo.resize(size), 64).astype(int)
    monkeypatch.setattr(preprocess, "MAX_RESIZED_PIXELS", 0)
    difference = np.abs(Preprocess(64, MEAN, STD).pixels(photo.resize(size)) - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() <= 0.01


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(1, 300_000), (300_000, 1), (5, 400_000)])
def test_a_strip_of_any_length_is_taken(photo: Image.Image, size: tuple[int, int], resize: Resize) -> None:
    """Resized as a whole the first would take 60 GB. Its rows are one brightness each, so the middle is known."""
    colour = Image.new("RGB", size, (10, 20, 30))
    assert (Preprocess(224, MEAN, STD, resize).pixels(colour) == (10, 20, 30)).all()


def test_a_mode_without_a_way_to_rgb_is_refused(photo: Image.Image) -> None:
    image = make_image(photo, "LA", (40, 40)).convert("La")
    with pytest.raises(ImageError, match="an image of mode La cannot be turned into RGB: save it as RGB"):
        Preprocess(32, MEAN, STD)(image)


def test_an_image_that_cannot_be_loaded_is_the_loaders_error() -> None:
    with pytest.raises(ImageError, match="is not an image of a kind that attri reads"):
        Preprocess(32, MEAN, STD)(b"no image")


def test_loading_first_changes_nothing(photo: Image.Image) -> None:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    prepare = Preprocess(32, MEAN, STD)
    assert np.array_equal(prepare(load_image(buffer.getvalue())), prepare(buffer.getvalue()))
