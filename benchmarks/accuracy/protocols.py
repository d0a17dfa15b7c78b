"""What is trained on which images and scored on which others.

base-to-novel   train on the base classes, score base and novel test images, each among their own classes; and novel
                images among the base classes, which know none of them: a score should be low there (rejection.py)
few-shot        train on all classes with 1, 2, 4, 8 or 16 images of each, score the test images; with 16 shots also
                other datasets with their own classes (cross-dataset) and other drawing styles (domain generalization)
pseudo-novel    train on two thirds of the base classes, score other training images of these and of the rest: what
                is chosen here has seen neither a novel class nor a test image
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attri.train.data.dataset import Dataset, LabelledImage, few_shot, hold_out
from benchmarks.accuracy.datasets import Source

SHOTS = 16
UNKNOWN = -1  # target of an image whose class is none of those that it is scored among
FEW_SHOTS = (1, 2, 4, 8, 16)
PROTOCOLS = ("base-to-novel", "few-shot", "pseudo-novel")
TARGETS = {  # scored by what was trained on another dataset with 16 shots
    "caltech101": ("grocery-produce", "clothing", "trashnet", "fashion-mnist"),
    "grocery-produce": ("caltech101", "clothing", "trashnet", "fashion-mnist"),
    "twemoji": ("openmoji",),
    "openmoji": ("twemoji",),
}
MOST = 1000  # images of another dataset, evenly over it
PER_CLASS = 32  # images of a class that pseudo-novel scores
HELD = 1 / 3  # of the training images of the learned classes, for scoring in pseudo-novel


def split(
    protocol: str, source: Source, shots: int, seed: int, others: dict[str, Callable[[], Source]]
) -> tuple[Dataset, dict[str, Dataset]]:
    """The few-shot dataset to train on, and the datasets whose test images are scored, by part."""
    drawn = replace(
        source, dataset=few_shot(source.dataset, shots, seed)
    )  # drawn before classes are chosen, as CoOp does
    if protocol == "base-to-novel":
        base, novel = drawn.halves()
        unknown = replace(base, test=[replace(image, target=UNKNOWN) for image in novel.test])
        return base, {"base": base, "novel": novel, "unknown": unknown}
    if protocol == "few-shot":
        targets = TARGETS.get(source.dataset.name, ()) if shots == SHOTS else ()
        scored = {name: _thinned(others[name]().dataset) for name in targets if name in others}
        return drawn.dataset, {"test": drawn.dataset} | scored
    learned, held = source.pseudo_halves()
    seen = few_shot(hold_out(learned, HELD, seed=0), shots, seed)  # every seed is scored on the same images
    return seen, {
        "seen": replace(seen, test=_of_each_class(seen.test)),
        "pseudo": replace(held, test=_of_each_class(held.train + held.val)),
    }


def _thinned(dataset: Dataset) -> Dataset:
    step = max(1, len(dataset.test) / MOST)
    return replace(dataset, test=[dataset.test[int(step * n)] for n in range(min(MOST, len(dataset.test)))])


def _of_each_class(images: list[LabelledImage]) -> list[LabelledImage]:
    counts: dict[int, int] = {}
    kept = []
    for image in images:
        counts[image.target] = counts.get(image.target, 0) + 1
        if counts[image.target] <= PER_CLASS:
            kept.append(image)
    return kept
