"""Results of a trained prompt: accuracy, use of the pool, and the figures of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from attri.runtime.errors import ImageError
from attri.runtime.images import load_image
from attri.train.data.dataset import Dataset, LabelledImage
from attri.train.model.attriprompt import AttriPrompt
from attri.train.model.blocks import l2_normalize
from attri.train.report.cluster_sheet import draw_clusters, usage_by_class
from attri.train.report.comparison import compare_prompts, right
from attri.train.report.entries import attracted_classes
from attri.train.report.entry_sheet import ATTRIBUTES, draw_entries, entry_images, nearest_words
from attri.train.report.intervals import paired, wilson
from attri.train.report.plots import draw_confusion, draw_curves, draw_learning_curve, draw_usage
from attri.train.report.review import doubtful_labels, draw_sheet, least_sure, near_duplicates
from attri.train.training.features import FeatureCache, Features
from attri.train.training.predict import accuracy, predict, predict_plain, retrieve
from attri.train.training.trainer import Trainer

AS_THEY_ARE = "train, as they are"


def encode_what_is_scored(model: AttriPrompt, dataset: Dataset, store: FeatureCache) -> None:
    """Compute all features that `evaluate` needs, after which the image tower may go."""
    for name, images in (("val", dataset.val), ("test", dataset.test), (AS_THEY_ARE, dataset.train)):
        if images:
            store.get(name, model, images)


def compare_with_start(trainer: Trainer, dataset: Dataset, store: FeatureCache) -> dict[str, Any]:
    """Compare the prompt with the one that it started at, on the readable test images.

    Both are asked for all classes: the labels of a prompt that is in use can be changed without training.

    Returns:
        See `compare_prompts`.
    """
    start, known, model = trainer.anchors.start, trainer.anchors.known, trainer.model
    assert start is not None
    assert known is not None
    none = torch.zeros(0, dtype=torch.bool)
    before, after, targets = none, none, none.long()
    if dataset.test and len(data := store.get("test", model, dataset.test)):
        targets = data.targets
        before, after = (right(predict(each, trainer.labels, data), targets) for each in (start, model))
    return compare_prompts(before, after, targets, dataset.classes, len(known))


def evaluate(trainer: Trainer, dataset: Dataset, store: FeatureCache, review: bool = True) -> dict[str, Any]:
    """Return accuracy with and without prompts on the readable val and test images, and the use of the pool.

    Args:
        trainer: has trained the prompt.
        dataset: the images.
        store: their features; what is missing is computed.
        review: list images to look at too, for which training images are encoded once more, as they are.
    """
    model = trainer.model
    results: dict[str, Any] = {}
    scored: dict[str, _Scored] = {}
    for part, images in (("val", dataset.val), ("test", dataset.test)):
        if images and len(data := store.get(part, model, images)):
            logits = predict(model, trainer.labels, data)
            results[part] = _score(logits, predict_plain(model, trainer.labels, data), data) | {"skipped": data.skipped}
            scored[part] = _Scored(_paths(images, data), data, logits)
    if review:
        plain = store.get(AS_THEY_ARE, model, dataset.train)
        results["review"] = _review(_paths(dataset.train, plain), plain, scored, dataset.classes)
    results["train"] = {"images": len(trainer.data), "skipped": trainer.data.skipped}
    retrieved = retrieve(model, trainer.data.centres.flatten(0, 1))
    usage = model.pool.usage(retrieved)  # [L, N]
    results["pool_usage"] = [[round(share, 4) for share in block] for block in usage.tolist()]
    if usage.shape[1]:
        results["pool_entries"] = _entries(trainer, dataset.classes)
        if review:
            results |= _looks(trainer, plain, _paths(dataset.train, plain), dataset.classes)
    results["pool_alive"] = [round(float(share), 4) for share in (usage > 0).double().mean(1)]
    return results


def _entries(trainer: Trainer, classes: list[str]) -> list[list[list[dict[str, Any]]]]:
    """Return the classes that each entry attracts; a pool that all blocks share is one block, as in its usage."""
    by_class = entries_by_class(trainer, len(classes))  # [C, L, N]
    if trainer.model.config.shared:
        by_class = by_class.mean(1, keepdim=True)
    return attracted_classes(by_class, classes)


def _looks(trainer: Trainer, plain: Features, paths: list[str], classes: list[str]) -> dict[str, Any]:
    """Return the images that retrieve each entry, and the words near its key."""
    pool, backbone = trainer.model.pool, trainer.model.backbone
    keys = l2_normalize(pool.keys.detach()).cpu()
    centres = plain.centres[:, 0]
    found: dict[str, Any] = {"pool_images": entry_images(centres, keys, retrieve(trainer.model, centres), paths)}
    if keys.shape[1] > 1:
        words = list(dict.fromkeys([*classes, *ATTRIBUTES]))
        found["pool_words"] = nearest_words(keys, trainer.model.plain_text(backbone.reader.encode(words)).cpu(), words)
    return found


def entries_by_class(trainer: Trainer, classes: int) -> Tensor:
    """Return `usage_by_class` on the training images in all their views [C, L, N]."""
    centres, targets = trainer.data.centres, trainer.data.targets
    retrieved = retrieve(trainer.model, centres.flatten(0, 1))
    views = targets.repeat_interleave(centres.shape[1])
    return usage_by_class(retrieved, views, classes, trainer.model.pool.keys.shape[1])


class _Scored(NamedTuple):
    """Images of one part, their features, and the logits of the prompt [I, C]."""

    paths: list[str]
    data: Features
    logits: Tensor


def _paths(images: list[LabelledImage], data: Features) -> list[str]:
    return [str(images[row].path) for row in data.rows]


def _review(
    train_paths: list[str], train: Features, scored: dict[str, _Scored], classes: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return images to look at: of the training images `train` without augmentation, and of those that were scored."""
    found: dict[str, list[dict[str, Any]]] = {}
    if scored:
        last = list(scored.values())[-1]  # test images, if there are any
        found["least_sure"] = least_sure(last.logits, last.data.targets, classes, last.paths)
    features = [train.features[:, 0], *(part.data.features[:, 0] for part in scored.values())]
    found["doubtful_labels"] = doubtful_labels(features[0], train.targets, classes, train_paths)
    paths = [*train_paths, *(path for part in scored.values() for path in part.paths)]
    parts = ["train"] * len(train_paths) + [name for name, part in scored.items() for _ in part.paths]
    found["near_duplicates"] = near_duplicates(torch.cat(features), paths, parts)
    return found


