"""Pictures as people have them on disk: a folder per class, or train/val/test folders of those."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path

from attri.runtime.errors import UsageError
from attri.runtime.images import list_images
from attri.runtime.labels import class_words

SPLITS = ("train", "val", "test")
logger = logging.getLogger("attri")


@dataclass(frozen=True)
class Picture:
    path: Path
    target: int


@dataclass(frozen=True)
class Dataset:
    """classes: names in words, in the order of their folders; the rest: pictures with the number of their class."""

    root: Path
    classes: list[str]
    train: list[Picture]
    val: list[Picture]
    test: list[Picture]

    def only(self, chosen: list[int]) -> Dataset:
        """The same data with some classes only, renumbered in the given order."""
        number = {old: new for new, old in enumerate(chosen)}

        def keep(pictures: list[Picture]) -> list[Picture]:
            return [Picture(p.path, number[p.target]) for p in pictures if p.target in number]

        names = [self.classes[old] for old in chosen]
        return Dataset(self.root, names, keep(self.train), keep(self.val), keep(self.test))


def read_folder(root: Path, holdout: float = 0.25, shots: int | None = None, seed: int = 1) -> Dataset:
    """Read `root/class/*.jpg`, or `root/{train,val,test}/class/*.jpg`.

    Without a test folder a seeded share `holdout` of every class is kept for testing. `shots` pictures per class are
    drawn for training, all where a class has fewer. Files are not opened here.

    Raises:
        UsageError: no such folder, fewer than two classes, or a class without pictures; it is named.
    """
    root = root.expanduser().resolve()
    if not root.is_dir():
        raise UsageError(f"--data {root}: no such folder")
    split = (root / "train").is_dir()
    folders = sorted(f for f in ((root / "train") if split else root).iterdir() if f.is_dir() and f.name[0] != ".")
    if len(folders) < 2:
        where = root / "train" if split else root
        raise UsageError(f"{where} holds {len(folders)} class folders: two or more are needed, one per class")
    names = [folder.name for folder in folders]
    found = {part: [_pictures(root / part / name) for name in names] for part in SPLITS} if split else {}
    train = found["train"] if split else [_pictures(folder) for folder in folders]
    for folder, files in zip(folders, train, strict=True):
        if not files:
            raise UsageError(f"the class folder {folder} has no pictures: add some or remove the folder")
    val = found["val"] if split else [[] for _ in names]
    test = found["test"] if split else [[] for _ in names]
    if not any(test):
        parts = [_hold_out(files, holdout, seed) for files in train]
        train, test = [kept for kept, _ in parts], [held for _, held in parts]
    train = _draw(train, shots, seed)
    return Dataset(root, [class_words(n) for n in names], _number(train), _number(val), _number(test))


def _pictures(folder: Path) -> list[Path]:
    return list_images(folder) if folder.is_dir() else []


def _hold_out(files: list[Path], share: float, seed: int) -> tuple[list[Path], list[Path]]:
    """A class's files, parted for training and testing; a single picture trains."""
    shuffled = random.Random(seed).sample(files, len(files))
    count = min(max(1, round(share * len(files))), len(files) - 1)
    return sorted(shuffled[count:]), sorted(shuffled[:count])


def _draw(classes: list[list[Path]], shots: int | None, seed: int) -> list[list[Path]]:
    """The few-shot subset: one seed, then a sample per class in order, as CoOp draws it."""
    if shots is None:
        return classes
    generator = random.Random(seed)
    return [generator.sample(files, shots) if len(files) >= shots else files for files in classes]


def _number(classes: list[list[Path]]) -> list[Picture]:
    return [Picture(path, target) for target, files in enumerate(classes) for path in files]
