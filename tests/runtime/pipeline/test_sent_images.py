"""Images that somebody sends while a pipeline runs: answered with one set of labels, and no camera waits for them."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
from PIL import Image
from support.bench import LOST, Bench, camera
from support.fakes import FakeClassifier, FakeSink, frames_until, make_frame, wait_for

from attri.runtime.deliver.sink import SentImage


def sent(number: int) -> SentImage:
    """An image like `make_frame(number)`, as a PNG."""
    file = io.BytesIO()
    Image.fromarray(make_frame(number)).save(file, "PNG")
    return SentImage(f"{number}.png", file.getvalue())


def test_all_images_of_a_request_are_asked_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the labels are changed between two of its batches."""
    pipeline = bench.make({camera(): [LOST]}, batch=2)
    classify = FakeClassifier.classify_each

    def change(self: FakeClassifier, images: Any, *rest: Any) -> object:
        pipeline.channels[0].labels[0].set("lion\ntiger")  # in place, as the watched file does it
        return classify(self, images, *rest)

    monkeypatch.setattr(FakeClassifier, "classify_each", change)
    found = pipeline.classify([sent(number) for number in range(5)])
    assert [each.label for results in found if isinstance(results, list) for each in results] == [
        *["cat", "dog"] * 2,
        "cat",
    ]
    assert bench.classifier.batches == [2, 2]
    (after,) = pipeline.classify([sent(0)])[0]  # type: ignore[misc]  # results, and no error
    assert after.label == "lion"


def test_a_camera_goes_on_while_images_are_classified_and_no_sink_gets_these(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call of whoever sent them takes until the camera has had five results."""
    sink, answers = FakeSink(), list[Any]()
    pipeline = bench.make({camera(): [frames_until(lambda: answers, rate=200), LOST]}, batch=4)
    classify = FakeClassifier.classify_each

    def wait(self: FakeClassifier, images: Any, *rest: Any) -> object:
        if threading.current_thread() is sender:
            seen = len(sink.results)
            wait_for(lambda: len(sink.results) > seen + 5)
        return classify(self, images, *rest)

    monkeypatch.setattr(FakeClassifier, "classify_each", wait)
    sender = threading.Thread(target=lambda: answers.extend(pipeline.classify([sent(200)] * 8)))
    sender.start()
    pipeline.run([sink])
    sender.join()
    assert len(answers) == 8
    assert {result.source for result in sink.results} == {"camera0"}
