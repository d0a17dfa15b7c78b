"""Frames on their way from all sources to the one classifier; bounded, and fair to every source."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.capture.orientation import nbytes

_ROOM = 4  # frames of a file that wait at least: enough to decode the next while one is classified
MAX_BYTES = 1 << 27  # of a file's frames that wait; one that is larger waits alone


@dataclass(frozen=True)
class Frame:
    """One image to classify.

    source    as shown; the file, where the source has several
    number    0-based, of this source
    time      seconds: position in a video file; Unix time for everything else
    image     the whole of it
    part      what is classified
    captured  when it came, by the monotonic clock, seconds
    """

    source: str
    number: int
    time: float
    image: Image.Image | NDArray[np.uint8]
    part: Image.Image | NDArray[np.uint8]
    captured: float

    @property
    def nbytes(self) -> int:
        """Bytes of the image."""
        return nbytes(self.image)


class FrameQueue:
    """A place for one frame of each live source, where a newer one replaces it; a short queue for each file.

    Args:
        live: of each source, whether it is.
        batch: frames of a file that are taken at once, at most.
    """

    def __init__(self, live: Sequence[bool], batch: int = 1) -> None:
        self._live, self._batch = live, batch
        self._room = max(_ROOM, 2 * batch)  # one batch is decoded while another is classified
        self._queues: list[deque[Frame]] = [deque() for _ in live]
        self._open = [True] * len(live)
        self._ended: set[int] = set()  # sources whose end `take` has not told yet
        self._changed = threading.Condition()
        self._next = 0  # the source that is asked first: turns go round
        self.dropped = [0] * len(live)  # frames that were replaced before anyone looked at them

    def put(self, source: int, frame: Frame, left: threading.Event) -> None:
        """Hand over a frame; one of a file waits for room, until `left` is set."""
        queue = self._queues[source]
        with self._changed:
            if self._live[source]:
                self.dropped[source] += len(queue)
                queue.clear()
            while self._is_full(queue) and not left.is_set():
                self._changed.wait(0.2)
            if not left.is_set():
                queue.append(frame)
                self._changed.notify_all()

    def drain(self, source: int, left: threading.Event) -> None:
        """Wait until all that was handed over is taken, or `left` is set."""
        with self._changed:
            while self._queues[source] and not left.is_set():
                self._changed.wait(0.2)

    def waiting(self, source: int) -> int:
        """How many frames of a source wait to be taken."""
        return len(self._queues[source])

    def end(self, source: int) -> None:
        """No more frames come from this source."""
        with self._changed:
            self._open[source] = False
            self._ended.add(source)
            self._changed.notify_all()

    def wake(self) -> None:
        """What `take` was told about files may be different now."""
        with self._changed:
            self._changed.notify_all()

    def take(self, files: Callable[[], bool], stop: threading.Event) -> tuple[int, list[Frame]] | None:
        """The number of a source and its next frames, a batch of those that wait.

        No frames, once for each source: it has ended, and all its frames were taken.

        Args:
            files: whether frames of files may be taken now; they wait where they are until then, and hold up nobody.
            stop: set when nothing is to be taken any more.

        Returns:
            None when all sources have ended, or `stop` is set.
        """
        with self._changed:
            while not stop.is_set():
                if (ended := self._drained()) is not None:
                    self._ended.remove(ended)
                    return ended, []
                source = self._ready(files())
                if source is not None:
                    self._next = source + 1
                    queue = self._queues[source]
                    frames = [queue.popleft() for _ in range(min(len(queue), self._batch))]
                    self._changed.notify_all()
                    return source, frames
                if not any(self._open) and not any(self._queues):
                    return None
                self._changed.wait(0.2)
        return None

    def _is_full(self, queue: deque[Frame]) -> bool:
        return len(queue) >= self._room or sum(frame.nbytes for frame in queue) >= MAX_BYTES

    def _drained(self) -> int | None:
        return next((source for source in self._ended if not self._queues[source]), None)

    def _ready(self, files: bool) -> int | None:
        count = len(self._queues)
        turns = ((self._next + i) % count for i in range(count))
        return next((i for i in turns if self._queues[i] and (self._live[i] or files)), None)
