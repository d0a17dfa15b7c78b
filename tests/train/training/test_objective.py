"""The objective without a pool: one text encoding serves the whole batch."""

from __future__ import annotations

import open_clip
import torch
from support.literal import literal_text

from attri.train.config import PromptConfig, TrainConfig
from attri.train.fitting import frozen_text, label_tokens
from attri.train.model.attriprompt import AttriPrompt
from attri.train.model.backbone import load_backbone
from attri.train.training.anchors import Anchors
from attri.train.training.objective import Objective

NAMES = ["red apple", "bird", "old car"]
TEMPLATE = "a photo of a {}."


def test_static_prompts_are_encoded_once_and_as_for_every_image(monkeypatch):
    torch.manual_seed(1)
    model = AttriPrompt(load_backbone(), PromptConfig(pool_size=0, static_tokens=3))
    features = torch.nn.functional.normalize(torch.randn(4, model.backbone.joint_width), dim=-1)
    anchors = Anchors(frozen_text(model, NAMES, (TEMPLATE,)))
    objective = Objective(model, label_tokens(model, NAMES, TEMPLATE), anchors, TrainConfig())
    encoded = []

    def counted(labels, retrieved, encode=model.encode_text):
        encoded.append(len(retrieved))
        return encode(labels, retrieved)

    monkeypatch.setattr(model, "encode_text", counted)
    terms, logits = objective(features, torch.randn(4, 6, 2, features.shape[1]), torch.tensor([0, 1, 2, 0]), [4])
    assert encoded == [1]
    assert set(terms) == {"class", "instance", "text", "logits"}
    ids = open_clip.tokenizer.SimpleTokenizer(context_length=32)([TEMPLATE.format(name) for name in NAMES])
    nothing, no_entries = torch.zeros(6, 0, dtype=torch.long), torch.zeros(6, 0, 1, 128)
    text = literal_text(model.backbone.clip, no_entries, model.pool.static, nothing, ids)
    expected = model.backbone.logit_scale * features @ text.T
    assert (logits - expected).abs().max() < 1e-3  # float32 logits of up to 100
