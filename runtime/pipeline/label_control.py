"""Labels and prompts of a running pipeline's sources and tasks: read, changed and written by whoever may ask for it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from attri.runtime.classifier import Classifier, require_room
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import FileOrigin
from attri.runtime.deliver.updates.exchange import TaskSettings
from attri.runtime.errors import LabelsError, UsageError
from attri.runtime.explain.explanation import Explanation
from attri.runtime.pipeline.channel import Channel
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.pipeline.live_prompt import LivePrompt
from attri.runtime.pipeline.task import TaskState
from attri.runtime.prompt import Prompt


class LabelControl:
    """The labels of all sources and tasks, for PipelineControl. All methods may be called from any thread.

    Args and errors are those of PipelineControl: `source` None means all sources, and `task` None all their tasks.

    Attributes:
        channels: Of each source; some may share their labels, until those of one alone are changed.
        prompt_files: The prompt file of each task, once where tasks share it.

    Raises:
        EngineError: The prompts have more pool entries together than the engine takes.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        self.channels: Sequence[Channel] = ()
        self.prompt_files: dict[Path, LivePrompt] = {}
        self._changing = threading.Lock()
        self.use_channels(channels)

    def use_channels(self, channels: Sequence[Channel]) -> None:
        """Take other channels in the place of those that there are.

        Raises:
            EngineError: Their prompts have more pool entries together than the engine takes; nothing was changed.
        """
        with self._changing:
            prompts = _fitting_prompts([labels for channel in channels for labels in channel.labels])
            for channel in channels:
                channel.beside = prompts
            self.channels = channels
            first = {file: prompt for file, prompt in self._prompts(None, None) if file is not None}
            self.prompt_files = {
                file: self.prompt_files.get(file) or LivePrompt(file, prompt, functools.partial(self.take_prompt, file))
                for file, prompt in first.items()
            }

    def independent(self, source: str | None = None, task: str | None = None) -> bool:
        """Whether labels are independent: several may hold at once."""
        return any(labels.classifier.independent for labels in self._sets(source, task))

    def labels(self, source: str | None = None, task: str | None = None) -> list[str]:
        """Lines of the labels, each once."""
        lines = (str(label) for labels in self._sets(source, task) for label in labels.labels)
        return list(dict.fromkeys(lines))

    def labels_text(self, source: str | None = None, task: str | None = None) -> str:
        """The labels as one text. Raises LabelsError."""
        return self._agreed(source, task)[0].text

    def labels_origin(self, source: str | None = None, task: str | None = None) -> FileOrigin:
        """Which file the labels came from, and whether they were edited since."""
        sets = self._sets(source, task)
        files = {each.file for each in sets}
        file = files.pop() if len(files) == 1 else None
        readers = [each.name for each in self.channels if file and file in [labels.file for labels in each.labels]]
        return FileOrigin(None if file is None else str(file), any(each.edited for each in sets), tuple(readers))

    def set_labels(self, text: str, source: str | None = None, task: str | None = None) -> None:
        """Replace the labels. Raises LabelsError, and then changes nothing."""
        with self._changing:
            self._sets(source, task)
            self._replace(_chosen(source, task), lambda labels: labels.fork(text))

    def prompts(self, source: str | None = None, task: str | None = None) -> list[Prompt]:
        """The learned prompts in use, each once. Raises LabelsError."""
        return list({prompt.digest: prompt for _, prompt in self._prompts(source, task)}.values())

    def prompt_origin(self, source: str | None = None, task: str | None = None) -> FileOrigin:
        """Which file the learned prompt came from, and whether another is used. Raises LabelsError."""
        used = self._prompts(source, task)
        files = {file for file, _ in used}
        file = files.pop() if len(files) == 1 else None
        readers = [each.name for each in self.channels if file and file in [task.prompt for task in each.tasks]]
        edited = any(prompt.digest != self.prompt_files[path].digest for path, prompt in used if path is not None)
        return FileOrigin(None if file is None else str(file), edited, tuple(readers))

    def set_prompt(self, prompt: Prompt, source: str | None = None, task: str | None = None) -> None:
        """Replace the learned prompt between two frames. Raises AttriError, and then changes nothing."""
        with self._changing:
            self._sets(source, task)
            self._replace(_chosen(source, task), lambda labels: labels.with_prompt(prompt))

    def write_prompt(self, source: str | None = None, task: str | None = None) -> None:
        """Write the learned prompt in use into its file, for all tasks that have it from there. Raises AttriError."""
        used = self._prompts(source, task)
        files = {file for file, _ in used}
        if len(files) > 1 or len({prompt.digest for _, prompt in used}) > 1:
            raise UsageError("there are different prompts or prompt files: name one source and task")
        ((file, prompt), *_) = used
        if file is None:
            raise UsageError("this prompt came from no file, so there is none to write it to")
        self.prompt_files[file].write(prompt)

    def take_prompt(self, file: Path, prompt: Prompt) -> None:
        """Replace the learned prompt of all tasks that have it from this file. Raises AttriError, as `set_prompt`."""
        with self._changing:
            self._replace(lambda _, task: task.prompt == file, lambda labels: labels.with_prompt(prompt))

    def asked(
        self, source: str | None = None, task: str | None = None
    ) -> tuple[list[tuple[TaskState, Classifier]], tuple[Prompt, ...]]:
        """What is asked of a source at this moment.

        Returns:
            Each task with its classifier, as a fork that nobody changes; and the prompts of all sources.

        Raises:
            LabelsError: There is no such source or task.
            UsageError: Sources that are meant are asked different things.
        """
        self._sets(source, task)
        chosen = _chosen(source, task)
        rows = [
            [
                (each, labels)
                for each, labels in zip(channel.tasks, channel.labels, strict=True)
                if chosen(channel, each)
            ]
            for channel in self.channels
        ]
        first, *others = [row for row in rows if row]
        if any(_questions(row) != _questions(first) for row in others):
            raise UsageError("the sources are asked different things: name one")
        return [(each, labels.classifier.fork()) for each, labels in first], self.channels[0].beside

    def settings(self, source: str) -> list[TaskSettings]:
        """What each task asks of the frames of a source now, in values. Raises LabelsError."""
        self._sets(source, None)
        return [
            task.settings(labels)
            for channel in self.channels
            if channel.name == source
            for task, labels in zip(channel.tasks, channel.labels, strict=True)
        ]

    def explain(self, result: FrameResult, labels: Sequence[str]) -> Explanation:
        """Explain a result of one of the sources. Raises LabelsError, UsageError, EngineError."""
        ((_, classifier),), _ = self.asked(result.origin, result.task)
        return classifier.explain(result.part, labels, result.prediction)

    def write_labels(self, source: str | None = None, task: str | None = None) -> None:
        """Write edited labels into their file. Raises LabelsError."""
        with self._changing:
            sets = self._agreed(source, task)
            if len({each.file for each in sets}) > 1:
                raise LabelsError("the labels came from different files: name one source and task")
            sets[0].write()

    def _replace(
        self, chosen: Callable[[Channel, TaskState], bool], change: Callable[[LiveLabels], LiveLabels]
    ) -> None:
        """Change the labels of the tasks that are chosen, of each source all at once; on any error none of them."""
        changed: dict[int, LiveLabels] = {}
        new: list[tuple[Channel, tuple[LiveLabels, ...]]] = []
        for channel in self.channels:
            row = list(channel.labels)
            for number, (task, labels) in enumerate(zip(channel.tasks, channel.labels, strict=True)):
                if chosen(channel, task):
                    if id(labels) not in changed:
                        changed[id(labels)] = change(labels)
                    row[number] = changed[id(labels)]
            new.append((channel, tuple(row)))
        prompts = _fitting_prompts([labels for _, row in new for labels in row])
        for channel, replaced in new:
            channel.labels, channel.beside = replaced, prompts

    def _agreed(self, source: str | None, task: str | None) -> list[LiveLabels]:
        """The sets of labels of what is named, which have to be the same labels. Raises LabelsError."""
        sets = self._sets(source, task)
        if len({tuple(map(str, each.labels)) for each in sets}) > 1:
            what = "the tasks" if source is not None or len(self.channels) == 1 else "the sources"
            raise LabelsError(f"{what} have different labels: name one")
        return sets

    def _prompts(self, source: str | None, task: str | None) -> list[tuple[Path | None, Prompt]]:
        """Prompt file and prompt of each task that is named. Raises LabelsError."""
        self._sets(source, task)
        chosen = _chosen(source, task)
        return [
            (each.prompt, labels.classifier.prompt)
            for channel in self.channels
            for each, labels in zip(channel.tasks, channel.labels, strict=True)
            if chosen(channel, each)
        ]

    def _sets(self, source: str | None, task: str | None) -> list[LiveLabels]:
        """Labels of what is named, each once. Raises LabelsError."""
        if all(source not in (None, channel.name) for channel in self.channels):
            raise LabelsError(f"there is no source {source}")
        sets = label_sets(self.channels, _chosen(source, task))
        if not sets:
            raise LabelsError(f"there is no task {task}")
        return sets


