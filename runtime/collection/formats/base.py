"""What every format of labelled images is written from, and what it is read to."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from attri.runtime.collection.item import Item
from attri.runtime.errors import UsageError

Answers = Mapping[str, str | None]  # by name; None is none of the labels
_NAME = re.compile(r"\d{8}T\d{6}\.\d{3}Z_.+")


@dataclass(frozen=True)
class LabelledImage:
    """A collected image with its label.

    Attributes:
        item: What is known of it.
        jpeg: Its file.
        label: In words; None where it has none, or is none of the labels.
        answered: Whether a person said so.
    """

    item: Item
    jpeg: Path
    label: str | None
    answered: bool

    def copy_to(self, path: Path) -> None:
        """Write the same bytes to another file, whose folder is made.

        Raises:
            OSError: It cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.jpeg, path)


def name_in(path: str) -> str:
    """The name of a collected image in the path or URL of a file; tools put words before it.

    Returns:
        The name, or the path itself where there is none in it: no image is called so.
    """
    found = _NAME.search(PurePosixPath(path).name)
    return path if found is None else found[0].rpartition(".jpg")[0] or found[0]


def folder_name(label: str) -> str:
    """A label as a folder's name: unchanged, so that it is read as it was written.

    Raises:
        UsageError: No folder can be called so.
    """
    if not label or label.startswith((".", "_")) or set(label) & set("/\\\0") or len(label.encode()) > 255:
        raise UsageError(
            f"no folder can be called {label!r:.60} for every tool: take csv or label-studio, or another label"
        )
    return label


def answers_of(pairs: Iterable[tuple[str, str | None]], where: Path) -> dict[str, str | None]:
    """Answers by name.

    Args:
        pairs: Names and labels, in any order.
        where: What was read, for messages.

    Raises:
        UsageError: An image has two labels.
    """
    found: dict[str, str | None] = {}
    for name, label in pairs:
        if found.setdefault(name, label) != label:
            raise UsageError(f"{where}: {name} has two labels, {found[name]!r} and {label!r}: leave one")
    return found
