"""Static prompts and plain CLIP as pools: the same text features, and bundles that say what the model says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from attri.export.onnx import ExportOptions, export_bundle
from attri.export.pooled import as_pool, zero_shot_model
from attri.export.prompt import PromptOptions, export_prompt
from attri.runtime import Bundle, Classifier
from attri.runtime.cli.run import main as attri_run
from attri.runtime.errors import BundleError, UsageError
from attri.runtime.text.label_tokens import encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt

LABELS = ["red apple", "bird", "a small house"]


def static_model(pocket_model, tokens, **config):
    torch.manual_seed(3)
    model = AttriPrompt(pocket_model.backbone, PromptConfig(pool_size=0, static_tokens=tokens, **config)).eval()
    with torch.no_grad():
        model.pool.static.normal_()
    return model


def tokens_of(model):
    return encode_labels(Tokenizer(), LABELS, "a photo of a {}.", model.backbone.context_length)


@pytest.mark.parametrize(
    ("tokens", "config", "entries"),
    [(4, {}, 2), (2, {}, 1), (3, {}, 1), (6, {}, 1), (5, {"depth": 2}, 1), (4, {"topk": 3}, 1)],
)
@torch.no_grad()
def test_static_prompts_are_a_pool_that_every_image_gets(pocket_model, tokens, config, entries):
    model = static_model(pocket_model, tokens, **config)
    pooled, selection = as_pool(model)
    assert (selection, pooled.config.pool_size, pooled.depth) == ("all", entries, model.depth)
    wanted = model.encode_text(tokens_of(model), torch.zeros(1, model.depth, 0, dtype=torch.long))
    every = torch.arange(entries).expand(1, pooled.depth, -1)
    none = torch.full((1, pooled.depth, pooled.config.retrieved - entries), entries)  # one past the last
    found = pooled.encode_text(tokens_of(model), torch.cat([every, none], -1))
    # The same sums in another order.
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_a_pool_stays_as_it_is(pocket_model):
    assert as_pool(pocket_model) == (pocket_model, "nearest")


@torch.no_grad()
def test_entries_that_no_image_gets_leave_plain_clip(pocket_model):
    model = zero_shot_model(pocket_model.backbone)
    none = torch.full((1, model.depth, model.config.retrieved), model.config.pool_size)
    found = model.encode_text(tokens_of(model), none)[0]
    torch.testing.assert_close(found, pocket_model.plain_text(tokens_of(model)), rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="static tokens give them to every image"):
        zero_shot_model(pocket_model.backbone, {**dict.fromkeys(("clusters", "topk", "prompt_length"), 1),
                                                "depth": 6, "sources": None, "static_tokens": 2})  # fmt: skip


@torch.no_grad()
def probabilities(model, text, pixels):
    features, _ = model.encode_image(torch.from_numpy(pixels))
    return model.logits(features, text.expand(len(features), -1, -1)).softmax(-1).numpy()


@pytest.fixture(scope="module")
def three_kinds(pocket_model, image_files, shared_traces, tmp_path_factory) -> Path:
    """A folder with the bundle of a static prompt, and prompts of plain CLIP and of training for its base."""
    folder, files = tmp_path_factory.mktemp("kinds"), image_files[:6]
    plain = zero_shot_model(pocket_model.backbone)
    export_bundle(static_model(pocket_model, 4), folder / "bundle", LABELS, files)
    with Bundle.open(folder / "bundle") as base:
        export_prompt(plain, base, folder / "plain.attri", LABELS, files, PromptOptions(zero_shot=True))
        export_prompt(pocket_model, base, folder / "learned.attri", LABELS, files)
    return folder


def test_bundles_say_what_the_models_say_and_share_a_base(pocket_model, image_files, make_pixels, three_kinds):
    """A static prompt, plain CLIP and a learned prompt on one base: the same graphs, one classifier."""
    static, plain, files = static_model(pocket_model, 4), zero_shot_model(pocket_model.backbone), image_files[:6]
    pixels = make_pixels(pocket_model.backbone.preprocess(), 6)
    labels, none = tokens_of(static), torch.zeros(1, static.depth, 0, dtype=torch.long)
    texts = {"plain": plain.plain_text(labels)[None]}
    with torch.no_grad():
        texts["static"] = static.encode_text(labels, none)
    classifier = Classifier.load(three_kinds / "bundle", threads=1)
    found = {"static": np.stack([each.probabilities for each in classifier(files)])}
    for name in ("plain", "learned"):
        classifier.set_prompt(three_kinds / f"{name}.attri")
        found[name] = np.stack([each.probabilities for each in classifier(files)])
    for name, text in texts.items():
        np.testing.assert_allclose(found[name], probabilities(static, text, pixels), atol=1e-5)
    with torch.no_grad():
        learned = pocket_model(torch.from_numpy(pixels), labels).softmax(-1).numpy()
    np.testing.assert_allclose(found["learned"], learned, atol=1e-5)


def test_all_three_kinds_are_compared_as_tasks(image_files, three_kinds, capsys):
    """As tasks on one vision pass they say what each says alone; --compare shows where they disagree."""
    files = image_files[:24]
    kinds = {"plain": three_kinds / "plain.attri", "static": None, "learned": three_kinds / "learned.attri"}
    found = Classifier.load(three_kinds / "bundle", prompts=kinds, threads=1).classify_tasks(files)
    for name, prompt in kinds.items():
        wanted = Classifier.load(three_kinds / "bundle", prompt=prompt, threads=1)(files)
        for each, alone in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(each[name].retrieved, alone.retrieved)
            np.testing.assert_allclose(each[name].probabilities, alone.probabilities, atol=1e-6)
    tasks = [f"--task={name}={prompt or ''}" for name, prompt in kinds.items()]
    words = [*map(str, files), *tasks, "--bundle", str(three_kinds / "bundle"), "--compare", "--json"]
    with pytest.raises(SystemExit) as stop:
        attri_run([*words, "--threads", "1"], prog_name="attri-run")
    assert stop.value.code == 0
    shown, said = capsys.readouterr()
    differing = [
        str(file) for file, each in zip(files, found, strict=True) if len({p.label for p in each.values()}) > 1
    ]
    assert 0 < len(differing) < len(files)
    lines = [json.loads(line) for line in shown.splitlines()]
    assert [(line["source"], line["task"]) for line in lines] == [(file, name) for file in differing for name in kinds]
    assert f"compared {len(files)} frames: agreed all tasks on {len(files) - len(differing)} (" in said


@pytest.mark.usefixtures("shared_traces")
def test_a_zero_shot_bundle_takes_a_learned_prompt(pocket_model, image_files, tmp_path):
    options = ExportOptions(zero_shot=True)
    export_bundle(zero_shot_model(pocket_model.backbone), tmp_path / "bundle", LABELS, image_files[:4], options)
    with Bundle.open(tmp_path / "bundle") as base:
        assert base.prompt.facts.selection == "none"
        export_prompt(pocket_model, base, tmp_path / "learned.attri", ["cat", "dog"], image_files[:4])
    classifier = Classifier.load(tmp_path / "bundle", prompt=tmp_path / "learned.attri", threads=1)
    assert classifier.labels == ("cat", "dog")
    assert (classifier(image_files[0]).retrieved < classifier.prompt.entries).all()


def test_a_run_of_another_shape_is_refused(pocket_model, bundle: Path, image_files, tmp_path):
    model = AttriPrompt(pocket_model.backbone, PromptConfig(clusters=4, prompt_length=1))
    said = r"does not fit .* \(clusters 4, there 2; prompt_length 1, there 2\): export a bundle of its own"
    with Bundle.open(bundle) as base, pytest.raises(UsageError, match=said):
        export_prompt(model, base, tmp_path / "a.attri", LABELS, image_files[:2])
    assert not (tmp_path / "a.attri").exists()


def test_more_static_entries_than_an_image_gets_are_refused(bundle: Path, tmp_path):
    import dataclasses

    from attri.runtime.prompt import Prompt

    with Bundle.open(bundle) as base:
        prompt = Prompt.of(dataclasses.replace(base.prompt.facts, selection="all"), base.prompt.tensors)
        with pytest.raises(BundleError, match="has 16 entries, more than an image gets"):
            prompt.require_fit(base.manifest.base)
