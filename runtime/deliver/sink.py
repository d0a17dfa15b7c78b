"""Interfaces between the pipeline and its sinks: what a sink implements, and what it may ask of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from attri.runtime.deliver.result import FrameResult, SourceHealth
from attri.runtime.prompt import Prompt

SinkFilter = Literal["scheduled", "every_frame", "changes"]


class Sink(Protocol):
    """A destination of results. The pipeline calls each sink from one thread, in order.

    Attributes:
        name: Name in logs and in the summary at the end.
        lossless: True: the sink gets every frame of files, and files wait for it. False: when it is slow, the oldest
            results are dropped.
        takes: Which results it gets: "scheduled" (what the options for interval and change let through),
            "every_frame", or "changes" of the label alone.
    """

    name: str
    lossless: bool
    takes: SinkFilter

    def write(self, result: FrameResult) -> None:
        """Take one result; may block.

        Raises:
            SinkError: The result is lost. It is counted and logged once; the sink and all others go on.
        """
        ...

    def close(self) -> None:
        """Finish what was written and release what the sink holds."""
        ...


@runtime_checkable
class SourceFollower(Protocol):
    """A sink that keeps something per source and releases it when the source has ended."""

    def source_ended(self, origin: str) -> None:
        """Called after the last result of this source was written.

        Raises:
            SinkError: As `Sink.write` does.
        """
        ...


@dataclass(frozen=True)
class LabelsOrigin:
    """Where the labels in use come from.

    Attributes:
        file: The labels file that they can be written to; None if there is none, or more than one.
        edited: Whether they differ from the file since they were changed at run time.
        sources: All sources that take their labels from the file.
    """

    file: str | None
    edited: bool
    sources: tuple[str, ...]


class PipelineControl(Protocol):
    """What a sink may ask of the running pipeline: labels, prompts and health of its sources.

    `source` None means all sources, and `task` None all their tasks.
    """

    def labels(self, source: str | None = None, task: str | None = None) -> list[str]:
        """Lines of a labels file (a label, its prompts behind it), without duplicates.

        Raises:
            LabelsError: There is no such source or task.
        """
        ...

    def labels_text(self, source: str | None = None, task: str | None = None) -> str:
        """The labels file with its comments.

        Raises:
            LabelsError: There is no such source or task, or those that are meant have different labels.
        """
        ...

    def labels_origin(self, source: str | None = None, task: str | None = None) -> LabelsOrigin:
        """Where the labels come from.

        Raises:
            LabelsError: There is no such source or task.
        """
        ...

    def set_labels(self, text: str, source: str | None = None, task: str | None = None) -> None:
        """Use `text`, a labels file.

        Raises:
            LabelsError: The text holds no usable labels, or there is no such source or task; nothing was changed.
        """
        ...

    def write_labels(self, source: str | None = None, task: str | None = None) -> None:
        """Write the labels in use into the file that they came from.

        Raises:
            LabelsError: There is not exactly one such file, or it must not be written.
            FailedError: The file cannot be written.
        """
        ...

    def prompts(self, source: str | None = None, task: str | None = None) -> list[Prompt]:
        """The learned prompts in use, each once.

        Raises:
            LabelsError: There is no such source or task.
        """
        ...

    def set_prompt(self, prompt: Prompt, source: str | None = None, task: str | None = None) -> None:
        """Use a learned prompt from the next frame on.

        Raises:
            BundleError: It was made for other graphs; nothing was changed.
            EngineError: It has more pool entries than the engine takes; nothing was changed.
            LabelsError: The labels cannot be used with it, or there is no such source or task; nothing was changed.
        """
        ...

    def health(self) -> list[SourceHealth]:
        """State and counters of every source, in the order of the command line."""
        ...
