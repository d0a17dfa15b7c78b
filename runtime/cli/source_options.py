"""Options of attri-run about sources and decisions, and the pipeline that they ask for."""

from __future__ import annotations

import functools
import logging
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attri.runtime.capture.orientation import Region
from attri.runtime.capture.parse import find_sources, unused_options
from attri.runtime.capture.sources_file import read_sources
from attri.runtime.capture.spec import (
    SOURCE_OPTIONS,
    Choice,
    Number,
    RegionOfInterest,
    RegionSpec,
    SourceOption,
    SourceOptions,
    SourceSpec,
    ValueType,
    WholeNumber,
)
from attri.runtime.cli.command import CAPTURE, LABELS, option
from attri.runtime.cli.model_options import TASK, TEMPLATE
from attri.runtime.cli.task_options import TaskSetups, check_prompts, warn_of_thresholds, with_tasks
from attri.runtime.decide.smoothing import DecisionRule
from attri.runtime.decide.task_spec import TaskSpec
from attri.runtime.errors import UsageError
from attri.runtime.pipeline.live_labels import LabelsFile
from attri.runtime.task import check_task_name

if TYPE_CHECKING:
    from attri.runtime.capture.reader import Opener
    from attri.runtime.classifier import Classifier
    from attri.runtime.pipeline.pipeline import Pipeline

_LOGGER = logging.getLogger("attri")
_ATTEMPTS = 5  # to read files that belong together


