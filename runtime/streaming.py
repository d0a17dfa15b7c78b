"""Results of a source as an iterator: attri-run's capture, decisions and retries, from Python.

from attri.runtime import stream

for result in stream("camera0", bundle="bundle", labels=["red apple", "green apple"], smooth=1.0):
    print(result.label, result.score)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from attri.runtime.capture.orientation import Region
from attri.runtime.capture.parse import find_source
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SOURCE_OPTIONS, RegionOfInterest, RegionSpec, SourceOptions, SourceSpec
from attri.runtime.classifier import Classifier
from attri.runtime.decide.schedule import Schedule
from attri.runtime.decide.smoothing import DecisionRule
from attri.runtime.deliver.result import FrameResult, ResultKey
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.errors import SourceError, UsageError
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.pipeline.pipeline import Pipeline
from attri.runtime.pipeline.task import TaskSetup
from attri.runtime.prompt import Prompt
from attri.runtime.task import check_task_name

_SETTINGS = (DecisionRule, Schedule, RetryPolicy, SourceOptions)


def stream(
    source: str | Path,
    *,
    classifier: Classifier | None = None,
    bundle: str | Path | None = None,
    labels: Sequence[str] | None = None,
    prompts: Mapping[str, Prompt | Path | str | None] | None = None,
    regions: Mapping[str, Region] | None = None,
    watch: bool = False,
    batch: int = 4,
    **options: Any,
) -> Generator[FrameResult, None, None]:
    """Classify a source, frame by frame, as attri-run does.

    A live source never waits: while the loop is busy, its older results are replaced by the newest. Files lose nothing
    and wait for the loop. A live source that fails is opened again; images that cannot be read are logged and left out.

    The iterator belongs to one thread; several may run at once, each with its own, also over one classifier, whose
    engines then take turns. Its threads begin with the first result, and end with the source or when the iterator is
    closed (`close()`, or the last reference to it goes). Signals are left to the caller.

    Args:
        source: What a SOURCE of attri-run may be: camera0, rtsp://..., a video, an image, a folder, ...
        classifier: Classifies the frames, with the labels that it has at that time; it is not closed.
        bundle: In the place of a classifier: a folder that attri-export wrote. It is opened, and closed at the end.
        labels: What to tell apart in this stream alone; None is what the classifier or the bundle has.
        prompts: Of a bundle: several tasks on one vision pass, as of `Classifier.load`. A classifier with `tasks` has
            them already. Then every frame has a result of each task, in order, whose `task` is its name.
        regions: Parts of a frame by their names, each as x, y, width, height in pixels. Each is classified and decided
            by itself: every frame has a result of each, in order, whose `origin` is SOURCE/NAME.
        watch: Whether the images of a folder are read as they arrive.
        batch: Frames of a file that are classified at once, at most.
        **options: Fields of DecisionRule (smooth, majority, min_duration, threshold), of Schedule (min_interval,
            on_change), of RetryPolicy (max_retries, freeze_timeout, ...) and of SourceOptions (roi, stride, ...).

    Yields:
        Results that are due. Where a replaced result had changed the label, the next one is marked as changed.

    Raises:
        TypeError: Not exactly one of classifier and bundle was given, or an option is not known.
        UsageError: There is no such source, it does not take an option, or options exclude each other.
        SourceError: Later: the source cannot be read, or was given up.
        AttriError: Later: whatever `Classifier.load` and the classifier raise.
    """
    if (classifier is None) == (bundle is None):
        raise TypeError("give a classifier or a bundle, and not both")
    if prompts is not None and bundle is None:
        raise TypeError("prompts are for a bundle: load the classifier with them")
    rule, schedule, policy, source_options = _settings(options)
    spec = find_source(str(source), watch)
    if unused := sorted(source_options.given() - spec.options):
        raise UsageError(f"{spec.name} takes no {', '.join(unused)}")
    spec = replace(spec, input=source_options, regions=_regions(spec, source_options, regions or {}))

    def make_pipeline(classifier: Classifier) -> Pipeline:
        return Pipeline([spec], [_tasks(classifier, labels, rule)] * len(spec.rois), schedule, policy, batch)

    def load() -> Classifier:
        return Classifier.load(bundle or "", prompts=prompts)

    return _results(spec, make_pipeline, classifier, load)


def _settings(options: dict[str, Any]) -> tuple[DecisionRule, Schedule, RetryPolicy, SourceOptions]:
    """Sort options into the dataclasses that have them."""
    names = {each: {field.name for field in fields(each)} for each in _SETTINGS}
    if unknown := options.keys() - set().union(*names.values()):
        raise TypeError(f"stream() takes no option {', '.join(sorted(unknown))}")
    for option in SOURCE_OPTIONS:
        value = options.get(option.name)
        if value is not None and not option.type.accepts(value):
            raise UsageError(f"{option.name} cannot be {value!r}")
    made = [each(**{name: value for name, value in options.items() if name in names[each]}) for each in _SETTINGS]
    return tuple(made)  # type: ignore[return-value]  # in the order of _SETTINGS


def _regions(spec: SourceSpec, options: SourceOptions, regions: Mapping[str, Region]) -> tuple[RegionSpec, ...]:
    """The regions of a source. Raises UsageError: it takes none, or one is none."""
    if regions and "roi" not in spec.options:
        raise UsageError(f"{spec.name} takes no regions")
    if regions and options.roi is not None:
        raise UsageError("roi and regions are two ways to one end: give one of them")
    for name, roi in regions.items():
        check_task_name(name, "region")
        if not RegionOfInterest().accepts(roi):
            raise UsageError(f"the region {name} cannot be {roi!r}: it is x, y, width and height in pixels")
    return tuple(RegionSpec(name, (x, y, width, height)) for name, (x, y, width, height) in regions.items())


def _tasks(classifier: Classifier, labels: Sequence[str] | None, rule: DecisionRule) -> list[TaskSetup]:
    if labels is not None:
        classifier = classifier.fork(tuple(labels))
    named: Mapping[str | None, Classifier] = classifier.tasks or {None: classifier}  # type: ignore[assignment]  # a Mapping is invariant in its keys
    return [TaskSetup(LiveLabels(each, None, apply=False), rule, name) for name, each in named.items()]


def _results(
    spec: SourceSpec,
    make_pipeline: Callable[[Classifier], Pipeline],
    given: Classifier | None,
    load: Callable[[], Classifier],
) -> Generator[FrameResult, None, None]:
    with ExitStack() as stack:
        classifier = given or stack.enter_context(load())
        pipeline = make_pipeline(classifier)
        handover = _Handover(live=spec.live)
        thread = threading.Thread(target=_run, args=(pipeline, handover), name=f"stream {spec.name}", daemon=True)
        thread.start()
        try:
            yield from handover
        finally:
            pipeline.stop()
            handover.close()
            thread.join()


def _run(pipeline: Pipeline, handover: _Handover) -> None:
    error: BaseException | None = None
    try:
        good = pipeline.run([handover])
        health, *others = pipeline.health()  # of the regions, which share a reader
        if health.state == "dead":
            error = SourceError(health.detail)
        elif not good and not any(each.frames for each in (health, *others)):
            error = SourceError(f"{health.source}: none of its images can be read")
    except BaseException as broken:
        error = broken
    handover.finish(error)


class _Handover:
    """A sink whose results are iterated over in another thread.

    Args:
        live: Whether the newest result of a region and task replaces one that was not taken yet; else the writer waits.
    """

    name = "stream"
    takes: SinkFilter = "scheduled"

    def __init__(self, live: bool) -> None:
        self.lossless = not live
        self._waiting: dict[ResultKey, FrameResult] = {}  # by region and task, the oldest first
        self._changed = threading.Condition()
        self._closed = False  # nobody takes results any more
        self._finished = False  # no results come any more
        self._error: BaseException | None = None

    def write(self, result: FrameResult) -> None:
        """Hand over a result."""
        with self._changed:
            while self.lossless and result.key in self._waiting and not self._closed:
                self._changed.wait()
            if replaced := self._waiting.pop(result.key, None):
                result = replace(result, changed=result.changed or replaced.changed)
            self._waiting[result.key] = result
            self._changed.notify_all()

    def close(self) -> None:
        """Let a writer go that waits, if the loop has ended. Called by the pipeline too, which then has written all."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def finish(self, error: BaseException | None) -> None:
        """No results come any more, because of an error or of none."""
        with self._changed:
            self._finished = True
            self._error = error
            self._changed.notify_all()

    def __iter__(self) -> Iterator[FrameResult]:
        while (result := self._take()) is not None:
            yield result

    def _take(self) -> FrameResult | None:
        with self._changed:
            while not self._waiting and not self._finished:
                self._changed.wait()
            if self._waiting:
                result = self._waiting.pop(next(iter(self._waiting)))
                self._changed.notify_all()
                return result
        if self._error is not None:
            raise self._error
        return None
