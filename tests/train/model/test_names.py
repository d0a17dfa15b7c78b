"""Models by every kind of name: folders of open_clip and of Hugging Face, and repositories, without a network."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from attri.runtime.errors import FailedError, UsageError
from attri.train.model.backbone import load_backbone

TOWER = {"width": 64, "layers": 2}
CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": TOWER | {"image_size": 32, "head_width": 32, "patch_size": 8},
    "text_cfg": TOWER | {"context_length": 24, "vocab_size": 49408, "heads": 2},
}
PREPROCESS = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}


def write_open_clip(folder, config=CONFIG):
    folder.mkdir()
    torch.manual_seed(0)
    clip = open_clip.model.CLIP(**config)
    content = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    torch.save(clip.state_dict(), folder / "open_clip_pytorch_model.bin")
    return clip.eval()


def test_a_folder_of_open_clip_brings_weights_and_preprocessing(tmp_path):
    clip = write_open_clip(tmp_path / "fine tuned")
    backbone = load_backbone(f"local-dir:{tmp_path / 'fine tuned'}")
    assert (backbone.tag, backbone.public_name) == ("own", "local-dir:fine tuned")
    assert backbone.file_name == "local-dir-fine-tuned"
    preprocess = backbone.preprocess()
    assert (preprocess.resize, preprocess.interpolation, preprocess.std) == ("squash", "bilinear", (0.25,) * 3)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours: Any = backbone.clip
        assert torch.equal(ours.encode_image(pixels), clip.encode_image(pixels))


def test_a_repository_is_read_like_a_folder(tmp_path, monkeypatch):
    """Whatever is fetched comes from this folder: open_clip's own loader does the rest."""
    write_open_clip(tmp_path / "repository")

    def fetched(model_id, filename=None, cache_dir=None, **options):
        assert model_id == "someone/clip"
        return str(tmp_path / "repository" / (filename or "open_clip_pytorch_model.bin"))

    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", fetched)
    backbone = load_backbone("hf-hub:someone/clip")
    assert (backbone.public_name, backbone.file_name) == ("hf-hub:someone/clip", "hf-hub-someone-clip")
    assert backbone.sha256 == load_backbone(f"local-dir:{tmp_path / 'repository'}").sha256


def test_a_repository_that_cannot_be_reached_is_one_line(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", unreachable)
    with pytest.raises(FailedError, match=r"^the config of hf-hub:someone/clip cannot be read: no route to host$"):
        load_backbone("hf-hub:someone/clip")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda folder: None, UsageError, "no such folder"),
        (lambda folder: folder.mkdir(), UsageError, "holds no model: neither open_clip_config.json nor config.json"),
        (
            lambda folder: (write_open_clip(folder), (folder / "open_clip_pytorch_model.bin").unlink()),
            FailedError,
            "the weights that come with it do not load",
        ),
        (
            lambda folder: write_open_clip(folder, CONFIG | {"text_cfg": CONFIG["text_cfg"] | {"vocab_size": 99}}),
            UsageError,
            "own is not supported: .* a vocabulary of its own, of 99 tokens; the nearest that is: ",
        ),
        (
            lambda folder: (folder.mkdir(), (folder / "config.json").write_text('{"model_type": "blip"}')),
            UsageError,
            "holds a blip of Hugging Face, no CLIPModel or SiglipModel",
        ),
        (
            lambda folder: (folder.mkdir(), (folder / "config.json").write_text("no JSON")),
            UsageError,
            "config.json cannot be read",
        ),
    ],
)
def test_wrong_folders_are_refused_in_one_line(change, error, message, tmp_path):
    change(tmp_path / "own")
    with pytest.raises(error, match=message) as refused:
        load_backbone(f"local-dir:{tmp_path / 'own'}")
    assert "\n" not in str(refused.value)


def test_weights_of_its_own_and_pretrained_contradict(tmp_path):
    with pytest.raises(UsageError, match="has its own weights: leave out `pretrained`"):
        load_backbone(f"local-dir:{tmp_path}", "openai")


@pytest.fixture(params=["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def hugging_face(request, tmp_path):
    """A tiny CLIPModel as transformers saves it, and the model."""
    import transformers  # of the dev extra

    torch.manual_seed(0)
    both = {"hidden_act": request.param, "num_attention_heads": 2, "num_hidden_layers": 2, "hidden_size": 64}
    config = transformers.CLIPConfig(
        text_config=both | {"intermediate_size": 128, "max_position_embeddings": 24, "eos_token_id": 49407},
        vision_config=both | {"intermediate_size": 192, "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-3},
        projection_dim=32,
    )
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():  # the activation has to matter, and biases not to be 0
        parameter.data += torch.randn_like(parameter) * 0.05
    model.logit_scale.data.fill_(math.log(12.5))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 2, "do_center_crop": False})
    )
    return tmp_path / "model", model


@torch.no_grad()
def test_a_clip_model_of_hugging_face_gives_its_own_features(hugging_face):
    folder, model = hugging_face
    backbone = load_backbone(f"local-dir:{folder}")
    pixels = torch.from_numpy(
        backbone.preprocess()(Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)))
    )
    ids = open_clip.SimpleTokenizer(context_length=24)(["a photo of a cat.", "a very small red apple"])
    theirs = model(input_ids=ids, pixel_values=pixels[None])
    clip: Any = backbone.clip
    image = clip.encode_image(pixels[None], normalize=True)
    text = clip.encode_text(ids, normalize=True)
    # Unit vectors in float32, by other kernels.
    assert (image - theirs.image_embeds).abs().max() < 1e-6
    assert (text - theirs.text_embeds).abs().max() < 1e-6
    assert backbone.logit_scale == pytest.approx(12.5)
    preprocess = backbone.preprocess()
    assert (preprocess.resize, preprocess.interpolation, preprocess.mean) == ("squash", "bilinear", (0.5,) * 3)


def test_damaged_weights_of_hugging_face_are_one_line(hugging_face):
    folder, _ = hugging_face
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(FailedError, match=r"the weights in .* do not load"):
        load_backbone(f"local-dir:{folder}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FailedError, match=r"there is no model\.safetensors"):
        load_backbone(f"local-dir:{folder}")
