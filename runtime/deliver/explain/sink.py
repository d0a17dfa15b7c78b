"""The sink of explanations: for each image a PNG with heat maps, and the same in numbers as JSON beside it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from attri.runtime._util.atomic import write_file
from attri.runtime._util.printable import json_text
from attri.runtime.deliver.explain.panels import explanation_json, labels_to_explain, panels_png
from attri.runtime.deliver.format import file_name, json_object
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import PipelineControl, SinkFilter
from attri.runtime.errors import AttriError, SinkError, UsageError


class ExplainSink:
    """Writes NAME.png and NAME.json for each image, and for each change of the label in a video.

    Args:
        folder: Created if it does not exist. Files of the same names are replaced, others are left alone.
        control: Explains results.
        topk: Labels in the JSON.

    Raises:
        UsageError: The folder cannot be used.
    """

    name = "explanations"
    lossless = True
    takes: SinkFilter = "scheduled"

    def __init__(self, folder: Path, control: PipelineControl, topk: int) -> None:
        self._folder, self._control, self._topk = folder, control, topk
        self._written: dict[str, tuple[str, int]] = {}  # source and frame by name of file
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder}: {error.strerror or error}") from error

    def write(self, result: FrameResult) -> None:
        """Explain a result and write both files.

        Raises:
            SinkError: It cannot be explained, or the disk does not take it.
        """
        if result.live or not (result.still or result.changed):
            return  # a camera that was added meanwhile has no end
        try:
            explanation = self._control.explain(result, labels_to_explain(result))
            image = panels_png(Image.fromarray(result.part), explanation)
            text = json_text(json_object(result, self._topk) | explanation_json(explanation, result)) + "\n"
            name = self._name(result)
            write_file(self._folder / f"{name}.png", image)
            write_file(self._folder / f"{name}.json", text.encode())
        except OSError as error:
            raise SinkError(f"{self._folder}: {getattr(error, 'strerror', None) or error}") from error
        except AttriError as error:
            raise SinkError(f"{result.source} cannot be explained: {error}") from error

    def close(self) -> None:
        """Nothing is open between results."""

    def _name(self, result: FrameResult) -> str:
        """A name for the files of a result, the same in every run: long paths may end alike, and get a number."""
        words = [result.source, *([] if result.task is None else [result.task])]
        stem = "_".join([*map(file_name, words), *([] if result.still else [str(result.frame)])])
        name, number, owner = stem, 1, (result.source, result.frame)
        while self._written.setdefault(name, owner) != owner:
            number += 1
            name = f"{stem}-{number}"
        return name