class RegionType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on
    """x,y,width,height in pixels, or NAME=x,y,width,height."""

    name = "[NAME=]x,y,w,h"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the value of an option; click shows what is wrong with it."""
        name, equals, numbers = value.rpartition("=")
        try:
            x, y, w, h = map(int, numbers.split(","))
        except ValueError:
            self.fail(f"{value!r} is not x,y,width,height in pixels", param, ctx)
        if not RegionOfInterest().accepts((x, y, w, h)):
            self.fail(f"{value!r} is an empty region of interest: x and y from 0, width and height from 1", param, ctx)
        if not equals:
            return x, y, w, h
        try:
            check_task_name(name, "region")
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return RegionSpec(name, (x, y, w, h))


@dataclass(frozen=True)
class Inputs:
    """Values of the options about sources and decisions.

    Attributes:
        sources: The sources file.
        watch: Whether folders are watched.
        options: How sources are read.
        regions: Of all sources that have none of their own.
        max_batch: Frames that are classified at once, at most; None is to be measured.
        gather: Milliseconds that a frame of a live source may wait for those of others.
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
    regions: tuple[RegionSpec, ...]
    max_batch: int | None
    gather: float
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
    several = isinstance(row.type, RegionOfInterest)
    return option(CAPTURE, *flags, type=_click_type(row.type), metavar=row.metavar, help=row.help, multiple=several)


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
        "--max-batch",
        type=click.IntRange(1),
        help="Frames of all sources to classify at once, at most. [measured, once for a machine and a bundle]",
    ),
    option(
        CAPTURE,
        "--gather",
        type=click.FloatRange(0, 10_000),
        default=0.0,
        metavar="MS",
        help="Let a frame wait so long for those of other cameras and streams, to save runs of the model. [0]",
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
    TASK,
    TEMPLATE,
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
        given = {option.name: kwargs.pop(option.name) for option in SOURCE_OPTIONS}
        given["roi"], regions = _told_apart(given["roi"])
        own: dict[str, Any] = {"options": SourceOptions(**given), "regions": regions}
        inputs = Inputs(
            **own, **{field.name: kwargs.pop(field.name) for field in fields(Inputs) if field.name not in own}
        )
        return command(*args, inputs=inputs, **kwargs)

    for add in reversed(OPTIONS):
        wrapper = add(wrapper)
    return wrapper


def _told_apart(
    given: Sequence[Region | RegionSpec],
) -> tuple[Region | None, tuple[RegionSpec, ...]]:
    """The values of --roi: one without a name, or several with one each. Raises UsageError."""
    named = tuple(each for each in given if isinstance(each, RegionSpec))
    plain = [each for each in given if not isinstance(each, RegionSpec)]
    if len(given) > 1 and plain:
        raise UsageError("--roi: several regions need names: --roi NAME=x,y,w,h")
    if twice := [name for name, count in Counter(region.name for region in named).items() if count > 1]:
        raise UsageError(f"--roi: two regions are called {twice[0]}")
    return (plain[0] if plain else None), named


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
    specs = with_tasks(_with_regions(specs, inputs), inputs.tasks)
    if message := next(_unused(specs, inputs), None):
        raise UsageError(message)
    names = Counter(name for spec in specs for name in spec.part_names)
    if twice := [name for name, number in names.items() if number > 1]:
        raise UsageError(f"a source and a region are both called {twice[0]}: rename one")
    return specs


def _with_regions(specs: Sequence[SourceSpec], inputs: Inputs) -> list[SourceSpec]:
    """Give regions to all sources that have none of their own. Raises UsageError."""
    regions = inputs.regions
    takers = [spec for spec in specs if "roi" in spec.options]
    if regions and not takers:
        raise UsageError("--roi: none of the sources takes it")
    if (
        takers
        and (regions or inputs.options.roi)
        and all(spec.regions or (regions and spec.input.roi) for spec in takers)
    ):
        raise UsageError("--roi: every source has regions of its own")
    return [with_default_regions(spec, regions) for spec in specs]


def with_default_regions(spec: SourceSpec, regions: tuple[RegionSpec, ...]) -> SourceSpec:
    """A source with these regions, if it takes any and has none of its own."""
    whole = spec.regions or spec.input.roi or "roi" not in spec.options
    return spec if whole else replace(spec, regions=regions)


def _unused(specs: Sequence[SourceSpec], inputs: Inputs) -> Iterator[str]:
    """What to say of options that none of the sources takes."""
    if unused := sorted(option.flag for option in unused_options(specs, inputs.options)):
        yield f"{', '.join(unused)}: none of the sources takes it"
    if inputs.watch and not any(spec.kind == "watch" for spec in specs):
        yield "--watch: name a folder"
    retried = {"--max-retries": inputs.max_retries, "--wait": inputs.wait or None}
    for given, used in (
        ({"--freeze-timeout": inputs.freeze_timeout}, any(spec.live for spec in specs)),
        (retried, any(spec.retried for spec in specs)),
    ):
        if (unused := [flag for flag, value in given.items() if value is not None]) and not used:
            yield f"{', '.join(unused)}: none of the sources is a camera or stream"
    if inputs.gather and sum(spec.live for spec in specs) < 2:
        yield "--gather: there are no two cameras or streams whose frames could wait for each other"
    if inputs.options.motion_max_age is not None and not any(motion for spec in specs for motion in spec.motions):
        yield "--motion-max-age is for --motion: give that too"
    over_time = {"--smooth": inputs.smooth, "--majority": inputs.majority - 1, "--min-duration": inputs.min_duration}
    if (unused := [flag for flag, value in over_time.items() if value]) and not any(s.sequential for s in specs):
        yield f"{', '.join(unused)}: none of the sources takes it, an image says nothing of the next"
    if inputs.smooth > 0 and inputs.majority > 1:
        yield "--smooth and --majority are two ways to one end: give one of them"


def check_frigate(specs: Sequence[SourceSpec], mqtt: str | None) -> None:
    """Check that what Frigate detects can be classified and answered.

    Args:
        specs: The sources.
        mqtt: The broker of --mqtt.

    Raises:
        UsageError: Nothing says which broker Frigate publishes to, or there would be several labels for an object.
    """
    for spec in specs:
        if spec.kind == "frigate" and mqtt is None:
            raise UsageError(f"{spec.name}: give the broker that Frigate publishes to, --mqtt mqtt://[USER@]HOST")
        if spec.kind == "frigate" and len(spec.tasks) > 1:
            raise UsageError(
                f"{spec.name}: an object has one sub label, so one task is asked, and not {len(spec.tasks)}"
            )


def check_compare(specs: Sequence[SourceSpec], inputs: Inputs) -> None:
    """Check that --compare has something to compare.

    Raises:
        UsageError: A source has fewer than two tasks, or not every frame is a result.
    """
    if alone := next((spec.name for spec in specs if any(len(tasks) < 2 for tasks in spec.asked)), None):
        raise UsageError(f"--compare: {alone} has no two tasks to compare: give --task twice or more")
    if inputs.on_change or inputs.min_interval:
        raise UsageError("--compare looks at every frame: leave out --on-change and --min-interval")


def check_explain(specs: Sequence[SourceSpec]) -> None:
    """Check that what --explain writes comes to an end.

    Raises:
        UsageError: A source has none.
    """
    if endless := next((spec.name for spec in specs if spec.live or spec.kind in ("watch", "frigate")), None):
        raise UsageError(f"--explain is for images and videos, {endless} has no end: look at it on the page (--serve)")


def check_regions(specs: Sequence[SourceSpec]) -> None:
    """Check that --collect-regions-only leaves something to collect, and say of which sources it does not.

    Raises:
        UsageError: No source has a region.
    """
    whole = [spec.name for spec in specs if None in spec.rois]
    if len(whole) == len(specs):
        raise UsageError("--collect-regions-only: no source has a region, so nothing would be collected: give --roi")
    for name in whole:
        _LOGGER.info("%s has no region of interest: nothing of it is collected", name)


def read_labels_files(
    specs: Sequence[SourceSpec], labels: Path | None, known: Mapping[Path, LabelsFile] | None = None
) -> dict[Path, LabelsFile]:
    """Read the labels files of all sources, each once: a pipe can be read only once.

    Args:
        specs: The sources.
        labels: The labels file of sources that have none of their own.
        known: Files that were read before; of these the pipes are taken from here.

    Raises:
        LabelsError: A file cannot be used.
    """
    own = [task.labels for spec in specs for tasks in spec.asked for task in tasks]
    paths = dict.fromkeys([labels, *(spec.labels for spec in specs), *own])
    pipes = {path: file for path, file in (known or {}).items() if file.state is None}
    return {path: pipes.get(path) or LabelsFile.read(path) for path in paths if path is not None}


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
