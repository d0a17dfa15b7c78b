"""Whether anything has changed since a part of a frame was classified: where nothing has, its prediction still holds.

The part is sampled at 64 x 64 points, in grey, and averaged over 8 x 8 cells, so that the noise of a sensor averages
out and a small thing that moves does not. It is compared with the last one that was classified, and not with the last
one that came: a slow change adds up until it is seen. All of it is our choice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POINTS, CELLS = 64, 8  # along each side
MAX_AGE = 5.0  # seconds after which a prediction is made anew, whether anything changed or not


class MotionGate:
    """The memory of one part of a source: a camera, or a region of it.

    Args:
        threshold: Change of the mean grey of any cell, percent of white, from which on it is classified again.
        max_age: Seconds that a prediction holds, at most.
    """

    def __init__(self, threshold: float, max_age: float = MAX_AGE) -> None:
        self.threshold, self.max_age = threshold, max_age
        self._cells: NDArray[np.float32] | None = None  # of the part that was classified last
        self._asked: object = None
        self._clock = 0.0

    def is_due(self, image: NDArray[np.uint8], clock: float, asked: object) -> bool:
        """Whether the part is to be classified; if so, the next ones are compared with it.

        Args:
            image: The part, RGB [H, W, 3].
            clock: Of its frame, seconds.
            asked: What is asked; where that is something else than before, it is due.
        """
        cells = mean_grey(image)
        if self._cells is not None and asked == self._asked and 0 <= clock - self._clock < self.max_age:
            change = 100 * np.abs(cells - self._cells).max()
        else:
            change = np.inf
        if change < self.threshold:
            return False
        self._cells, self._asked, self._clock = cells, asked, clock
        return True

    def forget(self) -> None:
        """Have the next part classified, because the last one could not be."""
        self._cells = None


def mean_grey(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean grey of 8 x 8 cells, 0 to 1.

    Args:
        image: RGB [H, W, 3].
    """
    rows, columns = (np.linspace(0, side - 1, POINTS).round().astype(np.intp) for side in image.shape[:2])
    grey = image[rows[:, None], columns].mean(-1, dtype=np.float32) / np.float32(255)  # [POINTS, POINTS]
    cells: NDArray[np.float32] = grey.reshape(CELLS, POINTS // CELLS, CELLS, POINTS // CELLS).mean((1, 3))
    return cells
