"""Thresholds of known and unknown images, and what why.py changes, against sums by hand."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from attri.train.config import PromptConfig
from attri.train.model.attriprompt import AttriPrompt
from attri.train.model.backbone import load_backbone
from attri.train.training.features import Features


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


def module(name):
    return importlib.import_module(f"benchmarks.accuracy.{name}")


def test_a_threshold_of_its_own_rejects_a_tenth_of_each_label_that_has_enough_images():
    labels = np.array([0] * 20 + [1] * 20 + [2] * 5)
    scores = np.concatenate([np.linspace(0.9, 1, 20), np.linspace(0.1, 0.2, 20), np.full(5, 0.5)])
    thresholds = module("rejection").thresholds
    one, own = (thresholds(labels, scores, 4, own) for own in (False, True))
    assert len(set(one)) == 1
    assert (scores < one[0]).sum() == 4  # a tenth of 45, all of them of the second label
    assert [(scores[labels == label] < own[label]).sum() for label in (0, 1)] == [2, 2]
    assert own[2] == own[3] == one[0]  # five images are too few, and none


def test_scores_of_known_and_unknown_images_are_told_apart():
    rejection, cells = module("rejection"), module("cells")
    generator = np.random.default_rng(0)
    known = generator.normal(0, 1, (200, 5)).astype(np.float32)
    known[np.arange(200), generator.integers(0, 5, 200)] += 6
    unknown = generator.normal(0, 1, (200, 5)).astype(np.float32)
    parts = [rejection.Scores(cells.Part(logits, np.zeros(200, np.int64))) for logits in (known, unknown)]
    rejected, accepted, _, _ = rejection.trial(*parts, 5, generator)
    assert 2 < rejected < 20  # a tenth of the other half: its standard error is 3
    assert accepted < 20


def test_whitened_centres_are_unit_and_spread_evenly():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(60, 2, 3, 2, 8, generator=generator) @ torch.randn(8, 8, generator=generator) + 2
    centres = torch.nn.functional.normalize(mixed, dim=-1)
    data = Features(torch.zeros(60, 2, 8), centres, torch.zeros(60, dtype=torch.long), list(range(60)), [])
    whitened = module("variants").whitening(data)(data).centres
    assert torch.allclose(whitened.norm(dim=-1), torch.ones(60, 2, 3, 2), atol=1e-5)
    for block in range(3):
        before, after = (part[:, :, block].reshape(-1, 8) for part in (centres, whitened))
        assert after.mean(0).norm() < 0.2 * before.mean(0).norm()
        spread = [torch.linalg.eigvalsh(part.T.cov()) for part in (before, after)]
        assert spread[1].max() / spread[1].mean() < 0.6 * spread[0].max() / spread[0].mean()


def test_words_are_known_to_the_backbone_and_in_no_name():
    model = AttriPrompt(load_backbone(), PromptConfig(pool_size=4))
    words = module("variants").vocabulary(model, ["Red Apple", "house"], 500, 1)
    assert len(set(words)) == 500
    assert not {"red", "apple", "house"} & set(words)
    assert words == module("variants").vocabulary(model, ["Red Apple", "house"], 500, 1)
