"""Labels and prompts of a running pipeline's sources and tasks: read, changed and written by whoever may ask for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from attri.runtime.classifier import require_room
from attri.runtime.deliver.sink import LabelsOrigin
from attri.runtime.errors import LabelsError
from attri.runtime.pipeline.channel import Channel
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.pipeline.task import TaskState
from attri.runtime.prompt import Prompt


class LabelControl:
    """The labels of all sources and tasks, for PipelineControl. All methods may be called from any thread.

    Args and errors are those of PipelineControl: `source` None means all sources, and `task` None all their tasks.

    Attributes:
        channels: Of each source; some may share their labels, until those of one alone are changed.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        self.channels = channels
        self._changing = threading.Lock()

    def labels(self, source: str | None = None, task: str | None = None) -> list[str]:
        """Lines of the labels, each once."""
        lines = (str(label) for labels in self._sets(source, task) for label in labels.labels)
        return list(dict.fromkeys(lines))

    def labels_text(self, source: str | None = None, task: str | None = None) -> str:
        """The labels as one text. Raises LabelsError."""
        return self._agreed(source, task)[0].text

    def labels_origin(self, source: str | None = None, task: str | None = None) -> LabelsOrigin:
        """Which file the labels came from, and whether they were edited since."""
        sets = self._sets(source, task)
        files = {each.file for each in sets}
        file = files.pop() if len(files) == 1 else None
        readers = [each.name for each in self.channels if file and file in [labels.file for labels in each.labels]]
        return LabelsOrigin(None if file is None else str(file), any(each.edited for each in sets), tuple(readers))

    def set_labels(self, text: str, source: str | None = None, task: str | None = None) -> None:
        """Replace the labels. Raises LabelsError, and then changes nothing."""
        with self._changing:
            self._sets(source, task)
            self._replace(_chosen(source, task), lambda labels: labels.fork(text))

    def prompts(self, source: str | None = None, task: str | None = None) -> list[Prompt]:
        """The learned prompts in use, each once. Raises LabelsError."""
        found = (labels.classifier.prompt for labels in self._sets(source, task))
        return list({prompt.digest: prompt for prompt in found}.values())

    def set_prompt(self, prompt: Prompt, source: str | None = None, task: str | None = None) -> None:
        """Replace the learned prompt between two frames. Raises AttriError, and then changes nothing."""
        with self._changing:
            self._sets(source, task)
            self._replace(_chosen(source, task), lambda labels: labels.with_prompt(prompt))

    def take_prompt(self, file: Path, prompt: Prompt) -> None:
        """Replace the learned prompt of all tasks that have it from this file. Raises AttriError, as `set_prompt`."""
        with self._changing:
            self._replace(lambda _, task: task.prompt == file, lambda labels: labels.with_prompt(prompt))

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
            require_room([labels.classifier for labels in row])
            new.append((channel, tuple(row)))
        for channel, replaced in new:
            channel.labels = replaced

    def _agreed(self, source: str | None, task: str | None) -> list[LiveLabels]:
        """The sets of labels of what is named, which have to be the same labels. Raises LabelsError."""
        sets = self._sets(source, task)
        if len({tuple(map(str, each.labels)) for each in sets}) > 1:
            what = "the tasks" if source is not None or len(self.channels) == 1 else "the sources"
            raise LabelsError(f"{what} have different labels: name one")
        return sets

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


def _chosen(source: str | None, task: str | None) -> Callable[[Channel, TaskState], bool]:
    """Whether a task is one of those that are meant; None means all."""
    return lambda channel, each: source in (None, channel.name) and task in (None, each.name)
