"""What waits for the classifier and goes through it: bounded in bytes, and converted for those who look alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.fakes import wait_for
from support.results import make_result

from attri.runtime.capture import frame_queue as module
from attri.runtime.capture.frame_queue import Frame, FrameQueue
from attri.runtime.capture.orientation import as_rgb
from attri.runtime.deliver import result as result_module


def frame(image: Image.Image | np.ndarray) -> Frame:
    return Frame("a.jpg", 0, 0.0, image, {None: image}, 0.0)


def test_bytes_of_a_frame() -> None:
    assert frame(np.zeros((6, 8, 3), np.uint8)).nbytes == 144
    assert frame(Image.new("RGB", (8, 6))).nbytes == 192  # as Pillow keeps it


@pytest.mark.parametrize(("size", "waiting"), [(10, 8), (40, 3), (100, 1), (500, 1)])
def test_large_frames_of_a_file_wait_in_smaller_numbers(
    monkeypatch: pytest.MonkeyPatch, size: int, waiting: int
) -> None:
    """And all of them come through, in batches of what waits."""
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    intake, left, stop = FrameQueue([False], limit=4), threading.Event(), threading.Event()
    put: list[int] = []

    def read() -> None:
        for number in range(12):
            intake.put(0, replace(frame(np.zeros(size, np.uint8)), number=number), left)
            put.append(number)
        intake.end(0)

    reader = threading.Thread(target=read)
    reader.start()
    wait_for(lambda: len(put) == waiting)
    assert not left.wait(0.1)
    assert len(put) == waiting
    found: list[int] = []
    while (item := intake.take(lambda: True, stop)) is not None:
        found += [each.number for _, each in item.frames]
    reader.join()
    assert found == list(range(12))


def test_the_end_of_a_source_comes_behind_its_last_frame() -> None:
    intake, left, stop = FrameQueue([False, True]), threading.Event(), threading.Event()
    intake.put(0, frame(np.zeros(1, np.uint8)), left)
    intake.end(0)
    intake.put(1, frame(np.zeros(1, np.uint8)), left)
    taken = [intake.take(lambda: True, stop) for _ in range(3)]
    found = [([source for source, _ in batch.frames], batch.ended) for batch in filter(None, taken)]
    assert found == [([1], []), ([0], []), ([], [0])]
    intake.end(1)
    assert intake.take(lambda: False, stop) == ([], [1])
    assert intake.take(lambda: False, stop) is None


def test_a_frame_is_converted_once_and_only_for_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Image.Image] = []
    convert: Callable[..., np.ndarray] = as_rgb
    monkeypatch.setattr(result_module, "as_rgb", lambda image: seen.append(image) or convert(image))
    image = Image.new("L", (8, 6), 7)
    result = make_result(image=image)
    assert seen == []
    assert result.image.tolist() == [[[7, 7, 7]] * 8] * 6
    assert result.image is result.image
    assert seen == [image]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_as_rgb(mode: str) -> None:
    image = Image.linear_gradient("L").resize((8, 6)).convert(mode)
    np.testing.assert_array_equal(as_rgb(image), np.asarray(image.convert("RGB")))
    image.info["transparency"] = 0  # RGB has no use for it: no warning, and it stays where it is
    as_rgb(image)
    assert image.info["transparency"] == 0
