"""A CSV table: a row for each labelled image, which attri-train reads as it is, and any spreadsheet.

path,label,name,predicted,score,reasons,source,task,time

`path` leads from the table's folder to the JPEG in the collection: nothing is copied.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from attri.runtime._util.printable import as_text
from attri.runtime._util.wording import format_utc
from attri.runtime.collection.formats.base import Answers, LabelledImage, answers_of, name_in
from attri.runtime.errors import UsageError

COLUMNS = ("path", "label", "name", "predicted", "score", "reasons", "source", "task", "time")


def write_table(images: Sequence[LabelledImage], output: Path) -> None:
    """Write a row for each image that has a label; `time` is when it was collected.

    Raises:
        OSError: The disk does not take it.
    """
    with output.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for image in images:
            if image.label is not None:
                table.writerow(_row(image, output.parent))


def _row(image: LabelledImage, folder: Path) -> list[str]:
    item = image.item
    path = os.path.relpath(image.jpeg, folder)
    about = [item.label or "", f"{item.score:.6f}", " ".join(item.reasons), as_text(item.source), item.task or ""]
    return [path, image.label or "", item.name, *about, format_utc(item.collected)]


def read_table(path: Path) -> Answers:
    """Read the label of each image from the columns `label`, and `name` or `path`; rows without a label say nothing.

    Raises:
        UsageError: It is no such table, or an image has two labels.
        OSError: It cannot be read.
    """
    try:
        rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True)
        columns = set(rows.fieldnames or ())
        if "label" not in columns or not columns & {"name", "path"}:
            raise UsageError(f"{path}: the first line has to name the columns label, and name or path")
        pairs = [(row.get("name") or name_in(row.get("path") or ""), (row["label"] or "").strip()) for row in rows]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 at byte {error.start}: save the table as UTF-8") from error
    except csv.Error as error:
        raise UsageError(f"{path} is not a CSV table: {error}") from error
    return answers_of([(name, label) for name, label in pairs if label], path)