def label_sets(
    channels: Sequence[Channel], chosen: Callable[[Channel, TaskState], bool] = lambda *_: True
) -> list[LiveLabels]:
    """The labels of all tasks, or of those that are chosen, each once where they share them."""
    found = {}
    for channel in channels:
        for task, labels in zip(channel.tasks, channel.labels, strict=True):
            if chosen(channel, task):
                found[id(labels)] = labels
    return list(found.values())


def _fitting_prompts(every: Sequence[LiveLabels]) -> tuple[Prompt, ...]:
    """The prompts of all sources, each once, because their keys are one table. Raises EngineError: they do not fit."""
    used = list({id(labels): labels.classifier for labels in every}.values())
    require_room(used)
    return tuple({classifier.prompt.digest: classifier.prompt for classifier in used}.values())


def _questions(row: Sequence[tuple[TaskState, LiveLabels]]) -> list[tuple[object, ...]]:
    """What tells tasks of a source from those of another, for an image on its own."""
    return [(task.name, task.rule.threshold, *labels.question) for task, labels in row]


def _chosen(source: str | None, task: str | None) -> Callable[[Channel, TaskState], bool]:
    """Whether a task is one of those that are meant; None means all."""
    return lambda channel, each: source in (None, channel.name) and task in (None, each.name)
