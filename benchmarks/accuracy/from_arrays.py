"""Datasets that come as arrays, written to image files once: Fashion-MNIST, and the emoji of `tools.pocket.collect`."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from attri.train.data.class_folders import list_classes, list_labelled_images
from attri.train.data.dataset import Dataset

UNSEEN = ("twemoji", "openmoji")  # styles that the pocket backbone never saw
LEAST = 6  # images of a class in each of them
FASHION = {"train": ("train", 64), "test": ("t10k", 200)}  # images of each class
GARMENTS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def fashion(data: Path, folder: Path) -> Path:
    """Class folders of PNG files from the IDX files in `data`."""
    if not folder.exists():
        with_name = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(with_name, ignore_errors=True)
        _write_fashion(data, with_name)
        with_name.rename(folder)
    return folder


def _write_fashion(data: Path, folder: Path) -> None:
    """Class folders of PNG files, from the first images of every class; inverted, as the backbone's stand on white."""
    for split, (prefix, count) in FASHION.items():
        images = 255 - _read_idx(data / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = _read_idx(data / f"{prefix}-labels-idx1-ubyte.gz", 8)
        for number, name in enumerate(GARMENTS):
            target = folder / split / name
            target.mkdir(parents=True, exist_ok=True)
            for place in np.flatnonzero(labels == number)[:count]:
                Image.fromarray(images[place]).convert("RGB").save(target / f"{place:05}.png")


def _read_idx(file: Path, header: int) -> np.ndarray:
    """Read the bytes of a gzipped IDX file behind its header."""
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header)


def emoji(cache: Path, folder: Path) -> dict[str, Dataset]:
    """A dataset per style that the backbone never saw; a class is one of Unicode's sub-categories.

    Every other emoji of a class is for testing, the same ones in every style.
    """
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        _write_emoji(cache, part)
        part.rename(folder)
    names = list_classes(folder / UNSEEN[0] / "train")
    numbers = {name: place for place, name in enumerate(names)}
    words = [name.replace("_", " ") for name in names]
    found = {}
    for style in UNSEEN:
        train, test = (list_labelled_images(folder / style / part, numbers) for part in ("train", "test"))
        found[style] = Dataset(folder / style, style, words, train, [], test)
    return found


def _write_emoji(cache: Path, folder: Path) -> None:
    """PNG files on white, `STYLE/PART/CLASS/EMOJI.png`, of the classes with enough images in both; no skin tones."""
    arrays = np.load(cache)
    styles, table, pixels = arrays["styles"].tolist(), json.loads(str(arrays["emoji"])), arrays["pixels"]
    drawn: dict[str, dict[str, dict[int, int]]] = {}  # class, style, emoji: row of its pixels
    for row, (style, index, variant) in enumerate(arrays["rows"].tolist()):
        if styles[style] in UNSEEN and not variant and index < len(table):
            kind = table[index]["kinds"][0].replace(" ", "_")
            drawn.setdefault(kind, {}).setdefault(styles[style], {})[index] = row
    for kind, of in drawn.items():
        if any(len(of.get(style, ())) < LEAST for style in UNSEEN):
            continue
        place = {index: number for number, index in enumerate(sorted(set().union(*of.values())))}
        for style in UNSEEN:
            for index, row in of[style].items():
                target = folder / style / ("test" if place[index] % 2 else "train") / kind
                target.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(pixels[row])
                white = Image.new("RGBA", image.size, "white")
                Image.alpha_composite(white, image).convert("RGB").save(target / f"{index:04}.png")
