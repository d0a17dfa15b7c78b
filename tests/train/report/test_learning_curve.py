"""Would more images help, and what an entry stands for: by hand, by loops, and through the command."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from click.testing import CliRunner
from support.training import PROMPT

from attri.runtime.errors import UsageError
from attri.train.cli import main
from attri.train.config import TrainConfig
from attri.train.data import read_data
from attri.train.fitting import fit
from attri.train.model.backbone import load_backbone
from attri.train.report.entries import attracted_classes
from attri.train.report.learning_curve import advice, fewer_shots, learning_curve

FAST = TrainConfig(epochs=2, augmentations=1)


def test_a_quarter_and_a_half_of_the_images():
    assert {images: fewer_shots(images) for images in (1, 2, 3, 4, 5, 16)} == {
        1: [], 2: [1], 3: [1, 2], 4: [1, 2], 5: [2, 3], 16: [4, 8]
    }  # fmt: skip


def rightness(count, right):
    return torch.arange(count) < right


@pytest.mark.parametrize(
    ("right", "says"),
    [
        ((50, 80), "+30.0 points, with 95% certainty +21.0 to +39.0. More images like these will probably help."),
        ((80, 60), "-20.0 points, with 95% certainty -27.8 to -12.2. More images made it worse: look for wrong labels"),
        ((60, 61), "The test images cannot tell whether more training images would help."),
    ],
)
def test_the_advice_is_what_the_interval_of_the_last_gain_says(right, says):
    each = {8: rightness(100, right[0]), 16: rightness(100, right[1])}
    curve = learning_curve("test", each, {8: 80, 16: 160})
    assert curve["gain"] == pytest.approx((right[1] - right[0]) / 100)
    assert [(point["shots"], point["images"], point["accuracy"]) for point in curve["points"]] == [
        (8, 80, right[0] / 100),
        (16, 160, right[1] / 100),
    ]
    assert advice(curve).startswith("From 8 to 16 images per class: ")
    assert says in advice(curve)


def test_entries_attract_the_classes_that_a_count_by_hand_finds():
    usage = torch.rand(5, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    usage /= usage.sum(-1, keepdim=True)
    usage[3] = 0  # a class without images
    usage[:, 1, 2] = 0  # a dead entry
    found = attracted_classes(usage, list("abcde"))
    for block in range(2):
        for entry in range(4):
            shares = {name: float(usage[number, block, entry]) for number, name in enumerate("abcde")}
            alike = sum(shares.values()) / 4  # of each of the classes that have images
            lifts = sorted(((share / alike, name) for name, share in shares.items() if share), reverse=True)
            expected = [(name, round(lift, 2)) for lift, name in lifts[:3] if lift >= 1.5]
            assert [(row["name"], row["lift"]) for row in found[block][entry]] == expected
    assert found[1][2] == []
    assert any(found[0])


def test_the_curve_s_first_point_is_a_training_with_those_images_alone(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--epochs", "2", "--augmentations", "1", "--pool-size", "8", "--device", "cpu", "--learning-curve"]
    done = CliRunner().invoke(main, ["--data", str(photos), *options])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "runs" / "latest" / "results.json").read_text())
    curve = results["learning_curve"]
    assert [(point["shots"], point["images"]) for point in curve["points"]] == [(1, 5), (2, 10), (4, 20)]
    assert curve["points"][-1]["accuracy"] == results["test"]["prompted"]
    assert f"curve {advice(curve)}\n" in done.stdout
    page = (tmp_path / "runs" / "latest" / "report.html").read_text()
    assert advice(curve) in page
    assert "What each entry attracts" in page
    whole = read_data(photos)
    firsts = [image for n, image in enumerate(whole.train) if image.target not in {p.target for p in whole.train[:n]}]
    alone = fit(dataclasses.replace(whole, train=firsts), load_backbone(), PROMPT, FAST, tmp_path / "alone")
    first = json.loads((alone / "results.json").read_text())["test"]
    assert curve["points"][0]["accuracy"] == first["prompted"]
    assert curve["points"][0]["interval"] == first["interval"]


def test_a_curve_that_cannot_be_is_refused_before_anything_is_encoded(photos, tmp_path):
    whole = read_data(photos, shots=1)
    with pytest.raises(UsageError, match="a class with two training images or more"):
        fit(whole, load_backbone(), PROMPT, FAST, tmp_path / "a", curve=True)
    with pytest.raises(UsageError, match="needs test images"):
        fit(dataclasses.replace(read_data(photos), test=[], val=[]), load_backbone(), PROMPT, FAST, curve=True)
    done = CliRunner().invoke(main, ["--learning-curve", "--protocol", "few-shot"])
    assert (done.exit_code, done.output) == (2, "error: --learning-curve does not go with --protocol\n")
    assert list(tmp_path.iterdir()) == []
