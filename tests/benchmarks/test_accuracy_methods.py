"""The baselines of benchmarks/accuracy against loops that say what they are."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from attri.train.config import PromptConfig, TrainConfig
from attri.train.fitting import frozen_text, label_tokens
from attri.train.model.attriprompt import AttriPrompt
from attri.train.model.backbone import load_backbone
from attri.train.training.features import Features
from attri.train.training.predict import predict

NAMES = ["red apple", "bird", "old car"]
TEMPLATE = "a photo of a {}."
unit = torch.nn.functional.normalize


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


def module(name):
    return importlib.import_module(f"benchmarks.accuracy.methods.{name}")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AttriPrompt(load_backbone(), PromptConfig(pool_size=4))


def features(model, count, views=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    width = model.backbone.joint_width
    v = unit(torch.randn(count, views, width, generator=generator), dim=-1)
    c = unit(torch.randn(count, views, 6, 2, width, generator=generator), dim=-1)
    return Features(v, c, torch.arange(count) % len(NAMES), list(range(count)), [])


@pytest.fixture
def task(model):
    return module("task").Task(model, NAMES, TEMPLATE, features(model, 9), features(model, 6, 1, 1), 1, "fp32", 1)


def test_zero_shot_and_ensemble_are_open_clip_s_own_text(model, task):
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=model.backbone.context_length)
    data = features(model, 4, 1, 2)
    for name in ("zero_shot", "ensemble"):
        templates = (
            (TEMPLATE,)
            if name == "zero_shot"
            else (TEMPLATE, *importlib.import_module("attri.train.data.templates").ENSEMBLE)
        )
        rows = []
        for label in NAMES:
            texts = tokenizer([template.format(label) for template in templates])
            rows.append(unit(model.backbone.clip.encode_text(texts, normalize=True).mean(0), dim=0))
        expected = model.backbone.logit_scale * data.features[:, 0] @ torch.stack(rows).T
        ours = getattr(module("frozen"), name)(task)(data, NAMES)
        assert (ours - expected).abs().max() < 1e-3  # float32 logits of up to 100


def test_coop_starts_as_the_template_and_encodes_in_open_clip_s_blocks(model, task):
    coop = module("coop")
    table = model.backbone.token_embedding
    context = table[torch.tensor(coop.Tokenizer().encode(coop.START))]
    plain = model.plain_text(label_tokens(model, NAMES, TEMPLATE))
    assert (coop.encode(task, context, NAMES) - plain).abs().max() < 1e-5  # float32
    other = context + 0.1 * torch.randn(context.shape, generator=torch.Generator().manual_seed(3))
    clip = model.backbone.clip
    for row, name in enumerate(NAMES):  # without padding, class by class
        words = coop.Tokenizer().encode(f"{name}.")
        x = torch.cat([table[[coop.SOS]], other, table[[*words, coop.EOT]]])
        x = (x + clip.positional_embedding[: len(x)])[None]
        mask = torch.full((x.shape[1], x.shape[1]), -math.inf).triu(1)
        for block in clip.transformer.resblocks:
            x = block(x, attn_mask=mask)
        expected = unit(clip.ln_final(x[0, -1]) @ clip.text_projection, dim=0)
        assert (coop.encode(task, other, NAMES)[row] - expected).abs().max() < 1e-5


def test_coop_learns_its_training_images(model, task):
    coop = module("coop")
    many = module("task").Task(model, NAMES, TEMPLATE, task.train, None, 60, "fp32", 1)
    logits = coop.coop(many)(task.train, NAMES)
    before = module("frozen").zero_shot(task)(task.train, NAMES)
    loss = torch.nn.functional.cross_entropy
    assert loss(logits, task.train.targets) < loss(before, task.train.targets) - 0.1


def test_the_linear_probe_is_the_minimum_that_slow_descent_finds():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(12, 3)), np.arange(12) % 3
    weight, bias, strength = np.zeros((3, 3)), np.zeros(3), 0.05
    for _ in range(20_000):
        logits = x @ weight.T + bias
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        p[np.arange(12), y] -= 1
        weight -= 0.1 * (p.T @ x / 12 + strength * weight)
        bias -= 0.1 * p.mean(0)
    ours = module("linear_probe").fit(torch.tensor(x).float(), torch.tensor(y), 3, strength)
    assert np.abs(ours[0].numpy() - weight).max() < 2e-3  # L-BFGS stops at a gradient of 1e-7 in float32
    difference = ours[1].numpy() - bias
    assert np.abs(difference - difference.mean()).max() < 2e-3  # a constant on all classes changes nothing


def test_the_linear_probe_refuses_other_classes(task):
    classify = module("linear_probe").linear_probe(task)
    assert classify(task.val, NAMES).shape == (6, 3)
    with pytest.raises(AssertionError, match="its own classes alone"):
        classify(task.val, ["cat", "dog"])


def test_tip_adapter_is_a_sum_over_the_training_images(model, task):
    tip = module("tip_adapter")
    without = module("task").Task(model, NAMES, TEMPLATE, task.train, None, 1, "fp32", 1)
    data, classes = features(model, 5, 1, 4), ["bird", "zebra", "red apple"]
    ours = tip.tip_adapter(without)(data, classes)
    text = frozen_text(model, classes, (TEMPLATE,))
    alpha, beta = tip.DEFAULT
    for i, image in enumerate(data.features[:, 0]):
        for c, name in enumerate(classes):
            expected = model.backbone.logit_scale * float(image @ text[c])
            for views, target in zip(task.train.features, task.train.targets.tolist(), strict=True):
                key = views.mean(0) / views.mean(0).norm()
                if NAMES[target] == name:
                    expected += alpha * math.exp(-beta * (1 - float(image @ key)))
            assert float(ours[i, c]) == pytest.approx(expected, abs=1e-3)
    assert classes[1] == "zebra"  # which no training image shows: its logit is zero-shot's
    plain = module("frozen").zero_shot(task)(data, classes)
    assert torch.equal(ours[:, 1], plain[:, 1])


@pytest.mark.parametrize("name", ["attriprompt", "static", "deep", "promptsrc"])
def test_prompted_methods_train_what_their_name_says(model, task, name, monkeypatch):
    prompted = module("prompted")
    configs = []

    def spy(backbone, dataset, prompt, config, store):
        configs.append((prompt, config))
        return new_trainer(backbone, dataset, prompt, config, store)

    new_trainer = prompted.new_trainer
    monkeypatch.setattr(prompted, "new_trainer", spy)
    logits = getattr(prompted, name)(task)(features(model, 5, 1, 4), ["bird", "zebra"])
    assert logits.shape == (5, 2)
    assert torch.isfinite(logits).all()
    (prompt, config), product = configs[0], TrainConfig()
    terms = ("weight_class", "weight_instance", "weight_text", "weight_logits")
    weights = [getattr(config, term) for term in terms]
    assert (prompt.pool_size > 0) == (name == "attriprompt")
    assert prompt.static_tokens == (0 if name == "attriprompt" else 4)
    assert config.average == (name == "promptsrc")
    expected = {"deep": [1, 0, 0, 0], "promptsrc": [1, 0, 25, 1]}
    assert weights == expected.get(name, [getattr(product, term) for term in terms])


def test_every_variant_trains_and_scores(model, task):
    """That of whitened queries, of fewer blocks and of classes without images read and learn something else."""
    variants = importlib.import_module("benchmarks.accuracy.variants").VARIANTS
    for name, variant in variants.items():
        reads = variant.reads(task.train)
        changed = replace(task, train=reads(task.train), epochs=1)
        words = ["house", "tree"] if variant.words else []
        learned = module("prompted").trained(
            changed, replace(PromptConfig(), **variant.prompt), words=words, **variant.train
        )
        data = reads(features(model, 5, 1, 4))
        logits = predict(learned, task.labels(["bird", "zebra"]), data)
        assert torch.isfinite(logits).all(), name
        assert len(learned.text.blocks) == 6
        assert data.centres.shape[2] == learned.depth == variant.prompt.get("depth", 6), name
