"""How many frames go through the graphs at once: what was asked for, or what is worth it on this machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attri.runtime._util.system import recall, remember
from attri.runtime.bundle import VISION
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.classifier import Classifier
from attri.runtime.engines.batch_size import BatchSize, measure_batch_size
from attri.runtime.errors import UsageError

_FRAME = (480, 640, 3)
_MEASURED = "batch-size"  # what is kept of it, by machine, bundle and engine


def choose_max_batch(
    specs: Sequence[SourceSpec],
    classifier: Classifier,
    asked: int | None,
    threads: int | None,
    *,
    more_may_come: bool = False,
) -> tuple[int, str]:
    """Choose the largest number of frames of a batch.

    Args:
        specs: The sources.
        classifier: What will run.
        asked: The value of --max-batch; None measures, where more than one frame may come at once.
        threads: CPU threads that were asked for.
        more_may_come: Whether sources may be added later.

    Returns:
        The number, and what there is to say of it.

    Raises:
        UsageError: The engine does not take so many.
    """
    most = classifier.largest_batch
    if asked is not None and most is not None and asked > most:
        raise UsageError(
            f"--max-batch {asked}: this engine takes {most} images at once (attri-export --trt --max-batch {asked})"
        )
    if asked is not None:
        return asked, ""
    if not (more_may_come or _come_together(specs)):
        return 1, ""
    graph = classifier.bundle.manifest.files[VISION]["sha256"]
    key = {"graph": graph, "engine": classifier.description, "threads": threads, "most": most}
    size, when = _kept(key), "measured before"
    if size is None:
        size, when = _measure(classifier, most), "measured now"
        remember(_MEASURED, key, vars(size))
    return size.size, f"{size}, {when}; --max-batch sets another"


def _come_together(specs: Sequence[SourceSpec]) -> bool:
    """Whether more than one frame may wait at a time."""
    return len(specs) > 1 or len(specs[0].rois) > 1 or not (specs[0].live or len(specs[0].files) == 1)


def _measure(classifier: Classifier, most: int | None) -> BatchSize:
    """With preprocessing, which threads share where there are several frames."""
    fork, frame = classifier.fork(), np.zeros(_FRAME, np.uint8)

    def run(size: int) -> None:
        fork.batch = size
        fork.embed_images([frame] * size)

    return measure_batch_size(run, most)


def _kept(key: dict[str, object]) -> BatchSize | None:
    found = recall(_MEASURED, key)
    try:
        return BatchSize(int(found["size"]), {int(size): float(ms) for size, ms in found["times"].items()})
    except (TypeError, KeyError, ValueError, AttributeError):  # never measured, or by another version
        return None
