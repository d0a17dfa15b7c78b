"""attri-run --bench: what this machine makes of 1, 2, 4 and 8 cameras, and what limits it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from attri.runtime.capture.base import Capture, CapturedFrame
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.classifier import Classifier
from attri.runtime.cli.batch_options import choose_max_batch
from attri.runtime.decide.schedule import Schedule
from attri.runtime.deliver.result import FrameResult, Load
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.errors import UsageError
from attri.runtime.pipeline.live_labels import LabelsFile, LiveLabels
from attri.runtime.pipeline.pipeline import Pipeline
from attri.runtime.pipeline.task import TaskSetup

SOURCES = (1, 2, 4, 8)
_RATE = 30  # frames per second of each camera
_FRAME = (720, 1280)
_SCENES = 8  # different frames that each camera shows in turn
_ALLOWED = {  # options that it heeds
    *("bench", "bundle", "labels", "prompt", "independent", "shortlist", "max_batch"),
    *("backend", "device", "engine_dir", "rebuild_engines", "threads"),
}
_CACHE = 256 << 20  # bytes
_ENOUGH = 0.9  # share of the frames that has to be classified, so that the cameras are what limits


def check_bench(context: click.Context) -> None:
    """Check that no option was given that --bench does not heed.

    Raises:
        UsageError: One was, or a source.
    """
    default = (click.core.ParameterSource.DEFAULT, click.core.ParameterSource.DEFAULT_MAP)
    for param in context.command.params:
        given = param.name is not None and context.get_parameter_source(param.name) not in (*default, None)
        if given and param.name not in _ALLOWED and context.params.get(param.name or ""):
            name = max(param.opts, key=len) if isinstance(param, click.Option) else "SOURCE"
            raise UsageError(f"--bench has cameras of its own: leave {name} out")


def run_bench(
    load: Callable[[int], Classifier], labels: Path | None, asked: int | None, threads: int | None, seconds: float
) -> None:
    """Measure and print a table.

    Args:
        load: Gives a classifier whose text cache has so many bytes at most.
        labels: Labels file; None are the prompt's own.
        asked: Frames of a batch, at most; None is to be measured.
        threads: CPU threads that were asked for.
        seconds: For each number of cameras, with known text features and without.

    Raises:
        LabelsError: The labels cannot be used.
        UsageError: The engine does not take so many.
    """
    file = None if labels is None else LabelsFile.read(labels)
    logger = logging.getLogger("attri")
    level = logger.level
    for text, size in (("cached", _CACHE), ("uncached", 0)):
        with load(size) as classifier:
            setup = TaskSetup(LiveLabels(classifier, file, apply=file is not None))
            if size:
                max_batch, _ = choose_max_batch([_spec(0), _spec(1)], classifier, asked, threads)
                click.echo(f"{classifier.description}, {len(classifier.labels)} labels, batches of up to {max_batch}")
                click.echo(f"cameras of {_FRAME[1]} x {_FRAME[0]} at {_RATE} fps, {seconds:g} s each")
                click.echo("text      cameras  results/s  95% of ages  batch  idle  limited by")
            classifier(scenes())  # the first run of a graph takes longer; and then all is in the cache
            logger.setLevel(logging.WARNING)  # the pipeline says each time what it did
            try:
                for number in SOURCES:
                    found = measure(setup, number, max_batch, seconds)
                    click.echo(f"{text:8} {number:8} {_row(number, *found)}")
            finally:
                logger.setLevel(level)


def measure(setup: TaskSetup, number: int, max_batch: int, seconds: float) -> tuple[float, list[float], Load]:
    """Run so many cameras: results per second, their ages in ms, and the load."""
    ages, specs = _Ages(), [_spec(i) for i in range(number)]
    policy = RetryPolicy(freeze_timeout=0.0)
    pipeline = Pipeline(specs, [[setup]] * number, Schedule(), policy, max_batch, opener=_camera)
    timer = threading.Timer(seconds, pipeline.stop)
    started = time.monotonic()
    timer.start()
    try:
        pipeline.run([ages])
    finally:
        timer.cancel()
    return len(ages.ms) / (time.monotonic() - started), ages.ms, pipeline.load()


def limit_of(load: Load, rate: float, number: int) -> str:
    """What keeps results from being more, in words."""
    if rate >= _ENOUGH * number * _RATE:
        return "the cameras"
    names = {
        "vision": "the vision graph",
        "text": "the text graph",
        "preprocess": "preprocessing",
        "deliver": "delivery",
    }
    return names[max(names, key=lambda stage: load.seconds[stage])]


def scenes() -> list[NDArray[np.uint8]]:
    """Frames [H, W, 3] of coloured squares, the same in every run."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (_SCENES, 9, 16, 3), np.uint8)
    return [np.ascontiguousarray(each.repeat(_FRAME[0] // 9, 0).repeat(_FRAME[1] // 16, 1)) for each in small]


def _row(number: int, rate: float, ages: list[float], load: Load) -> str:
    age = f"{np.percentile(ages, 95):.0f} ms" if ages else "-"
    idle = load.seconds["idle"] / max(1e-9, sum(load.seconds.values()))
    size = load.frames / max(1, load.batches)
    return f"{rate:10.1f} {age:>12} {size:6.1f} {idle:5.0%}  {limit_of(load, rate, number)}"


def _spec(number: int) -> SourceSpec:
    return SourceSpec(f"camera{number}", "v4l2", str(number))


@contextmanager
def _camera(spec: SourceSpec, _timeout: float, abandoned: threading.Event) -> Iterator[Capture]:
    frames = scenes()

    def play() -> Iterator[CapturedFrame]:
        following = time.monotonic() + int(spec.uri) / _RATE / 8  # cameras do not come at the same moment
        for number in count(int(spec.uri)):
            if abandoned.wait(max(0.0, following - time.monotonic())):
                return
            yield CapturedFrame(frames[number % _SCENES], time.time())
            following += 1 / _RATE

    yield Capture("modelled", play())


class _Ages:
    """A sink that keeps how old results are."""

    name, lossless = "ages", False
    takes: SinkFilter = "every_frame"

    def __init__(self) -> None:
        self.ms: list[float] = []

    def write(self, result: FrameResult) -> None:
        self.ms.append(result.age_ms)

    def close(self) -> None:
        """Nothing is held."""
