"""From sources to sinks: capture, inference and output each in their own threads, with bounded queues between.

    reader ---+                                          +--- worker --- sink
    reader ---+--- frame queue --- classify, decide -----+--- worker --- sink
    files ----+                                          +--- ...

Live sources never wait: the newest frame is classified, the others are counted. Frames of several sources go through
the graphs together; those of files fill what live sources leave. Files lose nothing: their frames are taken only while
every lossless sink has room, so that a slow one holds back files and nobody else.
"""

from __future__ import annotations

import itertools
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attri.runtime._util.redact import redact
from attri.runtime._util.signals import defer_signals
from attri.runtime._util.wording import plural
from attri.runtime.capture.base import SourceState
from attri.runtime.capture.frame_queue import Frame, FrameQueue
from attri.runtime.capture.reader import Opener, Reader
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.decide.schedule import Schedule
from attri.runtime.deliver.result import FrameResult, Load, SourceHealth
from attri.runtime.deliver.sink import FileOrigin, RegionsAbout, SentImage, Sink, SourceAbout
from attri.runtime.deliver.worker import SinkWorker
from attri.runtime.errors import ImageError, UsageError
from attri.runtime.pipeline.channel import Channel
from attri.runtime.pipeline.label_control import LabelControl, label_sets
from attri.runtime.pipeline.live_labels import Watched, watch
from attri.runtime.pipeline.load_meter import LoadMeter
from attri.runtime.pipeline.sent_images import classify_sent
from attri.runtime.pipeline.source_set import Changes, LiveSources, PlannedSource, RunningSource, SourcePlans
from attri.runtime.pipeline.task import TaskSetup
from attri.runtime.prediction import Prediction

_LOGGER = logging.getLogger("attri")
_STOPPING = 1.5  # seconds for everything to end once a signal has come
_CLOSING = 2.0  # seconds for a source that was removed to let go of what it reads
_POLL = 0.2


