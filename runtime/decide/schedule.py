"""Which results of a source are due: every one, one in so many seconds, or changes of the decision."""

from __future__ import annotations

from dataclasses import dataclass

_LEEWAY = 1e-3  # seconds: times of frames are rounded


@dataclass(frozen=True)
class Schedule:
    """Which results are due.

    Attributes:
        min_interval: Seconds between two results, at least; 0 lets every one through.
        on_change: Changes of the decision are due, and beside them one result in `min_interval` seconds (0: none).
    """

    min_interval: float = 0.0
    on_change: bool = False

    def is_due(self, changed: bool, since_last: float) -> bool:
        """Whether a result is due.

        Args:
            changed: Whether the decision differs from the previous frame's.
            since_last: Seconds since the last result that was due; negative where time runs backwards (a loop).
        """
        if self.on_change and (changed or self.min_interval == 0):
            return changed
        return not 0 <= since_last < self.min_interval - _LEEWAY
