"""One sink's thread, and the bounded queue in front of it."""

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
ROOM = 8  # results that wait, at least; each holds a whole frame
_EVENTS = 32  # likewise of sinks that take nothing else: at 30 frames a second, a disk may be busy for one
_BYTES = 1 << 27  # of frames that wait, above which files wait too


@dataclass(frozen=True)
class _SourceEnd:
    """Stands in the queue behind the last result of a source that has ended."""

    origin: str


class SinkWorker:
    """Gives results to one sink, in order, as fast as it takes them.

    When the queue is full, a result of a live source costs one, which is counted: never an event for the sake of one
    that is none, and never what was promised. A lossless sink goes without the new one, any other without the oldest.
    A SinkError costs its result, is counted, and is told when it begins and when it is over.

    Args:
        on_room: called when a full queue has room again.
        on_end: called with an error that is none of the sink's business to raise; the sink is given nothing more.
        batch: results that come at once, at most.
    """

    def __init__(
        self, sink: Sink, on_room: Callable[[], None], on_end: Callable[[BaseException], None], batch: int = 1
    ) -> None:
        self.sink, self.name = sink, sink.name
        self._batch, self._room = batch, max(_EVENTS if sink.takes == "changes" else ROOM, 2 * batch)
        self.dropped = 0  # results that never reached the sink
        self.failed = 0  # results that the sink could not deliver
        self._on_room, self._on_end = on_room, on_end
        self._queue: deque[tuple[FrameResult | _SourceEnd, bool]] = deque()  # and whether it was promised
        self._changed = threading.Condition()
        self._ending = self._broken = self._faulty = False
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def has_room(self) -> bool:
        """Whether a batch of results may be promised."""
        if self._broken:
            return True
        with self._changed:
            held = sum(nbytes(item.raw_image) for item, _ in self._queue if isinstance(item, FrameResult))
            return held < _BYTES and len(self._queue) + self._batch <= self._room

    def offer(self, result: FrameResult, due: bool, live: bool) -> None:
        """Queue a result; never waits.

        Args:
            due: whether it is one that --min-interval and --on-change let through.
            live: whether it comes from a live source, of which a lossless sink is promised nothing.
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
        """Queue, for a sink that wants to know, that no more results of this source come; never waits."""
        if self._broken or not isinstance(self.sink, SourceFollower):
            return
        with self._changed:
            self._queue.append((_SourceEnd(origin), True))
            self._changed.notify()

    def _make_room(self, event: bool) -> bool:
        """Whether the new result, an event or not, takes the place of one that waits."""
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
        """Let the sink have what is queued, and close."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait for that; whether it is done."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._write(item)
        except BaseException as error:  # it belongs to the main thread
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
