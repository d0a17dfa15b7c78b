"""Labels of the sources of a running pipeline: read, changed and written by whoever may ask for it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from attri.runtime.deliver.sink import LabelsOrigin
from attri.runtime.errors import LabelsError
from attri.runtime.pipeline.channel import Channel
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.prompt import Prompt


class LabelControl:
    """The labels of all sources, for PipelineControl. All methods may be called from any thread.

    Attributes:
        channels: Of each source; some may share their labels, until those of one alone are changed.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        self.channels = channels
        self._changing = threading.Lock()

    def labels(self, source: str | None = None) -> list[str]:
        """Lines of the labels of a source, or of all sources, each once."""
        lines = (str(label) for labels in label_sets(self._channels_named(source)) for label in labels.labels)
        return list(dict.fromkeys(lines))

    def labels_text(self, source: str | None = None) -> str:
        """The labels of a source, or of all, as one text. Raises LabelsError."""
        return self._agreed(source)[0].text

    def labels_origin(self, source: str | None = None) -> LabelsOrigin:
        """Which file the labels came from, and whether they were edited since."""
        sets = label_sets(self._channels_named(source))
        files = {each.file for each in sets}
        file = files.pop() if len(files) == 1 else None
        readers = [channel.reader.spec.name for channel in self.channels if file and channel.labels.file == file]
        return LabelsOrigin(None if file is None else str(file), any(each.edited for each in sets), tuple(readers))

    def set_labels(self, text: str, source: str | None = None) -> None:
        """Replace the labels of a source, or of all. Raises LabelsError, and then changes nothing."""
        with self._changing:
            chosen = self._channels_named(source)
            changed = {id(each): each.fork(text) for each in label_sets(chosen)}  # all of them, or it raises before any
            for channel in chosen:
                channel.labels = changed[id(channel.labels)]

    def set_prompt(self, prompt: Prompt) -> None:
        """Replace the learned prompt of all sources between two frames. Raises AttriError, and then changes nothing."""
        with self._changing:
            changed = {id(each): each.with_prompt(prompt) for each in label_sets(self.channels)}
            for channel in self.channels:
                channel.labels = changed[id(channel.labels)]

    def write_labels(self, source: str | None = None) -> None:
        """Write edited labels into their file. Raises LabelsError."""
        with self._changing:
            sets = self._agreed(source)
            if len({each.file for each in sets}) > 1:
                raise LabelsError("the labels of the sources came from different files: name one source")
            sets[0].write()

    def _agreed(self, source: str | None) -> list[LiveLabels]:
        """The sets of labels of a source, or of all, which have to be the same labels. Raises LabelsError."""
        sets = label_sets(self._channels_named(source))
        if len({tuple(map(str, each.labels)) for each in sets}) > 1:
            raise LabelsError("the sources have different labels: name one")
        return sets

    def _channels_named(self, source: str | None) -> list[Channel]:
        """The source of this name; all, where it is None."""
        found = [channel for channel in self.channels if source in (None, channel.reader.spec.name)]
        if not found:
            raise LabelsError(f"there is no source {source}")
        return found


def label_sets(channels: Sequence[Channel]) -> list[LiveLabels]:
    """Their labels, each once where they share them."""
    return list({id(channel.labels): channel.labels for channel in channels}.values())
