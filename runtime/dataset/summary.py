"""What finished rows say together: labels, scores, the most and the least certain images, errors by kind."""

from __future__ import annotations

import base64
import heapq
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from attri.runtime.batch import image_of
from attri.runtime.dataset.files import UnreadableError
from attri.runtime.dataset.part import Part
from attri.runtime.errors import ImageError
from attri.runtime.images import loaded_image

if TYPE_CHECKING:
    import pyarrow

BINS = 20  # of the histogram of scores
SHOWN_IMAGES = 12
_KINDS = 1000  # of errors that are told apart
_SIDE = 192  # pixels of a thumbnail
# An error begins with the name of its file; what follows is its kind.
_NAMED = re.compile(r"^.*? (?=(?:is|does|cannot|takes|has|holds)\b)")
_NUMBER = re.compile(r"(?<!HTTP Error )(?<!\d)\d+")
Place = tuple[int, int]  # the number of a part, and of a row in it


class Shown(NamedTuple):
    """A row whose image is shown.

    Attributes:
        score: Of its label.
        place: Where it is.
        label: None where it is below the threshold.
        name: Its first column, for people.
    """

    score: float
    place: Place
    label: str | None
    name: str


class Extremes:
    """The rows with the highest of some values; of equal ones the first.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[tuple[float, Place, Shown]] = []  # a heap

    def add(self, value: float, row: Shown) -> None:
        """See a row."""
        entry = (value, (-row.place[0], -row.place[1]), row)
        if len(self._kept) < self._most:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heappushpop(self._kept, entry)

    def ranked(self) -> list[Shown]:
        """The rows, the highest first."""
        return [row for *_, row in sorted(self._kept, reverse=True)]


@dataclass
class TaskSummary:
    """What is counted of the rows of a task.

    Attributes:
        labels: Rows of each label; None are those below the threshold.
        totals: Sums of scores of each label.
        bins: Rows by score.
        most: The most certain rows.
        least: The least certain.
    """

    labels: Counter[str | None] = field(default_factory=Counter)
    totals: defaultdict[str | None, float] = field(default_factory=lambda: defaultdict(float))
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    most: Extremes = field(default_factory=lambda: Extremes(SHOWN_IMAGES))
    least: Extremes = field(default_factory=lambda: Extremes(SHOWN_IMAGES))

    def add(self, row: Shown) -> None:
        """Count a row."""
        self.labels[row.label] += 1
        self.totals[row.label] += row.score
        self.bins[min(BINS - 1, int(row.score * BINS))] += 1
        self.most.add(row.score, row)
        self.least.add(-row.score, row)


def kind_of_error(error: str) -> str:
    """An error without the names and numbers that tell it from others of its kind."""
    return _NUMBER.sub("N", error if error.startswith("there ") else _NAMED.sub("", error))


@dataclass
class Summary:
    """What is said of finished rows.

    Attributes:
        tasks: By their names for people, "" where there is one.
        kinds: Rows with errors, by the kind of error.
        examples: The first error of each kind.
        rows: How many there are, of each part.
        thumbnails: Of the images that are shown, JPEG in URLs.
    """

    tasks: dict[str, TaskSummary]
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    rows: Counter[int] = field(default_factory=Counter)
    thumbnails: dict[Place, str] = field(default_factory=dict)


def summarize(starts: Mapping[str, str], tables: Iterable[tuple[int, pyarrow.Table]], parts: Sequence[Part]) -> Summary:
    """Count rows, and read the images of a few of them again.

    Args:
        starts: Of each task, by its name for people, what its columns begin with.
        tables: Finished rows, each table with the number of its part.
        parts: Where the images are.
    """
    summary = Summary({name: TaskSummary() for name in starts})
    for number, table in tables:
        _count(summary, starts, number, table)
        summary.rows[number] += table.num_rows
    tasks = summary.tasks.values()
    shown = {row.place for task in tasks for row in (*task.most.ranked(), *task.least.ranked())}
    summary.thumbnails.update(_thumbnails(shown, parts))
    return summary


def _count(summary: Summary, starts: Mapping[str, str], number: int, table: pyarrow.Table) -> None:
    named, failed = table.column_names[0], table.column_names[-1]
    wanted = {named, failed, *(f"{start}{kind}" for start in starts.values() for kind in ("label", "score"))}
    columns = {each: table[each].to_pylist() for each in wanted}
    for row, error in enumerate(columns[failed]):
        if error is not None:
            kind = kind_of_error(error)
            kind = kind if kind in summary.kinds or len(summary.kinds) < _KINDS else "others"
            summary.kinds[kind] += 1
            summary.examples.setdefault(kind, error)
            continue
        place = (number, summary.rows[number] + row)
        for name, start in starts.items():
            label, score = columns[f"{start}label"][row], columns[f"{start}score"][row]
            summary.tasks[name].add(Shown(score, place, label, f"{named}: {columns[named][row]}"))


def _thumbnails(places: Iterable[Place], parts: Sequence[Part]) -> Iterator[tuple[Place, str]]:
    """Small images of rows as JPEG in URLs; those that can no longer be read are left out."""
    wanted: dict[int, set[int]] = {}
    for number, row in places:
        wanted.setdefault(number, set()).add(row)
    for part in parts:
        left, start = wanted.get(part.number, set()), 0
        if not left:
            continue
        try:
            for rows in part.read():
                for row in sorted(left & set(range(start, start + len(rows.images)))):
                    if url := _thumbnail(rows.images[row - start]):
                        yield (part.number, row), url
                start += len(rows.images)
                if start > max(left):
                    break
        except UnreadableError:
            continue


def _thumbnail(cell: Any) -> str | None:
    file = io.BytesIO()
    try:
        with loaded_image(image_of(cell)) as image:
            small = image.convert("RGB")
            small.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC, reducing_gap=2)
            small.save(file, "JPEG", quality=80)
    except ImageError:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
