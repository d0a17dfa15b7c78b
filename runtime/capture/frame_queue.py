"""Frames on their way from all sources to the one classifier: which go through the graphs together, and when.

`BatchScheduler` decides, and knows neither threads nor a clock; `FrameQueue` puts it between threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.capture.orientation import Region, nbytes

_ROOM = 4  # frames of a file that wait at least: enough to decode the next while one is classified
_POLL = 0.2  # seconds
MAX_BYTES = 1 << 27  # of a file's frames that wait; one that is larger waits alone


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    source    as shown; the file, where the source has several
    number    0-based, of this source
    time      seconds: position in a video file; Unix time for everything else
    image     the whole of it
    parts     what is classified, one or more: by its region, what is cut out there; None is all of it
    captured  when it came, by the monotonic clock, seconds
    """

    source: str
    number: int
    time: float
    image: Image.Image | NDArray[np.uint8]
    parts: Mapping[Region | None, Image.Image | NDArray[np.uint8]]
    captured: float

    @property
    def nbytes(self) -> int:
        """Bytes of the image."""
        return nbytes(self.image)


class Batch(NamedTuple):
    """What the queue gives at once.

    Attributes:
        frames: Each with the number of its source, those of live sources first.
        ended: Numbers of sources that have ended, all of whose frames were taken before; each is told once.
    """

    frames: list[tuple[int, Frame]]
    ended: list[int]


class BatchScheduler:
    """Which frames go through the graphs together. Work-conserving: while any frame waits, none waits for another.

    The newest frame of every live source that has one goes in, with all its regions, up to the limit, and turns go on
    after the source that was served last. Frames of files fill what live sources leave.

    Args:
        live: Of each source, whether it is; they are numbered from 0.
        limit: Parts of the frames of a batch, at most; a frame that has more goes alone.
        gather: Seconds that a frame may wait for those of other live sources, so that fewer runs do the same work.

    Attributes:
        dropped: Of each source, frames that were replaced before they were taken.
    """

    def __init__(self, live: Sequence[bool], limit: int = 1, gather: float = 0.0) -> None:
        self._limit, self._gather = limit, gather
        self._live, self._files = _Turns(), _Turns()
        self._queues: dict[int, deque[Frame]] = {}
        self._since: float | None = None  # when the first of the frames that wait came
        self.dropped: dict[int, int] = {}
        for source, each in enumerate(live):
            self.add(source, each)

    def add(self, source: int, live: bool) -> None:
        """Take frames of one more source; of a live one a newer frame replaces the one that waits."""
        (self._live if live else self._files).sources.append(source)
        self._queues[source], self.dropped[source] = deque(), 0

    def remove(self, source: int) -> int:
        """Forget a source and its frames; how many of them were dropped before."""
        for turns in (self._live, self._files):
            turns.sources = [each for each in turns.sources if each != source]
        del self._queues[source]
        if not any(self._queues.values()):
            self._since = None
        return self.dropped.pop(source)

    def put(self, source: int, frame: Frame, now: float) -> None:
        """Take a frame; `now` in seconds, on any clock."""
        queue = self._queues[source]
        if source in self._live.sources:
            self.dropped[source] += len(queue)
            queue.clear()
        queue.append(frame)
        self._since = now if self._since is None else self._since

    def waiting(self, source: int) -> Sequence[Frame]:
        """Frames of a source that were not taken, the oldest first."""
        return self._queues.get(source, ())

    def take(
        self, now: float, expected: Mapping[int, bool] | Sequence[bool], files: bool = True
    ) -> list[tuple[int, Frame]]:
        """The frames of the next batch; none while there are none, or while it may still gather.

        Args:
            now: As of `put`.
            expected: Of each source, whether frames may still come from it; only for those is it gathered.
            files: Whether frames of files may be taken now.
        """
        if self.seconds_left(now, expected) > 0:
            return []
        batch: list[tuple[int, Frame]] = []
        self._fill(batch, self._live)
        while files and self._fill(batch, self._files):
            pass
        self._since = now if any(self._queues.values()) else None
        return batch

    def seconds_left(self, now: float, expected: Mapping[int, bool] | Sequence[bool]) -> float:
        """How long the next batch may gather; 0 where it is complete, or has nothing to wait for."""
        live = self._live.sources
        parts = sum(len(queue[-1].parts) for source in live if (queue := self._queues[source]))
        lacking = any(expected[source] and not self._queues[source] for source in live)
        if self._since is None or not parts or not lacking or parts >= self._limit:
            return 0.0
        return self._since + self._gather - now

    def _fill(self, batch: list[tuple[int, Frame]], turns: _Turns) -> bool:
        """Add a frame of each of these sources that has one, as long as there is room; whether there was any."""
        room = self._limit - sum(len(frame.parts) for _, frame in batch)
        added = 0
        for source in turns.waiting(self._queues):
            parts = len(self._queues[source][0].parts)
            if parts > room and batch:
                break  # and not one with fewer behind it: it would be passed again and again
            batch.append((source, self._queues[source].popleft()))
            turns.served(source)
            room, added = room - parts, added + 1
        return added > 0


