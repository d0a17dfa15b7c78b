"""Classify what of a dataset is not finished yet."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from attri.runtime._util.wording import plural
from attri.runtime.batch import ClassifyBatch
from attri.runtime.dataset.classify import RUNNERS, Engine, Workers
from attri.runtime.dataset.files import UnreadableError
from attri.runtime.dataset.output.output import Output
from attri.runtime.dataset.part import Part
from attri.runtime.dataset.plan import Plan
from attri.runtime.dataset.progress import Progress
from attri.runtime.errors import FailedError

if TYPE_CHECKING:
    import pyarrow

_LOGGER = logging.getLogger("attri")


def run(plan: Plan, classify: ClassifyBatch, output: Output, engine: Engine, workers: Workers) -> None:
    """Classify the parts that are not finished.

    Args:
        plan: The parts.
        classify: Without the images in its result.
        output: Locked.
        engine: What the parts are given to.
        workers: Of Ray and Daft.

    Raises:
        FailedError: Parts cannot be read; all others are finished.
        EngineError: The engine failed.
        SinkError: The disk is full, or gone.
    """
    done = output.done()
    left = [part for part in plan.parts if part.number not in done]
    progress = Progress(
        sum(part.weight for part in plan.parts),
        sum(part.weight for part in plan.parts if part.number in done),
        sum(counts.rows for counts in done.values()),
        sum(counts.errors for counts in done.values()),
    )
    if done:
        _LOGGER.info("%s of %d done before: %s", plural(len(done), "part"), len(plan.parts), progress.line())
    failed: list[UnreadableError] = []

    def watched(part: Part, tables: Iterable[pyarrow.Table]) -> Iterator[pyarrow.Table]:
        rows = 0
        for table in tables:
            yield table
            rows += table.num_rows
            progress.saw(rows, part.weight_of(rows))

    for part, tables in RUNNERS[engine](classify, left, workers) if left else ():
        try:
            counts = output.write(part.number, watched(part, tables))
        except UnreadableError as error:
            _LOGGER.warning("part %d: %s", part.number, error)
            failed.append(error)
        else:
            progress.finish(part.weight, counts.rows, counts.errors)
    if failed:
        raise FailedError(
            f"{plural(len(failed), 'part')} of {len(plan.parts)} cannot be read ({failed[0]}); "
            f"the same command tries them again"
        )
    _LOGGER.info("%s: %s", output.path, progress.line())
