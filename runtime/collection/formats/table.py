"""The table of formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attri.runtime.collection.formats.base import Answers, LabelledImage
from attri.runtime.collection.formats.class_folders import read_folders, write_fiftyone, write_folders
from attri.runtime.collection.formats.csv_table import read_table, write_table
from attri.runtime.collection.formats.imagenet_zip import read_zip, write_zip
from attri.runtime.collection.formats.label_studio import read_tasks, write_tasks


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        write: Writes images to a path that does not exist, a file or a folder.
        read: Reads the answers in a file or folder.
        whole: Whether images without a label are written too.
    """

    write: Callable[[Sequence[LabelledImage], Path], None]
    read: Callable[[Path], Answers]
    whole: bool = False


FORMATS: Mapping[str, Format] = {
    "folder": Format(write_folders, read_folders),
    "csv": Format(write_table, read_table),
    "label-studio": Format(write_tasks, read_tasks, whole=True),
    "cvat": Format(write_zip, read_zip),
    "fiftyone": Format(write_fiftyone, read_folders, whole=True),
}
