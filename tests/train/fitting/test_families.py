"""A prompt is trained on image towers of other families: on cached features, to a report, and back into a model."""

from __future__ import annotations

import json

import pytest
import torch
from support.models import small_tower

from attri.train.config import PromptConfig, TrainConfig
from attri.train.data import read_data
from attri.train.fitting import fit, load_model
from attri.train.training.checkpoint import load_run
from attri.train.training.features import compute


@pytest.mark.parametrize("name", ["PE-Core-T-16-384", "ViT-B-16-SigLIP", "MobileCLIP-S1"])
def test_a_prompt_learns_on_cached_features(name, tmp_path, photos):
    data = read_data(photos, shots=1)
    backbone = small_tower(name)
    config = TrainConfig(epochs=8, augmentations=1, shots=1)
    path = fit(data, backbone, PromptConfig(pool_size=6), config, tmp_path / "run", latest=False)
    losses = [json.loads(line)["loss"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert (path / "report.html").stat().st_size > 10_000
    model = load_model(load_run(path), backbone)
    assert model.vision.tower is backbone.tower
    pixels = torch.from_numpy(backbone.preprocess()(data.train[0].path)[None])
    features = compute(model, data.train[:3])  # encoded together, as training did
    with torch.inference_mode():
        image, centres = model.encode_image(pixels)
    # Alone and in a batch: float32 adds up in another order.
    assert (features.features[0] - image).abs().max() < 1e-5
    assert (features.centres[0] - centres).abs().max() < 1e-5
