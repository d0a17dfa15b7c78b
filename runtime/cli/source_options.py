"""What is classified, and how results become decisions: the options that say so."""

from __future__ import annotations

import copy
import functools
import logging
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attri.runtime.capture.spec import CODECS, FLIPS, InputOptions, SourceSpec, find_sources, read_sources
from attri.runtime.errors import UsageError

if TYPE_CHECKING:
    from attri.runtime.classifier import Classifier
    from attri.runtime.pipeline.live_labels import LabelsFile
    from attri.runtime.pipeline.pipeline import Pipeline


_LOGGER = logging.getLogger("attri")
_ATTEMPTS = 5  # to read files that belong together


class RoiType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on
    """x,y,width,height in pixels."""

    name = "x,y,w,h"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            x, y, w, h = map(int, value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not x,y,width,height in pixels", param, ctx)
        if x < 0 or y < 0 or w < 1 or h < 1:
            self.fail(f"{value!r} holds no pixels of a frame", param, ctx)
        return x, y, w, h


@dataclass(frozen=True)
class Inputs:
    """The values of the options below, by their names."""

    sources: Path | None
    watch: bool
    input_width: int | None
    input_height: int | None
    input_rate: float | None
    input_codec: str | None
    input_flip: str | None
    input_latency: int | None
    input_loop: int | None
    input_megapixels: float | None
    stride: int | None
    batch: int
    roi: tuple[int, int, int, int] | None
    retrieval_hysteresis: float | None
    freeze_timeout: float | None
    max_retries: int | None
    template: str | None
    smooth: float
    majority: int
    min_duration: float
    min_interval: float
    on_change: bool


_POSITIVE = click.FloatRange(0, min_open=True)
OPTIONS = [
    click.option("--sources", type=click.Path(path_type=Path), help="TOML file with named sources."),
    click.option("--watch", is_flag=True, help="Classify pictures as they arrive in the folder."),
    click.option("--input-width", type=click.IntRange(1), help="Of a camera, pixels."),
    click.option("--input-height", type=click.IntRange(1), help="Of a camera, pixels."),
    click.option("--input-rate", "--input-framerate", type=_POSITIVE, help="Of a camera, frames per second."),
    click.option("--input-codec", type=click.Choice(CODECS), help="Of a V4L2 camera. [mjpeg]"),
    click.option("--input-flip", type=click.Choice(FLIPS), help="Turn or mirror frames."),
    click.option(
        "--input-latency",
        "--input-rtsp-latency",
        type=click.IntRange(0),
        metavar="MS",
        help="RTSP over UDP, and how long to wait for late packets. [RTSP over TCP]",
    ),
    click.option("--input-loop", type=click.IntRange(-1), help="Play files again so often; -1 for ever."),
    click.option(
        "--input-megapixels",
        type=_POSITIVE,
        metavar="N",
        help="Largest image file to decode, millions of pixels. [268]",
    ),
    click.option("--stride", "--vid-stride", type=click.IntRange(1), help="Take every so many frames."),
    click.option(
        "--batch",
        type=click.IntRange(1),
        default=4,
        show_default=True,
        help="Frames of files that are classified at once; cameras and streams go one by one.",
    ),
    click.option("--roi", type=RoiType(), help="Region to classify, pixels."),
    click.option(
        "--retrieval-hysteresis",
        type=click.FloatRange(0, 2),
        metavar="MARGIN",
        help="Keep a video's pool entries until others are ahead by this cosine; more frames come from the cache.",
    ),
    click.option(
        "--freeze-timeout",
        type=click.FloatRange(0),
        metavar="SECONDS",
        help="Without a new picture for so long is a fault of a camera or stream; 0 lets it stand still. [10]",
    ),
    click.option("--max-retries", type=click.IntRange(0), help="To open a camera or stream again, in a row. [20]"),
    click.option("--template", help="Sentence around each label, with {} in its place. [the bundle's own]"),
    click.option(
        "--smooth", type=click.FloatRange(0), default=0.0, metavar="SECONDS", help="Average scores over about so long."
    ),
    click.option(
        "--majority",
        type=click.IntRange(1),
        default=1,
        metavar="N",
        help="Take the label of most of the last N frames.",
    ),
    click.option(
        "--min-duration",
        type=click.FloatRange(0),
        default=0.0,
        metavar="SECONDS",
        help="A label must hold so long to be decided.",
    ),
    click.option(
        "--min-interval",
        type=click.FloatRange(0),
        default=0.0,
        metavar="SECONDS",
        help="At most one result in so long.",
    ),
    click.option("--on-change", is_flag=True, help="Only results whose label differs from the one before."),
]


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command the options above; its function gets them as one argument, `inputs`."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        inputs = Inputs(**{field.name: kwargs.pop(field.name) for field in fields(Inputs)})
        return command(*args, inputs=inputs, **kwargs)

    for option in reversed(OPTIONS):
        wrapper = option(wrapper)
    return wrapper


def read_inputs(
    words: tuple[str, ...], inputs: Inputs, labels: Path | None
) -> tuple[list[SourceSpec], dict[Path, LabelsFile]]:
    """The sources that were asked for and the labels files of all of them, as they were at one moment.

    A folder that is replaced meanwhile (a link that is turned to a new version) would give the sources of one version
    with the labels of the other: then all files are read again.

    Raises:
        UsageError, LabelsError: A file cannot be used, or the sources file is still changing after some attempts.
    """
    for _ in range(_ATTEMPTS):
        before = _version(inputs.sources)
        try:
            specs = find_inputs(words, inputs)
            files = read_labels_files(specs, labels)
        except UsageError:
            if _version(inputs.sources) == before:
                raise
            continue
        if _version(inputs.sources) == before:
            return specs, files
    raise UsageError(f"{inputs.sources} changes while it is read: start again when it is written")


def _version(path: Path | None) -> object:
    """Tells one version of a file from another; None for a pipe, which can be read only once, or no file."""
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def find_inputs(words: tuple[str, ...], inputs: Inputs) -> list[SourceSpec]:
    """The sources that were asked for; all of the sources file, where none is named. Raises UsageError."""
    named = read_sources(inputs.sources) if inputs.sources else {}
    if not words and not named:
        raise UsageError("name a SOURCE: camera0, rtsp://..., a video, a picture, a folder; or give --sources")
    options = {each.name: getattr(inputs, each.name, None) for each in fields(InputOptions)}
    options |= {
        each.name: getattr(inputs, f"input_{each.name}")
        for each in fields(InputOptions)
        if hasattr(inputs, f"input_{each.name}")
    }
    specs = find_sources(words or tuple(named), named, InputOptions(**options), inputs.watch)
    given = {"--freeze-timeout": inputs.freeze_timeout, "--max-retries": inputs.max_retries}
    if (idle := [name for name, value in given.items() if value is not None]) and not any(spec.live for spec in specs):
        raise UsageError(f"{', '.join(idle)}: none of the sources is a camera or stream")
    over_time = {"--smooth": inputs.smooth, "--majority": inputs.majority - 1, "--min-duration": inputs.min_duration}
    if (idle := [name for name, value in over_time.items() if value]) and not any(map(_goes_on, specs)):
        raise UsageError(f"{', '.join(idle)}: none of the sources takes it, a picture says nothing of the next")
    return specs


def _goes_on(spec: SourceSpec) -> bool:
    """Whether one frame has to do with the next."""
    return spec.kind != "images"


def read_labels_files(specs: Sequence[SourceSpec], labels: Path | None) -> dict[Path, LabelsFile]:
    """The files of all sources, each read once: a pipe says what it has to say only once. Raises LabelsError."""
    from attri.runtime.pipeline.live_labels import LabelsFile

    paths = dict.fromkeys([labels, *(spec.labels for spec in specs)])
    return {path: LabelsFile.read(path) for path in paths if path is not None}


def open_pipeline(
    specs: Sequence[SourceSpec],
    classifier: Classifier,
    files: Mapping[Path, LabelsFile],
    labels: Path | None,
    inputs: Inputs,
) -> Pipeline:
    """Labels, rules and patience for each source; `labels` is the file of those that have none of their own.

    Raises LabelsError, UsageError.
    """
    from attri.runtime.capture.reader import RetryPolicy
    from attri.runtime.decide.smoothing import DecisionRule
    from attri.runtime.pipeline.live_labels import LiveLabels
    from attri.runtime.pipeline.pipeline import Pipeline, Schedule

    sets: dict[tuple[Path | None, str | None], LiveLabels] = {}
    chosen, rules = [], []
    for spec in specs:
        path, template = key = (spec.labels or labels, inputs.template if spec.template is None else spec.template)
        if key not in sets:
            # The same graphs and cache, other labels.
            sets[key] = LiveLabels(copy.copy(classifier), None if path is None else files[path], template)
        chosen.append(sets[key])
        rule = DecisionRule(threshold=spec.threshold)
        if _goes_on(spec):
            rule = replace(rule, smooth=inputs.smooth, majority=inputs.majority, min_duration=inputs.min_duration)
        rules.append(rule)
    rejecting = [labels for labels, spec in zip(chosen, specs, strict=True) if spec.threshold is None]
    if any(labels.classifier.leaves_threshold for labels in rejecting):
        _LOGGER.warning("the bundle's threshold is for its own labels and not applied to others: give --threshold")
    asked = {"retries": inputs.max_retries, "frozen": inputs.freeze_timeout}
    patience = RetryPolicy(**{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]  # of both types
    return Pipeline(specs, chosen, rules, Schedule(inputs.min_interval, inputs.on_change), patience, inputs.batch)
