"""Search the rows of attri-batch --embeddings for what a text says or an image shows, duplicates and outliers.

Every row is compared, and for duplicates and outliers with every other row.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attri.runtime.classifier import Classifier
from attri.runtime.dataset.files import unreadable
from attri.runtime.dataset.output.bucket import Place, opened
from attri.runtime.dataset.output.output import run_file_of
from attri.runtime.dataset.part import ahead
from attri.runtime.errors import AttriError, UsageError

if TYPE_CHECKING:
    import pyarrow

ROWS = 4096  # that are compared at once
_OTHER = "something else"  # a second label: of one alone there is a warning, about scores that are not asked for here
RERANKED = 200  # rows, at least, that are compared with the prompted text, in the place of plain CLIP's
NEIGHBOURS = 10  # whose mean cosine says how far a row lies from all others


class Row(NamedTuple):
    """A row of the index.

    Attributes:
        cosine: With what is sought.
        place: Its number, from 0.
        feature: Unit feature of its image, float16 [D].
        retrieved: Pool entries of its image, int32 [L M].
        columns: What was kept of the input, and the label.
    """

    cosine: float
    place: int
    feature: NDArray[np.float16]
    retrieved: NDArray[np.int32]
    columns: dict[str, Any]


class Index:
    """Rows with features.

    Args:
        path: A folder of Parquet, of this machine or in a bucket.
        prefix: Of the columns that classifying added.

    Raises:
        UsageError: It is no such folder, or has no features.
        UnreadableError: Its storage does not give it.
    """

    def __init__(self, path: Place, prefix: str = "") -> None:
        from pyarrow.parquet import read_schema

        self.path = path
        with _read(path):
            self._files: list[Place] = sorted(path.glob("*.parquet"), key=str)
        if not self._files:
            raise UsageError(f"{path} holds no Parquet: name the --output of attri-batch --embeddings, a folder")
        with _read(self._files[0]):
            names = read_schema(opened(self._files[0])).names
        self._feature, self._retrieved = f"{prefix}image_feature", f"{prefix}retrieved"
        if lacking := {self._feature, self._retrieved} - set(names):
            raise UsageError(f"{path} has no column {min(lacking)!r}: make it with --embeddings, and name its --prefix")
        hidden = {f"{prefix}{name}" for name in ("top", "labels", "patches", "error")}
        self._columns = [name for name in names if name not in hidden]

    def check(self, classifier: Classifier) -> None:
        """Check that the features are of the same model and prompt, as far as is written beside the index.

        Raises:
            UsageError: They are of others.
        """
        try:
            made_of = json.loads(run_file_of(self.path).read_bytes())
        except (OSError, ValueError):  # it was copied without that
            return
        prompts = list(made_of.get("prompts", {}).values())
        if made_of.get("bundle") != classifier.bundle.manifest.base or classifier.prompt.digest not in prompts:
            raise UsageError(f"{self.path} was made with another bundle or prompt: name that, or make it again")

    def nearest(self, feature: NDArray[np.float32], count: int) -> list[Row]:
        """The rows with the greatest cosines, the greatest first, of equal ones the first.

        Args:
            feature: Unit feature [D].
            count: How many.

        Raises:
            UsageError: Features of the index have another size.
        """
        best: list[tuple[float, int, Row]] = []
        place = 0
        for table in self._tables():
            features = _matrix(table[self._feature])
            if features.shape[1:] != feature.shape:
                raise UsageError(f"{self.path} has features of {features.shape[1]} numbers, the bundle {len(feature)}")
            scores = features.astype(np.float32) @ feature
            for row in np.argsort(-scores, kind="stable")[:count]:
                key = (float(scores[row]), -place - int(row))
                if len(best) == count and key <= best[0][:2]:
                    break
                keep = heapq.heappush if len(best) < count else heapq.heappushpop
                keep(best, (*key, self._row(table, int(row), *key)))
            place += table.num_rows
        return [row for *_, row in sorted(best, reverse=True)]

    def duplicates(self, count: int) -> list[tuple[Row, Row]]:
        """The pairs of rows that are most alike: of each row the nearest other one, each pair once.

        Args:
            count: How many pairs.

        Returns:
            Pairs with the greatest cosine first; the row that comes first in the index first.
        """
        cosines, places = nearest_others(self._features(), 1)
        pairs = {tuple(sorted((row, int(other)))): float(cosines[row, 0]) for row, (other,) in enumerate(places)}
        best = heapq.nsmallest(count, pairs, key=lambda pair: (-pairs[pair], pair))
        rows = self._rows({place for pair in best for place in pair})
        return [(rows[a]._replace(cosine=pairs[a, b]), rows[b]._replace(cosine=pairs[a, b])) for a, b in best]

    def outliers(self, count: int) -> list[Row]:
        """The rows that are like no other: those with the least mean cosine with their 10 nearest rows, least first."""
        cosines, _ = nearest_others(self._features(), NEIGHBOURS)
        far = cosines.mean(1) if cosines.size else np.zeros(0)
        best = [int(place) for place in np.argsort(far, kind="stable")[:count]]
        rows = self._rows(set(best))
        return [rows[place]._replace(cosine=float(far[place])) for place in best]

    def _features(self) -> NDArray[np.float16]:
        """Of all rows that have one, float16 [N, D]."""
        every = [_matrix(table[self._feature]) for table in self._tables([self._feature])]
        return np.concatenate(every) if every else np.zeros((0, 0), np.float16)

    def _rows(self, places: set[int]) -> dict[int, Row]:
        """The rows of these places, with a cosine of 1: that of each with itself."""
        found: dict[int, Row] = {}
        start = 0
        for table in self._tables():
            here = [place for place in places if start <= place < start + table.num_rows]
            found |= {place: self._row(table, place - start, 1.0, -place) for place in here}
            start += table.num_rows
        return found

    def _tables(self, columns: Sequence[str] | None = None) -> Iterator[pyarrow.Table]:
        """Rows that have features, a few thousand at a time. Raises UnreadableError."""
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        for path in self._files:
            with _read(path), ParquetFile(opened(path)) as part:
                for batch in ahead(part.iter_batches(ROWS, columns=columns or self._columns)):
                    table = pa.Table.from_batches([batch])
                    table = table.filter(table[self._feature].is_valid())
                    if table.num_rows:
                        yield table.combine_chunks()

    def _row(self, table: pyarrow.Table, row: int, cosine: float, place: int) -> Row:
        values = table.slice(row, 1).to_pylist()[0]
        shown = {name: value for name, value in values.items() if name not in (self._feature, self._retrieved)}
        feature = np.array(values[self._feature], np.float16)
        return Row(cosine, -place, feature, np.array(values[self._retrieved], np.int32), shown)


@contextmanager
def _read(path: Place) -> Iterator[None]:
    """Errors of a file or a storage, as one line. Raises UnreadableError."""
    try:
        yield
    except AttriError:
        raise
    except Exception as error:  # each storage has errors of its own, and pyarrow some for what is damaged
        raise unreadable(str(path), error) from error


def search_text(index: Index, classifier: Classifier, text: str, count: int, reranked: int = RERANKED) -> list[Row]:
    """The rows whose images fit a text best.

    AttriPrompt's text features depend on the image. All rows are compared with the text as plain CLIP has it; then the
    best of them with the text that is prompted by the pool entries of each, which gives the cosines.

    Args:
        index: Of this classifier's bundle.
        classifier: Its labels are replaced.
        text: A label: the prompt's sentence goes around it.
        count: How many rows.
        reranked: Rows that are compared with the prompted text, at least; as many as there are is exact.

    Raises:
        LabelsError: The text cannot be a label.
        UsageError: The index is of another model.
    """
    classifier.labels = [text, _OTHER]
    retrieval = classifier.bundle.manifest.retrieval
    shape = (int(retrieval["depth"]), int(retrieval["retrieved"]))
    nothing = np.full((1, *shape), classifier.prompt.entries, np.int32)  # one past the last entry is none
    rows = index.nearest(classifier.encode_text(nothing)[0][0], max(count, reranked))
    if not rows:
        return []
    features = np.stack([row.feature for row in rows]).astype(np.float32)
    retrieved = np.stack([row.retrieved for row in rows]).reshape(-1, *shape)
    cosines = classifier.cosines(features, retrieved)[:, 0]
    order = np.argsort(-cosines, kind="stable")[:count]
    return [rows[number]._replace(cosine=float(cosines[number])) for number in order]


def nearest_others(features: NDArray[np.float16], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The nearest other rows of each row; all are compared, some thousand at a time.

    Args:
        features: Unit features [N, D].
        count: How many of each row; fewer where there are not so many.

    Returns:
        Their cosines [N, count], the greatest first, and their numbers [N, count].
    """
    rows = len(features)
    count = max(min(count, rows - 1), 0)
    cosines, places = np.empty((rows, count), np.float32), np.empty((rows, count), np.int64)
    for first in range(0, rows if count else 0, ROWS):
        block = features[first : first + ROWS].astype(np.float32)
        best, where = np.empty((len(block), 0), np.float32), np.empty((len(block), 0), np.int64)
        for start in range(0, rows, ROWS):
            scores = block @ features[start : start + ROWS].astype(np.float32).T  # [B, ROWS]
            if start == first:
                np.fill_diagonal(scores, -np.inf)  # itself
            kept = _largest(scores, count)
            best = np.concatenate([best, np.take_along_axis(scores, kept, 1)], 1)
            where = np.concatenate([where, start + kept], 1)
            kept = _largest(best, count)
            best, where = np.take_along_axis(best, kept, 1), np.take_along_axis(where, kept, 1)
        order = np.argsort(-best, 1, kind="stable")
        cosines[first : first + ROWS] = np.take_along_axis(best, order, 1)
        places[first : first + ROWS] = np.take_along_axis(where, order, 1)
    return cosines, places


def _largest(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Columns of the largest values of each row, in any order; all where there are no more."""
    return np.argpartition(-scores, min(count, scores.shape[1]) - 1, 1)[:, :count]


def _matrix(column: pyarrow.ChunkedArray) -> NDArray[np.float16]:
    """Lists of one length as rows."""
    found: NDArray[np.float16] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return found.reshape(len(column), -1)
