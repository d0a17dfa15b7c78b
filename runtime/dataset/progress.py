"""Progress of a dataset: rows, rate and time left, in lines that grow rarer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from attri.runtime._util.wording import plural

_LOGGER = logging.getLogger("attri")
_FIRST, _RAREST = 2.0, 60.0  # seconds between two lines: of a short job soon, of a long one not thousands


@dataclass
class Progress:
    """What is done of a dataset.

    Attributes:
        total: Weight of all parts.
        weight: Of those that are done.
        rows: Done.
        errors: Of those, rows with errors.
        clock: Gives seconds.
    """

    total: int
    weight: int = 0
    rows: int = 0
    errors: int = 0
    clock: Callable[[], float] = time.monotonic
    _before: tuple[int, int] = field(init=False)
    _started: float = field(init=False)
    _next: float = field(init=False)
    _pause: float = field(init=False, default=_FIRST)

    def __post_init__(self) -> None:
        self._before, self._started = (self.rows, self.weight), self.clock()
        self._next = self._started + _FIRST

    def saw(self, rows: int, weight: int = 0) -> None:
        """Count rows of a part that is not finished, and log a line if it is time for one."""
        now = self.clock()
        if now >= self._next:
            _LOGGER.info("%s", self.line(rows, weight))
            self._pause = min(_RAREST, 2 * self._pause)
            self._next = now + self._pause

    def finish(self, weight: int, rows: int, errors: int) -> None:
        """Count a finished part, and log a line if it is time for one."""
        self.weight += weight
        self.rows += rows
        self.errors += errors
        self.saw(0)

    def line(self, more: int = 0, heavier: int = 0) -> str:
        """Rows so far with `more` of an unfinished part, rate, and time left as far as parts tell."""
        took, rows, weight = max(1e-9, self.clock() - self._started), self.rows + more, self.weight + heavier
        said = [plural(rows, "row"), f"{weight / max(1, self.total):.0%}"]
        if rows > self._before[0]:
            said.append(f"{(rows - self._before[0]) / took:.1f} rows/s")
        if self.errors:
            said.insert(1, plural(self.errors, "error"))
        if self._before[1] < weight < self.total:
            said.append(f"{duration(took * (self.total - weight) / (weight - self._before[1]))} left")
        return ", ".join(said)


def duration(seconds: float) -> str:
    """A time in words: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
