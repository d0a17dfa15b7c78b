"""The collect sink: caps over 100,000 results, over two processes and over kills; disks that are full; privacy."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import logging
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.peers import wait_for
from support.results import NOW, FakeControl, file_size_limit, make_result

from attri.runtime.collection.folder import Collection, collected_at
from attri.runtime.deliver.collect import sink as module
from attri.runtime.deliver.collect.caps import Caps
from attri.runtime.deliver.collect.choose import ChoiceRule
from attri.runtime.deliver.collect.sink import CollectSink
from attri.runtime.deliver.result import FrameResult
from attri.runtime.errors import SinkError, UsageError

TESTS = Path(__file__).parents[3]
UNSURE = ChoiceRule(flip=0, novelty=0, control=0)
ROOM = Caps(minute=10_000, day=10_000)


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def open_sink(folder: Path, rule: ChoiceRule = UNSURE, caps: Caps = ROOM, **others: Any) -> CollectSink:
    given: dict[str, Any] = {"clock": Clock(), "free": lambda _: 1 << 40, "draw": random.Random(0)} | others
    return CollectSink(folder, FakeControl(), rule, caps, **given)


def unsure(frame: int = 0, **others: Any) -> FrameResult:
    """A result of its own direction, so that it is no repeat of another."""
    feature = np.random.default_rng(frame).normal(size=64)
    return make_result(frame=frame, score=0.4, **{"feature": feature, **others})


def test_an_image_and_what_is_known_of_it(tmp_path: Path, image_files: list[Path]) -> None:
    sink = open_sink(tmp_path / "new" / "collected")
    result = unsure(3, image=image_files[0], task="fill")
    sink.write(dataclasses.replace(result, prediction=dataclasses.replace(result.prediction, prompt="ab" * 32)))
    (item,) = Collection(tmp_path / "new" / "collected").items()
    assert item.name == "20260921T141320.250Z_camera0_fill_3"
    jpeg = (tmp_path / "new" / "collected" / f"{item.name}.jpg").read_bytes()
    assert item.sha256 == hashlib.sha256(jpeg).hexdigest()
    with Image.open(io.BytesIO(jpeg)) as image:
        assert item.size == image.size
        truth = np.asarray(Image.open(image_files[0]).convert("RGB"), np.float32)
        assert np.abs(np.asarray(image, np.float32) - truth).mean() < 6  # JPEG at quality 90 of a drawing
    assert (item.source, item.origin, item.task, item.frame) == ("camera0", "camera0", "fill", 3)
    assert (item.reasons, item.label, item.score, item.prompt) == (("unsure",), "red apple", 0.4, "ab" * 32)
    assert [label for label, _ in item.top] == ["red apple", "かりんご", "bird"]
    assert item.time == result.time
    assert item.collected == NOW
    record = json.loads((tmp_path / "new" / "collected" / f"{item.name}.json").read_bytes())
    assert record["schema"] == 1
    assert record["top"][0] == {"label": "red apple", "score": 0.4}
    assert {file.suffix for file in (tmp_path / "new" / "collected").iterdir()} == {".jpg", ".json"}


@pytest.mark.stress
def test_caps_hold_over_100_000_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two cameras in 2.3 days, all of them worth a look. What is refused is not even encoded."""
    caps = Caps(minute=4, day=20, megabytes=0.125)
    clock, encoded = Clock(), Counter[str]()
    encode = module.encode

    def counting(image: np.ndarray) -> bytes:
        encoded["images"] += 1
        return encode(image)

    monkeypatch.setattr(module, "encode", counting)
    sink = open_sink(tmp_path, dataclasses.replace(UNSURE, control=1000), caps, clock=clock)
    cameras = [unsure(frame, source=f"camera{frame}", image=np.zeros((8, 8, 3), np.uint8)) for frame in range(2)]
    features = np.random.default_rng(0).normal(size=(1000, 32)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    predictions = [dataclasses.replace(cameras[0].prediction, image_feature=each) for each in features]
    for number in range(100_000):
        clock.now += 2.0
        prediction = predictions[number % len(predictions)]
        sink.write(dataclasses.replace(cameras[number % 2], frame=number, prediction=prediction))
    items = list(Collection(tmp_path).items())
    assert sink.tally.images == len(items) <= encoded["images"]
    assert encoded["images"] - len(items) < 100_000 * 2 / 60  # one a minute while the folder is full: it might be small
    assert len(items) > 75
    assert sum(sink.tally.refused.values()) + len(items) == 100_000
    assert {"minute", "day", "folder"} <= sink.tally.refused.keys()
    for camera in ("camera0", "camera1"):
        times = [collected_at(item.name) for item in items if item.origin == camera]
        assert all(each >= 60 for each in differences(times, caps.minute))
        assert all(each >= 86_400 for each in differences(times, caps.day))
        # What is left to the control is not taken by others.
        others = [collected_at(i.name) for i in items if i.origin == camera and "control" not in i.reasons]
        assert all(each >= 86_400 for each in differences(others, caps.day - 2))
    assert sink.tally.collected["control"] > 3
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1e6 * caps.megabytes


def differences(times: list[float], count: int) -> Iterator[float]:
    """Seconds from each of the ascending times to the one so many after it, without the rounding of names."""
    return (round(later - first, 2) for first, later in zip(times, itertools.islice(times, count, None), strict=False))


def start(folder: Path, camera: str, images: int, caps: str) -> subprocess.Popen[bytes]:
    """A process of its own that collects images of a camera as fast as it can, at one moment of the clock."""
    code = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import numpy as np
from pathlib import Path
from support.results import NOW, FakeControl, make_result
from attri.runtime.deliver.collect.caps import Caps
from attri.runtime.deliver.collect.choose import ChoiceRule
from attri.runtime.deliver.collect.sink import CollectSink
rule = ChoiceRule(flip=0, novelty=0, control=0)
sink = CollectSink(Path({str(folder)!r}), FakeControl(), rule, Caps({caps}), clock=lambda: NOW, free=lambda _: 1 << 40)
for frame in range({images}):
    feature = np.random.default_rng(frame).normal(size=64)
    image = np.random.default_rng(frame).integers(0, 256, (64, 64, 3), np.uint8)
    sink.write(make_result({camera!r}, frame, score=0.4, feature=feature, image=image))
"""
    return subprocess.Popen([sys.executable, "-c", code])


def test_caps_hold_over_two_processes(tmp_path: Path) -> None:
    runs = [start(tmp_path, "camera0", 60, "minute=30, day=20") for _ in range(2)]
    assert [run.wait(60) for run in runs] == [0, 0]
    items = list(Collection(tmp_path).items())
    assert len(items) == 18  # of 20, because two places are for the control
    assert len({item.frame for item in items}) == 18  # what one has collected is a repeat to the other
    assert not list(tmp_path.glob(".*"))


def test_a_kill_leaves_whole_images_and_a_folder_that_works(tmp_path: Path) -> None:
    run = start(tmp_path, "camera0", 1_000_000, "minute=1_000_000, day=1_000_000")
    wait_for(lambda: len(list(tmp_path.glob("*.json"))) > 5)
    run.send_signal(signal.SIGKILL)
    run.wait()
    files = Collection(tmp_path)
    items = list(files.items())
    assert len(items) > 5
    for item in items:
        assert hashlib.sha256(files.image(item.name).read_bytes()).hexdigest() == item.sha256
    sink = open_sink(tmp_path)
    sink.write(unsure(items[0].frame))
    sink.write(unsure(2_000_000))
    assert sink.tally.refused == {"repeat": 1}  # the next run knows what is there
    assert sink.tally.images == 1


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    sink = open_sink(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    with file_size_limit(10_000), pytest.raises(SinkError, match=str(tmp_path)):
        sink.write(unsure(image=noise))
    assert list(tmp_path.iterdir()) == []
    sink.write(unsure(1))
    assert sink.tally.images == 1


def test_the_disk_is_never_filled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    room = [1_000_000_000]
    sink = open_sink(tmp_path, caps=dataclasses.replace(ROOM, free_megabytes=1000), free=lambda _: room[0])
    with caplog.at_level(logging.WARNING):
        for frame in range(3):
            sink.write(unsure(frame))
        assert len(caplog.messages) == 1
        assert "too little room" in caplog.text
        room[0] += 10_000
        sink.write(unsure(4))
        room[0] -= 10_000
        sink.write(unsure(5))
        assert len(caplog.messages) == 2
    assert (sink.tally.images, sink.tally.refused) == (1, {"disk": 4})


def test_a_full_folder_goes_on_once_files_are_taken_away(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"x" * 1_000_000)  # whosever they are
    clock = Clock()
    sink = open_sink(tmp_path, caps=dataclasses.replace(ROOM, megabytes=1), clock=clock)
    sink.write(unsure(0))
    (tmp_path / "notes.txt").unlink()
    sink.write(unsure(1))
    assert sink.tally.refused == {"folder": 2}
    clock.now += 61  # it does not look all the time
    sink.write(unsure(2))
    assert sink.tally.images == 1


def test_only_the_region_is_kept(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, regions_only=True)
    frame = np.zeros((48, 64, 3), np.uint8)
    sink.write(unsure(0, image=frame))
    sink.write(unsure(1, image=frame, region=(8, 4, 16, 12), raw_part=frame[4:16, 8:24]))
    (item,) = Collection(tmp_path).items()
    assert item.region == (8, 4, 16, 12)
    assert item.size == (16, 12)
    assert sink.tally.refused == {"whole frame": 1}


def test_a_flip_is_collected_with_the_frame_that_was_between(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, ChoiceRule(margin=0, novelty=0, control=0))
    for frame, label in enumerate(["bird", "red apple", "bird"]):
        sink.write(make_result(frame=frame, label=label, feature=np.eye(3)[frame]))
    (item,) = Collection(tmp_path).items()
    assert (item.frame, item.label, item.reasons) == (1, "red apple", ("flip",))


def test_features_of_another_backbone_are_not_compared(tmp_path: Path) -> None:
    first = open_sink(tmp_path, ChoiceRule(margin=0, flip=0, control=0))
    first.write(make_result(feature=[1, 0, 0]))
    for base, images in ((None, 0), ({"model": "another"}, 1)):
        control = FakeControl()
        if base is not None:
            prompt = control.prompt["camera0"]
            control.prompt["camera0"] = dataclasses.replace(prompt, facts=dataclasses.replace(prompt.facts, base=base))
        rule = ChoiceRule(margin=0, flip=0, control=0)
        later = CollectSink(tmp_path, control, rule, ROOM, clock=Clock(), free=lambda _: 1 << 40)
        later.write(make_result(feature=[1, 0, 0]))
        assert later.tally.images == images


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="file"):
        open_sink(tmp_path / "file")


def test_the_end_says_what_was_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = open_sink(tmp_path, caps=dataclasses.replace(ROOM, minute=3))
    for frame in range(4):
        sink.write(unsure(frame))
    with caplog.at_level(logging.INFO):
        sink.close()
    assert caplog.messages == [f"{tmp_path}: collected 2 images (2 unsure); not collected: 2 by minute"]
