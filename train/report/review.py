"""Images that a person should look at: the least sure predictions, doubtful labels, and near-duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attri.train.report.plots import short
from attri.train.report.sheet import Sheet

MOST = 12  # images of a kind: what a person looks at in a minute
DUPLICATE = 0.98  # cosine of image features; above it are copies and frames of one film (our choice)
AT_ONCE = 1024  # rows of the product that compares all images with all
COLUMNS = 6  # of a sheet
SIDE, GAP, CAPTION = 1.45, 0.15, 0.5  # inches: of an image, beside it, and of three lines above it

Row = dict[str, Any]


def least_sure(logits: Tensor, targets: Tensor, classes: list[str], paths: list[str]) -> list[Row]:
    """The images whose two best classes are nearest to each other, most unsure first.

    Args:
        logits: of the images [I, C].
        targets: their classes [I].
        classes: names.
        paths: of the images.
    """
    if logits.shape[1] < 2:
        return []
    probabilities = logits.float().softmax(1).cpu()
    best, order = probabilities.topk(2)
    found = (best[:, 0] - best[:, 1]).argsort(stable=True)[:MOST].tolist()
    return [
        {
            "image": paths[i],
            "label": classes[targets[i]],
            "predicted": classes[order[i, 0]],
            "score": round(float(best[i, 0]), 4),
            "second": classes[order[i, 1]],
        }
        for i in found
    ]


def doubtful_labels(features: Tensor, targets: Tensor, classes: list[str], paths: list[str]) -> list[Row]:
    """Images that look more like another class than like the rest of their own, most doubtful first.

    A class looks like the mean of its images' features, without the image in question. Labels play no part but through
    these means, so that what was learned from a wrong label does not hide it.

    Args:
        features: unit rows of training images [I, D].
        targets: their classes [I].
        classes: names.
        paths: of the images.
    """
    features = features.float().cpu()
    counts = torch.bincount(targets, minlength=len(classes))
    sums = torch.zeros(len(classes), features.shape[1]).index_add(0, targets, features)
    cosines = features @ torch.nn.functional.normalize(sums, dim=1).T  # [I, C]
    rest = torch.nn.functional.normalize(sums[targets] - features, dim=1)
    own = (features * rest).sum(1)
    cosines[torch.arange(len(targets)), targets] = -2.0  # below every cosine
    other, place = cosines.max(1)
    lead = torch.where(counts[targets] > 1, other - own, torch.tensor(-torch.inf))  # of one image nothing is left
    found = [i for i in lead.argsort(descending=True, stable=True)[:MOST].tolist() if lead[i] > 0]
    return [
        {
            "image": paths[i],
            "label": classes[targets[i]],
            "looks_like": classes[place[i]],
            "lead": round(float(lead[i]), 4),
        }
        for i in found
    ]


def near_duplicates(features: Tensor, paths: list[str], parts: list[str]) -> list[Row]:
    """Pairs of images whose features are all but the same, nearest first.

    Args:
        features: unit rows [I, D], of all parts.
        paths: of the images.
        parts: of the data that they belong to: "train", "val" or "test".
    """
    features = features.float().cpu()
    pairs: list[tuple[float, int, int]] = []
    for start in range(0, len(features), AT_ONCE):
        cosines = features[start : start + AT_ONCE] @ features.T
        earlier = torch.arange(len(features)) <= torch.arange(start, start + len(cosines))[:, None]
        cosines[earlier] = -2.0  # below every cosine, so that each pair is seen once
        values, places = cosines.flatten().topk(min(MOST, cosines.numel()))
        rows, columns = (places // len(features) + start).tolist(), (places % len(features)).tolist()
        pairs = sorted([*pairs, *zip(values.tolist(), rows, columns, strict=True)], reverse=True)[:MOST]
    pairs = [pair for pair in pairs if pair[0] > DUPLICATE]
    return [
        {"image": paths[i], "other": paths[j], "parts": [parts[i], parts[j]], "cosine": round(value, 4)}
        for value, i, j in pairs
    ]


def draw_sheet(images: list[tuple[Path, str]], path: Path) -> None:
    """Draw images with a caption of a few lines each; one that cannot be read any more keeps its caption alone."""
    rows = -(-len(images) // COLUMNS)
    sheet = Sheet(COLUMNS * (SIDE + GAP), rows * (SIDE + CAPTION))
    for place, (file, caption) in enumerate(images):
        row, column = divmod(place, COLUMNS)
        left, top = column * (SIDE + GAP) + GAP / 2, row * (SIDE + CAPTION) + CAPTION
        sheet.text(left, top - 0.03, "\n".join(short(line) for line in caption.split("\n")), 7)
        sheet.image(file, left, top, SIDE)
    sheet.save(path)
