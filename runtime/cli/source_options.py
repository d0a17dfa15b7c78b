"""Options of attri-run about sources and decisions, and the pipeline that they ask for."""

from __future__ import annotations

import functools
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attri.runtime.capture.parse import find_sources, unused_options
from attri.runtime.capture.sources_file import read_sources
from attri.runtime.capture.spec import (
    SOURCE_OPTIONS,
    Choice,
    Number,
    RegionOfInterest,
    SourceOption,
    SourceOptions,
    SourceSpec,
    ValueType,
    WholeNumber,
)
from attri.runtime.cli.command import CAPTURE, LABELS, option
from attri.runtime.cli.task_options import TaskSetups, TaskType, check_prompts, warn_of_thresholds, with_tasks
from attri.runtime.decide.smoothing import DecisionRule
from attri.runtime.decide.task_spec import TaskSpec
from attri.runtime.errors import UsageError
from attri.runtime.pipeline.live_labels import LabelsFile

if TYPE_CHECKING:
    from attri.runtime.classifier import Classifier
    from attri.runtime.pipeline.pipeline import Pipeline

_ATTEMPTS = 5  # to read files that belong together


class RegionType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on
    """x,y,width,height in pixels."""

    name = "x,y,w,h"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the value of an option; click shows what is wrong with it."""
        try:
            x, y, w, h = map(int, value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not x,y,width,height in pixels", param, ctx)
        if not RegionOfInterest().accepts((x, y, w, h)):
            self.fail(f"{value!r} is an empty region of interest: x and y from 0, width and height from 1", param, ctx)
        return x, y, w, h


@dataclass(frozen=True)
class Inputs:
    """Values of the options about sources and decisions.

    Attributes:
        sources: The sources file.
        watch: Whether folders are watched.
        options: How sources are read.
        batch: Frames of files that are classified at once, at most.
        freeze_timeout: Seconds without a new image after which a live source counts as frozen; None is the default.
        max_retries: Failed attempts in a row before a live source is given up; None is the default.
        wait: Whether a live source that is not there at the start is tried as often as one that was lost.
        template: Of all sources that have none of their own; None is the bundle's.
        tasks: Of all sources that have none of their own.
        smooth: Of DecisionRule.
        majority: Likewise.
        min_duration: Likewise.
        min_interval: Of Schedule.
        on_change: Likewise.
    """

    sources: Path | None
    watch: bool
    options: SourceOptions
    batch: int
    freeze_timeout: float | None
    max_retries: int | None
    wait: bool
    template: str | None
    tasks: tuple[TaskSpec, ...]
    smooth: float
    majority: int
    min_duration: float
    min_interval: float
    on_change: bool

    @property
    def gives_up_early(self) -> bool:
        """Whether a live source that is not there at the start is given up after a few attempts."""
        return not self.wait and self.max_retries is None


def _click_option(row: SourceOption) -> Callable[[Any], Any]:
    """Make the option of a command from a row of the table."""
    flags = (row.flag, *row.aliases, row.name)
    return option(CAPTURE, *flags, type=_click_type(row.type), metavar=row.metavar, help=row.help)


def _click_type(type: ValueType) -> Any:
    if isinstance(type, Choice):
        return click.Choice(type.values)
    if isinstance(type, WholeNumber):
        return click.IntRange(type.least, type.most)
    if isinstance(type, Number):
        return click.FloatRange(type.least, type.most)
    return RegionType()


OPTIONS = [
    option(CAPTURE, "--sources", type=click.Path(path_type=Path), help="TOML file with named sources."),
    option(CAPTURE, "--watch", is_flag=True, help="Classify images as they arrive in the folder."),
    *map(_click_option, SOURCE_OPTIONS),
    option(
        CAPTURE,
        "--batch",
        type=click.IntRange(1),
        default=4,
        show_default=True,
        help="Frames of files to classify at once; cameras and streams go one by one.",
    ),
    option(
        CAPTURE,
        "--freeze-timeout",
        type=click.FloatRange(0),
        metavar="SECONDS",
        help="Reopen a camera or stream after so long without a new image; 0 is never. [10]",
    ),
    option(
        CAPTURE,
        "--max-retries",
        type=click.IntRange(0),
        help="Failed attempts in a row to open a camera or stream before it is given up. [20; 2 at the start]",
    ),
    option(CAPTURE, "--wait", is_flag=True, help="Wait for cameras and streams that are not there at the start."),
    option(
        LABELS,
        "--task",
        "tasks",
        type=TaskType(),
        multiple=True,
        metavar="NAME=PROMPT[:LABELS]",
        help="One of several tasks on one vision pass; may be repeated. [the bundle's prompt; --labels]",
    ),
    option(LABELS, "--template", help="Sentence around each label, with {} in its place. [the bundle's own]"),
    option(
        LABELS,
        "--smooth",
        type=click.FloatRange(0),
        default=0.0,
        metavar="SECONDS",
        help="Average scores over time, with this time constant.",
    ),
    option(
        LABELS,
        "--majority",
        type=click.IntRange(1),
        default=1,
        metavar="N",
        help="Take the most frequent label of the last N frames.",
    ),
    option(
        LABELS,
        "--min-duration",
        type=click.FloatRange(0),
        default=0.0,
        metavar="SECONDS",
        help="A label must last this long before it is decided.",
    ),
    option(
        LABELS,
        "--min-interval",
        type=click.FloatRange(0),
        default=0.0,
        metavar="SECONDS",
        help="At most one result per interval.",
    ),
    option(LABELS, "--on-change", is_flag=True, help="Only results whose label differs from the previous one."),
]


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command these options; its function gets their values as one argument, `inputs`."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        options = SourceOptions(**{option.name: kwargs.pop(option.name) for option in SOURCE_OPTIONS})
        values = {field.name: kwargs.pop(field.name) for field in fields(Inputs) if field.name != "options"}
        inputs = Inputs(options=options, **values)
        return command(*args, inputs=inputs, **kwargs)

    for add in reversed(OPTIONS):
        wrapper = add(wrapper)
    return wrapper


def read_inputs(
    words: tuple[str, ...], inputs: Inputs, labels: Path | None
) -> tuple[list[SourceSpec], dict[Path, LabelsFile]]:
    """Read the sources that were asked for and the labels files of all of them, as they were at one moment.

    A folder that is replaced meanwhile (a link that is turned to a new version) would give the sources of one version
    with the labels of the other: then all files are read again.

    Prompt files of tasks are read too, to see that they can be used.

    Raises:
        UsageError: The sources cannot be used, or their file is still changing after some attempts.
        LabelsError: A labels file cannot be used.
        BundleError: A prompt file cannot be used.
    """
    for _ in range(_ATTEMPTS):
        before = _version(inputs.sources)
        try:
            specs = find_inputs(words, inputs)
            files = read_labels_files(specs, labels)
            check_prompts(specs)
        except UsageError:
            if _version(inputs.sources) == before:
                raise
            continue
        if _version(inputs.sources) == before:
            return specs, files
    raise UsageError(f"{inputs.sources} changes while it is read: start again when it is written")


def _version(path: Path | None) -> object:
    """What tells one version of a file from another; None for a pipe, which can be read only once, or no file."""
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def find_inputs(words: tuple[str, ...], inputs: Inputs) -> list[SourceSpec]:
    """Find the sources that were asked for; all of the sources file, where none is named.

    Raises:
        UsageError: There is no such source, or none that takes an option that was given.
    """
    named = read_sources(inputs.sources) if inputs.sources else {}
    if not words and not named:
        raise UsageError("name a SOURCE: camera0, rtsp://..., a video, an image, a folder; or give --sources")
    specs = find_sources(words or tuple(named), named, inputs.options, inputs.watch)
    specs = with_tasks(specs, inputs.tasks)
    if message := next(_unused(specs, inputs), None):
        raise UsageError(message)
    return specs


def _unused(specs: Sequence[SourceSpec], inputs: Inputs) -> Iterator[str]:
    """What to say of options that none of the sources takes."""
    if unused := sorted(option.flag for option in unused_options(specs, inputs.options)):
        yield f"{', '.join(unused)}: none of the sources takes it"
    if inputs.watch and not any(spec.kind == "watch" for spec in specs):
        yield "--watch: name a folder"
    live = {
        "--freeze-timeout": inputs.freeze_timeout,
        "--max-retries": inputs.max_retries,
        "--wait": inputs.wait or None,
    }
    if (unused := [flag for flag, value in live.items() if value is not None]) and not any(s.live for s in specs):
        yield f"{', '.join(unused)}: none of the sources is a camera or stream"
    over_time = {"--smooth": inputs.smooth, "--majority": inputs.majority - 1, "--min-duration": inputs.min_duration}
    if (unused := [flag for flag, value in over_time.items() if value]) and not any(s.sequential for s in specs):
        yield f"{', '.join(unused)}: none of the sources takes it, an image says nothing of the next"
    if inputs.smooth > 0 and inputs.majority > 1:
        yield "--smooth and --majority are two ways to one end: give one of them"


def check_compare(specs: Sequence[SourceSpec], inputs: Inputs) -> None:
    """Check that --compare has something to compare.

    Raises:
        UsageError: A source has fewer than two tasks, or not every frame is a result.
    """
    if alone := next((spec.name for spec in specs if len(spec.tasks) < 2), None):
        raise UsageError(f"--compare: {alone} has no two tasks to compare: give --task twice or more")
    if inputs.on_change or inputs.min_interval:
        raise UsageError("--compare looks at every frame: leave out --on-change and --min-interval")


def read_labels_files(specs: Sequence[SourceSpec], labels: Path | None) -> dict[Path, LabelsFile]:
    """Read the labels files of all sources, each once: a pipe can be read only once.

    Raises:
        LabelsError: A file cannot be used.
    """
    own = [task.labels for spec in specs for task in spec.tasks]
    paths = dict.fromkeys([labels, *(spec.labels for spec in specs), *own])
    return {path: LabelsFile.read(path) for path in paths if path is not None}


def open_pipeline(
    specs: Sequence[SourceSpec],
    classifier: Classifier,
    files: Mapping[Path, LabelsFile],
    labels: Path | None,
    inputs: Inputs,
    prompt: Path | None = None,
) -> Pipeline:
    """Make the pipeline: tasks with their labels and decision rules, and the retry policy of each source.

    Args:
        specs: The sources.
        classifier: Each set of labels gets its own, with the same engines and text cache.
        files: The labels files that were read.
        labels: The labels file of sources and tasks that have none of their own.
        inputs: The options.
        prompt: The prompt file of tasks that have none of their own; the classifier has its prompt.

    Raises:
        LabelsError: The labels cannot be used.
        BundleError: A prompt file cannot be used.
        EngineError: The prompts have more pool entries together than the engine takes.
    """
    from attri.runtime.capture.retry import RetryPolicy
    from attri.runtime.decide.schedule import Schedule
    from attri.runtime.pipeline.pipeline import Pipeline

    tasks = TaskSetups(classifier, files, labels, inputs.template, prompt)
    rule = DecisionRule(inputs.smooth, inputs.majority, inputs.min_duration)
    setups = [tasks.of_source(spec, rule) for spec in specs]
    warn_of_thresholds(setups)
    policy = RetryPolicy()
    if inputs.max_retries is not None:
        policy = replace(policy, max_retries=inputs.max_retries, first_retries=None)
    if inputs.wait:
        policy = replace(policy, first_retries=None)
    if inputs.freeze_timeout is not None:
        policy = replace(policy, freeze_timeout=inputs.freeze_timeout)
    schedule = Schedule(inputs.min_interval, inputs.on_change)
    return Pipeline(specs, setups, schedule, policy, inputs.batch)
