"""What pool entries stand for, to look at: training images that retrieve each, and words that lie near its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attri.train.model.blocks import l2_normalize
from attri.train.report.plots import short
from attri.train.report.sheet import Sheet

IMAGES, WORDS = 9, 3  # of an entry
DRAWN = 16  # entries on a sheet, the busiest
SIDE, GAP, ABOVE, LEFT = 0.75, 0.05, 0.12, 1.3  # inches: of an image, beside it, above it, and of what names a row
SHORTEST = 20  # letters of a class over an image
# Beside the classes, words of what patches have in common: our choice, most of them known to every CLIP.
_WORDS = """
red orange yellow green blue purple pink brown black white gray golden silver colourful dark bright transparent
round square long thin flat curved pointed spiral straight small large striped dotted checkered plain smooth rough
furry feathered scaly shiny matte wet wooden metal glass plastic paper leather fabric stone
sky cloud water grass sand snow wall floor road leaf petal branch root fruit seed
skin hair eye ear nose mouth face hand foot tail wing leg wheel handle window door roof screen button label text number
lid edge corner outline shadow light background empty blurred
"""
ATTRIBUTES = tuple(_WORDS.split())

Row = dict[str, Any]


def entry_images(centres: Tensor, keys: Tensor, retrieved: Tensor, paths: list[str]) -> list[list[list[Row]]]:
    """List the images that retrieve each entry, those with the nearest centre first.

    Args:
        centres: of images, unit [I, L, K, D].
        keys: unit [L, N, D]; of a pool that all blocks share [1, N, D].
        retrieved: entries [I, L, M].
        paths: of the images.

    Returns:
        For each pool and entry up to nine rows of "image" and "cosine".
    """
    size = keys.shape[1]
    nearest = (centres @ keys.transpose(-1, -2)).amax(2)  # [I, L, N]
    chosen = torch.nn.functional.one_hot(retrieved, size).any(2)  # [I, L, N]
    nearest = nearest.masked_fill(~chosen, -2.0)  # below every cosine
    if keys.shape[0] == 1:
        nearest = nearest.amax(1, keepdim=True)
    values, order = nearest.topk(min(IMAGES, len(paths)), 0)  # [9, L or 1, N]
    return [
        [
            [
                {"image": paths[int(order[rank, pool, entry])], "cosine": round(float(values[rank, pool, entry]), 4)}
                for rank in range(len(order))
                if values[rank, pool, entry] > -2
            ]
            for entry in range(size)
        ]
        for pool in range(keys.shape[0])
    ]


def nearest_words(keys: Tensor, features: Tensor, words: list[str]) -> list[list[list[str]]]:
    """List the words whose text features lie nearest to each key, compared with other words and other keys.

    Images and texts lie apart in the joint space, and all keys, and all words, have a direction in common. So means are
    taken away on both sides: what is left of a key is what sets it apart from the other entries of its pool.

    Args:
        keys: unit [L, N, D], two entries or more.
        features: unit text features without prompts [V, D].
        words: V of them.

    Returns:
        For each pool and entry three words, the nearest first.
    """
    apart = l2_normalize(keys - keys.mean(1, keepdim=True))
    places = (apart @ l2_normalize(features - features.mean(0)).T).topk(min(WORDS, len(words)), -1).indices
    return [[[words[place] for place in entry] for entry in pool] for pool in places.tolist()]


def draw_entries(usage: list[list[float]], images: list[list[list[Row]]], path: Path) -> None:
    """Draw the busiest entries, a row of training images for each; an image that cannot be read is left out."""
    busiest = sorted(
        ((share, pool, entry) for pool, shares in enumerate(usage) for entry, share in enumerate(shares) if share),
        reverse=True,
    )[:DRAWN]
    sheet = Sheet(LEFT + IMAGES * (SIDE + GAP), len(busiest) * (SIDE + ABOVE))
    for row, (share, pool, entry) in enumerate(busiest):
        top = row * (SIDE + ABOVE) + ABOVE
        block = f"block {pool + 1}, " if len(usage) > 1 else ""
        sheet.text(GAP, top + 0.6 * SIDE, f"{block}entry {entry}\n{share:.1%}", 8)
        for column, one in enumerate(images[pool][entry]):
            file, left = Path(one["image"]), LEFT + column * (SIDE + GAP)
            if sheet.image(file, left, top, SIDE):
                sheet.text(left, top, short(file.parent.name, SHORTEST), 5)
    sheet.save(path)
