"""Options of attri-run about sources and decisions."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from attri.runtime.capture.orientation import Region
from attri.runtime.capture.spec import (
    SOURCE_OPTIONS,
    Choice,
    Number,
    RegionOfInterest,
    RegionSpec,
    SourceOption,
    SourceOptions,
    ValueType,
    WholeNumber,
)
from attri.runtime.cli.command import CAPTURE, LABELS, option
from attri.runtime.cli.model_options import TASK, TEMPLATE
from attri.runtime.decide.task_spec import TaskSpec
from attri.runtime.errors import UsageError
from attri.runtime.task import check_task_name


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
