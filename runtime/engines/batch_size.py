"""How many images go through the vision graph at once: what is worth it on this machine, measured once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_LARGEST = 32
_GAIN = 1.1  # images per second of a doubled batch, to be worth its latency
_RUNS = 3  # of each size, of which the fastest counts: other programs make runs slower and never faster
_BUDGET = 2.0  # seconds that it may take


@dataclass(frozen=True)
class BatchSize:
    """A size of batches, and why.

    Attributes:
        size: Images at once, at most.
        times: Milliseconds of a run, by the number of its images.
    """

    size: int
    times: dict[int, float]

    def __str__(self) -> str:
        times = ", ".join(f"{size} in {ms:.3g} ms" for size, ms in self.times.items())
        return f"batches of up to {self.size} ({times})"


def measure_batch_size(
    run: Callable[[int], object], most: int | None = None, clock: Callable[[], float] = time.perf_counter
) -> BatchSize:
    """Double a batch as long as that brings a tenth more images per second.

    A frame is at most two runs old when its result is there, and a larger batch makes a run longer: throughput has to
    pay for it. A size that would take longer than two seconds to try is not tried.

    Args:
        run: Runs the vision graph with so many images.
        most: That its engine takes.
        clock: In seconds.
    """
    started, times = clock(), dict[int, float]()
    size = chosen = 1
    while size <= min(_LARGEST, most or _LARGEST):
        run(size)  # engines make plans and arenas for a new shape
        times[size] = 1000 * min(_timed(run, size, clock) for _ in range(_RUNS))
        if size > 1 and times[chosen] / chosen < _GAIN * times[size] / size:
            break
        chosen, size = size, 2 * size
        if clock() - started + (1 + _RUNS) * 2 * times[chosen] / 1000 > _BUDGET:
            break
    return BatchSize(chosen, {size: round(ms, 3) for size, ms in times.items()})


def _timed(run: Callable[[int], object], size: int, clock: Callable[[], float]) -> float:
    started = clock()
    run(size)
    return clock() - started
