"""Datasets of labelled images and their subsets: classes, base and novel halves, hold-out, few-shot."""

from __future__ import annotations

import hashlib
import math
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path

from attri.runtime._util.wording import plural
from attri.runtime.errors import UsageError
from attri.train.data.templates import DEFAULT

SPLITS = ("train", "val", "test")
VAL_SHOTS = 4


@dataclass(frozen=True)
class LabelledImage:
    """An image file and the number of its class."""

    path: Path
    target: int


@dataclass(frozen=True)
class Dataset:
    """A dataset as `read_data` found it on disk.

    Attributes:
        root: the folder or CSV file that was read.
        name: the published name of a known dataset, else that of the folder or file.
        classes: names in words; the index is the class's number.
        train: training images in the order of their source; empty where a dataset is for testing only.
        val: validation images.
        test: test images.
        template: the dataset's own prompt template.
    """

    root: Path
    name: str
    classes: list[str]
    train: list[LabelledImage]
    val: list[LabelledImage]
    test: list[LabelledImage]
    template: str = DEFAULT

    def only(self, chosen: list[int]) -> Dataset:
        """Return the same data with some classes only, renumbered in the given order."""
        number = {old: new for new, old in enumerate(chosen)}

        def keep(images: list[LabelledImage]) -> list[LabelledImage]:
            return [LabelledImage(p.path, number[p.target]) for p in images if p.target in number]

        names = [self.classes[old] for old in chosen]
        return replace(self, classes=names, train=keep(self.train), val=keep(self.val), test=keep(self.test))

    def fingerprint(self) -> str:
        """Return the sha256 of the images' paths below `root` and targets, in order; images are not opened."""
        digest = hashlib.sha256()
        for part in SPLITS:
            digest.update(f"{part}\n".encode())
            for image in getattr(self, part):
                name = str(image.path).removeprefix(f"{self.root}{os.sep}")
                digest.update(os.fsencode(f"{name}\0{image.target}\n"))
        return digest.hexdigest()

    def halves(self) -> tuple[Dataset, Dataset]:
        """Return base and novel classes: the first half of the numbers, rounded up, and the rest (CoCoOp)."""
        middle = math.ceil(len(self.classes) / 2)
        return self.only(list(range(middle))), self.only(list(range(middle, len(self.classes))))


def check(dataset: Dataset, least: int = 2) -> None:
    """Check that a classifier can be trained or tested on these images, which have so many classes at the `least`.

    Raises:
        UsageError: fewer classes, or a class without a name or images; it is named.
    """
    if len(dataset.classes) < least:
        raise UsageError(f"{dataset.root} holds {plural(len(dataset.classes), 'class')}: two or more are needed")
    known = {p.target for p in dataset.train or dataset.test}
    for number, name in enumerate(dataset.classes):
        if not name:
            raise UsageError(f"{dataset.root}: the class number {number} has a name without words")
        if number not in known:
            part = "training" if dataset.train else "test"
            raise UsageError(f"{dataset.root}: the class {name!r} has no {part} images")


def hold_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Make a seeded `share` of each class's training images its test images; a single image stays for training."""
    places: dict[int, list[int]] = {}
    for place, image in enumerate(dataset.train):
        places.setdefault(image.target, []).append(place)
    held: set[int] = set()
    for own in places.values():
        count = min(max(1, round(share * len(own))), len(own) - 1)
        held.update(random.Random(seed).sample(own, len(own))[:count])
    train = [image for place, image in enumerate(dataset.train) if place not in held]
    return replace(dataset, train=train, test=[image for place, image in enumerate(dataset.train) if place in held])


def few_shot(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """Draw `shots` training images of every class and up to 4 for validation, the subsets of CoOp and its followers.

    One stream of `random` for both: classes in the order in which they first appear, `random.sample` of each, all
    where there are fewer; training first. All classes are drawn before any are chosen, so that base classes have the
    same images in every protocol (Dassl's `generate_fewshot_dataset`, called by CoOp's datasets).
    """
    stream = random.Random(seed)

    def draw(images: list[LabelledImage], count: int) -> list[LabelledImage]:
        classes: dict[int, list[LabelledImage]] = {}
        for image in images:
            classes.setdefault(image.target, []).append(image)
        return [p for own in classes.values() for p in (stream.sample(own, count) if len(own) >= count else own)]

    train = draw(dataset.train, shots)
    return replace(dataset, train=train, val=draw(dataset.val, min(shots, VAL_SHOTS)))
