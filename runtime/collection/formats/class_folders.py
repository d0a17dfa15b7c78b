"""A folder for each label, with its images: what attri-train reads, and torchvision, Keras and FiftyOne.

OUTPUT/red apple/NAME.jpg

FiftyOne calls it an image classification directory tree, and has a folder for images without a label too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attri.runtime.collection.formats.base import Answers, LabelledImage, answers_of, folder_name, name_in
from attri.runtime.errors import UsageError

UNLABELLED = ("_unlabeled", "no_label")  # as FiftyOne and datumaro call it


def write_folders(images: Sequence[LabelledImage], output: Path) -> None:
    """Write the images that have a label.

    Raises:
        UsageError: A label cannot be a folder's name.
        OSError: The disk does not take it.
    """
    folders = {image.label: folder_name(image.label) for image in images if image.label is not None}
    output.mkdir()
    for image in images:
        if image.label is not None:
            image.copy_to(output / folders[image.label] / image.jpeg.name)


def write_fiftyone(images: Sequence[LabelledImage], output: Path) -> None:
    """Write all images, those that nobody has labelled into a folder of their own.

    Raises:
        UsageError: A label cannot be a folder's name.
        OSError: The disk does not take it.
    """
    write_folders(images, output)
    for image in images:
        if image.label is None and not image.answered:
            image.copy_to(output / UNLABELLED[0] / image.jpeg.name)


def read_folders(path: Path) -> Answers:
    """Read which image lies in which folder.

    Raises:
        UsageError: It is no such folder, or an image lies in two.
        OSError: It cannot be read.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder: name one that holds a folder for each label")
    folders = [each for each in sorted(path.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    pairs = [
        (name_in(file.name), folder.name)
        for folder in folders
        if folder.name not in UNLABELLED
        for file in sorted(folder.iterdir())
        if file.is_file()
    ]
    return answers_of(pairs, path)
