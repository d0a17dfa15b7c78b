"""Which models are taken, and how the others are refused."""

from __future__ import annotations

import copy
from typing import Any

import open_clip
import pytest
import torch
from support.models import small_backbone

from attri.runtime.errors import FailedError, UsageError
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import check_foldable, load_backbone, weights_hash


@pytest.mark.parametrize(
    ("name", "reason", "nearest"),
    [
        ("ViT-L-14-worldwide", "its text tower is causal with a vocabulary of its own, of 250100 tokens", "ViT-L-14"),
        ("roberta-ViT-B-32", "its text tower is a Hugging Face model", "ViT-B-32"),
        ("coca_ViT-B-32", "it reads a class token after the words", "ViT-B-32"),
    ],
)
def test_what_is_refused_is_refused_by_name_before_its_weights_are_looked_at(name, reason, nearest, tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"of another model")
    with pytest.raises(UsageError, match=f"^{name} is not supported: {reason}.*; the nearest that is: .*{nearest}"):
        load_backbone(name, str(file))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ({"pool_type": "last"}, "its text feature is read at 'last'"),
        ({"pool_type": "first", "no_causal_mask": True}, "its text feature is read at 'first'"),
        ({"vocab_size": 1000}, "vocabulary has 1000 tokens"),
    ],
)
def test_other_text_towers_are_refused(text, reason):
    config = open_clip.get_model_config("ViT-B-32")
    config["vision_cfg"] |= {"layers": 1, "image_size": 64}
    config["text_cfg"] |= {"layers": 1, **text}
    with pytest.raises(UsageError, match=reason):
        check_foldable(open_clip.model.CustomTextCLIP(**config), "own-model")


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(UsageError, match=r"unknown model 'ViT-B-61': open_clip knows .*ViT-B-16"):
        load_backbone("ViT-B-61")
    with pytest.raises(UsageError, match=r"'lion2b' is neither a file nor weights of ViT-B-32: it has openai"):
        load_backbone("ViT-B-32", "lion2b")
    with pytest.raises(UsageError, match="leave out `pretrained`"):
        load_backbone("pocket", "openai")


def test_a_local_weights_file_is_loaded_and_a_wrong_one_refused(tmp_path):
    torch.manual_seed(3)
    clip = open_clip.create_model("ViT-S-32-alt")
    file = tmp_path / "weights.pt"
    torch.save(clip.state_dict(), file)
    backbone = load_backbone("ViT-S-32-alt", str(file))
    assert backbone.sha256 == weights_hash(clip)
    assert backbone.tag == str(file)
    with pytest.raises(FailedError, match="do not load into ViT-M-32-alt"):
        load_backbone("ViT-M-32-alt", str(file))
    (tmp_path / "junk.pt").write_bytes(b"not weights")
    with pytest.raises(FailedError, match="do not load"):
        load_backbone("ViT-S-32-alt", str(tmp_path / "junk.pt"))


@pytest.mark.parametrize(
    ("name", "pretrained", "activation"),
    [
        ("ViT-B-32", "openai", "QuickGELU"),
        ("ViT-B-32-quickgelu", "openai", "QuickGELU"),
        ("ViT-B-32", "laion2b_s34b_b79k", "GELU"),
        ("ViT-B-32-quickgelu", "file", "QuickGELU"),
    ],
)
def test_weights_get_the_activation_that_they_were_trained_with(name, pretrained, activation, tmp_path, monkeypatch):
    small = small_backbone(name)
    config = open_clip.get_model_config(name)
    config["vision_cfg"] |= {"layers": 2, "image_size": 128}
    config["text_cfg"] |= {"layers": 2}
    file = tmp_path / "weights.pt"
    torch.save(small.clip.state_dict(), file)
    monkeypatch.setattr(open_clip.factory, "get_model_config", lambda name: copy.deepcopy(config))
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda cfg, cache_dir=None: str(file))
    backbone = load_backbone(name, str(file) if pretrained == "file" else pretrained)
    blocks: tuple[Any, ...] = (*backbone.clip.visual.transformer.resblocks, *backbone.text.transformer.resblocks)
    assert {type(block.mlp.gelu).__name__ for block in blocks} == {activation}
    assert backbone.sha256 == small.sha256


def test_the_pocket_model_is_trained_and_frozen():
    backbone = load_backbone()
    assert backbone.context_length == 32
    assert not any(parameter.requires_grad for parameter in backbone.clip.parameters())
    assert backbone.preprocess().size == 64


def test_preprocessing_and_scale_are_the_model_s_own():
    backbone = small_backbone("ViT-B-32")
    with torch.no_grad():
        previous = backbone.clip.logit_scale.clone()
        backbone.clip.logit_scale.fill_(2.0)
    assert backbone.logit_scale == pytest.approx(7.389056, abs=1e-5)
    backbone.clip.logit_scale.data.copy_(previous)
    visual: Any = backbone.clip.visual
    visual.preprocess_cfg = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bicubic"}
    assert backbone.preprocess().mean == (0.5, 0.5, 0.5)
    visual.preprocess_cfg = {"interpolation": "bilinear", "resize_mode": "squash"}
    assert (backbone.preprocess().resize, backbone.preprocess().interpolation) == ("squash", "bilinear")
    visual.preprocess_cfg = {"resize_mode": "longest"}
    with pytest.raises(
        UsageError, match="wants bicubic/longest resizing: attri has shortest or squash, bicubic or bil"
    ):
        backbone.preprocess()
    del visual.preprocess_cfg


def test_without_its_image_tower_a_model_reads_texts_as_before():
    backbone = load_backbone()
    words = backbone.reader.encode(["red apple", "bird"], "a photo of a {}.")
    model = AttriPrompt(backbone, PromptConfig())
    before = model.plain_text(words)
    backbone.release_image_tower()
    assert sum(parameter.numel() for parameter in backbone.clip.visual.parameters()) == 0
    assert torch.equal(model.plain_text(words), before)
