"""Read a folder per class, or train/val/test folders of those."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from attri.runtime._util.wording import plural
from attri.runtime.errors import UsageError
from attri.runtime.images import is_stray, list_images
from attri.runtime.labels import class_words
from attri.train.data.dataset import SPLITS, Dataset, LabelledImage

_LOGGER = logging.getLogger("attri")


def read_class_folders(root: Path, least: int = 2) -> Dataset:
    """Read `root/class/**/*.jpg`, or `root/{train,val,test}/class/**/*.jpg`.

    The classes are the class folders, sorted: those of train, or of test where there is no train.

    Args:
        root: the folder.
        least: classes that there must be.

    Raises:
        UsageError: fewer classes, two of one name, one without images, or one that train does not have.
    """
    parts = {part: root / part for part in SPLITS if (root / part).is_dir()} or {"train": root}
    first = parts.get("train") or parts.get("test") or parts["val"]
    names = list_classes(first)
    if len(names) < least:
        needed = "two or more are" if least > 1 else "one or more is"
        raise UsageError(f"{first} holds {plural(len(names), 'class folder')}: {needed} needed, one per class")
    words = [class_words(name) for name in names]
    for number, name in enumerate(words):
        if name in words[:number]:
            raise UsageError(f"{first} has two folders for the class {name!r}: make them one")
    found = {part: list_labelled_images(folder, _known(folder, names, first)) for part, folder in parts.items()}
    return Dataset(root, root.name, words, found.get("train", []), found.get("val", []), found.get("test", []))


def list_classes(folder: Path) -> list[str]:
    """List the class folders in `folder`, sorted. Hidden and stray folders are left out with one warning.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror or error}") from error
    if stray := [name for name in names if is_stray(name)]:
        _say_left_out(folder, ", ".join(stray))
    return [name for name in names if not is_stray(name)]


@cache  # folders are listed several times
def _say_left_out(folder: Path, names: str) -> None:
    _LOGGER.warning("%s: not classes, left out: %s", folder, names)


def list_labelled_images(folder: Path, numbers: dict[str, int]) -> list[LabelledImage]:
    """List the images of the class folders in `numbers`, folder by folder, sorted; the numbers are the targets.

    Raises:
        UsageError: a class folder without images.
    """
    images: list[LabelledImage] = []
    for name, number in numbers.items():
        files = list_images(folder / name)
        if not files:
            raise UsageError(f"the class folder {folder / name} has no images: add some or remove the folder")
        images += (LabelledImage(path, number) for path in files)
    return images


def _known(folder: Path, names: list[str], first: Path) -> dict[str, int]:
    """The class folders in `folder` with their numbers; a part may lack classes, and may not bring new ones."""
    numbers = {name: number for number, name in enumerate(names)}
    own = list_classes(folder)
    for name in own:
        if name not in numbers:
            raise UsageError(f"{folder / name} is no class of {first}: add it there or remove the folder")
    return {name: numbers[name] for name in own}
