"""Read a dataset: a CSV file, a dataset in CoOp's layout, or a folder per class."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

from attri.runtime.errors import UsageError
from attri.train.data.class_folders import list_classes, read_class_folders
from attri.train.data.coop import IMAGE_FOLDERS, LISTS, read_coop, recognise
from attri.train.data.csv_dataset import read_table
from attri.train.data.dataset import SPLITS, Dataset, LabelledImage, check, few_shot, hold_out

_LOGGER = logging.getLogger("attri")

__all__ = ["Dataset", "LabelledImage", "read_data", "read_labelled", "read_target"]


def read_data(path: Path | str, holdout: float = 0.25, shots: int | None = None, seed: int = 1) -> Dataset:
    """Read the dataset at `path`: see `read_table`, `read_coop` and `read_class_folders`.

    Without test images a seeded share `holdout` of every class is kept for testing. `shots` images per class are
    drawn for training, and up to 4 for validation: see `few_shot`. Images are not opened here.

    Raises:
        UsageError: nothing there can be read as a dataset, or a part of it is wrong or missing; it is named.
    """
    if not 0 < holdout < 1:
        raise UsageError(f"holdout is {holdout}: it must lie between 0 and 1")
    if shots is not None and shots < 1:
        raise UsageError(f"shots is {shots}: it must be 1 or more")
    dataset = read_labelled(path)
    check(dataset)
    if not dataset.test:
        dataset = hold_out(dataset, holdout, seed)
        _say_untested(dataset)
    return few_shot(dataset, shots, seed) if shots else dataset


def read_target(path: Path | str) -> Dataset:
    """Read a dataset that is only scored: its test images, or all its images where it has no test part.

    Raises:
        UsageError: see `read_data`.
    """
    dataset = read_labelled(path)
    check(dataset)
    return replace(dataset, train=[], val=[], test=dataset.test or [*dataset.train, *dataset.val])


def _say_untested(dataset: Dataset) -> None:
    tested = {image.target for image in dataset.test}
    single = [name for number, name in enumerate(dataset.classes) if number not in tested]
    if single:
        all_of_them = len(single) == len(dataset.classes)
        which = "every class" if all_of_them else ", ".join(single[:5]) + (", ..." if len(single) > 5 else "")
        what = "there is no test part, and no accuracy" if all_of_them else "none is left for the test part"
        _warn_once(f"{dataset.root}: a single image of {which}, which trains: {what}")


@cache  # a protocol reads its data for every seed
def _warn_once(line: str) -> None:
    _LOGGER.warning("%s", line)


def read_labelled(path: Path | str, least: int = 2) -> Dataset:
    """Read the dataset at `path` with the parts that it has, and so many class folders at the `least`.

    Raises:
        UsageError: nothing there can be read as a dataset, or a part of it is wrong; it is named.
    """
    path = Path(path).expanduser().resolve()
    if path.is_file():
        return read_table(path)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder or CSV file")
    return read_coop(path) or _read_classes(path, least)


def _read_classes(root: Path, least: int) -> Dataset:
    """Read class folders; refuse folders of datasets and image folders without their lists."""
    names = list_classes(root)
    if not set(names) & set(SPLITS):
        datasets = [name for name in names if recognise(root / name)]
        if datasets:
            raise UsageError(f"{root} holds datasets, not classes: name one of them ({', '.join(datasets)})")
        strays = sorted(set(names) & IMAGE_FOLDERS)
        if strays:
            raise UsageError(f"{root} has images in {strays[0]}/, but none of the lists that go with it: {LISTS}")
    return read_class_folders(root, least)
