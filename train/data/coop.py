"""Read the 11 datasets and 4 ImageNet variants in CoOp's layout (its DATASETS.md), recognized by their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attri.runtime.errors import UsageError
from attri.runtime.labels import class_words
from attri.train.data.class_folders import list_classes, list_labelled_images
from attri.train.data.dataset import SPLITS, Dataset, LabelledImage
from attri.train.data.io import below, read_text, require
from attri.train.data.templates import CUSTOM, DEFAULT

LISTS = "split_zhou_*.json, images_variant_*.txt or classnames.txt"
CLASS_NAMES = "classnames.txt"


@dataclass(frozen=True)
class Layout:
    """The layout of one dataset.

    Attributes:
        name: as published.
        images: folder of the images.
        marks: patterns that all match in a folder of this layout.
        read: reads such a folder.
    """

    name: str
    images: str
    marks: tuple[str, ...]
    read: Callable[[Path, Layout], Dataset]


def recognise(root: Path) -> list[Layout]:
    """Return the layouts whose marks all match in `root`, whatever its name."""
    return [layout for layout in LAYOUTS if all(any(root.glob(mark)) for mark in layout.marks)]


def read_coop(root: Path) -> Dataset | None:
    """Read the dataset in `root`, or return None where no layout fits.

    Class names are those of the lists, `_` read as a space: CoOp's split files hold its final names ("face" for
    Caltech's Faces, "Annual Crop Land" for EuroSAT's AnnualCrop). Images come in the order of the lists.

    Raises:
        UsageError: two layouts fit, or a list is damaged or does not go with the images.
    """
    found = recognise(root)
    if not found:
        return None
    if len(found) > 1:
        raise UsageError(f"{root} holds {' and '.join(layout.name for layout in found)}: give each its own folder")
    layout = found[0]
    if not (root / layout.images).is_dir():
        raise UsageError(f"{root} has the lists of {layout.name}, but no folder {layout.images} with its images")
    return replace(layout.read(root, layout), template=CUSTOM.get(layout.name, DEFAULT))


def _read_split_file(root: Path, layout: Layout) -> Dataset:
    """`split_zhou_NAME.json`: {"train": [[path, label, class name], ...], "val": ..., "test": ...}."""
    file = root / layout.marks[0]
    split = _load_split(file)
    names = {label: name for entries in split.values() for _, label, name in entries}
    number = {label: place for place, label in enumerate(sorted(names))}  # the labels may leave numbers out
    found: dict[str, list[LabelledImage]] = {}
    for part, entries in split.items():
        found[part] = []
        for place, (path, label, name) in enumerate(entries):
            where = f"{file}: {part}[{place}]"
            if name != names[label]:
                raise UsageError(f"{where} calls the label {label} {name!r}, another entry {names[label]!r}")
            found[part].append(LabelledImage(below(root / layout.images, path, where), number[label]))
    require(file, (image.path for part in SPLITS for image in found[part]))
    words = [class_words(names[label]) for label in number]
    return Dataset(root, layout.name, words, found["train"], found["val"], found["test"])


def _load_split(file: Path) -> dict[str, list[tuple[str, int, str]]]:
    try:
        split: Any = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise UsageError(f"{file}, line {error.lineno}: {error.msg}; the file is damaged, fetch it again") from error
    except RecursionError as error:
        raise UsageError(f"{file} is nested too deep to be a split file") from error
    parts = {}
    for part in SPLITS:
        entries = split.get(part) if isinstance(split, dict) else None
        if not isinstance(entries, list) or not entries:
            raise UsageError(f"{file} has no list {part!r}: it must hold train, val and test")
        for place, entry in enumerate(entries):
            if not isinstance(entry, list) or [type(value) for value in entry] != [str, int, str]:
                raise UsageError(f"{file}: {part}[{place}] is {str(entry)[:80]}, and not [path, label, class name]")
        parts[part] = [(path, label, name) for path, label, name in entries]
    return parts


def _read_aircraft(root: Path, layout: Layout) -> Dataset:
    """`variants.txt`, a class a line, and `images_variant_{train,val,test}.txt`, an image and its class a line."""
    number = {name: place for place, name in enumerate(_lines(root / "variants.txt").values())}
    found: dict[str, list[LabelledImage]] = {}
    for part in SPLITS:
        file = root / f"images_variant_{part}.txt"
        found[part] = []
        for line, text in _lines(file).items():
            where = f"{file}, line {line}"
            image, _, name = text.partition(" ")
            if name not in number:
                raise UsageError(f"{where}: {name!r} is not in variants.txt")
            found[part].append(LabelledImage(below(root / layout.images, f"{image}.jpg", where), number[name]))
        require(file, (image.path for image in found[part]))
    words = [class_words(name) for name in number]
    return Dataset(root, layout.name, words, found["train"], found["val"], found["test"])


def _read_imagenet(root: Path, layout: Layout) -> Dataset:
    """`images/{train,val}/nXXXXXXXX`; val is what is tested on, as everywhere in the literature, and there is no other.

    The order of the files in a folder is whatever the disk gave in CoOp, sorted here: few-shot subsets of ImageNet
    follow the same rule and are still not the same images as its authors'.
    """
    train, val = (root / layout.images / part for part in ("train", "val"))
    folders = list_classes(train)
    odd = sorted(set(folders) ^ set(list_classes(val)))
    if odd:
        raise UsageError(f"{train} and {val} must have the same class folders: {odd[0]} is in one only")
    names, numbers = _imagenet_names(root, folders), {name: place for place, name in enumerate(folders)}
    return Dataset(
        root, layout.name, names, list_labelled_images(train, numbers), [], list_labelled_images(val, numbers)
    )


def _read_variant(root: Path, layout: Layout) -> Dataset:
    """`nXXXXXXXX` folders for testing only. The classes are those that have one: 200 of ImageNet's in A and R."""
    images = root / layout.images
    folders = list_classes(images)
    numbers = {name: place for place, name in enumerate(folders)}
    return Dataset(root, layout.name, _imagenet_names(root, folders), [], [], list_labelled_images(images, numbers))


