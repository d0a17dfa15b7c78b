"""What is asked of a source: a prompt, labels, and how predictions become decisions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from attri.runtime.decide.smoothing import DecisionRule


@dataclass(frozen=True)
class TaskSpec:
    """One of the questions that are asked of a source. What is None here is that of the source, or of all sources.

    Attributes:
        name: Its name in results; None where the source has this task alone.
        prompt: Its prompt file.
        labels: Its labels file.
        template: The sentence around each label.
        threshold: Scores below it are none of the labels.
        independent: Whether each label is scored by itself, so that several may hold.
        smooth: Of DecisionRule.
        majority: Likewise.
        min_duration: Likewise.
    """

    name: str | None = None
    prompt: Path | None = None
    labels: Path | None = None
    template: str | None = None
    threshold: float | None = None
    independent: bool | None = None
    smooth: float | None = None
    majority: int | None = None
    min_duration: float | None = None

    def rule(self, common: DecisionRule) -> DecisionRule:
        """The decision rule of this task.

        Args:
            common: Of all tasks. Its smoothing counts where this task has neither smoothing nor a majority: they are
                two ways to one end.
        """
        if self.smooth is not None or self.majority is not None:
            common = replace(common, smooth=self.smooth or 0.0, majority=self.majority or 1)
        if self.min_duration is not None:
            common = replace(common, min_duration=self.min_duration)
        return common if self.threshold is None else replace(common, threshold=self.threshold)