class Pipeline(LabelControl):
    """Sources, classifier and sinks at work; the PipelineControl of its sinks.

    Args:
        specs: The sources.
        tasks: Of each source, or of each region of it, in order; all share the runs of the vision graph.
        schedule: Which results are due.
        policy: How live sources that fail are opened again.
        max_batch: Frames, or regions of frames, that are classified at once, at most.
        gather: Seconds that a frame of a live source may wait for those of others.
        opener: Opens the sources; None opens them as what they are.

    Raises:
        EngineError: The prompts of a source have more pool entries together than the engine takes.
    """

    def __init__(
        self,
        specs: Sequence[SourceSpec],
        tasks: Sequence[Sequence[TaskSetup]],
        schedule: Schedule,
        policy: RetryPolicy,
        max_batch: int = 1,
        gather: float = 0.0,
        opener: Opener | None = None,
    ) -> None:
        self.queue = FrameQueue((), max_batch, gather)
        self._schedule, self._policy, self._opener = schedule, policy, opener
        self._numbers = itertools.count()
        parts = iter(tasks)
        sources = [self._made(PlannedSource(spec, [next(parts) for _ in spec.rois])) for spec in specs]
        super().__init__([channel for each in sources for channel in each.channels])
        self._sources: dict[str, RunningSource] = {}  # replaced as a whole
        self._removed: Counter[str] = Counter()  # counts of those that are gone
        self._changing_sources = threading.Lock()
        self._telling = threading.Lock()  # held while results are given to the sinks
        self._live_sources: LiveSources | None = None
        self._reading = False
        self._enter({each.spec.name: each for each in sources})
        self._max_batch = max_batch
        self._meter = LoadMeter(max_batch)
        self._workers: list[SinkWorker] = []
        self._stop = threading.Event()
        self._stopped = 0.0  # when that was noticed, monotonic
        self._error: BaseException | None = None

    def run(self, sinks: Sequence[Sink]) -> bool:
        """Classify until every source has ended, `stop` is called, or SIGINT or SIGTERM comes.

        The first signal asks for a graceful stop, a second one ends the process. In any other thread than the main one
        signals are left alone.

        Args:
            sinks: Get the results; each is closed at the end.

        Returns:
            Whether nothing failed: no file, no source, and no result of a lossless sink.

        Raises:
            KeyboardInterrupt: SIGINT came; everything was closed.
            Exception: Whatever broke in one of the threads; likewise.
        """
        self._workers = [SinkWorker(sink, self.queue.wake, self._fail, self._results_at_once()) for sink in sinks]
        classify = threading.Thread(target=self._guarded, args=(self._classify,), name="classify", daemon=True)
        with defer_signals(on_signal=lambda _: self.stop()) as received:
            classify.start()
            self._start_readers()
            while classify.is_alive() and not self._late(_STOPPING / 2):
                classify.join(_POLL)
                self._check_readers()
            self._end()
        if self._error is not None:
            raise self._error
        _LOGGER.info(self._summary())
        if received() == signal.SIGINT:
            raise KeyboardInterrupt
        broken = any(worker.failed for worker in self._workers if worker.sink.lossless)
        return not (broken or self._files_failed() or self._sources_lost())

    def stop(self) -> None:
        """Ask for the end; `run` returns soon after. May be called from any thread, and from a signal handler."""
        self._stop.set()

    def health(self) -> list[SourceHealth]:
        """State and counters of every source, in order; of one with regions, of each of them."""
        result, held = [], not self._sinks_have_room()
        for channel in self.channels:
            reader, dropped = channel.reader, self.queue.dropped.get(channel.number, 0)
            waiting = channel.busy + (0 if held and not reader.spec.live else self.queue.waiting(channel.number))
            state: SourceState = "frozen" if reader.is_frozen() else reader.state
            counts = (channel.frames, dropped, reader.restarts, round(channel.fps, 2), reader.last_frame, waiting)
            names = tuple(task.name for task in channel.tasks if task.name is not None)
            result.append(SourceHealth(channel.name, state, reader.detail, *counts, names))
        return result

    def classify(
        self, images: Sequence[SentImage], source: str | None = None, task: str | None = None
    ) -> list[list[FrameResult] | ImageError]:
        """Classify images that are no frames of a source. May be called from any thread."""
        return classify_sent(images, *self.asked(source, task), self._max_batch)

    def follow_sources(self, plans: SourcePlans) -> None:
        """Let sources come and go, by their file and by `change_sources`. To be called before `run`."""
        self._live_sources = LiveSources(plans, lambda: self._sources, self._change)

    def sources(self) -> list[SourceAbout]:
        """The sources, in order."""
        return [SourceAbout(each.spec.name, each.spec.kind, each.spec.paused) for each in self._sources.values()]

    def change_sources(self, tables: Mapping[str, Any]) -> None:
        """Add, replace, remove, pause or resume sources. May be called from any thread."""
        self._followed().apply(tables)

    def regions(self, source: str) -> RegionsAbout:
        """What is known of the regions of a source. May be called from any thread, like the next three."""
        return self._followed().regions(source)

    def set_regions(self, source: str, rois: Mapping[str, Any]) -> None:
        """Use these regions from the next frame on. Raises AttriError, and then changes nothing."""
        self._followed().set_regions(source, rois)

    def regions_origin(self, source: str) -> FileOrigin:
        """Whether they are those of the sources file."""
        return self._followed().regions_origin(source)

    def write_regions(self, source: str) -> None:
        """Write the regions in use into the sources file. Raises AttriError."""
        self._followed().write_regions(source)

    def load(self) -> Load:
        """How busy the classifier is, and with what."""
        return self._meter.load

    def _followed(self) -> LiveSources:
        if self._live_sources is None:
            raise UsageError("the sources of this attri-run cannot be changed")
        return self._live_sources

    def _start_readers(self) -> None:
        """Files one after the other, so that they come in the order of the command; all others at once."""
        with self._changing_sources:  # until all are started: one that is removed meanwhile could not be waited for
            readers = [each.reader for each in self._sources.values() if not each.spec.paused]
            files = [reader for reader in readers if _in_turn(reader.spec)]
            for reader in readers:
                if reader not in files:
                    reader.start()
            self._reading = True
        for job in (lambda: _run_all(files), lambda: watch(self._watched, self._stop)):
            threading.Thread(target=self._guarded, args=(job,), daemon=True).start()

    def _check_readers(self) -> None:
        if self._changing_sources.acquire(blocking=False):  # a stop must not wait for a change
            try:
                for each in self._sources.values():
                    each.reader.check()
            finally:
                self._changing_sources.release()

    def _watched(self) -> list[Watched]:
        live = [] if self._live_sources is None else [self._live_sources]
        return [*self.prompt_files.values(), *label_sets(self.channels), *live]

    def _made(self, planned: PlannedSource, before: RunningSource | None = None) -> RunningSource:
        """A source that nothing knows yet; where it differs from the one before in regions alone, that with these."""
        spec, known = planned.spec, {}
        if before is not None and before.reads(spec):
            number, reader = before.number, before.reader
            known = {(channel.region, channel.roi): channel for channel in before.channels}
        else:
            number = next(self._numbers)
            reader = Reader(number, spec, self.queue, self._policy, self._fail, self._opener)
        channels = [
            known.get((region, roi)) or Channel(number, reader, region, roi, tasks, self._schedule)
            for region, roi, tasks in zip(spec.regions or (None,), spec.rois, planned.tasks, strict=True)
        ]
        return RunningSource(number, reader, spec, tuple(channels))

    def _enter(self, sources: dict[str, RunningSource]) -> None:
        """Have these sources from now on; the queue learns which are new."""
        known = {each.number for each in self._sources.values()}
        for each in sources.values():
            if each.number not in known:
                self.queue.add(each.number, each.spec.live, each.spec.paused)
        self._sources = sources

    def _change(self, changes: Changes) -> None:
        """Add, replace or remove the sources that are named, and touch no other. Raises AttriError: nothing changed."""
        with self._changing_sources:
            before = self._sources
            made = {name: self._made(each, before.get(name)) for name, each in changes.items() if each is not None}
            after = {name: made.get(name, each) for name, each in before.items() if name in made or name not in changes}
            after |= made
            _check_names([each.spec for each in after.values()])
            self.use_channels([channel for each in after.values() for channel in each.channels])
            self._enter(after)  # before others go, or there could be none for a moment, which is the end
            for worker in self._workers:
                worker.expect(self._results_at_once())
            replaced = [before[name] for name in changes if name in before]
            for each in replaced:
                self._retire(each, after.get(each.spec.name))
            numbers = {each.number for each in after.values()}
            self._remove([each for each in replaced if each.number not in numbers])
            known = {each.number for each in replaced}
            for each in made.values():
                each.reader.spec = each.spec
                if each.number not in known and self._reading and not each.spec.paused and not self._stop.is_set():
                    each.reader.start()

    def _retire(self, before: RunningSource, after: RunningSource | None) -> None:
        """Tell no more of what a source had and has not any more."""
        kept = () if after is None else after.channels
        gone = [channel for channel in before.channels if channel not in kept]
        with self._telling:
            for channel in gone:
                channel.gone = True
        self._removed += before.counts() - (Counter() if after is None else after.counts())
        moved = {channel.name for channel in kept if channel.number == before.number}
        for name in (channel.name for channel in gone if channel.name not in moved):
            for worker in self._workers:
                worker.end_source(name)

    def _remove(self, gone: Sequence[RunningSource]) -> None:
        """Stop these, and close what they had open."""
        for each in gone:
            each.reader.stop()
            self._removed["dropped"] += self.queue.remove(each.number)
        deadline = time.monotonic() + _CLOSING
        while gone and time.monotonic() < deadline and not self._stop.is_set():
            gone = [each for each in gone if not each.reader.join(0.05)]
        for each in gone:
            _LOGGER.warning("%s did not end in time", each.spec.name)

    def _results_at_once(self) -> int:
        tasks = [sum(len(channel.tasks) for channel in each.channels) for each in self._sources.values()]
        return self._max_batch * max(tasks, default=1)

    def _classify(self) -> None:
        while (batch := self.queue.take(self._sinks_have_room, self._stop)) is not None:
            self._meter.idle()
            channels = {each.number: each.channels for each in self._sources.values()}
            for channel in (each for source in batch.ended for each in channels.get(source, ())):
                for worker in self._workers:
                    worker.end_source(channel.name)
            parts = [
                (each, frame)
                for source, frame in batch.frames
                for each in channels.get(source, ())
                if each.roi in frame.parts  # else the region came after this frame was cut
            ]
            if parts:
                self._deliver(parts)

    def _deliver(self, parts: Sequence[tuple[Channel, Frame]]) -> None:
        """Classify these parts of frames together and offer their results to the sinks."""
        for channel, count in Counter(channel for channel, _ in parts).items():
            channel.busy = count
        due = [channel.is_due(frame) for channel, frame in parts]
        chosen = [part for part, is_due in zip(parts, due, strict=True) if is_due]
        classified = self._predictions(chosen)
        self._meter.classified(classified)
        found = iter(classified)
        shown: list[tuple[Channel, Frame, Sequence[Prediction], bool]] = []
        for (channel, frame), is_due in zip(parts, due, strict=True):
            predictions = channel.note(next(found)) if is_due else channel.known()
            if isinstance(predictions, ImageError):
                channel.unreadable += 1
                _LOGGER.error("error: %s", redact(str(predictions)))
            else:
                shown.append((channel, frame, predictions, not is_due))
        for channel, count in Counter(channel for channel, *_ in shown).items():
            channel.count(count)
        for each in shown:
            self._offer(*each)
        for channel, _ in parts:
            channel.busy = 0
        self._meter.delivered(len(chosen))

    def _predictions(self, parts: Sequence[tuple[Channel, Frame]]) -> list[list[Prediction] | ImageError]:
        """Of all tasks, for each of these parts of frames."""
        if not parts:
            return []
        asked = [channel.questions() for channel, _ in parts]
        (first, _), *_ = asked[0]
        return first.classify_each([frame.parts[each.roi] for each, frame in parts], asked, parts[0][0].beside)

    def _offer(self, channel: Channel, frame: Frame, predictions: Sequence[Prediction], unchanged: bool) -> None:
        """Give the results of a frame to all sinks."""
        with self._telling:
            if channel.gone:
                return
            dropped = self.queue.dropped.get(channel.number, 0)
            for result, due in channel.results(frame, predictions, dropped, unchanged):
                for worker in self._workers:
                    worker.offer(result, due, channel.reader.spec.live)

    def _sinks_have_room(self) -> bool:
        return all(worker.has_room() for worker in self._workers if worker.sink.lossless)

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Stop everything; the first error is the one to raise."""
        self._error = self._error or error
        self._stop.set()
        self.queue.wake()

    def _end(self) -> None:
        """Close sources and sinks. After a signal what is slow is left behind; else sinks have the time they need."""
        for worker in self._workers:
            worker.end()
        readers = [each.reader for each in self._sources.values()]
        waiting: list[Reader | SinkWorker] = [*self._workers, *readers]
        for reader in readers:
            reader.stop()
        while waiting and not self._late():
            waiting = [each for each in waiting if not each.join(0.05)]
        for each in waiting:
            _LOGGER.warning("%s did not end in time", each.name)
        self._stop.set()

    def _late(self, seconds: float = _STOPPING) -> bool:
        """Whether it was to stop, and that was so long ago."""
        if not self._stop.is_set():
            return False
        self._stopped = self._stopped or time.monotonic()
        return time.monotonic() > self._stopped + seconds

    def _files_failed(self) -> int:
        sources = self._sources.values()
        dead = sum(each.reader.state == "dead" and not each.spec.retried for each in sources)
        # What cannot be read is a file with all its regions.
        refused = sum(max(channel.unreadable for channel in each.channels) for each in sources)
        return dead + refused + sum(each.reader.unreadable for each in sources)

    def _sources_lost(self) -> int:
        return sum(each.reader.state == "dead" and each.spec.retried for each in self._sources.values())

    def _summary(self) -> str:
        total = sum((each.counts() for each in self._sources.values()), self._removed)
        counts = [
            (total["held"], "frame", "unchanged"),
            (total["dropped"] + sum(self.queue.dropped.values()), "frame", "skipped"),
            (self._files_failed(), "file", "failed"),
        ]
        counts.append((self._sources_lost(), "source", "given up"))
        for worker in self._workers:
            counts.append((worker.dropped, "result", f"skipped by {worker.name}"))
            counts.append((worker.failed, "result", f"lost by {worker.name}"))
        share = total["hits"] / max(1, total["asked"])
        parts = [plural(total["frames"], "frame"), f"{share:.0%} from the text cache"]
        return ", ".join(parts + [f"{plural(count, noun)} {what}" for count, noun, what in counts if count])


def _check_names(specs: Sequence[SourceSpec]) -> None:
    """Raises UsageError: There would be no source, or two by one name."""
    if not specs:
        raise UsageError("this is the only source, and one has to stay: stop attri-run, or pause it")
    names = Counter(name for spec in specs for name in spec.part_names)
    if twice := [name for name, number in names.items() if number > 1]:
        raise UsageError(f"a source and a region are both called {twice[0]}: rename one")


def _run_all(readers: Sequence[Reader]) -> None:
    for reader in readers:
        reader.run()


def _in_turn(spec: SourceSpec) -> bool:
    return spec.kind in ("images", "video") and spec.input.loop != -1
