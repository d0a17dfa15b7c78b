"""The sink that serves updates of the bundle: it counts decided labels, and saves frames when a check asks for them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from PIL import Image

from attri.runtime._util.atomic import replacing
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.deliver.updates.exchange import (
    NONE,
    Exchange,
    LabelCounts,
    ReleaseCounts,
    TaskSettings,
    WantedFrames,
)
from attri.runtime.errors import LabelsError, SinkError

_LOGGER = logging.getLogger("attri")
POLL = 0.5  # seconds between looks at what is asked for
SPACING = 0.5  # seconds between two frames of a source: neighbours show the same
FORGET = 3600.0  # seconds after which what was counted counts half, so that an hour is compared with the one before
_REST = 60.0  # seconds between writes of the counts where nobody waits for them
_SIDE = 1024  # pixels of the longer side of a saved frame
_LABELS = 1000  # labels of one prompt: they can be edited for months
_PROMPTS = 64  # prompts: with tasks there are several


class UpdatesSink:
    """Counts what is decided, saves frames that a check asks for, and passes on how far an update is.

    A release on probation is judged by the counts. They go on where attri-run is started again.

    Args:
        exchange: The folder.
        settings: What each task asks of the frames of a source; raises LabelsError where that is gone.
        announce: Is told of each change of the update's state that it sees; None tells nobody.
    """

    name = "updates"
    lossless = False
    takes: SinkFilter = "every_frame"

    def __init__(
        self,
        exchange: Exchange,
        settings: Callable[[str], Sequence[TaskSettings]],
        announce: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._exchange, self._settings, self._announce = exchange, settings, announce
        self._counts = exchange.counts()
        self._lock = threading.Lock()  # held while counts change
        self._wanted: WantedFrames | None = None
        self._saved = 0
        self._last: dict[str, float] = {}  # by source, when a frame of it was saved
        self._written, self._halved = -math.inf, time.monotonic()
        self._stop = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._run, name="updates", daemon=True)
        self._thread.start()

    def write(self, result: FrameResult) -> None:
        """Count a result, and save the frame if one is asked for.

        Raises:
            SinkError: The disk does not take the frame.
        """
        if result.unchanged:
            return
        with self._lock:
            _count(self._counts, result)
        wanted = self._wanted
        if wanted is not None and self._saved < wanted.frames:
            now = time.monotonic()
            if now - self._last.get(result.origin, -math.inf) >= SPACING:
                self._last[result.origin] = now
                self._save(result)

    def close(self) -> None:
        """Write the counts, for the next run."""
        self._stop.set()
        self._thread.join(1.0)
        with suppress(OSError):
            self._exchange.tell_counts(self._counts)

    def _run(self) -> None:
        while not self._stop.wait(POLL):
            self._look()

    def _look(self) -> None:
        """See what is asked for, and say what was counted where somebody waits for it."""
        told = self._exchange.update()
        update = told.get("update") or {}
        now = time.monotonic()
        with self._lock:
            changed = told.get("runs") != self._counts.runs
            if changed:
                self._counts = ReleaseCounts(told.get("runs"), before=self._counts.now, state=self._counts.state)
            if now - self._halved > FORGET:
                self._halved = now
                _halve(self._counts)
            changed |= self._pass_on(update)
            if changed or now - self._written > (POLL if update.get("state") == "trying" else _REST):
                self._written = now
                with suppress(OSError):  # a full disk: then a release is judged by what it does not show
                    self._exchange.tell_counts(self._counts)
        wanted = self._exchange.wanted()
        if wanted != self._wanted:
            self._saved = len(self._exchange.saved_frames())  # by the attri-run before
            self._last = {}
            self._wanted = wanted

    def _pass_on(self, update: Mapping[str, Any]) -> bool:
        """Announce the state of an update; whether it has changed."""
        state, before = f"{update.get('release')} {update.get('state')}", self._counts.state
        if before not in (None, state) and self._announce is not None:
            try:
                self._announce(update)
            except SinkError as error:
                _LOGGER.error("error: %s", error)
        self._counts.state = state
        return before != state

    def _save(self, result: FrameResult) -> None:
        image = Image.fromarray(result.part)
        image.thumbnail((_SIDE, _SIDE), reducing_gap=2.0)
        try:
            file = self._exchange.frames / f"{self._saved:05}.jpg"
            self._exchange.tell_settings(file, self._settings(result.origin))
            with replacing(file) as part:
                image.save(part, "JPEG", quality=92)
        except LabelsError:  # the source was removed meanwhile
            return
        except FileNotFoundError:  # nobody asks any more
            self._wanted = None
        except OSError as error:
            self._wanted = None
            raise SinkError(f"{self._exchange.frames}: {error.strerror or error}") from error
        else:
            self._saved += 1


def _count(counts: ReleaseCounts, result: FrameResult) -> None:
    prompt = result.prediction.prompt or ""
    if prompt not in counts.now and len(counts.now) >= _PROMPTS:
        del counts.now[next(iter(counts.now))]
    found = counts.now.setdefault(prompt, LabelCounts())
    found.results += 1
    found.not_finite += not math.isfinite(result.prediction.score)
    for label in result.decided or (NONE,):
        if label in found.labels or len(found.labels) < _LABELS:
            found.labels[label] = found.labels.get(label, 0.0) + 1


def _halve(counts: ReleaseCounts) -> None:
    for each in counts.now.values():
        each.results /= 2
        each.labels = {label: number / 2 for label, number in each.labels.items()}
