"""Images to look at, and intervals: from features whose answer is known, and from real images."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import pytest
import torch
from PIL import Image

from attri.train import pocket
from attri.train.config import PromptConfig, TrainConfig
from attri.train.data.dataset import LabelledImage
from attri.train.data.read import read_data
from attri.train.fitting import fit
from attri.train.model.backbone import load_backbone
from attri.train.report.intervals import paired, wilson
from attri.train.report.review import DUPLICATE, doubtful_labels, draw_sheet, least_sure, near_duplicates

CLASSES = ["cat", "dog", "bird"]


def unit(rows):
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_the_least_sure_come_first():
    logits = torch.tensor([[5.0, 0.0, 0.0], [1.0, 0.9, -9.0], [0.0, 2.0, 1.0]])
    rows = least_sure(logits, torch.tensor([0, 1, 1]), CLASSES, ["a", "b", "c"])
    assert [row["image"] for row in rows] == ["b", "c", "a"]
    assert rows[0] == {"image": "b", "label": "dog", "predicted": "cat", "second": "dog", "score": 0.525}
    assert least_sure(logits[:, :1], torch.tensor([0, 0, 0]), ["cat"], ["a", "b", "c"]) == []


def test_a_wrong_label_is_found_and_a_class_of_one_image_is_left_alone():
    features = unit([[1, 0.1, 0], [1, 0, 0.1], [1, 0.1, 0.1], [0, 1, 0.1], [0.1, 1, 0], [1, 0, 0], [0, 0, 1]])
    targets = torch.tensor([0, 0, 0, 1, 1, 1, 2])  # the sixth looks like a cat
    rows = doubtful_labels(features, targets, CLASSES, list("abcdefg"))
    assert [(row["image"], row["label"], row["looks_like"]) for row in rows] == [("f", "dog", "cat")]
    rest = torch.nn.functional.normalize(features[3:5].sum(0), dim=0)
    cats = torch.nn.functional.normalize(features[:3].sum(0), dim=0)
    assert rows[0]["lead"] == pytest.approx(float(features[5] @ cats - features[5] @ rest), abs=1e-4)


def test_near_duplicates_are_those_of_a_comparison_of_all_with_all(monkeypatch):
    monkeypatch.setattr("attri.train.report.review.AT_ONCE", 3)
    numbers = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(20, 16, generator=numbers), dim=1)
    features[7], features[13] = features[2], torch.nn.functional.normalize(features[5] + 0.01, dim=0)
    by_hand = sorted(
        ((float(features[i] @ features[j]), i, j) for i in range(20) for j in range(i + 1, 20)), reverse=True
    )
    expected = [(str(i), str(j)) for value, i, j in by_hand if value > DUPLICATE]
    rows = near_duplicates(features, [str(i) for i in range(20)], ["train"] * 5 + ["test"] * 15)
    assert next(row["parts"] for row in rows if row["other"] == "7") == ["train", "test"]
    assert [(row["image"], row["other"]) for row in rows] == expected
    assert ("2", "7") in expected


@pytest.mark.parametrize(("right", "count"), [(0, 20), (3, 20), (50, 100), (100, 100)])
def test_wilson_s_interval_has_the_shares_that_a_test_of_the_count_does_not_refuse(right, count):
    low, high = wilson(right, count)
    for share in (low + 1e-6, high - 1e-6, low - 1e-3, high + 1e-3):
        if 0 < share < 1:
            standard_errors = abs(right / count - share) / math.sqrt(share * (1 - share) / count)
            assert (standard_errors <= 1.96 + 1e-3) == (low < share < high)


def test_the_interval_of_a_gain_is_what_resampling_gives():
    draw = random.Random(0)
    changes = [1] * 30 + [-1] * 12 + [0] * 158
    means = sorted(sum(draw.choices(changes, k=200)) / 200 for _ in range(4000))
    low, high = paired(30, 12, 200)
    # Of 4,000 resamples the 2.5th percentile has a standard error of 0.2 points; 5 of them.
    assert (low, high) == (pytest.approx(means[100], abs=0.01), pytest.approx(means[-100], abs=0.01))


def test_a_run_lists_the_copy_and_the_wrong_label_that_were_put_in(tmp_path, figures):
    few = read_data(pocket.IMAGES, shots=8).only([2, 9, 11])  # bugs, cars, hearts
    copy, wrong = tmp_path / "a copy.png", tmp_path / "a heart among bugs.png"
    original = next(image for image in few.test if image.target == 1)
    Image.open(original.path).save(copy)
    Image.open(next(image for image in few.test if image.target == 2).path).transpose(
        Image.Transpose.FLIP_LEFT_RIGHT
    ).save(wrong)
    train = [*few.train, LabelledImage(copy, 1), LabelledImage(wrong, 0)]
    data = dataclasses.replace(few, train=train)
    path = fit(data, load_backbone(), PromptConfig(), TrainConfig(epochs=1, augmentations=1), tmp_path / "run")
    review = json.loads((path / "results.json").read_text(encoding="utf-8"))["review"]
    assert {str(copy), str(original.path)} in [{row["image"], row["other"]} for row in review["near_duplicates"]]
    found = {row["image"]: (row["label"], row["looks_like"]) for row in review["doubtful_labels"]}
    assert found[str(wrong)] == ("bug", "heart")
    report = (path / "report.html").read_text(encoding="utf-8")
    for words in ("Images to look at", "Least sure", "Doubtful labels", "Near-duplicates", "With 95% certainty"):
        assert words in report


def test_an_image_that_went_away_leaves_its_caption(tmp_path, image_files):
    draw_sheet([(image_files[0], "is there"), (tmp_path / "gone.png", "is gone\nsince")], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 500
