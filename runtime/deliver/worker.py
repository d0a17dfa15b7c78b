"""The thread of one sink, and the bounded queue in front of it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from attri.runtime._util.redact import redact
from attri.runtime._util.wording import plural
from attri.runtime.capture.orientation import nbytes
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import Sink, SourceFollower
from attri.runtime.errors import SinkError

_LOGGER = logging.getLogger("attri")
ROOM = 8  # length of the queue, at least; each result holds a whole frame
_EVENTS = 32  # the same for sinks that take changes alone: a second at 30 frames per second
MAX_BYTES = 1 << 27  # of queued frames, above which files have to wait


@dataclass(frozen=True)
class _SourceEnd:
    """Marks in the queue that no more results of a source follow."""

    origin: str


class SinkWorker:
    """Gives results to one sink, in order, as fast as it takes them.

    When the queue is full, one result of a live source is dropped and counted. Results of files and changes of the
    label are never dropped for an ordinary frame. A lossless sink drops the new result, any other the oldest. A
    SinkError loses its result, which is counted; the first of several in a row is logged, and so is the recovery.

    Args:
        sink: The sink; closed when the worker ends.
        on_room: Called after each result, when the queue may have room again.
        on_end: Called with any exception that is not a SinkError; the sink gets nothing more.
        batch: Largest number of results that are offered at once.

    Attributes:
        dropped: Results that never reached the sink.
        failed: Results that the sink could not deliver.
    """

    def __init__(
        self, sink: Sink, on_room: Callable[[], None], on_end: Callable[[BaseException], None], batch: int = 1
    ) -> None:
        self.sink, self.name = sink, sink.name
        self._batch, self._room = batch, max(_EVENTS if sink.takes == "changes" else ROOM, 2 * batch)
        self.dropped = 0
        self.failed = 0
        self._on_room, self._on_end = on_room, on_end
        self._queue: deque[tuple[FrameResult | _SourceEnd, bool]] = deque()  # True: it must not be dropped
        self._changed = threading.Condition()
        self._ending = self._broken = self._faulty = False
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def expect(self, batch: int) -> None:
        """Be told that more results may be offered at once."""
        with self._changed:
            self._batch = max(self._batch, batch)
            self._room = max(self._room, 2 * self._batch)

    def has_room(self) -> bool:
        """Whether the queue has room for a batch of results of files, which must not be dropped."""
        if self._broken:
            return True
        with self._changed:
            held = sum(nbytes(item.raw_image) for item, _ in self._queue if isinstance(item, FrameResult))
            return held < MAX_BYTES and len(self._queue) + self._batch <= self._room

    def offer(self, result: FrameResult, due: bool, live: bool) -> None:
        """Queue a result; never blocks.

        Args:
            result: What the sink is to get.
            due: Whether it is one that --min-interval and --on-change let through.
            live: Whether it comes from a live source, whose results a lossless sink may miss.
        """
        if self._broken or not self._takes(result, due):
            return
        with self._changed:
            if len(self._queue) >= self._room:
                self.dropped += 1
                if not self._make_room(result.changed):
                    return
            self._queue.append((result, self.sink.lossless and not live))
            self._changed.notify()

    def _takes(self, result: FrameResult, due: bool) -> bool:
        """Whether the sink's filter lets this result through."""
        if self.sink.takes == "scheduled":
            return due
        return self.sink.takes == "every_frame" or result.changed

    def end_source(self, origin: str) -> None:
        """Tell a sink that follows sources, after its last result, that this source has ended; never blocks."""
        if self._broken or not isinstance(self.sink, SourceFollower):
            return
        with self._changed:
            self._queue.append((_SourceEnd(origin), True))
            self._changed.notify()

    def _make_room(self, event: bool) -> bool:
        """Drop a queued result for a new one (`event`: a change of the label); whether there was one to drop."""
        waiting = [
            (i, each, promised) for i, (each, promised) in enumerate(self._queue) if isinstance(each, FrameResult)
        ]
        frames = (i for i, each, promised in waiting if not (each.changed or promised))
        oldest = waiting[0][0] if waiting and event and not self.sink.lossless else None
        victim = next(frames, oldest)
        if victim is None or (self.sink.lossless and not event):
            return False
        del self._queue[victim]
        return True

    def end(self) -> None:
        """Write what is queued to the sink, then close it; returns at once."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait for the end; whether it was reached."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._write(item)
        except BaseException as error:  # raised again by the main thread
            self._broken = True
            self._on_end(error)
        finally:
            self._close()

    def _next(self) -> FrameResult | _SourceEnd | None:
        with self._changed:
            while not self._queue:
                if self._ending:
                    return None
                self._changed.wait()
            return self._queue.popleft()[0]

    def _write(self, item: FrameResult | _SourceEnd) -> None:
        try:
            if isinstance(item, FrameResult):
                self.sink.write(item)
            elif isinstance(self.sink, SourceFollower):
                self.sink.source_ended(item.origin)
        except SinkError as error:
            self.failed += 1
            if not self._faulty:
                _LOGGER.error("error: %s", redact(str(error)))
            self._faulty = True
        else:
            if self._faulty:
                _LOGGER.warning("%s works again; %s lost", self.sink.name, plural(self.failed, "result"))
            self._faulty = False
        self._on_room()

    def _close(self) -> None:
        try:
            self.sink.close()
        except SinkError as error:
            self.failed += 1
            _LOGGER.error("error: %s", redact(str(error)))
        except BaseException as error:
            self._on_end(error)
