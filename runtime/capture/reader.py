"""One source's life: opened, read, lost, opened again, given up.

    opening --> live --> ended                    a file came to its end
       ^         |
       |         v
    retrying <-- fault --> dead                   it is final, or --max-retries are used up

`frozen` is live without a new picture. Only live sources are tried again: what is wrong with a file stays wrong.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attri.runtime._util.backoff import backoff_delay
from attri.runtime._util.redact import redact
from attri.runtime._util.wording import plural
from attri.runtime.capture.base import CapturedFrame, SourceState
from attri.runtime.capture.frame_queue import Frame, FrameQueue
from attri.runtime.capture.open import open_source
from attri.runtime.capture.orientation import as_rgb, flipped, region
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.errors import FailedError, ImageError, SourceError

_LOGGER = logging.getLogger("attri")
_OPENING = 20.0  # seconds after which an opening that does not return is left behind
_GRACE = 2.0  # seconds that a library may take longer than the patience it was told


@dataclass(frozen=True)
class RetryPolicy:
    """How long a live source is waited for.

    retries  attempts in a row without a new picture, before the source is given up
    first    seconds before the first; doubled for each, and shortened by up to half at random, so that many devices do
             not all knock at once when a server comes back
    longest  seconds between two
    frozen   seconds without a new picture that are a fault; 0 never are
    """

    retries: int = 20
    first: float = 1.0
    longest: float = 30.0
    frozen: float = 10.0

    def delay(self, attempt: int) -> float:
        """Seconds before this attempt, from 1."""
        return backoff_delay(attempt, self.first, self.longest)


class Reader:
    """Reads one source into the intake, in a thread of its own.

    Args:
        number: of the source in the intake.
        on_bug: called with what is no fault of the source.
    """

    def __init__(
        self,
        number: int,
        spec: SourceSpec,
        intake: FrameQueue,
        patience: RetryPolicy,
        on_bug: Callable[[BaseException], None],
    ) -> None:
        self.spec, self.name = spec, spec.name
        self.state: SourceState = "opening"
        self.detail = ""
        self.restarts = self.unreadable = 0
        self.last_frame: float | None = None  # Unix time
        self._number, self._intake, self._patience, self._on_bug = number, intake, patience, on_bug
        self._thread: threading.Thread | None = None
        self._left = threading.Event()  # nobody waits for the thread that now reads
        self._count = 0  # pictures so far
        self._faults = self._attempts = 0  # in a row: without a new picture; without a long life
        self._last: NDArray[np.uint8] | None = None
        self._shape: tuple[int, ...] | None = None
        self._opened = self._moved = self._fresh = time.monotonic()  # when it opened, gave anything, gave something new

    def start(self) -> None:
        """Read in a new thread."""
        self._launch(None)

    def run(self) -> None:
        """Read in this thread, until the last frame was taken."""
        self._run(self._left, None)
        self._intake.drain(self._number, self._left)

    def stop(self) -> None:
        self._left.set()

    def join(self, seconds: float) -> bool:
        """Wait for the thread that was started, if one was; whether it has ended."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def is_frozen(self) -> bool:
        """Whether it is live, and new pictures have not come for half the time that is a fault."""
        frozen = self._patience.frozen
        return self.spec.live and self.state == "live" and 0 < frozen / 2 < time.monotonic() - self._fresh

    def check(self) -> None:
        """Leave a thread behind that a library does not give back, and go on with another. Called now and then."""
        if not self.spec.live or self._left.is_set() or self.state not in ("opening", "live"):
            return
        limit = _OPENING if self.state == "opening" else (self._patience.frozen or _OPENING) + _GRACE
        if time.monotonic() - self._moved > limit:
            self._left.set()
            self._left = threading.Event()
            self._moved = time.monotonic()  # or the next look would do it again, before the new thread has begun
            unsure = self.state == "opening" and self.spec.kind in ("csi", "gst")
            hint = " (is every element of the pipeline installed?)" if unsure else ""  # OpenCV waits where one is not
            self._launch(SourceError(f"no answer for {limit:g} s{hint}"))

    def _launch(self, fault: SourceError | None) -> None:
        arguments = (self._left, fault)
        self._thread = threading.Thread(target=self._run, args=arguments, name=f"source {self.name}", daemon=True)
        self._thread.start()

    def _run(self, left: threading.Event, fault: SourceError | None) -> None:
        try:
            while not left.is_set() and (fault is None or self._wait(fault, left)):
                fault = self._read(left)
                if fault is None:
                    break
        except BaseException as error:  # a bug belongs to the main thread, unless it was left behind
            if not left.is_set():
                self._on_bug(error)
        if not left.is_set() and self.state in ("ended", "dead"):
            self._intake.end(self._number)

    def _read(self, left: threading.Event) -> SourceError | None:
        """Open the source and read it until its end (None) or a fault."""
        self._moved = time.monotonic()
        self.state = "opening"
        try:
            with open_source(self.spec, self._patience.frozen or _OPENING, left) as capture:
                if not left.is_set():
                    self._open(capture.description)
                for shot in capture.shots:
                    if left.is_set():
                        return None
                    self._take(shot, left)
        except SourceError as error:
            # Without its traceback, which would keep the decoder and its threads alive until the next fault.
            return SourceError(str(error), final=error.final)
        except FailedError as error:
            return SourceError(str(error), final=True)
        if not left.is_set():
            self.state = "ended"
        return None

    def _open(self, description: str) -> None:
        self._opened = self._moved = self._fresh = time.monotonic()
        self.state, self.detail = "live", description
        if self.spec.kind != "images":
            _LOGGER.info("%s: %s", self.name, description)

    def _wait(self, fault: SourceError, left: threading.Event) -> bool:
        """Say what happened and wait before the next attempt; False: there is none."""
        self.detail = redact(str(fault))
        limit = self._patience.retries
        if time.monotonic() - self._opened > self._patience.longest and self.state == "live":
            self._attempts = 0
        if fault.final or not self.spec.live or self._faults >= limit:
            self.state = "dead"
            used_up = self._faults >= limit > 0 and not fault.final
            tried = f", given up after {plural(limit, 'retry')}" if used_up else ""
            name = f"{self.name}: " if self.spec.live else ""
            _LOGGER.error("error: %s%s%s", name, self.detail, tried)
            return False
        self.state = "retrying"
        self._faults += 1
        self._attempts += 1
        self.restarts += 1
        delay = self._patience.delay(self._attempts)
        words = (self.name, self.detail, delay, self._faults, limit)
        _LOGGER.warning("%s: %s; trying again in %.1f s (%d of %d)", *words)
        return not left.wait(delay)

    def _take(self, shot: CapturedFrame | None, left: threading.Event) -> None:
        self._moved = now = time.monotonic()
        if shot is None:
            self._thaw(now)
            return
        number = self._count
        self._count += 1
        try:
            if isinstance(shot.image, ImageError):
                raise shot.image
            if self.spec.live and self._is_still(shot.image):
                self._thaw(now)
                return
            image = flipped(as_rgb(shot.image), self.spec.input.flip) if self.spec.input.flip else shot.image
            part = region(image, self.spec.input.roi)
        except (ImageError, SourceError) as error:
            if isinstance(error, SourceError) and not shot.source:
                raise
            self.unreadable += 1
            _LOGGER.error("error: %s%s", f"{shot.source}: " * isinstance(error, SourceError), redact(str(error)))
            return
        self._renew(shot.image, now)
        if number % (self.spec.input.stride or 1) == 0:
            shown = (shot.source, 0) if shot.source else (self.name, number)
            self._intake.put(self._number, Frame(*shown, shot.time, image, part, now), left)

    def _is_still(self, image: object) -> bool:
        """Whether it is the picture before, which a lost camera may go on giving: none of these is looked at."""
        last = self._last
        if last is None or not isinstance(image, np.ndarray) or image.shape != last.shape:
            return False
        middle = len(image) // 2  # one row first: in all but frozen pictures it differs already
        return np.array_equal(image[middle], last[middle]) and np.array_equal(image, last)

    def _renew(self, image: object, now: float) -> None:
        self._fresh, self._faults = now, 0
        self.last_frame = time.time()
        if self.spec.live and isinstance(image, np.ndarray):
            if self._shape not in (None, image.shape):
                _LOGGER.info("%s: frames are now %d x %d", self.name, image.shape[1], image.shape[0])
            self._shape = image.shape
            self._last = image if self._patience.frozen > 0 else None

    def _thaw(self, now: float) -> None:
        frozen = self._patience.frozen
        if self.spec.live and 0 < frozen < now - self._fresh:
            raise SourceError(
                f"frozen: nothing new for {frozen:g} s (--freeze-timeout 0 where a picture may stand still)"
            )
