"""A folder of Hugging Face's SiglipModel gives that model's features, words and preprocessing."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from support.vocabulary import save_tokenizer

from attri.runtime.errors import FailedError, UsageError
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.backbone import load_backbone

LABELS = ["cat", "a very small red apple"]


@pytest.fixture(scope="module", params=["gelu_pytorch_tanh", "gelu"])
def saved(request, tmp_path_factory):
    """A tiny model as transformers saves it, and the model."""
    import transformers  # of the dev extra

    torch.manual_seed(0)
    both = {"hidden_act": request.param, "num_attention_heads": 2, "num_hidden_layers": 3, "hidden_size": 64}
    config = transformers.SiglipConfig(
        text_config=both
        | {"intermediate_size": 128, "max_position_embeddings": 20, "vocab_size": 130, "projection_size": 64}
        | {"bos_token_id": 1, "eos_token_id": 1},
        vision_config=both | {"intermediate_size": 192, "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-3},
    )
    model = transformers.SiglipModel(config).eval()
    for parameter in model.parameters():  # the activation has to matter, and biases not to be 0
        parameter.data += torch.randn_like(parameter) * 0.05
    model.logit_scale.data.fill_(math.log(12.5))
    model.logit_bias.data.fill_(-7.5)
    folder = tmp_path_factory.mktemp("siglip") / "model"
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder, model


@torch.no_grad()
def test_it_gives_its_own_features(saved, image_files):
    folder, model = saved
    backbone = load_backbone(f"local-dir:{folder}")
    preprocess = backbone.preprocess()
    assert (preprocess.resize, preprocess.interpolation, preprocess.mean) == ("squash", "bicubic", (0.5,) * 3)
    pixels = torch.from_numpy(preprocess(image_files[0])[None])
    tokens: Any = backbone.reader.encode(LABELS, "a photo of a {}.")
    theirs = model(input_ids=torch.from_numpy(tokens.ids).long(), pixel_values=pixels)
    prompted = AttriPrompt(backbone, PromptConfig())
    image, _ = prompted.encode_image(pixels)
    # Unit vectors in float32, by other kernels.
    assert (image - theirs.image_embeds).abs().max() < 1e-6
    assert (prompted.plain_text(tokens) - theirs.text_embeds).abs().max() < 1e-6
    assert (backbone.logit_scale, backbone.logit_bias) == (pytest.approx(12.5), -7.5)
    logits = backbone.logit_scale * image @ theirs.text_embeds.T + backbone.logit_bias
    assert (logits - theirs.logits_per_image).abs().max() < 1e-4


@pytest.mark.parametrize("saved", ["gelu"], indirect=True)
def test_what_is_missing_or_other_is_one_line(saved, tmp_path):
    import shutil

    def load(change):
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved[0], folder)
        change(folder)
        return load_backbone(f"local-dir:{folder}")

    def config(part, **changes):
        def change(folder):
            raw = json.loads((folder / "config.json").read_text())
            (raw[part] if part else raw).update(changes)
            (folder / "config.json").write_text(json.dumps(raw))

        return change

    with pytest.raises(FailedError, match=r"has no tokenizer.json, without which its words cannot be read"):
        load(lambda folder: (folder / "tokenizer.json").unlink())
    with pytest.raises(FailedError, match=r"the weights in .* do not load"):
        load(lambda folder: (folder / "model.safetensors").write_bytes(b"none"))
    with pytest.raises(FailedError, match=r"the weights in .* do not load"):
        load(config("text_config", vocab_size=131))
    with pytest.raises(UsageError, match="does not pool into the text tower's space"):
        load(config("vision_config", vision_use_head=False))
    with pytest.raises(UsageError, match="has the activations relu and gelu"):
        load(config("text_config", hidden_act="relu"))
    with pytest.raises(UsageError, match="holds a siglip2 of Hugging Face, no CLIPModel or SiglipModel"):
        load(config("", model_type="siglip2"))
