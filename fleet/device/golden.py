"""Golden images: the customer's own, GOLDEN/LABEL/*.jpg, on which a release may be no worse than what runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attri.runtime.classifier import Classifier
from attri.runtime.errors import UsageError
from attri.runtime.images import list_images
from attri.runtime.labels import class_words


def read_golden(folder: Path) -> list[tuple[Path, str]]:
    """Images and their labels.

    Raises:
        UsageError: there are none.
    """
    folders = sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    images = [(image, class_words(each.name)) for each in folders for image in list_images(each)]
    if not images:
        raise UsageError(f"{folder} holds no golden images: lay them out as LABEL/*.jpg in it")
    return images


def unknown_labels(classifier: Classifier, images: Sequence[tuple[Path, str]]) -> list[str]:
    """Labels of images that a classifier does not have."""
    return sorted({label for _, label in images} - set(classifier.labels))


def count_right(classifier: Classifier, images: Sequence[tuple[Path, str]]) -> int:
    """How many images get their label."""
    found = classifier([image for image, _ in images])
    return sum(each.label == label for each, (_, label) in zip(found, images, strict=True))
