"""From sources to sinks: capture, inference and output each in their own threads, with bounded queues between.

    reader ---+                                     +--- delivery --- sink
    reader ---+--- intake --- classify, decide -----+--- delivery --- sink
    files ----+                                     +--- ...

Live sources never wait: the newest frame is classified, the others are counted. Files lose nothing: their frames are
taken only while every lossless sink has room, so that a slow one holds back files and nobody else.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from attri.runtime._util.redact import redact
from attri.runtime._util.wording import plural
from attri.runtime.capture.base import SourceState
from attri.runtime.capture.frame_queue import Frame, FrameQueue
from attri.runtime.capture.reader import Reader
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.classifier import Prediction
from attri.runtime.decide.smoothing import DecisionRule, DecisionSmoother
from attri.runtime.deliver.result import FrameResult, SourceHealth
from attri.runtime.deliver.sink import LabelsOrigin, Sink
from attri.runtime.deliver.worker import SinkWorker
from attri.runtime.errors import ImageError, LabelsError
from attri.runtime.pipeline.live_labels import LiveLabels, watch
from attri.runtime.text.hysteresis import RetrievalHysteresis

_LOGGER = logging.getLogger("attri")
_STOPPING = 1.5  # seconds for everything to end once a signal has come
_POLL = 0.2
_LEEWAY = 1e-3  # seconds: times of frames are rounded


@dataclass(frozen=True)
class Schedule:
    """Which results are due.

    Attributes:
        min_interval: Seconds between two results, at least; 0 lets every one through.
        on_change: Changes of the decision are due, and beside them one result in `min_interval` seconds (0: none).
    """

    min_interval: float = 0.0
    on_change: bool = False


class Channel:
    """What belongs to one source while it is classified."""

    def __init__(self, reader: Reader, labels: LiveLabels, rule: DecisionRule, schedule: Schedule) -> None:
        self.reader, self.labels = reader, labels
        self.frames = 0
        self.busy = 0  # frames that are being classified
        self.unreadable = 0  # images that the classifier refused; the reader's thread counts its own
        self._decide, self._schedule = DecisionSmoother(rule), schedule
        self._steady = _steady(reader.spec.input.retrieval_hysteresis, labels)
        self._interval = float("inf")  # seconds between results, smoothed
        self._last = self._told = float(
            "-inf"
        )  # when the last result was (monotonic), and the last one due (its frame)

    @property
    def fps(self) -> float:
        """Results per second; it falls by itself when none come."""
        since = time.monotonic() - self._last
        return 1 / max(self._interval, since)

    def classify(self, frames: Sequence[Frame]) -> list[Prediction]:
        """In one batch. Raises ImageError, EngineError."""
        if len(frames) == 1:  # without the threads that read a list ahead
            predictions = [self.labels.classifier(frames[0].part, self._steady)]
        else:
            predictions = self.labels.classifier([frame.part for frame in frames], self._steady)
        self._count(len(predictions))
        return predictions

    def result(self, frame: Frame, prediction: Prediction, dropped: int) -> tuple[FrameResult, bool]:
        """What is said of a frame, and whether it is due."""
        clock = frame.time if self.reader.spec.kind == "video" else frame.captured  # Unix time jumps when it is set
        decision = self._decide(prediction, clock)
        result = FrameResult(
            source=frame.source,
            frame=frame.number,
            time=frame.time,
            raw_image=frame.image,
            prediction=prediction,
            label=decision.label,
            score=decision.score,
            changed=decision.changed,
            age_ms=1000 * (time.monotonic() - frame.captured),
            fps=self.fps,
            dropped=dropped,
            clock=clock,
            origin=self.reader.name,
            kind=self.reader.spec.kind,
            live=self.reader.spec.live,
        )
        return result, self._due(decision.changed, clock)

    def _count(self, frames: int) -> None:
        now = time.monotonic()
        step = (now - self._last) / frames  # those of a batch come at the same moment
        weight = 0.9**frames if math.isfinite(self._interval) else 0.0
        self._interval = weight * self._interval + (1 - weight) * step if weight else step
        self._last = now
        self.frames += frames

    def _due(self, changed: bool, clock: float) -> bool:
        min_interval, on_change = self._schedule.min_interval, self._schedule.on_change
        passed = clock - self._told
        due = (on_change and changed) or (
            (min_interval > 0 or not on_change) and not 0 <= passed < min_interval - _LEEWAY
        )
        if due:
            self._told = clock
        return due


def _steady(margin: float | None, labels: LiveLabels) -> RetrievalHysteresis | None:
    if margin is None:
        return None
    return RetrievalHysteresis(margin, labels.classifier.bundle.manifest.retrieval["topk"])


class Pipeline:
    """The running command; for its sinks, their PipelineControl.

    Args:
        specs: the sources.
        labels: of each source; sources may share one, and do until those of one alone are changed.
        rules: of each source.
        batch: frames of a file that are classified at once, at most; those of live sources go one by one.
    """

    def __init__(
        self,
        specs: Sequence[SourceSpec],
        labels: Sequence[LiveLabels],
        rules: Sequence[DecisionRule],
        schedule: Schedule,
        patience: RetryPolicy,
        batch: int = 1,
    ) -> None:
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._signal: int | None = None
        self._intake, self._batch = FrameQueue([spec.live for spec in specs], batch), batch
        readers = [Reader(i, spec, self._intake, patience, self._fail) for i, spec in enumerate(specs)]
        self._channels = [Channel(*each, schedule) for each in zip(readers, labels, rules, strict=True)]
        self._deliveries: list[SinkWorker] = []
        self._changing = threading.Lock()  # labels, by one at a time
        self._stopped = 0.0  # when that was noticed; monotonic

    def run(self, sinks: Sequence[Sink]) -> bool:
        """Classify until every source has ended, or SIGINT or SIGTERM comes; whether nothing failed.

        Raises:
            KeyboardInterrupt: on SIGINT, after everything was closed.
            Whatever broke in one of the threads, likewise.
        """
        self._deliveries = [SinkWorker(sink, self._intake.wake, self._fail, self._batch) for sink in sinks]
        worker = threading.Thread(target=self._guarded, args=(self._classify,), name="classify", daemon=True)
        with self._signals():
            worker.start()
            self._start_readers()
            while worker.is_alive() and not self._late(_STOPPING / 2):
                worker.join(_POLL)
                for channel in self._channels:
                    channel.reader.check()
            self._end()
        if self._error is not None:
            raise self._error
        _LOGGER.info(self._summary())
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        broken = any(delivery.failed for delivery in self._deliveries if delivery.sink.lossless)
        return not (broken or self._files_failed() or self._sources_lost())

    def labels(self, source: str | None = None) -> list[str]:
        lines = (str(label) for labels in _sets(self._named(source)) for label in labels.labels)
        return list(dict.fromkeys(lines))

    def labels_text(self, source: str | None = None) -> str:
        return self._agreed(source)[0].text

    def labels_origin(self, source: str | None = None) -> LabelsOrigin:
        sets = _sets(self._named(source))
        files = {each.file for each in sets}
        file = files.pop() if len(files) == 1 else None
        readers = [channel.reader.spec.name for channel in self._channels if file and channel.labels.file == file]
        return LabelsOrigin(None if file is None else str(file), any(each.edited for each in sets), tuple(readers))

    def set_labels(self, text: str, source: str | None = None) -> None:
        with self._changing:
            chosen = self._named(source)
            changed = {id(each): each.changed(text) for each in _sets(chosen)}  # all of them, or it raises before any
            for channel in chosen:
                channel.labels = changed[id(channel.labels)]

    def write_labels(self, source: str | None = None) -> None:
        with self._changing:
            sets = self._agreed(source)
            if len({each.file for each in sets}) > 1:
                raise LabelsError("the labels of the sources came from different files: name one source")
            sets[0].write()

    def health(self) -> list[SourceHealth]:
        result, held = [], not self._promise()
        for number, (channel, dropped) in enumerate(zip(self._channels, self._intake.dropped, strict=True)):
            reader = channel.reader
            waiting = channel.busy + (0 if held and not reader.spec.live else self._intake.waiting(number))
            state: SourceState = "frozen" if reader.is_frozen() else reader.state
            counts = (channel.frames, dropped, reader.restarts, round(channel.fps, 2), reader.last_frame, waiting)
            result.append(SourceHealth(reader.spec.name, state, reader.detail, *counts))
        return result

    def _agreed(self, source: str | None) -> list[LiveLabels]:
        """The sets of labels of a source, or of all, which have to be the same labels. Raises LabelsError."""
        sets = _sets(self._named(source))
        if len({tuple(map(str, each.labels)) for each in sets}) > 1:
            raise LabelsError("the sources have different labels: name one")
        return sets

    def _named(self, source: str | None) -> list[Channel]:
        """The source of this name; all, where it is None."""
        found = [channel for channel in self._channels if source in (None, channel.reader.spec.name)]
        if not found:
            raise LabelsError(f"there is no source {source}")
        return found

    def _start_readers(self) -> None:
        """Files one after the other, so that they come in the order of the command; all others at once."""
        readers = [channel.reader for channel in self._channels]
        files = [reader for reader in readers if _in_turn(reader.spec)]
        for job in (lambda: _run_all(files), lambda: watch(lambda: _sets(self._channels), self._stop)):
            threading.Thread(target=self._guarded, args=(job,), daemon=True).start()
        for reader in readers:
            if reader not in files:
                reader.start()

    def _classify(self) -> None:
        while (item := self._intake.take(self._promise, self._stop)) is not None:
            source, frames = item
            if frames:
                self._deliver(source, frames)
                continue
            for delivery in self._deliveries:
                delivery.end_source(self._channels[source].reader.name)

    def _deliver(self, source: int, frames: Sequence[Frame]) -> None:
        """Classify these frames and offer their results to the sinks."""
        channel = self._channels[source]
        channel.busy = len(frames)
        for frame, prediction in self._predictions(channel, frames):
            result, due = channel.result(frame, prediction, self._intake.dropped[source])
            for delivery in self._deliveries:
                delivery.offer(result, due, channel.reader.spec.live)
        channel.busy = 0

    def _predictions(self, channel: Channel, frames: Sequence[Frame]) -> Iterator[tuple[Frame, Prediction]]:
        """Those of all frames that can be read: where one of a batch cannot, they are taken one by one."""
        try:
            yield from zip(frames, channel.classify(frames), strict=True)
        except ImageError as error:
            if len(frames) > 1:
                for frame in frames:
                    yield from self._predictions(channel, [frame])
                return
            channel.unreadable += 1
            _LOGGER.error("error: %s", redact(str(error)))

    def _promise(self) -> bool:
        return all(delivery.has_room() for delivery in self._deliveries if delivery.sink.lossless)

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Stop everything; the first error is the one to raise."""
        self._error = self._error or error
        self._stop.set()
        self._intake.wake()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first signal stops what runs; a second one, in the same way as ever, the process."""

        def stop(number: int, _: Any) -> None:
            self._signal = number
            self._stop.set()
            for each, handler in before.items():
                signal.signal(each, handler)

        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
        before = {number: signal.getsignal(number) for number in numbers}
        try:
            for number in numbers:
                signal.signal(number, stop)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self) -> None:
        """Close sources and sinks. After a signal what is slow is left behind; else sinks have the time they need."""
        for delivery in self._deliveries:
            delivery.end()
        waiting: list[Reader | SinkWorker] = [*self._deliveries, *(channel.reader for channel in self._channels)]
        for channel in self._channels:
            channel.reader.stop()
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
        dead = sum(each.reader.state == "dead" and not each.reader.spec.live for each in self._channels)
        return dead + sum(each.unreadable + each.reader.unreadable for each in self._channels)

    def _sources_lost(self) -> int:
        return sum(channel.reader.state == "dead" and channel.reader.spec.live for channel in self._channels)

    def _summary(self) -> str:
        done = sum(channel.frames for channel in self._channels)
        caches = {id(cache): cache for cache in (channel.labels.classifier.cache for channel in self._channels)}
        hits = sum(cache.hits for cache in caches.values())
        counts = [(sum(self._intake.dropped), "frame", "skipped"), (self._files_failed(), "file", "failed")]
        counts.append((self._sources_lost(), "source", "given up"))
        for delivery in self._deliveries:
            counts.append((delivery.dropped, "result", f"skipped by {delivery.name}"))
            counts.append((delivery.failed, "result", f"lost by {delivery.name}"))
        parts = [plural(done, "frame"), f"{hits / max(1, done):.0%} from the text cache"]
        return ", ".join(parts + [f"{plural(count, noun)} {what}" for count, noun, what in counts if count])


def _sets(channels: Sequence[Channel]) -> list[LiveLabels]:
    """Their labels, each once where they share them."""
    return list({id(channel.labels): channel.labels for channel in channels}.values())


def _run_all(readers: Sequence[Reader]) -> None:
    for reader in readers:
        reader.run()


def _in_turn(spec: SourceSpec) -> bool:
    return spec.kind in ("images", "video") and spec.input.loop != -1
