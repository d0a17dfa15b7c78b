"""A task of a source: what is asked of its frames, and what is remembered of the answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attri.runtime.bundle import PROMPT
from attri.runtime.decide.independent import IndependentSmoother
from attri.runtime.decide.schedule import Schedule
from attri.runtime.decide.smoothing import Decision, DecisionRule, DecisionSmoother
from attri.runtime.deliver.updates.exchange import TaskSettings
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.prediction import Prediction
from attri.runtime.text.hysteresis import RetrievalHysteresis


@dataclass(frozen=True)
class TaskSetup:
    """What is asked of the frames of a source.

    Attributes:
        labels: With their classifier; sources and tasks may share one, and do until those of one alone are changed.
        rule: How predictions become decisions.
        name: None where the source has this task alone, and results name none.
        prompt: The prompt file that is taken over when it changes; None watches none.
    """

    labels: LiveLabels
    rule: DecisionRule = DecisionRule()  # noqa: RUF009  # frozen
    name: str | None = None
    prompt: Path | None = None


class TaskState:
    """What is remembered of one task of one source, from frame to frame.

    Args:
        setup: What is asked.
        schedule: Which results are due.
        hysteresis: Cosine by which a new pool entry must be ahead; None is exact retrieval.

    Attributes:
        name: Of the setup.
        prompt: Of the setup.
        rule: Of the setup.
        hysteresis: The memory of its retrieval.
    """

    def __init__(self, setup: TaskSetup, schedule: Schedule, hysteresis: float | None) -> None:
        self.name, self.prompt, self.rule = setup.name, setup.prompt, setup.rule
        self.hysteresis: RetrievalHysteresis | None = None
        if hysteresis is not None:
            topk = setup.labels.classifier.bundle.manifest.retrieval["topk"]
            self.hysteresis = RetrievalHysteresis(hysteresis, topk)
        self._smoother, self._independent = DecisionSmoother(setup.rule), IndependentSmoother(setup.rule)
        self._schedule = schedule
        self._last_due = float("-inf")  # clock of the frame whose result was the last due

    def settings(self, labels: LiveLabels) -> TaskSettings:
        """What it asks with these labels, in values that another process can read."""
        classifier, threshold = labels.classifier, self.rule.threshold
        own = self.prompt not in (None, classifier.bundle.path / PROMPT)
        return TaskSettings(
            self.name,
            str(self.prompt.absolute()) if own and self.prompt else None,
            labels.text if labels.file is not None or labels.edited else None,
            labels.template,
            classifier.given_threshold if threshold is None else threshold,
            classifier.independent,
        )

    def decide_alone(self, prediction: Prediction) -> Decision:
        """The decision on an image that has nothing to do with others: by its threshold alone."""
        rule = DecisionRule(threshold=self.rule.threshold)
        decide = DecisionSmoother(rule) if prediction.thresholds is None else IndependentSmoother(rule)
        return decide(prediction, 0.0)

    def decide(self, prediction: Prediction, clock: float) -> tuple[Decision, bool]:
        """The decision after one more frame, and whether its result is due; `clock` in seconds."""
        smoother = self._smoother if prediction.thresholds is None else self._independent
        decision = smoother(prediction, clock)
        due = self._schedule.is_due(decision.changed, clock - self._last_due)
        if due:
            self._last_due = clock
        return decision, due
