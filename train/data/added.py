"""Labelled images that a prompt learns in addition: a collection of attri-run --collect, or any dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attri.runtime.collection.folder import Collection
from attri.runtime.errors import UsageError
from attri.train.data.dataset import Dataset, LabelledImage, check
from attri.train.data.read import read_labelled

__all__ = ["join", "read_added"]


def read_added(path: Path | str) -> Dataset:
    """Read labelled images, of one class or more.

    Args:
        path: a collection, of which images that somebody has labelled count, and not those that are none of the
            labels; or what `read_labelled` takes.

    Returns:
        The images in the parts that they have, those of a collection for training.

    Raises:
        UsageError: no image there has a label, or see `read_labelled`.
    """
    root = Path(path).expanduser().resolve()
    try:
        names = Collection(root).content().names if root.is_dir() else []
    except OSError as error:
        raise UsageError(f"{root} cannot be read: {error.strerror or error}") from error
    dataset = _collected(root, names) if names else read_labelled(root, least=1)
    check(dataset, least=1)
    return dataset


def _collected(root: Path, names: list[str]) -> Dataset:
    files = Collection(root)
    answers = {name: answer.label for name in names if (answer := files.answer(name)) is not None}
    labels = {name: label.strip() for name, label in answers.items() if label is not None}
    if not labels:
        what = "all that is labelled there is none of the labels" if answers else "no image there is labelled yet"
        raise UsageError(f"{root}: {what}; label some on the page /review of attri-run --serve")
    classes = sorted(set(labels.values()))
    train = [LabelledImage(files.image(name), classes.index(label)) for name, label in labels.items()]
    return Dataset(root, root.name, classes, train, [], [])


def join(known: Sequence[str], added: Sequence[Dataset]) -> Dataset:
    """Join datasets as one with the known classes first, and after them those that are new.

    Args:
        known: classes that need no images.
        added: one or more datasets; the joined one is called as the first.

    Raises:
        UsageError: two names differ by upper case alone, which is rarely meant.
    """
    classes = list(known)
    for name in (name for dataset in added for name in dataset.classes if name not in known):
        other = next((other for other in classes if other.casefold() == name.casefold()), None)
        if other not in (None, name):
            raise UsageError(f"{name!r} and {other!r} are two classes: write both alike, if they are one")
        classes += [] if other else [name]
    numbers = {name: number for number, name in enumerate(classes)}

    def every(part: str) -> list[LabelledImage]:
        return [
            LabelledImage(image.path, numbers[dataset.classes[image.target]])
            for dataset in added
            for image in getattr(dataset, part)
        ]

    return replace(added[0], classes=classes, train=every("train"), val=every("val"), test=every("test"))
