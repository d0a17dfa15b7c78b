"""From sources to sinks: capture, inference and output each in their own threads, with bounded queues between.

    reader ---+                                          +--- worker --- sink
    reader ---+--- frame queue --- classify, decide -----+--- worker --- sink
    files ----+                                          +--- ...

Live sources never wait: the newest frame is classified, the others are counted. Files lose nothing: their frames are
taken only while every lossless sink has room, so that a slow one holds back files and nobody else.
"""

from __future__ import annotations

import functools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from attri.runtime._util.redact import redact
from attri.runtime._util.signals import defer_signals
from attri.runtime._util.wording import plural
from attri.runtime.capture.base import SourceState
from attri.runtime.capture.frame_queue import Frame, FrameQueue
from attri.runtime.capture.reader import Reader
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.decide.schedule import Schedule
from attri.runtime.deliver.result import SourceHealth
from attri.runtime.deliver.sink import Sink
from attri.runtime.deliver.worker import SinkWorker
from attri.runtime.errors import ImageError
from attri.runtime.pipeline.channel import Channel
from attri.runtime.pipeline.label_control import LabelControl, label_sets
from attri.runtime.pipeline.live_labels import Watched, watch
from attri.runtime.pipeline.live_prompt import LivePrompt
from attri.runtime.pipeline.task import TaskSetup
from attri.runtime.prediction import Prediction

_LOGGER = logging.getLogger("attri")
_STOPPING = 1.5  # seconds for everything to end once a signal has come
_POLL = 0.2


class Pipeline(LabelControl):
    """Sources, classifier and sinks at work; the PipelineControl of its sinks.

    Args:
        specs: The sources.
        tasks: Of each source; they share its frames and each run of the vision graph.
        schedule: Which results are due.
        policy: How live sources that fail are opened again.
        batch: Frames of a file that are classified at once, at most; those of live sources go one by one.

    Raises:
        EngineError: The prompts of a source have more pool entries together than the engine takes.
    """

    def __init__(
        self,
        specs: Sequence[SourceSpec],
        tasks: Sequence[Sequence[TaskSetup]],
        schedule: Schedule,
        policy: RetryPolicy,
        batch: int = 1,
    ) -> None:
        self.queue = FrameQueue([spec.live for spec in specs], batch)
        readers = [Reader(i, spec, self.queue, policy, self._fail) for i, spec in enumerate(specs)]
        super().__init__([Channel(*each, schedule) for each in zip(readers, tasks, strict=True)])
        self._batch = batch
        current = {task.prompt: task.labels.classifier.prompt for each in tasks for task in each if task.prompt}
        self._prompts = [
            LivePrompt(file, prompt, functools.partial(self.take_prompt, file)) for file, prompt in current.items()
        ]
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
        # Results that come at once.
        most = self._batch * max((len(channel.tasks) for channel in self.channels), default=1)
        self._workers = [SinkWorker(sink, self.queue.wake, self._fail, most) for sink in sinks]
        classify = threading.Thread(target=self._guarded, args=(self._classify,), name="classify", daemon=True)
        with defer_signals(on_signal=lambda _: self.stop()) as received:
            classify.start()
            self._start_readers()
            while classify.is_alive() and not self._late(_STOPPING / 2):
                classify.join(_POLL)
                for channel in self.channels:
                    channel.reader.check()
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
        """State and counters of every source, in order."""
        result, held = [], not self._sinks_have_room()
        for number, (channel, dropped) in enumerate(zip(self.channels, self.queue.dropped, strict=True)):
            reader = channel.reader
            waiting = channel.busy + (0 if held and not reader.spec.live else self.queue.waiting(number))
            state: SourceState = "frozen" if reader.is_frozen() else reader.state
            counts = (channel.frames, dropped, reader.restarts, round(channel.fps, 2), reader.last_frame, waiting)
            names = tuple(task.name for task in channel.tasks if task.name is not None)
            result.append(SourceHealth(channel.name, state, reader.detail, *counts, names))
        return result

    def _start_readers(self) -> None:
        """Files one after the other, so that they come in the order of the command; all others at once."""
        readers = [channel.reader for channel in self.channels]
        files = [reader for reader in readers if _in_turn(reader.spec)]
        for job in (lambda: _run_all(files), lambda: watch(self._watched, self._stop)):
            threading.Thread(target=self._guarded, args=(job,), daemon=True).start()
        for reader in readers:
            if reader not in files:
                reader.start()

    def _watched(self) -> list[Watched]:
        return [*self._prompts, *label_sets(self.channels)]

    def _classify(self) -> None:
        while (item := self.queue.take(self._sinks_have_room, self._stop)) is not None:
            source, frames = item
            if frames:
                self._deliver(source, frames)
                continue
            for worker in self._workers:
                worker.end_source(self.channels[source].reader.name)

    def _deliver(self, source: int, frames: Sequence[Frame]) -> None:
        """Classify these frames and offer their results to the sinks."""
        channel = self.channels[source]
        channel.busy = len(frames)
        for frame, predictions in self._predictions(channel, frames):
            for result, due in channel.results(frame, predictions, self.queue.dropped[source]):
                for worker in self._workers:
                    worker.offer(result, due, channel.reader.spec.live)
        channel.busy = 0

    def _predictions(self, channel: Channel, frames: Sequence[Frame]) -> Iterator[tuple[Frame, list[Prediction]]]:
        """Of all tasks, for frames that can be read: where one of a batch cannot, they are taken one by one."""
        try:
            yield from zip(frames, channel.classify(frames), strict=True)
        except ImageError as error:
            if len(frames) > 1:
                for frame in frames:
                    yield from self._predictions(channel, [frame])
                return
            channel.unreadable += 1
            _LOGGER.error("error: %s", redact(str(error)))

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
        waiting: list[Reader | SinkWorker] = [*self._workers, *(channel.reader for channel in self.channels)]
        for channel in self.channels:
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
        dead = sum(each.reader.state == "dead" and not each.reader.spec.live for each in self.channels)
        return dead + sum(each.unreadable + each.reader.unreadable for each in self.channels)

    def _sources_lost(self) -> int:
        return sum(channel.reader.state == "dead" and channel.reader.spec.live for channel in self.channels)

    def _summary(self) -> str:
        done = sum(channel.frames for channel in self.channels)
        asked = sum(channel.frames * len(channel.tasks) for channel in self.channels)
        caches = {id(each.classifier.cache): each.classifier.cache for each in label_sets(self.channels)}
        hits = sum(cache.hits for cache in caches.values())
        counts = [(sum(self.queue.dropped), "frame", "skipped"), (self._files_failed(), "file", "failed")]
        counts.append((self._sources_lost(), "source", "given up"))
        for worker in self._workers:
            counts.append((worker.dropped, "result", f"skipped by {worker.name}"))
            counts.append((worker.failed, "result", f"lost by {worker.name}"))
        parts = [plural(done, "frame"), f"{hits / max(1, asked):.0%} from the text cache"]
        return ", ".join(parts + [f"{plural(count, noun)} {what}" for count, noun, what in counts if count])


def _run_all(readers: Sequence[Reader]) -> None:
    for reader in readers:
        reader.run()


def _in_turn(spec: SourceSpec) -> bool:
    return spec.kind in ("images", "video") and spec.input.loop != -1
