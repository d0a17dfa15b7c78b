"""Training images in a prompt file: the nearest ones, what is read when, and files that change or do not fit."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from support.random_prompt import make_prompt
from support.results import make_result

from attri.runtime.errors import BundleError, UsageError
from attri.runtime.prediction import Prediction
from attri.runtime.prompt import Prompt
from attri.runtime.prompt_file.training_images import TrainingImages

IMAGES = [(["cat", "dög"][number % 2], f"train/{number:02}.png") for number in range(20)]


def unit(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def kept() -> TrainingImages:
    return TrainingImages.of(unit(20), IMAGES)


def with_images(images: TrainingImages | None = None) -> Prompt:
    plain = make_prompt()
    return Prompt.of(plain.facts, plain.tensors, images or kept())


def prediction(prompt: Prompt) -> Prediction:
    return make_result(feature=unit(1, 7)[0], training_images=prompt.training_images).prediction


def test_the_nearest_images_are_those_of_the_greatest_cosine(tmp_path: Path) -> None:
    with_images().save(tmp_path / "a.attri")
    found = prediction(Prompt.read(tmp_path / "a.attri")).nearest_images(5)
    half = unit(20).astype(np.float16).astype(np.float64)
    cosines = {IMAGES[row]: float(half[row] @ unit(1, 7)[0]) for row in range(20)}
    wanted = sorted(cosines, key=lambda image: -cosines[image])[:5]
    assert [(each.label, each.image) for each in found] == wanted
    # float32 sums of eight products of float16 values
    assert [each.cosine for each in found] == pytest.approx([cosines[image] for image in wanted], abs=1e-6)


def test_the_file_says_what_it_keeps() -> None:
    facts = with_images().facts.training_images
    assert facts is not None
    assert (facts["images"], len(kept())) == (20, 20)
    added = len(with_images().to_bytes()) - len(make_prompt().to_bytes())
    assert facts["bytes"] <= added < facts["bytes"] + 500  # two more entries of the header
    assert with_images().digest != make_prompt().digest


class Watched(io.BytesIO):
    """A file that remembers how far it was read."""

    end = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.end = max(self.end, self.tell())
        return data


def test_features_are_not_read_before_somebody_asks(tmp_path: Path) -> None:
    prompt = with_images()
    data, held = prompt.to_bytes(), prompt.facts.training_images
    assert held is not None
    file, again = Watched(data), Watched(data)
    read = Prompt.load(file, "a.attri", lambda: again)
    assert file.end == len(data) - held["bytes"]
    assert again.end == 0
    prediction(read).nearest_images(1)
    assert again.end == len(data)


def test_a_file_that_was_replaced_meanwhile_is_said(tmp_path: Path) -> None:
    file = tmp_path / "a.attri"
    with_images().save(file)
    read, parsed = Prompt.read(file), Prompt.parse(file.read_bytes())
    with_images(TrainingImages.of(unit(20, 5), IMAGES)).save(file)
    with pytest.raises(BundleError, match=r"a\.attri was replaced or damaged since it was read"):
        prediction(read).nearest_images()
    assert prediction(read).to_dict(why=True)["nearest_images"] is None
    with pytest.raises(BundleError, match="was replaced or damaged"):
        read.to_bytes()
    file.unlink()
    with pytest.raises(BundleError, match=r"the training images in .*a\.attri cannot be read"):
        prediction(read).nearest_images()
    assert parsed.to_bytes() == with_images().to_bytes()  # which came whole, over HTTP or from a watched file
    assert len(prediction(parsed).nearest_images()) == 3


def test_without_them_the_message_says_what_to_do() -> None:
    found = prediction(make_prompt())
    with pytest.raises(UsageError, match=r"keeps no features .*: export it again with attri-export --keep-features"):
        found.nearest_images()
    assert "nearest_images" not in found.to_dict(why=True)
    nothing = dataclasses.replace(prediction(with_images()), image_feature=None)
    with pytest.raises(UsageError, match="no image feature"):
        nothing.nearest_images()


def test_features_and_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BundleError, match="cannot be used: export it again"):
        prediction(with_images(TrainingImages.of(unit(19), IMAGES))).nearest_images()
