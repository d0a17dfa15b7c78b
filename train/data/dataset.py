"""Labelled images, and the ways of taking a part of them: chosen classes, halves, a hold-out, a few of each class."""

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
    path: Path
    target: int


@dataclass(frozen=True)
class Dataset:
    """What `read_data` found on disk.

    root: the folder or CSV file that was read. name: the published name of a known dataset, else that of the folder
    or file. classes: names in words, a class's number is its place. train, val, test: images, each of them in the
    order of its source; train is empty where a dataset is for testing only. template: the dataset's own prompt.
    """

    root: Path
    name: str
    classes: list[str]
    train: list[LabelledImage]
    val: list[LabelledImage]
    test: list[LabelledImage]
    template: str = DEFAULT

    def only(self, chosen: list[int]) -> Dataset:
        """The same data with some classes only, renumbered in the given order."""
        number = {old: new for new, old in enumerate(chosen)}

        def keep(images: list[LabelledImage]) -> list[LabelledImage]:
            return [LabelledImage(p.path, number[p.target]) for p in images if p.target in number]

        names = [self.classes[old] for old in chosen]
        return replace(self, classes=names, train=keep(self.train), val=keep(self.val), test=keep(self.test))

    def fingerprint(self) -> str:
        """sha256 of which images, below `root`, have which targets, in their order; the images are not opened."""
        digest = hashlib.sha256()
        for part in SPLITS:
            digest.update(f"{part}\n".encode())
            for image in getattr(self, part):
                name = str(image.path).removeprefix(f"{self.root}{os.sep}")
                digest.update(os.fsencode(f"{name}\0{image.target}\n"))
        return digest.hexdigest()

    def halves(self) -> tuple[Dataset, Dataset]:
        """Base and novel classes: the first half of the numbers, rounded up, and the rest (CoCoOp)."""
        middle = math.ceil(len(self.classes) / 2)
        return self.only(list(range(middle))), self.only(list(range(middle, len(self.classes))))


def check(dataset: Dataset) -> None:
    """Raises UsageError where no classifier can be trained or tested on these images; the class is named."""
    if len(dataset.classes) < 2:
        raise UsageError(f"{dataset.root} holds {plural(len(dataset.classes), 'class')}: two or more are needed")
    known = {p.target for p in dataset.train or dataset.test}
    for number, name in enumerate(dataset.classes):
        if not name:
            raise UsageError(f"{dataset.root}: the class number {number} has a name without words")
        if number not in known:
            part = "training" if dataset.train else "test"
            raise UsageError(f"{dataset.root}: the class {name!r} has no {part} images")


def hold_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Part of the training images become the test images: a seeded `share` of every class; a single one trains."""
    places: dict[int, list[int]] = {}
    for place, image in enumerate(dataset.train):
        places.setdefault(image.target, []).append(place)
    held: set[int] = set()
    for own in places.values():
        count = min(max(1, round(share * len(own))), len(own) - 1)
        held.update(random.Random(seed).sample(own, len(own))[:count])
    parts: tuple[list[LabelledImage], list[LabelledImage]] = ([], [])
    for place, image in enumerate(dataset.train):
        parts[place in held].append(image)
    return replace(dataset, train=parts[0], test=parts[1])


def few_shot(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """`shots` training images of every class and up to 4 for validation, the subsets that CoOp and its followers use.

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
