"""Results of a trained prompt: accuracy, use of the pool, and the figures of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from attri.runtime.errors import ImageError
from attri.runtime.images import load_image
from attri.runtime.text.label_tokens import LabelTokens
from attri.train.data.dataset import Dataset, LabelledImage
from attri.train.model.attriprompt import AttriPrompt
from attri.train.report.cluster_sheet import draw_clusters, usage_by_class
from attri.train.report.plots import draw_confusion, draw_curves, draw_usage
from attri.train.training.features import FeatureCache, Features
from attri.train.training.predict import accuracy, predict, predict_plain, retrieve
from attri.train.training.trainer import Trainer


def evaluate(trainer: Trainer, dataset: Dataset, store: FeatureCache) -> dict[str, Any]:
    """Return accuracy with and without prompts on the readable val and test images, and the use of the pool."""
    model = trainer.model
    results: dict[str, Any] = {}
    for part, images in (("val", dataset.val), ("test", dataset.test)):
        if images and len(data := store.get(part, model, images)):
            results[part] = _score(model, trainer.labels, data) | {"skipped": data.skipped}
    results["train"] = {"images": len(trainer.data), "skipped": trainer.data.skipped}
    retrieved = retrieve(model, trainer.data.centres.flatten(0, 1))
    usage = model.pool.usage(retrieved)  # [L, N]
    results["pool_usage"] = [[round(share, 4) for share in block] for block in usage.tolist()]
    results["pool_alive"] = [round(float(share), 4) for share in (usage > 0).double().mean(1)]
    return results


def draw_figures(trainer: Trainer, results: dict[str, Any], example: LabelledImage, folder: Path) -> list[Path]:
    """Draw the figures of the report as PNG files in `folder`."""
    classes, pool = results["run"]["classes"], trainer.model.pool
    figures = [folder / "curves.png"]
    draw_curves(trainer.history, figures[0])
    if "test" in results:
        figures.append(folder / "confusion.png")
        draw_confusion(np.array(results["test"]["confusion"]), classes, figures[-1])
    if pool.keys.shape[1]:
        centres, targets = trainer.data.centres, trainer.data.targets
        retrieved = retrieve(trainer.model, centres.flatten(0, 1))
        views = targets.repeat_interleave(centres.shape[1])
        by_class = usage_by_class(retrieved, views, len(classes), pool.keys.shape[1])
        figures += [folder / "usage.png", folder / "clusters.png"]
        draw_usage(np.array(results["pool_usage"]), figures[-2])
        try:
            image = load_image(example.path)
        except ImageError:
            return figures[:-1]  # it is in the report's list of images that cannot be read
        caption = f"{example.path.name}, {classes[example.target]}"
        draw_clusters(trainer.model, image, classes, by_class, figures[-1], caption=caption)
    return figures


def _score(model: AttriPrompt, labels: LabelTokens, data: Features) -> dict[str, Any]:
    """Return the number of images, accuracy with and without prompts, and the confusion matrix (rows are the truth)."""
    logits = predict(model, labels, data)
    classes = logits.shape[1]
    pairs = data.targets * classes + logits.argmax(1).cpu()
    return {
        "images": len(data),
        "zero_shot": accuracy(predict_plain(model, labels, data), data.targets),
        "prompted": accuracy(logits, data.targets),
        "confusion": torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).tolist(),
    }
