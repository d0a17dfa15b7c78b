"""A CSV file of images: `path,label`, or `path,label,split`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attri.runtime._util.wording import plural
from attri.runtime.errors import UsageError
from attri.runtime.labels import class_words
from attri.train.data.dataset import SPLITS, Dataset, LabelledImage
from attri.train.data.io import read_text, require


@dataclass(frozen=True)
class Row:
    """One line of the file that names an image."""

    line: int
    path: Path
    label: str
    split: str


def read_table(file: Path) -> Dataset:
    """Read a CSV file in UTF-8 whose first line names the columns `path`, `label` and, if there is one, `split`.

    A path is absolute or relative to the file's folder; `split` is train, val or test, and without that column all
    images are for training. Columns may stand in any order, others are left aside. The classes are the labels with
    `_` read as a space, sorted; images keep the order of their lines. Blank lines do not count.

    Raises:
        UsageError: not such a file, a line that does not fit or repeats a path, or missing images; it is named.
    """
    rows = list(_rows(file))
    first: dict[Path, int] = {}
    for row in rows:
        if first.setdefault(row.path, row.line) != row.line:
            raise UsageError(f"{file}, line {row.line}: {row.path} is on line {first[row.path]} too")
    require(file, first, first)
    names = sorted({row.label for row in rows})
    number = {name: place for place, name in enumerate(names)}
    train, val, test = ([LabelledImage(row.path, number[row.label]) for row in rows if row.split == s] for s in SPLITS)
    return Dataset(file, file.stem, names, train, val, test)


def table_of(images: Iterable[LabelledImage], classes: Sequence[str]) -> str:
    """The text of a CSV file with these images, each once, by their whole paths."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label"])
    labels = {image.path.absolute(): classes[image.target] for image in images}
    writer.writerows([str(path), label] for path, label in labels.items())
    return text.getvalue()


def _rows(file: Path) -> Iterator[Row]:
    lines = _lines(file)
    first, header = next(lines, (1, []))
    if not {"path", "label"} <= set(header) or len(set(header)) < len(header):
        raise UsageError(f"{file}, line {first}: the columns are {header}; begin with path,label or path,label,split")
    for line, fields in lines:
        if len(fields) != len(header):
            count = f"{plural(len(fields), 'field')} for {plural(len(header), 'column')}"
            raise UsageError(f"{file}, line {line}: {count}; a name with a comma needs quotes around it")
        values = dict(zip(header, fields, strict=True))
        label = class_words(values["label"])
        if not values["path"] or not label:
            raise UsageError(f"{file}, line {line}: the {'label' if values['path'] else 'path'} is empty")
        split = values.get("split", "train")
        if split not in SPLITS:
            raise UsageError(f"{file}, line {line}: the split is {split!r}; write train, val or test")
        yield Row(line, file.parent / values["path"], label, split)


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, their fields stripped, with the number of the line on which each begins."""
    reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    line = 1
    try:
        for record in reader:
            fields = [field.strip() for field in record]
            if any(fields):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{file}, line {line}: {error}") from error
