"""Choose the calibration images of a folder: leave out copies of other images, sample evenly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from attri.runtime.bundle import file_entry
from attri.runtime.errors import UsageError
from attri.runtime.images import list_images

__all__ = ["MAX_IMAGES", "WANTED_IMAGES", "evenly", "find_calibration_images", "without_copies"]

_Item = TypeVar("_Item")

WANTED_IMAGES = 100  # fewer give a warning: ranges of pocket and ViT-B settle between 50 and 100 images
MAX_IMAGES = 256  # that are read of a larger folder (our choice)


def find_calibration_images(folder: Path | str, excluded: Sequence[Path | str] = ()) -> list[Path]:
    """List up to `MAX_IMAGES` images of a folder, or of its `train` where the folder is a split dataset.

    Args:
        folder: holds images, class folders, or `train` beside `val` or `test`.
        excluded: images of the parity check; they and their copies are left out.

    Raises:
        UsageError: there is no such folder, it holds no image, or only excluded ones.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise UsageError(f"{folder}: {what}; `calibration_data` has to be a folder of real images")
    part = folder / "train" if _is_split(folder) else folder
    images = list_images(part)
    if not images:
        raise UsageError(f"{part} holds no images: int8 is calibrated on about {WANTED_IMAGES} real ones")
    fresh = without_copies(images, map(Path, excluded))
    if not fresh:
        raise UsageError(
            f"{part} holds only images of the parity check, which int8 must not be calibrated on: add some, or compare"
            " fewer with `parity_images`"
        )
    return evenly(fresh, MAX_IMAGES)


def _is_split(folder: Path) -> bool:
    """Whether the folder has a `train` that is a part of a dataset, and not a class of images of trains."""
    parts = [folder / name for name in ("train", "val", "test")]
    classes = [entry for entry in parts[0].iterdir() if entry.is_dir()] if parts[0].is_dir() else []
    return parts[0].is_dir() and (any(part.is_dir() for part in parts[1:]) or len(classes) > 1)


def evenly(items: Sequence[_Item], count: int | None) -> list[_Item]:
    """Take up to `count` items, evenly spaced over all of them; all where `count` is None."""
    total = len(items)
    return [items[i * total // count] for i in range(count)] if count is not None and total > count else list(items)


def without_copies(files: Sequence[Path], others: Iterable[Path]) -> list[Path]:
    """Leave out the files whose bytes equal those of any of the others, wherever these lie."""
    sizes = {_size(file) for file in files}
    seen = {_content(other) for other in others if _size(other) in sizes}  # only equal sizes are worth a hash
    return [file for file in files if _content(file) not in seen] if seen else list(files)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _content(file: Path) -> str:
    """The sha256 of a file; of an unreadable one its path, which equals no other file's."""
    try:
        return str(file_entry(file)["sha256"])
    except OSError:
        return str(file)
