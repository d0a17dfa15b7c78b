"""Datasets that come as arrays, written to image files once: Fashion-MNIST, and the emoji of `tools.pocket.collect`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from attri.train.data.class_folders import list_classes, list_labelled_images
from attri.train.data.dataset import Dataset, hold_out
from benchmarks.fashion import unpack

UNSEEN = ("twemoji", "openmoji")  # styles that the pocket backbone never saw
SEEN = ("noto", "fluent-3d", "emojione")  # coloured ones that it did see
FASHION = {"train": ("train", 64), "test": ("t10k", 200)}  # images of each class


def fashion(data: Path, folder: Path) -> Path:
    """Class folders of PNG files from the IDX files in `data`."""
    if not folder.exists():
        with_name = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(with_name, ignore_errors=True)
        unpack(data, with_name, FASHION)
        with_name.rename(folder)
    return folder


def emoji(cache: Path, folder: Path) -> dict[str, Dataset]:
    """One dataset per style, and "seen", which is to be trained on; a class is one of Unicode's sub-categories.

    A quarter of the seen styles' images is held out for testing.
    """
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        _write_emoji(cache, part)
        part.rename(folder)
    names = list_classes(folder / "seen")
    numbers = {name: place for place, name in enumerate(names)}
    found = {}
    for style in ("seen", *UNSEEN):
        images = list_labelled_images(folder / style, numbers)
        words = [name.replace("_", " ") for name in names]
        dataset = Dataset(folder / style, f"emoji-{style}", words, [], [], images)
        if style == "seen":
            dataset = hold_out(Dataset(folder / style, "emoji-seen", words, images, [], []), 0.25, seed=1)
        found[style] = dataset
    return found


def _write_emoji(cache: Path, folder: Path) -> None:
    """PNG files on white, `STYLE/CLASS/EMOJI-STYLE.png`, of the classes that every style has; no skin tones."""
    arrays = np.load(cache)
    styles, table = arrays["styles"].tolist(), json.loads(str(arrays["emoji"]))
    rows, pixels = arrays["rows"], arrays["pixels"]
    groups: dict[str, set[str]] = {style: set() for style in ("seen", *UNSEEN)}
    chosen = []
    for row, (style, index, variant) in enumerate(rows.tolist()):
        name = styles[style]
        if variant or index >= len(table) or name not in (*SEEN, *UNSEEN):
            continue
        group = name if name in UNSEEN else "seen"
        kind = table[index]["kinds"][0].replace(" ", "_")
        groups[group].add(kind)
        chosen.append((row, group, kind, f"{index:04}-{name}.png"))
    common = set.intersection(*groups.values())
    for row, group, kind, file in chosen:
        if kind in common:
            target = folder / group / kind
            target.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels[row])
            white = Image.new("RGBA", image.size, "white")
            Image.alpha_composite(white, image).convert("RGB").save(target / file)
