"""Hugging Face's SiglipModel, of SigLIP and SigLIP2, as open_clip's CustomTextCLIP around timm's vision transformer.

A folder as `SiglipModel.save_pretrained` writes it, with tokenizer.json beside it; see `hugging_face`, whose CLIPModel
has the same text blocks under the same names.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attri.runtime.errors import FailedError, UsageError
from attri.train.model import hugging_face
from attri.train.model.hugging_face import preprocess_of, read_json, tensors, text_of

ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu": "gelu"}  # timm's, of theirs
# What config.json leaves out where it is as in SiglipTextConfig and SiglipVisionConfig.
BOTH = {"num_hidden_layers": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
BOTH |= {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
TEXT = {"vocab_size": 32000, "max_position_embeddings": 64, **BOTH}
VISION = {"image_size": 224, "patch_size": 16, "vision_use_head": True, **BOTH}
PREPROCESS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}  # where the folder does not say
TEXT_NAMES = [
    *hugging_face.NAMES,
    (r"^text_model\.head\.", "text_projection."),
]
VISION_NAMES = [
    (r"^vision_model\.embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^vision_model\.encoder\.layers\.", "blocks."),
    (r"^vision_model\.post_layernorm\.", "norm."),
    (r"^vision_model\.head\.probe$", "attn_pool.latent"),
    (r"^vision_model\.head\.attention\.in_proj_", "attn_pool.in_proj."),
    (r"^vision_model\.head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^vision_model\.head\.layernorm\.", "attn_pool.norm."),
    (r"^vision_model\.head\.", "attn_pool."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.self_attn\.", ".attn."),
]


def _parts(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configs of the text and of the image tower."""
    theirs = read_json(folder / "config.json")
    return TEXT | theirs.get("text_config", {}), VISION | theirs.get("vision_config", {})


def config_of(folder: Path) -> dict[str, Any]:
    """Translate config.json into open_clip's config; of the image tower it names the kind alone.

    Raises:
        UsageError: the model has parts that open_clip does not.
    """
    text, vision = _parts(folder)
    joint = text.get("projection_size", text["hidden_size"])
    if not vision["vision_use_head"] or joint != vision["hidden_size"]:
        raise UsageError(f"{folder} holds an image tower that does not pool into the text tower's space")
    if any(part["hidden_act"] not in ACTIVATIONS for part in (text, vision)):
        acts = f"{text['hidden_act']} and {vision['hidden_act']}"
        raise UsageError(f"{folder} has the activations {acts}, which open_clip cannot compute")
    return {
        "embed_dim": joint,
        "init_logit_bias": 0.0,
        "vision_cfg": {
            "image_size": vision["image_size"],
            "timm_model_name": "vit_base_patch16_siglip_224",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            **text_of(text),
            "hf_tokenizer_name": str(folder),
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "pool_type": "last",
            "proj_bias": True,
        },
    }


def load(folder: Path) -> nn.Module:
    """Build open_clip's model with the weights of a SiglipModel.

    Raises:
        UsageError: see `config_of`.
        FailedError: the weights cannot be read, or are not those of the config.
    """
    from open_clip.model import CustomTextCLIP

    config = config_of(folder)
    _, vision = _parts(folder)
    beside = {"layers": 1, "width": 64, "head_width": 64, "patch_size": 32, "image_size": 32}  # replaced
    clip: Any = CustomTextCLIP(**config | {"vision_cfg": beside})
    clip.visual = _image_tower(vision)
    try:
        theirs = dict(tensors(folder))
        scalars = {name: theirs.pop(name).reshape(()) for name in ("logit_scale", "logit_bias")}
        of_vision = {name: theirs.pop(name) for name in list(theirs) if name.startswith("vision_model.")}
        of_text = {f"text.{key}": value for key, value in hugging_face.rename(theirs, TEXT_NAMES).items()}
        images = {f"visual.trunk.{key}": value for key, value in _rename_vision(of_vision).items()}
        clip.load_state_dict(scalars | of_text | images)
    except Exception as error:  # what wrong files make of safetensors and torch has no common kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FailedError(f"the weights in {folder} do not load: {reason}") from error
    clip.visual.preprocess_cfg = preprocess_of(folder, PREPROCESS, crops=False)
    return clip  # type: ignore[no-any-return]


def _image_tower(vision: dict[str, Any]) -> nn.Module:
    """open_clip's adapter around a tower of these sizes."""
    from open_clip.timm_model import TimmModel
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):  # its own trunk is replaced
        tower = TimmModel("vit_base_patch16_siglip_224", 0, vision["image_size"], pool="map", proj="none")
    tower.trunk = VisionTransformer(
        img_size=vision["image_size"],
        patch_size=vision["patch_size"],
        embed_dim=vision["hidden_size"],
        depth=vision["num_hidden_layers"],
        num_heads=vision["num_attention_heads"],
        mlp_ratio=vision["intermediate_size"] / vision["hidden_size"],
        norm_layer=partial(nn.LayerNorm, eps=vision["layer_norm_eps"]),
        act_layer=ACTIVATIONS[vision["hidden_act"]],
        class_token=False,
        global_pool="map",
        num_classes=0,
    )
    return tower  # type: ignore[no-any-return]


def _rename_vision(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate the image tower's state dict into timm's."""
    ours: dict[str, Tensor] = {}
    for key, value in theirs.items():
        for theirs_part, ours_part in VISION_NAMES:
            key = re.sub(theirs_part, ours_part, key)
        ours[key] = value
    for key in [key for key in ours if ".attn.q_proj." in key]:
        parts = [ours.pop(key.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        ours[key.replace("q_proj", "qkv")] = torch.cat(parts)
    for kind in ("weight", "bias"):
        q, *kv = ours.pop(f"attn_pool.in_proj.{kind}").chunk(3)
        ours[f"attn_pool.q.{kind}"], ours[f"attn_pool.kv.{kind}"] = q, torch.cat(kv)
    ours["pos_embed"] = ours["pos_embed"][None]
    return ours
