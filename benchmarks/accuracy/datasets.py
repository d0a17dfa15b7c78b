"""The datasets of the benchmark, read from their unpacked archives.

    DATA/grocery      81 kinds of groceries; also their 43 coarse kinds, and the 50 that are fruit or vegetables
    DATA/caltech101   97 of the 100 classes, with CoOp's split and CoOp's base and novel classes
    DATA/clothing, DATA/trashnet    folders of classes, scored and never trained on

Fashion-MNIST and the emoji come as arrays and are written to files first (`from_arrays.py`): Twemoji and OpenMoji are
drawings of the same things in two styles that the pocket backbone never saw.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from attri.train.data.dataset import SPLITS, Dataset, LabelledImage
from attri.train.data.read import read_data, read_target
from benchmarks.accuracy import from_arrays

NOT_PRODUCE = {"juice", "milk", "oatghurt", "oat milk", "sour cream", "sour milk", "soyghurt", "soy milk", "yoghurt"}


@dataclass(frozen=True)
class Source:
    """A dataset and its base classes, which are the first ones."""

    dataset: Dataset
    base: int

    @classmethod
    def of(cls, dataset: Dataset) -> Source:
        """The first half is base, rounded up, as CoOp and its followers have it."""
        return cls(dataset, math.ceil(len(dataset.classes) / 2))

    def halves(self) -> tuple[Dataset, Dataset]:
        """Base and novel classes, each numbered from 0."""
        numbers = list(range(len(self.dataset.classes)))
        return self.dataset.only(numbers[: self.base]), self.dataset.only(numbers[self.base :])

    def pseudo_halves(self) -> tuple[Dataset, Dataset]:
        """Every third base class plays a novel one: what is chosen there has seen no novel class."""
        numbers = list(range(self.base))
        return self.dataset.only([n for n in numbers if n % 3 != 2]), self.dataset.only(numbers[2::3])


def table(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def collect(root: Path, name: str, classes: list[str], rows: Iterable[tuple[str, str, str]]) -> Dataset:
    """A dataset of rows (file, split, class); a class's number is its place in `classes`."""
    number = {label: place for place, label in enumerate(classes)}
    parts: dict[str, list[LabelledImage]] = {split: [] for split in SPLITS}
    for file, split, label in rows:
        parts[split].append(LabelledImage(root / file, number[label]))
    return Dataset(root, name, classes, parts["train"], parts["val"], parts["test"])


def grocery(root: Path, level: str = "fine") -> Source:
    """Groceries: "fine", "coarse", or "produce", the fine kinds of fruit and vegetables. Classes are sorted."""
    rows = table(root / "labels.csv")
    if level == "produce":
        rows = [row for row in rows if row["coarse_class"] not in NOT_PRODUCE]
    column = "coarse_class" if level == "coarse" else "class"
    classes = sorted({row[column] for row in rows})
    entries = ((row["file"], row["split"], row[column]) for row in rows)
    return Source.of(collect(root, f"grocery-{level}", classes, entries))


def caltech(root: Path) -> Source:
    """Caltech-101 by CoOp's split; the base half is that of all 100 classes, three of which the archive leaves out."""
    rows = [row for row in table(root / "split.csv") if row["where"] == "here"]
    half = {int(row["label"]): (row["class"], row["half"]) for row in rows}
    classes = [half[label][0] for label in sorted(half)]
    entries = ((row["file"], row["split"], row["class"]) for row in rows)
    base = sum(of == "base" for _, of in half.values())
    return Source(collect(root, "caltech101", classes, entries), base)


def labelled(root: Path, name: str) -> Source:
    """Photographs that are scored only: a CSV of file and class, or folders of classes."""
    if not (root / "labels.csv").is_file():
        data = read_target(root)
        return Source.of(Dataset(root, name, data.classes, [], [], data.test))
    rows = table(root / "labels.csv")
    classes = sorted({row["class"] for row in rows})
    return Source.of(collect(root, name, classes, ((row["file"], "test", row["class"]) for row in rows)))


def unseen(source: Source) -> Source:
    """Few shots come from the validation part.

    The pocket backbone was trained on the train part and knows it by heart (56% of grocery's right, zero-shot, where
    the test part has 30): it tells a method nothing new. It has seen no validation image. Classes without one are left
    out.
    """
    numbers = sorted({image.target for image in source.dataset.val})
    dataset = source.dataset.only(numbers)
    return Source(replace(dataset, train=dataset.val, val=[]), sum(number < source.base for number in numbers))


def readers(data: Path, work: Path, emoji: Path | None, fashion: Path | None) -> dict[str, Callable[[], Source]]:
    """Every dataset by name, read when it is called; those of arrays are unpacked into `work` once."""
    found: dict[str, Callable[[], Source]] = {
        "grocery-produce": lambda: unseen(grocery(data / "grocery", "produce")),
        "caltech101": lambda: unseen(caltech(data / "caltech101")),
        "grocery-fine": lambda: unseen(grocery(data / "grocery", "fine")),
        "grocery-coarse": lambda: unseen(grocery(data / "grocery", "coarse")),
        "clothing": lambda: labelled(data / "clothing", "clothing"),
        "trashnet": lambda: labelled(data / "trashnet", "trashnet"),
    }
    if fashion:
        found["fashion-mnist"] = lambda: Source.of(read_data(from_arrays.fashion(fashion, work / "fashion-mnist")))
    if emoji:
        for style in from_arrays.UNSEEN:
            found[style] = partial(drawings, emoji, work / "emoji", style)
    return found


def drawings(arrays: Path, work: Path, style: str) -> Source:
    """Emoji in one style that the backbone has not seen."""
    return Source.of(from_arrays.emoji(arrays, work)[style])