class _Turns:
    """Sources that take turns, each after the one that was served last."""

    def __init__(self) -> None:
        self.sources: list[int] = []

    def waiting(self, queues: Mapping[int, deque[Frame]]) -> list[int]:
        """Sources that have a frame, the next in turn first."""
        return [source for source in self.sources if queues[source]]

    def served(self, source: int) -> None:
        """Note that it is the last in turn from now on."""
        after = self.sources.index(source) + 1
        self.sources = self.sources[after:] + self.sources[:after]


class FrameQueue:
    """A place for one frame of each live source, where a newer one replaces it; a short queue for each file.

    Args:
        live: Of each source, whether it is; they are numbered from 0.
        limit: As of BatchScheduler.
        gather: As of BatchScheduler.
    """

    def __init__(self, live: Sequence[bool] = (), limit: int = 1, gather: float = 0.0) -> None:
        self._live = dict(enumerate(live))
        self._room = max(_ROOM, 2 * limit)  # one batch is decoded while another is classified
        self._scheduler = BatchScheduler(live, limit, gather)
        self._open = dict.fromkeys(self._live, True)
        self._paused: set[int] = set()  # sources that give nothing now, and may later
        self._ended: set[int] = set()  # sources whose end `take` has not told yet
        self._changed = threading.Condition()

    def add(self, source: int, live: bool, paused: bool = False) -> None:
        """Take frames of one more source; one that is paused gives none, and has not ended."""
        with self._changed:
            self._live[source], self._open[source] = live, not paused
            if paused:
                self._paused.add(source)
            self._scheduler.add(source, live)

    def remove(self, source: int) -> int:
        """Forget a source with the frames that wait; how many of its frames were dropped before."""
        with self._changed:
            for place in (self._paused, self._ended):
                place.discard(source)
            del self._live[source], self._open[source]
            self._changed.notify_all()
            return self._scheduler.remove(source)

    @property
    def dropped(self) -> Mapping[int, int]:
        """Of each source, frames that were replaced before anyone looked at them."""
        return self._scheduler.dropped

    def put(self, source: int, frame: Frame, left: threading.Event) -> None:
        """Hand over a frame; one of a file waits for room, until `left` is set."""
        with self._changed:
            while self._live.get(source) is False and self._is_full(source) and not left.is_set():
                self._changed.wait(_POLL)
            if source in self._live and not left.is_set():
                self._scheduler.put(source, frame, time.monotonic())
                self._changed.notify_all()

    def drain(self, source: int, left: threading.Event) -> None:
        """Wait until all that was handed over is taken, or `left` is set."""
        with self._changed:
            while self.waiting(source) and not left.is_set():
                self._changed.wait(_POLL)

    def waiting(self, source: int) -> int:
        """How many frames of a source wait to be taken."""
        return len(self._scheduler.waiting(source))

    def end(self, source: int) -> None:
        """No more frames come from this source."""
        with self._changed:
            if source in self._open:
                self._open[source] = False
                self._ended.add(source)
            self._changed.notify_all()

    def wake(self) -> None:
        """What `take` was told about files may be different now."""
        with self._changed:
            self._changed.notify_all()

    def take(self, files: Callable[[], bool], stop: threading.Event) -> Batch | None:
        """The next batch, and the sources that have ended before it; one of the two may be empty.

        Args:
            files: Whether frames of files may be taken now; they wait where they are until then, and hold up nobody.
            stop: Set when nothing is to be taken any more.

        Returns:
            None when all sources have ended, or `stop` is set.
        """
        with self._changed:
            while not stop.is_set():
                ended = sorted(source for source in self._ended if not self.waiting(source))
                self._ended.difference_update(ended)
                now = time.monotonic()
                frames = self._scheduler.take(now, self._open, files())
                if frames or ended:
                    self._changed.notify_all()
                    return Batch(frames, ended)
                if not (any(self._open.values()) or self._paused or any(map(self.waiting, self._open))):
                    return None
                left = self._scheduler.seconds_left(now, self._open)
                self._changed.wait(min(_POLL, left) if left > 0 else _POLL)
        return None

    def _is_full(self, source: int) -> bool:
        waiting = self._scheduler.waiting(source)
        return len(waiting) >= self._room or sum(frame.nbytes for frame in waiting) >= MAX_BYTES
