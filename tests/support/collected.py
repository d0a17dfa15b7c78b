"""Folders of collected images, as attri-run --collect makes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support.results import LABELS, NOW

from attri.runtime.collection.folder import Collection, encode
from attri.runtime.collection.item import Item


def make_item(name: str, jpeg: bytes = b"jpeg", **others: Any) -> Item:
    feature = np.random.default_rng(len(name)).normal(size=8)
    values: dict[str, Any] = {
        "source": "camera0",
        "origin": "camera0",
        "frame": 1,
        "time": NOW,
        "collected": NOW,
        "reasons": ("unsure",),
        "label": LABELS[0],
        "score": 0.5,
        "top": ((LABELS[0], 0.5), (LABELS[1], 0.375), (LABELS[2], 0.125)),
        "margin": 0.125,
        "size": (64, 48),
        "sha256": hashlib.sha256(jpeg).hexdigest(),
        "base": "cd" * 32,
        "prompt": "ab" * 32,
        "feature": (feature / np.linalg.norm(feature)).astype(np.float16),
    }
    return Item(name=name, **values | others)


def collect(folder: Path, count: int, images: Sequence[Path] = (), **others: Any) -> list[str]:
    """Put images into a folder, one a second; real ones where they are given. Returns their names, oldest first."""
    files = Collection(folder)
    folder.mkdir(exist_ok=True)
    names = []
    for number in range(count):
        pixels = np.full((48, 64, 3), 20 * number % 256, np.uint8)
        if images:
            pixels = np.asarray(Image.open(images[number % len(images)]).convert("RGB"))
        jpeg = encode(pixels)
        with files.locked():
            name = files.free_name(NOW + number, f"camera0_{number}")
            size = (pixels.shape[1], pixels.shape[0])
            values: dict[str, Any] = {"frame": number, "collected": NOW + number, "size": size}
            files.add(make_item(name, jpeg, **values | others), jpeg)
        names.append(name)
    return names
