"""A source's life, with a script in the place of what opens it; real streams are in test_streams.py."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from support.fakes import Step, make_frame, scripted, wait_for

from attri.runtime.capture import reader as module
from attri.runtime.capture.base import Capture
from attri.runtime.capture.frame_queue import Frame, FrameQueue
from attri.runtime.capture.reader import Reader
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SourceOptions, SourceSpec
from attri.runtime.errors import ImageError, MissingExtra, SourceError

CAMERA = SourceSpec("door", "stream", "rtsp://user:secret@host")
QUICK = RetryPolicy(max_retries=3, initial_delay=0.01, max_delay=0.02, freeze_timeout=0.3)
LOST = SourceError("lost")


class Run:
    """A reader at work, its frames taken as they come."""

    def __init__(self, spec: SourceSpec, patience: RetryPolicy) -> None:
        # As for a file, whatever it is: no frame makes way for a newer one, so none is missed by a taker that is late.
        self.intake, self.stop, self.frames, self.bugs = FrameQueue([False]), threading.Event(), [], []
        self.reader = Reader(0, spec, self.intake, patience, self.bugs.append)
        self.taker = threading.Thread(target=self._take)
        self.taker.start()
        self.reader.start()

    @property
    def seen(self) -> list[int]:
        return [int(frame.image[0, 0, 0]) for frame in self.frames]

    def _take(self) -> None:
        while (batch := self.intake.take(lambda: True, self.stop)) is not None:
            self.frames += [frame for _, frame in batch.frames]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Run]]:
    caplog.set_level(logging.INFO, logger="attri")
    runs: list[Run] = []

    def start(
        *rounds: list[Step], spec: SourceSpec = CAMERA, patience: RetryPolicy = QUICK, opens: object = None
    ) -> Run:
        monkeypatch.setattr(module, "open_source", opens or scripted(*rounds))
        runs.append(Run(spec, patience))
        return runs[-1]

    yield start
    for each in runs:
        each.reader.stop()
        each.stop.set()
        assert each.reader.join(5)
        each.taker.join(5)


def over(run: Run) -> Run:
    run.taker.join(5)  # it ends when the intake says that nothing more comes
    assert not run.taker.is_alive()
    assert not run.bugs
    return run


def frames(*numbers: int) -> list[Step]:
    return [make_frame(number) for number in numbers]


def test_a_source_that_comes_back(run: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    found = run([*frames(1, 2), LOST], [LOST], [LOST], [*frames(3, 4), ...])
    wait_for(lambda: found.seen == [1, 2, 3, 4])
    assert [frame.number for frame in found.frames] == [0, 1, 2, 3]
    assert (found.reader.state, found.reader.restarts, found.reader.detail) == ("live", 3, "scripted")
    words = [message.partition("; ")[0] for message in caplog.messages]
    assert words == ["door: scripted", *["door: lost"] * 3, "door: scripted"]
    assert [message[-8:] for message in caplog.messages if "lost" in message] == ["(1 of 3)", "(2 of 3)", "(3 of 3)"]


def test_one_that_does_not(run: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    found = over(run([*frames(1), LOST], [LOST]))
    assert found.seen == [1]
    assert (found.reader.state, found.reader.detail) == ("dead", "lost")
    assert caplog.messages[-1] == "error: door: lost, given up after 3 retries"
    assert sum("trying again" in message for message in caplog.messages) == 3


def test_new_images_give_it_all_its_retries_again(run: Callable[..., Run]) -> None:
    found = over(run(*[[*frames(i), LOST] for i in range(6)], [LOST]))
    assert found.seen == [0, 1, 2, 3, 4, 5]
    assert found.reader.restarts == 5 + 3


@pytest.mark.parametrize("fault", [SourceError("the password is refused", final=True), MissingExtra("av")])
def test_what_cannot_be_mended_is_not_tried_again(
    run: Callable[..., Run], caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    found = over(run([fault]))
    assert (found.reader.state, found.reader.restarts) == ("dead", 0)
    assert caplog.messages == [f"error: door: {fault}"]


def test_one_that_was_never_there_is_given_up_early(run: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    quick: dict[str, Any] = {"initial_delay": 0.01, "max_delay": 0.02}
    found = over(run([LOST], patience=RetryPolicy(**quick)))
    assert (found.reader.state, found.reader.restarts) == ("dead", 2)
    assert caplog.messages[-1] == "error: door: lost, given up after 2 retries"
    waited = over(run([LOST], patience=RetryPolicy(max_retries=5, first_retries=None, **quick)))
    assert waited.reader.restarts == 5
    assert over(run([LOST], patience=RetryPolicy(max_retries=1, **quick))).reader.restarts == 1


def test_no_retries_when_none_are_wanted(run: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    assert over(run([LOST], patience=RetryPolicy(max_retries=0))).reader.state == "dead"
    assert caplog.messages == ["error: door: lost"]


def test_a_file_is_not_tried_again(run: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    found = over(run([*frames(1), SourceError("v.mp4 is cut off")], spec=SourceSpec("v.mp4", "video", "v.mp4")))
    assert (found.seen, found.reader.state) == ([1], "dead")
    assert caplog.messages[-1] == "error: v.mp4 is cut off"


def test_a_frozen_camera_is_opened_again_and_its_still_image_is_never_looked_at(
    run: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    still = [step for _ in range(100) for step in (make_frame(2), 0.01)]
    found = over(run([*frames(1), *still], still))
    assert found.seen == [1, 2]
    assert found.reader.state == "dead"
    assert "frozen: nothing new for 0.3 s" in caplog.messages[-1]


def test_a_silent_one_is_frozen_too(run: Callable[..., Run]) -> None:
    """For half the time that is a fault it is live, then it is called frozen; heartbeats are no images."""
    runs: list[Run] = []
    until = [lambda: wait_for(runs[0].reader.is_frozen), None, *frames(2), ...]
    runs.append(run([*frames(1), 0.2, *until], patience=RetryPolicy(freeze_timeout=2)))
    wait_for(lambda: runs[0].seen == [1, 2])
    assert not runs[0].reader.is_frozen()
    assert runs[0].reader.restarts == 0


def test_an_image_may_stand_still_where_that_is_said(run: Callable[..., Run]) -> None:
    found = run([*frames(*[7] * 40), ...], patience=RetryPolicy(freeze_timeout=0))
    wait_for(lambda: len(found.frames) == 40)
    assert not found.reader.is_frozen()


@pytest.mark.parametrize("late", [make_frame(9), ZeroDivisionError("late")], ids=["image", "bug"])
def test_a_library_that_does_not_come_back_is_left_behind(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, late: Step
) -> None:
    """Its thread wakes much later, with an image or a bug that nobody wants any more."""
    monkeypatch.setattr(module, "GRACE", 0.1)
    asleep = threading.Event()
    found = run([*frames(1), lambda: asleep.wait(5), late], [*frames(2, 3), *[0.05, make_frame(4)] * 50, ...])
    wait_for(lambda: found.seen == [1])
    (first,) = [thread for thread in threading.enumerate() if thread.name == "source door"]
    wait_for(lambda: found.reader.check() or len(found.seen) >= 3)
    assert first.is_alive()
    asleep.set()
    first.join(5)
    assert 9 not in found.seen
    assert not found.bugs
    assert found.reader.state == "live"
    assert found.reader.restarts == 1


def test_an_opening_that_does_not_come_back(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPENING_TIMEOUT", 0.1)
    asleep = threading.Event()
    opened = scripted([*frames(1), ...])
    calls: list[int] = []

    def slow(*args: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            asleep.wait(5)
        return opened(*args)

    found = run(opens=slow)
    wait_for(lambda: found.reader.check() or found.reader.state == "live")
    asleep.set()
    assert found.reader.restarts == 1


def test_what_was_lost_is_let_go_at_once(run: Callable[..., Run]) -> None:
    """A decoder has threads and memory: while the source waits to be tried again, nothing may hold it."""
    decoders: list[weakref.ref[np.ndarray]] = []

    @contextmanager
    def opened(*_: object) -> Iterator[Capture]:
        decoder = make_frame(1)
        decoders.append(weakref.ref(decoder))
        yield Capture("lost", map(lose, [decoder]))

    def lose(decoder: np.ndarray) -> None:
        raise SourceError("lost")

    found = run(opens=opened, patience=RetryPolicy(initial_delay=20))
    wait_for(lambda: found.reader.state == "retrying")
    wait_for(lambda: decoders[0]() is None, 2)


def test_sizes_may_change(run: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    found = run([*frames(1), make_frame(2, (12, 10)), make_frame(3), ...])
    wait_for(lambda: len(found.frames) == 3)
    assert [frame.image.shape for frame in found.frames] == [(6, 8, 3), (12, 10, 3), (6, 8, 3)]
    assert caplog.messages[-2:] == ["door: frames are now 10 x 12", "door: frames are now 8 x 6"]


def test_what_is_classified_is_the_region(run: Callable[..., Run]) -> None:
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    spec = SourceSpec("door", "stream", "", input=SourceOptions(roi=(1, 2, 4, 3), flip="rotate-180"))
    found = run([image, ...], spec=spec)
    wait_for(lambda: found.frames)
    np.testing.assert_array_equal(found.frames[0].image, image[::-1, ::-1])
    np.testing.assert_array_equal(found.frames[0].parts[1, 2, 4, 3], image[::-1, ::-1][2:5, 1:5])


def test_a_region_outside_of_the_frame_is_a_fault(run: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    spec = SourceSpec("door", "stream", "", input=SourceOptions(roi=(0, 0, 9, 6)))
    found = over(run(*[frames(i) for i in range(9)], spec=spec))  # new images each time mend nothing
    assert not found.frames
    assert "the region 0,0,9,6 is not inside a frame of 8 x 6, given up" in caplog.messages[-1]


def test_every_so_many_frames(run: Callable[..., Run]) -> None:
    spec = SourceSpec("v.mp4", "video", "", input=SourceOptions(stride=3))
    found = over(run([make_frame(i) for i in range(8)], spec=spec))
    assert [(frame.number, frame.image[0, 0, 0]) for frame in found.frames] == [(0, 0), (3, 3), (6, 6)]


def test_a_bug_is_nobodys_fault(run: Callable[..., Run]) -> None:
    found = run([*frames(1), ZeroDivisionError("oops")])
    wait_for(lambda: found.bugs)
    assert isinstance(found.bugs[0], ZeroDivisionError)


def test_credentials_are_in_no_word(run: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    found = over(run([SourceError("no route to rtsp://user:secret@host")]))
    assert "secret" not in caplog.text + found.reader.detail
    assert "***@host" in found.reader.detail


@pytest.mark.parametrize("attempt", [1, 2, 5, 6, 100, 10_000])
def test_waits_grow_to_a_bound_and_differ(attempt: int) -> None:
    delays = [RetryPolicy().delay(attempt) for _ in range(200)]
    most = min(30, 2.0 ** min(attempt - 1, 10))
    assert most / 2 <= min(delays) < max(delays) <= most
    assert max(delays) - min(delays) > most / 4  # devices part


def test_what_cannot_be_read_is_counted(run: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    steps = [make_frame(1), lambda: ImageError("the image of 3 bytes is damaged"), make_frame(2)]
    found = over(run(steps, spec=SourceSpec("-", "stdin", "-")))
    assert (found.seen, found.reader.unreadable) == ([1, 2], 1)
    assert caplog.messages[-1] == "error: the image of 3 bytes is damaged"


def test_live_frames_are_stamped_when_they_come(run: Callable[..., Run]) -> None:
    found = run([*frames(1), ...])
    wait_for(lambda: found.frames)
    frame: Frame = found.frames[0]
    assert time.monotonic() - frame.captured < 60
    assert abs(found.reader.last_frame - time.time()) < 1
