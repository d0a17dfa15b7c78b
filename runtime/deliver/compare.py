"""The compare sink: shows the frames on which the tasks of a source disagree, and counts how often they do."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterable

from attri.runtime._util.wording import plural
from attri.runtime.deliver.result import FrameResult, SourceHealth
from attri.runtime.deliver.sink import Sink, SinkFilter

_LOGGER = logging.getLogger("attri")


class CompareSink:
    """Passes on the results of all tasks for a frame if their decided labels differ; logs counts at the end.

    Args:
        sources: Each with its tasks, two or more.
        shown: Gets the results of frames that differ; None shows none.
    """

    name = "compare"
    lossless = True
    takes: SinkFilter = "every_frame"

    def __init__(self, sources: Iterable[SourceHealth], shown: Sink | None) -> None:
        self._tasks = {health.source: len(health.tasks) for health in sources}
        self._shown = shown
        self._open: dict[str, list[FrameResult]] = {}  # by source, results of the newest frame until all are there
        self._frames = self._unanimous = 0
        self._together: Counter[tuple[str, str]] = Counter()  # frames with both tasks
        self._agreed: Counter[tuple[str, str]] = Counter()

    def write(self, result: FrameResult) -> None:
        """Take a result; with that of the last task, compare the frame.

        Raises:
            SinkError: The frame cannot be shown.
        """
        group = self._open.setdefault(result.origin, [])
        if group and group[0].raw_image is not result.raw_image:  # of a live source one was dropped
            group.clear()
        group.append(result)
        if len(group) < self._tasks[result.origin]:
            return
        self._open[result.origin] = []
        self._count(group)
        if self._shown is not None and len({frozenset(each.decided) for each in group}) > 1:
            for each in group:
                self._shown.write(each)

    def close(self) -> None:
        """Log the counts."""
        if self._shown is not None:
            self._shown.close()
        _LOGGER.info("%s", self.summary())

    def summary(self) -> str:
        """How often the tasks agreed, all of them and each pair."""
        pairs = [f"{a} and {b} on {_share(self._agreed[a, b], total)}" for (a, b), total in self._together.items()]
        if len(pairs) > 1:
            pairs.insert(0, f"all tasks on {_share(self._unanimous, self._frames)}")
        return f"compared {plural(self._frames, 'frame')}{': agreed ' if pairs else ''}{', '.join(pairs)}"

    def _count(self, group: list[FrameResult]) -> None:
        self._frames += 1
        self._unanimous += len({frozenset(each.decided) for each in group}) == 1
        for one, other in itertools.combinations(group, 2):
            pair = str(one.task), str(other.task)
            self._together[pair] += 1
            self._agreed[pair] += set(one.decided) == set(other.decided)


def _share(count: int, total: int) -> str:
    return f"{count} ({count / total:.0%})"
