"""The life of one source in a thread: opened, read, lost, opened again, given up.

    opening --> live --> ended                    a file came to its end
       ^         |
       |         v
    retrying <-- fault --> dead                   it is final, or the retries are used up

One that is paused is not begun.

`frozen` is live without a new image. Files are not tried again: what is wrong with one stays wrong.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime._util.redact import redact
from attri.runtime._util.wording import plural
from attri.runtime.capture.base import Capture, CapturedFrame, SourceState
from attri.runtime.capture.frame_queue import Frame, FrameQueue
from attri.runtime.capture.open import open_source
from attri.runtime.capture.orientation import Region, as_rgb, crop, flipped
from attri.runtime.capture.retry import FreezeDetector, RetryPolicy
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.errors import FailedError, ImageError, SourceError

Opener = Callable[[SourceSpec, float, threading.Event], AbstractContextManager[Capture]]  # as `open_source`
Captured = Image.Image | NDArray[np.uint8]
_LOGGER = logging.getLogger("attri")
OPENING_TIMEOUT = 20.0  # seconds after which an opening that does not return is abandoned
GRACE = 2.0  # seconds that a library may take longer than the timeout it was given


class Reader:
    """Reads one source into the frame queue, in a thread of its own.

    Args:
        number: Number of the source in the queue.
        spec: The source.
        queue: Takes the frames.
        policy: How it is opened again, if it is retried.
        on_bug: Called with any exception that is no fault of the source.
        opener: Opens it; None is `open_source`.

    Attributes:
        spec: The source; its regions may be replaced while it is read.
        name: Its name.
        state: Where it is in its life; "frozen" is told by `is_frozen` alone.
        detail: What was negotiated when it was opened, or the last fault.
        restarts: Times that it was opened again.
        unreadable: Images that could not be read.
        last_frame: Unix time of the last new image; None before the first.
        newest: The last new image of one whose frames follow one another, with all its regions.
    """

    def __init__(
        self,
        number: int,
        spec: SourceSpec,
        queue: FrameQueue,
        policy: RetryPolicy,
        on_bug: Callable[[BaseException], None],
        opener: Opener | None = None,
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.state: SourceState = "paused" if spec.paused else "opening"
        self.detail = ""
        self.restarts = 0
        self.unreadable = 0
        self.last_frame: float | None = None
        self.newest: Captured | None = None
        self._number = number
        self._queue = queue
        self._policy = policy
        self._on_bug = on_bug
        self._opener = opener
        self._freeze = FreezeDetector(policy.freeze_timeout if spec.live else 0.0)
        self._thread: threading.Thread | None = None
        self._abandoned = threading.Event()  # nobody waits for the thread that reads now
        self._count = 0  # frames so far
        self._faults = 0  # in a row, without a sign of life between them
        self._proven = (
            False  # whether there was such a sign: an image, or of one that waits for others, that it was open
        )
        self._attempts = 0  # in a row, without a long life between them
        self._shape: tuple[int, ...] | None = None
        self._opened = time.monotonic()
        self._moved = time.monotonic()  # when the library gave anything

    def start(self) -> None:
        """Read in a new thread."""
        self._launch(None)

    def run(self) -> None:
        """Read in this thread, until the last frame was taken from the queue."""
        self._run(self._abandoned, None)
        self._queue.drain(self._number, self._abandoned)

    def stop(self) -> None:
        """Ask the thread to end."""
        self._abandoned.set()

    def join(self, seconds: float) -> bool:
        """Wait for the thread that was started, if one was; whether it has ended."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def is_frozen(self) -> bool:
        """Whether it is live, and no new image has come for half of the freeze timeout."""
        return self.state == "live" and self._freeze.is_suspect()

    def check(self) -> None:
        """Abandon a thread that hangs in a library, and go on with another. To be called now and then."""
        if not self.spec.live or self._abandoned.is_set() or self.state not in ("opening", "live"):
            return
        limit = OPENING_TIMEOUT if self.state == "opening" else self._timeout + GRACE
        if time.monotonic() - self._moved > limit:
            self._abandoned.set()
            self._abandoned = threading.Event()
            self._moved = time.monotonic()  # or the next check would do it again, before the new thread has begun
            unsure = self.state == "opening" and self.spec.kind in ("csi", "gst")
            hint = " (is every element of the pipeline installed?)" if unsure else ""  # OpenCV waits where one is not
            self._launch(SourceError(f"no answer for {limit:g} s{hint}"))

    @property
    def _timeout(self) -> float:
        """Seconds that a library may wait for a frame."""
        return self._policy.freeze_timeout or OPENING_TIMEOUT

    def _launch(self, fault: SourceError | None) -> None:
        arguments = (self._abandoned, fault)
        self._thread = threading.Thread(target=self._run, args=arguments, name=f"source {self.name}", daemon=True)
        self._thread.start()

    def _run(self, abandoned: threading.Event, fault: SourceError | None) -> None:
        try:
            while not abandoned.is_set() and (fault is None or self._wait(fault, abandoned)):
                fault = self._read(abandoned)
                if fault is None:
                    break
        except BaseException as error:  # a bug belongs to the main thread, unless this one was abandoned
            if not abandoned.is_set():
                self._on_bug(error)
        if not abandoned.is_set() and self.state in ("ended", "dead"):
            self._queue.end(self._number)

    def _read(self, abandoned: threading.Event) -> SourceError | None:
        """Open the source and read it until its end (None) or a fault."""
        self._moved = time.monotonic()
        self.state = "opening"
        try:
            with (self._opener or open_source)(self.spec, self._timeout, abandoned) as capture:
                if not abandoned.is_set():
                    self._note_opened(capture.description)
                for frame in capture.frames:
                    if abandoned.is_set():
                        return None
                    self._take(frame, abandoned)
        except SourceError as error:
            # Without its traceback, which would keep the decoder and its threads alive until the next fault.
            return SourceError(str(error), final=error.final)
        except FailedError as error:
            return SourceError(str(error), final=True)
        if not abandoned.is_set():
            self.state = "ended"
        return None

    def _note_opened(self, description: str) -> None:
        self._opened = self._moved = time.monotonic()
        self._freeze.restart()
        self.state = "live"
        self.detail = description
        if not self.spec.live:
            self._note_life()
        if self.spec.kind != "images":
            _LOGGER.info("%s: %s", self.name, description)

    def _wait(self, fault: SourceError, abandoned: threading.Event) -> bool:
        """Log the fault and wait before the next attempt; False: there is none."""
        self.detail = redact(str(fault))
        limit = self._policy.retries(self._proven)
        if time.monotonic() - self._opened > self._policy.max_delay and self.state == "live":
            self._attempts = 0
        if fault.final or not self.spec.retried or self._faults >= limit:
            self._give_up(limit if self._faults >= limit > 0 and not fault.final else 0)
            return False
        self.state = "retrying"
        self._faults += 1
        self._attempts += 1
        self.restarts += 1
        delay = self._policy.delay(self._attempts)
        words = (self.name, self.detail, delay, self._faults, limit)
        _LOGGER.warning("%s: %s; trying again in %.1f s (%d of %d)", *words)
        return not abandoned.wait(delay)

    def _give_up(self, retries: int) -> None:
        """End as dead; `retries` that were used up are told, 0 means that there were none."""
        self.state = "dead"
        tried = f", given up after {plural(retries, 'retry')}" if retries else ""
        name = f"{self.name}: " if self.spec.retried else ""
        _LOGGER.error("error: %s%s%s", name, self.detail, tried)

    def _take(self, captured: CapturedFrame | None, abandoned: threading.Event) -> None:
        """Hand a frame over to the queue, unless it is none, a repeated or an unreadable one."""
        self._moved = now = time.monotonic()
        if captured is None:
            self._freeze.check()
            return
        number = self._count
        self._count += 1
        if self._freeze.is_repeat(captured.image):
            self._freeze.check()
            return
        try:
            image, parts = self._transform(captured.image)
        except ImageError as error:
            self._skip(str(error))
            return
        except SourceError as error:
            if captured.source is None:
                raise
            self._skip(f"{captured.source}: {error}")  # of a source of many files, this one alone
            return
        self._renew(captured.image)
        if self.spec.sequential:
            self.newest = image
        if number % (self.spec.input.stride or 1) == 0:
            shown = (captured.source, 0) if captured.source else (self.name, number)
            self._queue.put(self._number, Frame(*shown, captured.time, image, parts, now), abandoned)

    def _transform(
        self, image: Image.Image | NDArray[np.uint8] | ImageError
    ) -> tuple[Captured, dict[Region | None, Captured]]:
        """The image as it is to be shown, and its regions."""
        if isinstance(image, ImageError):
            raise image
        if self.spec.input.flip:
            image = flipped(as_rgb(image), self.spec.input.flip)
        return image, {roi: crop(image, roi) for roi in self.spec.rois}

    def _skip(self, reason: str) -> None:
        self.unreadable += 1
        _LOGGER.error("error: %s", redact(reason))

    def _note_life(self) -> None:
        self._faults, self._proven = 0, True

    def _renew(self, image: object) -> None:
        """Note that a new image came: the source is well."""
        self._freeze.renew(image)
        self._note_life()
        self.last_frame = time.time()
        if self.spec.live and isinstance(image, np.ndarray):
            if self._shape not in (None, image.shape):
                _LOGGER.info("%s: frames are now %d x %d", self.name, image.shape[1], image.shape[0])
            self._shape = image.shape