def _read_v2(root: Path, layout: Layout) -> Dataset:
    """Folders 0, 1, ... for testing only, a line of `classnames.txt` each, in its order."""
    images = root / layout.images
    names = list(_class_names(root).values())
    numbers = {str(place): place for place in range(len(names))}
    odd = sorted(numbers.keys() ^ set(list_classes(images)))
    if odd:
        raise UsageError(f"{images} must have a folder 0, 1, ... for each line of {CLASS_NAMES}: see folder {odd[0]}")
    return Dataset(root, layout.name, names, [], [], list_labelled_images(images, numbers))


def _imagenet_names(root: Path, folders: list[str]) -> list[str]:
    names = _class_names(root)
    for folder in folders:
        if folder not in names:
            raise UsageError(f"{root / CLASS_NAMES} has no line for the class folder {folder}")
    return [names[folder] for folder in folders]


def _class_names(root: Path) -> dict[str, str]:
    """`n01440764 tench`, a class a line. Two classes may have one name: "missile" and "sunglasses" have."""
    names = {}
    for line, text in _lines(root / CLASS_NAMES).items():
        folder, _, name = text.partition(" ")
        if not name.strip():
            raise UsageError(f"{root / CLASS_NAMES}, line {line}: {text!r} is not a folder and a name")
        names[folder] = class_words(name)
    return names


def _lines(file: Path) -> dict[int, str]:
    """The lines that are not blank, stripped, by their number from 1. Raises UsageError if there are none."""
    stripped = enumerate((line.strip() for line in read_text(file).split("\n")), start=1)
    lines = {number: line for number, line in stripped if line}
    if not lines:
        raise UsageError(f"{file} is empty: fetch it again")
    return lines


_SPLIT_FILES = {  # split_zhou_NAME.json: the folder that its paths start from
    "Caltech101": "101_ObjectCategories",
    "OxfordPets": "images",
    "StanfordCars": ".",
    "OxfordFlowers": "jpg",
    "Food101": "images",
    "SUN397": "SUN397",
    "DescribableTextures": "images",
    "EuroSAT": "2750",
    "UCF101": "UCF-101-midframes",
}
_V2 = "imagenetv2-matched-frequency-format-val"
LAYOUTS = (
    *(Layout(name, at, (f"split_zhou_{name}.json",), _read_split_file) for name, at in _SPLIT_FILES.items()),
    Layout("FGVCAircraft", "images", ("images_variant_*.txt",), _read_aircraft),
    Layout("ImageNet", "images", ("images/train", CLASS_NAMES), _read_imagenet),
    Layout("ImageNetV2", _V2, (_V2,), _read_v2),
    Layout("ImageNetSketch", "images", ("images/n*", CLASS_NAMES), _read_variant),
    Layout("ImageNetA", "imagenet-a", ("imagenet-a/n*",), _read_variant),
    Layout("ImageNetR", "imagenet-r", ("imagenet-r/n*",), _read_variant),
)
IMAGE_FOLDERS = {layout.images for layout in LAYOUTS} - {".", "2750"}  # no names of classes; 2750 might be one
