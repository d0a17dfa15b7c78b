"""Interfaces between the pipeline and its sinks: what a sink implements, and what it may ask of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.deliver.result import FrameResult, Load, SourceHealth
from attri.runtime.deliver.updates.exchange import TaskSettings
from attri.runtime.errors import ImageError
from attri.runtime.explain.explanation import Explanation
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
class FileOrigin:
    """Where the labels, the learned prompt, or the regions in use come from.

    Attributes:
        file: The file that they can be written to; None if there is none, or more than one.
        edited: Whether they differ from the file since they were changed at run time.
        sources: All sources that have them from the file.
    """

    file: str | None
    edited: bool
    sources: tuple[str, ...]


class SourceAbout(NamedTuple):
    """What is told of a source to whom may change it.

    Attributes:
        name: Of the source.
        kind: A key of `attri.runtime.capture.spec.KINDS`.
        paused: Whether it is paused.
    """

    name: str
    kind: str
    paused: bool


class RegionsAbout(NamedTuple):
    """What is told of the regions of a source to whom may change them.

    Attributes:
        rois: x, y, width and height of each, pixels, by name.
        roi: Of the only one, where it has no name; None is the whole frame.
        image: The newest whole frame, in which they lie; None before the first.
    """

    rois: Mapping[str, tuple[int, int, int, int]]
    roi: tuple[int, int, int, int] | None
    image: Image.Image | NDArray[np.uint8] | None


class SentImage(NamedTuple):
    """An image that somebody sends to be classified.

    Attributes:
        name: As the result is to call it.
        data: Of its file.
    """

    name: str
    data: bytes


class PipelineControl(Protocol):
    """What a sink may ask of the running pipeline: labels, prompts and health of its sources, and to classify images.

    `source` None means all sources, and `task` None all their tasks.
    """

    def independent(self, source: str | None = None, task: str | None = None) -> bool:
        """Whether labels are independent: several may hold at once.

        Raises:
            LabelsError: There is no such source or task.
        """
        ...

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

    def labels_origin(self, source: str | None = None, task: str | None = None) -> FileOrigin:
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
            LabelsError: There is not exactly one such file.
            UsageError: The file must not be written.
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

    def prompt_origin(self, source: str | None = None, task: str | None = None) -> FileOrigin:
        """Where the learned prompt comes from.

        Raises:
            LabelsError: There is no such source or task.
        """
        ...

    def write_prompt(self, source: str | None = None, task: str | None = None) -> None:
        """Write the learned prompt in use into the file that it came from, for all that have it from there.

        Raises:
            UsageError: There is not exactly one such prompt and file, or the file must not be written.
            FailedError: The file cannot be written.
        """
        ...

    def classify(
        self, images: Sequence[SentImage], source: str | None = None, task: str | None = None
    ) -> list[list[FrameResult] | ImageError]:
        """Classify images that are no frames of a source, as a source's frames are; no sink gets the results.

        Returns:
            For each image its results, one for each task; of one that cannot be read, the error.

        Raises:
            LabelsError: There is no such source or task.
            UsageError: Sources that are meant are asked different things.
            EngineError: The engine failed.
        """
        ...

    def settings(self, source: str) -> list[TaskSettings]:
        """What each task asks of the frames of a source now, so that another process can ask the same.

        Raises:
            LabelsError: There is no such source.
        """
        ...

    def explain(self, result: FrameResult, labels: Sequence[str]) -> Explanation:
        """Say which parts of what a result was made of speak for some of the labels.

        Raises:
            LabelsError: Its source or task is gone.
            UsageError: The bundle was exported without what that needs, or a label is not in use any more.
            EngineError: The engine failed.
        """
        ...

    def sources(self) -> list[SourceAbout]:
        """The sources, in order; one with regions is one."""
        ...

    def change_sources(self, tables: Mapping[str, Any]) -> None:
        """Add, replace, remove, pause or resume sources.

        Args:
            tables: By names: a table of the sources file; {"paused": true or false}; or None, to remove it.

        Raises:
            AttriError: One cannot be; nothing was changed.
        """
        ...

    def regions(self, source: str) -> RegionsAbout:
        """What is known of the regions of a source.

        Raises:
            LabelsError: There is no such source.
            UsageError: Sources cannot be changed.
        """
        ...

    def set_regions(self, source: str, rois: Mapping[str, Any]) -> None:
        """Use these regions from the next frame on; those that stay as they are keep what is remembered of them.

        Args:
            source: Name of the source.
            rois: x, y, width and height, pixels, by names; none is the whole frame.

        Raises:
            AttriError: There is no such source, or a region cannot be; nothing was changed.
        """
        ...

    def regions_origin(self, source: str) -> FileOrigin:
        """Whether the regions in use are those of the sources file.

        Raises:
            LabelsError: There is no such source.
            UsageError: Sources cannot be changed.
        """
        ...

    def write_regions(self, source: str) -> None:
        """Write the regions in use into the sources file.

        Raises:
            LabelsError: There is no such source.
            UsageError: It is not from a sources file, or the file must not be written.
            FailedError: The file cannot be written.
        """
        ...

    def health(self) -> list[SourceHealth]:
        """State and counters of every source, in the order of the command line."""
        ...

    def load(self) -> Load:
        """How busy the classifier is, and with what."""
        ...
