"""Classify parts: on this machine, on Ray, or on Daft. All three do the same with a part, so tables are equal."""

from __future__ import annotations

import logging
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from attri.runtime._util.wording import first_line
from attri.runtime.batch import ClassifyBatch
from attri.runtime.dataset.files import UnreadableError
from attri.runtime.dataset.part import Part, ahead
from attri.runtime.errors import FailedError

if TYPE_CHECKING:
    import pyarrow

Engine = Literal["local", "ray", "daft"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


class Workers(NamedTuple):
    """Who classifies on Ray and Daft.

    Attributes:
        processes: Each with a bundle of its own.
        cpus: Of each.
        gpus: Of each.
        address: Of a Ray cluster; None starts one on this machine.
    """

    processes: int = 1
    cpus: int = 1
    gpus: float = 0
    address: str | None = None


class Classified(NamedTuple):
    """A part and its rows. Of one that cannot be read, iterating them raises UnreadableError."""

    part: Part
    tables: Iterable[pyarrow.Table]


def classify_part(classify: ClassifyBatch, part: Part) -> Iterator[pyarrow.Table]:
    """The rows of a part in order, a few at a time: columns that are kept, and those of `ClassifyBatch.fields`.

    Raises:
        UnreadableError: A file cannot be read.
        EngineError: The engine failed.
    """
    import pyarrow as pa

    kept: deque[pyarrow.Table] = deque()

    def batches() -> Iterator[dict[str, Any]]:
        for rows in ahead(part.read()):
            kept.append(rows.table)
            yield {classify.column: rows.images}

    for found in classify.map(batches()):
        table = kept.popleft()
        for field in classify.fields():  # a score of no image is NaN in a dict
            table = table.append_column(field, pa.array(found[field.name], field.type, from_pandas=True))
        yield table


def on_this_machine(classify: ClassifyBatch, parts: Sequence[Part], workers: Workers) -> Iterator[Classified]:
    """One part after the other, in this process."""
    return (Classified(part, classify_part(classify, part)) for part in parts)


def on_ray(classify: ClassifyBatch, parts: Sequence[Part], workers: Workers) -> Iterator[Classified]:
    """A pool of actors, each with a bundle; the results of a part come in one piece."""
    import ray
    from ray.util import ActorPool

    given = workers.address or os.environ.get("RAY_ADDRESS")
    # A cluster has what it has; on this machine workers may share CPUs, where Ray would wait for more for ever.
    own: dict[str, Any] = {} if given else {"num_cpus": max(os.cpu_count() or 1, workers.processes * workers.cpus)}
    try:
        ray.init(address=given, log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING, **own)
    except (ConnectionError, ValueError) as error:
        raise FailedError(f"Ray cannot be reached at {given}: {first_line(error)}") from error
    actor = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_restarts=-1, max_task_retries=3)(Worker)
    pool = ActorPool([actor.remote(classify) for _ in range(workers.processes)])
    by_number = {part.number: part for part in parts}
    try:
        for found in pool.map_unordered(lambda worker, part: worker.classify.remote(part), list(parts)):
            yield _unpacked(by_number, found)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # without the lines of the worker
    except ray.exceptions.RayError as error:
        raise FailedError(f"Ray: {first_line(error)}") from error
    finally:
        ray.shutdown()


def on_daft(classify: ClassifyBatch, parts: Sequence[Part], workers: Workers) -> Iterator[Classified]:
    """A column of parts, and a function with a bundle for each worker; the results of a part come in one piece."""
    import daft

    if workers.address is not None:
        daft.set_runner_ray(workers.address)

    class DaftWorker:
        def __init__(self) -> None:
            self.worker = Worker(classify)

        def of_parts(self, parts: Any) -> list[bytes]:
            return [pickle.dumps(self.worker.classify(pickle.loads(part))) for part in parts.to_pylist()]

        classify = daft.method.batch(return_dtype=daft.DataType.binary(), batch_size=1)(of_parts)

    worker = daft.cls(DaftWorker, max_concurrency=workers.processes, gpus=workers.gpus)()
    frame = daft.from_pydict({"part": [pickle.dumps(part) for part in parts]})
    by_number = {part.number: part for part in parts}
    for row in frame.select(worker.classify(frame["part"]).alias("found")).iter_rows():
        yield _unpacked(by_number, pickle.loads(row["found"]))


RUNNERS: Mapping[Engine, Callable[[ClassifyBatch, Sequence[Part], Workers], Iterator[Classified]]] = {
    "local": on_this_machine,
    "ray": on_ray,
    "daft": on_daft,
}


class Packed(NamedTuple):
    """What a worker sends of a part: its rows in Arrow's stream format, or why it cannot be read."""

    number: int
    rows: bytes
    error: str | None = None


class Worker:
    """Classifies parts in a process of its own."""

    def __init__(self, classify: ClassifyBatch) -> None:
        self._classify = classify

    def classify(self, part: Part) -> Packed:
        """Classify a part. Raises EngineError."""
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        writer = None
        try:
            for table in classify_part(self._classify, part):
                writer = writer or pa.ipc.new_stream(sink, table.schema)
                writer.write_table(table)
        except UnreadableError as error:
            return Packed(part.number, b"", str(error))
        if writer is not None:
            writer.close()
        return Packed(part.number, sink.getvalue().to_pybytes())


def _unpacked(parts: Mapping[int, Part], found: Packed) -> Classified:
    return Classified(parts[found.number], _tables(found))


def _tables(found: Packed) -> Iterator[pyarrow.Table]:
    """Raises UnreadableError."""
    import pyarrow as pa

    if found.error is not None:
        raise UnreadableError(found.error)
    if found.rows:
        with pa.ipc.open_stream(found.rows) as stream:
            yield from (pa.Table.from_batches([batch]) for batch in stream)
