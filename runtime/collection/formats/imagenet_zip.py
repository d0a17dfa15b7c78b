"""CVAT's format "ImageNet": a zip archive with a folder for each label.

OUTPUT.zip: red apple/NAME.jpg

CVAT exports `red apple/red apple_NAME.jpg` or `red apple/NAME.jpg`, by its version: both are read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from attri.runtime.collection.formats.base import Answers, LabelledImage, answers_of, folder_name, name_in
from attri.runtime.collection.formats.class_folders import UNLABELLED
from attri.runtime.errors import UsageError


def write_zip(images: Sequence[LabelledImage], output: Path) -> None:
    """Write the images that have a label.

    Raises:
        UsageError: A label cannot be a folder's name.
        OSError: The disk does not take it.
    """
    folders = {image.label: folder_name(image.label) for image in images if image.label is not None}
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:  # JPEGs do not get smaller
        for image in images:
            if image.label is not None:
                archive.write(image.jpeg, f"{folders[image.label]}/{image.jpeg.name}")


def read_zip(path: Path) -> Answers:
    """Read which image lies in which folder; nothing is unpacked.

    Raises:
        UsageError: It is no such archive, or an image lies in two folders.
        OSError: It cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = [PurePosixPath(each.filename) for each in archive.infolist() if not each.is_dir()]
    except zipfile.BadZipFile as error:
        raise UsageError(f"{path} is not a zip archive: name one that CVAT exported as ImageNet") from error
    pairs = [(name_in(file.name), file.parent.name) for file in files if file.suffix.lower() in (".jpg", ".jpeg")]
    return answers_of([(name, label) for name, label in pairs if label and label not in UNLABELLED], path)
