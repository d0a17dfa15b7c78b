"""The pipeline that sources and options ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from attri.runtime.capture.spec import SourceSpec
from attri.runtime.cli.sources.options import Inputs
from attri.runtime.cli.sources.tasks import TaskSetups, warn_of_thresholds
from attri.runtime.decide.smoothing import DecisionRule
from attri.runtime.pipeline.live_labels import LabelsFile

if TYPE_CHECKING:
    from attri.runtime.capture.reader import Opener
    from attri.runtime.classifier import Classifier
    from attri.runtime.pipeline.pipeline import Pipeline


def decision_rule(inputs: Inputs) -> DecisionRule:
    """How predictions of sources become decisions, where they have no rule of their own."""
    return DecisionRule(inputs.smooth, inputs.majority, inputs.min_duration)


def open_pipeline(
    specs: Sequence[SourceSpec],
    classifier: Classifier,
    files: Mapping[Path, LabelsFile],
    labels: Path | None,
    inputs: Inputs,
    prompt: Path | None = None,
    max_batch: int = 1,
    opener: Opener | None = None,
) -> Pipeline:
    """Make the pipeline: tasks with their labels and decision rules, and the retry policy of each source.

    Args:
        specs: The sources.
        classifier: Each set of labels gets its own, with the same engines and text cache.
        files: The labels files that were read.
        labels: The labels file of sources and tasks that have none of their own.
        inputs: The options.
        prompt: The prompt file of tasks that have none of their own; the classifier has its prompt.
        max_batch: Frames that are classified at once, at most.
        opener: Opens the sources; None opens them as what they are.

    Raises:
        LabelsError: The labels cannot be used.
        BundleError: A prompt file cannot be used.
        EngineError: The prompts have more pool entries together than the engine takes.
    """
    from attri.runtime.capture.retry import RetryPolicy
    from attri.runtime.decide.schedule import Schedule
    from attri.runtime.pipeline.pipeline import Pipeline

    tasks = TaskSetups(classifier, files, labels, inputs.template, prompt)
    setups = [setup for spec in specs for setup in tasks.of_source(spec, decision_rule(inputs))]
    warn_of_thresholds(setups)
    policy = RetryPolicy()
    if inputs.max_retries is not None:
        policy = replace(policy, max_retries=inputs.max_retries, first_retries=None)
    if inputs.wait:
        policy = replace(policy, first_retries=None)
    if inputs.freeze_timeout is not None:
        policy = replace(policy, freeze_timeout=inputs.freeze_timeout)
    schedule = Schedule(inputs.min_interval, inputs.on_change)
    return Pipeline(specs, setups, schedule, policy, max_batch, inputs.gather / 1000, opener)
