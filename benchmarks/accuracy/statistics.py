"""Averages, class means, and paired bootstrap intervals over images and seeds.

A method's answers on a part are a matrix correct [S, I]: seeds by images. Two methods are compared on the same images
and seeds: a resample draws images (of each part) and seeds with replacement, the same for both, and takes the
difference. Intervals are percentiles; of five seeds they come out a little narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLES = 4000
Correct = NDArray[np.bool_]  # [S, I]
Statistic = Callable[..., NDArray[np.float64]]  # of the accuracies of the parts, elementwise


@dataclass(frozen=True)
class Interval:
    """A difference in points and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def accuracy(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of one part: itself."""
    return part


def harmonic_mean(base: NDArray[np.float64], novel: NDArray[np.float64]) -> NDArray[np.float64]:
    """2 base novel / (base + novel), 0 where both are."""
    both = base + novel
    return np.divide(2 * base * novel, both, out=np.zeros_like(both), where=both > 0)


def value(parts: Sequence[Correct], statistic: Statistic) -> float:
    """The statistic of the parts' accuracies over all images and seeds, in percent."""
    return float(statistic(*(np.array([100 * part.mean()]) for part in parts))[0])


def class_mean(correct: Correct, targets: NDArray[np.int64]) -> float:
    """The mean over classes of their accuracy, in percent: rare classes count as much as frequent ones."""
    of_image = correct.mean(0)
    return 100 * float(np.mean([of_image[targets == target].mean() for target in np.unique(targets)]))


def draws(count: int, samples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Weights of `count` things in resamples with replacement, rows sum to 1. -> [samples, count]."""
    return generator.multinomial(count, np.full(count, 1 / count), samples) / count


def resampled(part: Correct, images: NDArray[np.float64], seeds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Accuracy of every resample, in percent. images [R, I], seeds [R, S] -> [R]."""
    return 100 * ((images @ part.T.astype(np.float64)) * seeds).sum(1)


def paired(
    ours: Sequence[Correct], theirs: Sequence[Correct], statistic: Statistic = accuracy, samples: int = SAMPLES
) -> Interval:
    """The difference of a statistic between two methods, with its interval.

    Args:
        ours: correct [S, I] of each part.
        theirs: the same of the other method; a single row, of a method without seeds, stands for all.
        statistic: of the parts' accuracies.
        samples: resamples.
    """
    seeds = max(part.shape[0] for part in (*ours, *theirs))
    pairs = [
        tuple(np.broadcast_to(one, (seeds, one.shape[1])) for one in pair) for pair in zip(ours, theirs, strict=True)
    ]
    generator = np.random.default_rng(0)
    of_seeds = draws(seeds, samples, generator)
    rows: list[list[NDArray[np.float64]]] = [[], []]
    for pair in pairs:
        of_images = draws(pair[0].shape[1], samples, generator)
        for row, part in zip(rows, pair, strict=True):
            row.append(resampled(part, of_images, of_seeds))
    differences = statistic(*rows[0]) - statistic(*rows[1])
    low, high = np.percentile(differences, [2.5, 97.5])
    return Interval(value(ours, statistic) - value(theirs, statistic), float(low), float(high))
