"""Tasks as attri-run takes them: the option --task, and the tasks of the pipeline with their labels and rules."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from attri.runtime.capture.spec import SourceSpec
from attri.runtime.classifier import Classifier
from attri.runtime.decide.smoothing import DecisionRule
from attri.runtime.decide.task_spec import TaskSpec
from attri.runtime.errors import UsageError
from attri.runtime.pipeline.live_labels import LabelsFile, LiveLabels
from attri.runtime.pipeline.task import TaskSetup
from attri.runtime.prompt import Prompt
from attri.runtime.task import check_task_name

_LOGGER = logging.getLogger("attri")


class TaskType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on
    """NAME=PROMPT[:LABELS]; where PROMPT is empty, it is that of all tasks."""

    name = "task"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the value of an option; click shows what is wrong with it."""
        if isinstance(value, TaskSpec):
            return value
        name, equals, files = value.partition("=")
        prompt, colon, labels = files.partition(":")
        if not equals or (colon and not labels):
            self.fail(f"{value!r} is not NAME=PROMPT or NAME=PROMPT:LABELS", param, ctx)
        try:
            check_task_name(name)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return TaskSpec(name, prompt=Path(prompt) if prompt else None, labels=Path(labels) if labels else None)


def absolute_task(value: str) -> str:
    """Make the paths in a value of --task absolute."""
    name, _, files = value.partition("=")
    return f"{name}={':'.join(str(Path(file).absolute()) if file else '' for file in files.split(':', 1))}"


def with_tasks(specs: Sequence[SourceSpec], tasks: Sequence[TaskSpec]) -> list[SourceSpec]:
    """Give tasks to all sources that have none of their own.

    Raises:
        UsageError: Two tasks have one name, or no source takes them.
    """
    check_names(tasks)
    if tasks and all(spec.tasks or (TaskSpec(),) not in spec.asked for spec in specs):
        raise UsageError("--task: every source has tasks of its own")
    return [spec if spec.tasks else replace(spec, tasks=tuple(tasks)) for spec in specs]


def check_names(tasks: Sequence[TaskSpec]) -> None:
    """Check that each of the tasks that are asked of all sources has a name of its own.

    Raises:
        UsageError: Two have one name.
    """
    if twice := [name for name, count in Counter(task.name for task in tasks).items() if count > 1]:
        raise UsageError(f"--task: two tasks are called {twice[0]}")


def check_common(
    specs: Sequence[SourceSpec],
    labels: Path | None,
    prompt: Path | None,
    template: str | None,
    threshold: float | None,
    independent: bool,
) -> None:
    """Check that what is given for all tasks is used by one of them.

    Args:
        specs: The sources.
        labels: Of tasks that have none of their own; the others likewise.
        prompt: Prompt file.
        template: The sentence around each label.
        threshold: Scores below it are none of the labels.
        independent: Whether each label is scored by itself.

    Raises:
        UsageError: Every task has its own.
    """
    tasks = [(spec, task) for spec in specs for tasks in spec.asked for task in tasks]
    own = {
        "--labels": labels is not None and all(task.labels or spec.labels for spec, task in tasks),
        "--prompt": prompt is not None and all(task.prompt for _, task in tasks),
        "--template": template is not None and all(task.template or spec.template for spec, task in tasks),
        "--threshold": threshold is not None
        and all(task.threshold is not None or spec.threshold is not None for spec, task in tasks),
        "--independent": independent
        and all(task.independent is not None or spec.independent is not None for spec, task in tasks),
    }
    if any(spec.tasks or spec.regions for spec in specs) and (
        unused := [flag for flag, is_own in own.items() if is_own]
    ):
        raise UsageError(f"{', '.join(unused)}: every task or region has its own")


def check_prompts(specs: Sequence[SourceSpec]) -> None:
    """Check that the prompt files of all tasks can be used by some bundle.

    Raises:
        BundleError: One is missing or damaged.
    """
    for path in dict.fromkeys(task.prompt for spec in specs for tasks in spec.asked for task in tasks):
        if path is not None:
            Prompt.read(path)


class TaskSetups:
    """Makes the tasks of a pipeline. Those with the same prompt file, labels file, template and scores share labels.

    Args:
        classifier: Each set of labels gets its own, with the same engines and text cache.
        files: The labels files that were read.
        labels: The labels file of sources and tasks that have none of their own.
        template: Likewise.
        prompt: The prompt file of tasks that have none of their own; the classifier has its prompt.
        fresh: Whether that file, too, is to be read, because it may have changed since.
    """

    def __init__(
        self,
        classifier: Classifier,
        files: Mapping[Path, LabelsFile],
        labels: Path | None,
        template: str | None,
        prompt: Path | None,
        fresh: bool = False,
    ) -> None:
        self._files, self._labels, self._template, self._prompt = files, labels, template, prompt
        self._classifier = classifier
        self._classifiers = {} if fresh else {prompt: classifier}
        self._sets: dict[tuple[Path | None, Path | None, str | None, bool], LiveLabels] = {}

    def of_source(self, spec: SourceSpec, rule: DecisionRule) -> list[list[TaskSetup]]:
        """The tasks of each region of a source; `rule` is that of sources whose frames have to do with each other.

        Raises:
            LabelsError: The labels cannot be used.
            BundleError: A prompt file cannot be used.
            EngineError: A prompt has more pool entries than the engine takes.
            UsageError: Labels are to be independent, and a prompt was not calibrated for that.
        """
        common = replace(rule if spec.sequential else DecisionRule(), threshold=spec.threshold)
        return [[self._setup(spec, task, common) for task in tasks] for tasks in spec.asked]

    def _setup(self, spec: SourceSpec, task: TaskSpec, common: DecisionRule) -> TaskSetup:
        templates = (each for each in (task.template, spec.template, self._template) if each is not None)
        kinds = (each for each in (task.independent, spec.independent) if each is not None)
        key = (
            task.prompt or self._prompt,
            task.labels or spec.labels or self._labels,
            next(templates, None),
            next(kinds, self._classifier.independent),
        )
        if key not in self._sets:
            self._sets[key] = self._labels_of(*key)
        return TaskSetup(self._sets[key], task.rule(common), task.name, key[0])

    def _labels_of(
        self, prompt: Path | None, labels: Path | None, template: str | None, independent: bool
    ) -> LiveLabels:
        if prompt is not None and prompt not in self._classifiers:
            fork = self._classifier.fork()
            fork.independent = False  # whether this prompt can be asked so is seen below
            fork.set_prompt(prompt)
            self._classifiers[prompt] = fork
        classifier = self._classifiers[prompt].fork()  # the same graphs and cache, other labels
        try:
            classifier.independent = independent
        except UsageError as error:
            raise UsageError(f"{prompt}: {error}" if prompt else str(error)) from error
        return LiveLabels(classifier, None if labels is None else self._files[labels], template)


def warn_of_thresholds(setups: Sequence[Sequence[TaskSetup]]) -> None:
    """Log one warning where a prompt's threshold is not applied and no other is given."""
    rejecting = [task.labels.classifier for tasks in setups for task in tasks if task.rule.threshold is None]
    if any(classifier.threshold_not_applied for classifier in rejecting):
        _LOGGER.warning("the bundle's threshold is for its own labels and not applied to others: give --threshold")
