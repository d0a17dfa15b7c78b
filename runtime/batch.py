"""Classify batches of rows: one class for Ray Data, Daft, Dask, Spark and plain loops, which imports none of them."""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.classifier import Classifier
from attri.runtime.errors import ImageError, UsageError
from attri.runtime.fetch import fetch, is_url
from attri.runtime.image_batches import DECODE_THREADS, ImageInput
from attri.runtime.labels import Label
from attri.runtime.prediction import Prediction
from attri.runtime.prompt import Prompt

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ClassifyBatch", "Labels", "image_of"]

Labels = Sequence[str | Label]


class ClassifyBatch:
    """A classifier of batches of rows, to be sent to workers: each loads the bundle once, at its first batch.

    A batch is a dict of columns (arrays or lists), a pyarrow Table or RecordBatch, or a pandas DataFrame; the result is
    of the same kind, with these columns added, of which each starts with `prefix`:

    - label: the best label in words; null where it is rejected, or the row has an error;
    - score: its probability, float32;
    - top: the best `topk` labels, each with label and score;
    - labels: with `independent=True` those that hold, each with label and score;
    - retrieved: the pool entries that were retrieved, int32 [L M] block by block;
    - patches: with `explain`, what each patch of the image contributes to its cosine with the best label, rejected or
      not, as a list of rows of float16 [h, w];
    - image_feature: with `embeddings`, the unit feature of the image, float16 [D];
    - error: one line on why the row could not be classified, else null.

    With `prompts` each task has columns of its own, as TASK_label; only image_feature and error are shared. A row whose
    image is missing, damaged or out of reach is a row with an error; a bundle or an engine that fails raises.

    Pickling leaves the loaded bundle behind. Calls from several threads share it.

    Args:
        bundle: the bundle's folder, on every worker.
        labels: what to tell apart, or of each task by its name; None takes the classes that the prompt was trained on.
        prompts: of several tasks, by their names, see `Classifier.load`.
        column: of the images: bytes of files, paths, URLs, uint8 arrays [H, W, 3], or dicts with "bytes" or "path", as
            Hugging Face writes them. Of a URL, `fetch` reads http(s), and s3, gs and others by fsspec.
        topk: labels in `top`.
        embeddings: add `image_feature`.
        explain: add `patches`, for which the bundle needs the graph of explanations (attri-export --explain); each
            image then takes a run of it, about as long as one of the vision graph.
        prefix: of the columns that are added.
        keep: whether the images stay in the result.
        template: the sentence around each label, with {} in its place; None is the prompt's.
        threshold: scores below it have no label; None is the prompt's.
        readers: threads that fetch and decode images; where images are URLs, more than the default pay.
        side_by_side: batches that go through the graphs at the same time; with `threads=1` the fastest use of a CPU.
        options: more arguments of `Classifier.load`: device, threads, batch, shortlist, prompt, independent,
            fast_jpeg.

    Raises:
        UsageError: An argument is out of range, or unknown.
    """

    def __init__(
        self,
        bundle: Path | str = "bundle",
        labels: Labels | Mapping[str, Labels | None] | None = None,
        *,
        prompts: Mapping[str, Prompt | Path | str | None] | None = None,
        column: str = "image",
        topk: int = 1,
        embeddings: bool = False,
        explain: bool = False,
        prefix: str = "",
        keep: bool = True,
        template: str | None = None,
        threshold: float | None = None,
        readers: int = DECODE_THREADS,
        side_by_side: int = 1,
        **options: Any,
    ) -> None:
        if unknown := sorted(set(options) - set(inspect.signature(Classifier.load).parameters)):
            raise UsageError(f"there is no argument {unknown[0]!r}, see `Classifier.load`")  # here, not on a worker
        if topk < 1:
            raise UsageError(f"`topk` is {topk}: it is 1 or more")
        if side_by_side < 1:
            raise UsageError(f"`side_by_side` is {side_by_side}: it is 1 or more")
        self.column, self.topk, self.embeddings, self.prefix, self.keep = column, topk, embeddings, prefix, keep
        self.explain = explain
        self.labels, self.template, self.threshold, self.readers = labels, template, threshold, readers
        self.side_by_side = side_by_side
        self._load = {"path": bundle, "prompts": prompts, **options}
        self._tasks, self._independent = tuple(prompts or ()), bool(options.get("independent"))
        self._lock = threading.Lock()
        self._loaded: Classifier | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_loaded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock(), _loaded=None)

    @property
    def classifier(self) -> Classifier:
        """The classifier of this process; the first use loads it.

        Raises:
            UsageError: It is to explain, and its bundle has no graph for that.
            Exception: Whatever `Classifier.load` raises.
        """
        with self._lock:
            if self._loaded is None:
                loaded = Classifier.load(**self._load)
                try:
                    if self.explain:
                        loaded.require_explanations()
                    self._set_labels(loaded)
                except BaseException:
                    loaded.close()
                    raise
                self._loaded = loaded
            return self._loaded

    def _set_labels(self, classifier: Classifier) -> None:
        for name, task in (classifier.tasks or {"": classifier}).items():
            labels = self.labels.get(name) if isinstance(self.labels, Mapping) else self.labels
            if labels is None and self.template is not None:
                labels = task.labels
            if isinstance(labels, str):
                task.labels = labels  # which says what is wrong with it
            elif labels is not None:
                words = [str(getattr(label, "text", label)) for label in labels]
                prompts = [label.prompts if isinstance(label, Label) else (label,) for label in labels]
                task.set_labels(words, prompts=prompts, template=self.template)
            if self.threshold is not None:
                task.threshold = self.threshold

    def __call__(self, batch: Any) -> Any:
        """Classify a batch of rows, see the class.

        Raises:
            UsageError: It is no batch, has no such column, or has one of those to be added.
            EngineError: The engine failed.
        """
        (found,) = self.map([batch])
        return found

    def map(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Classify one batch after the other, as Spark's mapInArrow and plain loops ask for it.

        Images of the next batch are fetched and decoded meanwhile.

        Raises:
            UsageError: As of a call.
            EngineError: As of a call.
        """
        waiting: deque[tuple[Any, int]] = deque()  # batches of which rows were taken, and how many each has

        def rows() -> Iterator[Any]:
            for batch in batches:
                cells = self._cells(batch)
                waiting.append((batch, len(cells)))
                yield from cells

        found: list[list[Prediction] | ImageError] = []
        options = (self.readers, self.explain, self.side_by_side)
        for each in self.classifier.classify_rows(rows(), image_of, *options):
            found.append(each)
            while waiting and waiting[0][1] <= len(found):
                batch, count = waiting.popleft()
                yield self._with_columns(batch, found[:count])
                del found[:count]
        for batch, _ in waiting:  # without rows, behind the last that has any
            yield self._with_columns(batch, [])

    def _cells(self, batch: Any) -> list[Any]:
        """The images of a batch, which is checked.

        Raises:
            UsageError: It is no batch, has no such column, or has one of those to be added.
        """
        if not hasattr(batch, "column_names") and not hasattr(batch, "assign") and not isinstance(batch, Mapping):
            raise UsageError(
                f"{type(batch).__name__} is not a batch: give a dict of columns, or a pyarrow or pandas table"
            )
        names = [*batch.column_names] if hasattr(batch, "column_names") else _names(batch)
        if self.column not in names:
            raise UsageError(f"the batch has no column {self.column!r}, but {', '.join(map(str, names))}: set `column`")
        if taken := set(self._columns([])) & set(names):
            raise UsageError(f"the batch has a column {min(taken)!r} already: set `prefix`")
        return [*_values(batch[self.column])]

    def _with_columns(self, batch: Any, found: Sequence[list[Prediction] | ImageError]) -> Any:
        added = self._columns(found)
        if hasattr(batch, "column_names"):
            return self._to_arrow(batch, added)
        if hasattr(batch, "assign"):  # pandas
            kept = batch if self.keep else batch.drop(columns=self.column)
            return kept.assign(**added)
        kept = {name: values for name, values in batch.items() if self.keep or name != self.column}
        return kept | {name: _array(values, name.endswith("score")) for name, values in added.items()}

    def fields(self) -> list[pyarrow.Field]:
        """The pyarrow fields of the columns that are added, for engines that want to know types beforehand."""
        import pyarrow as pa

        scored = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))
        kinds = {"label": pa.string(), "score": pa.float32(), "top": scored, "retrieved": pa.list_(pa.int32())}
        if self._independent:
            kinds["labels"] = scored
        if self.explain:
            kinds["patches"] = pa.list_(pa.list_(pa.float16()))
        fields = [pa.field(name + kind, of_kind) for name in self._starts() for kind, of_kind in kinds.items()]
        if self.embeddings:
            fields.append(pa.field(f"{self.prefix}image_feature", pa.list_(pa.float16())))
        return [*fields, pa.field(f"{self.prefix}error", pa.string())]

    def _starts(self) -> list[str]:
        """What the names of each task's columns begin with."""
        return [f"{self.prefix}{task}_" for task in self._tasks] or [self.prefix]

    def _columns(self, found: Sequence[list[Prediction] | ImageError]) -> dict[str, list[Any]]:
        """The columns to add, by name; None where a row has no value."""
        columns: dict[str, list[Any]] = {}
        rows = [None if isinstance(each, ImageError) else each for each in found]
        for number, start in enumerate(self._starts()):
            of_task = [None if row is None else row[number] for row in rows]
            columns[f"{start}label"] = [row and row.label for row in of_task]
            columns[f"{start}score"] = [row and row.score for row in of_task]
            columns[f"{start}top"] = [row and _scored(row.top(self.topk)) for row in of_task]
            columns[f"{start}retrieved"] = [row and row.retrieved.ravel() for row in of_task]
            if self._independent:
                columns[f"{start}labels"] = [row and _scored(row.held or ()) for row in of_task]
            if self.explain:
                columns[f"{start}patches"] = [row and [*_half(row.patches)] for row in of_task]
        if self.embeddings:
            columns[f"{self.prefix}image_feature"] = [row and _half(row[0].image_feature) for row in rows]
        columns[f"{self.prefix}error"] = [str(each) if isinstance(each, ImageError) else None for each in found]
        return columns

    def _to_arrow(self, batch: Any, added: dict[str, list[Any]]) -> Any:
        """A table or record batch with the columns added."""
        fields = self.fields()
        if not self.keep:
            batch = batch.drop_columns([self.column])
        import pyarrow as pa

        for field in fields:
            batch = batch.append_column(field, pa.array(added[field.name], field.type))
        return batch


def _names(batch: Any) -> list[Any]:
    """Column names of a dict or of a DataFrame."""
    return list(batch.columns if hasattr(batch, "columns") else batch)


def _values(column: Any) -> Iterable[Any]:
    """The values of a column, one at a time."""
    values: Iterable[Any] = column.to_pylist() if hasattr(column, "to_pylist") else column
    return values


def image_of(value: Any) -> ImageInput:
    """The image of a cell; an ImageError in its place is raised.

    Raises:
        ImageError: There is none, or it is out of reach.
    """
    if isinstance(value, ImageError):
        raise value
    if isinstance(value, dict):  # of Hugging Face's datasets
        value = value["path"] if value.get("bytes") is None else value["bytes"]
    if value is None or (isinstance(value, float) and np.isnan(value)):
        raise ImageError("there is no image in this row")
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str) and is_url(value):
        return fetch(value)
    return value  # type: ignore[no-any-return]  # the loader says what cannot be an image


def _scored(labels: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in labels]


def _half(values: NDArray[np.float32] | None) -> NDArray[np.float16]:
    assert values is not None
    return values.astype(np.float16)


def _array(values: list[Any], numbers: bool) -> np.ndarray:
    """A column of a dict: numbers with NaN where there is none, or objects."""
    if numbers:
        return np.array([np.nan if value is None else value for value in values], np.float32)
    array = np.empty(len(values), object)
    for row, value in enumerate(values):  # at once, values of equal lengths would become a table
        array[row] = value
    return array