def draw_figures(trainer: Trainer, results: dict[str, Any], example: LabelledImage | None, folder: Path) -> list[Path]:
    """Draw the figures of the report as PNG files in `folder`.

    Args:
        trainer: has trained the prompt.
        results: what `results.json` will hold.
        example: whose clusters are drawn; None where the image tower is not there any more.
        folder: of the run.
    """
    classes, pool = results["run"]["classes"], trainer.model.pool
    figures = [folder / "curves.png", *draw_review(results.get("review", {}), folder)]
    draw_curves(trainer.history, figures[0])
    if "learning_curve" in results:
        figures.append(folder / "learning_curve.png")
        draw_learning_curve(results["learning_curve"], figures[-1])
    if "test" in results:
        figures.append(folder / "confusion.png")
        draw_confusion(np.array(results["test"]["confusion"]), classes, figures[-1])
    if pool.keys.shape[1]:
        by_class = entries_by_class(trainer, len(classes))
        figures.append(folder / "usage.png")
        draw_usage(np.array(results["pool_usage"]), figures[-1])
        if "pool_images" in results:
            figures.append(folder / "entries.png")
            draw_entries(results["pool_usage"], results["pool_images"], figures[-1])
        if example is None:
            return figures
        try:
            image = load_image(example.path)
        except ImageError:
            return figures  # it is in the report's list of images that cannot be read
        figures.append(folder / "clusters.png")
        caption = f"{example.path.name}, {classes[example.target]}"
        draw_clusters(trainer.model, image, classes, by_class, figures[-1], caption=caption)
    return figures


def draw_review(review: dict[str, list[dict[str, Any]]], folder: Path) -> list[Path]:
    """Draw the images to look at as PNG files in `folder`, a file for each kind that has any."""
    captions: dict[str, list[tuple[Path, str]]] = {
        "least_sure": [
            (Path(row["image"]), f"is {row['label']}\n{row['predicted']} {row['score']:.0%}\nor {row['second']}")
            for row in review.get("least_sure", [])
        ],
        "doubtful_labels": [
            (Path(row["image"]), f"labelled {row['label']}\nlooks like {row['looks_like']}")
            for row in review.get("doubtful_labels", [])
        ],
        "near_duplicates": [
            (Path(file), f"{part}: {Path(file).parent.name}\n{Path(file).name}\n{number}: cosine {row['cosine']:.3f}")
            for number, row in enumerate(review.get("near_duplicates", []), start=1)
            for file, part in zip((row["image"], row["other"]), row["parts"], strict=True)
        ],
    }
    drawn = []
    for name, images in captions.items():
        if images:
            drawn.append(folder / f"{name}.png")
            draw_sheet(images, drawn[-1])
    return drawn


def _score(logits: Tensor, plain: Tensor, data: Features) -> dict[str, Any]:
    """Return the number of images, accuracy with and without prompts, and the confusion matrix (rows are the truth).

    Intervals hold with 95% certainty: Wilson's for the accuracy, and for the gain over zero-shot that of a paired
    difference.
    """
    classes = logits.shape[1]
    right, before = (each.argmax(1).cpu() == data.targets for each in (logits, plain))
    pairs = data.targets * classes + logits.argmax(1).cpu()
    return {
        "images": len(data),
        "zero_shot": accuracy(plain, data.targets),
        "prompted": accuracy(logits, data.targets),
        "interval": [round(edge, 4) for edge in wilson(int(right.sum()), len(data))],
        "gain_interval": [
            round(edge, 4) for edge in paired(int((right & ~before).sum()), int((before & ~right).sum()), len(data))
        ],
        "confusion": torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).tolist(),
    }
