"""GET /api/explain: what speaks for the label of the newest frame, in numbers and as an image."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from PIL import Image
from support.preview import Client
from support.results import FakeControl, make_result

from attri.runtime.deliver.result import FrameResult
from attri.runtime.errors import UsageError
from attri.runtime.explain.explanation import Explanation
from attri.runtime.prompt_file.training_images import TrainingImages


class Unexplained(FakeControl):
    def explain(self, result: FrameResult, labels: Sequence[str]) -> Explanation:
        raise UsageError("bundle has no explain.onnx to explain with")


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(FakeControl("camera0"))
    yield client
    client.preview.close()


def test_numbers_of_the_newest_frame_add_up(client: Client) -> None:
    for frame in range(2):
        client.preview.write(make_result(frame=frame))
    answer = client("/api/explain?source=camera0")
    assert answer.headers["x-attri-number"] == "2"
    assert [each["label"] for each in answer.json["explanations"]] == ["red apple", "かりんご"]
    for each in answer.json["explanations"]:
        assert sum(map(sum, each["patches"])) + each["rest"] == pytest.approx(each["cosine"], abs=1e-5)  # rounded


def test_the_nearest_training_images_are_among_the_numbers(client: Client) -> None:
    images = TrainingImages.of(np.array([[0.6, 0.8]], np.float32), [("bird", "train/bird.png")])
    client.preview.write(make_result(feature=[1.0, 0.0], training_images=images))
    found = client("/api/explain?source=camera0").json["nearest_images"]
    assert found == [{"image": "train/bird.png", "label": "bird", "cosine": pytest.approx(0.6, abs=1e-3)}]  # of float16


def test_labels_can_be_named(client: Client) -> None:
    client.preview.write(make_result())
    for query, wanted in (("&label=bird", ["bird"]), ("&label=bird&other=red%20apple", ["bird", "red apple"])):
        found = client(f"/api/explain?source=camera0{query}").json
        assert [each["label"] for each in found["explanations"]] == wanted


def test_the_image_is_a_png(client: Client) -> None:
    client.preview.write(make_result())
    answer = client("/api/explain.png?source=camera0")
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.body)) as image:
        assert image.format == "PNG"
        assert image.height > 3 * 240  # panels one below the other, for a narrow column


def test_what_cannot_be_explained_is_said(client: Client) -> None:
    assert client("/api/explain?source=camera0").status == 404
    other = Client(Unexplained("camera0"))
    other.preview.write(make_result())
    answer = other("/api/explain.png?source=camera0")
    assert (answer.status, answer.json) == (400, {"error": "bundle has no explain.onnx to explain with"})
    other.preview.close()
